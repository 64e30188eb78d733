"""What can go wrong ends in one message without a traceback, and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Result, environment, in_process
from shop import dialogues, turn, write_shop

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(tmp_path: Path, base_folder: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder beside the shop's base; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def refused(result: Result, code: int = 2) -> str:
    """The one message of a command that failed."""
    assert result.code == code, result.err
    assert result.out == ""
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    assert "Traceback" not in result.err and "should not have" not in result.err
    return result.message


WITHOUT_TORCH = """
import json, sys
from gptft.cli import main
try:
    main()
except SystemExit as exit:
    heavy = ("torch", "transformers", "datasets", "peft", "evaluate", "numpy", "huggingface_hub")
    print(json.dumps([exit.code, [name for name in heavy if name in sys.modules]]))
"""


def without_torch(folder: Path, *arguments: str) -> tuple[int, list[str], str]:
    """Exit code, heavy modules that were imported, and what was said, of a command in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=folder,
        env=environment(folder / "cache"),
        capture_output=True,
        text=True,
    )
    *said, last = done.stdout.splitlines()
    return *json.loads(last), "\n".join(said) + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["finetune", "--help"], ["eval", "--help"], ["recipes"]])
def test_help_needs_no_torch(tmp_path, arguments):
    code, heavy, said = without_torch(tmp_path, *arguments)
    assert (code, heavy) == (0, [])
    assert "finetune" in said or "Options" in said or "customer_service" in said


def test_five_mistakes_are_told_at_once_and_without_torch(tmp_path):
    (tmp_path / "bot.yaml").write_text(
        "task: dialog\n"
        "model:\n"
        "  bsae: starter\n"
        "data:\n"
        "  train: nowhere.jsonl\n"
        "training:\n"
        "  learning_rate: fast\n"
        "  evaluation_strategy: epoch\n"
    )
    code, heavy, said = without_torch(tmp_path, "finetune", "bot.yaml")
    assert (code, heavy) == (2, [])
    assert "Traceback" not in said
    for line, text in ((1, "dialogue"), (3, "bsae"), (5, "nowhere.jsonl"), (7, "learning_rate"), (8, "eval_strategy")):
        assert any(f"bot.yaml:{line}:" in found and text in found for found in said.splitlines()), said
    assert not (tmp_path / "runs").exists()


def test_a_misspelt_key_on_the_command_line(place, base_folder):
    write_shop(place, base_folder)
    message = refused(in_process("finetune", "bot.yaml", "training.learning_rat=1e-3"))
    assert "learning_rat" in message and "learning_rate" in message and "command line" in message


def test_a_recipe_that_is_not_there(place):
    message = refused(in_process("finetune", "bto.yaml"))
    assert "bto.yaml" in message


def test_a_missing_and_an_empty_file(place, base_folder):
    write_shop(place, base_folder)
    (place / "train.jsonl").unlink()
    message = refused(in_process("finetune", "bot.yaml"))
    assert "bot.yaml:" in message and "train.jsonl" in message
    (place / "train.jsonl").touch()
    message = refused(in_process("finetune", "bot.yaml"))
    assert "bot.yaml:" in message and "train.jsonl" in message and "nothing in it" in message
    (place / "train.jsonl").write_text("\n\n")
    message = refused(in_process("finetune", "bot.yaml"))
    assert "train.jsonl" in message and "empty" in message


def test_a_row_without_messages(place, base_folder):
    rows = dialogues()
    rows[7] = {"message": rows[7]["messages"]}
    rows[9] = {"messages": []}
    write_shop(place, base_folder, rows)
    message = refused(in_process("finetune", "bot.yaml"))
    assert "train.jsonl:8" in message and "train.jsonl:10" in message
    assert not (place / "runs").exists()


def test_a_base_that_is_no_folder(place, base_folder):
    write_shop(place, base_folder, model={"base": "./bsae"})
    message = refused(in_process("finetune", "bot.yaml"))
    assert "bot.yaml:" in message and "bsae" in message


LONG = "word " * 10_000  # 50,000 tokens of one byte each


@pytest.mark.parametrize("said_by", ["user", "assistant"])
def test_a_row_of_50000_tokens_among_sixty(place, base_folder, said_by):
    long = [turn("user", "Hello"), turn("assistant", "Bye.")]
    long[said_by == "assistant"]["content"] = LONG
    write_shop(
        place, base_folder, [*dialogues(), {"messages": long}], data={"validation": None}, training={"max_steps": 1}
    )
    done = in_process("finetune", "bot.yaml")
    assert done.code == 0, done.err
    [train] = [line for line in done.err.splitlines() if line.startswith("train: 61 rows")]
    if said_by == "assistant":
        assert "60 examples" in train and "1 with an answer that is too long and dropped (train.jsonl:61)" in train
    else:
        assert "61 examples" in train and "1 shortened" in train
    counts = json.loads((place / "runs" / "latest" / "manifest.json").read_text())["examples"]["train"]
    assert (counts["dropped"], counts["shortened"]) == ((1, 1) if said_by == "assistant" else (0, 1))
    assert counts["tokens"] < 60 * 128


def test_a_row_of_50000_tokens_among_five(place, base_folder):
    long = {"messages": [turn("user", "Hello"), turn("assistant", LONG)]}
    write_shop(place, base_folder, [*dialogues()[:5], long], data={"validation": None})
    message = refused(in_process("finetune", "bot.yaml"))
    assert "1 of 6 rows" in message and "train.jsonl:6" in message and "128 tokens" in message
    assert not (place / "runs").exists()


def test_no_run_to_talk_about(place):
    for name in ("eval", "chat"):
        assert "There is no run in runs/ yet" in refused(in_process(name))
    assert "--recipe" in refused(in_process("eval", "starter"))
    assert "no model" in refused(in_process("chat", str(place)))


def test_a_misused_option_is_shown_beside_the_usage(place):
    result = in_process("eval", "--splt", "test")
    assert result.code == 2
    assert "--split" in result.err and "Traceback" not in result.err
