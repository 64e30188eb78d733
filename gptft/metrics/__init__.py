"""Metrics by name: gptft's own, which need no network, and any other by way of `evaluate.load`.

The names in `BUILT_IN` always mean gptft's classes, also as `evaluate-metric/bleu`, whatever lies in the working
directory or on the Hub. Nothing heavy is imported before a metric is loaded.
"""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.errors import GptftError, UserError
from gptft.network import hub_problem

if TYPE_CHECKING:
    import evaluate

BUILT_IN = {
    "bleu": "gptft.metrics.text:Bleu",
    "chrf": "gptft.metrics.text:Chrf",
    "exact_match": "gptft.metrics.text:ExactMatch",
    "stop_rate": "gptft.metrics.stopping:StopRate",
    "perplexity": "gptft.metrics.perplexity:Perplexity",
}


def built_in_name(name: str) -> str | None:
    """Give the key of `BUILT_IN` that `name` means ('evaluate-metric/bleu' is 'bleu'), None for any other metric."""
    short = name.removeprefix("evaluate-metric/")
    return short if short in BUILT_IN else None


def load_metric(name: str, **keywords: Any) -> evaluate.EvaluationModule:
    """Load a metric: a built-in by its name, another by Hub id ('rouge', 'user/metric') or by path ('./my_metric').

    A metric from the Hub or from a path is Python code that runs on this machine with your rights: name only those
    whose authors you trust. (For one from the Hub, a line on standard error says so.) A path starts with '.', '/' or
    '~' or ends with '.py'; a folder of the working directory is never taken for a name.

    Args:
        name: what `evaluate.load` takes, with the built-in names first.
        keywords: passed to the metric's constructor, as `evaluate.load` does (`keep_in_memory`, `cache_dir`, ...).

    Raises:
        UserError: there is no such metric, or it needs a package that is not installed.
        GptftError: the Hub cannot be reached and the metric was not downloaded before.
    """
    if known := built_in_name(name):
        module, _, class_name = BUILT_IN[known].partition(":")
        return getattr(import_module(module), class_name)(**keywords)
    by_path = name.startswith((".", "/", "~")) or name.endswith(".py")
    script = Path(name).expanduser() if by_path else _download(name)
    if script.is_dir():
        script /= f"{script.resolve().name}.py"
    if not script.is_file():
        raise UserError(f"metric '{name}': {script} is not a file. Expected a metric's script, as `evaluate` has them.")
    import evaluate

    if not by_path:
        print(f"running the code of metric {name} from the Hub", file=sys.stderr)
    try:
        # An absolute path keeps evaluate from looking the name up in the working directory.
        return evaluate.load(str(script.absolute()), **keywords)
    except ImportError as error:
        raise UserError(f"metric '{name}': {error}") from error


def _download(name: str) -> Path:
    """Fetch the scripts of a Hub metric, or find them in the cache, and give the path of the main one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository = name if "/" in name else f"evaluate-metric/{name}"
    near = difflib.get_close_matches(name.lower(), BUILT_IN, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    try:
        # Asked first, because the downloads try again and again for half a minute where there is no network.
        unreachable = hub_problem(repository, "space")
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"There is no metric '{name}': it is not built in ({', '.join(BUILT_IN)}) and the Hugging Face Hub has no "
            f"metric '{repository}' that you can read."
            + (hint or f" For a script of your own write its path: './{name}'.")
        ) from error
    try:
        # All scripts, because some import from those beside them.
        folder = snapshot_download(
            repository, repo_type="space", allow_patterns="*.py", local_files_only=bool(unreachable)
        )
    except LocalEntryNotFoundError as error:
        raise GptftError(
            f"metric '{name}' is not built in, was not downloaded before, and the Hugging Face Hub cannot be reached "
            f"({unreachable or error}). Connect once to fetch it, or use one of: {', '.join(BUILT_IN)}.{hint}"
        ) from error
    except OSError as error:
        raise GptftError(f"metric '{name}' could not be fetched from the Hugging Face Hub: {error}") from error
    return Path(folder) / f"{repository.rpartition('/')[2]}.py"
