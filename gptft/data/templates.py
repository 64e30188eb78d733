"""Rows of the tasks completion and classification: columns to a prompt by a template, with what should follow it.

A prepared row has the prompt as `text` and what should follow as `targets`: the completions (several are all right
answers), the labels, or a number written as text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from gptft.data.columns import Layout, RowError, kind_of
from gptft.recipe.schema import ClassificationSection, Recipe
from gptft.recipe.templates import fill, prompt_template, template_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

LABEL_SEPARATOR = "|"
"""Between the labels of a row where they come as text, as in CSV."""
LIST_SEPARATOR = "; "
"""Between the items of a list that a prompt's template takes in."""

_PAIRS = [("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("source", "target")]
_LABELLED = [("text", "label"), ("text", "labels"), ("text", "category"), ("text", "intent"), ("sentence", "label")]


@dataclass(frozen=True)
class TemplateReader:
    """Reads rows as a recipe's template and labels say."""

    prompt: str
    completion: str
    columns: dict[str, str]
    labels: ClassificationSection | None
    """None for the task completion."""

    @staticmethod
    def of(recipe: Recipe, columns: dict[str, str]) -> TemplateReader:
        """The reader of a recipe, with the names that a source has for columns."""
        labels = recipe.classification if recipe.task == "classification" else None
        return TemplateReader(prompt_template(recipe), recipe.template.completion or "{completion}", columns, labels)

    def layout(self, found: Iterable[str]) -> Layout:
        """Choose which columns to read: name in the template -> the row's column.

        Raises:
            RowError: a column is missing; it shows those there are and the line to write in the recipe.
        """
        found = list(found)
        there = f"Columns found: {', '.join(found) or 'none'}."
        if absent := [f"{name}: {theirs}" for name, theirs in self.columns.items() if theirs not in found]:
            raise RowError(f"`columns:` says {', '.join(absent)}, but there is no such column. {there}")
        prompt, target = template_fields(self.prompt), self._target_fields()
        usual = [{name: name for name in [*prompt, *target]}]
        for first, second in _PAIRS if self.labels is None else _LABELLED:
            names = {"prompt": first, "completion": second, "text": first, "label": second}
            usual.append({name: names.get(name, name) for name in [*prompt, *target]})
        for candidate in usual:
            layout = {name: self.columns.get(name, column) for name, column in candidate.items()}
            if set(layout.values()) <= set(found):
                return layout
        missing = [name for name in usual[0] if self.columns.get(name, name) not in found]
        raise RowError(
            f"there is no column {' and no '.join(missing)}. {there} Say under `data:` in the recipe which columns "
            f"these are, as in columns: {{{', '.join(f'{name}: YOUR_COLUMN' for name in missing)}}}, or name yours in "
            "`template:`"
        )

    def read(self, row: dict[str, Any], layout: Layout) -> tuple[str, list[str]]:
        """Give a row's prompt and its targets.

        Raises:
            RowError: a column is missing, or its content is not what it should be.
        """
        if missing := [column for column in layout.values() if column not in row]:
            raise RowError(f"the row has no {' and no '.join(missing)}; it has {', '.join(row) or 'no column'}")
        values = {name: row[layout[name]] for name in layout}
        prompt = render(self.prompt, row, layout)
        if self.labels is not None:
            return prompt, self._labels(values["label"], layout["label"])
        # A list is several right answers; where columns are joined, each list item goes with the others as they are.
        joined = {name: LIST_SEPARATOR.join(_texts(values[name], layout[name])) for name in self._target_fields()}
        several = [name for name in joined if isinstance(values[name], list)]
        if not several:
            return prompt, [fill(self.completion, joined)]
        if len(several) > 1:
            raise RowError(f"{' and '.join(several)} are lists; a completion can be made of one list of answers")
        # Of an empty list, nothing is to be written.
        answers = _texts(values[several[0]], layout[several[0]]) or [""]
        return prompt, [fill(self.completion, {**joined, several[0]: answer}) for answer in answers]

    def _target_fields(self) -> list[str]:
        return template_fields(self.completion) if self.labels is None else ["label"]

    def _labels(self, value: Any, column: str) -> list[str]:
        assert self.labels is not None
        kind = self.labels.problem_type
        if kind == "regression":
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if isinstance(value, bool) or not math.isfinite(number):
                raise RowError(f"{column} must be a number for problem_type: regression, found {kind_of(value)}")
            return [repr(number)]
        if kind == "multi_label_classification":
            if isinstance(value, str):
                value = [part.strip() for part in value.split(LABEL_SEPARATOR) if part.strip()]
            elif not isinstance(value, list):
                value = [] if value is None else [value]
            return list(dict.fromkeys(self._label(item, column) for item in value))
        return [self._label(value, column)]

    def _label(self, value: Any, column: str) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            raise RowError(f"{column} must be a label (text or a whole number), found {kind_of(value)}")
        label = str(value).strip()
        assert self.labels is not None
        known = self.labels.labels
        if known is None or label in known or label == self.labels.out_of_scope:
            return label
        if label.isdecimal() and int(label) < len(known):
            return known[int(label)]
        near = get_close_matches(label, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"they are {', '.join(known[:8])}{' ...' * (len(known) > 8)}"
        raise RowError(f"{column} is '{label}', which is none of `classification.labels`; {hint}")


def render(template: str, row: dict[str, Any], columns: dict[str, str]) -> str:
    """Fill a template from a row, whose columns may have other names (`columns`: the template's name -> the row's).

    Raises:
        RowError: a column is missing, or holds what is no text.
    """
    values = {}
    for name in template_fields(template):
        column = columns.get(name, name)
        if column not in row:
            raise RowError(f"the row has no column {column}; it has {', '.join(row) or 'none'}")
        values[name] = LIST_SEPARATOR.join(_texts(row[column], column))
    return fill(template, values)


def _texts(value: Any, column: str) -> list[str]:
    """A value as texts: a list's items, else one."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, column)]
    if isinstance(value, (dict, bytes)):
        raise RowError(f"{column} must be text, a number or a list of these, found {kind_of(value)}")
    # NaN, which differs from itself, is how pandas writes that there is nothing.
    return ["" if value is None or value != value else str(value)]
