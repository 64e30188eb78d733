"""Where a model comes from: the starter, a run, a folder, or the Hub; and what to do when the Hub cannot be reached."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptft.errors import GptftError, UserError
from gptft.network import hub_errors, hub_problem

STARTER = Path(__file__).parent.parent / "starter"
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py", "README.md"]
"""What is downloaded of a model: no pickle, nothing for other frameworks."""
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
    """Where a model was found, and why there."""

    requested: str
    """What was asked for."""
    folder: Path
    """Where its files are, on this disk."""
    hub_id: str | None = None
    """Its name on the Hub, where it comes from there."""
    revision: str | None = None
    """The commit on the Hub."""
    fallback_reason: str | None = None
    """Why the starter is used in place of what was asked for."""

    @property
    def name(self) -> str:
        """What to call it: its name on the Hub, `starter`, or its folder."""
        starter = self.requested == "starter" or self.fallback_reason
        return self.hub_id or ("starter" if starter else str(self.folder))


def split_revision(name: str) -> tuple[str, str | None]:
    """Part a Hub id from the branch, tag or commit behind its @: `me/model@v1`. A folder's name stays whole."""
    hub_id, at, revision = name.partition("@")
    return (hub_id, revision or None) if at and not Path(name).expanduser().exists() else (name, None)


def resolve_base(name: str, revision: str | None = None, fallback: str | None = None) -> Base:
    """Find a model by name: `starter`, a run folder, a model folder, or a Hub id (`@` and a revision may follow).

    What is in the cache is taken from there, and no network asked; else it is downloaded: the safetensors and the
    text files, nothing else.

    Raises:
        UserError: the folder holds no model, or the Hub has no such repository.
        GptftError: the Hub cannot be reached within five seconds, and no fallback is allowed; a download broke off.
    """
    if name == "starter":
        return Base(name, STARTER)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Base(name, _model_folder(folder))
    hub_id, own_revision = split_revision(name)
    revision = revision or own_revision
    if hub_id.startswith((".", "/", "~")) or hub_id.count("/") > 1:
        raise UserError(f"{name}: there is no such folder. Expected a model folder, a run, `starter` or a Hub id.")
    snapshot = _cached(hub_id, revision)
    if snapshot is None:
        with hub_errors(hub_id, revision=revision):
            reason = hub_problem(hub_id, "model", revision)
        if reason and fallback == "starter":
            return Base(name, STARTER, fallback_reason=reason)
        if reason:
            raise GptftError(
                f"{name} is not in the cache and the Hugging Face Hub cannot be reached ({reason}). Connect, or "
                f"download it once with `hf download {hub_id}`, or start from the embedded model with "
                "`model.base=starter`."
            )
        snapshot = download_model(hub_id, revision)
    return Base(name, _model_folder(snapshot), hub_id, snapshot.name)


def download_model(hub_id: str, revision: str | None = None, to: Path | None = None) -> Path:
    """Download what gptft reads of a model repository; what is there already is not fetched again.

    Args:
        hub_id: its name on the Hub.
        revision: branch, tag or commit.
        to: a folder to put it in (default: the Hub's cache).

    Returns:
        The folder.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(hub_id, revision=revision):
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=FILES, ignore_patterns=["*/*"], local_dir=to)
        )


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


def _cached(hub_id: str, revision: str | None) -> Path | None:
    """The cached snapshot that holds a model and its tokenizer as a whole: a part would fail without the network."""
    from huggingface_hub import try_to_load_from_cache

    if missing_files(hub_id, revision):
        return None
    files = [try_to_load_from_cache(hub_id, f"{kind}config.json", revision=revision) for kind in ("", "adapter_")]
    return next(Path(file).parent for file in files if isinstance(file, str))


def missing_files(hub_id: str, revision: str | None = None, weights: bool = True) -> list[str]:
    """The files of a Hub model and its tokenizer that are not in the cache.

    Args:
        hub_id: its name on the Hub.
        revision: branch, tag or commit.
        weights: False for the tokenizer's files alone.

    Raises:
        UserError: no Hub id has that form, or the cache is damaged.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def absent(files: Iterable[str]) -> list[str]:
        found = {file: try_to_load_from_cache(hub_id, file, revision=revision) for file in files}
        return [file for file, path in found.items() if not isinstance(path, str)]

    try:
        tokenizers = (["tokenizer.json"], ["vocab.json", "merges.txt"], ["tokenizer.model"])
        missing = min(map(absent, tokenizers), key=len)
        if not weights:
            return missing
        kinds = [["config.json", "model.safetensors"], ["adapter_config.json", "adapter_model.safetensors"]]
        index = try_to_load_from_cache(hub_id, "model.safetensors.index.json", revision=revision)
        kinds += [["config.json", *sorted(_shards(Path(index)))]] if isinstance(index, str) else []
        return [*missing, *min(map(absent, kinds), key=len)]
    except HFValidationError as error:
        raise UserError(
            f"{hub_id} is neither a folder nor a Hub id such as openai-community/gpt2 (nor `starter`)."
        ) from error


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: delete it, and it is downloaded again.") from error


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
        if "trust_remote_code" in str(error):
            first += " It is run only with `model.trust_remote_code: true`: set that if you trust who wrote it."
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
