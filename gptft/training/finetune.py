"""The whole of a fine-tuning: recipe -> data -> task -> Trainer -> run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from gptft.errors import GptftError, UserError
from gptft.files import folder_written_atomically, write_text_atomically
from gptft.recipe import Recipe, dump_recipe, load_recipe
from gptft.runs.folder import RUNS, Run, new_run, resumable_run
from gptft.training.processes import first_alone, from_first, join, rank, run_of, spreads_weights

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

    from gptft.data import Splits
    from gptft.models.loading import LoadedModel
    from gptft.tasks import Preparation, Task


def finetune(
    recipe: Recipe,
    *,
    resume: bool = False,
    runs: Path = RUNS,
    console: Console | None = None,
    watch: Callable[[Run], TrainerCallback] | None = None,
) -> Run:
    """Fine-tune what `recipe` says and leave a run folder with the model in it.

    Args:
        recipe: a loaded recipe (`gptft.Recipe` or `gptft.recipe.load_recipe`).
        resume: continue the newest unfinished run of this recipe from its newest checkpoint.
        runs: the folder of the runs.
        console: where progress is shown (default: standard error).
        watch: makes, of the run, one more callback of the Trainer.

    Returns:
        The run; its manifest's `state` is `finished`, or `stopped` after Ctrl-C.

    Raises:
        UserError: data, model or settings that cannot be used; nothing to resume; another process trains the run.
        GptftError: a failure underneath, such as a full disk; checkpoints already written stay.
    """
    with ExitStack() as held:
        return _finetune(recipe, resume, runs, console or Console(stderr=True, quiet=rank() > 0), held, watch)


def _finetune(recipe: Recipe, resume: bool, runs: Path, console: Console, held: ExitStack, watch: Any) -> Run:
    started = time.perf_counter()
    join()

    def found() -> tuple[Path, Path | None] | None:
        run = resumable_run(recipe.name, runs) if resume else None
        if not run:
            return None
        _hold(run, held, console)
        return run.folder, run.checkpoint(put_aside=partial(_warn, console))

    folder, checkpoint = from_first(found) or (None, None)
    run = run_of(folder) if folder else None
    if run:
        if not checkpoint:
            raise UserError(f"{run.folder} has no checkpoint left that is whole: start anew, without --resume.")
        _check_same_recipe(recipe, run)
        recipe = with_base_of(run, recipe)
        console.print(f"Resuming [bold]{escape(str(run.folder))}[/bold] from {checkpoint.name}.", soft_wrap=True)
    # Torch and transformers take seconds to import: a recipe's mistakes are reported before.
    with console.status("Starting"):
        from gptft.models.quiet import quiet_libraries

        quiet_libraries()
    from gptft.report import add_report

    # What is encoded once is read from the cache by the others.
    prepared = first_alone(lambda: prepare(recipe, console, checkpoint))
    from_first(lambda: _check(recipe, prepared, runs, console))
    if run:
        _check_same_data(prepared, run)
    else:

        def begun() -> Path:
            run = new_run(recipe.name, runs)
            write_text_atomically(run.recipe_file, dump_recipe(recipe))
            _hold(run, held, console)
            return run.folder

        run = run_of(from_first(begun))
    base = run.manifest.get("base", _base_facts(prepared.loaded))
    publishes = recipe.hub if recipe.hub and recipe.hub.strategy else None
    started_at = datetime.now(timezone.utc).isoformat()
    run.update_manifest(**prepared.facts, base=base, state="running", started=started_at)
    try:
        if publishes and rank() == 0:
            from gptft.hub.training import check_ready

            check_ready(run, publishes)
        state = _train(recipe, prepared, run, checkpoint, console, watch)
    except BaseException as error:
        failure = _failure(error, run)
        with suppress(GptftError):
            run.update_manifest(state="failed", reason=f"{type(error).__name__}: {error}"[:500])
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise failure from error
    if rank() > 0:
        return run
    run.update_manifest(seconds=round(time.perf_counter() - started, 1), state=state)
    add_report(run, console)
    if publishes and state == "finished":
        from gptft.hub.push import push

        console.print(f"Pushed to {push(run, publishes.repo_id, console=console).url}", highlight=False)
    return run


def _hold(run: Run, held: ExitStack, console: Console) -> None:
    """Keep other processes from training the same run as long as `held` is open."""
    if not held.enter_context(run.held()):
        _warn(console, "this file system has no locks: see to it that no other process trains the run.")


def _warn(console: Console, message: str) -> None:
    console.print(f"[yellow]Warning:[/yellow] {escape(message)}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Prepared:
    """Data and model, ready to train."""

    loaded: LoadedModel
    train: Dataset
    validation: Dataset | None
    validation_rows: Dataset | None
    """Before they were encoded."""
    task: Task
    facts: dict[str, Any]
    """What the manifest says of them."""
    splits: Splits
    preparations: dict[str, Preparation]
    """What became of train and validation when they were encoded."""


def prepare(
    recipe: Recipe,
    console: Console,
    checkpoint: Path | None = None,
    shapes: bool = False,
) -> Prepared:
    """Read the data, load the model, encode: all that comes before the first step, said line by line.

    Args:
        recipe: what to prepare.
        console: where it is said.
        checkpoint: what is being resumed.
        shapes: no weights are read: the model is made on the device `meta`, where tensors are but shapes.
    """
    from transformers import set_seed

    from gptft.data import load_splits
    from gptft.models.loading import load_for_training
    from gptft.runs.manifest import hardware, versions
    from gptft.tasks import make_task
    from gptft.tasks.classification import classes_of

    with console.status("Reading the data"):
        # The test split too: rows that it shares with train are told before anything is trained on them.
        splits = load_splits(recipe)
    console.print(splits.report.summary(), highlight=False, markup=False, soft_wrap=True)
    train_rows = splits.train
    if train_rows is None:
        raise UserError("data.train: there are no rows to train on.")
    seed = recipe.training.get("seed", 42)
    set_seed(seed)
    labels = partial(classes_of, recipe.classification, train_rows) if recipe.task == "classification" else None
    with console.status("Loading the model"):
        loaded = load_for_training(recipe, lambda: _texts(train_rows), checkpoint, labels, shapes)
    _announce(recipe, loaded, console)
    task = make_task(recipe, loaded.model.config)
    if not shapes:
        task.check_model(loaded.model)
    max_length = recipe.data.max_length or loaded.positions
    encoded: dict[str, Any] = {}
    preparations: dict[str, Preparation] = {}
    for name, rows in (("train", train_rows), ("validation", splits.validation)):
        if rows is None:
            continue
        fingerprint = splits.report.splits[name].fingerprint
        with console.status(f"Encoding {name}"):
            encoded[name], preparations[name] = task.prepare(rows, loaded.tokenizer, max_length, name, fingerprint)
        console.print(f"{name}: {preparations[name].summary()}", highlight=False, markup=False)
    facts = {
        "name": recipe.name,
        "task": recipe.task,
        "data": splits.report.to_dict(),
        "examples": {name: preparation.to_dict() for name, preparation in preparations.items()},
        "seed": seed,
        "max_length": max_length,
        "versions": versions(),
        "hardware": hardware(),
    }
    if recipe.task == "classification":
        facts["labels"] = list(loaded.model.config.id2label.values())
    return Prepared(
        loaded, encoded["train"], encoded.get("validation"), splits.validation, task, facts, splits, preparations
    )


def _check(recipe: Recipe, prepared: Prepared, runs: Path, console: Console) -> None:
    """Print what `gptft inspect` would warn of and can be seen at once, and stop at its errors."""
    from gptft.inspection.findings import refuse, standing
    from gptft.inspection.inspect import check
    from gptft.training.arguments import training_arguments

    arguments = training_arguments(recipe, runs, prepared.validation is not None)
    findings = standing(check(recipe, prepared, arguments, runs=runs).findings, recipe)
    refuse(findings)
    for finding in findings:
        if finding.level == "warning":
            _warn(console, f"{finding.name}: {finding.sentences()}")


def _texts(rows: Any) -> Any:
    for row in rows:
        turns = row["messages"] or []
        yield from row["targets"] or []
        # The words for roles are among what the tokenizer should know.
        yield row["text"] or "\n".join(f"{turn['role'].capitalize()}:\n{turn['content']}" for turn in turns)


def _announce(recipe: Recipe, loaded: Any, console: Console) -> None:
    base = loaded.base
    if base and base.fallback_reason:
        console.print(
            Panel(
                f"[bold]{escape(base.requested)}[/bold] is not in the cache, and the Hugging Face Hub could not be "
                f"reached\n({escape(base.fallback_reason)}).\n"
                "Starting from the [bold]starter[/bold], the small GPT-2 that ships with gptft, as the recipe's "
                "`fallback` allows.\nThe result will be weaker. `--no-fallback` makes this an error.",
                title="Another base is used",
                border_style="yellow",
            )
        )
    if recipe.model.trust_remote_code:
        _warn(console, f"model.trust_remote_code: Python code that comes with {base.name if base else 'it'} is run.")
    total = sum(parameter.numel() for parameter in loaded.model.parameters())
    trained = sum(parameter.numel() for parameter in loaded.model.parameters() if parameter.requires_grad)
    share = f", {trained:,} of them trained ({recipe.adapter.type})" if recipe.adapter else ""
    line = f"model: {base.name if base else 'from scratch'}, {total:,} parameters{share}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _base_facts(loaded: Any) -> dict[str, Any]:
    if loaded.base is None:
        return {"requested": None, "used": None}
    return {
        "requested": loaded.base.requested,
        "used": loaded.base.name,
        "revision": loaded.base.revision,
        "fallback_reason": loaded.base.fallback_reason,
    }


def with_base_of(run: Run, recipe: Recipe) -> Recipe:
    """The recipe with the base that the run was started from: the Hub may answer now, or hold another version."""
    base = run.manifest.get("base", {})
    if not base.get("used"):
        return recipe
    changes = {"base": base["used"], "revision": base.get("revision"), "fallback": None}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})


def _check_same_recipe(recipe: Recipe, run: Run) -> None:
    """Refuse to resume a run with a recipe that says something else than it was started with."""
    before, now = load_recipe(run.recipe_file).model_dump(), _as_resolved(recipe)
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        raise UserError(
            f"{run.folder} was started with another recipe ({', '.join(changed)} changed). To resume it as it was: "
            f"gptft finetune {run.recipe_file} --resume. To start anew: leave out --resume."
        )


def _check_same_data(prepared: Prepared, run: Run) -> None:
    """Refuse to resume on other rows: the steps already done would be those of no run."""
    before, now = (facts["data"]["splits"] for facts in (run.manifest, prepared.facts))
    changed = [name for name in now if now[name]["fingerprint"] != before.get(name, {}).get("fingerprint")]
    if changed:
        raise UserError(
            f"The data of {run.folder} has changed since it was started (data.{', data.'.join(changed)}). Restore it "
            "to resume the run, or start anew: leave out --resume."
        )


def _as_resolved(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says once resolved as it would be written beside a run."""
    import yaml

    return Recipe.model_validate(yaml.safe_load(dump_recipe(recipe))).model_dump()


def _train(recipe: Recipe, prepared: Prepared, run: Run, checkpoint: Path | None, console: Console, watch: Any) -> str:
    from transformers import PrinterCallback, ProgressCallback

    from gptft.models.adapters import merge_adapter, name_base
    from gptft.models.loading import save_model
    from gptft.models.precision import training_dtype
    from gptft.runs.manifest import duration, peak_memory_bytes
    from gptft.training.arguments import AUTO, training_arguments
    from gptft.training.batch_size import set_batch_size
    from gptft.training.interruption import MarkResumable, Patience, StopWhenAsked
    from gptft.training.objectives import objective_of
    from gptft.training.progress import ProgressDisplay
    from gptft.training.tracking import add_tracking
    from gptft.training.trainer import FineTuner

    arguments = training_arguments(recipe, run.folder, prepared.validation is not None)
    if recipe.adapter and spreads_weights(arguments):
        raise UserError("An adapter is trained with all weights in each process: launch without FSDP and DeepSpeed.")
    if recipe.evaluation.during_training and spreads_weights(arguments):
        raise UserError("evaluation.during_training: answers are not generated while weights are spread (FSDP, ZeRO).")
    display, stop = ProgressDisplay(console, run), StopWhenAsked()
    callbacks: list[Any] = [display] if rank() == 0 else []
    callbacks += [stop, MarkResumable(run, partial(_warn, console)), *([watch(run)] if watch else [])]
    if recipe.evaluation.early_stopping_patience:
        patience, threshold = recipe.evaluation.early_stopping_patience, recipe.evaluation.early_stopping_threshold
        callbacks.append(Patience(patience, threshold))
    if recipe.hub and recipe.hub.strategy == "every_save" and rank() == 0:
        from gptft.hub.training import PushEachSave

        callbacks.append(PushEachSave(run, recipe.hub, console))
    objective = objective_of(recipe, prepared, training_dtype(arguments), console)
    if recipe.training.get("per_device_train_batch_size") == AUTO:
        set_batch_size(arguments, prepared, objective, run, console)
    trainer = FineTuner(
        model=prepared.loaded.model,
        args=arguments,
        train_dataset=_stream(recipe, prepared, objective, arguments) if recipe.data.streaming else prepared.train,
        eval_dataset=prepared.validation,
        processing_class=prepared.loaded.tokenizer,
        objective=objective,
        console=console,
        callbacks=callbacks,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if rank() == 0:
        add_tracking(trainer, run)
    started = time.perf_counter()
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.check_weights()
    finally:
        display.stop()
    seconds = time.perf_counter() - started
    facts = {
        "precision": str(training_dtype(arguments)).removeprefix("torch."),
        "steps": trainer.state.global_step,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "training_seconds": round(seconds + (run.manifest.get("training_seconds", 0) if checkpoint else 0), 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    run.update_manifest(**facts, stopped_by=stop.asked)
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        console.print(
            f"\nStopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}, and saved. Resume with\n"
            f"  gptft finetune {run.recipe_file} --resume",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return "stopped"
    model: Any = trainer.model
    # Where the weights are spread over the processes, all of them must give theirs.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if spreads_weights(arguments) else None
    if rank() > 0:
        return "finished"
    if recipe.adapter:
        base = prepared.loaded.base
        with folder_written_atomically(run.adapter) as folder:
            save_model(model, prepared.loaded.tokenizer, folder)
            if base and base.hub_id:
                name_base(folder, base.hub_id, base.revision)
        # In float32: what Accelerate wraps around the forward would round the logits that are compared.
        model = merge_adapter(trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False))
    with folder_written_atomically(run.model) as folder:
        save_model(model, prepared.loaded.tokenizer, folder, weights)
    run.set_latest()
    line = f"Trained on {facts['tokens_seen']:,} tokens in {duration(seconds)}. The model is in {run.model}."
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    return "finished"


def _stream(recipe: Recipe, prepared: Prepared, objective: Any, arguments: Any) -> Any:
    from gptft.training.streaming import StreamedBatches

    return StreamedBatches(
        recipe,
        prepared.task,
        prepared.loaded.tokenizer,
        prepared.facts["max_length"],
        arguments.per_device_train_batch_size,
        arguments.data_seed if arguments.data_seed is not None else arguments.seed,
        arguments.train_sampling_strategy,
        objective.collate,
    )


def _failure(error: BaseException, run: Run) -> GptftError:
    from gptft.training.faults import DivergedError

    checkpoint = run.checkpoint()
    resume = (
        f"The checkpoint {checkpoint.name} is complete: `gptft finetune {run.recipe_file} --resume` goes on from it."
        if checkpoint
        else "No checkpoint had been written yet."
    )
    if isinstance(error, DivergedError) and checkpoint:
        resume = f"{checkpoint.name} is from before it: start a new run on its weights, `model.base={checkpoint}`."
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    kind = "" if isinstance(error, GptftError) else f"{type(error).__name__}: "
    return GptftError(f"Training failed in {run.folder}: {kind}{reason}\n{resume}")
