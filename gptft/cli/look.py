"""Look at what was trained: `gptft report`, `gptft runs`."""

from __future__ import annotations

import json
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gptft.cli.app import app
from gptft.errors import GptftError, UserError

if TYPE_CHECKING:
    from rich.table import Table

    from gptft.runs import Run

runs_app = typer.Typer(help="List the runs in runs/, look at one, compare two, remove some.")
app.add_typer(runs_app, name="runs")


@app.command()
def report(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs, several for one page; else the latest run.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the page here (default: report.html in the run; of several, here).")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a page about a run: scores, curves, answers, data, recipe; or about several, side by side."""
    from gptft.report import write_report

    runs = [_run(target) for target in targets or [None]]
    file = write_report(runs, output)
    print(file)
    if open_page and not webbrowser.open(file.absolute().as_uri()):
        raise GptftError("No browser could be opened here. The page is written.")


def _run(target: str | None) -> Run:
    from gptft.runs import find_run

    run = find_run(target)
    if run is None:
        raise UserError(f"{target} is no run: expected a folder in runs/ (`gptft runs` lists them).")
    return run


@runs_app.callback(invoke_without_command=True)
def list_runs(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False
) -> None:
    """List the runs in runs/, the newest last."""
    if context.invoked_subcommand:
        return None
    from gptft.report.facts import cell
    from gptft.runs.listing import list_runs as listed
    from gptft.runs.manifest import duration

    runs = listed()
    if as_json:
        return print(json.dumps([asdict(run) for run in runs], indent=2, ensure_ascii=False))
    if not runs:
        return print("There is no run in runs/ yet: gptft finetune RECIPE")
    table = _table("run", "task", "base", "score [95% interval]", "tokens", "time", "state")
    for run in runs:
        score = f"{run.score['name']} {cell(run.score)}" if run.score else ""
        if not run.score and run.validation_loss is not None:
            score = f"validation loss {run.validation_loss:.4f}"
        _add(
            table,
            run.name + (" (latest)" if run.latest else ""),
            run.task,
            run.base,
            score,
            None if run.tokens is None else f"{run.tokens:,}",
            None if run.seconds is None else duration(run.seconds),
            run.state + (", resumable" if run.resumable else ""),
        )
    _print(table)


@runs_app.command("show")
def show_run(name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Else the latest run.")] = None) -> None:
    """Say what a run is: its state, scores, data, machine and time."""
    from gptft.report.facts import cell, data_rows, training_facts
    from gptft.runs.listing import read_evaluations, read_recipe

    run = _run(name)
    manifest = run.manifest
    table = _table(run.folder.name, "")
    _add(table, "folder", run.folder)
    checkpoint = None if run.state in ("running", "finished") else run.checkpoint()
    _add(table, "state", run.state + (f", resumable from {checkpoint.name}" if checkpoint else ""))
    if run.state == "failed":
        _add(table, "reason", manifest.get("reason"))
    _add(table, "base", manifest.get("base", {}).get("used"))
    for row in data_rows(manifest):
        _add(table, row["split"], f"{row['kept']} of {row['read']} rows from {row['sources']}")
    for fact, value in training_facts(manifest, read_recipe(run)):
        _add(table, fact, value)
    for split, content in read_evaluations(run):
        for metric, score in content["scores"].items():
            base = (content.get("base") or {}).get(metric)
            _add(table, f"{metric} ({split})", cell(score) + (f", base {cell(base)}" if base else ""))
    _print(table)


@runs_app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs in runs/.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove runs, never one that is running; `runs/latest` moves to the newest of the rest."""
    from gptft.runs.listing import remove_runs, runs_named

    found = runs_named(names)
    for run in found:
        size = sum(file.lstat().st_size for file in run.folder.rglob("*"))
        Console(stderr=True).print(f"{run.folder.name}: {run.state}, {size / 1e6:,.1f} MB", highlight=False)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("Nothing was removed, for no one can be asked here: gptft runs rm --yes ...")
        typer.confirm(f"Remove {'these runs' if len(found) > 1 else 'this run'} for good?", abort=True)
    for run in remove_runs(names):
        print(f"Removed {run.folder.name}.")


@runs_app.command("diff")
def differences(
    first: Annotated[str, typer.Argument(metavar="RUN_A")], second: Annotated[str, typer.Argument(metavar="RUN_B")]
) -> None:
    """Show how two runs differ: recipes key by key, data, versions; and the scores of both."""
    from gptft.report.facts import cell
    from gptft.runs.listing import compare_runs

    a, b = _run(first), _run(second)
    for title, rows in compare_runs([a, b]).items():
        if not rows:
            print(f"{title}: no difference")
            continue
        table = _table(title, f"A: {a.folder.name}", f"B: {b.folder.name}")
        for key, values in rows:
            _add(table, key, *((cell(value) if title == "scores" else value) for value in values))
        _print(table)
    print(f"Whether the scores tell the two apart: gptft compare {a.folder.name} {b.folder.name}")


def _table(*columns: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    return table


def _add(table: Table, *cells: Any) -> None:
    from rich.text import Text

    # Text, because rich would read square brackets as markup.
    table.add_row(*(Text("-" if value in (None, "") else str(value)) for value in cells))


def _print(table: Table) -> None:
    # A file or a pipe has no width that a line should be broken at.
    console = Console()
    console.print(table) if console.is_terminal else Console(width=1000).print(table)
