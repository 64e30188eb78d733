import copy
import io
import threading
import time

import pytest
import torch
from rich.console import Console
from shop import shop_assistant

from gptft.models.loading import LoadedModel
from gptft.models.templates import render_prompt
from gptft.serving.chat import HELP, Conversation, chat

GREEDY = {"max_new_tokens": 16, "do_sample": False}


@pytest.fixture(scope="module")
def loaded(tokenizer):
    model = copy.deepcopy(shop_assistant())
    model.generation_config.update(**GREEDY)
    return LoadedModel(model, tokenizer, None)


@pytest.fixture
def talk(loaded, monkeypatch):
    """Talk by lines; gives what the terminal showed and the conversation. An exception in place of a line is raised."""

    def run(*lines, **settings):
        pending = [*lines, EOFError()]
        written = io.StringIO()
        console = Console(file=written, width=200)
        conversation = Conversation(loaded, **settings)

        def line(prompt=""):
            following = pending.pop(0)
            if isinstance(following, BaseException):
                raise following
            return following

        monkeypatch.setattr(console, "input", line)
        chat(conversation, console, "model [x]")
        return written.getvalue(), conversation, pending

    return run


def greedy(loaded, messages):
    ids = render_prompt(loaded.tokenizer, messages)
    out = loaded.model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return loaded.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_the_pieces_are_the_greedy_answer_and_become_history(loaded):
    conversation = Conversation(loaded)
    pieces = list(conversation.ask("Why?"))
    first = [{"role": "user", "content": "Why?"}]
    assert "".join(pieces) == greedy(loaded, first) != ""
    first.append({"role": "assistant", "content": "".join(pieces).strip()})
    assert conversation.messages == first
    second = [*first, {"role": "user", "content": "And then?"}]
    answer = "".join(conversation.ask("And then?"))
    assert answer == greedy(loaded, second)
    assert conversation.messages == [*second, {"role": "assistant", "content": answer.strip()}]


def test_a_long_history_loses_its_oldest_turns_and_goes_on(loaded, monkeypatch):
    asked = []
    original = type(loaded.model).generate

    def generate(self, input_ids, **options):
        asked.append(loaded.tokenizer.decode(input_ids[0]))
        return original(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(loaded.model), "generate", generate)
    conversation = Conversation(loaded)
    conversation.reset("Kind.")
    for number in range(6):
        assert "".join(conversation.ask(f"Question {number}?"))
    assert len(conversation.messages) == 13
    assert asked[0] == "System:\nKind.\nUser:\nQuestion 0?\nAssistant:\n"
    assert asked[-1].startswith("System:\nKind.\nUser:\n") and asked[-1].endswith("User:\nQuestion 5?\nAssistant:\n")
    assert "Question 0?" not in asked[-1]
    assert max(len(loaded.tokenizer(text)["input_ids"]) for text in asked) <= 128 - 16
    assert "".join(conversation.ask("x" * 500))


def test_an_answer_that_is_not_read_to_its_end_is_kept_as_far_and_stops(loaded):
    # No end of text, and spaces to make pieces of.
    space = loaded.tokenizer(" ")["input_ids"][0]
    settings = {"max_new_tokens": 60, "min_new_tokens": 60, "sequence_bias": [[[space], 1000.0]]}
    conversation = Conversation(loaded, {**settings, "do_sample": False})
    before, steps = threading.active_count(), []

    def slow(*_):
        steps.append(1)
        time.sleep(0.02)

    hook = loaded.model.register_forward_hook(slow)
    try:
        pieces = conversation.ask("Why?")
        first = next(pieces)
        pieces.close()
    finally:
        hook.remove()
    assert conversation.messages[-1] == {"role": "assistant", "content": first.strip()}
    # Nothing goes on generating behind the next question.
    assert threading.active_count() == before
    assert 1 <= len(steps) < 30


def test_a_failure_leaves_the_history_as_it_was(loaded):
    conversation = Conversation(loaded, {"max_new_tokens": 4, "do_sample": True, "temperature": -1.0})
    with pytest.raises(ValueError, match="temperature"):
        list(conversation.ask("Why?"))
    assert conversation.messages == []


def test_beams_cannot_be_streamed_but_are_answered(loaded):
    beams = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    assert "".join(Conversation(loaded, beams).ask("Why?"))


def test_lines_are_answered_until_the_input_ends(talk, loaded):
    shown, conversation, pending = talk("Why?", "", "  ")
    assert pending == []
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    assert conversation.messages[1]["content"] in shown
    assert "model [x]" in shown


def test_quit_leaves_at_once(talk):
    _, conversation, pending = talk("/quit", "Why?")
    assert conversation.messages == []
    assert len(pending) == 2


def test_ctrl_c_at_the_prompt_leaves(talk):
    _, conversation, pending = talk(KeyboardInterrupt(), "Why?")
    assert conversation.messages == []
    assert len(pending) == 2


def test_help_and_unknown_commands(talk):
    shown, conversation, _ = talk("/help", "/rset", "/[bold]")
    assert conversation.messages == []
    assert shown.count(HELP.splitlines()[0]) == 3
    assert "/rset is not a command." in shown and "/[bold] is not a command." in shown


def test_reset_forgets_but_keeps_the_system_message(talk):
    _, conversation, _ = talk("/system Be kind.", "Why?", "/reset")
    assert conversation.messages == [{"role": "system", "content": "Be kind."}]
    _, conversation, _ = talk("/system Be kind.", "/system", "Why?")
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(talk, monkeypatch):
    original = Console.print
    hit = []

    def interrupted(self, *things, **options):
        original(self, *things, **options)
        if options.get("soft_wrap") and not hit:
            hit.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(Console, "print", interrupted)
    shown, conversation, _ = talk("Why?", "And?")
    assert "(stopped)" in shown
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
