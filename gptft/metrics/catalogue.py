"""gptft's own metrics, each with what it needs and its options, and how a metric is written: `bleu:tokenize=zh`.

Nothing heavy is imported here: recipes are checked with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import yaml

from gptft.errors import UserError

Needs = Literal["answers", "labels", "confidences", "numbers", "likelihoods", "ranks"]


class Option(NamedTuple):
    """A metric's option: its default and the values it can have."""

    default: Any
    choices: tuple[Any, ...] | range

    def allows(self, value: Any) -> bool:
        """Tell whether the option can have that value: of the same type, for 1 is not True."""
        return type(value) is type(self.default) and value in self.choices

    def __str__(self) -> str:
        if isinstance(self.choices, range):
            return f"a whole number from {self.choices[0]} to {self.choices[-1]}"
        return f"one of: {', '.join(_written(choice) for choice in self.choices)}"


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class BuiltIn:
    """A metric of gptft's own: "module:Class", a short phrase, what is measured on, and the options of `compute`."""

    path: str
    description: str
    needs: Needs
    options: Mapping[str, Option] = field(default_factory=dict)


def _built_in(path: str, needs: Needs, description: str, **options: Option) -> BuiltIn:
    return BuiltIn(f"gptft.metrics.{path}", description, needs, options)


_NO = Option(False, (False, True))
_BLEU_TOKENIZERS = (
    "13a",
    "zh",
    "char",
    "intl",
    "none",
    "ja-mecab",
    "ko-mecab",
    "spm",
    "flores101",
    "flores200",
    "spBLEU-1K",
)
_TOKENIZE = Option("13a", _BLEU_TOKENIZERS)
_AVERAGE = Option("macro", ("macro", "micro", "weighted"))
_ROUGE = {"use_stemmer": _NO, "tokenize": Option("default", ("default", "zh"))}
_TER: dict[str, Option] = dict.fromkeys(("normalized", "case_sensitive", "asian_support", "no_punct"), _NO)
_WORDS = Option(0, range(10))
_GRAMS = Option(2, range(1, 10))
_BINS = Option(15, range(1, 1001))
_FIRST = Option(10, range(1, 1_000_001))

BUILT_IN: dict[str, BuiltIn] = {
    "bleu": _built_in("text:Bleu", "answers", "corpus BLEU (sacreBLEU)", tokenize=_TOKENIZE, lowercase=_NO),
    "chrf": _built_in("text:Chrf", "answers", "corpus chrF (sacreBLEU)", word_order=_WORDS, lowercase=_NO),
    "ter": _built_in("text:Ter", "answers", "translation edit rate (sacreBLEU)", **_TER),
    "rouge1": _built_in("overlap:Rouge1", "answers", "ROUGE-1, shared words", **_ROUGE),
    "rouge2": _built_in("overlap:Rouge2", "answers", "ROUGE-2, shared pairs of words", **_ROUGE),
    "rougeL": _built_in("overlap:RougeL", "answers", "ROUGE-L, longest common subsequence", **_ROUGE),
    "rougeLsum": _built_in("overlap:RougeLsum", "answers", "ROUGE-L by lines, for summaries", **_ROUGE),
    "exact_match": _built_in("text:ExactMatch", "answers", "share of answers that equal a reference"),
    "token_f1": _built_in("overlap:TokenF1", "answers", "F1 of words shared with a reference (SQuAD)"),
    "distinct_n": _built_in("overlap:DistinctN", "answers", "distinct share of n-grams", n=_GRAMS, tokenize=_TOKENIZE),
    "stop_rate": _built_in("stopping:StopRate", "answers", "share of answers that end by themselves"),
    "accuracy": _built_in("classification:Accuracy", "labels", "share of rows with the right label"),
    "f1": _built_in("classification:F1", "labels", "F1 of the classes", average=_AVERAGE),
    "precision": _built_in("classification:Precision", "labels", "precision of the classes", average=_AVERAGE),
    "recall": _built_in("classification:Recall", "labels", "recall of the classes", average=_AVERAGE),
    "mcc": _built_in("classification:Mcc", "labels", "Matthews correlation coefficient"),
    "calibration_error": _built_in(
        "classification:CalibrationError", "confidences", "expected calibration error", bins=_BINS
    ),
    "mae": _built_in("regression:Mae", "numbers", "mean absolute error"),
    "mse": _built_in("regression:Mse", "numbers", "mean squared error"),
    "pearsonr": _built_in("regression:Pearsonr", "numbers", "Pearson's correlation coefficient"),
    "perplexity": _built_in("likelihood:Perplexity", "likelihoods", "exp of the mean loss over supervised tokens"),
    "bits_per_byte": _built_in("likelihood:BitsPerByte", "likelihoods", "loss in bits by byte of text"),
    "hit_at_k": _built_in("ranking:HitAtK", "ranks", "share of rows whose right item is among the first k", k=_FIRST),
    "mrr": _built_in("ranking:Mrr", "ranks", "mean reciprocal rank of the right item"),
}
"""All metrics that gptft computes without a network."""

GROUPS = {"rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum")}
"""Names that stand for several metrics."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric as recipes and the command line write it. `known` is None for one that is not built in."""

    text: str
    name: str
    options: dict[str, Any]
    known: BuiltIn | None


def built_in_name(text: str) -> str | None:
    """Give the built-in name or group that `text` means ('evaluate-metric/bleu:tokenize=zh' is 'bleu'), else None."""
    name = text.strip().partition(":")[0].removeprefix("evaluate-metric/")
    return name if name in BUILT_IN or name in GROUPS else None


def parse_metric(text: str) -> MetricSpec:
    """Read `name` or `name:option=value,option=value`; values are YAML.

    The text of the result is normalised: 'evaluate-metric/bleu' becomes 'bleu'. A group is known as its first member.

    Raises:
        UserError: it is written otherwise, or a built-in metric has no such option or value.
    """
    written, colon, rest = text.strip().partition(":")
    name = built_in_name(written) or written
    options: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", rest) if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and key.isidentifier()) or key in options:
            example = "name:option=value,option=value, each option once, as in bleu:tokenize=zh"
            raise UserError(f"metric '{text}': found '{part}', expected {example}.")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"metric '{text}': the value of {key}, '{value}', is not YAML.") from error
    if not name:
        raise UserError(f"found '{text}', expected the name of a metric, one of: {', '.join(BUILT_IN)}.")
    complete_options(name, options)
    return MetricSpec(f"{name}{colon}{rest}", name, options, BUILT_IN.get(GROUPS.get(name, (name,))[0]))


def complete_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of a built-in metric and add its defaults; those of any other metric are given back as they are.

    Raises:
        UserError: the metric has no such option, or the option no such value.
    """
    known = BUILT_IN.get(GROUPS.get(name, (name,))[0])
    if not known:
        return dict(options)
    for key, value in options.items():
        if key not in known.options:
            near = get_close_matches(key, known.options, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(
                f"metric '{name}' has no option '{key}'; it has: {', '.join(known.options) or 'none'}.{hint}"
            )
        if not known.options[key].allows(value):
            raise UserError(f"metric '{name}': {key} is {value!r}, expected {known.options[key]}.")
    return {**{key: option.default for key, option in known.options.items()}, **options}


def expand(texts: Iterable[str]) -> list[str]:
    """Put the members in the place of a group, with the same options, and leave out what comes again.

    Raises:
        UserError: as `parse_metric`.
    """
    specs = [parse_metric(text) for text in texts]
    members = (name + spec.text[len(spec.name) :] for spec in specs for name in GROUPS.get(spec.name, (spec.name,)))
    return list(dict.fromkeys(members))
