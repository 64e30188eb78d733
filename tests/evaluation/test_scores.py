import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from gptft.errors import GptftError, UserError
from gptft.evaluation.scores import Score, compute_scores, format_value, load_metrics, runs_table, scores_table, to_json
from gptft.metrics.predictions import Predictions

METRIC_SCRIPT = """
import datasets
import evaluate

class {name}(evaluate.Metric):
    def _info(self):
        features = datasets.Features({{"{first}": datasets.Value("string"), "references": datasets.Value("string")}})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, {first}, references):
        {body}
"""


def write_metric(folder, name: str, body: str, first: str = "predictions") -> str:
    folder = folder / name
    folder.mkdir()
    class_name = "".join(part.title() for part in name.split("_"))
    (folder / f"{name}.py").write_text(METRIC_SCRIPT.format(name=class_name, body=body, first=first))
    return str(folder)


def predictions(count: int = 40) -> Predictions:
    draw = np.random.default_rng(0)
    words = ["your", "order", "is", "on", "its", "way", "to", "you"]
    references = [[" ".join(draw.choice(words, size=8))] for _ in range(count)]
    answers = [text if draw.random() < 0.5 else " ".join(text.split()[:5]) for (text,) in references]
    likelihoods = draw.exponential(20.0, size=count).tolist()
    return Predictions(
        predictions=answers,
        references=references,
        stopped=[True] * count,
        negative_log_likelihoods=likelihoods,
        token_counts=[10] * count,
    )


def scored(names: list[str], given: Predictions) -> list[Score]:
    return compute_scores(load_metrics(names), given)


def test_built_in_scores_carry_interval_rows_and_definition():
    names = ["perplexity", "bleu", "chrf", "exact_match", "stop_rate"]
    scores = {score.name: score for score in scored(names, predictions())}
    assert list(scores) == names
    for name in ("perplexity", "bleu", "chrf", "exact_match"):
        assert scores[name].low < scores[name].value < scores[name].high
        assert scores[name].rows == 40
    assert scores["bleu"].definition.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["perplexity"].higher_is_better is False
    assert scores["bleu"].higher_is_better is True
    # Forty stops of forty: no resample differs, which says nothing about the forty-first.
    assert (scores["stop_rate"].value, scores["stop_rate"].low) == (1.0, None)


def test_options_reach_the_metric():
    (score,) = scored(["bleu:tokenize=zh"], predictions())
    assert score.name == "bleu:tokenize=zh" and "tok:zh" in score.definition


def test_perplexity_alone_needs_no_answers():
    (score,) = scored(["perplexity"], Predictions(negative_log_likelihoods=[1.0, 2.0], token_counts=[1, 2]))
    assert score.value == pytest.approx(math.e)


def test_a_metric_without_its_inputs_is_an_error():
    with pytest.raises(GptftError, match="metric 'bleu' has no rows"):
        scored(["bleu"], Predictions(negative_log_likelihoods=[1.0], token_counts=[1]))


def test_a_loaded_metric_is_resampled(tmp_path):
    body = "return {'same': sum(p == r for p, r in zip(predictions, references)) / len(predictions), 'kind': 'x'}"
    found = scored([write_metric(tmp_path, "sameness", body)], predictions())
    (exact,) = scored(["exact_match"], predictions())
    (score,) = found
    assert score.name == "sameness_same"
    assert score.value == exact.value
    assert score.low == pytest.approx(exact.low, abs=0.06)
    assert score.higher_is_better is None


def test_a_slow_loaded_metric_has_no_interval_and_the_table_says_so(tmp_path):
    body = "import time; time.sleep(0.11); return {'slowness': 0.5}"
    scores = scored([write_metric(tmp_path, "slowness", body)], predictions())
    assert [(score.name, score.value, score.low) for score in scores] == [("slowness", 0.5, None)]
    assert "0.500 [no interval]" in render(scores)


def test_a_loaded_metric_that_fails_or_wants_other_inputs_is_named(tmp_path):
    failing = write_metric(tmp_path, "failing", "raise RuntimeError('out of luck')")
    with pytest.raises(GptftError, match="failing' failed on these predictions: out of luck"):
        scored([failing], predictions())
    with pytest.raises(UserError, match=r"reads references, sources;"):
        scored([write_metric(tmp_path, "other", "return {}", first="sources")], predictions())
    with pytest.raises(GptftError, match="no single number but words"):
        scored([write_metric(tmp_path, "wordy", "return {'words': [1, 2]}")], predictions())


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("bleu", 25.126, "25.13"),
        ("chrf", 100.0, "100.00"),
        ("perplexity", 12.3, "12.30"),
        ("perplexity", 999.97, "1000"),
        ("perplexity", 48213.4, "48213"),
        ("perplexity", math.inf, "inf"),
        ("exact_match", 0.5, "0.500"),
    ],
)
def test_values_are_written_as_usual_for_the_metric(name, value, text):
    assert format_value(name, value) == text


def render(*arguments) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(scores_table(*arguments))
    return console.export_text()


TUNED = [
    Score("bleu", 31.25, 29.0, 33.5, 100, "tok:13a", True),
    Score("perplexity", 4.5, 4.25, 4.75, 100, "exp of the mean", False),
]
BASE = [Score("bleu", 1.0, None, None, 100, "tok:13a", True), Score("perplexity", 104.5, 100, 109, 100, "exp", False)]


def test_table_shows_scores_base_and_change():
    text = render(TUNED, BASE)
    for cell in ("31.25 [29.00, 33.50]", "1.00 [no interval]", "+30.25", "4.500 [4.250, 4.750]", "-100.0", "tok:13a"):
        assert cell in text
    assert "score [95% interval]" in text
    assert "base" not in render(TUNED)


def test_better_is_green_and_worse_is_red_whichever_way_the_metric_runs():
    def colours(scores, base):
        changes = scores_table(scores, base).columns[-1].cells
        return [str(cell.style) for cell in changes]

    assert colours(TUNED, BASE) == ["green", "green"]
    assert colours(BASE, TUNED) == ["red", "red"]
    assert colours(TUNED, TUNED) == ["", ""]


def test_several_runs_share_a_table_with_a_warning_where_their_rows_differ():
    def shown(*fingerprints):
        console = Console(width=160, record=True, file=io.StringIO())
        runs = zip(("one", "two"), ("test", "validation"), fingerprints, (TUNED, TUNED[:1]), strict=True)
        console.print(runs_table(list(runs)))
        return console.export_text()

    text = shown("a", "a")
    assert "one (test)" in text and "two (validation)" in text and "different rows" not in text
    [bleu] = [line for line in text.splitlines() if "bleu" in line and "│" in line]
    assert bleu.count("31.25 [29.00, 33.50]") == 2
    [perplexity] = [line for line in text.splitlines() if "perplexity" in line and "│" in line]
    assert perplexity.count("4.500") == 1
    assert "scores of different rows" in shown("a", "b")


def test_json_holds_both_and_no_number_that_json_lacks():
    diverged = Score("perplexity", math.nan, 1.0, math.inf, 3, "exp", False)
    content = to_json(TUNED, [diverged])
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text)["scores"]["bleu"]["high"] == 33.5
    assert content["base"]["perplexity"]["value"] is None
    assert to_json(TUNED)["base"] is None
