"""gptft: fine-tune GPT-2-family models, from one recipe to a trained, scored, loadable model.

    import gptft

    recipe = gptft.load_recipe("recipes/customer_service.yaml", ["training.num_train_epochs=1"])
    run = gptft.finetune(recipe)
    print(gptft.evaluate(str(run.folder)).scores)
    model = gptft.load(str(run.folder)).model
    gptft.push(run, "me/my-model", private=True)

Names are imported when first used, so that `import gptft` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptft.evaluation import evaluate
    from gptft.export import export_model
    from gptft.hub.push import push
    from gptft.models.loading import load_model as load
    from gptft.recipe import Recipe, load_recipe
    from gptft.sweeps import sweep
    from gptft.training.finetune import finetune

_HOMES = {
    "Recipe": ("gptft.recipe", "Recipe"),
    "load_recipe": ("gptft.recipe", "load_recipe"),
    "finetune": ("gptft.training.finetune", "finetune"),
    "evaluate": ("gptft.evaluation", "evaluate"),
    "export_model": ("gptft.export", "export_model"),
    "push": ("gptft.hub.push", "push"),
    "sweep": ("gptft.sweeps", "sweep"),
    "load": ("gptft.models.loading", "load_model"),
}

__all__ = ["Recipe", "evaluate", "export_model", "finetune", "load", "load_recipe", "push", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptft' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
