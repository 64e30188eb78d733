"""Examples as the model sees them, token by token, and whether the prompt at inference is how they begin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gptft.inspection.findings import Finding
from gptft.models.logits import IGNORED
from gptft.tasks import Classification

if TYPE_CHECKING:
    from gptft.training.preparation import Prepared

CONTEXT, SUPERVISED, SPECIAL, CLOSING = "context", "supervised", "special", "supervised special"
LOOKED_AT = 100


@dataclass(frozen=True)
class Example:
    """One example. A piece is some text and its kind; most are one token."""

    origin: str
    pieces: list[tuple[str, str]]
    prompt: str | None
    """What the model is asked at inference; None where there is no prompt (pretraining)."""
    label: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def pieces_of(tokenizer: Any, ids: list[int], labels: list[int]) -> list[tuple[str, str]]:
    """Tokens as text with their kinds; tokens that are parts of one character are one piece."""
    special, pieces = set(tokenizer.all_special_ids), list[tuple[str, str]]()
    held: list[int] = []
    for index, (token, label) in enumerate(zip(ids, labels, strict=True)):
        learned = label != IGNORED
        kind = (CLOSING if learned else SPECIAL) if token in special else SUPERVISED if learned else CONTEXT
        held.append(token)
        text = tokenizer.decode(held)
        following = index + 1 < len(ids) and (labels[index + 1] != IGNORED) == learned
        if text.endswith("\N{REPLACEMENT CHARACTER}") and following and len(held) < 4:
            continue
        pieces.append((text, kind))
        held = []
    return pieces


def look_at(prepared: Prepared, max_length: int, shown: int) -> tuple[list[Example], list[Finding], int]:
    """Show the first examples of train, and compare the first hundred with their prompts at inference.

    Returns:
        The examples, what is wrong with the prompts, and how many prompts were compared.
    """
    task, tokenizer, encoded = prepared.task, prepared.loaded.tokenizer, prepared.train
    head = encoded.select(range(min(len(encoded), LOOKED_AT)))
    assert prepared.splits.train is not None
    rows = prepared.splits.train.select(range(min(len(prepared.splits.train), LOOKED_AT)))
    row_of = {row["origin"]: row for row in rows}  # type: ignore[index, call-overload]
    prompts: dict[str, list[list[int]]] = {}
    for prompt in task.prompts(rows, tokenizer, max_length):
        # A turn of a conversation is named by its number after the row.
        origin = prompt.origin if prompt.origin in row_of else prompt.origin.rpartition("#")[0]
        prompts.setdefault(origin, []).append(prompt.input_ids)
    if isinstance(task, Classification):
        asked = task.encoder.prompts(tokenizer, rows["text"][:], max_length)
        prompts = {origin: [ids] for origin, ids in zip(rows["origin"][:], asked, strict=True)}
    examples, wrong, compared, cut = [], [], 0, set()
    for number, example in enumerate(head):
        ids, labels, origin = example["input_ids"], example["labels"], example["origin"]  # type: ignore[index]
        # Of a conversation that does not fit, an example is a window, and a prompt has its own.
        cut |= {origin} if example["shortened"] else set()  # type: ignore[index]
        for asked in [] if origin in cut else prompts.get(origin, []):
            compared += 1
            if ids[: len(asked)] != asked:
                wrong.append(origin)
        if number < shown:
            row: Any = row_of.get(origin)
            said = prompts.get(origin)
            label = ", ".join(row["targets"]) if row and isinstance(task, Classification) else None
            labels = [IGNORED] * len(ids) if label is not None else labels
            text = tokenizer.decode(said[-1]) if said and origin not in cut else None
            examples.append(Example(origin, pieces_of(tokenizer, ids, labels), text, label))
    findings = []
    if wrong:
        words = f"the prompt at inference is not how the training row begins, in {len(wrong):,} of {compared:,} prompts"
        findings.append(Finding("prompt_not_prefix", words, list(dict.fromkeys(wrong))[:3]))
    return examples, findings, compared
