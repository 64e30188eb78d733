"""What is wrong with a value, in words: what was found, what was expected, what to write instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from gptft.recipe import fields, schema
from gptft.recipe.lines import KeyPath
from gptft.recipe.reading import Reading, dotted

_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "keys and values below it",
    "model_type": "keys and values below it",
    "model_attributes_type": "keys and values below it",
    "none_required": "null",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} of them",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "letters, digits, `.`, `_` and `-`, first a letter or digit",
    "invalid_key": "keys that are words",
}


def found(value: Any) -> str:
    """A value of a recipe as a user would say it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '...'}'"
    return "a list" if isinstance(value, list) else "keys and values" if isinstance(value, dict) else repr(value)


def report_errors(reading: Reading, error: ValidationError, prefix: KeyPath, keys: list[str]) -> None:
    """Report what pydantic found wrong below `prefix`; `keys` are those that stand directly there."""
    groups: dict[KeyPath, list[Any]] = defaultdict(list)
    for detail in error.errors(include_url=False):
        last_is_key = detail["type"] in ("missing", "extra_forbidden")
        groups[_locate(reading, prefix, detail["loc"], last_is_key)].append(detail)
    for path, details in groups.items():
        # Of the branches of a union, the one that got furthest says most.
        if any(other != path and other[: len(path)] == path and len(path) > len(prefix) for other in groups):
            continue
        kinds = {detail["type"] for detail in details}
        if "extra_forbidden" in kinds:
            report_unknown(reading, path, keys if path[:-1] == prefix else _keys_below(path[:-1]))
        elif kinds == {"missing"}:
            description = _description(path)
            reading.report(path, "is missing" + (f": {description}" if description else ""))
        else:
            reading.report(path, _mismatch(details))


def _mismatch(details: list[dict[str, Any]]) -> str:
    expected: list[str] = []
    for detail in details:
        words = _EXPECTED.get(detail["type"])
        expected.append(words.format(**detail.get("ctx", {})).removesuffix(".0") if words else str(detail["msg"]))
    value = details[0]["input"]
    if len(" or ".join(expected)) > 300:
        expected = ["one of the names that `gptft recipes schema` lists"]
    message = f"found {found(value)}, expected {' or '.join(dict.fromkeys(expected))}"
    literal = next((detail["ctx"]["expected"] for detail in details if detail["type"] == "literal_error"), "")
    near = nearest(str(value), [option.strip(" '") for option in literal.replace(" or ", ",").split(",")])
    if near and isinstance(value, str):
        message += f"; did you mean {' or '.join(repr(name) for name in near)}?"
    if "text" in expected and isinstance(value, (int, float)):
        message += f" (write it in quotes: '{found(value)}')"
    return message


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The name that is spelt almost like `word`, else those that have it as a part (batch_size, epochs)."""
    names = list(names)
    close = get_close_matches(word, names, 1, 0.75)
    parts = [name for name in names if f"_{word}_" in f"_{name}_" or name.startswith(word)] if len(word) > 2 else []
    return close or parts[:2] or get_close_matches(word, names, 1, cutoff)


def _locate(reading: Reading, prefix: KeyPath, location: tuple[Any, ...], last_is_key: bool) -> KeyPath:
    """The key that an error is about: pydantic's location without the names of union branches."""
    if prefix == () and location[:2] in (("data", "validation"), ("data", "test")):
        location = location[:2] + location[3:]
    path, value = list(prefix), reading.get(*prefix)
    for index, part in enumerate(location):
        if isinstance(value, dict) and (part in value or (last_is_key and index == len(location) - 1)):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _section(path: KeyPath) -> type[BaseModel] | None:
    """The model of schema.py that describes the section `path`."""
    names = [part for part in path if isinstance(part, str)]
    if names[:1] == ["data"] and names[1:] in (["train"], ["validation"], ["test"]):
        return schema.Source
    sections = {"": schema.Recipe, "model": schema.ModelSection, "adapter": schema.AdapterSection,
                "data": schema.DataSection, "data.cleaning": schema.CleaningSection,
                "evaluation": schema.EvaluationSection}  # fmt: skip
    return sections.get(".".join(names))


def _keys_below(path: KeyPath) -> list[str]:
    section = _section(path)
    return list(section.model_fields) if section else []


def _description(path: KeyPath) -> str:
    section = _section(path[:-1])
    field = section.model_fields.get(str(path[-1])) if section else None
    return " ".join((field.description or "").split()) if field else ""


def report_unknown(reading: Reading, path: KeyPath, keys: list[str]) -> None:
    """Report a key that does not exist where it stands, with where it does or the nearest that does."""
    key, here = str(path[-1]), dotted(path[:-1])
    for section, reasons in sorted(fields.MANAGED.items(), key=lambda item: item[0] != here):
        if key in reasons and (section == here or key not in keys):
            own = section == here or not any(key in names for names in _all_keys().values())
            if own:
                return reading.report(path, f"cannot be set in a recipe: {reasons[key]}")
    if key in fields.REMOVED:
        return reading.report(path, f"is no argument of transformers 5 any more: {fields.REMOVED[key]}")
    everywhere = _all_keys()
    homes = [section for section, names in everywhere.items() if key in names and section != here]
    near_here = get_close_matches(key, keys, 1, 0.85) if homes else nearest(key, keys)
    hints = [f"did you mean {' or '.join(f'`{name}`' for name in near_here)}?"] if near_here else []
    if homes:
        places = " or ".join(f"in `{section}:`" if section else "at the top of the recipe" for section in homes)
        hints.append(f"`{key}` belongs {places}")
    elif not near_here:
        names = {f"{section}.{name}".lstrip("."): name for section, found in everywhere.items() for name in found}
        near = nearest(key, sorted(set(names.values())), 0.8)
        hints += [f"did you mean `{full}`?" for full, name in names.items() if near and name == near[0]][:1]
        expected = ", ".join(keys) if len(keys) <= 12 else "one of the keys that `gptft recipes schema` lists"
        hints = hints or [f"expected {expected}"]
    reading.report(path, "unknown key; " + "; ".join(hints))


def _all_keys() -> dict[str, list[str]]:
    plain = {name: _keys_below(tuple(name.split(".")) if name else ()) for name in
             ("", "model", "adapter", "data", "data.cleaning", "evaluation")}  # fmt: skip
    kinds = {"training": "", "evaluation.generation": "", "model.config": "", "adapter": "lora"}
    foreign = {section: list(fields.fields_of(section, kind) or {}) for section, kind in kinds.items()}
    return {**plain, **foreign, "adapter": ["type", *foreign["adapter"]]}
