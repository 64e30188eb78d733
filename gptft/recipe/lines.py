"""YAML to plain values, with the line that each key stands on.

Only what `safe_load` allows is read: text, numbers, booleans, null, lists and mappings. Scalars follow YAML 1.2, so
that `5e-5` is a number and `eval_strategy: no` is the word. Depth and the expansion of aliases are bounded.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

KeyPath = tuple[Any, ...]
"""Where a value stands in a recipe: ("training", "learning_rate"), ("data", "train", 0, "path")."""

MAX_VALUES = 10_000
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*(?=[.eE])(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own interface)

    def fetch_flow_collection_start(self, *args: Any) -> None:
        # Each open bracket is looked at again for each one after it.
        if self.flow_level > MAX_DEPTH:
            raise YamlProblem("lists and mappings are nested too deeply", self.line + 1)
        super().fetch_flow_collection_start(*args)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _first_characters) in _RESOLVERS.items():
    # The dumper keeps YAML 1.1's rules too: what either version would misread is written in quotes.
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), [*_first_characters, ""])


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
        try:
            self._loader = _Loader(text)
            root = self._loader.get_single_node()
            self.value: Any = None if root is None else self._read(root, ())
        except RecursionError:
            raise YamlProblem("lists and mappings are nested too deeply", 1) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, int(str(error.position))) + 1
            raise YamlProblem(f"not valid YAML: {str(error).splitlines()[0]}", line) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            hint = "check indentation (spaces, no tabs), quotes and brackets"
            raise YamlProblem(f"not valid YAML: {error.problem}; {hint}", mark.line + 1 if mark else 1) from None

    def _read(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > MAX_VALUES or len(path) > MAX_DEPTH:
            message = "lists, mappings and aliases expand to too much for a recipe"
            raise YamlProblem(message, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
            return [self._read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        return self._read_scalar(node, path)

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for value in [self._read(part, path) for part in reversed(parts)]:
                    merged.update(value if isinstance(value, dict) else {})
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlProblem("a key must be a word, found a list or mapping", line)
            key = self._read_scalar(key_node, path)
            if key in own:
                message = f"the key stands here a second time (first on line {self.lines[(*path, key)]}): keep one"
                self.problems.append(YamlProblem(message, line, (*path, key)))
                continue
            self.lines[(*path, key)] = line
            own[key] = self._read(value_node, (*path, key))
        return {**merged, **own}

    def _read_scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        try:
            if node.tag.removeprefix(_TAG) in ("str", "null", "bool", "int", "float"):
                return self._loader.construct_object(node)
        except (ValueError, KeyError):
            pass  # such as `!!int word`
        message = f"found `{node.value[:60]}` with the tag {node.tag!r}: write plain text or a number"
        self.problems.append(YamlProblem(message, node.start_mark.line + 1, path))
        return None


def to_yaml(value: Any) -> str:
    """Write plain values as YAML that `Document` and any other reader read back alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
