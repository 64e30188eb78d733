"""Templates of prompts and completions, with the names of columns in braces: `"Title: {title}"`."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptft.recipe.schema import Recipe


def template_fields(template: str) -> list[str]:
    """The columns that a template names, in its order.

    Raises:
        ValueError: a field that is not a plain name in braces.
    """
    names = []
    for _, name, specification, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not name.replace("_", "a").replace("-", "a").replace(" ", "a").isalnum() or specification or conversion:
            raise ValueError(f"{{{name}}} is no column's name; write {{{{ and }}}} for braces themselves")
        names.append(name)
    return list(dict.fromkeys(names))


def fill(template: str, values: dict[str, str]) -> str:
    """Put values in the places of a template's columns; a column may be called anything, also by a number."""
    parts = Formatter().parse(template)
    return "".join(literal + (values[name] if name is not None else "") for literal, name, _, _ in parts)


def closing_words(template: str) -> str:
    """What a template says after its last column."""
    words = ""
    for literal, name, _, _ in Formatter().parse(template):
        words = words + literal if name is None else ""  # an escaped brace ends a piece of the words
    return words


def prompt_template(recipe: Recipe) -> str:
    """The recipe's template of prompts, or the task's own."""
    own = "{text}" if recipe.task == "classification" else "{prompt}\n"
    return own if recipe.template.prompt is None else recipe.template.prompt
