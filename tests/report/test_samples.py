import pytest

from gptft.report.charts import number, ticks
from gptft.report.samples import RANKED, SAMPLES, choose_samples, marked

REFERENCE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"


def texts(count: int = 40) -> list[dict]:
    """Answers of which the first is right and each later one a little worse."""
    return [
        {
            "origin": f"test:{index}",
            "prompt": f"question {index}",
            "prediction": REFERENCE[: 40 - index],
            "references": ["something else", REFERENCE],
            "base_prediction": "dog",
        }
        for index in range(count)
    ]


def test_the_best_the_median_and_the_worst_by_chrf():
    rows = texts()
    samples = choose_samples([("run", "", rows[::-1]), ("base", "base_", rows)])
    origins = {kind: [s.origin for s in samples if s.kind == kind] for kind in SAMPLES}
    assert {kind: len(found) for kind, found in origins.items()} == SAMPLES
    assert origins["best"] == [f"test:{index}" for index in range(7)]
    assert origins["median"] == [f"test:{index}" for index in range(17, 23)]
    assert set(origins["worst"]) == {f"test:{index}" for index in range(33, 40)}
    first = samples[0]
    assert [answer.who for answer in first.answers] == ["run", "base"]
    assert (first.answers[0].text, first.answers[0].score) == (REFERENCE, "chrF 100.0")
    # Marked against the reference that the answer comes nearest to.
    assert first.reference == REFERENCE
    assert str(samples[-1].reference).startswith("<mark")


def test_labels_by_right_and_wrong_with_confidence():
    rows = [
        {"origin": str(index), "prompt": "", "references": ["a"], "prediction": said, "confidence": sure}
        | {"correct": said == "a"}
        for index, (said, sure) in enumerate([("a", 0.3), ("b", 0.9), ("a", 0.8), ("b", 0.2)])
    ]
    samples = choose_samples([("run", "", rows)])
    assert [sample.origin for sample in samples] == ["2", "0", "3", "1"]
    assert samples[0].answers[0].score == "right, confidence 0.800"
    assert samples[-1].reference == '<mark class="missing">a</mark>'


def test_several_labels_numbers_and_ranks():
    several = {"origin": "0", "prompt": "", "references": ["a", "b"], "prediction": ["a"], "confidence": 0.5}
    (sample,) = choose_samples([("run", "", [{**several, "correct": False}])])
    assert sample.reference == 'a<mark class="missing">, b</mark>' and sample.answers[0].text == "a"
    numbers = [
        {"origin": str(i), "prompt": "", "references": 1.0, "prediction": 1.0 + i, "confidence": 1.0} for i in (2, 0)
    ]
    found = choose_samples([("run", "", numbers)])
    assert [one.answers[0].score for one in found] == ["off by 0", "off by 2"]
    ranks = [{"origin": str(rank), "prompt": "", "references": ["x"], "rank": rank} for rank in (0, 3, 1)]
    assert [one.origin for one in choose_samples([("run", "", ranks)])] == ["1", "3", "0"]
    assert choose_samples([("run", "", [])]) == []


def test_of_many_rows_some_are_ranked_evenly():
    rows = [{**texts(1)[0], "origin": str(index)} for index in range(RANKED * 2 + 1)]
    chosen = [int(sample.origin) for sample in choose_samples([("run", "", rows)])]
    assert len(chosen) == 20 and all(index % 3 == 0 for index in chosen)


@pytest.mark.parametrize(
    ("text", "other", "expected"),
    [
        ("It is 5 euros.", "It is 4 euros.", "It is <mark>5 </mark>euros."),
        ("星期二会下雪。", "星期一会下雪。", "星期<mark>二</mark>会下雪。"),
        ("a < b", "a > b", "a <mark>&lt; </mark>b"),
        ("买iPhone手机", "买iPhone", "买iPhone<mark>手机</mark>"),
        ("", "something", ""),
    ],
)
def test_what_differs_is_marked_word_by_word(text, other, expected):
    assert str(marked(text, other, "x")).replace(' class="x"', "") == expected


def test_axes_have_round_numbers():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.93, 3.1) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
    assert [number(value) for value in (0.25, 12_000, 3_400_000, 5e-5, 0)] == ["0.25", "12k", "3.4M", "5e-05", "0"]
