"""Write command-reference.md from the commands themselves: python docs/generate_commands.py (or make reference)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from gptft.cli import app
from gptft.files import write_text_atomically

PAGE = Path(__file__).parent / "command-reference.md"

HEAD = """\
<!-- Written by docs/generate_commands.py from the commands: change them in gptft/cli, then `make reference`. -->
# Command reference

What `gptft COMMAND --help` says, of every command. The exit code is 2 for a mistake in what was asked and 1 for a
failure. {epilog}
"""

WORDS = {"str": "TEXT", "list[str]": "TEXT", "int range": "N", "float range": "N", "path": "PATH"}
"""What stands for a value of each type."""


def reference() -> str:
    """The page as Markdown."""
    command = typer.main.get_command(app)
    return "\n\n".join([HEAD.format(epilog=command.epilog).strip(), *sections(command, "gptft")]) + "\n"


def sections(command: Any, name: str, parent: Any = None) -> Iterator[str]:
    """The sections of a command and, below it, of the commands that it has."""
    context = typer.Context(command, info_name=name, parent=parent)
    level = 1 + context.command_path.count(" ")
    if parent:
        yield f"{'#' * level} {context.command_path}"
        yield command.help or ""
    yield f"    {usage(command.get_usage(context))}"
    arguments, options = [], []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record:
            (arguments if parameter.param_type_name == "argument" else options).append(record)
    if arguments:
        yield table("argument", arguments)
    if options:
        yield table("option", options)
    for child in getattr(command, "commands", {}) and command.list_commands(context):
        yield from sections(command.get_command(context, child), child, context)


def usage(text: str) -> str:
    """The line of usage: what must be given in capitals, one pair of brackets around what may be left out."""
    text = " ".join(text.removeprefix("Usage: ").split())
    text = re.sub(r"\[((?:\[[^\[\]]+\](?:\.\.\.)? ?)+)\](?:\.\.\.)?", r"\1", text).replace("......", "...")
    return re.sub(r"\{([^}]+)\}", lambda match: match[1].upper(), text)


def table(head: str, records: list[tuple[str, str]]) -> str:
    """A Markdown table of parameters and what they mean."""
    lines = [f"{head} | meaning", "--- | ---"]
    for name, meaning in records:
        name, _, kind = name.removesuffix(">").partition(" <")
        name = name if head == "argument" else f"{name} {WORDS.get(kind, kind)}".strip()
        cells = (f"`{name}`", re.sub(r"  \[(.+)\]$", r" (\1)", meaning).replace("<", "&lt;"))
        lines.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    write_text_atomically(PAGE, reference())
    print(f"{PAGE.name} written", file=sys.stderr)
