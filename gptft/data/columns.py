"""From a user's columns to messages or text.

Messages come from a column of turns (`messages` with role and content, or ShareGPT's `conversations` with from and
value) or from a pair of columns (prompt and completion, instruction [and input] and output, question and answer), with
the text of a `system` column before them if there is one. Text comes from the column `text`. `columns:` in the recipe
gives the user's names for these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptft.data.cleaning import Messages
from gptft.recipe.schema import Task

Layout = dict[str, str]
"""Which columns to read: gptft's name -> the row's."""

ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
_MESSAGES: list[Layout] = [
    {"messages": "messages"},
    {"conversations": "conversations"},
    {"prompt": "prompt", "completion": "completion"},
    {"prompt": "instruction", "completion": "output"},
    {"prompt": "question", "completion": "answer"},
]
_ACCEPTED: dict[str, list[Layout]] = {"dialogue": _MESSAGES, "pretraining": [{"text": "text"}, *_MESSAGES]}
_LINES: dict[str, str] = {
    "dialogue": "columns: {prompt: YOUR_COLUMN, completion: YOUR_COLUMN} (or {messages: YOUR_COLUMN})",
    "pretraining": "columns: {text: YOUR_COLUMN}",
}


class RowError(ValueError):
    """What is wrong with a row or its columns, without the place."""


def detect_layout(found: Iterable[str], columns: dict[str, str], task: Task) -> Layout:
    """Choose how to read rows with the columns `found`; `columns` is the recipe's mapping.

    Raises:
        RowError: when no accepted columns are there; it shows the line to write in the recipe.
    """
    found = list(found)
    there = f"Columns found: {', '.join(found) or 'none'}."
    if absent := [f"{name}: {theirs}" for name, theirs in columns.items() if theirs not in found]:
        raise RowError(f"`columns:` says {', '.join(absent)}, but there is no such column. {there}")
    for usual in _ACCEPTED[task]:
        layout = {name: columns.get(name, column) for name, column in usual.items()}
        if set(columns) <= set(layout) and set(layout.values()) <= set(found):
            extras = ["system"] if "text" not in layout else []
            extras += ["input"] if layout.get("prompt") == "instruction" else []
            return layout | {name: name for name in extras if name in found}
    ways = "; ".join(" and ".join(layout.values()) for layout in _ACCEPTED[task])
    raise RowError(
        f"no columns that the task {task} can use. {there} Accepted: {ways}. "
        f"If yours have other names, say so under `data:` in the recipe: {_LINES[task]}"
    )


def read_row(row: dict[str, Any], layout: Layout) -> tuple[Messages | None, str | None]:
    """Give the row's messages or its text; the other is None.

    Raises:
        RowError: when a column is missing or its content is not what it should be.
    """
    if missing := [column for name, column in layout.items() if column not in row and name not in ("system", "input")]:
        raise RowError(f"the row has no {' and no '.join(missing)}; it has {', '.join(row) or 'no column'}")
    if "text" in layout:
        return None, _text(row, layout["text"])
    messages = _pair(row, layout) if "prompt" in layout else []
    for name in {"messages", "conversations"} & set(layout):
        messages = _turns(row[layout[name]], layout[name])
    system = _text(row, "system") if "system" in layout else ""
    if system.strip() and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise RowError(f"turn {roles.index('system', 1) + 1} is a system turn; only the first may be one")
    if "assistant" not in roles:
        raise RowError("the conversation has no turn of the assistant, so there is nothing to learn from it")
    return messages, None


def _text(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise RowError(f"{column} must be text, found {kind_of(value)}")
    return value or ""


def _pair(row: dict[str, Any], layout: Layout) -> Messages:
    prompt, completion = layout["prompt"], layout["completion"]
    if isinstance(row[prompt], list):
        return _turns(row[prompt], prompt) + _turns(row[completion], completion)
    question = _text(row, prompt)
    if "input" in layout and (more := _text(row, "input")).strip():
        question = f"{question}\n{more}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": _text(row, completion)}]


def _turns(turns: Any, column: str) -> Messages:
    if not isinstance(turns, list):
        raise RowError(f"{column} must be a list of turns, found {kind_of(turns)}")
    messages = []
    for number, turn in enumerate(turns, start=1):
        place = f"{column}, turn {number}"
        if not isinstance(turn, dict):
            raise RowError(f"{place} must be an object with role and content, found {kind_of(turn)}")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise RowError(f"{place}: the role is {role!r}; expected {', '.join(ROLES)} (or ShareGPT's human, gpt)")
        if not isinstance(content, str):
            raise RowError(f"{place}: the content must be text, found {kind_of(content)}")
        messages.append({"role": role, "content": content})
    return messages


def kind_of(value: Any) -> str:
    """Say what a value is, for messages."""
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "nothing", str: "text"}
    return kinds.get(type(value), f"{type(value).__name__} {value!r}"[:60])
