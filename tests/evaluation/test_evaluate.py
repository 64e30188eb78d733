import json
import shutil

import pytest
from shop import dialogues, shop_assistant
from tiny import DIALOGUES

from gptft.errors import GptftError, UserError
from gptft.evaluation import evaluate
from gptft.evaluation.predictions import predict
from gptft.models.loading import load_model
from gptft.recipe import dump_recipe, load_recipe
from gptft.runs import Run
from gptft.tasks import make_task

GENERATION = {"generation": {"max_new_tokens": 20, "do_sample": False}}


@pytest.fixture(scope="session")
def assistant_folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("assistant")
    shop_assistant().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(write_recipe):
    def write(rows=None, **sections):
        return write_recipe(
            rows or dialogues()[:12], **{"evaluation": GENERATION, "data": {"test": "train.jsonl"}} | sections
        )

    return write


@pytest.fixture
def run(recipe, tmp_path, assistant_folder, base_folder):
    """A finished run, made by hand: from the tiny base to the shop's assistant."""

    def make(model=True, state="finished", **sections):
        written = recipe(**sections)
        folder = tmp_path / "runs" / "bot-20261123-101500"
        folder.mkdir(parents=True)
        run = Run(folder)
        run.recipe_file.write_text(dump_recipe(written), encoding="utf-8")
        run.update_manifest(state=state, base={"requested": "b", "used": str(base_folder), "revision": None})
        run.set_latest()
        if model:
            shutil.copytree(assistant_folder, run.model)
        return run

    return make


@pytest.fixture
def score(tmp_path):
    def call(target=None, **options):
        return evaluate(target, runs=tmp_path / "runs", **options)

    return call


def test_a_run_is_scored_beside_its_base_and_keeps_both(run, score, base_folder):
    made = run()
    result = score()
    assert (result.model, result.base, result.split) == (str(made.model), str(base_folder), "test")
    assert [one.name for one in result.scores] == ["bleu", "chrf", "exact_match", "stop_rate", "perplexity"]
    assert [one.name for one in result.base_scores] == [one.name for one in result.scores]
    values, base = ({one.name: one.value for one in scores} for scores in (result.scores, result.base_scores))
    assert values["perplexity"] < base["perplexity"] / 10
    assert values["stop_rate"] == 1 and base["stop_rate"] == 0
    assert result.folder == made.evaluation("test")
    kept = json.loads((result.folder / "scores.json").read_text())
    assert kept == json.loads(json.dumps(result.to_dict()))
    assert (kept["model"], kept["base_model"], kept["split"], kept["confidence"]) == (
        *map(str, (made.model, base_folder)),
        "test",
        0.95,
    )
    assert kept["scores"]["bleu"].keys() >= {"value", "low", "high", "rows", "definition"}
    assert kept["base"]["bleu"]["rows"] == kept["scores"]["bleu"]["rows"] == 12
    rows = [json.loads(line) for line in (result.folder / "predictions.jsonl").open()]
    right = sum(row["prediction"] == row["references"][0] for row in rows) / len(rows)
    assert right == values["exact_match"]
    assert [row["origin"] for row in rows][:2] == ["train.jsonl:1#1", "train.jsonl:2#1"]
    assert {row["stopped"] for row in rows} == {True}
    assert rows[0]["base_prediction"] != rows[0]["prediction"]


def test_the_base_can_be_left_out(run, score):
    run()
    result = score(compare_base=False, metrics=["exact_match"])
    assert (result.base, result.base_scores) == (None, [])
    assert json.loads((result.folder / "scores.json").read_text())["base"] is None
    assert "base_prediction" not in json.loads((result.folder / "predictions.jsonl").open().readline())


def test_a_base_that_is_gone_is_said_and_the_model_is_scored(run, score, capsys):
    made = run()
    made.update_manifest(base={"requested": "x", "used": "./go[ne]", "revision": None})
    result = score(metrics=["perplexity"])
    assert result.scores and not result.base_scores and result.base is None
    said = " ".join(capsys.readouterr().err.split())
    assert "The base is not compared with: ./go[ne]" in said


def test_no_answers_are_made_where_no_metric_reads_them(run, score, monkeypatch):
    run()
    monkeypatch.setattr("gptft.evaluation.predictions.generate_answers", None)
    result = score(metrics=["perplexity", "perplexity"], compare_base=False)
    assert [one.name for one in result.scores] == ["perplexity"]
    assert not (result.folder / "predictions.jsonl").exists()


def test_the_split_is_the_test_split_else_the_validation_split(run, score, recipe, assistant_folder):
    run(data={"test": "train.jsonl", "validation": "train.jsonl"})
    options = {"metrics": ["perplexity"], "compare_base": False}
    assert score(**options).split == "test"
    assert score(split="validation", **options).split == "validation"
    with pytest.raises(UserError, match="--split train: the recipe bot has test and validation"):
        score(split="train")
    only = recipe(data={"validation": 0.3})
    result = score(str(assistant_folder), recipe=only, **options)
    assert (result.split, result.folder) == ("validation", None)
    assert 0 < result.scores[0].rows < 12
    with pytest.raises(UserError, match="no held-out rows"):
        score(str(assistant_folder), recipe=recipe(data={}))


def test_a_model_that_is_no_run_needs_a_recipe(score, recipe, assistant_folder, base_folder):
    with pytest.raises(UserError, match=r"brings no data to score on.*--recipe"):
        score(str(assistant_folder))
    result = score(str(assistant_folder), recipe=recipe(), metrics=["stop_rate"])
    assert result.base == str(base_folder)
    assert (result.scores[0].value, result.base_scores[0].value) == (1, 0)


def test_the_base_is_not_compared_with_itself(score, recipe, base_folder, monkeypatch):
    monkeypatch.chdir(base_folder.parent)
    for name in (str(base_folder), base_folder.name, f"./{base_folder.name}/"):
        assert score(name, recipe=recipe(), metrics=["perplexity"]).base_scores == []


def test_a_pretraining_has_no_answers_to_score(score, recipe, assistant_folder):
    plain = recipe([{"text": "Some words. " * 20}, {"text": "Other words."}], task="pretraining", evaluation={})
    for metric in ("bleu", "stop_rate", "rouge"):
        with pytest.raises(UserError, match=r"compares answers, which the task pretraining has not: use perplexity"):
            score(str(assistant_folder), recipe=plain, metrics=[metric])
    result = score(str(assistant_folder), recipe=plain, compare_base=False)
    assert [one.name for one in result.scores] == ["perplexity", "bits_per_byte"]


def test_at_most_so_many_answers_but_perplexity_of_all_rows(run, score):
    run(evaluation={**GENERATION, "max_rows": 5})
    names = ["exact_match", "perplexity"]
    rows = {one.name: one.rows for one in score(metrics=names, compare_base=False).scores}
    assert rows == {"exact_match": 5, "perplexity": 12}
    first = [
        json.loads(line)["origin"] for line in (score(metrics=names, max_rows=3).folder / "predictions.jsonl").open()
    ]
    again = [
        json.loads(line)["origin"] for line in (score(metrics=names, max_rows=3).folder / "predictions.jsonl").open()
    ]
    assert len(first) == 3 and first == again


def test_a_run_without_a_model_says_how_to_get_one(run, score):
    run(model=False, state="stopped")
    with pytest.raises(UserError, match=r"has no model yet \(it is stopped\).*--resume"):
        score()


def test_answers_follow_the_recipes_settings_and_their_prompts(recipe, assistant_folder):
    from rich.console import Console

    from gptft.data import load_splits

    loaded, written = load_model(str(assistant_folder)), recipe(DIALOGUES[:9])
    predictions, prompts = predict(
        loaded,
        make_task(written, loaded.model.config),
        written,
        load_splits(written, ("test",)),
        "test",
        needs={"answers", "likelihoods"},
        max_rows=None,
        console=Console(stderr=True),
        label="it",
    )
    assert [prompt.origin for prompt in prompts] == [f"train.jsonl:{line}#1" for line in range(1, 10)]
    assert len(predictions.predictions) == len(predictions.token_counts) == 9
    assert predictions.token_counts[0] == len("It is 0") + 1
    assert predictions.references[1] == ["It is so 1"]


def test_the_base_gets_what_training_gave_it(run, score, monkeypatch):
    """A setting of the configuration that changes what the base says holds in its scores too."""
    made = run()
    plain = score(metrics=["perplexity"]).base_scores[0].value
    text = dump_recipe(load_recipe(made.recipe_file, ["model.config.scale_attn_by_inverse_layer_idx=true"]))
    made.recipe_file.write_text(text, encoding="utf-8")
    assert score(metrics=["perplexity"]).base_scores[0].value != plain


def kept_scores(folder):
    return json.loads((folder / "scores.json").read_text())


def test_a_partial_evaluation_keeps_the_other_scores(run, score):
    run()
    whole = kept_scores(score(metrics=["exact_match", "perplexity"]).folder)
    kept = kept_scores(score(metrics=["exact_match", "bleu"], compare_base=False, max_rows=3).folder)
    assert list(kept["scores"]) == ["exact_match", "perplexity", "bleu"]
    assert {name: one["rows"] for name, one in kept["scores"].items()} == {
        "exact_match": 3,
        "perplexity": 12,
        "bleu": 3,
    }
    assert kept["scores"]["perplexity"] == whole["scores"]["perplexity"]
    assert (kept["base"], kept["base_model"]) == (whole["base"], whole["base_model"])
    kept = kept_scores(score(metrics=["bleu"]).folder)
    assert kept["base"].keys() == kept["scores"].keys() == {"exact_match", "perplexity", "bleu"}


def test_scores_of_other_rows_are_not_kept(run, score, tmp_path):
    run()
    score(metrics=["perplexity"], compare_base=False)
    data = tmp_path / "train.jsonl"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:7]))
    kept = kept_scores(score(metrics=["exact_match"], compare_base=False).folder)
    assert {name: one["rows"] for name, one in kept["scores"].items()} == {"exact_match": 7}


def test_another_recipe_gives_a_run_its_rows_and_nothing_else(run, score, tmp_path, monkeypatch):
    made = run(model={"config": {"scale_attn_by_inverse_layer_idx": True}})
    own = score()
    before = (own.folder / "scores.json").read_bytes()
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dialogues()[:12]))
    other = tmp_path / "other.yaml"
    other.write_text(
        json.dumps(
            {
                "task": "dialogue",
                "model": {"base": "elsewhere/nothing"},
                "data": {"train": "train.jsonl", "validation": "more.jsonl"},
                "evaluation": {"metrics": ["perplexity", "stop_rate"], "generation": {"max_new_tokens": 1}},
            }
        )
    )
    result = score(recipe=load_recipe(other))
    assert result.folder == made.folder / "eval" / "other-validation"
    assert (own.folder / "scores.json").read_bytes() == before
    # The rows are the same, so the scores are too, if model, base and generation are.
    for ours, theirs in ((result.scores, own.scores), (result.base_scores, own.base_scores)):
        values = {one.name: one.value for one in theirs}
        assert {one.name: one.value for one in ours} == {name: values[name] for name in ("perplexity", "stop_rate")}


def test_a_mistyped_metric_fails_before_anything_is_loaded(run, score, monkeypatch, tmp_path):
    run()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("gptft.data.load_splits", None)
    monkeypatch.setattr("gptft.models.loading.load_model", None)
    with pytest.raises(GptftError, match=r"metric 'blue' is not built in.*Did you mean 'bleu'\?"):
        score(metrics=["exact_match", "blue"])


def test_what_the_model_said_is_kept_when_the_base_fails(run, score, monkeypatch, tmp_path):
    made = run()

    def predict_or_stop(*arguments, label, **options):
        if label.startswith("base"):
            raise KeyboardInterrupt
        return predict(*arguments, label=label, **options)

    monkeypatch.setattr("gptft.evaluation.predictions.predict", predict_or_stop)
    with pytest.raises(KeyboardInterrupt):
        score()
    kept = kept_scores(made.evaluation("test"))
    assert kept["scores"]["bleu"]["rows"] == 12 and kept["base"] is None
    assert len((made.evaluation("test") / "predictions.jsonl").read_text().splitlines()) == 12


def test_rows_of_the_split_that_are_in_train_are_told(run, score, capsys):
    run()
    score(metrics=["perplexity"], compare_base=False)
    assert "data.test: 12 of 12 rows are also in train" in " ".join(capsys.readouterr().err.split())
