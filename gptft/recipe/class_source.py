"""Classes of installed packages as their source text tells them, without importing: that would cost seconds."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gptft.errors import GptftError


@dataclass(frozen=True)
class FieldSpec:
    """One field of a class: its annotation (None: anything goes), default if plain, help text, choices."""

    annotation: ast.expr | None
    default: Any = None
    description: str = ""
    choices: tuple[str, ...] = ()


@cache
def package_folder(package: str) -> Path:
    """Where a package is installed.

    Raises:
        GptftError: when it is not.
    """
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.origin:
        raise GptftError(f"the package {package} is not installed: `pip install gptft` brings it")
    return Path(specification.origin).parent


@cache
def definitions(file: Path) -> dict[str, str | Path]:
    """The text of each class that a module defines, and the file of each name that it imports from its own package."""
    found: dict[str, str | Path] = {}
    text = file.read_text(encoding="utf-8")
    top = next(folder for folder in file.parents if not (folder.parent / "__init__.py").exists())
    imports = "\n".join(re.findall(r"^from [.\w]+ import (?:\([^)]*\)|.*)$", text, re.MULTILINE))
    for statement in ast.parse(imports).body:
        if isinstance(statement, ast.ImportFrom):
            parts = (statement.module or "").split(".")
            base = file.parents[statement.level - 1] if statement.level else top.parent
            if statement.level or parts[0] == top.name:
                target = base.joinpath(*filter(None, parts))
                module = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
                found.update({alias.asname or alias.name: module for alias in statement.names})
    for match in re.finditer(r"^class (\w+).*?(?=^[^\s)]|\Z)", text, re.MULTILINE | re.DOTALL):
        found[match[1]] = match[0]
    return found


@cache
def find_class(file: Path, name: str, hops: int = 4) -> tuple[Path, ast.ClassDef] | None:
    """A class by name, in `file` or where that imports it from: its file, and its definition up to the methods."""
    found = definitions(file).get(name) if file.exists() else None
    if isinstance(found, Path):
        return find_class(found, name, hops - 1) if hops else None
    # Fields come before methods: the rest of a class of 3,000 lines need not be parsed.
    statement = ast.parse(re.split(r"\n    (?:def |@)", found)[0]).body[0] if found else None
    return (file, statement) if isinstance(statement, ast.ClassDef) else None


@cache
def dataclass_fields(file: Path, name: str) -> dict[str, FieldSpec]:
    """The annotated fields of a class and of its bases."""
    located = find_class(file, name)
    if located is None:
        return {}
    file, definition = located
    fields: dict[str, FieldSpec] = {}
    for base in definition.bases:
        if isinstance(base, ast.Name):
            fields.update(dataclass_fields(file, base.id))
    help_texts = documented(ast.get_docstring(definition) or "")
    for statement in definition.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        key = statement.target.id
        if key.startswith("_") or "ClassVar" in ast.dump(statement.annotation):
            continue
        default: Any = statement.value
        metadata: dict[str, Any] = {}
        if isinstance(default, ast.Call):
            arguments = {keyword.arg: keyword.value for keyword in default.keywords}
            if plain(arguments.get("init")) is False:
                continue
            default = arguments.get("default")
            dictionary = arguments.get("metadata")
            if isinstance(dictionary, ast.Dict):
                metadata = {plain(k): plain(v) for k, v in zip(dictionary.keys, dictionary.values, strict=True)}
        description = metadata.get("help") or help_texts.get(key, ("", ""))[1]
        choices = tuple(metadata.get("choices") or ())
        fields[key] = FieldSpec(_resolved(statement.annotation, file), plain(default), description, choices)
    for statement in definition.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "attribute_map":
            for alias, original in (plain(statement.value) or {}).items():
                if original in fields:
                    fields[alias] = FieldSpec(fields[original].annotation, None, f"Another name of `{original}`.")
    return fields


def plain(node: ast.expr | None) -> Any:
    """The value of a literal; None for anything else."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _resolved(annotation: ast.expr, file: Path) -> ast.expr:
    """The annotation with names of string enumerations replaced by `Literal[...]`."""

    class Replace(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            located = find_class(file, node.id) if node.id[:1].isupper() else None
            bases = {getattr(base, "id", "") for base in located[1].bases} if located else set()
            if not located or "ExplicitEnum" not in bases:
                return node
            values = [plain(item.value) for item in located[1].body if isinstance(item, ast.Assign)]
            return ast.parse(f"Literal[{', '.join(repr(value) for value in values)}]", mode="eval").body

    return Replace().visit(annotation)


def documented(docstring: str) -> dict[str, tuple[str, str]]:
    """Name -> (type, text) of each `name (`type`, ...):` entry of a docstring."""
    entries: dict[str, tuple[str, str]] = {}
    for match in re.finditer(r"^( *)(\w+) \((.+)\)+:[ ]*\n((?:\1 +.*\n|\n(?=\1 ))*)", docstring + "\n", re.MULTILINE):
        kind = match[3].split(", *optional*")[0].split(", optional")[0].replace("`", "").replace(" or ", " | ")
        entries[match[2]] = (kind, " ".join(match[4].split()))
    return entries
