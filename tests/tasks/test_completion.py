"""Task completion: what is supervised, what a prompt is, what goes where a row is too long."""

from typing import Any

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import END, END_OF_TEXT, make_tokenizer

from gptft.data.templates import render
from gptft.errors import UserError
from gptft.recipe.templates import closing_words
from gptft.tasks import Completion, PromptEncoder

BYTES = make_tokenizer()
CLOSE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = st.sampled_from([END_OF_TEXT, "<|endof", "text|>", "\n", " ", ":", "é", "日本", "🙂", "a", "zh:"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.lists(PIECES, max_size=6).map("".join)
WORDS = TEXT.map(lambda text: text.replace("{", "{{").replace("}", "}}"))


def rows(*pairs: tuple[str, Any]) -> Dataset:
    """Prompts with a completion or several."""
    targets = [[said] if isinstance(said, str) else said for _, said in pairs]
    origins = [f"a:{number}" for number in range(len(pairs))]
    return Dataset.from_dict({"text": [text for text, _ in pairs], "targets": targets, "origin": origins})


def encode(task: Completion, tokenizer: Any, data: Dataset, limit: int = 100_000) -> list[dict[str, Any]]:
    return list(task.examples(data, tokenizer, limit, "key"))  # pyright: ignore


def tokens(text: str) -> list[int]:
    """What the tokenizer of bytes makes of a text without special tokens."""
    return BYTES(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@CLOSE
@given(before=WORDS, after=WORDS, said=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
@example(before="", after="\n", said=[("", "")])
@example(before=END_OF_TEXT, after=END_OF_TEXT, said=[(END_OF_TEXT, f"a{END_OF_TEXT}b")])
@example(before="", after="ab", said=[("ab", "ab")])
def test_completion_and_end_are_supervised_and_the_prompt_is_that_of_inference(tokenizer, before, after, said):
    template = f"{before}{{x}}{after}"
    task = Completion(PromptEncoder(closing_words(template)))
    texts = [render(template, {"x": text}, {}) for text, _ in said]
    data = rows(*[(text, completion) for text, (_, completion) in zip(texts, said, strict=True)])
    asked = task.prompts(data, tokenizer, 100_000)
    prompts = {text: prompt.input_ids for text, prompt in zip(dict.fromkeys(texts), asked, strict=True)}
    for text, (_, completion), row in zip(texts, said, encode(task, tokenizer, data), strict=True):
        prompt, answer = prompts[text], row["input_ids"][len(prompts[text]) :]
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["labels"] == [-100] * len(prompt) + answer
        # No text can end a row early: the one end of text is the last token.
        assert answer[-1] == END and row["input_ids"].count(END) == 1
        assert (tokenizer.decode(prompt), tokenizer.decode(answer[:-1])) == (text, completion)
        assert (row["length"], row["supervised"]) == (len(row["input_ids"]), len(answer))
        assert (row["shortened"], row["dropped"]) == (False, False)


@CLOSE
@given(text=TEXT, after=WORDS, said=TEXT, limit=st.integers(2, 60), side=st.sampled_from(["left", "right"]))
def test_what_is_too_long_loses_the_prompts_far_end_and_never_the_answer(tokenizer, text, after, said, limit, side):
    closing = closing_words(f"{{x}}{after}")
    task = Completion(PromptEncoder(closing, side))
    [row] = encode(task, tokenizer, rows((text + closing, said)), limit)
    body, end, answer = tokens(text), tokens(closing), [*tokens(said), END]
    room = limit - len(answer)
    if room <= 0:
        assert (row["input_ids"], row["dropped"], row["shortened"]) == ([], True, False)
        return
    prompt = row["input_ids"][: -len(answer)]
    assert [label for label in row["labels"] if label != -100] == row["input_ids"][-len(answer) :] == answer
    assert len(row["input_ids"]) == min(limit, len(body) + len(end) + len(answer))
    assert row["shortened"] == (len(body) + len(end) > room)
    if len(end) > room:
        assert prompt == end[-room:]
    else:
        kept = min(len(body), room - len(end))
        assert prompt == (body[:kept] if side == "right" else body[len(body) - kept :]) + end
    # A prompt of that length at inference is the same one.
    assert task.encoder.prompts(tokenizer, [text + closing], room) == [prompt]


def test_the_closing_words_stay_whatever_goes():
    for side, kept in (("left", "56789"), ("right", "01234")):
        encoder = PromptEncoder("\nTL;DR:", side)
        assert encoder.fit(tokens("0123456789"), tokens("\nTL;DR:"), 12) == tokens(f"{kept}\nTL;DR:")


def test_closing_words_that_cleaning_changed_belong_to_the_text(tokenizer):
    encoder = PromptEncoder(" =>")
    assert encoder.encode(tokenizer, ["a =>", "a", " =>"]) == [
        (tokens("a"), tokens(" =>")), (tokens("a"), []), ([], tokens(" =>"))
    ]  # fmt: skip


def test_each_reference_is_an_example_and_a_prompt_has_them_all(tokenizer):
    task, data = Completion(), rows(("p\n", ["a", " b"]), ("q\n", "c"), ("p\n", [" d ", "a"]))
    examples = encode(task, tokenizer, data)
    assert [tokenizer.decode(row["input_ids"]) for row in examples] == [
        f"{text}{END_OF_TEXT}" for text in ("p\na", "p\n b", "q\nc", "p\n d ", "p\na")
    ]
    prompts = task.prompts(data, tokenizer, 100)
    assert [(prompt.origin, prompt.references) for prompt in prompts] == [("a:0", ["a", "b", "d"]), ("a:1", ["c"])]


def test_a_row_is_counted_once_whatever_became_of_its_completions(tokenizer):
    data = rows(
        ("p" * 39, ["a", "b", "x" * 40, "y" * 40]),  # shortened twice, too long twice
        ("p", ["a", "b" * 38, "x" * 40]),  # the second fits whole; the third is too long
        ("p" * 10, ["a", "b" * 35]),  # shortened for the second alone
        ("p", "x" * 40),  # nothing fits
        *[(f"q{number}", "a") for number in range(36)],
    )
    rows_of, preparation = Completion().prepare(data, tokenizer, 40, "train", "fingerprint")
    assert (preparation.rows, preparation.shortened, preparation.dropped) == (40, 2, 3)
    assert preparation.dropped_origins == ["a:0", "a:1", "a:3"]
    assert preparation.examples == len(rows_of) == 2 + 2 + 2 + 36
    assert max(rows_of["length"]) == 40
    assert preparation.supervised_tokens == (2 + 2) + (2 + 39) + (2 + 36) + 36 * 2


def test_more_than_a_tenth_of_the_rows_that_do_not_fit_is_an_error(tokenizer):
    data = rows(*[("p", "x" * 40)] * 2, *[(f"q{number}", "a") for number in range(17)])
    with pytest.raises(UserError, match=r"train: 2 of 19 rows have an answer that does not fit in 40 tokens .*a:0"):
        Completion().prepare(data, tokenizer, 40, "train", "fingerprint")


def test_the_encoding_depends_on_closing_words_and_side():
    described = [Completion(PromptEncoder(*given)).settings() for given in (("a",), ("b",), ("a", "right"))]
    assert all(described.count(settings) == 1 for settings in described)
