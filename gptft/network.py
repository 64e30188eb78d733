"""One question to the Hugging Face Hub that ends in time, whatever is wrong with the network."""

from __future__ import annotations

import threading
from typing import Literal

HUB_SECONDS = 5.0
"""How long the Hub may take to answer before caches and fallbacks are used."""


def hub_problem(name: str, kind: Literal["model", "dataset", "space"], revision: str | None = None) -> str | None:
    """None when the Hub has the repository `name`, else in a few words why it could not be asked.

    The call is made in a thread of its own: a name server that never answers is beyond the reach of HTTP timeouts.

    Raises:
        RepositoryNotFoundError: the Hub has none, or none that the user may see (`GatedRepoError`: none yet).
        RevisionNotFoundError: it has no such revision.
        HFValidationError: no repository can have that name.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

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
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)):
        raise error
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no reason given'}"
