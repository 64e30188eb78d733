"""Evaluation never holds the logits of a split: of all logits that live at one time, the peak is a batch's."""

import random
import weakref

import pytest
import torch
from datasets import Dataset
from tiny import END, make_model, make_rows

from gptft.evaluation import ranking
from gptft.evaluation.predictions import label_logits
from gptft.models.classes import Classes
from gptft.models.loading import LoadedModel
from gptft.tasks import Prompt
from gptft.training import losses

BUDGET = 96  # tokens; the longest row has 41


class Peak:
    """The most rows of logits over the vocabulary that were alive at once, and how many there were in all."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.most = self.all = 0
        self._alive: list[weakref.ref] = []
        model.lm_head.register_forward_hook(self._seen)

    def _seen(self, module: torch.nn.Module, arguments: tuple, logits: torch.Tensor) -> None:
        self._alive = [one for one in self._alive if one() is not None] + [weakref.ref(logits)]
        rows = sum(one().numel() for one in self._alive) // logits.shape[-1]
        self.most, self.all = max(self.most, rows), self.all + logits.numel() // logits.shape[-1]


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def peak(model, monkeypatch):
    monkeypatch.setattr(losses, "EVALUATION_TOKENS", BUDGET)
    monkeypatch.setattr(ranking, "NODES_AT_ONCE", BUDGET)
    return Peak(model)


def test_perplexity(model, peak):
    rows = make_rows(60)
    losses.dataset_losses(model, Dataset.from_list(rows), END)
    supervised = sum(label >= 0 for row in rows for label in row["labels"])
    assert peak.all == supervised > 5 * BUDGET
    assert peak.most <= BUDGET


def test_perplexity_over_a_vocabulary_so_large_that_a_batch_must_be_smaller(model, peak, monkeypatch):
    monkeypatch.setattr(losses, "EVALUATION_LOGITS", 48 * model.config.vocab_size)
    losses.dataset_losses(model, Dataset.from_list(make_rows(60)), END)
    assert peak.most <= 48 < peak.all


def test_labels_by_their_words(model, peak, tokenizer):
    prompts = [row["input_ids"] for row in make_rows(60)]
    found = label_logits(LoadedModel(model, tokenizer, None), Classes(("a", "b"), token_ids=(5, 6)), prompts)
    assert found.shape == (60, 2)
    # Of each text only the last position is projected to the vocabulary.
    assert peak.all == 60 and peak.most <= BUDGET // 7


@pytest.mark.parametrize("alike", [False, True], ids=["many beginnings", "one beginning"])
def test_ranks(model, peak, alike):
    draw = random.Random(0)
    rows = {(*([3] if alike else []), *(draw.randrange(END) for _ in range(5))) for _ in range(200)}
    candidates = {str(row): (*row, END) for row in sorted(rows)}
    prompts = [Prompt("", [1, 2, 3], [text]) for text in list(candidates)[:3]]
    ranking.rank_references(model, prompts, candidates)
    assert peak.all > 20 * BUDGET
    # One more, of the prompt's last token.
    assert peak.most <= BUDGET + 1
