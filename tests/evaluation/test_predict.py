"""Labels and completions for new texts and files: the same as an evaluation gives, and what is wrong is told."""

import csv
import io
import json
import unicodedata

import pytest
import torch
from tiny import make_model

from gptft.errors import UserError
from gptft.evaluation import evaluate
from gptft.evaluation.predict import Predictor, predict_file
from gptft.models.classes import NUMBER, SEVERAL, Classes
from gptft.models.loading import load_model, save_model

LABELS = ("bad", "good", "还行")
TEXTS = ["dull", "all right then", "一般 般", "café au lait", "two\nlines", " spaces "]


@pytest.fixture
def predictor(write_recipe, write_model, lively_folder):
    """Make a predictor of a model that was not trained but says other things of other texts."""

    def make(classes=None, task="classification", columns=None, **sections):
        rows = [{"text": "a", "title": "b", "label": "good"}, {"text": "c", "title": "b", "label": "bad"}]
        sections = {"model": {"base": str(lively_folder)}, **sections}
        rows = rows if task == "classification" else [{"prompt": "a", "completion": "b"}]
        folder = write_model(write_recipe(rows, task=task, **sections), classes)
        return Predictor(load_model(str(folder)), columns)

    return make


def test_a_text_has_the_label_that_an_evaluation_gives_it(
    write_recipe, write_model, write_run, lively_folder, tmp_path
):
    rows = [{"text": text, "label": LABELS[number % 3]} for number, text in enumerate(TEXTS)]
    prompt = {"prompt": "Text: {text}\nIt is"}
    written = write_recipe(
        rows, task="classification", model={"base": str(lively_folder)}, data={"test": "train.jsonl"}, template=prompt
    )
    run = write_run(written, write_model(written, Classes(LABELS)))
    result = evaluate(runs=tmp_path / "runs", metrics=["accuracy"], compare_base=False)
    scored = [json.loads(line) for line in (result.folder / "predictions.jsonl").open(encoding="utf-8")]
    # Written otherwise, as a user may: letters apart from their accents, other line ends.
    typed = [unicodedata.normalize("NFD", text).replace("\n", "\r\n") for text in TEXTS]
    answers = Predictor(load_model(str(run.model))).texts(typed)
    assert [answer.prediction for answer in answers] == [row["prediction"] for row in scored]
    assert [answer.confidence for answer in answers] == pytest.approx([row["confidence"] for row in scored], abs=1e-6)
    assert len({answer.prediction for answer in answers}) > 1
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.confidence == max(answer.probabilities.values()) == answer.probabilities[answer.prediction]


def test_several_labels_are_those_that_reach_the_threshold(predictor):
    said = predictor(Classes(LABELS, SEVERAL), classification={"problem_type": SEVERAL}).texts(TEXTS)
    for answer in said:
        assert answer.prediction == [name for name, share in answer.probabilities.items() if share >= 0.5]


def test_a_number_has_no_confidence(predictor, write_recipe):
    answers = predictor(Classes(("LABEL_0",), NUMBER)).texts(TEXTS)
    assert all(isinstance(answer.prediction, float) for answer in answers)
    assert {(answer.confidence, len(answer.probabilities)) for answer in answers} == {(None, 0)}


def test_completions_are_what_generation_gives(predictor, tokenizer, monkeypatch):
    monkeypatch.setattr("gptft.models.precision.resolve_dtype", lambda: torch.float32)
    settings = {"evaluation": {"generation": {"max_new_tokens": 5, "do_sample": False}}}
    made = predictor(None, "completion", template={"prompt": "In: {prompt}\nOut:"}, **settings)
    made.loaded.model.generation_config.max_new_tokens = 5
    answers = made.texts(["one", "二"])
    for text, answer in zip(("one", "二"), answers, strict=True):
        ids = torch.tensor([tokenizer(f"In: {text}\nOut:")["input_ids"]])
        said = made.loaded.model.generate(ids, attention_mask=ids * 0 + 1, max_new_tokens=5, do_sample=False)
        assert answer.prediction == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert (answers[0].confidence, answers[0].probabilities) == (None, {})


def test_a_file_comes_back_with_the_answers(predictor, tmp_path):
    made = predictor(Classes(LABELS), columns={"text": "review"})
    (tmp_path / "in.csv").write_text('id,review\n7,dull\n8,"一般, ""so"""\n', encoding="utf-8")
    expected = made.texts(["dull", '一般, "so"'])
    rows = list(csv.DictReader(io.StringIO(predict_file(made, tmp_path / "in.csv", as_csv=True))))
    assert [list(row) for row in rows] == [["id", "review", "prediction", "confidence"]] * 2
    assert [(row["id"], row["review"]) for row in rows] == [("7", "dull"), ("8", '一般, "so"')]
    assert [row["prediction"] for row in rows] == [answer.prediction for answer in expected]
    assert [float(row["confidence"]) for row in rows] == pytest.approx([one.confidence for one in expected], abs=1e-5)
    (tmp_path / "in.jsonl").write_text('{"review": "dull", "n": [1]}\n{"review": "一般"}\n', encoding="utf-8")
    lines = [json.loads(line) for line in predict_file(made, tmp_path / "in.jsonl", as_csv=False).splitlines()]
    assert [list(line) for line in lines] == [
        ["review", "n", "prediction", "confidence"],
        ["review", *list(lines[1])[1:]],
    ]
    assert lines[0]["n"] == [1] and lines[0]["prediction"] == expected[0].prediction


def test_several_labels_in_a_csv_are_separated_as_they_are_read(predictor, tmp_path):
    made = predictor(Classes(LABELS, SEVERAL, threshold=0.01))
    (tmp_path / "in.csv").write_text("text\ndull\n", encoding="utf-8")
    [row] = csv.DictReader(io.StringIO(predict_file(made, tmp_path / "in.csv", as_csv=True)))
    assert row["prediction"].split("|") == made.texts(["dull"])[0].prediction != []


def test_a_template_of_several_columns_wants_rows(predictor):
    made = predictor(Classes(LABELS), template={"prompt": "{title}: {text}"})
    with pytest.raises(UserError, match=r"reads 2 columns \(title, text\): give rows with --file"):
        made.texts(["x"])
    one, other = made.rows([{"title": "a", "text": "dull"}, {"text": "dull", "title": "a", "more": 1}])
    assert one == other
    with pytest.raises(UserError, match=r"row 2: the row has no column title; it has text"):
        made.rows([{"title": "a", "text": "x"}, {"text": "x"}])


def test_a_text_that_is_empty_is_told_by_its_row(predictor):
    made = predictor(Classes(LABELS))
    with pytest.raises(UserError, match="row 2 has no text"):
        made.texts(["x", ""])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("no.csv", None, "no such file"), ("in.csv", "text\n", "empty, or has no row"), ("in.jsonl", "{", "in.jsonl:1: ")],
)
def test_a_file_that_cannot_be_read_is_told(predictor, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        predict_file(predictor(Classes(LABELS)), tmp_path / name, as_csv=True)


def test_a_dialogue_model_is_for_talking_and_a_base_for_training(write_recipe, write_model, lively_folder):
    folder = write_model(write_recipe(model={"base": str(lively_folder)}))
    with pytest.raises(UserError, match=r"trained with task dialogue: talk to it with `gptft chat"):
        Predictor(load_model(str(folder)))
    with pytest.raises(UserError, match="gives no labels"):
        Predictor(load_model(str(lively_folder)))


def test_a_classifier_of_plain_transformers_works(tmp_path, tokenizer):
    from transformers import GPT2ForSequenceClassification, pipeline

    settings = make_model().config
    settings.num_labels, settings.initializer_range = 3, 0.5
    settings.id2label = dict(enumerate(LABELS))
    model = GPT2ForSequenceClassification(settings).eval()
    save_model(model, tokenizer, tmp_path)
    assert not hasattr(settings, "gptft")
    answers = Predictor(load_model(str(tmp_path))).texts(TEXTS)
    plain = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    expected = [plain(text)[0] for text in TEXTS]
    assert [answer.prediction for answer in answers] == [row["label"] for row in expected]
    assert [answer.confidence for answer in answers] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    assert len({row["label"] for row in expected}) > 1
