import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptft.training.batching import (
    TOKENS_AT_ONCE,
    ClassCollator,
    Collator,
    LengthGroupedBatches,
    batches_by_tokens,
    parts_of,
    rows_at_once,
    tokens_at_once,
)

STRATEGIES = ["group_by_length", "random", "sequential"]
LENGTHS = [(7 * index) % 61 + 1 for index in range(203)]


def steps(sampler: LengthGroupedBatches, epoch: int, per_step: int) -> list[set[int]]:
    sampler.set_epoch(epoch)
    batches = list(sampler)
    return [set().union(*map(set, batches[start : start + per_step])) for start in range(0, len(batches), per_step)]


@given(
    rows=st.integers(1, 300), batch=st.integers(1, 9), per_step=st.integers(1, 4), strategy=st.sampled_from(STRATEGIES),
    epoch=st.integers(0, 3),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_each_row_comes_once_an_epoch_in_as_many_batches_as_said(rows, batch, per_step, strategy, epoch):
    lengths = [(13 * index) % 37 + 1 for index in range(rows)]
    sampler = LengthGroupedBatches(lengths, batch, per_step, seed=3, strategy=strategy)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(index for rows_of_batch in batches for index in rows_of_batch) == list(range(rows))
    assert len(batches) == len(sampler)
    # All batches are full but those of the last step.
    assert all(len(rows_of_batch) == batch for rows_of_batch in batches[: rows // (batch * per_step) * per_step])


def test_a_step_has_the_same_rows_however_it_is_split():
    whole = LengthGroupedBatches(LENGTHS, 8, 1, seed=42)
    split = LengthGroupedBatches(LENGTHS, 2, 4, seed=42)
    for epoch in range(3):
        assert steps(whole, epoch, 1) == steps(split, epoch, 4)


def test_the_short_step_is_the_last():
    sizes = [len(step) for step in steps(LengthGroupedBatches(LENGTHS, 8, 1, seed=1), 0, 1)]
    assert sizes == [8] * 25 + [3]


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthGroupedBatches(LENGTHS, 8, 1, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_sequential_is_the_rows_own_order_in_every_epoch():
    sampler = LengthGroupedBatches(LENGTHS, 8, 2, seed=1, strategy="sequential")
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert [index for batch in sampler for index in batch] == list(range(len(LENGTHS)))


def test_another_order_is_an_error():
    with pytest.raises(ValueError, match="batch_rebalance"):
        LengthGroupedBatches(LENGTHS, 8, 1, seed=1, strategy="batch_rebalance")


def test_grouping_saves_most_of_the_padding_and_random_does_not():
    def padding(strategy: str) -> int:
        batches = list(LengthGroupedBatches(LENGTHS, 8, 1, seed=1, strategy=strategy))
        return sum(max(LENGTHS[i] for i in batch) * len(batch) - sum(LENGTHS[i] for i in batch) for batch in batches)

    assert padding("group_by_length") < padding("random") / 3


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 200))
@settings(deadline=None, max_examples=60)
def test_batches_by_tokens_keep_their_budget(lengths, budget):
    batches = batches_by_tokens(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


def test_closing_tokens_stay_supervised_where_pad_is_end_of_text():
    end = 256
    rows = [
        {"input_ids": [1, 2, 3, end], "labels": [-100, -100, 3, end]},
        {"input_ids": [4, end], "labels": [-100, end]},
    ]
    batch = Collator(end)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, end], [4, end, end, end]]
    assert batch["labels"].tolist() == [[-100, -100, 3, end], [-100, end, -100, -100]]
    assert batch["token_count"] == 6
    assert "position_ids" not in batch


@pytest.mark.parametrize(("positions", "passed_on"), [([0, 1, 2, 3], False), ([0, 1, 0, 1], True)])
def test_positions_are_passed_on_where_documents_share_a_row(positions, passed_on):
    row = {"input_ids": [1, 2, 3, 4], "labels": [-100, 2, -100, 4], "position_ids": positions}
    short = {"input_ids": [5, 6], "labels": [-100, 6], "position_ids": [0, 1]}
    batch = Collator(0)([short, row])
    assert ("position_ids" in batch) == passed_on
    if passed_on:
        assert batch["position_ids"].dtype == torch.long
        assert batch["position_ids"].tolist() == [[0, 1, 0, 0], positions]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("labels", [False, True])
def test_parts_have_all_that_the_batch_has_without_its_padding(at_once, labels):
    lengths = [7, 5, 5, 2]
    if labels:
        rows = [{"input_ids": list(range(n)), "labels": [0, 1, 0, 0, 1, 0, n]} for n in lengths]
        collate = ClassCollator(99, "multi_label_classification")
    else:
        rows = [
            {"input_ids": list(range(n)), "labels": list(range(n)), "position_ids": [0, *range(n - 1)]} for n in lengths
        ]
        collate = Collator(99)
    parts = list(parts_of(collate(rows), at_once))
    assert [len(part["input_ids"]) for part in parts] == [min(at_once, 4 - start) for start in range(0, 4, at_once)]
    start = 0
    for part in parts:
        own = collate(rows[start : start + len(part["input_ids"])])
        start += len(part["input_ids"])
        assert part.keys() == own.keys()
        assert all(torch.equal(part[name], own[name]) for name in own if name != "token_count")


@given(st.integers(1, 200), st.integers(1, 3000))
def test_rows_at_once_are_about_as_many_tokens_as_said(rows, length):
    at_once = rows_at_once(rows, length, 2048)
    assert 1 <= at_once <= rows
    assert (at_once - 1) * length < 2048
    assert at_once == rows or rows * length > 2048
    assert rows_at_once(rows, length, math.inf) == rows


def test_several_processes_and_gpus_learn_all_of_a_batch_at_once():
    assert tokens_at_once(torch.device("cpu")) == TOKENS_AT_ONCE
    assert tokens_at_once(torch.device("cpu"), 2) == tokens_at_once(torch.device("cuda")) == math.inf
