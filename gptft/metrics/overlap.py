"""Metrics of words that texts share with references, and with each other: ROUGE, SQuAD's F1, distinct n-grams."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from datasets import Value
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from gptft.metrics.base import Array, BuiltInMetric, RowMetric, rows_of_two
from gptft.metrics.catalogue import complete_options
from gptft.metrics.text import TEXT_INPUTS, References, bleu_scorer, text_pairs


class _ChineseTokenizer:
    """sacreBLEU's: a Chinese character is a token; lower case and stems as in rouge-score's own tokenizer."""

    def __init__(self, use_stemmer: bool) -> None:
        self._split = TokenizerZh()
        self._stemmer = PorterStemmer() if use_stemmer else None

    def tokenize(self, text: str) -> list[str]:
        tokens = self._split(text.lower()).split()
        return [self._stemmer.stem(token) if self._stemmer and len(token) > 3 else token for token in tokens]


class _Rouge(RowMetric):
    """Mean ROUGE F-measure over rows, from 0 to 1, as the rouge-score package computes it.

    Inputs: `predictions` and `references`, a text or a list of texts a row, of which the nearest counts.
    Options of `compute`: `use_stemmer`, `tokenize` ('default', rouge-score's own, which drops all but a-z and 0-9;
    'zh', sacreBLEU's for Chinese).
    """

    inputs = TEXT_INPUTS
    meaning = "mean F-measure over rows, best reference of each"
    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """Give rouge-score's name: evaluate would write rougeL as rouge_l."""
        return self.kind

    def definition(self, *inputs: Any, **options: Any) -> str:
        """Name the package and its version, and the options."""
        return f"{super().definition(*inputs, **options)}, rouge-score {version('rouge-score')}"

    def _row_statistics(
        self, predictions: Sequence[str], references: References, use_stemmer: bool, tokenize: str
    ) -> Array:
        """Give the F-measure with the best reference, and 1 for the row: (rows, 2)."""
        tokenizer = _ChineseTokenizer(use_stemmer) if tokenize == "zh" else None
        scorer = RougeScorer([self.kind], use_stemmer=use_stemmer, tokenizer=tokenizer)
        pairs = text_pairs(predictions, references)
        return rows_of_two((scorer.score_multi(row, text)[self.kind].fmeasure, 1) for text, row in pairs)


class Rouge1(_Rouge):
    """ROUGE-1: words."""

    kind = "rouge1"


class Rouge2(_Rouge):
    """ROUGE-2: pairs of neighbouring words."""

    kind = "rouge2"


class RougeL(_Rouge):
    """ROUGE-L: the longest common subsequence of words."""

    kind = "rougeL"


class RougeLsum(_Rouge):
    """ROUGE-L of a text whose lines are sentences, as of a summary."""

    kind = "rougeLsum"


_WIDE_PUNCTUATION = re.compile("[\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(f"[{_CJK}]|[^\\s{_CJK}]+")


def squad_tokens(text: str) -> Counter[str]:
    """Count the words of a text as SQuAD does: lower case, without punctuation and articles; CJK by character."""
    # Latin words on either side of a wide comma are two; SQuAD joins those around an ASCII sign.
    text = _WIDE_PUNCTUATION.sub(" ", text.lower())
    kept = (sign for sign in text if sign not in string.punctuation and unicodedata.category(sign)[0] != "P")
    return Counter(token for token in _TOKEN.findall("".join(kept)) if token not in ("a", "an", "the"))


def _token_f1(prediction: Counter[str], reference: Counter[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    return 2 * (prediction & reference).total() / (prediction.total() + reference.total())


class TokenF1(RowMetric):
    """Mean F1 of the words of prediction and best reference, from 0 to 1, as in SQuAD; CJK characters are words.

    Inputs: `predictions` and `references`, a text or a list of texts a row.
    """

    inputs = TEXT_INPUTS
    meaning = "mean over rows of F1 of words (SQuAD: no case, punctuation, articles; CJK by character), best reference"

    def _row_statistics(self, predictions: Sequence[str], references: References) -> Array:
        return rows_of_two(
            (max(_token_f1(squad_tokens(text), squad_tokens(reference)) for reference in row), 1)
            for text, row in text_pairs(predictions, references)
        )


class DistinctN(BuiltInMetric):
    """Distinct n-grams / all n-grams over all predictions, from 0 to 1 (Li et al. 2016): how varied the texts are.

    Input: `predictions`. Options of `compute`: `n` (2) and `tokenize` ('13a', as for BLEU).
    """

    inputs = ({"predictions": Value("string")},)
    meaning = "distinct n-grams / all n-grams over all answers; no interval: drawing a row again lowers it by itself"

    def _compute(self, predictions: Sequence[str], **options: Any) -> dict[str, float]:
        options = complete_options(self.name, options)
        tokenize, n = bleu_scorer(self.name, options["tokenize"]).tokenizer, options["n"]
        rows = [tokenize(text).split() for text in predictions]
        ngrams = [tuple(row[start : start + n]) for row in rows for start in range(len(row) - n + 1)]
        return {self.name: len(set(ngrams)) / len(ngrams) if ngrams else float("nan")}
