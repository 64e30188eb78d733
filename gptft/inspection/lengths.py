"""Encoded examples in numbers: lengths, supervised tokens, padding, and whether answers end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gptft.inspection.findings import Finding, share
from gptft.models.logits import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

    from gptft.tasks import Preparation

BLOCK = 1000


@dataclass(frozen=True)
class Lengths:
    """A split's examples; counts, tokens."""

    preparation: Preparation
    lengths: np.ndarray
    supervised: np.ndarray
    answers: int
    """Runs of supervised tokens, in the examples looked at."""
    ended: int
    """Those of them that end with the closing token."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values: quantiles in place of every length."""
        quantiles = {f"p{part}": int(np.percentile(self.lengths, part)) for part in (0, 50, 90, 99, 100)}
        counted = {key: value for key, value in asdict(self.preparation).items() if key != "dropped_origins"}
        return {**counted, "lengths": quantiles, "answers": self.answers, "answers_ended": self.ended}


def measure(encoded: Dataset, preparation: Preparation, eos: int, limit: int = 100_000) -> Lengths:
    """Measure an encoded split; the ends of answers in about `limit` examples of it."""
    lengths, supervised = (_column(encoded, name) for name in ("length", "supervised"))
    looked_at = encoded.with_format("arrow")
    # Blocks of neighbours: rows here and there would bring all of the file into memory.
    step = max(BLOCK, len(encoded) * BLOCK // limit)
    answers = ended = 0
    for start in range(0, len(encoded), step):
        part: Any = looked_at[start : start + BLOCK]
        for labels in part["labels"].chunks:
            if str(labels.type.value_type) == "double":
                # Numbers of classes, not tokens.
                return Lengths(preparation, lengths, supervised, 0, 0)
            # A column of nothing supervised after each row keeps apart the answers of neighbouring rows.
            ends = np.cumsum(labels.value_lengths().to_numpy())
            flat = np.insert(labels.flatten().to_numpy(), ends, IGNORED)
            last = (flat[:-1] != IGNORED) & (flat[1:] == IGNORED)
            answers += int(last.sum())
            ended += int((flat[:-1][last] == eos).sum())
    return Lengths(preparation, lengths, supervised, answers, ended)


def _column(encoded: Dataset, name: str) -> np.ndarray:
    return encoded.with_format("numpy", columns=[name])[:][name]  # pyright: ignore[reportReturnType, reportArgumentType]


@dataclass(frozen=True)
class Batches:
    """The batches of the first epoch. Arrays have one number a batch."""

    rows: list[list[int]]
    width: np.ndarray
    """Tokens of the longest row."""
    real: np.ndarray
    """Tokens without padding."""
    supervised: np.ndarray

    @property
    def padded(self) -> np.ndarray:
        """Tokens with padding."""
        return self.width * np.array([len(rows) for rows in self.rows])

    @property
    def padding(self) -> float:
        """Share of the epoch that is padding."""
        return 1 - float(self.real.sum() / self.padded.sum())


def batches_of(found: Lengths, arguments: TrainingArguments) -> Batches:
    """The batches that training will take, from lengths alone."""
    from gptft.training.batching import LengthGroupedBatches

    seed = arguments.data_seed if arguments.data_seed is not None else arguments.seed
    sampler = LengthGroupedBatches(
        found.lengths.tolist(),
        arguments.per_device_train_batch_size,
        arguments.gradient_accumulation_steps,
        seed,
        strategy=arguments.train_sampling_strategy,
    )
    rows = list(sampler)
    order = np.concatenate([np.asarray(batch) for batch in rows])
    starts = np.cumsum([0, *(len(batch) for batch in rows)])[:-1]
    lengths, supervised = found.lengths[order].astype(np.int64), found.supervised[order].astype(np.int64)
    return Batches(
        rows,
        np.maximum.reduceat(lengths, starts),
        np.add.reduceat(lengths, starts),
        np.add.reduceat(supervised, starts),
    )


def length_findings(found: dict[str, Lengths], batches: Batches, answering: bool) -> list[Finding]:
    """What is odd in the examples; `answering`: the task learns answers that should end."""
    findings = []
    for name, split in found.items():
        preparation = split.preparation
        if preparation.dropped:
            words = f"{name}: {share(preparation.dropped, preparation.rows)} rows have an answer that does not fit"
            findings.append(Finding("answers_dropped", words, preparation.dropped_origins[:3]))
        if preparation.shortened > 0.01 * preparation.rows:
            words = f"{name}: {share(preparation.shortened, preparation.rows)} rows lose a part of their context"
            findings.append(Finding("context_cut", words))
    train = found["train"]
    if answering and train.ended < 0.99 * train.answers:
        words = f"{share(train.answers - train.ended, train.answers)} answers do not end with the closing token"
        findings.append(Finding("answers_never_end", words))
    if batches.padding > 0.3:
        findings.append(Finding("much_padding", f"{batches.padding:.0%} of the tokens of an epoch are padding"))
    return findings
