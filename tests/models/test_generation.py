import copy

import pytest
import torch
from shop import shop_assistant
from tiny import END, make_model

from gptft.errors import UserError
from gptft.models.generation import (
    BY_SCORES,
    generate_answers,
    generate_tokens,
    generation_settings,
    left_padded,
    prompt_positions,
)

GREEDY = {"max_new_tokens": 20, "do_sample": False}
SAMPLED = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
BEGINNING = "User:\nAny hats?\nAssistant:\n"
PROMPTS = [
    BEGINNING,
    BEGINNING + "No, not.<|endoftext|>\nUser:\nThanks!\nAssistant:\n",
    "User:\nCould it be that you have got gloves?\nAssistant:\n",
    "User:\n?\nAssistant:\n",
    "System:\nBe kind.\nUser:\nHave you got shoes?\nAssistant:\n",
]


def alone(model, ids, limit):
    """Greedy answer without padding, batches or a cache."""
    answer = []
    while len(answer) < limit:
        logits = model(torch.tensor([[*ids, *answer]]), use_cache=False).logits[0, -1]
        answer.append(int(logits.argmax()))
        if answer[-1] == END:
            break
    return answer


@pytest.mark.parametrize(("places", "way"), [(8, {}), (128, {}), (128, {"use_cache": False})])
def test_batches_answer_like_one_prompt_alone(tokenizer, monkeypatch, places, way):
    monkeypatch.setattr("gptft.models.decoding.STEP_TOKENS", places)
    monkeypatch.setattr("gptft.models.generation.BATCH_TOKENS", 160)
    model = shop_assistant()
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    lengths = sorted(len(alone(model, ids, 20)) for ids in prompts)
    assert lengths[0] < lengths[-1], "the answers should differ in length"
    limit = lengths[-1] - 1
    settings = generation_settings(model, {"max_new_tokens": limit, "do_sample": False, **way})
    counts = []
    answers = generate_answers(model, tokenizer, prompts, settings, advance=counts.append)
    expected = [alone(model, ids, limit) for ids in prompts]
    stopped = [ids[-1] == END for ids in expected]
    assert [answer.stopped for answer in answers] == stopped
    assert [answer.text for answer in answers] == [
        tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]
    assert True in stopped and False in stopped
    assert sum(counts) == len(prompts)


def test_padding_stands_left():
    ids, mask = left_padded([[1, 2, 3], [4]], 9, torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(("asked", "given"), [(None, 64), (20, 20), (100, 100), (127, 127)])
def test_an_answer_and_its_prompt_fit_within_the_positions(tokenizer, asked, given):
    model = make_model()
    model.generation_config.max_length = 20
    settings = generation_settings(model, {"max_new_tokens": asked} if asked else {})
    assert settings.max_new_tokens == given
    assert prompt_positions(model, settings) == 128 - given
    settings.eos_token_id = None
    settings.do_sample = False
    prompt = [65] * prompt_positions(model, settings)
    [answer] = generate_answers(model, tokenizer, [prompt], settings)
    assert not answer.stopped


@pytest.mark.parametrize("asked", [128, 1000])
def test_a_length_that_leaves_no_room_for_a_prompt_is_refused(asked):
    with pytest.raises(UserError, match=rf"max_new_tokens is {asked:,}, but the model has 128 positions.*at most 127"):
        generation_settings(make_model(), {"max_new_tokens": asked})


def test_a_length_of_the_models_own_leaves_half_the_positions():
    model = make_model()
    model.generation_config.max_new_tokens = 1000
    assert generation_settings(model, {}).max_new_tokens == 64


def test_settings_of_the_model_hold_unless_changed():
    model = make_model()
    model.generation_config.max_new_tokens = 7
    model.generation_config.repetition_penalty = 1.5
    settings = generation_settings(model, {"max_new_tokens": 9})
    assert (settings.max_new_tokens, settings.repetition_penalty) == (9, 1.5)
    assert (settings.eos_token_id, settings.pad_token_id) == (END, END)
    assert model.generation_config.max_new_tokens == 7


def test_an_answer_can_end_at_a_string(tokenizer):
    model = shop_assistant()
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS[:2]]
    whole = [tokenizer.decode(alone(model, ids, 20), skip_special_tokens=True) for ids in prompts]
    end = whole[0][:2]
    assert end not in whole[1]
    settings = generation_settings(model, {"max_new_tokens": 20, "do_sample": False, "stop_strings": [end]})
    answers = generate_answers(model, tokenizer, prompts, settings)
    assert [answer.text for answer in answers] == [end, whole[1]]
    assert [answer.stopped for answer in answers] == [True, True]


def test_several_answers_to_a_prompt_are_refused():
    with pytest.raises(UserError, match="num_return_sequences"):
        generation_settings(make_model(), {"num_return_sequences": 2, "do_sample": True})


def ids_of(tokenizer):
    return [tokenizer(text)["input_ids"] for text in PROMPTS]


def by_generate(model, ids, settings):
    """What transformers generates after one prompt."""
    row = torch.tensor([ids])
    output = model.generate(input_ids=row, attention_mask=torch.ones_like(row), generation_config=settings)
    return output[0, len(ids) :].tolist()


def refuse(*arguments, **options):
    raise AssertionError("the other way should have been taken")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_beams": 3},
        {"num_beams": 2, "length_penalty": 2.0},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 15},
        {"bad_words_ids": [[32], [101, 115]]},
        {"begin_suppress_tokens": [66, 89]},
        {"forced_eos_token_id": END},
        {"exponential_decay_length_penalty": (3, 1.5)},
        {"sequence_bias": [[[101], 3.0]]},
        {"use_cache": False},
        {"max_time": 1000.0},
    ],
    ids=str,
)
def test_what_needs_more_than_scores_comes_from_generate(tokenizer, monkeypatch, changes):
    model = shop_assistant()
    settings = generation_settings(model, {**GREEDY, **changes})
    expected = [by_generate(model, ids, settings) for ids in ids_of(tokenizer)]
    monkeypatch.setattr("gptft.models.decoding.decode", refuse)
    # Two rows at a time.
    monkeypatch.setattr("gptft.models.generation.BATCH_TOKENS", 200)
    generated, ends = generate_tokens(model, tokenizer, ids_of(tokenizer), settings)
    assert ends == {END}
    for tokens, alone_tokens in zip(generated, expected, strict=True):
        assert tokens[: len(alone_tokens)] == alone_tokens
        assert set(tokens[len(alone_tokens) :]) <= {END}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"suppress_tokens": [66, 89]},
        {"renormalize_logits": True},
        {"remove_invalid_values": True},
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "top_p": 1e-6},
    ],
    ids=str,
)
def test_what_needs_scores_only_equals_generate(tokenizer, monkeypatch, changes):
    model = shop_assistant()
    settings = generation_settings(model, {**GREEDY, **changes})
    expected = [by_generate(model, ids, settings) for ids in ids_of(tokenizer)]
    monkeypatch.setattr("gptft.models.generation._generate", refuse)
    assert generate_tokens(model, tokenizer, ids_of(tokenizer), settings)[0] == expected


def test_names_of_processors_are_those_of_transformers():
    from transformers.generation import logits_process

    assert all(issubclass(getattr(logits_process, name), logits_process.LogitsProcessor) for name in BY_SCORES)


def test_each_of_several_closing_tokens_closes_an_answer(tokenizer):
    model, ids, [comma] = shop_assistant(), ids_of(tokenizer), tokenizer(",")["input_ids"]
    settings = generation_settings(model, {**GREEDY, "eos_token_id": [END, comma]})
    generated, ends = generate_tokens(model, tokenizer, ids, settings)
    assert ends == {END, comma}
    assert generated == [by_generate(model, prompt, settings) for prompt in ids]
    assert {tokens[-1] for tokens in generated} == ends
    assert all(
        answer.stopped and "," not in answer.text for answer in generate_answers(model, tokenizer, ids, settings)
    )


def sampled(model, tokenizer, prompts, seed=0, **changes):
    torch.manual_seed(seed)
    return generate_tokens(model, tokenizer, prompts, generation_settings(model, {**SAMPLED, **changes}))[0]


def test_sampling_follows_the_seed_and_not_the_batch(tokenizer, monkeypatch):
    model, ids = shop_assistant(), ids_of(tokenizer)
    answers = sampled(model, tokenizer, ids)
    assert sampled(model, tokenizer, ids) == answers
    assert sampled(model, tokenizer, ids, seed=1) != answers
    assert sampled(model, tokenizer, ids[:2]) == answers[:2]
    monkeypatch.setattr("gptft.models.decoding.STEP_TOKENS", 4)
    monkeypatch.setattr("gptft.models.decoding.LANES", 2)
    assert sampled(model, tokenizer, ids) == answers


def test_a_prompt_asked_twice_gets_two_samples(tokenizer):
    answers = sampled(shop_assistant(), tokenizer, [ids_of(tokenizer)[0]] * 8)
    assert len({tuple(tokens) for tokens in answers}) > 1


@pytest.mark.parametrize("changes", [{"top_k": 0}, {"top_k": 5}, {"top_k": 0, "min_p": 0.2}], ids=str)
def test_samples_are_distributed_as_the_model_says(tokenizer, changes):
    from transformers.generation import MinPLogitsWarper, TopKLogitsWarper

    model, ids, count = make_model(initializer_range=0.3), ids_of(tokenizer)[0], 4000
    scores = model(torch.tensor([ids])).logits[:, -1].detach() / 1.5
    if changes["top_k"]:
        scores = TopKLogitsWarper(changes["top_k"])(None, scores)
    if "min_p" in changes:
        scores = MinPLogitsWarper(changes["min_p"])(None, scores)
    expected = scores.softmax(dim=-1)[0]
    answers = sampled(model, tokenizer, [ids] * count, max_new_tokens=1, **changes)
    found = torch.bincount(torch.tensor(answers)[:, 0], minlength=257) / count
    # Five standard deviations for every token, and nothing that has no probability.
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt() + 1e-6).all()
    assert expected.max() < 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"num_beams": 2}], ids=str)
def test_the_model_stays_as_it_is(tokenizer, dtype, changes):
    model = copy.deepcopy(shop_assistant()).train()
    model.transformer.h[0].eval()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    settings = generation_settings(model, {**GREEDY, **changes})
    answers = generate_answers(model, tokenizer, ids_of(tokenizer), settings, dtype)
    assert len({answer.text for answer in answers}) > 1
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in model.parameters())
    assert model.lm_head.weight is model.transformer.wte.weight


def test_weights_in_half_precision_are_not_copied(tokenizer):
    """Only the modules around them, which get the faster kernels."""
    model = copy.deepcopy(shop_assistant()).to(torch.bfloat16)
    from gptft.models.generation import _cast

    cast = _cast(model, torch.bfloat16)
    assert [weight.data_ptr() for weight in cast.parameters()] == [weight.data_ptr() for weight in model.parameters()]
    assert isinstance(cast.transformer.h[0].mlp.act, torch.nn.GELU)
    assert not isinstance(model.transformer.h[0].mlp.act, torch.nn.GELU)
    assert model.config._attn_implementation == "sdpa"


def test_an_adapter_answers_like_its_merged_model(tokenizer, monkeypatch):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(shop_assistant()), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=3.0)
    monkeypatch.setattr("gptft.models.generation._generate", refuse)
    settings = generation_settings(model, GREEDY)
    answers = generate_tokens(model, tokenizer, ids_of(tokenizer), settings)[0]
    merged = copy.deepcopy(model).merge_and_unload()
    assert answers == [by_generate(merged, ids, settings) for ids in ids_of(tokenizer)]
    assert answers != generate_tokens(shop_assistant(), tokenizer, ids_of(tokenizer), settings)[0]


def test_no_prompts_get_no_answers(tokenizer):
    model = make_model()
    assert generate_answers(model, tokenizer, [], generation_settings(model, {})) == []


def test_an_answer_can_have_a_limit_of_its_own(tokenizer):
    model, ids = make_model(), ids_of(tokenizer)[:3]
    settings = generation_settings(model, {"max_new_tokens": 9, "do_sample": False})
    generated, _ = generate_tokens(model, tokenizer, ids, settings, limits=[1, 9, 4])
    assert generated == [
        by_generate(model, prompt, settings)[:limit] for prompt, limit in zip(ids, (1, 9, 4), strict=True)
    ]
