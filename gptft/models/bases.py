"""Where a model comes from: the starter, a run, a folder, or the Hub; and what to do when the Hub cannot be reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptft.errors import GptftError, UserError

STARTER = Path(__file__).parent.parent / "starter"
HUB_SECONDS = 5.0
"""How long the Hub may take to answer before a fallback is used."""


@dataclass(frozen=True)
class Base:
    """Where to load a model from, and why."""

    requested: str
    """What was asked for."""
    location: str
    """A folder, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    offline: bool = False
    """Whether all needed files are in the cache, so that no network is asked."""
    fallback_reason: str | None = None
    """Why the starter is used in place of what was asked for."""


def resolve_base(name: str, revision: str | None = None, fallback: str | None = None) -> Base:
    """Find a model by name: `starter`, a run folder, a model folder, or a Hub id (cached, or on the Hub).

    Raises:
        UserError: the folder holds no model, or the Hub has no such repository.
        GptftError: the Hub cannot be reached within five seconds, and no fallback is allowed.
    """
    if name == "starter":
        return Base(name, str(STARTER))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Base(name, str(_model_folder(folder)))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: there is no such folder. Expected a model folder, a run, `starter` or a Hub id.")
    if _is_cached(name, revision):
        return Base(name, name, revision, offline=True)
    reason = _hub_problem(name, revision)
    if reason is None:
        return Base(name, name, revision)
    if fallback != "starter":
        raise GptftError(
            f"{name} is not in the cache and the Hugging Face Hub cannot be reached ({reason}). Connect, or download "
            f"it once with `hf download {name}`, or start from the embedded model with `model.base=starter`."
        )
    return Base(name, str(STARTER), fallback_reason=reason)


def _model_folder(folder: Path) -> Path:
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file() or (candidate / "adapter_config.json").is_file():
            _refuse_pickle(candidate)
            return candidate
    raise UserError(f"{folder} holds no model: neither config.json nor adapter_config.json is in it or in its model/.")


def _refuse_pickle(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only {', '.join(pickled)}, which can run code when read" if pickled else "no weights"
        raise UserError(f"{folder} has {found}. gptft loads safetensors: save the model with `save_pretrained`.")


def _is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, revision=revision), str)

    try:
        weights = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
        return (cached("config.json") or cached("adapter_config.json")) and any(cached(file) for file in weights)
    except HFValidationError as error:
        raise UserError(
            f"{name} is neither a folder nor a Hub id such as openai-community/gpt2 (nor `starter`)."
        ) from error


def _hub_problem(name: str, revision: str | None) -> str | None:
    """None when the Hub has `name`, else why it could not be asked.

    The call is made in a thread of its own: a name server that never answers is beyond the reach of HTTP timeouts.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
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
    if isinstance(error, GatedRepoError):
        raise UserError(
            f"{name} is gated: accept its terms on its Hub page, then log in with `hf auth login`."
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise UserError(f"{name} has no revision {revision!r} on the Hub.") from error
    if isinstance(error, RepositoryNotFoundError):
        raise UserError(
            f"{name}: the Hub has no such model, or it is private. Check the spelling, or log in with `hf auth login`."
        ) from error
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no reason given'}"


@contextmanager
def loading_errors(what: str) -> Iterator[None]:
    """Turn transformers' loading errors into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except GptftError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{what} could not be loaded: {first}") from error
