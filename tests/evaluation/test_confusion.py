import random
import warnings

import pytest

from gptft.evaluation.confusion import FONTS, class_report, save_confusion_matrix, worst_confusions
from gptft.metrics.predictions import Predictions

LABELS = ["ham", "spam", "好评", "差评"]
PNG = b"\x89PNG\r\n\x1a\n"


def some_rows(seed: int = 0, count: int = 60) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    true = [draw.choice(LABELS[:3]) for _ in range(count)]
    return true, [label if draw.random() < 0.6 else draw.choice(LABELS) for label in true]


def test_the_report_is_scikit_learns():
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    true, given = some_rows()
    report = class_report(Predictions(predictions=given, references=[[label] for label in true]))
    labels = report["confusion_matrix"]["labels"]
    assert labels == sorted(LABELS)
    assert report["confusion_matrix"]["matrix"] == confusion_matrix(true, given, labels=labels).tolist()
    expected = precision_recall_fscore_support(true, given, labels=labels, zero_division=0)
    for label, *values in zip(labels, *expected, strict=True):
        assert list(report["classes"][label].values()) == pytest.approx(values)
    # One that is given but never right has a line of its own.
    assert report["classes"]["差评"]["rows"] == 0


def test_several_labels_have_scores_by_class_and_no_matrix():
    true = [["a", "b"], ["b"], [], ["c"], ["a"]]
    given = [["a"], ["b", "c"], ["a"], ["c"], ["a"]]
    report = class_report(Predictions(predictions=given, references=true))
    assert list(report) == ["classes"]
    assert report["classes"] == {
        "a": {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "rows": 2},
        "b": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2},
        "c": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "rows": 1},
    }


def test_the_worst_confusions_are_the_most_frequent_ones():
    matrix = [[9, 2, 0], [5, 1, 2], [0, 0, 4]]
    assert worst_confusions(["a", "b", "c"], matrix, 2) == [("b", "a", 5), ("a", "b", 2)]
    assert worst_confusions(["a", "b", "c"], [[3, 0, 0], [0, 3, 0], [0, 0, 3]]) == []


def draw(folder, labels: list[str]) -> bool:
    """Draw a matrix; a picture is there and no warning, and this tells whether all labels have a font."""
    file = folder / "confusion_matrix.png"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        complete = save_confusion_matrix(file, labels, [[2, 1], [0, 3]])
    assert file.read_bytes().startswith(PNG)
    assert [str(warning.message) for warning in caught if "Deprecat" not in warning.category.__name__] == []
    return complete


def test_a_picture_is_written_without_a_word(tmp_path):
    import matplotlib.image

    assert draw(tmp_path, ["ham", "spam"])
    pixels = matplotlib.image.imread(tmp_path / "confusion_matrix.png")
    # The diagonal is dark where the row's share is high: the picture is not empty.
    assert pixels.shape[0] == pixels.shape[1] > 300 and pixels[..., 0].min() < 0.2 < 0.9 < pixels[..., 0].max()


def test_chinese_labels_are_drawn_where_there_is_a_font(tmp_path):
    from matplotlib import font_manager

    if not set(FONTS[1:]) & set(font_manager.get_font_names()):
        pytest.skip(f"no font for Chinese is installed (one of {', '.join(FONTS[1:])})")
    assert draw(tmp_path, ["好评", "差评"])


def test_what_no_font_has_is_drawn_as_boxes_and_told(tmp_path, monkeypatch):
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    assert not draw(tmp_path, ["好评", "差评"])
