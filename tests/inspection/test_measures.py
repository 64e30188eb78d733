"""Near-duplicates, ends of answers and batches, counted on data that one can count by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from datasets import Dataset, List, Value
from transformers import TrainingArguments

from gptft.inspection.duplicates import find_duplicates
from gptft.inspection.examples import pieces_of
from gptft.inspection.lengths import batches_of, measure
from gptft.inspection.plan import make_plan
from gptft.tasks import Preparation

SENTENCE = (
    "the quick brown fox jumps over the lazy dog and runs through the deep green forest to its den near the river"
)


def dataset(texts: list[str], name: str) -> Dataset:
    return Dataset.from_dict(
        {
            "messages": [None] * len(texts),
            "text": texts,
            "targets": [None] * len(texts),
            "origin": [f"{name}:{index}" for index in range(1, len(texts) + 1)],
        }
    ).cast_column("messages", List({"role": Value("string"), "content": Value("string")}))


def parts(text: str) -> set[object]:
    """Words and pairs of words."""
    return {*text.split(), *pairwise(text.split())}


def test_near_duplicates_are_found_and_what_differs_is_not():
    others = [" ".join(f"{word}{n}" for word in SENTENCE.split()) for n in range(50)]
    train = dataset([SENTENCE, *others, SENTENCE.title() + "!", SENTENCE.replace("quick", "slow")], "train")
    test = dataset(
        [SENTENCE.replace("lazy dog", "lazy old dog"), SENTENCE.replace("the", "a"), "something else"], "test"
    )
    found = find_duplicates({"train": train, "test": test}, "pretraining")
    assert found.counts == {"train": 2, "test": 1}
    pairs = {(near.origin, near.other): near.similarity for near in found.examples}
    assert pairs["train:52", "train:1"] == 1.0
    one, other = parts(SENTENCE), parts(SENTENCE.replace("quick", "slow"))
    assert pairs["train:53", "train:1"] == pytest.approx(len(one & other) / len(one | other))
    assert ("test:1", "train:1") in pairs


def test_texts_without_spaces_are_compared_by_their_signs():
    text = "我们今天在商店里有很多红色的鞋子和蓝色的帽子还有绿色的外套"
    found = find_duplicates({"train": dataset([text, text.replace("今天", "今日"), "你好吗"], "train")}, "pretraining")
    assert found.counts == {"train": 1}


def test_ends_of_answers_are_counted_in_each_run_of_labels():
    rows = [[-100, 5, 9, -100, 6, 9], [-100, 7], [9], [-100, 5, 5]]
    encoded = Dataset.from_dict({"labels": rows, "length": [len(r) for r in rows], "supervised": [4, 1, 1, 2]})
    found = measure(encoded, Preparation(), 9)
    assert (found.answers, found.ended) == (5, 3)


def test_padding_and_steps_are_those_of_the_sampler(tmp_path):
    lengths = [10, 4, 4, 4, 2]
    encoded = Dataset.from_dict({"labels": [[1] * n for n in lengths], "length": lengths, "supervised": lengths})
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=3,
        train_sampling_strategy="sequential", save_strategy="epoch", save_total_limit=2, warmup_steps=0.5,
    )  # fmt: skip
    batches = batches_of(measure(encoded, Preparation(), 1), arguments)
    assert batches.padded.tolist() == [20, 8, 2] and batches.padding == pytest.approx(6 / 30)
    plan = make_plan(torch.nn.Linear(10, 10), batches, arguments, tmp_path)
    assert (plan.steps_per_epoch, plan.steps, plan.warmup_steps, plan.tokens_per_epoch) == (2, 6, 3, 24)
    # Three checkpoints at once: weights and two moments each; then the model.
    assert plan.checkpoint_bytes == 110 * 4 * (3 * 3 + 1)


def test_parts_of_one_character_are_one_piece(tokenizer):
    ids = tokenizer("né\n")["input_ids"] + [256]
    assert pieces_of(tokenizer, ids, [-100, -100, -100, *ids[3:]]) == [
        ("n", "context"), ("é", "context"), ("\n", "supervised"), ("<|endoftext|>", "supervised special"),
    ]  # fmt: skip
