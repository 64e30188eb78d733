"""What a run that goes on must have in common with the run that began: its recipe, its base, its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptft.errors import UserError
from gptft.recipe import Recipe, dump_recipe, load_recipe
from gptft.runs.folder import Run

if TYPE_CHECKING:
    from gptft.training.preparation import Prepared


def with_base_of(run: Run, recipe: Recipe) -> Recipe:
    """The recipe with the base that the run was started from: the Hub may answer now, or hold another version."""
    base = run.manifest.get("base", {})
    if not base.get("used"):
        return recipe
    changes = {"base": base["used"], "revision": base.get("revision"), "fallback": None}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})


def check_same_recipe(recipe: Recipe, run: Run) -> None:
    """Refuse to resume a run with a recipe that says something else than it was started with."""
    before, now = load_recipe(run.recipe_file).model_dump(), _as_resolved(recipe)
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        raise UserError(
            f"{run.folder} was started with another recipe ({', '.join(changed)} changed). To resume it as it was: "
            f"gptft finetune {run.recipe_file} --resume. To start anew: leave out --resume."
        )


def check_same_data(prepared: Prepared, run: Run) -> None:
    """Refuse to resume on other rows: the steps already done would be those of no run."""
    before, now = (facts["data"]["splits"] for facts in (run.manifest, prepared.facts))
    changed = [name for name in now if now[name]["fingerprint"] != before.get(name, {}).get("fingerprint")]
    if changed:
        raise UserError(
            f"The data of {run.folder} has changed since it was started (data.{', data.'.join(changed)}). Restore it "
            "to resume the run, or start anew: leave out --resume."
        )


def _as_resolved(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says once resolved as it would be written beside a run."""
    import yaml

    return Recipe.model_validate(yaml.safe_load(dump_recipe(recipe))).model_dump()
