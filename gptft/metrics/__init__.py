"""Metrics by name: gptft's own, which need no network, and any other by way of `evaluate.load`.

The names in `BUILT_IN` always mean gptft's classes, also as `evaluate-metric/bleu`, whatever lies in the working
directory or on the Hub. Nothing heavy is imported before a metric is loaded.
"""

from __future__ import annotations

import difflib
import functools
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.errors import GptftError, UserError
from gptft.metrics.catalogue import BUILT_IN, GROUPS, MetricSpec, built_in_name, expand, parse_metric
from gptft.network import hub_problem

if TYPE_CHECKING:
    import evaluate

__all__ = [
    "BUILT_IN",
    "MetricSpec",
    "built_in_name",
    "expand",
    "is_path",
    "load_metric",
    "parse_metric",
    "repository_of",
]


def load_metric(name: str, trust_remote: bool = False, **keywords: Any) -> evaluate.EvaluationModule:
    """Load a metric: a built-in by its name, another by path ('./my_metric') or by Hub id ('meteor', 'user/metric').

    Options may follow the name: 'bleu:tokenize=zh'. They are then the defaults of `compute`, and of `row_statistics`
    and `definition` where the metric has those. 'rouge' gives `evaluate.combine` of the four ROUGE metrics.

    A metric from the Hub or from a path is Python code that runs on this machine with your rights. A path, which starts
    with '.', '/' or '~' or ends with '.py', is your own; one from the Hub needs `trust_remote`, and a line on standard
    error says that it runs. A folder of the working directory is never taken for a name.

    Args:
        name: what `evaluate.load` takes, with the built-in names first.
        trust_remote: whether code from the Hub may run.
        keywords: passed to the metric's constructor, as `evaluate.load` does (`keep_in_memory`, `cache_dir`, ...).

    Raises:
        UserError: there is no such metric, option or value, a package is missing, or code from the Hub is not trusted.
        GptftError: the Hub cannot be reached and the metric was not downloaded before.
    """
    spec = parse_metric(name)
    if spec.name in GROUPS:
        import evaluate

        combined: Any = evaluate.combine([load_metric(one, **keywords) for one in expand([name])])
        return combined
    if spec.known:
        module, _, class_name = spec.known.path.partition(":")
        metric = getattr(import_module(module), class_name)(**keywords)
    else:
        metric = _load_script(spec.name, trust_remote, **keywords)
    for method in ("_compute", "row_statistics", "definition"):
        if spec.options and hasattr(metric, method):
            setattr(metric, method, functools.partial(getattr(metric, method), **spec.options))
    return metric


def _load_script(name: str, trust_remote: bool, **keywords: Any) -> evaluate.EvaluationModule:
    """Load a metric that is not built in."""
    by_path = is_path(name)
    if not by_path and not trust_remote:
        raise UserError(
            f"metric '{name}' is not built in.{_hint(name)} To load it would run the code of the repository "
            f"'{repository_of(name)}' from the Hugging Face Hub on this machine with your rights. If you trust its "
            "authors, say so with --trust-remote-metric (in Python: trust_remote=True). "
            f"Built in are: {', '.join(BUILT_IN)}. For a script of your own write its path: './{name}'."
        )
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


def is_path(name: str) -> bool:
    """Tell a metric of one's own, named by its place, from one on the Hub."""
    return name.startswith((".", "/", "~")) or name.endswith(".py")


def repository_of(name: str) -> str:
    """The Hub's repository of a metric that is not built in."""
    return name if "/" in name else f"evaluate-metric/{name}"


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), [*BUILT_IN, *GROUPS], n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _download(name: str) -> Path:
    """Fetch the scripts of a Hub metric, or find them in the cache, and give the path of the main one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, hint = repository_of(name), _hint(name)
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
