"""Is all well here: `gptft selftest`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from gptft.cli.app import app
from gptft.errors import UserError


@app.command()
def selftest(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CHECK]...", help="Only these checks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Train tiny models here and measure what must be true of every training."""
    with Console(stderr=True).status("Starting"):
        from gptft.models.quiet import quiet_libraries
        from gptft.selftest import CHECKS, results_table, run_checks

        quiet_libraries()
    known = {check.name: check for check in CHECKS}
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"There is no check called {', '.join(unknown)}; there are: {', '.join(known)}.")
    with Console(stderr=True).status("Training a tiny model") as status:
        checks = [known[name] for name in names] if names else CHECKS
        results = run_checks(checks, lambda result: status.update(f"Checked {result.name}"))
    if as_json:
        print(json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False))
    else:
        Console().print(results_table(results))
    if failed := [result.name for result in results if not result.passed]:
        Console(stderr=True).print(f"[bold red]Failed:[/bold red] {', '.join(failed)}. Do not trust a training here.")
        raise typer.Exit(1)
