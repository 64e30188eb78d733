"""What the commands do with their arguments and with failures; tests/e2e runs them for real."""

import json

import pytest
from commands import in_process

from gptft.errors import GptftError, Problem, RecipeError, UserError


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """Make `gptft recipes copy` fail with an error."""

    def install(error: BaseException) -> None:
        def fail(name, to):
            raise error

        monkeypatch.setattr("gptft.recipe.copy_recipe", fail)

    monkeypatch.chdir(tmp_path)
    return install


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (GptftError("the disk [bold] is full"), 1, "Error: the disk [bold] is full\n"),
        (UserError("no such thing: [/x]"), 2, "Error: no such thing: [/x]\n"),
        (RecipeError([Problem("a.yaml:3", "task", "wrong"), Problem("a.yaml:9", "", "more")]), 2, "  a.yaml:9: more\n"),
        (ValueError("odd"), 1, "should not have: ValueError: odd\nRun it again with --debug for the traceback.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_message_and_an_exit_code(failing, error, code, said):
    failing(error)
    result = in_process("recipes", "copy", "x")
    assert (result.code, result.out) == (code, "")
    assert result.err.endswith(said)
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [GptftError("known"), ValueError("unknown")])
def test_debug_lets_the_error_through(failing, error):
    failing(error)
    with pytest.raises(type(error), match=str(error)):
        in_process("recipes", "copy", "x", "--debug")


def test_version_and_help():
    from importlib.metadata import version

    assert in_process("--version").out == f"gptft {version('gptft')}\n"
    assert "finetune" in in_process("--help").out
    nothing = in_process()
    assert "finetune" in nothing.out + nothing.err


def test_overrides_and_no_fallback_reach_the_recipe(tmp_path, monkeypatch):
    seen = []

    class Stopped:
        manifest = {"state": "stopped", "stopped_by": 2}  # noqa: RUF012

    def finetune(recipe, resume):
        seen.append((recipe, resume))
        return Stopped()

    monkeypatch.setattr("gptft.training.finetune.finetune", finetune)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = {"task": "dialogue", "model": {"base": "o/n", "fallback": "starter"}, "data": {"train": "rows.jsonl"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    result = in_process("finetune", "recipe.yaml", "training.learning_rate=1e-4", "training.seed=7", "--resume")
    assert (result.code, result.out) == (130, "")
    # A run's folder stands for its recipe.
    assert in_process("finetune", tmp_path, "--no-fallback").code == 130
    (first, resumed), (second, anew) = seen
    assert (first.training, first.model.fallback, resumed) == ({"learning_rate": 1e-4, "seed": 7}, "starter", True)
    assert (second.model.fallback, anew) == (None, False)


def test_next_refuses_empty_text_and_cuts_what_is_too_long(base_folder):
    empty = in_process("next", "", "--model", base_folder)
    assert empty.code == 2 and "empty" in empty.err
    long = in_process("next", "word " * 1000, "--model", base_folder, "--count", "2")
    assert long.code == 0 and len([line for line in long.out.splitlines() if line.startswith("│")]) == 2


def test_chat_with_a_system_message_and_one_question(base_folder, monkeypatch):
    from gptft.serving import chat

    asked = []

    def ask(self, text):
        asked.append((self.messages, text))
        yield from (" It", " is. ")

    monkeypatch.setattr(chat.Conversation, "ask", ask)
    result = in_process("chat", base_folder, "--message", "What?", "--system", "Be kind.")
    assert (result.code, result.out) == (0, "It is.\n")
    assert asked == [([{"role": "system", "content": "Be kind."}], "What?")]
