"""The section `sweep`: what is tried is held against the recipe before the first trial."""

import pytest

from .conftest import GOOD

SWEEP = GOOD + "sweep:\n  ranges:\n    "


def test_ranges_that_can_be_tried(load):
    text = """training.learning_rate: {low: 1e-5, high: 1e-3, log: true}
    training.weight_decay: {low: 0.0, high: 1}
    training.num_train_epochs: {low: 1, high: 3, step: 1}
    data.max_length: {low: 16, high: 64, step: 16}
    adapter: [null, {type: lora, r: 4}]
    model.base: [starter, openai-community/gpt2]
"""
    sweep = load(SWEEP + text).sweep
    assert (sweep.metric, sweep.sampler, sweep.pruner, sweep.direction) == ("loss", "tpe", "median", None)
    ranges = sweep.ranges
    assert [ranges[key].whole for key in list(ranges)[:4]] == [False, False, True, True]
    assert ranges["data.max_length"].count == 4
    assert ranges["adapter"][0] is None


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("training.lerning_rate: [1]", "training.lerning_rate", "did you mean `learning_rate`"),
        ("training.learning_rate: {low: 0.0, high: 1e-3}", "training.learning_rate", "found 0.0, expected greater"),
        ("training.learning_rate: [1e-4, fast]", "training.learning_rate", "found the text 'fast', expected a number"),
        ("training.optim: [adamw_torch, adam_torch]", "training.optim", "found the text 'adam_torch'"),
        ("data.train: [train.jsonl, nothing.jsonl]", "data.train", "no such file"),
        ("adapter.r: [4, 8]", "adapter.r", "adapter.type: is missing"),
        ("training.seed: {low: 3, high: 3}", "training.seed", "low (3) is not below high (3)"),
        ("training.learning_rate: {low: 1e-5, high: 1e-3, log: true, step: 1e-5}", "training.learning_rate", "no step"),
        ("training.weight_decay: {low: 0, high: 1}", "training.weight_decay", "write low: 0.0"),
        ("data.validation: [0.1, 0.2]", "data.validation", "data.validation is one for all trials"),
        ("hub.private: [true]", "hub.private", "hub is one for all trials"),
        ("training.seed: []", "training.seed", "at least 1 item"),
        ("training.seed: {low: 1, hgih: 3}", "training.seed.hgih", "did you mean `high`"),
        ("training.seed: 3", "training.seed", "found 3, expected"),
    ],
)
def test_a_range_that_cannot_be_tried(problems, text, key, message):
    found = problems(SWEEP + text)
    assert [(problem.key, message in problem.message) for problem in found] == [(f"sweep.ranges.{key}", True)], found
    assert found[0].where.endswith("bot.yaml:9")


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        (("data.validation=null",), "sweep", "never on test"),
        (("training.eval_strategy=no",), "sweep", "set training.eval_strategy"),
        (("training.save_strategy=no",), "sweep", "set training.eval_strategy"),
        (("sweep.metric=bleu",), "sweep.metric", "expected one of loss, perplexity"),
        (("sweep.sampler=cmaes",), "sweep.sampler", "'tpe', 'random' or 'grid'"),
        (("training.per_device_train_batch_size=auto",), "sweep", "write a number, not auto"),
        (("sweep.sampler=grid",), "sweep.ranges.training.learning_rate", "give a step"),
    ],
)
def test_what_a_sweep_needs(problems, changes, key, message):
    found = problems(SWEEP + "training.learning_rate: {low: 1e-5, high: 1e-3}", *changes)
    assert [(problem.key, message in problem.message) for problem in found] == [(key, True)], found


def test_all_mistakes_at_once(problems):
    text = (
        GOOD.replace("starter", "nowhere/at/all") + "traning: {}\nsweep: {ranges: {training.seed: [a], data.x: [1]}}\n"
    )
    keys = {problem.key for problem in problems(text)}
    assert keys == {"model.base", "traning", "sweep.ranges.training.seed", "sweep.ranges.data.x"}
