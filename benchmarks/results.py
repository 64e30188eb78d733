"""Fine-tune and score recipes, one after another, and write docs/results.md: python benchmarks/results.py [RECIPE...]

Without a recipe: all that ship, and, where $GPTFT_DATA (or ../shared/data) has the data sets, those of this folder.
What was measured is kept in benchmarks/results.json, so that some can be run anew; `--table` only writes the page.
Each recipe runs as a user runs it, in processes of its own, from the starter (`model.base=starter`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from baselines import baseline

from gptft.evaluation.scores import format_value
from gptft.files import write_json_atomically, write_text_atomically
from gptft.recipe import load_recipe
from gptft.runs import Run, latest_run

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "results.md"
DATA = Path(os.environ.get("GPTFT_DATA", ROOT.parent / "shared" / "data"))
NOT_RUN = ("starter",)  # an hour and a half, and it is what the others start from
OUT_OF_MEMORY = ("OutOfMemory", "DefaultCPUAllocator", "MemoryError", "bad_alloc")


def measure(file: Path, overrides: list[str], finished: Path | None, no_base: bool) -> dict[str, Any]:
    """Fine-tune and evaluate a recipe (or only evaluate a run of it), and give what it took and what came of it."""
    os.environ |= {"GPTFT_DATA": str(DATA), "HF_HUB_OFFLINE": "1"}
    settings = ["model.base=starter", *overrides]
    with tempfile.TemporaryDirectory() as folder:

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "gptft", *arguments]
            return subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True, check=False)

        done = None if finished else run("finetune", str(file.absolute()), *settings)
        started = time.perf_counter()
        if done is None or done.returncode == 0:
            target = [str(finished.absolute())] if finished else []
            done = run("eval", *target, *(["--no-base"] if no_base else []))
        seconds = time.perf_counter() - started
        if done.returncode:
            # 137 and -9: killed, as Linux does when memory is full.
            full = done.returncode in (137, -9) or any(word in done.stderr for word in OUT_OF_MEMORY)
            return {"failed": "OOM" if full else done.stderr.strip().splitlines()[-1]}
        found = Run(finished) if finished else latest_run(Path(folder) / "runs")
        manifest = found.manifest
        scores = json.loads((found.evaluation("test") / "scores.json").read_text(encoding="utf-8"))
    simple = baseline(load_recipe(file, settings))
    return {
        "rows": manifest["data"]["splits"]["train"]["kept"],
        "tokens": manifest["tokens_seen"],
        "seconds": round(manifest["seconds"]),
        "evaluation_seconds": round(seconds),
        "peak_memory": manifest["peak_memory_bytes"]["process"],
        "precision": manifest["precision"],
        "threads": manifest["hardware"]["torch_threads"],
        "versions": {name: manifest["versions"][name] for name in ("torch", "transformers")},
        "date": date.today().isoformat(),
        "overrides": overrides,
        "scores": scores["scores"],
        "base": scores["base"],
        "baseline": simple and {"name": simple[0], "scores": {one.name: vars(one) for one in simple[1]}},
    }


def cell(score: dict[str, Any] | None) -> str:
    if not score:
        return ""
    name, value, low, high = (score[key] for key in ("name", "value", "low", "high"))
    said = "infinite" if value is None else format_value(name, value)
    return said if low is None or high is None else f"{said} [{format_value(name, low)}, {format_value(name, high)}]"


def table(results: dict[str, Any]) -> str:
    head = "| recipe | train rows | time, eval | memory | metric | test rows | tuned | starter | without a network |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name, found in results.items():
        if "failed" in found:
            lines.append(f"| {name} | | | | {found['failed']} | | | | |")
            continue
        spent = f"{found['seconds']:,} s, {found['evaluation_seconds']:,} s ({found['threads']} threads)"
        facts = [name, f"{found['rows']:,}", spent, f"{found['peak_memory'] / 2**30:.1f} GiB"]
        for metric, score in found["scores"].items():
            simple = (found["baseline"] or {"scores": {}})["scores"].get(metric)
            cells = [metric, f"{score['rows']:,}", cell(score), cell((found["base"] or {}).get(metric)), cell(simple)]
            lines.append("| " + " | ".join([*facts, *cells]) + " |")
            facts = [""] * 4
    return "\n".join(lines)


def page(results: dict[str, Any]) -> str:
    """docs/results.md."""
    shipped = {name: found for name, found in results.items() if name.startswith("recipes/")}
    real = {name: found for name, found in results.items() if name not in shipped}
    definitions = {
        name: score["definition"] for found in results.values() for name, score in (found.get("scores") or {}).items()
    }
    said = {
        json.dumps([found.get("versions"), found.get("date"), found.get("precision")]) for found in results.values()
    }
    machines = "; ".join(
        f"{when}: torch {versions['torch']}, transformers {versions['transformers']}, {precision}"
        for versions, when, precision in sorted(map(json.loads, said), key=str)
        if versions
    )
    return (
        "\n\n".join(
            [
                "<!-- Written by benchmarks/results.py from benchmarks/results.json: do not edit. -->",
                "# Results",
                "Every recipe, from the starter (the GPT-2 of 10 million parameters in gptft), on CPU cores. Scores "
                "are of the test split, with 95% intervals by bootstrap; beside them those of the starter before "
                "training, and of what needs no neural network (TF-IDF of words and pairs of words with logistic "
                "regression; the most frequent answers of train). Time is that of the whole command, with imports and "
                "saving.",
                f"`python benchmarks/results.py` writes this page anew. {machines}.",
                "## The recipes that ship, on their own small data",
                table(shipped),
                "## Real data",
                "The recipes in [benchmarks/](../benchmarks/README.md), on published splits.",
                table(real),
                "## What each metric is",
                "\n".join(f"- `{name}`: {definition}" for name, definition in sorted(definitions.items())),
            ]
        )
        + "\n"
    )


def kept() -> dict[str, Any]:
    """What was measured so far, read anew, as several recipes may be measured at once."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of each recipe")
    parser.add_argument("--run", type=Path, help="a finished run of the one recipe, to score in place of a new one")
    parser.add_argument("--no-base", action="store_true", help="leave out the base's scores")
    parser.add_argument("--name", help="the name in the table of a recipe with overrides")
    parser.add_argument("--table", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    files = arguments.recipes or sorted((ROOT / "recipes").glob("*.yaml"))
    if not arguments.recipes and DATA.is_dir():
        files += sorted(HERE.glob("*.yaml"))
    for file in files if not arguments.table else []:
        if file.stem in NOT_RUN:
            continue
        name = f"{file.absolute().parent.name}/{arguments.name or file.stem}"
        print(f"==> {name}", flush=True)
        found = measure(file, arguments.set, arguments.run, arguments.no_base)
        write_json_atomically(RESULTS, dict(sorted({**kept(), name: found}.items())))
    write_text_atomically(PAGE, page(kept()))
    print(f"The table is in {PAGE}.")


if __name__ == "__main__":
    main()
