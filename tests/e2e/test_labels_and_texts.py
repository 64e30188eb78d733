"""Classification and completion by the commands that a user types: fine-tune, score, predict, compare."""

import csv
import io
import json
import shutil
from pathlib import Path

import datasets
import pytest
from commands import Result, command, in_process

pytestmark = pytest.mark.e2e

KINDS = {"delivery": ("late parcel", "where is it", "快递"), "refund": ("money back", "wrong sum", "退款")}
TRAINING = {
    "max_steps": 12,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A folder with a base, two recipes and their data."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(base_folder, folder / "base")
    model = {"base": "base", "dtype": "float32"}
    rows = [(text, kind) for kind, texts in KINDS.items() for text in texts]
    for split, numbers in (("train", range(6)), ("test", range(6, 8))):
        lines = [["review", "label"], *([f"{text} {number}", kind] for number in numbers for text, kind in rows)]
        written = io.StringIO()
        csv.writer(written).writerows(lines)
        (folder / f"labels_{split}.csv").write_text(written.getvalue(), encoding="utf-8")
        pairs = [
            {"en": f"{text} {number}", "zh": "好的" if kind == "refund" else "不"}
            for text, kind in rows
            for number in numbers
        ]
        text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (folder / f"texts_{split}.jsonl").write_text(text, encoding="utf-8")
    labels = {
        "task": "classification",
        "model": model,
        "data": {"train": "labels_train.csv", "test": "labels_test.csv", "columns": {"text": "review"}},
        "training": TRAINING,
    }
    texts = {
        "task": "completion",
        "model": model,
        "data": {"train": "texts_train.jsonl", "test": "texts_test.jsonl"},
        "template": {"prompt": "{en}\n中文:", "completion": " {zh}"},
        "training": TRAINING,
        "evaluation": {
            "metrics": ["bleu:tokenize=zh", "chrf", "exact_match", "hit_at_k:k=1", "perplexity", "bits_per_byte"],
            "generation": {"max_new_tokens": 8, "do_sample": False},
        },
    }
    # JSON is YAML.
    (folder / "labels.yaml").write_text(json.dumps(labels), encoding="utf-8")
    (folder / "texts.yaml").write_text(json.dumps(texts), encoding="utf-8")
    return folder


def done(result: Result) -> str:
    """The output of a command that went well."""
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    return result.out


@pytest.fixture(scope="module")
def labels(place: Path) -> str:
    """A run of the classification, scored."""
    run = done(command(["finetune", "labels.yaml"], place)).strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
        done(in_process("eval", run))
    return run


def test_a_classification_is_trained_and_scored(place, labels):
    folder = place / labels / "eval" / "test"
    kept = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert list(kept["scores"]) == ["accuracy", "f1", "mcc", "calibration_error"] == list(kept["base"])
    assert kept["scores"]["accuracy"]["rows"] == 12
    assert kept["report"]["confusion_matrix"]["labels"] == sorted(KINDS)
    assert (folder / "confusion_matrix.png").is_file()


def test_predict_answers_a_file_as_an_evaluation_does(place, labels):
    said = [json.loads(line) for line in (place / labels / "eval/test/predictions.jsonl").open(encoding="utf-8")]
    written = command(["predict", labels, "--file", "labels_test.csv", "--output", "out.csv"], place)
    assert done(written) == "" and "out.csv" in written.err
    rows = list(csv.DictReader((place / "out.csv").open(encoding="utf-8")))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in said]
    assert [row["label"] for row in rows] == [row["references"][0] for row in said]
    assert list(rows[0]) == ["review", "label", "prediction", "confidence"]


def test_predict_needs_the_model_alone(place, labels, monkeypatch, tmp_path):
    """Not the rows that it was trained on, nor the recipe."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / labels, "runs/moved")
    recipe = Path("runs/moved/recipe.yaml")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(place), str(tmp_path / "gone")), encoding="utf-8")
    answer = json.loads(done(in_process("predict", "moved", "late parcel 3", "--json")))
    assert answer["prediction"] in KINDS and answer["probabilities"].keys() == KINDS.keys()
    plain = in_process("predict", "runs/moved/model", "late parcel 3")
    assert done(plain) == answer["prediction"] + "\n"
    assert "probabilities" in plain.err


def test_a_completion_is_trained_scored_and_asked(place, monkeypatch):
    run = done(command(["finetune", "texts.yaml"], place)).strip()
    result = json.loads(done(command(["eval", run, "--json"], place)))
    names = ["bleu:tokenize=zh", "chrf", "exact_match", "hit_at_k:k=1", "perplexity", "bits_per_byte"]
    assert list(result["scores"]) == names == list(result["base"])
    assert "tok:zh" in result["scores"]["bleu:tokenize=zh"]["definition"]
    assert result["scores"]["perplexity"]["value"] < result["base"]["perplexity"]["value"] / 3
    said = [json.loads(line) for line in (place / run / "eval/test/predictions.jsonl").open(encoding="utf-8")]
    assert said[0]["prompt"] == "late parcel 6\n中文:" and said[0]["references"] == ["不"]
    assert {row["rank"] for row in said} <= {1, 2}
    # The precision may be another, and with it what so little training says, so that only a text is expected.
    monkeypatch.chdir(place)
    assert done(in_process("predict", run, "late parcel 6")).endswith("\n")


def test_runs_are_compared_and_shown_side_by_side(place, labels, monkeypatch, own_cache):
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")
    other = done(in_process("finetune", "labels.yaml", "training.max_steps=1", "training.seed=7", "name=other")).strip()
    refused = in_process("compare", labels, other)
    assert refused.code == 2 and "has not been evaluated: gptft eval" in refused.message
    table = done(in_process("eval", labels, other, "--no-base"))
    for run in (labels, other):
        assert f"{Path(run).name} (test)" in table
    assert "different rows" not in table
    [found] = json.loads(done(in_process("compare", other, labels, "--metric", "accuracy", "--json")))
    scores = [
        json.loads((place / run / "eval/test/scores.json").read_text(encoding="utf-8")) for run in (other, labels)
    ]
    assert [found["a"], found["b"]] == [one["scores"]["accuracy"]["value"] for one in scores]
    shown = done(command(["compare", labels, other], place))
    assert "McNemar" in shown and "paired bootstrap" in shown and f"B: {Path(other).name}" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], ["Expected a text or a file"]),
        (["predict", "RUN", "a", "b"], ["Expected a text or a file"]),
        (["predict", "RUN", "--file", "no.csv"], ["no.csv", "no such file"]),
        (["predict", "RUN", "--file", "texts_test.jsonl"], ["row 1", "no column review", "en, zh"]),
        (["predict", "base", "x"], ["gives no labels"]),
        (["eval", "RUN", "--metric", "bleu"], ["'bleu'", "classification", "accuracy"]),
        (["eval", "RUN", "--metric", "f1:average=mean"], ["average", "macro, micro, weighted"]),
        (["eval", "RUN", "--metric", "meteor"], ["not built in", "--trust-remote-metric"]),
        (["eval", "base", "--recipe", "labels.yaml"], ["gives no labels"]),
        (["compare", "RUN", "nowhere"], ["nowhere is not a run"]),
        (["chat", "RUN", "--message", "hi"], ["gptft predict"]),
        (["finetune", "labels.yaml", "classification.head=lm", "classification.threshold=0.5"], ["out_of_scope"]),
    ],
)
def test_a_mistake_is_one_message(place, labels, monkeypatch, own_cache, arguments, words):
    monkeypatch.chdir(place)
    result = in_process(*[labels if word == "RUN" else word for word in arguments])
    assert (result.code, result.out) == (2, "")
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    assert "Traceback" not in result.err and "should not have" not in result.err
    for word in words:
        assert word in result.message
