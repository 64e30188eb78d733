"""Bytes of what is supervised, and predictions on disk."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from datasets import Dataset
from tiny import make_tokenizer

from gptft.evaluation.predictions import read_predictions, save_predictions, supervised_bytes
from gptft.metrics import load_metric
from gptft.metrics.predictions import Predictions
from gptft.tasks import Completion, Prompt

TEXTS = ["yes", "  spaces  inside ", "好的，明天见。", "naïve café", "🙂 a\nb", "<|endoftext|>", "the the the"]


@pytest.fixture(scope="module")
def merging_tokenizer():
    """A byte-level BPE that has whole words and whole Chinese characters as tokens."""
    from gptft.models.tokenizer import train_tokenizer

    return train_tokenizer(["the the the spaces inside 好的，明天见。 好的 naïve café"] * 20, 320)


def encoded(tokenizer):
    rows = {"text": [f"问 {text}\n" for text in TEXTS], "targets": [[text] for text in TEXTS]}
    dataset = Dataset.from_dict({**rows, "origin": [str(number) for number in range(len(TEXTS))]})
    return Completion().examples(dataset, tokenizer, 128, "0" * 32)


def test_the_bytes_of_supervised_text_are_those_of_utf8_whatever_the_tokens(tokenizer, merging_tokenizer, own_cache):
    tokens = []
    for one in (tokenizer, merging_tokenizer):
        rows = encoded(one)
        assert supervised_bytes(rows, one) == [len(text.encode()) for text in TEXTS]
        tokens.append(sum(rows["supervised"][:]))
    assert tokens[1] < tokens[0] * 0.9


def test_bits_per_byte_do_not_depend_on_how_text_is_split(tokenizer, merging_tokenizer, own_cache):
    """Two models that find each text equally likely: a tokenizer with fewer tokens changes only perplexity."""
    likelihoods = np.random.default_rng(0).exponential(9.0, len(TEXTS)).tolist()
    found = []
    for one in (tokenizer, merging_tokenizer):
        rows = encoded(one)
        bits = load_metric("bits_per_byte").row_statistics(likelihoods, supervised_bytes(rows, one)).sum(axis=0)
        perplexity = load_metric("perplexity").row_statistics(likelihoods, rows["supervised"][:]).sum(axis=0)
        found.append([float(load_metric("bits_per_byte").score(bits)), load_metric("perplexity").score(perplexity)])
    assert found[0][0] == found[1][0]
    assert found[0][0] == pytest.approx(sum(likelihoods) / sum(len(text.encode()) for text in TEXTS) / math.log(2))
    assert found[0][1] < found[1][1] * 0.95


def test_bytes_of_a_tokenizer_of_characters():
    """As GPT-2 for Chinese has: no byte-level tokens."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["[SEP]", "[UNK]", "你", "好", "a"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    characters = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", unk_token="[UNK]")
    rows = Dataset.from_dict({"labels": [[-100, 2, 3, 0], [4, 4, 0], [-100]]})
    assert supervised_bytes(rows, characters) == [6, 2, 0]


PROMPTS = [Prompt("test.csv:1", [72, 105], []), Prompt("test.csv:2", [33], [])]
KINDS = {
    "labels": {
        "predictions": ["好", "b"],
        "references": [["好"], ["a"]],
        "confidences": [0.75, 0.1 + 0.2],
        "correct": [True, False],
    },
    "several labels": {
        "predictions": [["a", "b"], []],
        "references": [["b", "a"], ["a"]],
        "confidences": [0.5, 0.25],
        "correct": [True, False],
    },
    "numbers": {"predictions": [0.5, -1e-3], "references": [1.0, 2.0], "confidences": [1.0, 1.0]},
    "completions": {
        "predictions": ["", "two\nlines\u2028 of text"],
        "references": [["a", "b"], ["two"]],
        "stopped": [True, False],
        "ranks": [3, 0],
        "negative_log_likelihoods": [1.5, 0.1 + 0.2, 7.0],
        "token_counts": [3, 1, 4],
        "byte_counts": [9, 2, 8],
    },
    "likelihoods alone": {"negative_log_likelihoods": [1.5], "token_counts": [3], "byte_counts": [9]},
    "ranks alone": {"references": [["a"], ["b"]], "ranks": [1, 2]},
}


def other(name, values):
    """What another model could have said; of the right answers and how long they are there is one."""
    if name in ("references", "token_counts", "byte_counts"):
        return values
    changed = {bool: lambda value: not value, list: lambda value: [*value, "c"], str: lambda value: value + "!"}
    return [changed.get(type(value), lambda value: value + 1)(value) for value in values]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_base", [False, True])
def test_predictions_are_read_as_they_were_written(tmp_path, kind, with_base):
    said = Predictions(**KINDS[kind])
    base = Predictions(**{name: other(name, values) for name, values in KINDS[kind].items()}) if with_base else None
    prompts = PROMPTS if said.references else []
    save_predictions(tmp_path, make_tokenizer(), prompts, said, base)
    found, origins = read_predictions(tmp_path)
    assert asdict(found) == asdict(said)
    assert origins == [prompt.origin for prompt in prompts]
    again, _ = read_predictions(tmp_path, "base_")
    if base:
        assert asdict(again) == asdict(base) != asdict(said)
    else:
        assert not any(values for name, values in asdict(again).items() if name != "references")


def test_no_predictions_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path)
