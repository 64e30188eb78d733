"""A recipe while it is read: plain values, where each was written, and all that is wrong so far."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptft.errors import Problem, RecipeError
from gptft.recipe.lines import Document, KeyPath, YamlProblem

COMMAND_LINE = "command line"
LARGEST_RECIPE = 2**18


def dotted(path: KeyPath) -> str:
    """A key as users write it: `data.train.0.path`."""
    return ".".join(str(part) for part in path)


class Reading:
    """The values of a recipe file under its overrides."""

    def __init__(self, file: Path, overrides: Iterable[str]) -> None:
        """Read `file` and apply `overrides`.

        Raises:
            RecipeError: when there is no mapping to work on; later problems are collected by `report`.
        """
        self.file = file
        self.folder = file.absolute().parent
        self._problems: list[tuple[int, Problem]] = []
        self._overrides: dict[KeyPath, str] = {}
        document = self._read_file()
        self.data: dict[str, Any] = document.value
        self.lines = document.lines
        for problem in document.problems:
            self._report_at(problem.line, problem.path, problem.message)
        for override in overrides:
            self._apply(override)

    def folders(self, path: KeyPath) -> list[Path]:
        """Where the relative path under this key starts: beside the recipe; from the command line, here first."""
        return [Path.cwd(), self.folder] if self._overridden(path) else [self.folder]

    def get(self, *path: Any) -> Any:
        """The value under a key; None where there is none, whatever stands in its place."""
        value: Any = self.data
        for part in path:
            if isinstance(value, list):
                value = dict(enumerate(value))
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value

    def put(self, path: KeyPath, value: Any) -> None:
        """Replace the value of a key that is there."""
        self.get(*path[:-1])[path[-1]] = value

    def use_text(self, path: KeyPath) -> bool:
        """Take a value of the command line as text after all (name=2024); False when it is none, or was text."""
        text = self._overrides.get(path)
        if text is None or self.get(*path) == text:
            return False
        self.put(path, text)
        return True

    def report(self, path: KeyPath, message: str) -> None:
        """Note a problem with the key `path`."""
        self._report_at(next((self.lines[p] for p in _prefixes(path) if p in self.lines), 0), path, message)

    @property
    def problems(self) -> set[tuple[str, str]]:
        """What is wrong so far, as (key, message)."""
        return {(problem.key, problem.message) for _, problem in self._problems}

    def raise_problems(self) -> None:
        """End the reading here if anything is wrong.

        Raises:
            RecipeError: with all problems, in the order of the file.
        """
        if self._problems:
            ordered = sorted(self._problems, key=lambda entry: (entry[1].where == COMMAND_LINE, entry[0]))
            raise RecipeError(list(dict.fromkeys(problem for _, problem in ordered)))

    def _report_at(self, line: int, path: KeyPath, message: str) -> None:
        where = COMMAND_LINE if self._overridden(path) else f"{self.file}:{line}" if line else str(self.file)
        self._problems.append((line, Problem(where, dotted(path), message)))

    def _overridden(self, path: KeyPath) -> bool:
        return any(prefix in self._overrides for prefix in _prefixes(path))

    def _read_file(self) -> Document:
        line = 0
        try:
            with self.file.open("rb") as file:
                content = file.read(LARGEST_RECIPE + 1)
            if len(content) > LARGEST_RECIPE:
                raise ValueError(f"it is larger than {LARGEST_RECIPE:,} bytes, more than any recipe")
            document = Document(content.decode("utf-8-sig"))
            if isinstance(document.value, dict):
                return document
            message = "found no `key: value` at the top; a recipe has at least task, model and data"
        except FileNotFoundError:
            message = "no such file; `gptft recipes` lists the recipes that ship with gptft"
        except UnicodeDecodeError:
            message = "not text in UTF-8; a recipe is a YAML file"
        except (OSError, ValueError) as error:
            message = f"cannot be read: {error}"
        except YamlProblem as error:
            message, line = error.message, error.line
        self._report_at(line, (), message)
        raise RecipeError([problem for _, problem in self._problems]) from None

    def _apply(self, override: str) -> None:
        key, equals, text = override.partition("=")
        path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.strip().split("."))
        self._overrides[path] = text
        if not equals or "" in path:
            return self.report(path, f"found {override!r}, expected section.key=value, as in training.seed=1")
        try:
            document = Document(text)
        except YamlProblem as error:
            return self.report(path, error.message)
        for problem in document.problems:
            self.report(path, problem.message)
        target: Any = self.data
        for depth, part in enumerate(path):
            if isinstance(target, dict):
                if target.get(part) is None:
                    target[part] = {}
                    self._overrides.setdefault(path[: depth + 1], "")
            elif not isinstance(target, list) or part not in range(len(target)):
                return self.report(path, f"{dotted(path[:depth])} has nothing called `{part}`: set it as a whole")
            if depth == len(path) - 1:
                target[part] = document.value
            target = target[part]


def _prefixes(path: KeyPath) -> list[KeyPath]:
    return [path[:length] for length in range(len(path), 0, -1)]
