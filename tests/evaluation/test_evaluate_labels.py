"""Classifications scored: what plain transformers says of the same rows, and the base before its first step."""

import json

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from gptft.errors import UserError
from gptft.evaluation import evaluate
from gptft.models.classes import NUMBER, SEVERAL, Classes, label_tokens
from gptft.training.finetune import finetune
from gptft.training.preparation import prepare

LABELS = ("bad", "good", "还行")
ROWS = [
    {"text": f"{word} {number}" * (1 + number % 3), "label": LABELS[number % 3]}
    for number, word in enumerate(("dull", "fine", "一般", "poor", "great", "尚可") * 3)
]


@pytest.fixture
def recipe(write_recipe, lively_folder):
    def write(rows=ROWS, data=(), **sections):
        sections = {"task": "classification", "model": {"base": str(lively_folder)}, **sections}
        return write_recipe(rows, data={"test": "train.jsonl", **dict(data)}, **sections)

    return write


@pytest.fixture
def score(tmp_path):
    def call(target=None, **options):
        return evaluate(target, runs=tmp_path / "runs", **options)

    return call


def plain_logits(model, tokenizer, prompts):
    """Of the last token of each text, alone: no batch, no padding."""
    with torch.no_grad():
        rows = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in prompts]
    return torch.stack([row[-1] if row.dim() > 1 else row for row in rows])


def lines(result):
    return [json.loads(line) for line in (result.folder / "predictions.jsonl").open(encoding="utf-8")]


def test_a_new_head_is_scored_as_transformers_has_it_and_its_base_as_before_the_first_step(
    recipe, score, tmp_path, tokenizer
):
    written = recipe(training={"max_steps": 6, "learning_rate": 1e-2, "seed": 3, "eval_strategy": "no"})
    run = finetune(written, runs=tmp_path / "runs", console=Console(quiet=True))
    result = score()
    rows, scores = lines(result), {one.name: one.value for one in result.scores}
    texts = [row["text"] for row in ROWS]
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    shares = plain_logits(model, tokenizer, texts).softmax(-1)
    assert [row["prediction"] for row in rows] == [model.config.id2label[index] for index in shares.argmax(-1).tolist()]
    assert [row["confidence"] for row in rows] == pytest.approx(shares.max(-1).values.tolist(), abs=1e-5)
    assert [row["references"] for row in rows] == [[row["label"]] for row in ROWS]
    assert [row["prompt"] for row in rows] == texts
    assert scores["accuracy"] == sum(row["correct"] for row in rows) / len(rows)
    assert list(scores) == ["accuracy", "f1", "mcc", "calibration_error"]
    # What training began with, head and all.
    begun = prepare(written, Console(quiet=True)).loaded.model
    shares = plain_logits(begun.eval(), tokenizer, texts).softmax(-1)
    assert [row["base_confidence"] for row in rows] == pytest.approx(shares.max(-1).values.tolist(), abs=1e-5)
    assert [row["base_prediction"] for row in rows] == [LABELS[index] for index in shares.argmax(-1).tolist()]
    assert {one.name: one.value for one in result.base_scores}["accuracy"] != scores["accuracy"]
    kept = json.loads((result.folder / "scores.json").read_text(encoding="utf-8"))
    assert kept["report"]["confusion_matrix"]["labels"] == sorted(LABELS)
    assert sum(map(sum, kept["report"]["confusion_matrix"]["matrix"])) == len(ROWS)
    assert (result.folder / "confusion_matrix.png").is_file()
    assert 'class="matrix"' in (result.folder.parent.parent / "report.html").read_text()


def test_the_language_models_own_head_gives_labels_by_their_tokens(recipe, score, write_model, write_run, tokenizer):
    written = recipe(classification={"head": "lm"}, template={"prompt": "{text}\nIt is"})
    tokens = (98, 103, 72)
    run = write_run(written, write_model(written, Classes(LABELS, token_ids=tokens)))
    rows = lines(score(metrics=["accuracy"]))
    model = AutoModelForCausalLM.from_pretrained(run.model)
    assert model.config.gptft["classes"]["token_ids"] == list(tokens)
    logits = plain_logits(model, tokenizer, [row["text"] + "\nIt is" for row in ROWS])
    shares = logits[:, list(tokens)].softmax(-1)
    assert [row["prediction"] for row in rows] == [LABELS[index] for index in shares.argmax(-1).tolist()]
    assert [row["confidence"] for row in rows] == pytest.approx(shares.max(-1).values.tolist(), abs=1e-5)
    assert len({row["prediction"] for row in rows}) > 1
    # The base, here the same weights, is asked for the tokens that training would have chosen.
    chosen = logits[:, list(label_tokens(tokenizer, LABELS, {}))].argmax(-1).tolist()
    assert [row["base_prediction"] for row in rows] == [LABELS[index] for index in chosen]


def test_several_labels(recipe, score, write_model, write_run, tokenizer):
    rows = [{**row, "label": [LABELS[i] for i in range(3) if (number >> i) & 1]} for number, row in enumerate(ROWS)]
    settings = {"problem_type": SEVERAL, "threshold": 0.6, "labels": list(LABELS)}
    written = recipe(rows, classification=settings)
    run = write_run(written, write_model(written, Classes(LABELS, SEVERAL, threshold=0.6)))
    result = score(compare_base=False)
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    shares = plain_logits(model, tokenizer, [row["text"] for row in rows])
    expected = [
        [name for name, one in zip(LABELS, row, strict=True) if one >= 0.6] for row in shares.sigmoid().tolist()
    ]
    assert [row["prediction"] for row in lines(result)] == expected
    assert 0 < sum(map(len, expected)) < 3 * len(rows)
    right = [set(said) == set(row["label"]) for said, row in zip(expected, rows, strict=True)]
    values = {one.name: one.value for one in result.scores}
    assert list(values) == ["accuracy", "f1", "f1:average=micro"] and values["accuracy"] == sum(right) / len(rows)
    assert "confusion_matrix" not in result.report and not (result.folder / "confusion_matrix.png").exists()


def test_numbers(recipe, score, write_model, write_run, tokenizer):
    rows = [{"text": row["text"], "label": number / 7} for number, row in enumerate(ROWS)]
    written = recipe(rows, classification={"problem_type": NUMBER})
    run = write_run(written, write_model(written, Classes(("LABEL_0",), NUMBER)))
    result = score(compare_base=False)
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    said = plain_logits(model, tokenizer, [row["text"] for row in rows])
    errors = [abs(one - row["label"]) for one, row in zip(said[:, 0].tolist(), rows, strict=True)]
    values = {one.name: one.value for one in result.scores}
    assert list(values) == ["mae", "mse", "pearsonr"]
    assert values["mae"] == pytest.approx(sum(errors) / len(errors), abs=1e-5)
    assert result.report is None and "report" not in result.to_dict()


def test_a_metric_by_name_has_the_recipes_options_and_unfit_ones_are_refused(recipe, score, write_model, write_run):
    written = recipe(evaluation={"metrics": ["f1:average=weighted"]})
    write_run(written, write_model(written, Classes(LABELS)))
    options = {"compare_base": False}
    names = [one.name for one in score(metrics=["f1", "accuracy"], **options).scores]
    assert names == ["f1:average=weighted", "accuracy"]
    [one] = score(metrics=["f1:average=micro"], **options).scores
    assert one.name == "f1:average=micro" and "average=micro" in one.definition
    with pytest.raises(UserError) as caught:
        score(metrics=["accuracy", "bleu", "mae", "hit_at_k", "perplexity"], **options)
    said = str(caught.value).splitlines()
    assert len(said) == 4 and "accuracy" in said[0].partition("has not: use ")[2]
    for line, name in zip(said, ("bleu", "mae", "hit_at_k", "perplexity"), strict=True):
        assert line.startswith(f"metric '{name}'") and "classification" in line


def test_a_classifier_that_gptft_did_not_train_can_be_scored(recipe, score, tmp_path, tokenizer, base_folder):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    names = dict(enumerate(LABELS))
    settings = GPT2Config.from_pretrained(base_folder, num_labels=3, id2label=names, initializer_range=0.3)
    torch.manual_seed(0)
    GPT2ForSequenceClassification(settings).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    chosen = plain_logits(model, tokenizer, [row["text"] for row in ROWS]).argmax(-1).tolist()
    right = sum(LABELS[index] == row["label"] for index, row in zip(chosen, ROWS, strict=True))
    [one] = score(str(tmp_path / "plain"), recipe=recipe(), metrics=["accuracy"], compare_base=False).scores
    assert one.value == right / len(ROWS)


def test_models_of_another_task_are_refused(recipe, score, write_model, write_recipe, lively_folder):
    with pytest.raises(UserError, match="gives no labels"):
        score(str(lively_folder), recipe=recipe())
    classifier = write_model(recipe(), Classes(LABELS))
    dialogue = write_recipe(data={"test": "train.jsonl"})
    with pytest.raises(UserError, match=r"has a head for labels .* cannot be used for dialogue"):
        score(str(classifier), recipe=dialogue)
