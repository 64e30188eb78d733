"""The loss over a training, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from gptft.files import write_bytes_atomically
from gptft.runs.folder import Run


def save_loss_curve(run: Run, file: Path) -> bool:
    """Draw the losses of a run's log against the tokens trained on, as a PNG.

    Returns:
        Whether there was something to draw; nothing is written otherwise.
    """
    if file.is_file() and run.log_file.is_file() and file.stat().st_mtime > run.log_file.stat().st_mtime:
        return True
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = run.log()
    curves = {
        name: [(entry["tokens"], entry[key]) for entry in entries if isinstance(entry.get(key), (int, float))]
        for name, key in (("train", "loss"), ("validation", "eval_loss"))
    }
    if not any(curves.values()):
        return False
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None, markersize=3)
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    # Without the software's version, which would make another file of the same picture.
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_bytes_atomically(file, picture.getvalue())
    return True
