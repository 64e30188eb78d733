"""The chat page, in Chromium: it answers, streams, compares, shows what else could have been said, saves thumbs."""

import copy
import json
import threading

import pytest
from browsing import served
from shop import shop_assistant
from tiny import make_model

from gptft.models.loading import LoadedModel
from gptft.serving.chat import Conversation

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'gptft[ui]'")


@pytest.fixture(scope="module")
def models(tokenizer):
    tuned, base = copy.deepcopy(shop_assistant()), make_model()
    for model in (tuned, base):
        model.generation_config.update(max_new_tokens=24, do_sample=False)
    return [("bot-1", LoadedModel(tuned, tokenizer, None)), ("base <tiny>", LoadedModel(base, tokenizer, None))]


@pytest.fixture
def open_chat(open_tab, models, tmp_path):
    from gptft.serving.web import make_app

    opened = []

    def make(count=1, width=1200, scheme="light", system=""):
        server = served(make_app(models[:count], tmp_path / "thumbs", system))
        opened.append(server)
        return open_tab(server.__enter__(), width, scheme)

    yield make
    for server in opened:
        server.__exit__(None, None, None)


def ask(tab, text):
    tab.page.fill("#text", text)
    tab.page.press("#text", "Enter")
    tab.page.wait_for_selector("#send:not([hidden])")


def answer(loaded, *questions, system=None, **settings):
    conversation = Conversation(loaded, settings)
    conversation.reset(system)
    for question in questions:
        list(conversation.ask(question))
    return conversation


def shown(tab):
    return [text.removesuffix("■ end") for text in tab.page.locator(".words").all_inner_texts()]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")])
def test_it_answers_as_in_the_terminal_and_asks_for_nothing_outside(open_chat, models, width, scheme):
    tab = open_chat(2, width, scheme)
    assert tab.page.is_visible("#empty") and tab.fits() and tab.background() == scheme
    ask(tab, "Do you sell hats?")
    ask(tab, "Thanks! " + "x" * 60)
    questions = "Do you sell hats?", "Thanks! " + "x" * 60
    said = [answer(loaded, *questions).messages for _, loaded in models]
    assert [text.strip() for text in shown(tab)] == [turns[place]["content"] for place in (1, 3) for turns in said]
    assert tab.page.locator(".user").all_inner_texts() == list(questions)
    assert tab.page.locator(".answer h2").all_inner_texts() == ["bot-1", "base <tiny>"] * 2
    left, right = (tab.page.locator(".answer").nth(place).bounding_box() for place in (0, 1))
    # Side by side, or on a phone under each other.
    assert (left["y"] == right["y"]) == (width == 1200) and right["x"] + right["width"] <= width
    assert tab.fits()
    tab.page.click("summary")
    assert tab.page.is_visible("[name=top_p]") and tab.fits()
    address = tab.page.url
    assert tab.said == [] and tab.asked == {address, f"{address}ask"}


def test_the_answer_appears_while_it_is_made_and_can_be_stopped(open_chat, models):
    tab, model = open_chat(), models[0][1].model
    go, steps = threading.Event(), []

    def hold(*_):
        steps.append(1)
        assert len(steps) < 7 or go.wait(20)

    hook = model.register_forward_hook(hold)
    try:
        tab.page.fill("#text", "Do you sell hats?")
        tab.page.click("#send")
        tab.page.wait_for_selector(".words:not(:empty)")
        assert tab.page.locator(".waiting").count() == 1 and tab.page.is_visible("#stop")
        first = shown(tab)[0]
        tab.page.click("#stop")
        go.set()
        tab.page.wait_for_selector("#send:not([hidden])")
    finally:
        go.set()
        hook.remove()
    whole = answer(models[0][1], "Do you sell hats?").messages[-1]["content"]
    assert whole.startswith(first.strip()) and len(shown(tab)[0].strip()) < len(whole)
    assert "stopped" in tab.page.locator(".foot").inner_text()
    ask(tab, "Thanks!")
    assert len(shown(tab)[1]) > 0 and tab.said == []


def test_a_token_shows_its_alternatives(open_chat, models):
    import torch

    tab, loaded = open_chat(), models[0][1]
    ask(tab, "Do you sell hats?")
    conversation = answer(loaded, "Do you sell hats?")
    tokens = tab.page.locator(".token")
    assert tokens.count() == len(conversation.answer) and tokens.last.inner_text() == "■ end"
    tokens.nth(1).hover()
    row = torch.tensor([[*conversation.prompt, *conversation.answer[:1]]])
    best = loaded.model(row).logits[0, -1].softmax(-1).topk(8)
    lines = [text.split("\n") for text in tab.page.locator(".candidate").all_inner_texts()]
    assert lines[0][-1].strip() == f"{best.values[0]:.1%}"
    assert len(lines) == 8 and tab.page.locator(".candidate.chosen").count() == 1
    hovered = tab.page.locator(".candidates").inner_text()
    # By keys too, and by a tap.
    tokens.nth(1).focus()
    tab.page.keyboard.press("ArrowRight")
    assert f"token {conversation.answer[2]}" in tab.page.locator(".candidates").inner_text() != hovered
    tokens.first.click()
    assert f"token {conversation.answer[0]}" in tab.page.locator(".candidates").inner_text()
    assert tab.said == []


def test_settings_and_the_system_message_take_part(open_chat, models):
    tab, loaded = open_chat(system="Be kind."), models[0][1]
    ask(tab, "Have you got hats?")
    assert shown(tab)[0].strip() == answer(loaded, "Have you got hats?", system="Be kind.").messages[-1]["content"]
    tab.page.click("summary")
    assert tab.page.is_disabled("[name=temperature]")
    tab.page.fill("[name=max_new_tokens]", "3")
    ask(tab, "Thanks!")
    assert tab.page.locator(".words").nth(1).locator(".token").count() == 3
    tab.page.select_option("#do_sample", "true")
    assert tab.page.is_enabled("[name=temperature]")
    tab.page.fill("[name=max_new_tokens]", "500")
    ask(tab, "More?")
    assert "500" in tab.page.locator(".failed").inner_text() and "127" in tab.page.locator(".failed").inner_text()
    tab.page.fill("[name=max_new_tokens]", "")
    tab.page.fill("#system", "Be short.")
    tab.page.press("#system", "Tab")
    assert tab.page.locator(".answer").count() == 0
    assert tab.said == []


def test_thumbs_are_saved_changed_and_taken_back(open_chat, tmp_path):
    tab, folder = open_chat(2), tmp_path / "thumbs"

    def rows(name):
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    def press(place, thumb):
        tab.page.locator(".answer").nth(place).locator(f"button.{thumb}").click()
        tab.page.wait_for_load_state("networkidle")
        return tab.page.locator(".answer").nth(place).locator(".foot").inner_text()

    ask(tab, "Do you sell hats? 有吗？")
    ask(tab, "Thanks!")
    assert "up.jsonl" in press(0, "up")
    tab.page.wait_for_selector("button.up[aria-pressed=true]")
    (row,) = rows("up.jsonl")
    assert row["model"] == "bot-1" and row["messages"][0] == {"role": "user", "content": "Do you sell hats? 有吗？"}
    press(2, "up")
    press(1, "down")
    tab.page.wait_for_selector("button.down[aria-pressed=true]")
    assert [len(row["messages"]) for row in rows("up.jsonl")] == [4]
    assert [row["model"] for row in rows("down.jsonl")] == ["base <tiny>"]
    press(0, "down")
    press(2, "up")
    tab.page.wait_for_selector("button.up[aria-pressed=true]", state="detached")
    assert rows("up.jsonl") == [] and len(rows("down.jsonl")) == 2
    assert tab.said == []


def test_what_is_said_stays_text(open_chat):
    tab = open_chat(system="</textarea><script>alert(1)</script>")
    ask(tab, "<img src=x onerror=alert(1)>")
    assert tab.page.locator(".user").inner_text() == "<img src=x onerror=alert(1)>"
    assert tab.page.input_value("#system") == "</textarea><script>alert(1)</script>"
    assert tab.said == [] and tab.page.locator("img").count() == 0
