"""Which labels are taken for which: scores by class, the confusion matrix, and its picture."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.files import write_bytes_atomically

if TYPE_CHECKING:
    from gptft.metrics.predictions import Predictions

FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")
"""Tried in this order for each character, so that Chinese labels show where a font for them is installed."""


def class_report(predictions: Predictions) -> dict[str, Any]:
    """Precision, recall, F1 and rows of each class, as scikit-learn's `classification_report` has them.

    Where rows have one label, the confusion matrix too: `matrix[i][j]` rows with label i were given label j.
    """
    from sklearn.metrics import classification_report as scikit_report
    from sklearn.metrics import confusion_matrix
    from sklearn.preprocessing import MultiLabelBinarizer

    # Annotated as text, but 0 is what scikit-learn takes.
    options: Any = {"output_dict": True, "zero_division": 0}
    several = isinstance(predictions.predictions[0], list)
    true = predictions.references if several else [row[0] for row in predictions.references]
    answered = predictions.predictions
    if not several:
        labels = sorted({*true, *answered})
        report: Any = scikit_report(true, answered, labels=labels, **options)
        matrix = confusion_matrix(true, answered, labels=labels).tolist()
        return {
            "classes": {label: _plain(report[label]) for label in labels},
            "confusion_matrix": {"labels": labels, "matrix": matrix},
        }
    binarizer = MultiLabelBinarizer().fit([*true, *answered])
    names = list(binarizer.classes_)
    binary = [binarizer.transform(rows) for rows in (true, answered)]
    report = scikit_report(*binary, target_names=names, **options)
    return {"classes": {label: _plain(report[label]) for label in names}}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "precision": float(row["precision"]),
        "recall": float(row["recall"]),
        "f1": float(row["f1-score"]),
        "rows": int(row["support"]),
    }


def worst_confusions(labels: list[str], matrix: list[list[int]], count: int = 5) -> list[tuple[str, str, int]]:
    """The pairs (right label, given label, rows) that are mistaken most often."""
    pairs = [
        (labels[i], labels[j], rows) for i, line in enumerate(matrix) for j, rows in enumerate(line) if i != j and rows
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:count]


def save_confusion_matrix(file: Path, labels: list[str], matrix: list[list[int]]) -> bool:
    """Draw the matrix as a PNG: rows are the right labels, columns those given, shades the share of a row.

    Returns:
        Whether a font is installed for every label; characters without one are drawn as boxes.
    """
    from matplotlib import font_manager, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    installed = set(font_manager.get_font_names())
    size = max(4.0, 0.32 * len(labels) + 2.5)
    fonts: Any = {"font.family": [font for font in FONTS if font in installed]}
    with rc_context(fonts), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing from font")
        figure = Figure(figsize=(size, size), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        shares = [[cell / max(sum(line), 1) for cell in line] for line in matrix]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_xlabel("given")
        axes.set_ylabel("right")
        axes.set_title(f"{sum(map(sum, matrix)):,} rows")
        for i, line in enumerate(matrix):
            for j, cell in enumerate(line):
                if cell:
                    colour = "white" if shares[i][j] > 0.5 else "black"
                    axes.text(j, i, str(cell), ha="center", va="center", fontsize=7, color=colour)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
    write_bytes_atomically(file, picture.getvalue())
    return not any("missing from font" in str(warning.message) for warning in caught)
