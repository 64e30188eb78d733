"""Is all well here: `gptft doctor`, `gptft selftest`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gptft.cli.app import app
from gptft.errors import UserError


@app.command()
def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="Say what this recipe needs, and whether it can run without a network here.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Say what this machine has and what will run well on it; of a recipe, whether it can run offline."""
    from gptft.doctor import examine_machine, examine_recipe, findings_table
    from gptft.recipe import load_recipe

    loaded = load_recipe(recipe / "recipe.yaml" if recipe.is_dir() else recipe, overrides or ()) if recipe else None
    with Console(stderr=True).status("Looking"):
        findings = examine_recipe(loaded) if loaded else examine_machine()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2, ensure_ascii=False))
    else:
        Console().print(findings_table(findings))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


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
