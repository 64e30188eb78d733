"""Runs compared on predictions written by hand: what the tests say is known beforehand."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from gptft.errors import UserError
from gptft.evaluation.compare import compare, comparison_table, to_json
from gptft.evaluation.predictions import save_predictions
from gptft.metrics.predictions import Predictions
from gptft.tasks import Prompt

ROWS = 60


@pytest.fixture
def evaluated(tmp_path, tokenizer):
    """Write a run with an evaluation, and give the name of the run."""

    def write(name, predictions, base=None, scores=("accuracy",), rows="abc", split="test", origins=None):
        run = tmp_path / "runs" / name
        (run / "eval" / split).mkdir(parents=True)
        (run / "recipe.yaml").touch()
        count = len(predictions.references)
        prompts = [Prompt(origin, [1], []) for origin in origins or [f"test.csv:{row}" for row in range(count)]]
        save_predictions(run / "eval" / split, tokenizer, prompts, predictions, base)
        values = {score: {"value": 0} for score in scores}
        content = {"rows_fingerprint": rows, "scores": values, "base": values if base else None}
        (run / "eval" / split / "scores.json").write_text(json.dumps(content))
        return name

    return write


@pytest.fixture
def compared(tmp_path):
    def call(*names, **options):
        return compare(*names, runs=tmp_path / "runs", **options)

    return call


def labels(right: list[bool]) -> Predictions:
    """Label predictions that are right where `right` says so."""
    return Predictions(predictions=["a" if ok else "b" for ok in right], references=[["a"]] * len(right))


def losses(values) -> Predictions:
    values = [float(value) for value in values]
    return Predictions(negative_log_likelihoods=values, token_counts=[10] * len(values), byte_counts=[40] * len(values))


@pytest.mark.parametrize(("won", "lost"), [(9, 1), (1, 9), (5, 4), (0, 0), (6, 0), (5, 0)])
def test_accuracy_is_tested_by_mcnemar(evaluated, compared, won, lost):
    """The exact test by its definition: twice the smaller tail of a fair coin thrown won + lost times."""
    before = [True] * 20 + [False] * won + [True] * lost + [False] * 20
    after = [True] * 20 + [True] * won + [False] * lost + [False] * 20
    [found] = compared(evaluated("one", labels(before)), evaluated("two", labels(after)))
    thrown = won + lost
    tail = sum(math.comb(thrown, count) for count in range(min(won, lost) + 1)) / 2**thrown
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (found.a, found.b) == (sum(before) / len(before), sum(after) / len(after))
    assert f"{won} rows won and {lost} lost" in found.test
    sure = found.p_value < 0.05
    assert found.verdict == ("cannot tell" if not sure else "better" if won > lost else "worse")
    assert sure == ((won, lost) in ((9, 1), (1, 9), (6, 0)))


@pytest.mark.parametrize(("shift", "verdict"), [(-2.0, "better"), (2.0, "worse"), (0.0, "cannot tell")])
def test_the_paired_bootstrap_where_lower_is_better(evaluated, compared, shift, verdict):
    draw = np.random.default_rng(1)
    before = draw.exponential(20.0, ROWS)
    # Far less than what rows differ by among themselves: only paired can it be seen.
    noise = draw.normal(0.0, 1.0, ROWS)
    after = before + shift + noise - noise.mean()
    names = [evaluated(name, losses(said), scores=["bits_per_byte"]) for name, said in (("a", before), ("b", after))]
    [found] = compared(*names)
    assert (found.metric, found.rows, found.verdict) == ("bits_per_byte", ROWS, verdict)
    assert found.b - found.a == pytest.approx((after.sum() - before.sum()) / (40 * ROWS * math.log(2)))
    assert found.low < found.b - found.a < found.high
    assert (found.low <= 0 <= found.high) == (verdict == "cannot tell") == (found.p_value >= 0.05)


def test_a_run_is_no_better_than_its_equal(evaluated, compared):
    texts = Predictions(predictions=["a b c d e", "f g h"] * 9, references=[["a b c d x"], ["f g h"]] * 9)
    names = [evaluated(name, texts, scores=["chrf", "exact_match"]) for name in ("one", "two")]
    for found in compared(*names):
        assert (found.verdict, found.p_value, found.a - found.b) == ("cannot tell", 1.0, 0)


def test_metrics_are_those_of_both_and_one_by_name_has_its_options(evaluated, compared):
    said = Predictions(predictions=["你好 吗"] * 4, references=[["你好 吗"]] * 3 + [["他 很 好"]])
    first = evaluated("one", said, scores=["bleu:tokenize=zh", "chrf", "./mine"])
    second = evaluated("two", said, scores=["bleu:tokenize=zh", "exact_match", "./mine"])
    assert [one.metric for one in compared(first, second)] == ["bleu:tokenize=zh"]
    assert [one.metric for one in compared(first, second, metrics=["bleu", "exact_match"])] == [
        "bleu:tokenize=zh",
        "exact_match",
    ]
    with pytest.raises(UserError, match=r"--metric perplexity: there are no paired rows"):
        compared(first, second, metrics=["perplexity"])


def test_a_run_against_its_own_base(evaluated, compared):
    base, tuned = labels([True] * 5 + [False] * 25), labels([True] * 20 + [False] * 10)
    name = evaluated("tuned", tuned, base)
    [found] = compared(name)
    assert (found.a, found.b, found.verdict) == (5 / 30, 20 / 30, "better")
    lonely = evaluated("lonely", tuned)
    with pytest.raises(UserError, match="lonely was evaluated without its base"):
        compared(lonely)


def test_other_rows_are_refused_with_the_reason(evaluated, compared):
    said = labels([True, False, True])
    one = evaluated("one", said)
    with pytest.raises(UserError, match="one and two were evaluated on other rows"):
        compared(one, evaluated("two", said, rows="xyz"))
    fewer = evaluated("fewer", labels([True, False]))
    with pytest.raises(UserError, match=r"one and fewer answered other rows: .* `max_rows`"):
        compared(one, fewer)
    # As many, but not the same ones.
    others = evaluated("others", said, origins=["test.csv:7", "test.csv:8", "test.csv:9"])
    with pytest.raises(UserError, match="answered other rows"):
        compared(one, others)


def test_what_is_no_evaluated_run_is_told(evaluated, compared, tmp_path):
    one = evaluated("one", labels([True, False]), split="validation")
    with pytest.raises(UserError, match="nowhere is not a run"):
        compared(one, "nowhere")
    with pytest.raises(UserError, match=r"one has not been evaluated on test: gptft eval one"):
        compared(one, one, split="test")
    assert compared(one, one)[0].rows == 2
    for file in (tmp_path / "runs" / "one" / "eval" / "validation").glob("*.jsonl"):
        file.unlink()
    with pytest.raises(UserError, match="has no predictions to compare: evaluate it again"):
        compared(one, one)


def test_the_table_has_the_verdict_in_words(evaluated, compared):
    names = [
        evaluated("one", labels([True] * 5 + [False] * 25), scores=["accuracy", "f1"]),
        evaluated("two", labels([True] * 25 + [False] * 5), scores=["accuracy", "f1"]),
    ]
    found = [*compared(*names), *compared(names[0], names[0], metrics=["accuracy"])]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(comparison_table(found, "one", "t[w]o"))
    text = console.export_text()
    for cell in ("B: t[w]o", "B is", "0.167", "0.833", "+0.667 [+", "better", "cannot tell (30 rows)", "McNemar"):
        assert cell in text
    assert json.loads(json.dumps(to_json(found)))[0]["verdict"] == "better"
