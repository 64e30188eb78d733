"""A model fine-tuned by the command, and its scores."""

from pathlib import Path

import pytest
from commands import Result, command
from shop import write_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """The shop's folder."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, base_folder)
    return folder


@pytest.fixture(scope="session")
def tuned(shop: Path) -> Result:
    """What `gptft finetune` said. The run is then shop/runs/latest; tests that make others work elsewhere."""
    return command(["finetune", "bot.yaml"], shop)


@pytest.fixture(scope="session")
def scored(shop: Path, tuned: Result) -> Result:
    """What `gptft eval --json` said of it."""
    return command(["eval", "--json"], shop)
