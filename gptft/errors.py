"""The errors a user may see: each says what is wrong, where, what was expected and what to do.

Exit codes: 2 for the user's mistakes (a typo, a missing file), 1 for failures (a full disk, a broken download).
The command line prints them without a traceback; `--debug` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass


class GptftError(Exception):
    """A failure that is reported in one message. `exit_code` is what the command ends with."""

    exit_code = 1


class UserError(GptftError):
    """A mistake in what the user gave: recipe, data, arguments."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe: `where` is `file:line` (or the command line), `key` the dotted key."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class RecipeError(UserError):
    """All that is wrong with a recipe, at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        super().__init__("\n".join([f"The recipe has {count}:", *(f"  {problem}" for problem in problems)]))
