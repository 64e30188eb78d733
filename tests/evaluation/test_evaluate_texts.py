"""Completions scored: several right answers, ranks, options of metrics."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from gptft.errors import UserError
from gptft.evaluation import evaluate

ITEMS = ("hat", "coat", "bag", "h")
TRAIN = [{"prompt": f"before {number}", "completion": item} for number, item in enumerate(ITEMS)]
TEST = [
    {"prompt": "after 0", "completion": "hat"},
    {"prompt": "after 1", "completion": ["bag", "coat"]},
    {"prompt": "after 0", "completion": "coat"},
    {"prompt": "after 2", "completion": "鞋子"},
]
GENERATION = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture
def recipe(write_recipe, lively_folder, tmp_path):
    def write(**sections):
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEST))
        evaluation = {"generation": GENERATION, **sections.pop("evaluation", {})}
        sections = {"model": {"base": str(lively_folder)}, **sections}
        return write_recipe(TRAIN, task="completion", data={"test": "test.jsonl"}, evaluation=evaluation, **sections)

    return write


@pytest.fixture
def score(tmp_path):
    def call(target=None, **options):
        return evaluate(target, runs=tmp_path / "runs", compare_base=False, **options)

    return call


def lines(result, name="predictions"):
    return [json.loads(line) for line in (result.folder / f"{name}.jsonl").open(encoding="utf-8")]


def test_a_prompt_is_asked_once_and_any_reference_is_right(recipe, score, write_model, write_run, monkeypatch):
    from gptft.models.generation import Answer

    written = recipe()
    write_run(written, write_model(written))
    asked = []

    def answer(model, tokenizer, prompts, *arguments):
        asked.extend(tokenizer.decode(ids) for ids in prompts)
        return [Answer(text, True) for text in ("coat", "coat", "no")]

    monkeypatch.setattr("gptft.evaluation.predictions.generate_answers", answer)
    result = score(metrics=["exact_match", "perplexity"])
    assert asked == ["after 0\n", "after 1\n", "after 2\n"]
    rows = lines(result)
    assert [row["references"] for row in rows] == [["hat", "coat"], ["bag", "coat"], ["鞋子"]]
    assert [row["origin"] for row in rows] == ["test.jsonl:1", "test.jsonl:2", "test.jsonl:4"]
    values = {one.name: (one.value, one.rows) for one in result.scores}
    # Likelihood is measured of each right answer.
    assert values["exact_match"] == (2 / 3, 3) and values["perplexity"][1] == 5


def test_answers_and_likelihoods_are_those_of_transformers(recipe, score, write_model, write_run, tokenizer):
    written = recipe()
    run = write_run(written, write_model(written))
    result = score(metrics=["chrf", "perplexity", "bits_per_byte"])
    model = AutoModelForCausalLM.from_pretrained(run.model)
    for row in lines(result):
        ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
        said = model.generate(ids, attention_mask=ids * 0 + 1, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert row["prediction"] == tokenizer.decode(said, skip_special_tokens=True).strip()
    total, tokens, size = 0.0, 0, 0
    for row in TEST:
        for text in [row["completion"]] if isinstance(row["completion"], str) else row["completion"]:
            prompt, answer = (tokenizer(part)["input_ids"] for part in (row["prompt"] + "\n", text + "<|endoftext|>"))
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            total -= logits.gather(1, torch.tensor(answer)[:, None]).sum().item()
            tokens, size = tokens + len(answer), size + len(text.encode())
    values = {one.name: one.value for one in result.scores}
    assert values["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert values["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-4)
    assert sum(row["byte_count"] for row in lines(result, "likelihoods")) == size


def test_ranks_are_among_the_completions_of_train(recipe, score, write_model, write_run, tokenizer):
    written = recipe(evaluation={"metrics": ["hit_at_k:k=2", "mrr"]})
    run = write_run(written, write_model(written))
    result = score()
    model = AutoModelForCausalLM.from_pretrained(run.model)

    def likelihood(prompt, text):
        ids, answer = (tokenizer(part)["input_ids"] for part in (prompt, text + "<|endoftext|>"))
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        return logits.gather(1, torch.tensor(answer)[:, None]).sum().item()

    expected = []
    for prompt, right in (("after 0\n", ["hat", "coat"]), ("after 1\n", ["bag", "coat"])):
        scores = {row["completion"]: likelihood(prompt, row["completion"]) for row in TRAIN}
        best = max(scores[text] for text in right)
        expected.append(1 + sum(scores[text] > best for text in scores if text not in right))
    # What train never says has no rank, and counts as not found.
    assert [row["rank"] for row in lines(result)] == [*expected, 0]
    values = {one.name: one.value for one in result.scores}
    assert values == {
        "hit_at_k:k=2": sum(rank <= 2 for rank in expected) / 3,
        "mrr": pytest.approx(sum(1 / rank for rank in expected) / 3),
    }
    assert "prediction" not in lines(result)[0]


def test_a_metric_by_name_has_the_recipes_options(recipe, score, write_model, write_run):
    written = recipe(evaluation={"metrics": ["bleu:tokenize=zh", "rouge:tokenize=zh"]})
    write_run(written, write_model(written))
    assert [one.name for one in score(metrics=["bleu", "rougeL", "chrf"]).scores] == [
        "bleu:tokenize=zh",
        "rougeL:tokenize=zh",
        "chrf",
    ]
    with pytest.raises(UserError, match="metric 'mae' reads numbers"):
        score(metrics=["mae"])
