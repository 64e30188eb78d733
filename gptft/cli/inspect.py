"""See what a model would see: `gptft inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from gptft.cli.app import RecipeArgument, app

if TYPE_CHECKING:
    from gptft.inspection.inspect import Inspection

_STYLES = {"context": "dim", "supervised": "green", "special": "magenta", "supervised special": "bold black on green"}
_LEVELS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@app.command()
def inspect(
    recipe: RecipeArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's: training.learning_rate=1e-4"),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Load the weights and measure the time of three real steps.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors (exit 2).")] = False,
    examples: Annotated[int, typer.Option(min=0, max=100, help="How many examples to show token by token.")] = 2,
    html: Annotated[Path | None, typer.Option(help="Write it all as one HTML page.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the histogram of lengths as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Show what the model would see, what is odd in it, and what training would take."""
    from gptft.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from gptft.files import write_bytes_atomically, write_text_atomically
    from gptft.inspection.findings import refuse
    from gptft.inspection.inspect import inspect as run_inspect
    from gptft.inspection.page import page, picture

    found = run_inspect(loaded, with_probe=probe, shown=examples)
    if html:
        write_text_atomically(html, page(found))
    if png:
        write_bytes_atomically(png, picture(found))
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        _show(found, Console(highlight=False))
    refuse(found.findings, strict)


def _show(found: Inspection, console: Console) -> None:
    from rich.table import Table

    from gptft.inspection.view import about_prompts, histogram, tables

    for example in found.basics.examples:
        console.rule(Text(example.origin or "the first row of train"), align="left")
        # Every other token underlined: one sees where they meet.
        ends = ("", " underline")
        pieces = [(text, _STYLES[kind] + ends[index % 2]) for index, (text, kind) in enumerate(example.pieces)]
        console.print(Text.assemble(*pieces))
        if example.label is not None:
            console.print(Text(f"Label: {example.label}", "green"))
        if example.prompt is not None:
            console.print(Text.assemble(("The prompt at inference:\n", "bold"), (example.prompt, "dim")))
    legend = [piece for kind, style in _STYLES.items() for piece in ((kind, style), ", ")]
    console.print(Text.assemble("\n", *legend[:-1], ". ", about_prompts(found)))
    for table in tables(found):
        console.print(Text(f"\n{table.title}", "bold"))
        shown = Table(box=None)
        for index, name in enumerate(table.head):
            shown.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
    console.print(Text("\nExamples of train by length in tokens", "bold"))
    bars = histogram(found)
    most = max(count for _, count in bars)
    for place, count in bars:
        console.print(Text(f"{place:>16} {'█' * round(40 * count / most)} {count:,}"))
    console.print()
    for finding in found.findings:
        name = (f"{finding.level.capitalize()}: {finding.name}: ", _LEVELS[finding.level])
        console.print(Text.assemble(name, finding.sentences()), soft_wrap=True)
    if not found.findings:
        console.print("Nothing to warn of.")
