import random
from functools import cache

import pytest
import torch
from shop import dialogues, shop_assistant
from tiny import END, make_model

from gptft.models import decoding
from gptft.models.decoding import decode, keeps_to_masks
from gptft.tasks.dialogue import prompt_ids

LIMIT = 16
SHAPE = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 257}
ENDS = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}


def best(scores, rows, places):
    return scores.argmax(dim=-1).tolist()


def by_generate(model, ids):
    row = torch.tensor([ids])
    options = {"max_new_tokens": LIMIT, "do_sample": False, "eos_token_id": END, "pad_token_id": END}
    return model.generate(input_ids=row, attention_mask=torch.ones_like(row), **options)[0, len(ids) :].tolist()


@cache
def of_the_shop(ids):
    return by_generate(shop_assistant(), list(ids))


def conversations(tokenizer):
    """Prompts before each turn of the assistant; some are the same, some the beginning of others, some fork."""
    rows = [row["messages"] for row in dialogues()]
    turns = [(row, index) for row in rows for index, said in enumerate(row) if said["role"] == "assistant"]
    prompts = [prompt_ids(tokenizer, row[:index], 100) for row, index in turns]
    shuffled = random.Random(0).sample([*prompts, *prompts[:5]], len(prompts) + 5)
    return shuffled


@pytest.fixture
def lanes(monkeypatch):
    """The lanes that decoding makes."""
    made = []

    class Lane(decoding.Lane):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(decoding, "Lane", Lane)
    return made


@pytest.mark.parametrize("places", [4, 24, 512])
@pytest.mark.parametrize("lane_count", [1, 4])
@pytest.mark.parametrize("bound", [1, 2**20])
@pytest.mark.parametrize("shared", [1, 16])
def test_answers_are_those_of_each_prompt_alone(tokenizer, monkeypatch, lanes, places, lane_count, bound, shared):
    monkeypatch.setattr(decoding, "STEP_TOKENS", places)
    monkeypatch.setattr(decoding, "LANES", lane_count)
    monkeypatch.setattr("gptft.models.lanes.SHARED_TOKENS", shared)
    monkeypatch.setattr(decoding._Reader, "most_columns", lambda self: bound)
    model, prompts, counts = shop_assistant(), conversations(tokenizer), []
    with torch.inference_mode():
        answers = decode(model, prompts, [LIMIT] * len(prompts), frozenset([END]), best, counts.append)
    assert answers == [of_the_shop(tuple(ids)) for ids in prompts]
    assert len({len(tokens) for tokens in answers}) > 2
    assert sum(counts) == len(prompts)
    assert all(lane.used == {0} and sorted(lane.free) == list(range(1, 1 + len(lane.free))) for lane in lanes), (
        "columns are still held"
    )


@pytest.mark.parametrize("bound", [None, 30])
def test_columns_are_used_again_and_bounded(tokenizer, monkeypatch, lanes, bound):
    """An answer is about as long as those before it, so the bound is kept but for a few columns."""
    monkeypatch.setattr(decoding, "STEP_TOKENS", 8)
    monkeypatch.setattr(decoding, "LANES", 1)
    if bound:
        monkeypatch.setattr(decoding._Reader, "most_columns", lambda self: bound)
    prompts = conversations(tokenizer)
    with torch.inference_mode():
        decode(shop_assistant(), prompts, [LIMIT] * len(prompts), frozenset([END]), best)
    made = len(lanes[0].free) + 1
    assert made < sum(map(len, prompts)) / 4
    if bound:
        assert made < bound + LIMIT + max(map(len, prompts))


def test_what_prompts_have_in_common_is_read_once(monkeypatch):
    monkeypatch.setattr("gptft.models.lanes.SHARED_TOKENS", 2)
    read = []
    step = decoding._Reader.__call__

    def counted(self, what):
        read.append(int(what.visible[:, :, 1:].any(axis=2).sum()))
        return step(self, what)

    monkeypatch.setattr(decoding._Reader, "__call__", counted)
    prompts = [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 8, 8], [7], [1, 2, 3, 4, 6]]
    with torch.inference_mode():
        answers = decode(make_model(), prompts, [1] * len(prompts), frozenset(), best)
    assert sum(read) == len({tuple(prompt[: end + 1]) for prompt in prompts for end in range(len(prompt))})
    assert [len(tokens) for tokens in answers] == [1] * len(prompts)


@pytest.mark.parametrize("seed", range(5))
def test_any_prompts_are_answered(seed, monkeypatch, lanes):
    """Few different tokens, so that prompts fork everywhere."""
    draw = random.Random(seed)
    monkeypatch.setattr("gptft.models.lanes.SHARED_TOKENS", draw.choice([1, 3]))
    monkeypatch.setattr("gptft.models.lanes.TREE_ROWS", draw.choice([2, 7, 100]))
    monkeypatch.setattr(decoding, "STEP_TOKENS", draw.choice([3, 17]))
    monkeypatch.setattr(decoding, "LANES", draw.choice([1, 3]))
    model = make_model(initializer_range=0.3)
    prompts = [[draw.choice([60, 61]) for _ in range(draw.randint(1, 9))] for _ in range(40)]
    limits = [draw.randint(1, LIMIT) for _ in prompts]
    with torch.inference_mode():
        answers = decode(model, prompts, limits, frozenset([END]), best)
    expected = {tuple(ids): by_generate(model, ids) for ids in prompts}
    assert answers == [expected[tuple(ids)][:limit] for ids, limit in zip(prompts, limits, strict=True)]
    assert all(lane.used == {0} for lane in lanes)


def models():
    import transformers as library

    llama = {**SHAPE, **ENDS, "num_key_value_heads": 2, "intermediate_size": 64}
    neo = {**ENDS, "num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 257, "window_size": 4}
    bloom = {**ENDS, "n_layer": 2, "hidden_size": 32, "n_head": 4, "vocab_size": 257}
    return {
        "gpt2": (library.GPT2LMHeadModel, library.GPT2Config(**SHAPE, **ENDS), True),
        "gpt2 eager": (library.GPT2LMHeadModel, library.GPT2Config(**SHAPE, **ENDS, attn_implementation="eager"), True),
        "llama": (library.LlamaForCausalLM, library.LlamaConfig(**llama), True),
        "mistral": (library.MistralForCausalLM, library.MistralConfig(**llama, sliding_window=None), True),
        "sliding": (library.MistralForCausalLM, library.MistralConfig(**llama, sliding_window=5), False),
        "neo": (
            library.GPTNeoForCausalLM,
            library.GPTNeoConfig(**neo, attention_types=[[["global", "local"], 1]]),
            False,
        ),
        "neo global": (
            library.GPTNeoForCausalLM,
            library.GPTNeoConfig(**neo, attention_types=[[["global"], 2]]),
            False,
        ),
        "bloom": (library.BloomForCausalLM, library.BloomConfig(**bloom), False),
    }


@pytest.mark.parametrize("name", ["gpt2", "gpt2 eager", "llama", "mistral", "sliding", "neo", "neo global", "bloom"])
def test_other_models_answer_as_with_generate(tokenizer, name):
    from gptft.models.generation import generate_tokens, generation_settings

    make, config, fast = models()[name]
    torch.manual_seed(0)
    config.initializer_range = 0.3
    model = make(config).eval()
    assert keeps_to_masks(model) is fast
    prompts = conversations(tokenizer)[:12]
    settings = generation_settings(model, {"max_new_tokens": LIMIT, "do_sample": False})
    generated, _ = generate_tokens(model, tokenizer, prompts, settings)
    for tokens, ids in zip(generated, prompts, strict=True):
        expected = by_generate(model, ids)
        assert tokens[: len(expected)] == expected


def test_prompts_come_and_go_between_steps(tokenizer, lanes, monkeypatch):
    monkeypatch.setattr(decoding, "STEP_TOKENS", 24)
    model, prompts, draw = shop_assistant(), conversations(tokenizer)[:30], random.Random(0)
    answers: dict[int, list[int]] = {}
    left = set(range(0, 30, 5))
    with torch.inference_mode():
        decoder = decoding.Decoder(model, best)
        waiting = list(range(30))
        while waiting or decoder.requests:
            for _ in range(min(draw.randrange(4), len(waiting))):
                row = waiting.pop()
                answers[row] = []
                decoder.add(row, prompts[row], LIMIT, frozenset([END]))
            for row, token, _ in decoder.step():
                answers[row].append(token)
            for row in left & answers.keys():
                # Some before their prompt is read, some in the middle of the answer, some after its end.
                if draw.random() < 0.4:
                    decoder.remove(row)
                    left.remove(row)
                    answers.pop(row)
    for row, tokens in answers.items():
        assert tokens == of_the_shop(tuple(prompts[row]))
    assert len(answers) < 30 and all(lane.used == {0} and not lane.prompts for lane in lanes)
    assert decoder.step() == []
