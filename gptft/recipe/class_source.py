"""Classes of installed packages as their source text tells them, without importing: that would cost seconds."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class FieldSpec:
    """One field of a class: the type of its values in YAML (Any: not a plain one), default if plain, help text."""

    type: Any
    default: Any = None
    description: str = ""


@cache
def package_folder(package: str) -> Path:
    """Where a package that gptft depends on is installed."""
    specification = importlib.util.find_spec(package)
    assert specification and specification.origin
    return Path(specification.origin).parent


@cache
def find_class(file: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """A class by name, in `file` or where that imports it from in its own package: its file and its definition."""
    for statement in _statements(file) if file.exists() else []:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return file, statement
        if isinstance(statement, ast.ImportFrom) and any(alias.name == name for alias in statement.names):
            module = (statement.module or "").replace(".", "/")
            if statement.level:
                target = file.parents[statement.level - 1] / module
            else:
                package = module.partition("/")[0]
                target = next((folder.parent / module for folder in file.parents if folder.name == package), Path())
            return find_class(target / "__init__.py" if target.is_dir() else target.with_suffix(".py"), name)
    return None


@cache
def _statements(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


@cache
def annotated_fields(file: Path, name: str) -> dict[str, FieldSpec]:
    """The annotated fields of a class and of its bases."""
    located = find_class(file, name)
    if located is None:
        return {}
    file, definition = located
    fields: dict[str, FieldSpec] = {}
    for base in definition.bases:
        if isinstance(base, ast.Name):
            fields.update(annotated_fields(file, base.id))
    help_texts = documented(definition)
    for statement in definition.body:
        if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.dump(statement.annotation):
            continue
        key = ast.unparse(statement.target)
        default, kind = statement.value, to_type(statement.annotation, file)
        description = help_texts.get(key, ("", ""))[1]
        if isinstance(default, ast.Call):
            arguments = {keyword.arg: keyword.value for keyword in default.keywords}
            if plain(arguments.get("init")) is False:
                continue
            default, metadata = arguments.get("default"), arguments.get("metadata")
            if isinstance(metadata, ast.Dict):
                texts = {plain(k): plain(v) for k, v in zip(metadata.keys, metadata.values, strict=True)}
                description = texts.get("help") or description
                if choices := texts.get("choices"):
                    kind = Literal[(*choices, *([] if plain(default) else [None]))]  # type: ignore[valid-type]
        if not key.startswith("_"):
            fields[key] = FieldSpec(kind, plain(default), description)
    return fields


@cache
def popped_fields(file: Path, name: str) -> dict[str, FieldSpec]:
    """The fields that a class takes from its constructor's `kwargs`, with types and help from its docstring."""
    located = find_class(file, name)
    if located is None:
        return {}
    file, definition = located
    described = documented(definition)
    fields: dict[str, FieldSpec] = {}
    for key in re.findall(r"self\.([a-z]\w*) = kwargs\.pop\(", ast.unparse(definition)):
        kind, description = described.get(key, ("Any", ""))
        try:
            fields[key] = FieldSpec(to_type(ast.parse(f"Optional[{kind}]", mode="eval").body, file), None, description)
        except SyntaxError:
            fields[key] = FieldSpec(Any, None, description)
    return fields


def documented(definition: ast.ClassDef) -> dict[str, tuple[str, str]]:
    """Name -> (type, text) of each `name (`type`, ...):` entry of a class's docstring."""
    entries: dict[str, tuple[str, str]] = {}
    text = (ast.get_docstring(definition) or "") + "\n"
    for match in re.finditer(r"^( *)(\w+) \((.+)\)+:[ ]*\n((?:\1 +.*\n|\n(?=\1 ))*)", text, re.MULTILINE):
        kind = match[3].split(", *optional*")[0].split(", optional")[0].replace("`", "").replace(" or ", " | ")
        entries[match[2]] = (kind, " ".join(match[4].split()))
    return entries


def plain(node: ast.expr | None) -> Any:
    """The value of a literal; None for anything else."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


_TYPES = {"bool": bool, "str": str, "int": int, "float": float, "None": None, "dict": dict, "Dict": dict,
          "list": list, "List": list, "Sequence": list}  # fmt: skip


def to_type(node: ast.expr, file: Path) -> Any:
    """The Python type that an annotation in `file` means for YAML values; Any where it is not a plain one."""
    match node:
        case ast.Constant(value=str(text)):
            return to_type(ast.parse(text, mode="eval").body, file)
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name):
            return _TYPES[name] if name in _TYPES else _enumeration(name, file)
        case ast.BinOp(left=left, right=right):
            return _union([to_type(left, file), to_type(right, file)])
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Literal":
                values = tuple(plain(part) for part in parts)
                # PEFT writes families of names as `name_[number of iterations]`: then any text is let through.
                return str if any("[" in str(value) for value in values) else Literal[values]
            if name in ("Optional", "Union"):
                return _union([*(to_type(part, file) for part in parts), *([None] if name == "Optional" else [])])
            kind = _TYPES.get(name, Any)
            return list[to_type(parts[0], file)] if kind is list else kind
    return Any


def _enumeration(name: str, file: Path) -> Any:
    """`Literal` of the values of an enumeration of strings; Any for another class."""
    located = find_class(file, name)
    if located is None or "ExplicitEnum" not in {getattr(base, "id", "") for base in located[1].bases}:
        return Any
    values = tuple(plain(item.value) for item in located[1].body if isinstance(item, ast.Assign))
    return Literal[values]


def _union(parts: list[Any]) -> Any:
    # Flat, because `typing` remembers a union in a union by its members alone and may give them in another order.
    flat = [inner for part in parts for inner in (get_args(part) if get_origin(part) is Union else (part,))]
    # A number may be whole; and text that is not among the choices is a slip.
    dropped = {int} if float in flat else set()
    dropped |= {str} if any(get_origin(part) is Literal for part in flat) else set()
    return Any if Any in flat else Union[tuple(part for part in flat if part not in dropped)]  # noqa: UP007
