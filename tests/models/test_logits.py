import re
from pathlib import Path

import pytest
import torch
from tiny import make_model

import gptft
from gptft.models.logits import answer_tokens, next_tokens


def test_next_tokens_are_the_softmax_of_the_last_logits(tokenizer):
    model = make_model()
    ids = tokenizer("Hello")["input_ids"]
    predictions = next_tokens(model, tokenizer, ids, count=1000)
    logits = model(torch.tensor([ids])).logits[0, -1]
    expected = logits.softmax(-1)
    assert len(predictions) == 257
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1.0, abs=1e-5)
    for prediction in predictions:
        assert prediction.probability == pytest.approx(expected[prediction.token_id].item(), abs=1e-6)
        assert prediction.logit == pytest.approx(logits[prediction.token_id].item(), abs=1e-5)
        assert prediction.token == tokenizer.decode([prediction.token_id])
    probabilities = [prediction.probability for prediction in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert next_tokens(model, tokenizer, ids, count=3) == predictions[:3]


def test_the_tokens_of_an_answer_are_those_that_were_chosen_and_their_alternatives(tokenizer):
    model = make_model()
    prompt, answer = tokenizer("Hi")["input_ids"], tokenizer("a钱 b")["input_ids"]
    places = answer_tokens(model, tokenizer, prompt, answer, count=3)
    assert [chosen.token for chosen, _ in places] == ["a", "\ufffd", "\ufffd", "钱", " ", "b"]
    for place, (chosen, candidates) in enumerate(places):
        expected = next_tokens(model, tokenizer, [*prompt, *answer[:place]], count=257)
        found = {one.token_id: one for one in expected}
        assert chosen.probability == pytest.approx(found[answer[place]].probability, abs=1e-6)
        assert [one.token_id for one in candidates] == [one.token_id for one in expected[:3]]
        assert [one.logit for one in candidates] == pytest.approx([one.logit for one in expected[:3]], abs=1e-5)
    assert answer_tokens(model, tokenizer, prompt, []) == []


def test_the_hidden_state_is_read_nowhere():
    package = Path(gptft.__file__).parent
    readers = [
        path for path in package.rglob("*.py") if re.search(r"last_hidden_state|\.hidden_states", path.read_text())
    ]
    assert readers == []


def test_a_model_that_lets_packed_documents_see_each_other_is_found():
    from transformers import BloomConfig, BloomForCausalLM

    from gptft.models.logits import keeps_documents_apart

    assert keeps_documents_apart(make_model())
    # Bloom counts positions from the mask and takes no notice of ours.
    assert not keeps_documents_apart(BloomForCausalLM(BloomConfig(vocab_size=257, hidden_size=32, n_layer=1, n_head=2)))
