"""Run gptft as a user does: as a command of its own, or in this process to spare its imports."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error as words between single spaces, as a terminal breaks lines anywhere."""
        return " ".join(self.err.split())


def environment(home: Path) -> dict[str, str]:
    """This process's environment with caches of its own and no Hub."""
    return {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def command(arguments: Sequence[str | Path], folder: Path) -> Result:
    """Run `gptft` in `folder`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "gptft", *map(str, arguments)],
        cwd=folder,
        env=environment(folder / "cache"),
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def in_process(*arguments: str | Path) -> Result:
    """Run `gptft` in this process, in the current folder."""
    from gptft.cli import main

    out, err, arguments_before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["gptft", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as exit:
        code = int(exit.code or 0)
    finally:
        sys.argv = arguments_before
    return Result(code, out.getvalue(), err.getvalue())
