"""Sections of tasks, templates, labels and metrics: which mistakes are found, and what a run keeps of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptft.errors import Problem
from gptft.recipe import Recipe, dump_recipe, load_recipe
from gptft.recipe.schema import DEFAULT_METRICS, PROBLEM_METRICS

TASKS = list(DEFAULT_METRICS)
LABELS, TEXTS = "classification", "completion"


def text(task: str, *lines: str, validation: bool = True) -> str:
    """A recipe of a task that is good but for `lines`."""
    held_out = ["  validation: 0.1"] * validation
    head = [f"task: {task}", "model: {base: starter}", "data:", "  train: train.jsonl", *held_out]
    return "\n".join([*head, *lines, ""])


@pytest.fixture
def problem(problems: Callable[..., list[Problem]]) -> Callable[..., Problem]:
    """The one problem that a recipe has."""

    def only(*arguments: Any, **options: Any) -> Problem:
        found = problems(text(*arguments, **options))
        assert len(found) == 1, found
        return found[0]

    return only


@pytest.mark.parametrize(
    ("task", "line", "key", "message"),
    [
        # sections of another task
        ("dialogue", "template: {prompt: '{a}'}", "template", "is read by the task classification or completion, but"),
        ("pretraining", "template: {truncation_side: left}", "template", "but the task is pretraining"),
        ("dialogue", "classification: {head: lm}", "classification", "by the task classification, but the task is dia"),
        (TEXTS, "classification: {labels: [a, b]}", "classification", "but the task is completion"),
        # templates
        (TEXTS, "template: {prompt: 'Say it'}", "template.prompt", "takes in no column: write one as {name}"),
        (TEXTS, "template: {completion: '{{a}}'}", "template.completion", "takes in no column"),
        (TEXTS, "template: {prompt: '{a.b}'}", "template.prompt", "{a.b} is no column's name; write {{ and }} for"),
        (TEXTS, "template: {prompt: '{a'}", "template.prompt", "'}'"),
        (TEXTS, "template: {prompt: '{}'}", "template.prompt", "is no column's name"),
        (TEXTS, "template: {prompts: '{a}'}", "template.prompts", "did you mean `prompt`?"),
        (TEXTS, "template: {truncation_side: middle}", "template.truncation_side", "expected 'left' or 'right'"),
        (LABELS, "template: {completion: '{a}'}", "template.completion", "labels, the column `label`, in its place"),
        # labels
        (LABELS, "classification: {head: lm, problem_type: multi_label_classification}", "classification.head",
         "multi_label_classification needs `head: sequence`"),
        (LABELS, "classification: {head: lm, problem_type: regression}", "classification.head", "needs `head: seq"),
        (LABELS, "classification: {label_words: {a: b}}", "classification.label_words", "`head: lm` only"),
        (LABELS, "classification: {language_model_weight: 0.5}", "classification.language_model_weight", "lm` only"),
        (LABELS, "classification: {threshold: 0.5}", "classification.out_of_scope", "so both are needed"),
        (LABELS, "classification: {out_of_scope: other}", "classification.threshold", "so both are needed"),
        (LABELS, "classification: {out_of_scope: other, threshold: 1.5}", "classification.threshold", "less than 1"),
        (LABELS, "classification: {problem_type: multi_label_classification, out_of_scope: a}",
         "classification.out_of_scope", "a row may have none"),
        (LABELS, "classification: {problem_type: regression, labels: [a, b]}", "classification.labels", "a number"),
        (LABELS, "classification: {problem_type: regression, class_weights: balanced}", "classification.class_weights",
         "does not apply to a number"),
        (LABELS, "classification: {labels: [a]}", "classification.labels", "at least 2"),
        (LABELS, "classification: {class_weights: {a: 0}}", "classification.class_weights.a", "greater than 0"),
        (LABELS, "classification: {class_weights: balance}", "classification.class_weights", "expected 'balanced'"),
        (LABELS, "classification: {problem_type: multi_label}", "classification.problem_type",
         "did you mean 'multi_label_classification'?"),
        # metrics that do not fit
        (LABELS, "evaluation: {metrics: [bleu]}", "evaluation.metrics.0",
         "'bleu' compares answers, which the task classification has not: use accuracy, f1, mcc"),
        (LABELS, "evaluation: {metrics: [accuracy, mae]}", "evaluation.metrics.1", "'mae' reads numbers"),
        (LABELS, "evaluation: {metrics: [perplexity]}", "evaluation.metrics.0", "'perplexity' reads likelihoods"),
        (LABELS, "classification: {problem_type: regression}\nevaluation: {metrics: [accuracy]}",
         "evaluation.metrics.0", "compares labels, which the task classification (regression) has not: use mae"),
        ("pretraining", "evaluation: {metrics: [hit_at_k]}", "evaluation.metrics.0", "reads ranks among candidates"),
        ("dialogue", "evaluation: {metrics: [mrr]}", "evaluation.metrics.0", "which the task dialogue has not"),
        (TEXTS, "evaluation: {metrics: [calibration_error]}", "evaluation.metrics.0", "reads confidences"),
        # mistyped metrics and options
        (TEXTS, "evaluation: {metrics: [rogue1]}", "evaluation.metrics.0", "did you mean 'rouge1'?"),
        (LABELS, "evaluation: {metrics: [accurracy]}", "evaluation.metrics.0", "did you mean 'accuracy'?"),
        (TEXTS, "evaluation: {metrics: ['bleu:tokenise=zh']}", "evaluation.metrics.0", "Did you mean 'tokenize'?"),
        (TEXTS, "evaluation: {metrics: ['bleu:tokenize=chinese']}", "evaluation.metrics.0", "one of: 13a, zh"),
        (LABELS, "evaluation: {metrics: ['f1:micro']}", "evaluation.metrics.0", "as in bleu:tokenize=zh"),
        # the best model
        (LABELS, "training: {metric_for_best_model: bleu}", "training.metric_for_best_model",
         "found 'bleu', expected one of loss, accuracy, f1, mcc, calibration_error: others are computed after"),
        (LABELS, "classification: {problem_type: regression}\ntraining: {metric_for_best_model: accuracy}",
         "training.metric_for_best_model", "expected one of loss, mae, mse, pearsonr"),
        (TEXTS, "training: {metric_for_best_model: bleu}", "training.metric_for_best_model",
         "one of loss, perplexity: others are computed after training (or, with `evaluation.during_training`"),
        (TEXTS, "training: {metric_for_best_model: rouge1}\nevaluation: {during_training: 9, metrics: [bleu, chrf]}",
         "training.metric_for_best_model", "expected one of loss, perplexity, bleu, chrf: others"),
        ("pretraining", "training: {metric_for_best_model: accuracy}", "training.metric_for_best_model", "loss, perp"),
        (TEXTS, "evaluation: {early_stopping_patience: 0}", "evaluation.early_stopping_patience", "equal to 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_the_one_problem(problem, task, line, key, message):
    found = problem(task, line)
    assert found.key == key
    assert message in found.message
    assert ".yaml:" in found.where


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("evaluation", "early_stopping_patience: 2"),
        ("evaluation", "during_training: 9"),
        ("training", "eval_strategy: steps"),
    ],
)
def test_what_watches_needs_validation_rows(problem, section, value):
    found = problem(TEXTS, f"{section}: {{{value}}}", validation=False)
    assert found.key == f"{section}.{value.partition(':')[0]}"
    assert "there is no data.validation to evaluate on" in found.message


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (LABELS, "classification: {problem_type: multi_label_classification, threshold: 0.3}"),
        (LABELS, "classification: {head: lm, label_words: {a: b}, language_model_weight: 0.5}"),
        (LABELS, "classification: {out_of_scope: other, threshold: 0.3, class_weights: {a: 2}}"),
        (LABELS, "training: {metric_for_best_model: eval_accuracy}"),
        (LABELS, "evaluation: {metrics: ['f1:average=micro']}\ntraining: {metric_for_best_model: 'f1:average=micro'}"),
        (TEXTS, "evaluation: {during_training: 9, metrics: [rouge]}\ntraining: {metric_for_best_model: rougeLsum}"),
        (TEXTS, "evaluation: {metrics: [mrr, 'hit_at_k:k=5', accuracy, bleurt]}"),
        (TEXTS, "template: {prompt: '{body text} {{}} {标题}'}"),
    ],
)
def test_what_fits_passes(load, task, line):
    assert load(text(task, line)).task == task


@pytest.mark.parametrize("kind", [*TASKS, *PROBLEM_METRICS])
def test_metrics_follow_from_the_task_and_the_kind_of_label(load, kind):
    problem = f"classification: {{problem_type: {kind}}}" if kind in PROBLEM_METRICS else ""
    loaded = load(text(kind if kind in TASKS else LABELS, problem))
    assert loaded.evaluation.metrics == {**DEFAULT_METRICS, **PROBLEM_METRICS}[kind]


READ = {"dialogue": set(), "pretraining": set(), LABELS: {"template", LABELS}, TEXTS: {"template"}}


@pytest.mark.parametrize("task", TASKS)
def test_a_kept_recipe_says_what_its_task_reads_and_loads_again(load, tmp_path, task):
    kept = tmp_path / "kept.yaml"
    recipe = load(text(task))
    kept.write_text(dump_recipe(recipe), encoding="utf-8")
    written = yaml.safe_load(dump_recipe(recipe))
    assert {"template", LABELS} & set(written) == READ[task]
    assert load_recipe(kept).model_dump() == recipe.model_dump()


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=WORDS,
    names=st.lists(NAME, min_size=2, max_size=4, unique=True),
    threshold=st.none() | st.floats(0.01, 0.99),
    weights=st.none() | st.just("balanced") | st.dictionaries(NAME, st.floats(0.1, 9), max_size=3),
    side=st.sampled_from(["left", "right"]),
)
def test_templates_and_labels_of_any_text_are_kept(tmp_path, write, words, names, threshold, weights, side):
    path: Path = write()
    prompt = words.replace("{", "{{").replace("}", "}}") + "{a}"
    section = {"labels": names, "threshold": threshold, "class_weights": weights}
    recipe = Recipe.model_validate(
        {
            "task": LABELS,
            "model": {"base": "starter"},
            "data": {"train": str(tmp_path / "train.jsonl")},
            "template": {"prompt": prompt, "truncation_side": side},
            "classification": {**section, "out_of_scope": None if threshold is None else names[0]},
        }
    )
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(path)
    assert (again.template, again.classification) == (recipe.template, recipe.classification)
    assert again.template.prompt == prompt
