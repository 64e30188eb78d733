"""Score a run, a model folder or a Hub model on held-out rows, with the base's scores on the same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from gptft.errors import GptftError, UserError
from gptft.evaluation.scores import Score, compute_scores, load_metrics, to_json, with_options
from gptft.files import write_json_atomically
from gptft.metrics.catalogue import expand, parse_metric
from gptft.recipe import Recipe, load_recipe
from gptft.recipe.cards import recipe_of_card
from gptft.recipe.checks import unfit_metric
from gptft.runs.folder import RUNS, Run, find_run

if TYPE_CHECKING:
    from gptft.metrics.predictions import Predictions
    from gptft.models.loading import LoadedModel


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a split, and of its base on the same rows (empty where there is none to compare with)."""

    model: str
    split: str
    scores: list[Score]
    base: str | None
    base_scores: list[Score]
    rows: str
    """Fingerprint of the split's rows: scores with the same one are of the same rows."""
    folder: Path | None
    """Where scores.json and predictions.jsonl were written: None for a model that is no run."""
    report: dict[str, Any] | None = None
    """Of labels: scores by class and the confusion matrix (see `gptft.evaluation.confusion`)."""

    @property
    def label(self) -> str:
        """A short name: the run's, or the model's as it was given."""
        return self.folder.parent.parent.name if self.folder else self.model

    def to_dict(self) -> dict[str, Any]:
        """The content of scores.json."""
        names = {"model": self.model, "base_model": self.base, "split": self.split, "rows_fingerprint": self.rows}
        report = {"report": self.report} if self.report else {}
        return {**names, **to_json(self.scores, self.base_scores), **report}


def evaluate(
    target: str | None = None,
    *,
    metrics: Sequence[str] = (),
    split: str | None = None,
    recipe: Recipe | None = None,
    compare_base: bool = True,
    max_rows: int | None = None,
    trust_remote_metric: bool = False,
    runs: Path = RUNS,
    console: Console | None = None,
) -> Evaluation:
    """Score a model on the rows of a recipe's split.

    Args:
        target: a run, a model folder or a Hub id; the latest run when left out.
        metrics: names; the recipe's when left out.
        split: `test` or `validation`; when left out, the recipe's test split if it has one, else its validation.
        recipe: where the rows come from; a run has its own, and a model may have one in its card. Of a run, all that
            is not data stays as its own recipe has it, and what is written goes to eval/RECIPE-SPLIT in place of
            eval/SPLIT.
        compare_base: whether the model that training started from is scored too.
        max_rows: at most so many generated answers; the recipe's `evaluation.max_rows` when left out.
        trust_remote_metric: run the code of a metric from the Hub.
        runs: the folder of the runs.
        console: where progress is shown (default: standard error).

    Raises:
        UserError: no such model, no rows to score on, or a metric that does not fit the task.
        GptftError: a download failed, or the scores cannot be written.
    """
    console = console or Console(stderr=True)
    run = find_run(target, runs)
    if run is None and recipe is None:
        from gptft.models.bases import resolve_base

        recipe = recipe_of_card(resolve_base(str(target)).folder, str(target))
    prefix = f"{recipe.name}-" if recipe else ""
    if run:
        own = load_recipe(run.recipe_file)
        recipe = _rows_of(recipe, own) if recipe else own
    assert recipe
    split = _chosen_split(recipe, split)
    names = _chosen_metrics(metrics, recipe)
    loaded = load_metrics(names, trust_remote_metric)
    max_rows = max_rows or recipe.evaluation.max_rows
    folder = run.evaluation(prefix + split) if run else None
    evaluation = _evaluate(run, target, recipe, split, loaded, compare_base, max_rows, folder, console)
    if run:
        from gptft.report import add_report
        from gptft.training.tracking import track_scores

        track_scores(run, prefix + split, evaluation.scores, console)
        add_report(run, console)
    return evaluation


def _chosen_metrics(asked: Sequence[str], recipe: Recipe) -> list[str]:
    """The metrics to compute; one that is asked for by its name alone has the options that the recipe gives it."""
    in_recipe = expand(recipe.evaluation.metrics)
    names = with_options(asked, in_recipe) or in_recipe
    kind = recipe.classification.problem_type if recipe.task == "classification" else ""
    reasons = [reason for name in names if (reason := unfit_metric(recipe.task, parse_metric(name), kind))]
    if reasons:
        raise UserError("\n".join(f"metric {reason}" for reason in reasons))
    return names


def _rows_of(other: Recipe, own: Recipe) -> Recipe:
    """The rows and metrics of another recipe for a run's model, which is asked as the run's own recipe says."""
    generation = {"generation": own.evaluation.generation}
    same = ("model", "training", "template", "classification")
    settings = {name: getattr(own, name) for name in same}
    return other.model_copy(update={**settings, "evaluation": other.evaluation.model_copy(update=generation)})


def _chosen_split(recipe: Recipe, split: str | None) -> str:
    present = [name for name in ("test", "validation") if getattr(recipe.data, name) is not None]
    if not present:
        raise UserError(
            f"The recipe {recipe.name} has no held-out rows: add `data.test` or `data.validation` (a share such as "
            "0.1, or a source). Scores on training rows would show memory, not learning."
        )
    if split and split not in present:
        raise UserError(f"--split {split}: the recipe {recipe.name} has {' and '.join(present)}.")
    return split or present[0]


def _evaluate(
    run: Run | None,
    target: str | None,
    recipe: Recipe,
    split: str,
    metrics: dict[str, Any],
    compare_base: bool,
    max_rows: int | None,
    folder: Path | None,
    console: Console,
) -> Evaluation:
    from gptft.data import load_splits
    from gptft.evaluation.confusion import FONTS, class_report, save_confusion_matrix
    from gptft.evaluation.predictions import predict, save_predictions
    from gptft.models.loading import load_model
    from gptft.models.quiet import quiet_libraries
    from gptft.tasks import make_task

    quiet_libraries()
    if run and not run.model.is_dir():
        state = run.manifest.get("state", "unknown")
        raise UserError(f"{run.folder} has no model yet (it is {state}). Finish it: gptft finetune ... --resume")
    name = str(run.model) if run else str(target)
    known = [parse_metric(metric).known for metric in metrics]
    needs = {metric.needs if metric else "answers" for metric in known}
    options: dict[str, Any] = {"needs": needs, "max_rows": max_rows, "console": console}
    with console.status("Loading"):
        splits = load_splits(recipe, ("train", split))
        loaded = load_model(name, trust_remote_code=recipe.model.trust_remote_code)
    for warning in splits.report.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    task = make_task(recipe, loaded.model.config)
    label = run.folder.name if run else name
    predictions, prompts = predict(loaded, task, recipe, splits, split, label=label, **options)
    scores = compute_scores(metrics, predictions)
    report = class_report(predictions) if predictions.correct else None
    rows = splits.report.splits[split].fingerprint
    evaluation = Evaluation(name, split, scores, None, [], rows, folder, report)

    def write(base_predictions: Predictions | None = None) -> None:
        if folder is None:
            return
        write_json_atomically(folder / "scores.json", _with_earlier(folder / "scores.json", evaluation.to_dict()))
        save_predictions(folder, loaded.tokenizer, prompts, predictions, base_predictions)

    # Before the base is asked: what fails there must not cost what is known.
    write()
    if folder and report and "confusion_matrix" in report:
        picture = folder / "confusion_matrix.png"
        if not save_confusion_matrix(picture, **report["confusion_matrix"]):
            reason = f"no font for some labels is installed (such as {FONTS[1]}), so it has boxes in their place."
            console.print(f"[yellow]Warning:[/yellow] {escape(str(picture))}: {reason}", soft_wrap=True)
    base = _base(run, recipe) if compare_base else None
    if not base or _place(base["used"]) == _place(name):
        return replace(evaluation, base=base and base["used"])
    try:
        with console.status("Loading the base"):
            other = _load_base(base, recipe, loaded.model.config)
        base_task = make_task(recipe, other.model.config)
        label = f"base {base['used']}"
        base_predictions, _ = predict(other, base_task, recipe, splits, split, label=label, **options)
        base_scores = compute_scores(metrics, base_predictions)
    except GptftError as error:
        console.print(f"[yellow]The base is not compared with:[/yellow] {escape(str(error))}")
        return evaluation
    evaluation = replace(evaluation, base=base["used"], base_scores=base_scores)
    write(base_predictions)
    return evaluation


def load_base_of(run: Run, tuned: LoadedModel) -> tuple[str, LoadedModel]:
    """The model that a run started from, with its name, ready to be asked beside `tuned`, the run's own.

    Raises:
        UserError: the run was trained from scratch.
    """
    recipe = load_recipe(run.recipe_file)
    base = _base(run, recipe)
    if base is None:
        raise UserError(f"{run.folder} was trained from scratch, so there is no base to stand beside it.")
    loaded = _load_base(base, recipe, tuned.model.config)
    loaded.model.generation_config = tuned.model.generation_config
    loaded.model.to(next(tuned.model.parameters()).device)
    return f"base {base['used']}", loaded


def _load_base(base: dict[str, Any], recipe: Recipe, tuned: Any) -> LoadedModel:
    """The base as training loaded it, before the first step: a classifier's new head is drawn by the same seed."""
    from transformers import set_seed

    from gptft.models.classes import Classes, label_tokens
    from gptft.models.loading import load_model

    def classes(tokenizer: Any) -> Classes:
        labels = Classes.read_from(tuned)
        words = recipe.classification.label_words
        return replace(labels, token_ids=label_tokens(tokenizer, labels.names, words)) if labels.token_ids else labels

    set_seed(recipe.training.get("seed", 42))
    return load_model(
        base["used"],
        revision=base.get("revision"),
        tokenizer=recipe.model.tokenizer,
        config=recipe.model.config,
        trust_remote_code=recipe.model.trust_remote_code,
        classes=classes if recipe.task == "classification" else None,
    )


def _with_earlier(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Add the scores of an earlier evaluation of the same rows, where this one has no newer; the base's likewise."""
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if earlier["rows_fingerprint"] != content["rows_fingerprint"]:
            return content
        merged = {**content, "scores": earlier["scores"] | content["scores"]}
        if content["base_model"] in (None, earlier["base_model"]):
            merged["base_model"] = earlier["base_model"]
            merged["base"] = (earlier["base"] or {}) | (content["base"] or {}) or None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return content  # no scores of gptft's are there to keep
    return merged


def _base(run: Run | None, recipe: Recipe) -> dict[str, Any] | None:
    """What training started from: a run's manifest knows; else the recipe says. None from scratch."""
    base = run.manifest.get("base", {}) if run else {"used": recipe.model.base, "revision": recipe.model.revision}
    return base if base.get("used") else None


def _place(name: str) -> str:
    """One name for a model on this disk, however its folder or run is written; a Hub id stays as it is."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    return str((folder / "model" if (folder / "model").is_dir() else folder).resolve())
