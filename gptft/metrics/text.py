"""Metrics that compare generated text with references: BLEU and chrF as sacreBLEU defines them, exact match."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import List, Value
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from gptft.errors import UserError
from gptft.metrics.base import Array, RowMetric

References = Sequence[str] | Sequence[Sequence[str]]

TEXT_INPUTS = (
    {"predictions": Value("string"), "references": Value("string")},
    {"predictions": Value("string"), "references": List(Value("string"))},
)


def _pairs(predictions: Sequence[str], references: References) -> Iterator[tuple[str, list[str]]]:
    """Give each prediction with its references, which may have come as one string."""
    for index, (prediction, row) in enumerate(zip(predictions, references, strict=True)):
        if not row and not isinstance(row, str):
            raise UserError(f"row {index} has no reference; expected at least one to compare its prediction with.")
        yield prediction, [row] if isinstance(row, str) else list(row)


class _SacreMetric(RowMetric):
    inputs = TEXT_INPUTS

    @abstractmethod
    def _scorer(self, **options: Any) -> BLEU | CHRF:
        """Give sacreBLEU's own metric."""

    def definition(self, predictions: Sequence[str], references: References, **options: Any) -> str:
        """Give the sacreBLEU signature."""
        scorer = self._scorer(**options)
        counts = {len(row) for _, row in _pairs(predictions, references)}
        scorer.num_refs = counts.pop() if len(counts) == 1 else -1  # -1 is sacreBLEU's "it varies"
        return str(scorer.get_signature())

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        return {**super()._compute(**inputs), "signature": self.definition(**inputs)}


class Bleu(_SacreMetric):
    """Corpus BLEU from 0 to 100, the figure of the `sacrebleu` command.

    Options of `compute`: `tokenize` ('13a'; 'zh' for Chinese, 'char', 'intl', ...) and `lowercase`.
    """

    def _scorer(self, tokenize: str = "13a", lowercase: bool = False, effective_order: bool = False) -> BLEU:
        if tokenize not in BLEU.TOKENIZERS:
            raise UserError(f"bleu: there is no tokenizer '{tokenize}'; expected one of: {', '.join(BLEU.TOKENIZERS)}.")
        try:
            return BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=effective_order)
        except (ImportError, RuntimeError) as error:
            raise UserError(f"bleu: the tokenizer '{tokenize}' cannot be used: {error}") from error

    def row_statistics(self, predictions: Sequence[str], references: References, **options: Any) -> Array:
        """Count a row's tokens, the closest reference's, and its right and all n-grams of 1 to 4: (rows, 10)."""
        # effective_order keeps sacreBLEU from a warning for every sentence and changes none of the counts.
        scorer = self._scorer(**options, effective_order=True)
        sentences = [scorer.sentence_score(text, row) for text, row in _pairs(predictions, references)]
        rows = [(sentence.sys_len, sentence.ref_len, *sentence.counts, *sentence.totals) for sentence in sentences]
        return np.array(rows, dtype=np.float64).reshape(-1, 10)

    def score(self, sums: Array) -> Array:
        """Compute BLEU with sacreBLEU's own formula: (..., 10) to (...)."""
        scores = [
            BLEU.compute_bleu(row[2:6], row[6:], sys_len=row[0], ref_len=row[1], smooth_method="exp").score
            for row in sums.reshape(-1, 10).astype(np.int64).tolist()
        ]
        # A perfect match comes as 100.00000000000004.
        return np.minimum(scores, 100.0).reshape(sums.shape[:-1])


class Chrf(_SacreMetric):
    """Corpus chrF (character 1- to 6-grams, beta 2) from 0 to 100, the figure of the `sacrebleu` command.

    Option of `compute`: `lowercase`.
    """

    def _scorer(self, lowercase: bool = False) -> CHRF:
        return CHRF(lowercase=lowercase)

    def row_statistics(self, predictions: Sequence[str], references: References, lowercase: bool = False) -> Array:
        """Count the n-grams of prediction, best reference and both, for each order: (rows, 18)."""
        rows = []
        for prediction, row in _pairs(predictions, references):
            texts = [text.lower() if lowercase else text for text in (prediction, *row)]
            predicted, *expected = [extract_all_char_ngrams(text, CHRF.CHAR_ORDER) for text in texts]
            # An order that the reference does not have counts no n-gram of the prediction either.
            counts = [
                (ours.total() if theirs else 0, theirs.total(), (ours & theirs).total())
                for reference in expected
                for ours, theirs in zip(predicted, reference, strict=True)
            ]
            candidates = np.array(counts, dtype=np.float64).reshape(len(expected), -1)
            rows.append(candidates[np.argmax(self.score(candidates))])
        return np.array(rows, dtype=np.float64).reshape(-1, 3 * CHRF.CHAR_ORDER)

    def score(self, sums: Array) -> Array:
        """Compute chrF, (..., 18) to (...), with operations in sacreBLEU's order: the last bit is the same."""
        precision, recall, orders = np.zeros((3, *sums.shape[:-1]))
        for order in range(CHRF.CHAR_ORDER):
            predicted, expected, both = np.moveaxis(sums[..., 3 * order : 3 * order + 3], -1, 0)
            counted = (predicted > 0) & (expected > 0)
            precision += np.where(counted, both / np.maximum(predicted, 1), 0)
            recall += np.where(counted, both / np.maximum(expected, 1), 0)
            orders += counted
        precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
        weight = CHRF.BETA**2
        below = weight * precision + recall
        return 100 * ((1 + weight) * precision * recall / np.where(below > 0, below, 1))


class ExactMatch(RowMetric):
    """The share of predictions that equal a reference but for white space around them, from 0 to 1."""

    inputs = TEXT_INPUTS
    meaning = "share of answers equal to a reference, white space around them aside"

    def row_statistics(self, predictions: Sequence[str], references: References) -> Array:
        """Give 1 or 0 for a match, and 1 for the row: (rows, 2)."""
        pairs = _pairs(predictions, references)
        rows = [(prediction.strip() in {text.strip() for text in row}, 1) for prediction, row in pairs]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)
