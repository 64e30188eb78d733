"""What a model is worth: `gptft eval`, `gptft compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gptft.cli.app import app
from gptft.metrics.catalogue import BUILT_IN, GROUPS


@app.command("eval")
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|MODEL|HUB_ID",
            help="Runs, model folders, Hub ids or `starter`, several for one table; else the latest run.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help=f"{', '.join([*BUILT_IN, *GROUPS])}; with options: bleu:tokenize=zh; or what `evaluate.load` takes. "
            "May be repeated.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="test or validation (default: test if there is one).")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe that names the data: for a model that is not a run, or to score a run on other rows, decoded "
            "as its own recipe says."
        ),
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Answer at most so many rows."),
    ] = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave out the base's scores.")] = False,
    trust_remote_metric: Annotated[
        bool, typer.Option("--trust-remote-metric", help="Run the code of a metric from the Hub on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Score models on held-out rows, with 95% intervals and the base's scores beside them."""
    from gptft.evaluation import evaluate as run_evaluate
    from gptft.evaluation.scores import runs_table, scores_table
    from gptft.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    results = [
        run_evaluate(
            target,
            metrics=metric or (),
            split=split,
            recipe=loaded,
            compare_base=not no_base,
            max_rows=max_rows,
            trust_remote_metric=trust_remote_metric,
        )
        for target in targets or [None]
    ]
    if as_json:
        values = [result.to_dict() for result in results]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=2, ensure_ascii=False))
        return
    first = results[0]
    if len(results) > 1:
        Console().print(runs_table([(result.label, result.split, result.rows, result.scores) for result in results]))
    else:
        base = f", base: {first.base}" if first.base_scores else ""
        Console().print(scores_table(first.scores, first.base_scores, title=escape(f"{first.split} split{base}")))
    for result in results:
        if result.folder:
            Console(stderr=True).print(f"Predictions and scores are in {escape(str(result.folder))}.", highlight=False)


@app.command("compare")
def compare_runs(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run that was evaluated.")],
    second: Annotated[
        str | None, typer.Argument(metavar="[RUN_B]", help="Another; left out: RUN_A against its own base.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="A metric; may be repeated.")] = None,
    split: Annotated[str | None, typer.Option(help="test or validation (default: test if there is one).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Tell whether one run is better than another: paired tests on the same rows."""
    from gptft.evaluation import compare

    found = compare.compare(first, second, metrics=metric or (), split=split)
    if as_json:
        print(json.dumps(compare.to_json(found), indent=2, ensure_ascii=False))
        return
    names = [Path(name).name for name in ((first, second) if second else ("base", first))]
    Console().print(compare.comparison_table(found, *names))
