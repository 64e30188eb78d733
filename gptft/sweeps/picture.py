"""What a sweep found, as a picture: its history, what mattered, and the score over each key."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from gptft.files import write_bytes_atomically


def save_picture(study: optuna.Study, metric: str, file: Path) -> None:
    """Draw the scores by trial, the importance of each key (PED-ANOVA), and the scores by value of each key, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = study.get_trials(states=(TrialState.COMPLETE,))
    if not done:
        return
    keys = list(done[0].user_attrs["values"])
    figure = Figure(figsize=(11, 3.2 * math.ceil((len(keys) + 2) / 3)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Any] = list(figure.subplots(math.ceil((len(keys) + 2) / 3), 3, squeeze=False).flat)
    numbers, scores = [trial.number + 1 for trial in done], [trial.value for trial in done]
    better = min if study.direction is optuna.study.StudyDirection.MINIMIZE else max
    axes[0].plot(numbers, [better(scores[: end + 1]) for end in range(len(scores))], color="C1", label="best so far")
    axes[0].plot(numbers, scores, "o", label=metric)
    axes[0].set_xlabel(f"trial ({len(study.trials) - len(done)} of {len(study.trials)} stopped early or failed)")
    axes[0].legend(frameon=False)
    importances = get_param_importances(study) if len(done) > 1 else {}
    axes[1].barh(list(importances), list(importances.values()))
    axes[1].invert_yaxis()
    axes[1].set_xlabel("share of importance" if importances else "importance: not known from one trial")
    for axis, key in zip(axes[2:], keys, strict=False):
        values = [trial.user_attrs["values"][key] for trial in done]
        words = not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        axis.plot([str(value) for value in values] if words else values, scores, "o")
        if getattr(done[0].distributions[key], "log", False):
            axis.set_xscale("log")
        axis.set_xlabel(key)
        axis.set_ylabel(metric)
    for axis in axes[len(keys) + 2 :]:
        axis.remove()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_bytes_atomically(file, picture.getvalue())
