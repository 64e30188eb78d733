"""A Hub of its own for each test, a run to push, and gptft as a command that knows only that Hub."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Result
from loopback_hub import TOKEN, Hub, loopback_hub
from shop import write_shop


@pytest.fixture
def hub() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def shop_run(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A shop's folder with a run in it, trained and evaluated. Not to be changed: `shop` is a copy."""
    from rich.console import Console

    import gptft

    folder = tmp_path_factory.mktemp("shop-to-push")
    write_shop(folder, base_folder, training={"num_train_epochs": 2})
    quiet = Console(quiet=True)
    run = gptft.finetune(gptft.load_recipe(folder / "bot.yaml"), runs=folder / "runs", console=quiet)
    gptft.evaluate(str(run.folder), console=quiet)
    return folder


@pytest.fixture
def shop(shop_run: Path, tmp_path: Path) -> Path:
    """The current folder of the commands: a recipe, its data, and a run."""
    folder = tmp_path / "shop"
    shutil.copytree(shop_run, folder, symlinks=True)
    return folder


@pytest.fixture
def gptft_on(hub: Hub, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Run a command against the Hub; at the end, no file that it left and nothing that it said holds the token."""
    said: list[str] = []

    def run(folder: Path, *arguments: str, token: str | None = TOKEN, **more: str) -> Result:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "gptft", *arguments],
            cwd=folder,
            env={**clean, **settings, **({"HF_TOKEN": token} if token else {}), "COLUMNS": "200", **more},
            capture_output=True,
            text=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
        )
        said.extend((done.stdout, done.stderr))
        return Result(done.returncode, done.stdout, done.stderr)

    yield run
    assert not any(TOKEN in text for text in said)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if TOKEN.encode() in file.read_bytes()]
