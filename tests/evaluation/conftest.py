"""Models and runs made by hand, in a moment: what evaluation needs without any training."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import make_model


@pytest.fixture(scope="session")
def lively_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny model whose weights are so large that it says other things of other texts. Not to be changed."""
    folder = tmp_path_factory.mktemp("lively")
    make_model(initializer_range=0.3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_model(tmp_path: Path):
    """Write a model folder as training leaves it, but not trained: of a recipe's base, with the classes given."""

    def write(recipe: Any, classes: Any = None, name: str = "made", seed: int = 0) -> Path:
        from transformers import set_seed

        from gptft.models.loading import load_model, save_model
        from gptft.tasks import make_task

        set_seed(seed)
        loaded = load_model(recipe.model.base, classes=(lambda tokenizer: classes) if classes else None)
        make_task(recipe, loaded.model.config)
        folder = tmp_path / name
        folder.mkdir()
        save_model(loaded.model, loaded.tokenizer, folder)
        return folder

    return write


@pytest.fixture
def write_run(tmp_path: Path):
    """Make a finished run of a recipe and a model folder."""

    def write(recipe: Any, model: Path | None = None, name: str = "bot-20261124-101500") -> Any:
        from gptft.recipe import dump_recipe
        from gptft.runs import Run

        run = Run(tmp_path / "runs" / name)
        run.folder.mkdir(parents=True)
        run.recipe_file.write_text(dump_recipe(recipe), encoding="utf-8")
        base = {"requested": recipe.model.base, "used": recipe.model.base, "revision": None}
        run.update_manifest(state="finished", base=base)
        run.set_latest()
        if model:
            shutil.copytree(model, run.model)
        return run

    return write
