import pytest
import torch
from shop import shop_assistant
from tiny import END, make_model

from gptft.errors import UserError
from gptft.models.generation import generate_answers, generation_settings, left_padded, prompt_positions

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


@pytest.mark.parametrize("batch_rows", [2, 32])
def test_left_padded_batches_answer_like_one_prompt_alone(tokenizer, monkeypatch, batch_rows):
    monkeypatch.setattr("gptft.models.generation.BATCH_ROWS", batch_rows)
    model = shop_assistant()
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    lengths = sorted(len(alone(model, ids, 20)) for ids in prompts)
    assert lengths[0] < lengths[-1], "the answers should differ in length"
    limit = lengths[-1] - 1
    settings = generation_settings(model, {"max_new_tokens": limit, "do_sample": False})
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
