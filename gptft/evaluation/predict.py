"""Labels and completions for new texts, one by one or a file of them; the model folder alone says how."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptft.data.cleaning import clean_text
from gptft.data.columns import RowError
from gptft.data.readers import Bad, read_file
from gptft.data.templates import LABEL_SEPARATOR, render
from gptft.errors import UserError
from gptft.models.classes import NUMBER, SETTINGS
from gptft.models.loading import LoadedModel
from gptft.recipe.schema import CleaningSection
from gptft.recipe.templates import template_fields
from gptft.tasks import Classification, Completion, recorded_task


class Answer(NamedTuple):
    """What the model says of one text."""

    prediction: str | list[str] | float
    """A label, several, a number, or a completion."""
    confidence: float | None
    """Probability of the label (of several: that all are right); None for completions and numbers."""
    probabilities: dict[str, float]
    """Of each label; empty for completions and numbers."""


class Predictor:
    """A trained classifier or text-to-text model, ready for new rows.

    Args:
        loaded: a model that gptft trained with task classification or completion, or any sequence classifier.
        columns: the template's name of a column -> the rows', as in a recipe's `data.columns`.

    Raises:
        UserError: the model was trained for another task.
    """

    def __init__(self, loaded: LoadedModel, columns: dict[str, str] | None = None) -> None:
        self.loaded = loaded
        self.columns = columns or {}
        self.task = recorded_task(loaded.model.config)
        if not isinstance(self.task, (Classification, Completion)):
            raise UserError(
                f"The model was trained with task {self.task.name}: talk to it with `gptft chat --message`."
            )
        self.template: str = getattr(loaded.model.config, SETTINGS, {}).get("prompt", "{text}")

    def texts(self, texts: Sequence[str]) -> list[Answer]:
        """Answers to texts, each the one column that the template has.

        Raises:
            UserError: the template has several columns.
        """
        names = template_fields(self.template)
        if len(names) > 1:
            raise UserError(f"The model reads {len(names)} columns ({', '.join(names)}): give rows with --file.")
        return self.rows([{self.columns.get(names[0], names[0]): text} for text in texts])

    def rows(self, rows: Sequence[dict[str, Any]]) -> list[Answer]:
        """Answers to rows, in their order.

        Raises:
            UserError: a row lacks a column of the template.
        """
        prompts = []
        for number, row in enumerate(rows, start=1):
            try:
                # As the training rows were, so that the same text is the same tokens.
                prompts.append(clean_text(render(self.template, row, self.columns), CleaningSection())[0])
            except RowError as error:
                raise UserError(f"row {number}: {error}") from error
        if isinstance(self.task, Classification):
            return self._labels(self.task, prompts)
        assert isinstance(self.task, Completion)
        return self._completions(self.task, prompts)

    def _labels(self, task: Classification, prompts: list[str]) -> list[Answer]:
        from gptft.evaluation.predictions import label_logits

        classes = task.classes
        ids = task.encoder.prompts(self.loaded.tokenizer, prompts, self.loaded.positions)
        if empty := [number for number, row in enumerate(ids, start=1) if not row]:
            raise UserError(f"row {empty[0]} has no text.")
        answers = []
        for row in classes.probabilities(label_logits(self.loaded, classes, ids)).tolist():
            prediction, sure = classes.choose(row)
            named = {} if classes.problem_type == NUMBER else dict(zip(classes.names, row, strict=True))
            answers.append(Answer(prediction, None if classes.problem_type == NUMBER else sure, named))
        return answers

    def _completions(self, task: Completion, prompts: list[str]) -> list[Answer]:
        from gptft.models.generation import generate_answers, generation_settings, prompt_positions
        from gptft.models.precision import resolve_dtype

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        settings = generation_settings(model, {})
        ids = task.encoder.prompts(tokenizer, prompts, prompt_positions(model, settings))
        said = generate_answers(model, tokenizer, ids, settings, resolve_dtype())
        return [Answer(answer.text, None, {}) for answer in said]


def predict_file(predictor: Predictor, file: Path, as_csv: bool) -> str:
    """The rows of a CSV, JSONL or Parquet file with `prediction`, and `confidence` of labels, added to each.

    Raises:
        UserError: the file is missing or empty, or a row of it cannot be read.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    rows: list[dict[str, Any]] = []
    for number, row in read_file(file):
        if isinstance(row, Bad):
            raise UserError(f"{file}:{number}: {row}")
        rows.append(row)
    if not rows:
        raise UserError(f"{file}: the file is empty, or has no row")
    answered = []
    for row, answer in zip(rows, predictor.rows(rows), strict=True):
        sure = {} if answer.confidence is None else {"confidence": round(answer.confidence, 6)}
        answered.append({**row, "prediction": answer.prediction, **sure})
    if not as_csv:
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in answered)
    written = io.StringIO()
    writer = csv.DictWriter(written, list(dict.fromkeys(name for row in answered for name in row)), lineterminator="\n")
    writer.writeheader()
    for row in answered:
        writer.writerow(
            {key: LABEL_SEPARATOR.join(value) if isinstance(value, list) else value for key, value in row.items()}
        )
    return written.getvalue()
