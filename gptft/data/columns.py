"""From a user's columns to rows of messages or of text.

Conversations: a column of turns (`messages` with role and content, or ShareGPT's `conversations` with from and value),
or a pair of columns (prompt and completion, instruction [and input] and output, question and answer), each with a
`system` column if there is one. Text: the column `text`. `columns:` gives the user's names for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptft.data.cleaning import Messages
from gptft.recipe.schema import COLUMN_NAMES, Task

ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


class RowError(ValueError):
    """What is wrong with a row or its columns, without the place."""


@dataclass(frozen=True)
class Layout:
    """Which columns to read: `names` maps gptft's names to the row's."""

    names: dict[str, str]
    system: bool = False
    input: bool = False


_TURNS = [{"messages": "messages"}, {"conversations": "conversations"}]
_PAIRS = [
    {"prompt": "prompt", "completion": "completion"},
    {"prompt": "instruction", "completion": "output"},
    {"prompt": "question", "completion": "answer"},
]
_TEXT = [{"text": "text"}]
_ACCEPTED: dict[Task, list[dict[str, str]]] = {"dialogue": _TURNS + _PAIRS, "pretraining": _TEXT + _TURNS + _PAIRS}


def detect_layout(found: Sequence[str], columns: dict[str, str], task: Task) -> Layout:
    """Choose how to read rows that have the columns `found`; `columns` is the recipe's mapping.

    Raises:
        RowError: when no accepted columns are there; it shows the line to write in the recipe.
    """
    accepted = _ACCEPTED[task]
    if unknown := sorted(set(columns) - set(COLUMN_NAMES)):
        raise RowError(f"columns: {unknown[0]!r} is no column of gptft; known are {', '.join(COLUMN_NAMES)}")
    if absent := [f"{name}: {theirs}" for name, theirs in columns.items() if theirs not in found]:
        raise RowError(f"columns: {{{', '.join(absent)}}} names a column that is not there. {_found(found)}")
    for names in accepted:
        names = {name: columns.get(name, usual) for name, usual in names.items()}
        if set(columns) <= set(names) and set(names.values()) <= set(found):
            return Layout(names, "system" in found, names.get("prompt") == "instruction" and "input" in found)
    ways = " or ".join(" + ".join(names.values()) for names in accepted)
    if task == "dialogue":
        line = "columns: {messages: YOUR_COLUMN} or columns: {prompt: YOUR_COLUMN, completion: YOUR_COLUMN}"
    else:
        line = "columns: {text: YOUR_COLUMN}"
    raise RowError(
        f"no columns for the task {task}. {_found(found)} Accepted: {ways}. "
        f"If yours have other names, write under `data:` in the recipe: {line}"
    )


def _found(found: Sequence[str]) -> str:
    return f"Columns found: {', '.join(found) or 'none'}."


def read_row(row: dict[str, Any], layout: Layout) -> tuple[Messages | None, str | None]:
    """Give the row's messages or its text; the other is None.

    Raises:
        RowError: when a column is missing or its content is not what it should be.
    """
    names = layout.names
    if missing := [theirs for theirs in names.values() if theirs not in row]:
        raise RowError(f"the row has no {' and no '.join(map(repr, missing))}. {_found(list(row))}")
    if "text" in names:
        return None, _text(row[names["text"]], names["text"])
    if "prompt" in names:
        messages = _pair(row, layout)
    else:
        (column,) = names.values()
        messages = _turns(row[column], column)
    system = row.get("system") if layout.system else None
    if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    _check(messages)
    return messages, None


def _text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{column} must be text, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "text"}
    return kinds.get(type(value), f"the number {value}" if isinstance(value, (int, float)) else type(value).__name__)


def _pair(row: dict[str, Any], layout: Layout) -> Messages:
    prompt, completion = row[layout.names["prompt"]], row[layout.names["completion"]]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _turns(prompt, layout.names["prompt"]) + _turns(completion, layout.names["completion"])
    question = _text(prompt, layout.names["prompt"])
    if layout.input and (more := _text(row.get("input"), "input")).strip():
        question = f"{question}\n{more}"
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(completion, layout.names["completion"])},
    ]


def _turns(turns: Any, column: str) -> Messages:
    if not isinstance(turns, list):
        raise RowError(f"{column} must be a list of turns, found {_kind(turns)}")
    messages = []
    for number, turn in enumerate(turns, start=1):
        place = f"{column}, turn {number}"
        if not isinstance(turn, dict):
            raise RowError(f"{place} must be an object with role and content, found {_kind(turn)}")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise RowError(f"{place}: the role is {role!r}; expected one of {', '.join(ROLES)} (or human, gpt)")
        if not isinstance(content, str):
            raise RowError(f"{place}: the content must be text, found {_kind(content)}")
        messages.append({"role": role, "content": content})
    return messages


def _check(messages: Messages) -> None:
    roles = [message["role"] for message in messages]
    if not roles:
        raise RowError("the conversation has no turn")
    if "system" in roles[1:]:
        raise RowError(f"turn {roles.index('system', 1) + 1} is a system turn; only the first may be")
    if "assistant" not in roles:
        raise RowError("no turn of the assistant: there is nothing to learn")
