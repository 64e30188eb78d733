"""One thing that an inspection found; `gptft.recipe.findings` says why it matters and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gptft.errors import UserError
from gptft.recipe.findings import FINDINGS, Level
from gptft.recipe.schema import Recipe

_ORDER: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """What was found, and where."""

    name: str
    """A key of `FINDINGS`."""
    found: str
    """One sentence, without the point."""
    places: Sequence[str] = ()
    """File and line of some of the rows."""

    @property
    def level(self) -> Level:
        """How bad it is."""
        return FINDINGS[self.name].level

    def sentences(self) -> str:
        """All there is to say of it."""
        kind = FINDINGS[self.name]
        places = f" ({', '.join(self.places)})" if self.places else ""
        return f"{self.found}{places}. {kind.why} Change: {kind.change}."

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        kind = FINDINGS[self.name]
        return {
            "name": self.name,
            "level": kind.level,
            "found": self.found,
            "places": list(self.places),
            "why": kind.why,
            "change": kind.change,
        }


def standing(findings: Iterable[Finding], recipe: Recipe) -> list[Finding]:
    """Those that the recipe does not accept, errors first."""
    kept = [finding for finding in findings if finding.name not in recipe.data.accept]
    return sorted(kept, key=lambda finding: _ORDER.index(finding.level))


def refuse(findings: Iterable[Finding], strict: bool = False) -> None:
    """Stop where there are errors; with `strict`, warnings are errors too.

    Raises:
        UserError: naming all of them, and how to accept one.
    """
    levels = ("error", "warning") if strict else ("error",)
    if bad := [finding for finding in findings if finding.level in levels]:
        lines = "\n".join(f"  {finding.name}: {finding.sentences()}" for finding in bad)
        names = ", ".join(finding.name for finding in bad)
        raise UserError(
            f"The recipe or its data would not give what is meant:\n{lines}\nMeant so? data.accept=[{names}]"
        )


def share(part: int, whole: int) -> str:
    """A count with its share: `12 of 340 rows (3.5%)` without the noun."""
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.1%})"
