"""YAML to plain values, with the line that each key stands on.

Only what `safe_load` allows is read: text, numbers, booleans, null, lists and mappings. Scalars follow YAML 1.2, so
that `5e-5` is a number and `eval_strategy: no` is the word. Size, depth and the expansion of aliases are bounded.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

KeyPath = tuple[Any, ...]
"""Where a value stands in a recipe: ("training", "learning_rate"), ("data", "train", 0, "path")."""

MAX_CHARACTERS = 256_000
MAX_VALUES = 10_000
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_RESOLVERS = [
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<"), ["<"]),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own interface)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first_characters in _RESOLVERS:
    whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_TAG + _name, whole, _first_characters)
    # The dumper keeps YAML 1.1's rules too: what either version would misread is written in quotes.
    _Dumper.add_implicit_resolver(_TAG + _name, whole, _first_characters)


class YamlProblem(Exception):
    """Something that is not YAML, or not allowed in a recipe; `line` is 1-based."""

    def __init__(self, message: str, line: int, path: KeyPath = ()) -> None:
        super().__init__(message)
        self.message, self.line, self.path = message, line, path


class Document:
    """A YAML text as `value`; `lines` has the line of each key, `problems` what was left out while reading."""

    def __init__(self, text: str) -> None:
        """Read `text`.

        Raises:
            YamlProblem: when it is no YAML at all.
        """
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[YamlProblem] = []
        self._values = 0
        if len(text) > MAX_CHARACTERS:
            raise YamlProblem(f"found {len(text):,} characters; a recipe has at most {MAX_CHARACTERS:,}", 1)
        try:
            root = _Loader(text).get_single_node()
            self.value: Any = None if root is None else self._read(root, (), {})
        except RecursionError:
            raise YamlProblem("lists and mappings are nested too deeply", 1) from None
        except yaml.reader.ReaderError as error:
            position, character = int(str(error.position)), int(str(error.character))
            message = f"found the character U+{character:04X}, which YAML forbids"
            raise YamlProblem(message, text.count("\n", 0, position) + 1) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise YamlProblem(_explain(error), mark.line + 1 if mark else 1) from None

    def _read(self, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
        self._values += 1
        line = node.start_mark.line + 1
        if self._values > MAX_VALUES or len(path) > MAX_DEPTH:
            raise YamlProblem("lists, mappings and aliases expand to too much for a recipe", line)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self._read(item, (*path, index), lines))
            return items
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path, lines)
        return self._read_scalar(node, path, line)

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int]) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for part in reversed(parts):
                    value = self._read(part, path, lines)
                    merged.update(value if isinstance(value, dict) else {})
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(YamlProblem("a key must be a word, found a list or mapping", line, path))
                continue
            key = self._read_scalar(key_node, path, line)
            if key in own:
                message = f"the key stands here a second time (first on line {self.lines[(*path, key)]}): keep one"
                self.problems.append(YamlProblem(message, line, (*path, key)))
                continue
            self.lines[(*path, key)] = line
            own[key] = self._read(value_node, (*path, key), lines)
        return {**merged, **own}

    def _read_scalar(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, 16) if text.startswith("0x") else int(text.replace("_", ""))
            if kind == "float":
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            pass
        self.problems.append(
            YamlProblem(f"found `{text[:60]}` with the tag {node.tag!r}: write plain text or a number", line, path)
        )
        return None


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error)
    if "'\\t'" in problem:
        return "found a tab in the indentation: use spaces"
    if "single document" in str(error.context or ""):
        return "found a second document (`---`): a recipe is one"
    hints = {
        "mapping values are not allowed": "a value that contains `: ` must stand in quotes; or the indentation is off",
        "undefined alias": "the anchor that `*` refers to is not defined above",
        "could not find expected ':'": "the line above has no `:`, or its quote is not closed",
    }
    hint = next((text for start, text in hints.items() if start in problem), "check indentation, quotes and brackets")
    return f"not valid YAML: {problem} ({hint})"


def to_yaml(value: Any) -> str:
    """Write plain values as YAML that `Document` and any other reader read back alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
