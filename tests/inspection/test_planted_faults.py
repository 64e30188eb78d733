"""Each mistake that people make with data and settings is named, by the inspection or already by the reading."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gptft.errors import UserError
from gptft.inspection.findings import Finding
from gptft.inspection.inspect import inspect
from gptft.recipe import load_recipe

COLOURS = "red blue green small large old new round flat warm cold soft hard dry wet thin thick sweet sour plain"
NAMES = "hat shoe bag coat scarf belt boot glove shirt sock lamp table chair clock vase bowl plate spoon fork knife"
WORDS, THINGS = COLOURS.split(), NAMES.split()


def pairs(count: int = 60) -> list[dict[str, Any]]:
    """Questions and answers without a fault."""
    return [
        {
            "prompt": f"Do you sell a {WORDS[n % 20]} {THINGS[n // 3 % 20]} for my {THINGS[(n * 7 + 3) % 20]}?",
            "completion": f"We have {n + 2} kinds of {THINGS[n // 3 % 20]}, the {WORDS[(n * 3 + 1) % 20]} one is best.",
        }
        for n in range(count)
    ]


def texts(count: int = 60) -> list[dict[str, Any]]:
    """Texts with two labels without a fault."""
    return [{"text": row["prompt"], "label": ("buy", "sell")[n % 2]} for n, row in enumerate(pairs(count))]


def chats(*turns: str, count: int = 60) -> list[dict[str, Any]]:
    """Conversations of these roles."""
    said = {"user": "prompt", "assistant": "completion"}
    return [
        {
            "messages": [
                {"role": role, "content": row[said.get(role, "prompt")] + " Yes." * n} for n, role in enumerate(turns)
            ]
        }
        for row in pairs(count)
    ]


def changed(rows: list[dict[str, Any]], column: str, *values: str) -> list[dict[str, Any]]:
    """The rows, the first of them with other values."""
    return [{**row, column: value} for row, value in zip(rows, values, strict=False)] + rows[len(values) :]


def found(recipe: Any, accept: tuple[str, ...] = ("foreign_tokenizer",)) -> dict[str, Finding]:
    """What an inspection finds, by name. The tiny base's tokens are bytes, which is accepted."""
    recipe.data.accept = list(accept)
    return {finding.name: finding for finding in inspect(recipe, console=Console(quiet=True)).findings}


CLEAN_SETTINGS = {"num_train_epochs": 3}
GERMAN = "Wir haben leider keine Schuhe mehr auf Lager, aber am Montag kommen neue, und dann rufen wir Sie gern an."
ENGLISH = "We have {} {} shoes in the shop today, and on Monday we will have many more of the {} kind for you."

SILENT = (("user", "Hi"), ("assistant", ""), ("user", "Ho"), ("assistant", "Hu"))
FAULTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    # name of the finding, and what is planted -> rows, sections
    "empty_rows: no answer": (changed(pairs(), "completion", "", "  "), {}),
    "empty_rows: no prompt": (changed(pairs(), "prompt", ""), {"task": "completion"}),
    "empty_turns": ([*chats("user", "assistant"), {"messages": [{"role": r, "content": c} for r, c in SILENT]}], {}),
    "empty_system_prompt": (
        [{"messages": [{"role": "system", "content": " "}, *row["messages"]]} for row in chats("user", "assistant")],
        {},
    ),
    "same_role_twice: two assistants": (chats("user", "assistant", "assistant"), {}),
    "same_role_twice: two users": (chats("user", "user", "assistant"), {}),
    "mixed_first_role: swapped": (chats("user", "assistant") + chats("assistant", "user", count=3), {}),
    "one_answer": ([{**row, "completion": "I do not know."} for row in pairs()], {}),
    "frequent_answer": (changed(pairs(), "completion", *["I do not know."] * 40), {}),
    "answer_in_prompt: completion": (
        [{**row, "prompt": f"{row['prompt']} {row['completion']}"} for row in pairs()],
        {"task": "completion"},
    ),
    "answer_in_prompt: label": (
        [{**row, "text": f"{row['text']} ({row['label']})"} for row in texts()],
        {"task": "classification"},
    ),
    "placeholder_answers": (changed(pairs(), "completion", "N/A", "null", "[deleted]"), {}),
    "url_only": (changed(pairs(), "completion", "https://shop.example/item?id=7"), {}),
    "markup": (changed(pairs(), "completion", "<p>Yes,<br>we do.</p>", "Yes&nbsp;sir"), {}),
    "mojibake: wrong decoding": (changed(pairs(), "completion", "A cafÃ© and a sofa, itâ€™s here"), {}),
    "mojibake: replaced": (changed(pairs(), "completion", "A caf\ufffd"), {}),
    "control_characters": (changed(pairs(), "completion", "Yes\x00\x1b[31m indeed"), {}),
    "control_characters: byte-order mark inside": (changed(pairs(), "prompt", "\ufeffDo you?"), {}),
    "end_of_text_written": (changed(pairs(), "completion", "Yes.<|endoftext|>No."), {}),
    "very_long_rows: a file in one line": (changed(pairs(), "text", *["We sell hats and more. " * 12_000]), {}),
    "many_duplicates": (pairs(20) * 3, {}),
    "near_duplicates": (pairs(40) + [{**row, "prompt": row["prompt"].upper() + "!!"} for row in pairs(20)], {}),
    "other_language": (
        [
            {"prompt": f"What have you {n}?", "completion": ENGLISH.format(n, WORDS[n % 20], WORDS[n % 7])}
            for n in range(80)
        ]
        + [{"prompt": f"Was {n}?", "completion": f"{GERMAN} {n}"} for n in range(4)],
        {},
    ),
    "foreign_tokenizer": ([{"prompt": f"你好{n}吗", "completion": f"我们有{n}个帽子"} for n in range(60)], {}),
    "answers_dropped": (changed(pairs(), "completion", "so " * 200), {}),
    "context_cut": ([{**row, "prompt": "so " * 100 + row["prompt"]} for row in pairs()], {"data": {"max_length": 100}}),
    "prompt_ends_in_space": (pairs(), {"task": "completion", "template": {"prompt": "Q: {prompt} A: "}}),
    "one_label": (
        [{**row, "label": "buy"} for row in texts()],
        {"task": "classification", "classification": {"labels": ["buy", "sell"]}},
    ),
    "rare_labels: one row": (changed(texts(), "label", "rent"), {"task": "classification"}),
    "similar_labels: stray space": (
        changed(texts(), "label", "sell ", "card  lost", "card lost"),
        {"task": "classification"},
    ),
    "similar_labels: case": (changed(texts(), "label", "Sell"), {"task": "classification"}),
    "unbalanced_labels": (
        changed([{**row, "label": "buy"} for row in texts()], "label", "sell", "sell"),
        {"task": "classification"},
    ),
    "contradicting_labels": ([*texts(), {"text": texts()[0]["text"], "label": "sell"}], {"task": "classification"}),
    "learning_rate_high": (pairs(), {"training": {"learning_rate": 0.5}}),
    "learning_rate_low": (pairs(), {"training": {"learning_rate": 1e-9}}),
    "warmup_too_long": (pairs(), {"training": {"warmup_steps": 1000}}),
    "few_steps": (pairs(), {"training": {"num_train_epochs": 1}}),
    "batch_beyond_data": (pairs(), {"training": {"per_device_train_batch_size": 64}}),
    "batch_beyond_data: accumulation": (pairs(), {"training": {"gradient_accumulation_steps": 100}}),
    "never_evaluated": (
        pairs(),
        {"data": {"validation": 0.2}, "training": {"eval_strategy": "steps", "eval_steps": 500}},
    ),
    "much_padding": (
        [{"prompt": "Do you sell a hat " * (4 if n % 4 == 0 else 0) + "?", "completion": str(n)} for n in range(60)],
        {"training": {"train_sampling_strategy": "sequential"}},
    ),
    "memory_too_small": (pairs(), {"training": {"per_device_train_batch_size": 60}}),
    "disk_too_small": (pairs(), {}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault: str, write_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    name = fault.partition(":")[0]
    rows, sections = FAULTS[fault]
    if "one line" in fault:
        rows, sections = [{"text": row.get("text") or row["prompt"]} for row in rows], {"task": "pretraining"}
    if name == "disk_too_small":
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    if name == "memory_too_small":
        monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    training = {**CLEAN_SETTINGS, **sections.get("training", {})}
    finding = found(write_recipe(rows, **{**sections, "training": training}), accept=()).get(name)
    assert finding is not None
    assert finding.sentences().count("Change: ") == 1


CLEAN = {
    "dialogue": (pairs(), {}),
    "turns": (
        [
            {
                "messages": [
                    {"role": "user", "content": f"A {WORDS[n % 20]} {THINGS[n // 3]}?"},
                    {"role": "assistant", "content": f"Yes, {n}."},
                    {"role": "user", "content": f"And {THINGS[n % 20]}?"},
                    {"role": "assistant", "content": f"No, {WORDS[n % 20]} only."},
                ]
            }
            for n in range(60)
        ],
        {},
    ),
    "completion": (pairs(), {"task": "completion"}),
    "classification": (texts(), {"task": "classification", "data": {"columns": {"label": "label"}}}),
    "pretraining": ([{"text": row["completion"]} for row in pairs(200)], {"task": "pretraining"}),
}


@pytest.mark.parametrize("kind", CLEAN)
def test_nothing_is_said_of_clean_data(kind: str, write_recipe: Callable[..., Any]):
    rows, sections = CLEAN[kind]
    training = {"num_train_epochs": 10}
    assert found(write_recipe(rows, **sections, training=training)) == {}


def held_out(
    write_recipe: Callable[..., Any], rows: list[dict[str, Any]], train: Any = None, **sections: Any
) -> dict[str, Finding]:
    recipe = write_recipe(train or pairs(), **{**sections, "training": CLEAN_SETTINGS})
    (recipe.folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return found(load_recipe(recipe.source, ["data.test=test.jsonl"]))


def test_rows_of_test_in_train(write_recipe):
    said = held_out(write_recipe, pairs()[:5])
    assert "5 of 5 rows are also in train" in said["held_out_in_train"].found
    assert "held_out_near_train" not in said


def test_rows_of_test_nearly_in_train(write_recipe):
    rows = [{**row, "prompt": row["prompt"].replace("?", " !").upper()} for row in pairs()[:5]]
    finding = held_out(write_recipe, rows)["held_out_near_train"]
    assert "5 of 5" in finding.found and "test.jsonl:1 and train.jsonl:1" in finding.places


def test_test_in_another_language(write_recipe):
    train = [{"prompt": f"What {n}?", "completion": ENGLISH.format(n, WORDS[n % 20], WORDS[n % 7])} for n in range(60)]
    rows = [{"prompt": f"Was {n}?", "completion": f"{GERMAN} {n}"} for n in range(9)]
    assert "test is in the language de" in held_out(write_recipe, rows, train)["held_out_in_another_language"].found


def test_labels_of_test_that_train_has_not(write_recipe):
    rows = [{"text": "Is it for rent?", "label": "rent"}]
    assert "rent" in held_out(write_recipe, rows, texts(), task="classification")["labels_not_in_train"].found


def test_a_template_without_an_end_of_turn(write_recipe, tmp_path, tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("content + eos_token", "content")
    other.save_pretrained(tmp_path / "other")
    said = found(write_recipe(pairs(), model={"tokenizer": str(tmp_path / "other")}, training=CLEAN_SETTINGS))
    assert said["answers_never_end"].level == "error"


def test_pad_masked_as_end_of_text(write_recipe, monkeypatch):
    # What transformers' language-modelling collator does to labels where pad is end-of-text.
    import gptft.tasks.completion as module

    before = module.map_examples

    def masked(dataset: Any, encode: Any, key: str) -> Any:
        def without(batch: Any) -> Any:
            for ids, labels, *rest in encode(batch):
                yield ids, [-100 if label == 256 else label for label in labels], *rest

        return before(dataset, without, key)

    monkeypatch.setattr(module, "map_examples", masked)
    said = found(write_recipe(pairs(), task="completion", training=CLEAN_SETTINGS))
    assert "60 of 60 (100.0%) answers" in said["answers_never_end"].found


def test_a_prompt_that_is_not_how_its_row_begins(write_recipe, tmp_path, tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("{{- 'Assistant:\\n' -}}", "{{- 'Bot:\\n' -}}")
    assert other.chat_template != tokenizer.chat_template
    other.save_pretrained(tmp_path / "other")
    said = found(write_recipe(pairs(), model={"tokenizer": str(tmp_path / "other")}, training=CLEAN_SETTINGS))
    assert said["prompt_not_prefix"].level == "error" and "train.jsonl:1" in said["prompt_not_prefix"].places


def as_csv(rows: list[dict[str, Any]], spoil: Callable[[list[list[str]]], None] = lambda _: None) -> bytes:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    spoil(lines)
    file = io.StringIO()
    csv.writer(file).writerows(lines)
    return file.getvalue().encode()


REFUSED: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "a CSV with a shifted column": (
        as_csv(pairs(), lambda lines: lines[5].insert(0, "7")),
        {},
        "train.csv:6: 3 fields",
    ),
    "a file in Latin-1": (
        as_csv(changed(pairs(), "completion", "A café")).decode().encode("latin-1"),
        {},
        "train.csv:2: byte",
    ),
    "an empty file": (b"\n\n", {}, "the file is empty"),
    "other columns": (as_csv([{"frage": "a", "antwort": "b"}]), {}, "frage, antwort"),
    "an answer that never fits": (
        as_csv([{**row, "completion": "so " * 200} for row in pairs()]),
        {},
        "More than a tenth",
    ),
    "one label": (as_csv([{**row, "label": "buy"} for row in texts()]), {"task": "classification"}, "one label only"),
    "a longest example beyond the positions": (as_csv(pairs()), {"data": {"max_length": 4096}}, "128 positions"),
    "only rows that are empty": (as_csv([{**row, "completion": ""} for row in pairs()]), {}, "no row is left"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_that_reading_refuses(fault: str, write_recipe: Callable[..., Any]):
    content, sections, message = REFUSED[fault]
    recipe = write_recipe(**sections, training=CLEAN_SETTINGS)
    (recipe.folder / "train.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        found(load_recipe(recipe.source, ["data.train=train.csv"]))


def test_a_byte_order_mark_at_the_start_is_no_fault(write_recipe, tmp_path: Path):
    recipe = write_recipe(training={"num_train_epochs": 10})
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + as_csv(pairs()))
    assert found(load_recipe(recipe.source, ["data.train=train.csv"])) == {}


def test_spaces_around_labels_are_removed(write_recipe):
    rows = changed(texts(), "label", " buy", "sell ")
    inspection = inspect(
        write_recipe(rows, task="classification", training=CLEAN_SETTINGS), console=Console(quiet=True)
    )
    assert sorted(inspection.basics.scan.labels) == ["buy", "sell"]
