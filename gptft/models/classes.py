"""The labels of a classifier: their names and order, how the model gives them, and which one its logits choose.

All of it is saved in the model's own configuration (`id2label`, `problem_type`, and under `gptft` what transformers has
no name for), so that a model folder needs no recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptft.errors import UserError

SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"
SETTINGS = "gptft"
"""The key of the model's configuration that holds gptft's own settings: task, templates, labels."""


@dataclass(frozen=True)
class Classes:
    """What a classifier chooses from."""

    names: tuple[str, ...]
    """In the order of their ids; one name for a number."""
    problem_type: str = SINGLE
    """transformers' name of the kind of label."""
    token_ids: tuple[int, ...] = ()
    """With the language model's own head: the token of each label. Empty with a head for sequences."""
    out_of_scope: str | None = None
    """What is answered where no label reaches the threshold."""
    threshold: float | None = None
    """Least probability of an answer."""

    @property
    def id_of(self) -> dict[str, int]:
        """Name -> id."""
        return {name: index for index, name in enumerate(self.names)}

    def write_to(self, config: Any) -> None:
        """Put the labels into a model's configuration."""
        config.num_labels = len(self.names)
        config.id2label = dict(enumerate(self.names))
        config.label2id = self.id_of
        config.problem_type = self.problem_type
        own = {"token_ids": list(self.token_ids), "out_of_scope": self.out_of_scope, "threshold": self.threshold}
        setattr(config, SETTINGS, {**getattr(config, SETTINGS, {}), "classes": own})

    @staticmethod
    def read_from(config: Any) -> Classes:
        """The labels that a model's configuration names.

        Raises:
            UserError: the model is no classifier.
        """
        own = getattr(config, SETTINGS, {}).get("classes")
        if own is None and not is_sequence_classifier(config):
            raise UserError("The model gives no labels: it was not trained with task classification.")
        own = own or {}
        names = tuple(name for _, name in sorted(config.id2label.items()))
        kind = config.problem_type or (SINGLE if len(names) > 1 else NUMBER)
        return Classes(names, kind, tuple(own.get("token_ids", ())), own.get("out_of_scope"), own.get("threshold"))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (rows, classes) to probabilities of the same shape: softmax, or one sigmoid a label; numbers stay."""
        if self.problem_type == NUMBER:
            return logits
        return logits.sigmoid() if self.problem_type == SEVERAL else logits.softmax(dim=-1)

    def choose(self, probabilities: Sequence[float]) -> tuple[str | list[str] | float, float]:
        """What a row's probabilities (classes) say, and how sure: its label, its labels, or its number.

        The second value is the probability of the label; of several, that all of them are right if they are
        independent; of a number, 1.
        """
        if self.problem_type == NUMBER:
            return probabilities[0], 1.0
        if self.problem_type == SEVERAL:
            sure, chosen = 1.0, []
            for name, probability in zip(self.names, probabilities, strict=True):
                given = probability >= (self.threshold or 0.5)
                sure *= probability if given else 1 - probability
                chosen += [name] if given else []
            return chosen, sure
        best = max(range(len(self.names)), key=probabilities.__getitem__)
        if self.out_of_scope and self.threshold and probabilities[best] < self.threshold:
            # How sure it is that nothing else fits, with the label's own probability where it is one of the labels.
            own = probabilities[self.id_of[self.out_of_scope]] if self.out_of_scope in self.id_of else 0.0
            return self.out_of_scope, max(own, 1 - probabilities[best])
        return self.names[best], probabilities[best]


def is_sequence_classifier(config: Any) -> bool:
    """Whether a configuration is of a model with a head for sequences (GPT2ForSequenceClassification)."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def label_tokens(tokenizer: Any, names: Sequence[str], words: dict[str, str]) -> tuple[int, ...]:
    """One token for each label, all different: that of its word, or the first of its own name that is free.

    Labels are written with a space before them, as words in a text are, and `_` as a space. Where labels begin alike
    (`card_arrival`, `card_swallowed`), later tokens of their names tell them apart; a matching finds a token for each
    where there is one.

    Raises:
        UserError: a word of the recipe is more than one token, or no token is left for some label.
    """
    choices: list[list[int]] = []
    for name in names:
        text = words.get(name, name.replace("_", " ").replace("-", " "))
        ids = tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]
        if name in words and len(ids) > 1:
            raise UserError(
                f"classification.label_words: {name}: '{words[name]}' is {len(ids)} tokens of this base "
                f"({', '.join(repr(tokenizer.decode([token])) for token in ids)}); choose a word that is one."
            )
        choices.append(list(dict.fromkeys(ids)))
    owner: dict[int, int] = {}

    def place(label: int, tried: set[int]) -> bool:
        """Give a label a token, moving others to theirs further on where that frees one (Kuhn's algorithm)."""
        for token in choices[label]:
            if token not in tried:
                tried.add(token)
                if token not in owner or place(owner[token], tried):
                    owner[token] = label
                    return True
        return False

    if alike := [names[label] for label in range(len(names)) if not place(label, set())]:
        raise UserError(
            f"classification.head: lm needs a token of its own for each label; none is left for {', '.join(alike)}. "
            "Give words for them: `classification.label_words: {LABEL: WORD}`, or use `head: sequence`."
        )
    tokens = {label: token for token, label in owner.items()}
    return tuple(tokens[label] for label in range(len(names)))


@torch.no_grad()
def class_weights(setting: str | dict[str, float] | None, counts: Sequence[int], names: Sequence[str]) -> Tensor | None:
    """Weight of each class in the loss, scaled so that the mean over the training rows is 1; None for no weights.

    Args:
        setting: `balanced` (rows / classes / rows of the class, as scikit-learn has it) or label -> weight.
        counts: training rows of each class.
        names: the labels.

    Raises:
        UserError: a weight for a label that does not exist.
    """
    if setting is None:
        return None
    rows = torch.tensor(counts, dtype=torch.float32)
    if isinstance(setting, str):
        return torch.where(rows > 0, rows.sum() / len(names) / rows.clamp(min=1), 0.0)
    if unknown := [name for name in setting if name not in names]:
        raise UserError(f"classification.class_weights: {', '.join(unknown)}: no such label in {', '.join(names)}")
    weights = torch.tensor([setting.get(name, 1.0) for name in names])
    return weights * rows.sum() / (weights * rows).sum()
