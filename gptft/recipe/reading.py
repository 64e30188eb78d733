"""A recipe while it is read: plain values, where each was written, and all that is wrong so far."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptft.errors import Problem, RecipeError
from gptft.recipe.lines import Document, KeyPath, YamlProblem

COMMAND_LINE = "command line"


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
        self._problems: list[tuple[int, Problem]] = []
        self.command_line: dict[KeyPath, str] = {}
        self.lines: dict[KeyPath, int] = {}
        self.data = self._read_file()
        for override in overrides:
            self._apply(override)

    @property
    def folder(self) -> Path:
        """The absolute folder of the file."""
        return self.file.absolute().parent

    def folders(self, path: KeyPath) -> list[Path]:
        """Where the relative path under this key starts: beside the recipe; from the command line, here first."""
        return [Path.cwd(), self.folder] if self._from_command_line(path) else [self.folder]

    def get(self, *path: Any) -> Any:
        """The value under a key; None where there is none, whatever stands in its place."""
        value: Any = self.data
        for part in path:
            inside = isinstance(value, dict) and part in value
            inside = inside or (isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value))
            if not inside:
                return None
            value = value[part]
        return value

    def report(self, path: KeyPath, message: str) -> None:
        """Note a problem with the key `path`."""
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)
        where = COMMAND_LINE if self._from_command_line(path) else f"{self.file}:{line}" if line else str(self.file)
        self._problems.append((line, Problem(where, dotted(path), message)))

    def has_problem(self, path: KeyPath) -> bool:
        """Whether something is already said about the key or what is below it."""
        key = dotted(path)
        return any(problem.key == key or problem.key.startswith(f"{key}.") for _, problem in self._problems)

    def raise_problems(self) -> None:
        """End the reading here if anything is wrong.

        Raises:
            RecipeError: with all problems, in the order of the file.
        """
        if self._problems:
            ordered = sorted(self._problems, key=lambda entry: (entry[1].where == COMMAND_LINE, entry[0]))
            raise RecipeError(list(dict.fromkeys(problem for _, problem in ordered)))

    def _from_command_line(self, path: KeyPath) -> bool:
        return any(path[:n] in self.command_line for n in range(1, len(path) + 1))

    def _fail(self, message: str, line: int = 0) -> RecipeError:
        return RecipeError([Problem(f"{self.file}:{line}" if line else str(self.file), "", message)])

    def _read_file(self) -> dict[str, Any]:
        try:
            document = Document(self.file.read_bytes().decode("utf-8-sig"))
        except FileNotFoundError:
            raise self._fail("no such file; `gptft recipes` lists the recipes that ship with gptft") from None
        except (OSError, ValueError) as error:
            reason = "not text in UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None)
            raise self._fail(f"cannot be read: {reason or error}; a recipe is a YAML file") from None
        except YamlProblem as error:
            raise self._fail(error.message, error.line) from None
        if document.value is None and not document.problems:
            raise self._fail("the file is empty; a recipe needs at least task, model and data")
        if not isinstance(document.value, dict):
            raise self._fail("found no `key: value` at the top; a recipe starts with task, model and data", 1)
        self.lines = document.lines
        for problem in document.problems:
            self._problems.append(
                (problem.line, Problem(f"{self.file}:{problem.line}", dotted(problem.path), problem.message))
            )
        return document.value

    def _apply(self, override: str) -> None:
        key, equals, text = override.partition("=")
        path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.strip().split("."))
        self.command_line[path] = text
        if not equals or not all(part != "" for part in path):
            return self.report(path, f"found {override!r}, expected section.key=value, as in training.seed=1")
        try:
            document = Document(text)
        except YamlProblem as error:
            return self.report(path, error.message)
        for problem in document.problems:
            self.report(path, problem.message)
        target: Any = self.data
        for depth, part in enumerate(path):
            parent = dotted(path[:depth])
            if isinstance(target, list):
                if not (isinstance(part, int) and part < len(target)):
                    return self.report(path, f"{parent} is a list of {len(target)}: use 0 to {len(target) - 1}")
            elif not isinstance(target, dict):
                return self.report(path, f"{parent} is one value, it has no key `{part}`: set it as a whole")
            elif target.get(part) is None:
                target[part] = {}
                self.command_line.setdefault(path[: depth + 1], "")
            if depth == len(path) - 1:
                target[part] = document.value
            target = target[part]

    def use_text(self, path: KeyPath) -> bool:
        """Take a value of the command line as text after all (name=2024), because text is what the key wants."""
        parent = self.get(*path[:-1])
        if path not in self.command_line or isinstance(parent[path[-1]], (dict, list)):
            return False
        parent[path[-1]] = self.command_line.pop(path)
        self.command_line[path] = parent[path[-1]]
        return True
