"""Where a model comes from: the starter, a run, a folder, or the Hub; and what to do when the Hub cannot be reached."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptft.errors import GptftError, UserError
from gptft.network import hub_problem

STARTER = Path(__file__).parent.parent / "starter"
_MISTAKES = {
    None,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
    errno.ENAMETOOLONG,
}
"""Of an OSError: what is wrong with what the user gave; all others are failures of the machine."""


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
    adapter = (folder / "adapter_config.json").is_file()
    weights = ("adapter_model.safetensors",) if adapter else ("model.safetensors", "model.safetensors.index.json")
    if not any((folder / file).is_file() for file in weights):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only {', '.join(pickled)}, which can run code when read" if pickled else f"no weights ({weights[0]})"
        raise UserError(f"{folder} has {found}. gptft loads safetensors: save the model with `save_pretrained`.")


def _is_cached(name: str, revision: str | None) -> bool:
    """Whether a model and its tokenizer are in the cache as a whole: a part of them would fail without the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def cached(*files: str) -> bool:
        return all(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)

    try:
        tokenizers = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
        if not cached("config.json") or not any(cached(*files) for files in tokenizers):
            return False
        index = try_to_load_from_cache(name, "model.safetensors.index.json", revision=revision)
        return cached("model.safetensors") or (isinstance(index, str) and cached(*_shards(Path(index))))
    except HFValidationError as error:
        raise UserError(
            f"{name} is neither a folder nor a Hub id such as openai-community/gpt2 (nor `starter`)."
        ) from error


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: delete it, and it is downloaded again.") from error


def _hub_problem(name: str, revision: str | None) -> str | None:
    """None when the Hub has `name`, else why it could not be asked."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return hub_problem(name, "model", revision)
    except GatedRepoError as error:
        raise UserError(
            f"{name} is gated: accept its terms on its Hub page, then log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision {revision!r} on the Hub.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: the Hub has no such model, or it is private. Check the spelling, or log in with `hf auth login`."
        ) from error


@contextmanager
def loading_errors(what: str) -> Iterator[None]:
    """Turn transformers' loading errors into one sentence.

    Raises:
        UserError: what was to be loaded cannot be.
        GptftError: the network, the disk or the memory failed it.
    """
    from safetensors import SafetensorError

    mistakes = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)
    try:
        yield
    except GptftError:
        raise
    except Exception as error:
        failure = _failure(error)
        if failure is None and not isinstance(error, mistakes):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if failure is None:
            raise UserError(f"{what} could not be loaded: {first}") from error
        why = "" if failure is error else f" ({type(failure).__name__}: {failure})"
        raise GptftError(f"{what} could not be loaded: {first}{why}") from error


def _failure(error: BaseException | None) -> BaseException | None:
    """Find the failure of machine or network among an error and its causes."""
    from huggingface_hub.errors import HfHubHTTPError

    # By name, as the Hub's library has had several HTTP libraries, each with errors of its own.
    failures = {"MemoryError", "OutOfMemoryError", "ConnectionError", "Timeout", "TimeoutError", "TransportError"}
    while error is not None:
        if failures & {kind.__name__ for kind in type(error).__mro__} or "DefaultCPUAllocator" in str(error):
            return error
        if isinstance(error, HfHubHTTPError):
            if error.response.status_code == 429 or error.response.status_code >= 500:
                return error
        elif isinstance(error, OSError) and error.errno not in _MISTAKES:
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None
