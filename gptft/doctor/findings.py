"""What an examination finds: one line for each subject."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


class Finding(NamedTuple):
    """`ok`: as it should be. `note`: good to know. `problem`: something will not work, and what to do."""

    status: Literal["ok", "note", "problem"]
    subject: str
    text: str


def findings_table(findings: Iterable[Finding]) -> Table:
    """Lay out findings for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    for finding in findings:
        table.add_row(Text(finding.status, STYLES[finding.status]), Text(finding.subject), Text(finding.text))
    return table
