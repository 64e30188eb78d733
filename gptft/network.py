"""Talk to the Hugging Face Hub: end in time, whatever is wrong with the network, and say in a sentence what is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from gptft.errors import GptftError, UserError

HUB_SECONDS = 5.0
"""How long the Hub may take to answer before caches and fallbacks are used."""

Kind = Literal["model", "dataset", "space"]


def hub_problem(name: str, kind: Kind, revision: str | None = None) -> str | None:
    """None when the Hub has the repository `name`, else in a few words why it could not be asked.

    The call is made in a thread of its own: a name server that never answers is beyond the reach of HTTP timeouts.

    Raises:
        RepositoryNotFoundError: the Hub has none, or none that the user may see (`GatedRepoError`: none yet).
        RevisionNotFoundError: it has no such revision.
        HFValidationError: no repository can have that name.
        HfHubHTTPError: the Hub refuses the user's token.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=HUB_SECONDS)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not outcome:
        return f"no answer within {HUB_SECONDS:.0f} seconds"
    error = outcome[0]
    if error is None:
        return None
    if mistake(error, name, kind, revision):
        raise error
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no reason given'}"


def mistake(error: BaseException, name: str, kind: Kind, revision: str | None) -> str | None:
    """What the user can set right, where that is what the Hub's refusal means; None for failures of other kinds."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    called = kind.replace("dataset", "data set")
    if isinstance(error, GatedRepoError):
        return f"{name} is gated: accept its terms on its Hub page, then log in with `hf auth login`."
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r} on the Hub: it is no branch, tag or commit there."
    if isinstance(error, HFValidationError):
        return f"{name} cannot be the name of a repository on the Hub: expected one such as openai-community/gpt2."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status == 401 and "credentials" in str(error).lower():
        return "The Hub does not accept your token: it is wrong or has expired. Make a new one: `hf auth login`."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name}: the Hub has no such {called}, or it is private. Check the spelling, and that it is a {called}, "
            "or log in with `hf auth login`."
        )
    if status == 401:
        return "The Hub asks who you are: log in with `hf auth login`, with a token that may write."
    if status == 403:
        return f"Your token may not do this with {name}: it needs the role `write`, or the owner must let you in."
    return None


@contextmanager
def hub_errors(name: str, kind: Kind = "model", revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong with a repository of the Hub into one sentence that says what to do.

    Raises:
        UserError: what the user can set right: a name, a token, a right.
        GptftError: the network, or the Hub itself.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except GptftError:
        raise
    except Exception as error:
        if sentence := mistake(error, name, kind, revision):
            raise UserError(sentence) from error
        if isinstance(error, HfHubHTTPError):
            status, said = error.response.status_code, error.server_message or "no reason given"
            raise GptftError(
                f"The Hub refused {name} (HTTP {status}: {said}). Nothing is lost: try it again."
            ) from error
        if not isinstance(error, OSError) and "TransportError" not in {base.__name__ for base in type(error).__mro__}:
            raise
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise GptftError(
            f"The connection to the Hub failed ({reason}). What has arrived is kept: try it again, and it goes on."
        ) from error
