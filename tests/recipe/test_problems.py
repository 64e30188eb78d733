"""Each mistake a recipe can have: which key and line it is reported at, and in which words."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any, Literal

import pytest

from gptft.errors import RecipeError
from gptft.recipe import fields, load_recipe
from gptft.recipe.class_source import to_type

from .conftest import GOOD


def test_many_mistakes_are_reported_at_once_with_their_lines(problems, tmp_path):
    text = """\
task: dialog
model:
  base: starter
  learning_rate: 5e-5
data:
  train: nothere.jsonl
training:
  num_train_epochs: many
  warmup_ratio: 0.1
evaluation:
  metrics: [blue]
"""
    found = [(problem.where.removeprefix(f"{tmp_path}/"), problem.key) for problem in problems(text)]
    assert found == [
        ("bot.yaml:1", "task"),
        ("bot.yaml:4", "model.learning_rate"),
        ("bot.yaml:6", "data.train"),
        ("bot.yaml:8", "training.num_train_epochs"),
        ("bot.yaml:9", "training.warmup_ratio"),
        ("bot.yaml:11", "evaluation.metrics.0"),
    ]


@pytest.mark.parametrize(
    ("lines", "key", "message"),
    [
        # unknown keys
        ("training: {learning_rat: 1}", "training.learning_rat", "did you mean `learning_rate`?"),
        ("training: {max_lenght: 1}", "training.max_lenght", "did you mean `data.max_length`?"),
        ("training: {batch_size: 4}", "training.batch_size", "`per_device_train_batch_size`"),
        ("training: {max_new_tokens: 4}", "training.max_new_tokens", "belongs in `evaluation.generation:`"),
        ("learning_rate: 1e-4", "learning_rate", "belongs in `training:`"),
        ("epochs: 3", "epochs", "did you mean `training.num_train_epochs`?"),
        ("training: {task: dialogue}", "training.task", "belongs at the top"),
        ("zzz: 3", "zzz", "expected name, description, task"),
        ("adapter: {type: lora, alpha: 3}", "adapter.alpha", "did you mean `lora_alpha`"),
        ("3: 4", "3", "Keys should be strings"),
        # what transformers 5 or gptft does not take
        ("training: {evaluation_strategy: epoch}", "training.evaluation_strategy", "use `eval_strategy`"),
        ("warmup_ratio: 0.1", "warmup_ratio", "use `warmup_steps`"),
        ("training: {output_dir: x}", "training.output_dir", "each run has a folder of its own"),
        ("output_dir: x", "output_dir", "cannot be set in a recipe"),
        ("training: {bf16: true}", "training.bf16", "`model.dtype`"),
        ("training: {push_to_hub: true}", "training.push_to_hub", "say under `hub:` where"),
        ("evaluation: {generation: {eos_token_id: 1}}", "evaluation.generation.eos_token_id", "tokenizer"),
        ("adapter: {type: lora, task_type: CAUSAL_LM}", "adapter.task_type", "cannot be set"),
        # values
        ("training: {seed: 1.5}", "training.seed", "found 1.5, expected a whole number"),
        ("training: {learning_rate: '5e-5'}", "training.learning_rate", "found the text '5e-5', expected a number"),
        ("training: {learning_rate: 0}", "training.learning_rate", "found 0, expected greater than 0"),
        ("training: {learning_rate: .inf}", "training.learning_rate", "expected a finite number"),
        ("training: {per_device_train_batch_size: 0}", "training.per_device_train_batch_size", "equal to 1"),
        (
            "training: {full_determinism: yes}",
            "training.full_determinism",
            "found the text 'yes', expected true or false",
        ),
        ("training: {lr_scheduler_type: cosin}", "training.lr_scheduler_type", "did you mean 'cosine'?"),
        ("training: {optim: adam}", "training.optim", "did you mean 'adamw_torch' or 'adamw_torch_fused'?"),
        ("training: {optim_target_modules: [a, 1]}", "training.optim_target_modules.1", "found 1, expected text"),
        ("training: 5", "training", "found 5, expected keys and values"),
        ("name: 2024", "name", "write it in quotes: '2024'"),
        ("name: a/b", "name", "should match pattern"),
        ("evaluation: {generation: {top_p: 2}}", "evaluation.generation.top_p", "expected less than or equal to 1"),
        ("evaluation: {max_rows: 0}", "evaluation.max_rows", "equal to 1"),
        ("adapter: {type: lora, r: 0}", "adapter.r", "equal to 1"),
        ("adapter: {type: loar}", "adapter.type", "did you mean 'lora'"),
        ("adapter: {type: zzz}", "adapter.type", "expected one of adalora"),
        ("adapter: {r: 8}", "adapter.type", "is missing: PEFT's name"),
        # settings that do not fit each other
        (
            "training: {metric_for_best_model: bleu}",
            "training.metric_for_best_model",
            "expected one of loss, perplexity: others are computed after training",
        ),
        # metrics
        ("evaluation: {metrics: [Perplexety]}", "evaluation.metrics.0", "did you mean 'perplexity'?"),
        ("evaluation: {metrics: [bleu, 'a b']}", "evaluation.metrics.1", "`evaluate.load`"),
    ],
)
def test_a_mistake_beside_a_good_recipe(problems, lines, key, message):
    found = [problem for problem in problems(GOOD + lines + "\n") if problem.key == key]
    assert len(found) == 1
    assert message in found[0].message
    assert ".yaml:" in found[0].where


def test_a_mistake_is_the_only_problem(problems):
    for lines in (
        "zzz: 3",
        "training: {bf16: true}",
        "training: {optim_target_modules: [1]}",
        "training: 5",
        "modle: {base: x}",
    ):
        assert len(problems(GOOD + lines + "\n")) == 1


@pytest.mark.parametrize("metric", ["bleurt", "rouge", "chr_f", "owner/metric", "./mine.py"])
def test_metrics_of_evaluate_pass(load, metric):
    assert load(GOOD + f"evaluation: {{metrics: [{metric}]}}\n").evaluation.metrics == [metric]


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("base: starter", "base: ./missing", "model.base", "no such folder"),
        ("base: starter", "base: a/b/c", "model.base", "no such folder"),
        ("base: starter", "base: train.jsonl", "model.base", "is a file"),
        ("base: starter", "base: null", "model.config", "give the shape"),
        ("base: starter", "base: starter\n  config: {n_layr: 4}", "model.config.n_layr", "did you mean `n_layer`"),
        ("base: starter", "base: gpt2\n  config: {vocab_size: 4}", "model.config.vocab_size", "cannot be set"),
        ("base: starter", "base: starter\n  revision: main", "model.revision", "on the Hub"),
        ("base: starter", "base: gpt2\n  config: [1]", "model.config", "expected keys and values"),
        ("base: starter", "base: starter\nadapter: {type: [lora], alpha: 1}", "adapter.type", "expected text"),
        ("task: dialogue", "task: [dialogue]", "task", "expected"),
        ("task: dialogue", "task: {a: b}\nevaluation: {metrics: [[bleu], {a: b}, 1, null]}", "task", "expected"),
        ("validation: 0.1\n", "validation: 0.1\ntraining: {metric_for_best_model: f1}\n"
         "evaluation: {during_training: 2, metrics: [[bleu], 1]}", "training.metric_for_best_model", "others are"),
        ("base: starter", "bse: starter", "model.bse", "did you mean `base`?"),
        ("task: dialogue\n", "", "task", "is missing"),
        ("task: dialogue", "task: pretraining\nevaluation: {metrics: [bleu]}", "evaluation.metrics.0", "perplexity"),
        ("train: train.jsonl", "train: data.csv", "data.train", "no such file or folder"),
        ("train: train.jsonl", "train: '*.csv'", "data.train", "no data file matches"),
        ("train: train.jsonl", "train: empty.jsonl", "data.train", "nothing in it"),
        ("train: train.jsonl", "train: bot.yaml", "data.train", "no data file (.jsonl"),
        ("train: train.jsonl", "train: folder", "data.train", "the folder has no data file"),
        ("train: train.jsonl", "train: folder/corpus", "data.train", "no such file or folder"),
        ("train: train.jsonl", "train: $NOT_SET/a.jsonl", "data.train", "$NOT_SET is not set"),
        ("train: train.jsonl", "train: []", "data.train", "at least 1"),
        ("train: train.jsonl", "train: [a.jsonl, {path: b.jsonl}]", "data.train.1.path", "no such file"),
        ("train: train.jsonl", "train: {path: train.jsonl, weigth: 2}", "data.train.weigth", "`weight`"),
        ("train: train.jsonl", "train: {path: train.jsonl, split: x}", "data.train.split", "on the Hub"),
        ("validation: 0.1", "validation: 1.5", "data.validation", "found 1.5, expected less than 1"),
        ("validation: 0.1", "validation: 0.6\n  test: 0.5", "data.validation", "nothing is left"),
        ("validation: 0.1", "test: [{paht: a}]", "data.test.0.paht", "did you mean `path`"),
        ("validation: 0.1", "columns: {question: prompt}", "data.columns.question", "expected 'messages', "),
        ("validation: 0.1\n", "test: 0.1\ntraining: {eval_strategy: epoch}", "training.eval_strategy", "no data.valid"),
        ("validation: 0.1\n", "test: 0.1\ntraining: {load_best_model_at_end: true}", "training.load_best_model_at_end",
         "no data.validation"),
        ("base: starter", "base: null\n  config: {n_positions: 64}\nadapter: {type: lora}", "adapter", "from scratch"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_recipe(problems, tmp_path, old, new, key, message):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    found = [problem for problem in problems(GOOD.replace(old, new)) if problem.key == key]
    assert len(found) == 1 and message in found[0].message


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", None, "task, model and data"),
        (b"# only a comment\n", None, "task, model and data"),
        (b"- a\n- b\n", None, "no `key: value`"),
        (b"\xff\xfe\x00", None, "UTF-8"),
        (b"task: dialogue\nmodel: [a\n", 3, "not valid YAML"),
        (b"task: dialogue\nmodel:\n\tbase: a\n", 3, "tab"),
        (b"task: a: b\n", 1, "mapping values"),
        (b"task: *x\n", 1, "undefined alias"),
        (b"a: 1\n---\nb: 2\n", 2, "another document"),
        (b"a: \x07\n", 1, "#x0007"),
        (b"a: " + b"[" * 2000, 1, "deep"),
        (
            b"x: &a0 [1]\n" + b"".join(b"x%d: &a%d [*a%d, *a%d, *a%d]\n" % (n, n + 1, n, n, n) for n in range(12)),
            None,
            "expand to too much",
        ),
        (b"a: &a [*a]\n", None, "expand to too much"),
        (b"a: " + b"x" * 300_000, None, "larger than 262,144 bytes"),
    ],
)
def test_what_is_no_recipe_at_all(tmp_path, content, line, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert line is None or problem.where == f"{path}:{line}"


def test_duplicate_keys_and_foreign_tags_are_problems(problems):
    first, second = problems(GOOD + "training: {}\ntask: pretraining\ndescription: !!python/name:os.system x\n")
    assert "second time (first on line 1)" in first.message and first.where.endswith(":8")
    assert "plain text or a number" in second.message and second.where.endswith(":9")


def test_merged_anchors_are_read(load):
    text = GOOD + "training: &t {seed: 1, max_steps: 3}\nevaluation: {generation: {<<: {num_beams: 2}, top_k: 3}}\n"
    assert load(text).evaluation.generation == {"num_beams": 2, "top_k": 3}


def test_a_missing_file_and_a_folder(tmp_path):
    for path, message in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)


def test_no_removed_argument_exists_and_every_managed_one_does():
    """Held against the real classes: a new transformers must not make these lists lie."""
    import peft
    import transformers

    real = set(inspect.signature(transformers.TrainingArguments).parameters)
    assert not real & set(fields.REMOVED)
    assert set(fields.MANAGED["training"]) <= real
    read = set(fields.fields_of("training") or {}) | set(fields.MANAGED["training"])
    assert read == real
    lora = set(inspect.signature(peft.LoraConfig).parameters)
    assert set(fields.fields_of("adapter", "lora") or {}) | set(fields.MANAGED["adapter"]) >= lora
    generation = {name for name in transformers.GenerationConfig().__dict__ if not name.startswith("_")}
    known = set(fields.fields_of("evaluation.generation") or {}) | set(fields.MANAGED["evaluation.generation"])
    assert known == generation
    gpt2 = set(inspect.signature(transformers.GPT2Config).parameters) - {"kwargs"}
    assert gpt2 <= set(fields.fields_of("model.config") or {}) | set(fields.MANAGED["model.config"])
    names = {kind.value.lower() for kind in peft.PeftType}
    assert set(fields.adapter_types()) <= names and len(names) - len(fields.adapter_types()) <= 2


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [("Optional[SomeClass]", Any), ("str | int", str | int), ("list[str] | None", list[str] | None), ("'int'", int),
     ("Union[Literal['a', 'b'], str]", Literal["a", "b"]), ("dict[str, SomeClass]", dict)],
)  # fmt: skip
def test_annotations_are_read_and_what_is_not_plain_lets_anything_through(annotation, expected):
    assert to_type(ast.parse(annotation, mode="eval").body, Path(__file__)) == expected
