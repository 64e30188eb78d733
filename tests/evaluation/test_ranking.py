"""Ranks among candidates against scoring each candidate alone with plain transformers."""

import random

import pytest
import torch
from tiny import END, make_model

from gptft.evaluation import ranking
from gptft.evaluation.ranking import candidate_tokens, candidate_trees, rank_references
from gptft.tasks import Prompt

POSITIONS = 32


@pytest.fixture(scope="module")
def model():
    """Weights large enough that candidates differ."""
    return make_model(initializer_range=0.4, n_positions=POSITIONS)


@pytest.fixture(scope="module")
def sure_model():
    """One that is sure of what comes next."""
    return make_model(initializer_range=1.0)


def some_candidates(seed: int, count: int = 25) -> dict[str, tuple[int, ...]]:
    """Random token ids of few kinds, so that many begin alike; some begin another, some are one token."""
    draw = random.Random(seed)
    rows = {tuple(draw.randrange(4) for _ in range(draw.randint(1, 7))) for _ in range(count)}
    rows |= {row[:-1] for row in list(rows)[:5] if len(row) > 1}
    return {str(row): (*row, END) for row in sorted(rows)}


def log_probability(model, prompt, candidate) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *candidate]])).logits[0].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(candidate))


def plain_rank(model, prompt, candidates, references) -> int:
    scores = {text: log_probability(model, prompt, ids) for text, ids in candidates.items()}
    right = [scores[text] for text in references if text in scores]
    others = [score for text, score in scores.items() if text not in references]
    return 1 + sum(score >= max(right) for score in others) if right else 0


@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_those_of_each_candidate_scored_alone(model, seed):
    draw, candidates = random.Random(seed), some_candidates(seed)
    prompts = []
    for number in range(5):
        ids = [draw.randrange(END) for _ in range(draw.randint(1, POSITIONS - 8))]
        prompts.append(Prompt(str(number), ids, draw.sample(list(candidates), 1 + number % 3)))
    advanced = []
    ranks = rank_references(model, prompts, candidates, advanced.append)
    assert ranks == [plain_rank(model, one.input_ids, candidates, one.references) for one in prompts]
    assert len(set(ranks)) > 1 and advanced == [1] * 5


def test_a_prompt_is_cut_from_the_left_so_that_every_candidate_fits(model):
    candidates = some_candidates(0)
    room = POSITIONS - max(map(len, candidates.values()))
    ids = [index % END for index in range(3, 3 + 2 * POSITIONS)]
    reference = list(candidates)[7]
    expected = plain_rank(model, ids[-room:], candidates, [reference])
    assert rank_references(model, [Prompt("", ids, [reference])], candidates) == [expected]


def test_an_answer_that_is_no_candidate_has_no_rank(model):
    candidates = some_candidates(1)
    known = next(iter(candidates))
    ranks = rank_references(model, [Prompt("", [5, 6], ["unheard of"]), Prompt("", [5, 6], ["new", known])], candidates)
    assert ranks == [0, plain_rank(model, [5, 6], candidates, [known])]


def test_a_candidate_without_room_for_a_prompt_is_none(model):
    candidates = some_candidates(2)
    long = {**candidates, "long": (*[1] * POSITIONS, END)}
    prompts = [Prompt("", [9, 8, 7], [list(candidates)[3]]), Prompt("", [9, 8, 7], ["long"])]
    assert rank_references(model, prompts, long) == [*rank_references(model, prompts[:1], candidates), 0]
    assert rank_references(model, prompts[1:], {"long": long["long"]}) == [0]


def first_logits(model, prompt):
    outputs = model(torch.tensor([prompt]), use_cache=True)
    return outputs.logits[0, -1].log_softmax(-1), outputs.past_key_values


@torch.inference_mode()
def test_every_score_equals_the_plain_one_and_the_cache_stays_as_it_was(model):
    candidates, prompt = some_candidates(3), [11, 12, 13, 14]
    first, cache = first_logits(model, prompt)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    trees = candidate_trees(list(candidates.values()))
    found = ranking._scores(model, cache, len(prompt), trees, first)
    assert sorted(found) == list(range(len(candidates)))
    for number, ids in enumerate(candidates.values()):
        assert found[number] == pytest.approx(log_probability(model, prompt, ids), abs=1e-4)
    assert cache.get_seq_length() == len(prompt)
    for (keys, values), layer in zip(before, cache.layers, strict=True):
        assert torch.equal(keys, layer.keys) and torch.equal(values, layer.values)


@pytest.fixture
def nodes_seen(model, sure_model):
    """The tokens of each forward pass that gives logits of all of them."""
    seen = []

    def watch(module, arguments, keywords, outputs):
        if not keywords.get("logits_to_keep"):
            seen.append(outputs.logits.shape[1])

    handles = [one.register_forward_hook(watch, with_kwargs=True) for one in (model, sure_model)]
    yield seen
    for handle in handles:
        handle.remove()


def test_what_cannot_stand_before_the_answer_is_not_computed(sure_model, nodes_seen):
    draw, prompt = random.Random(5), [21, 22, 23]
    rows = {tuple(draw.randrange(END) for _ in range(4)) for _ in range(60)}
    with torch.no_grad():
        likeliest = sure_model(torch.tensor([prompt])).logits[0, -1].argmax().item()
    candidates = {str(row): (*row, END) for row in sorted(rows | {(likeliest,)})}
    nodes = sum(len(tree.tokens) for tree in candidate_trees(list(candidates.values())))
    scores = {text: log_probability(sure_model, prompt, ids) for text, ids in candidates.items()}
    best, worst = (choose(scores, key=scores.__getitem__) for choose in (max, min))
    nodes_seen.clear()
    assert rank_references(sure_model, [Prompt("", prompt, [best])], candidates) == [1]
    pruned = sum(nodes_seen)
    assert 0 < pruned < nodes / 2
    # Nothing can be left out before the last of all, and that it is the last stays true.
    assert rank_references(sure_model, [Prompt("", prompt, [worst])], candidates) == [len(candidates)]
    assert sum(nodes_seen) - pruned == nodes


@pytest.mark.parametrize("budget", [8, 12])
def test_a_pass_never_has_more_candidates_than_its_budget(model, nodes_seen, monkeypatch, budget):
    """Also where all candidates begin with the same token, such as the space before a word."""
    candidates = {text: (7, *ids) for text, ids in some_candidates(4).items()}
    references = list(candidates)[::6]
    prompts = [Prompt("", [30, number], [text]) for number, text in enumerate(references)]
    expected = [plain_rank(model, one.input_ids, candidates, one.references) for one in prompts]
    monkeypatch.setattr(ranking, "NODES_AT_ONCE", budget)
    nodes_seen.clear()
    assert rank_references(model, prompts, candidates) == expected
    assert len(nodes_seen) > len(prompts) and max(nodes_seen) <= budget


def test_candidates_are_the_completions_of_train_each_once(tokenizer):
    found = candidate_tokens(tokenizer, {"targets": [[" Harrow Coat"], [" Fell Boots", " Harrow Coat "], [" 靴子"]]})
    assert list(found) == ["Harrow Coat", "Fell Boots", "靴子"]
    assert [tokenizer.decode(ids) for ids in found.values()][1:] == [" Fell Boots<|endoftext|>", " 靴子<|endoftext|>"]
