"""The application that the commands are added to, and the arguments and pictures that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gptft.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from gptft.models.loading import LoadedModel

ORDER = (
    "inspect",
    "finetune",
    "sweep",
    "eval",
    "report",
    "compare",
    "runs",
    "chat",
    "predict",
    "next",
    "serve",
    "push",
    "pull",
    "export",
    "doctor",
    "selftest",
)
"""The commands as they stand in the help: as a user comes to need them; those not named here follow."""


class InOrder(TyperGroup):
    """Lists the commands in `ORDER`, whichever module adds them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=InOrder,
    help="Fine-tune GPT-2-family models: one recipe to a trained, scored, loadable model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Every command takes --debug, which shows the traceback of a failure.",
)
RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file (`gptft recipes` lists some).")]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|MODEL|HUB_ID]", help="A run, a model folder, a Hub id or `starter`; else the latest run."
    ),
]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"gptft {installed('gptft')}")
        raise typer.Exit


def load_target(target: str | None) -> tuple[str, LoadedModel]:
    """Load what a command's argument names (nothing: the latest run), ready to ask; with a name for it."""
    from gptft.runs import find_run

    run = None if target == "starter" else find_run(target)
    from gptft.models.loading import load_model
    from gptft.models.precision import best_device
    from gptft.models.quiet import quiet_libraries

    quiet_libraries()
    if run and not run.model.is_dir():
        raise UserError(f"{run.folder} has no model yet. Finish it: gptft finetune {run.recipe_file} --resume")
    loaded = load_model(str(run.model) if run else str(target))
    loaded.model.to(best_device())
    return run.folder.name if run else str(target), loaded


def bars_table(title: str, columns: list[str]) -> Table:
    """A table whose rows end in a probability and a bar of its length."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for name in [*columns, "probability", ""]:
        table.add_column(name, justify="left" if name in (columns[0], "") else "right")
    return table


def add_bar(table: Table, cells: list[str], share: float) -> None:
    """Add a row to a `bars_table`."""
    from rich.text import Text

    table.add_row(*map(Text, cells), f"{share:.2%}", "█" * round(share * 40))
