import copy
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import END, END_OF_TEXT

from gptft.errors import UserError
from gptft.models.templates import render_conversation, render_prompt
from gptft.tasks import TASKS
from gptft.tasks.dialogue import encode_conversation, prompt_ids

contents = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(
        st.sampled_from([END_OF_TEXT, "<|endof", "text|>", "\n", " ", "Assistant:\n", "User:", "é", "日本", "🙂", "a"]),
        max_size=8,
    ).map("".join),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """Turns in any order that has an answer in it, maybe the system's before."""
    roles = [*draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=5)), "assistant"]
    system = ["system"] if draw(st.booleans()) else []
    return [{"role": role, "content": draw(contents)} for role in system + roles]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def said(ids: list[int], labels: list[int]) -> list[list[int]]:
    """The supervised stretches."""
    stretches: list[list[int]] = []
    for index, label in enumerate(labels):
        if label == -100:
            continue
        assert label == ids[index]
        if index and labels[index - 1] != -100:
            stretches[-1].append(label)
        else:
            stretches.append([label])
    return stretches


def visible(content: str) -> str:
    """What the template makes of a content."""
    return content.replace(END_OF_TEXT, " ").strip()


@given(messages=conversations())
@example(messages=turns("hi", f"<|endof{END_OF_TEXT}text|>"))
@example(messages=turns("", ""))
@example(messages=[{"role": "assistant", "content": "I greet first."}])
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_what_the_assistant_says_and_its_end_is_supervised(tokenizer, messages):
    [(ids, labels)], shortened, lost = encode_conversation(tokenizer, messages, 100_000)
    assert (shortened, lost) == (False, 0)
    answers = [message for message in messages if message["role"] == "assistant"]
    stretches = said(ids, labels)
    assert len(stretches) == len(answers)
    for answer, stretch in zip(answers, stretches, strict=True):
        assert stretch[-1] == END and stretch.count(END) == 1
        assert tokenizer.decode(stretch[:-1]) == visible(answer["content"])
    # No content can end a turn: there are as many ends as turns of the assistant.
    assert ids.count(END) == len(answers)


@given(messages=conversations())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_prompt_at_inference_is_the_prefix_in_training(tokenizer, messages):
    [(ids, labels)], shortened, lost = encode_conversation(tokenizer, messages, 100_000)
    assert (shortened, lost) == (False, 0)
    starts = [i for i in range(len(labels)) if labels[i] != -100 and (i == 0 or labels[i - 1] == -100)]
    places = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for place, start in zip(places, starts, strict=True):
        assert prompt_ids(tokenizer, messages[:place], 100_000) == render_prompt(tokenizer, messages[:place])
        assert render_prompt(tokenizer, messages[:place]) == ids[:start]


def test_the_template_word_for_word(tokenizer):
    messages = [{"role": "system", "content": " Be kind. "}, *turns("Hi\nthere", "Hello", "Bye", "")]
    ids, _ = render_conversation(tokenizer, messages)
    assert tokenizer.decode(ids) == (
        "System:\nBe kind.\nUser:\nHi\nthere\nAssistant:\nHello<|endoftext|>\nUser:\nBye\nAssistant:\n<|endoftext|>"
    )


@given(messages=conversations(), max_length=st.integers(40, 120))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_answer_that_fits_is_lost_and_each_is_learned_once(tokenizer, messages, max_length):
    # Numbers make the answers different from each other.
    messages = [message | {"content": f"{n}{message['content']}"} for n, message in enumerate(messages)]
    windows, _, lost = encode_conversation(tokenizer, messages, max_length)
    ids, mask = render_conversation(tokenizer, messages)
    everything = said(ids, [token if flag else -100 for token, flag in zip(ids, mask, strict=True)])
    learned = [stretch for window in windows for stretch in said(*window)]
    # An answer fits with one token before it.
    assert learned == [answer for answer in everything if len(answer) < max_length]
    assert lost == len(everything) - len(learned)
    for window, labels in windows:
        assert len(window) == len(labels) <= max_length
        assert labels[0] == -100


def test_a_window_keeps_the_system_and_the_newest_context(tokenizer):
    system = {"role": "system", "content": "Rules."}
    talk = turns(*(f"{kind} {number}" for number in range(9) for kind in ("question", "answer")))
    windows, _, _ = encode_conversation(tokenizer, [system, *talk], 120)
    assert len(windows) > 1
    for ids, labels in windows:
        text = tokenizer.decode(ids)
        assert text.startswith("System:\nRules.\nUser:\n")
        for stretch in said(ids, labels):
            number = tokenizer.decode(stretch)[len("answer ")]
            assert f"question {number}\nAssistant:\nanswer {number}" in text


def test_a_message_of_fifty_thousand_tokens(tokenizer):
    long = "word " * 10_000
    [(ids, labels)], _, _ = encode_conversation(tokenizer, turns(long, "yes"), 128)
    assert len(ids) == 128
    assert [tokenizer.decode(stretch) for stretch in said(ids, labels)] == [f"yes{END_OF_TEXT}"]
    # The newest of the question is what is left of it.
    assert tokenizer.decode(ids).endswith(f"word word\nAssistant:\nyes{END_OF_TEXT}")
    assert encode_conversation(tokenizer, turns("why", long), 128) == ([], True, 1)
    windows, _, _ = encode_conversation(tokenizer, turns("a", "first", "b", long, "c", "last"), 128)
    assert [tokenizer.decode(s) for window in windows for s in said(*window)] == [
        f"first{END_OF_TEXT}",
        f"last{END_OF_TEXT}",
    ]


def test_a_thousand_turns_need_no_more_than_a_few_renderings_each(tokenizer, monkeypatch):
    import gptft.tasks.dialogue as dialogue

    rendered = []

    def counting(tokenizer: Any, messages: Any) -> Any:
        rendered.append(len(messages))
        return render_conversation(tokenizer, messages)

    monkeypatch.setattr(dialogue, "render_conversation", counting)
    windows, _, _ = encode_conversation(tokenizer, turns(*(f"turn {number}" for number in range(1000))), 128)
    assert sum(len(said(*window)) for window in windows) == 500
    assert sum(rendered) < 30_000


@given(messages=conversations(), max_length=st.integers(10, 80))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_fits_and_ends_where_the_answer_begins(tokenizer, messages, max_length):
    ids = prompt_ids(tokenizer, messages[:-1], max_length)
    whole = render_prompt(tokenizer, messages[:-1])
    assert len(ids) == min(len(ids), max_length)
    assert tokenizer.decode(ids).endswith("Assistant:\n"[-max_length:])
    if len(whole) <= max_length:
        assert ids == whole


def dataset_of(conversations: list[list[dict[str, str]]]) -> Dataset:
    origins = [f"train.jsonl:{number + 1}" for number in range(len(conversations))]
    return Dataset.from_dict({"messages": conversations, "text": [None] * len(origins), "origin": origins})


def test_a_split_is_counted(tokenizer):
    talks = [turns("a", "b")] * 18 + [turns("why", "x" * 200), turns("y" * 100, "fits", "z" * 100, "too")]
    examples, counts = TASKS["dialogue"]().prepare(dataset_of(talks), tokenizer, 128, "train", "fingerprint")
    assert (counts.rows, counts.examples, counts.shortened, counts.dropped) == (20, 20, 2, 1)
    assert counts.dropped_origins == ["train.jsonl:19"]
    assert counts.supervised_tokens == sum(label != -100 for row in examples["labels"] for label in row) == 18 * 2 + 9
    assert counts.tokens == sum(map(len, examples["input_ids"]))
    assert "1 with an answer that is too long and dropped (train.jsonl:19)" in counts.summary()


def test_an_answer_that_cannot_fit_is_counted_where_others_of_its_row_do(tokenizer):
    talks = [turns("a", "b")] * 19 + [turns("why", "x" * 200, "and", "fits")]
    _, counts = TASKS["dialogue"]().prepare(dataset_of(talks), tokenizer, 128, "train", "fingerprint")
    assert counts.dropped == 1
    assert counts.dropped_origins == ["train.jsonl:20"]


def test_losing_more_than_a_tenth_is_an_error_that_names_rows(tokenizer):
    talks = [turns("why", "x" * 200)] * 2 + [turns("a", "b")] * 17
    with pytest.raises(UserError, match=r"train: 2 of 19 rows .* 128 tokens \(first: train.jsonl:1, train.jsonl:2\)"):
        TASKS["dialogue"]().prepare(dataset_of(talks), tokenizer, 128, "train", "fingerprint")
    TASKS["dialogue"]().prepare(dataset_of([*talks, talks[-1]]), tokenizer, 128, "train", "fingerprint")


def test_each_answer_is_asked_for_with_what_was_said_before_it(tokenizer):
    talk = turns("a", " one ", "b", "two")
    prompts = TASKS["dialogue"]().prompts(dataset_of([talk]), tokenizer, 128)
    assert [tokenizer.decode(prompt.input_ids) for prompt in prompts] == [
        "User:\na\nAssistant:\n",
        f"User:\na\nAssistant:\none{END_OF_TEXT}\nUser:\nb\nAssistant:\n",
    ]
    assert [prompt.references for prompt in prompts] == [["one"], ["two"]]
    assert [prompt.origin for prompt in prompts] == ["train.jsonl:1#1", "train.jsonl:1#3"]


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{{ message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def other_tokenizer(tokenizer: Any) -> Any:
    return copy.deepcopy(tokenizer)


def test_a_template_without_markers_gives_the_same_as_with(tokenizer, other_tokenizer):
    marks = ("{%- generation -%}", "{%- endgeneration -%}")
    for mark in marks:
        other_tokenizer.chat_template = other_tokenizer.chat_template.replace(mark, "")
    assert "generation -" not in other_tokenizer.chat_template
    for talk in (turns("hi", "there", "you", ""), [{"role": "system", "content": "é🙂"}, *turns("a\n", "🙂 b ")]):
        assert render_conversation(other_tokenizer, talk) == render_conversation(tokenizer, talk)


def test_chatml_is_split_turn_by_turn(other_tokenizer):
    other_tokenizer.chat_template = CHATML
    [(ids, labels)], _, _ = encode_conversation(other_tokenizer, turns("hi", "there", "you", "too"), 1000)
    assert [other_tokenizer.decode(stretch) for stretch in said(ids, labels)] == [
        "there<|im_end|>\n",
        "too<|im_end|>\n",
    ]


def test_a_template_that_cannot_be_split_is_one_clear_error(other_tokenizer):
    # As those do that drop what the assistant thought once another turn follows.
    other_tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ':' }}{{ message['content'] if loop.last else '-' }}"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(UserError, match="chat template writes a turn differently"):
        encode_conversation(other_tokenizer, turns("hi", "there", "you", "too"), 128)


def test_a_template_that_refuses_a_conversation_is_one_clear_error(other_tokenizer):
    other_tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
    )
    talk = [{"role": "system", "content": "no"}, *turns("hi", "there")]
    with pytest.raises(UserError, match=r"System role not supported"):
        encode_conversation(other_tokenizer, talk, 128)
