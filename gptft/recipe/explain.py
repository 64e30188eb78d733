"""What is wrong with a value or a key, in words: what was found, what was expected, what to write instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from gptft.recipe import fields, schema
from gptft.recipe.lines import KeyPath
from gptft.recipe.reading import Reading, dotted

_SECTIONS: dict[str, type[BaseModel]] = {
    "": schema.Recipe,
    "model": schema.ModelSection,
    "adapter": schema.AdapterSection,
    "data": schema.DataSection,
    "data.cleaning": schema.CleaningSection,
    "template": schema.TemplateSection,
    "classification": schema.ClassificationSection,
    "evaluation": schema.EvaluationSection,
    "sweep": schema.SweepSection,
}
_SOURCES = ("data.train", "data.validation", "data.test")
_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "keys and values below it",
    "model_type": "keys and values below it",
    "none_required": "null",
}
"""Words for pydantic's kinds of error where its own are a programmer's."""


def found(value: Any) -> str:
    """A value of a recipe as a user would say it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '...'}'"
    return "a list" if isinstance(value, list) else "keys and values" if isinstance(value, dict) else repr(value)


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The name that is spelt almost like `word`, else those that have it as a part (batch_size, epochs)."""
    names = list(names)
    close = get_close_matches(word, names, 1, 0.75)
    parts = [name for name in names if f"_{word}_" in f"_{name}_" or name.startswith(word)] if len(word) > 2 else []
    return close or parts[:2] or get_close_matches(word, names, 1, cutoff)


def report_errors(reading: Reading, error: ValidationError, prefix: KeyPath = ()) -> None:
    """Report what pydantic found wrong below `prefix`."""
    groups: dict[KeyPath, list[Any]] = defaultdict(list)
    for detail in error.errors(include_url=False):
        groups[_locate(reading, prefix, detail)].append(detail)
    # A misspelt key is one mistake, although the right one is then missing.
    unknown = [path for path, details in groups.items() if details[0]["type"] == "extra_forbidden"]
    misspelt = {(*path[:-1], near) for path in unknown for near in nearest(str(path[-1]), keys_of(path[:-1]))}
    for path, details in groups.items():
        # Of the branches of a union, the one that got furthest says most.
        if any(other != path and other[: len(path)] == path and len(path) > len(prefix) for other in groups):
            continue
        kinds = {detail["type"] for detail in details}
        if "extra_forbidden" in kinds:
            report_unknown(reading, path)
        elif kinds != {"missing"}:
            reading.report(path, _mismatch(details))
        elif path not in misspelt:
            reading.report(path, f"is missing: {keys_of(path[:-1]).get(path[-1], '')}")


def _locate(reading: Reading, prefix: KeyPath, detail: Any) -> KeyPath:
    """The key that an error is about: pydantic's location without the names of union branches."""
    path, location = prefix, detail["loc"]
    for part in location:
        value = reading.get(*path)
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            path = (*path, part)
    return (*path, location[-1]) if detail["type"] == "missing" else path


def _mismatch(details: list[Any]) -> str:
    value = details[0]["input"]
    expected = [_EXPECTED.get(detail["type"], detail["msg"].removeprefix("Input should be ")) for detail in details]
    choices = " or ".join(dict.fromkeys(map(str, expected)))
    if " should " in choices:
        return f"found {found(value)}: {choices}"
    message = f"found {found(value)}, expected {choices if len(choices) <= 300 else 'another name'}"
    if "text" in expected and isinstance(value, (int, float)):
        message += f" (write it in quotes: '{found(value)}')"
    names = choices.replace(" or ", ",").replace(" ", "").replace("'", "").split(",")
    if isinstance(value, str) and "'" in choices and (near := nearest(value, names)):
        message += f"; did you mean {' or '.join(map(repr, near))}?"
    return message


@cache
def keys_of(path: KeyPath, adapter: str = "lora") -> dict[str, str]:
    """The keys that the section at `path` may have, with what each means."""
    section = dotted(tuple(part for part in path if isinstance(part, str)))
    model = schema.Source if section in _SOURCES else _SECTIONS.get(section)
    model = schema.Range if section.startswith("sweep.ranges.") else model
    own = model.model_fields if model else {}
    keys = {name: " ".join((field.description or "").split()) for name, field in own.items()}
    if section in fields.MANAGED:
        keys |= {name: spec.description for name, spec in fields.fields_of(section, adapter).items()}
    return keys


def report_unknown(reading: Reading, path: KeyPath) -> None:
    """Report a key that does not exist where it stands, with where it does or the nearest that does."""
    key, here = str(path[-1]), dotted(path[:-1])
    adapter = str(reading.get("adapter", "type"))
    keys = keys_of(path[:-1], adapter if adapter in fields.adapter_types() else "lora")
    everywhere = {name: keys_of(tuple(filter(None, name.split(".")))) for name in (*_SECTIONS, *fields.MANAGED)}
    homes = [f"in `{name}:`" if name else "at the top" for name, names in everywhere.items() if key in names]
    managed = {name: reason for reasons in fields.MANAGED.values() for name, reason in reasons.items()}
    managed |= fields.MANAGED.get(here, {})
    if key in fields.MANAGED.get(here, {}) or (key in managed and not homes):
        message = f"cannot be set in a recipe: {managed[key]}"
    elif key in fields.REMOVED:
        message = f"is no argument of transformers 5 any more: {fields.REMOVED[key]}"
    elif homes:
        message = f"unknown key; `{key}` belongs {' or '.join(homes)}"
    elif near := nearest(key, keys):
        message = f"unknown key; did you mean {' or '.join(f'`{name}`' for name in near)}?"
    elif near := [f"{name}.{full}" for name, names in everywhere.items() for full in nearest(key, names, 0.8)]:
        message = f"unknown key; did you mean `{near[0].removeprefix('.')}`?"
    else:
        expected = ", ".join(keys) if len(keys) <= 12 else "one of the keys that `gptft recipes schema` lists"
        message = f"unknown key; expected {expected}"
    reading.report(path, message)
