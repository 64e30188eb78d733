"""Metrics that compare generated text with references: BLEU, chrF and TER as sacreBLEU defines them, exact match."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import List, Value
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from gptft.errors import UserError
from gptft.metrics.base import Array, RowMetric, ratio, rows_of_two
from gptft.metrics.catalogue import complete_options

References = Sequence[str] | Sequence[Sequence[str]]

TEXT_INPUTS = (
    {"predictions": Value("string"), "references": Value("string")},
    {"predictions": Value("string"), "references": List(Value("string"))},
)


def text_pairs(predictions: Sequence[str], references: References) -> Iterator[tuple[str, list[str]]]:
    """Give each prediction with its references, which may have come as one string."""
    for index, (prediction, row) in enumerate(zip(predictions, references, strict=True)):
        if not row and not isinstance(row, str):
            raise UserError(f"row {index} has no reference; expected at least one to compare its prediction with.")
        yield prediction, [row] if isinstance(row, str) else list(row)


def bleu_scorer(name: str, tokenize: str, **options: Any) -> BLEU:
    """Give sacreBLEU's BLEU for the metric `name`; a tokenizer may need a package or a download that is not there."""
    try:
        return BLEU(tokenize=tokenize, **options)
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(f"{name}: the tokenizer '{tokenize}' cannot be used: {error}") from error


class _SacreMetric(RowMetric):
    inputs = TEXT_INPUTS

    @abstractmethod
    def _scorer(self, **options: Any) -> BLEU | CHRF | TER:
        """Give sacreBLEU's own metric."""

    def definition(self, predictions: Sequence[str], references: References, **options: Any) -> str:
        """Give the sacreBLEU signature."""
        scorer = self._scorer(**complete_options(self.name, options))
        counts = {len(row) for _, row in text_pairs(predictions, references)}
        scorer.num_refs = counts.pop() if len(counts) == 1 else -1  # -1 is sacreBLEU's "it varies"
        return str(scorer.get_signature())

    def _compute(self, **keywords: Any) -> dict[str, Any]:
        return {**super()._compute(**keywords), "signature": self.definition(**keywords)}


class Bleu(_SacreMetric):
    """Corpus BLEU from 0 to 100, the figure of the `sacrebleu` command.

    Options of `compute`: `tokenize` ('13a'; 'zh' for Chinese, 'char', 'intl', ...) and `lowercase`.
    """

    def _scorer(self, **options: Any) -> BLEU:
        return bleu_scorer(self.name, **options)

    def _row_statistics(self, predictions: Sequence[str], references: References, **options: Any) -> Array:
        """Count a row's tokens, the closest reference's, and its right and all n-grams of 1 to 4: (rows, 10)."""
        # effective_order keeps sacreBLEU from a warning for every sentence and changes none of the counts.
        scorer = self._scorer(**options, effective_order=True)
        sentences = [scorer.sentence_score(text, row) for text, row in text_pairs(predictions, references)]
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

    Options of `compute`: `word_order` (0; 2 is chrF++) and `lowercase`.
    """

    def _scorer(self, **options: Any) -> CHRF:
        return CHRF(**options)

    def _row_statistics(self, predictions: Sequence[str], references: References, **options: Any) -> Array:
        """Count the n-grams of prediction, best reference and both, for each order: (rows, 3 x (6 + word_order))."""
        scorer = self._scorer(**options)
        rows = []
        for prediction, row in text_pairs(predictions, references):
            texts = [text.lower() if scorer.lowercase else text for text in (prediction, *row)]
            # sacreBLEU has no public name for the n-grams of words.
            predicted, *expected = scorer._extract_reference_info(texts)["ref_ngrams"]
            # An order that the reference does not have counts no n-gram of the prediction either.
            counts = [
                (ours.total() if theirs else 0, theirs.total(), (ours & theirs).total())
                for reference in expected
                for ours, theirs in zip(predicted, reference, strict=True)
            ]
            candidates = np.array(counts, dtype=np.float64).reshape(len(expected), -1)
            rows.append(candidates[np.argmax(self.score(candidates))])
        return np.array(rows, dtype=np.float64).reshape(-1, 3 * scorer.order)

    def score(self, sums: Array) -> Array:
        """Compute chrF, (..., k) to (...), with operations in sacreBLEU's order: the last bit is the same."""
        precision, recall, orders = np.zeros((3, *sums.shape[:-1]))
        for order in range(sums.shape[-1] // 3):
            predicted, expected, both = np.moveaxis(sums[..., 3 * order : 3 * order + 3], -1, 0)
            counted = (predicted > 0) & (expected > 0)
            precision += np.where(counted, both / np.maximum(predicted, 1), 0)
            recall += np.where(counted, both / np.maximum(expected, 1), 0)
            orders += counted
        precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
        weight = CHRF.BETA**2
        below = weight * precision + recall
        return 100 * ((1 + weight) * precision * recall / np.where(below > 0, below, 1))


class Ter(_SacreMetric):
    """Corpus TER, the figure of the `sacrebleu` command: edits / words of the references, in percent.

    Options of `compute`: `normalized`, `case_sensitive`, `asian_support`, `no_punct`. Chinese needs `normalized` with
    `asian_support`: without them, a sentence is one word.
    """

    higher_is_better = False

    def _scorer(self, **options: Any) -> TER:
        return TER(**options)

    def _row_statistics(self, predictions: Sequence[str], references: References, **options: Any) -> Array:
        """Count the edits to the nearest reference and the words of a reference, on average: (rows, 2)."""
        scorer = self._scorer(**options)
        scores = [scorer.sentence_score(text, row) for text, row in text_pairs(predictions, references)]
        return rows_of_two((score.num_edits, score.ref_length) for score in scores)

    def score(self, sums: Array) -> Array:
        """Compute TER, (..., 2) to (...): 100 for words where the references have none, 0 for none there."""
        return 100 * ratio(sums[..., 0], np.where(sums[..., 1] > 0, sums[..., 1], sums[..., 0]))


class ExactMatch(RowMetric):
    """The share of predictions that equal a reference but for white space around them, from 0 to 1."""

    inputs = TEXT_INPUTS
    meaning = "share of answers equal to a reference, white space around them aside"

    def _row_statistics(self, predictions: Sequence[str], references: References) -> Array:
        return rows_of_two(
            (prediction.strip() in {text.strip() for text in row}, 1)
            for prediction, row in text_pairs(predictions, references)
        )
