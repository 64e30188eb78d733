"""The commands: each parses its arguments, calls one function and prints what it gives.

Nothing here imports torch at the top: `gptft --help` must be there at once.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape

from gptft.cli import (  # noqa: F401 - each adds its commands
    ask,
    check,
    export,
    inspect,
    look,
    score,
    serve,
    share,
    sweep,
    train,
)
from gptft.cli.app import app
from gptft.errors import GptftError

__all__ = ["app", "main"]


def main() -> None:
    """Run a command; failures become one message and an exit code: 2 for the user's mistakes, 1 for failures."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except GptftError as error:
        if debug:
            raise
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}".strip()
        print(
            f"Error: something failed that should not have: {text}\nRun it again with --debug for the traceback.",
            file=sys.stderr,
        )
        sys.exit(1)
