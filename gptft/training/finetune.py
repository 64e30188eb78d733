"""The whole of a fine-tuning: recipe -> data -> task -> Trainer -> run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from gptft.errors import GptftError, UserError
from gptft.files import folder_written_atomically, write_text_atomically
from gptft.recipe import Recipe, dump_recipe
from gptft.runs.folder import RUNS, Run, new_run, resumable_run
from gptft.training.preparation import Prepared, base_facts, check_findings, prepare, warn
from gptft.training.processes import first_alone, from_first, join, rank, run_of, spreads_weights
from gptft.training.resuming import check_same_data, check_same_recipe, with_base_of

if TYPE_CHECKING:
    from transformers import TrainerCallback


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
        return run.folder, run.checkpoint(put_aside=partial(warn, console))

    folder, checkpoint = from_first(found) or (None, None)
    run = run_of(folder) if folder else None
    if run:
        if not checkpoint:
            raise UserError(f"{run.folder} has no checkpoint left that is whole: start anew, without --resume.")
        check_same_recipe(recipe, run)
        recipe = with_base_of(run, recipe)
        console.print(f"Resuming [bold]{escape(str(run.folder))}[/bold] from {checkpoint.name}.", soft_wrap=True)
    # Torch and transformers take seconds to import: a recipe's mistakes are reported before.
    with console.status("Starting"):
        from gptft.models.quiet import quiet_libraries

        quiet_libraries()
    from gptft.report import add_report

    # What is encoded once is read from the cache by the others.
    prepared = first_alone(lambda: prepare(recipe, console, checkpoint))
    from_first(lambda: check_findings(recipe, prepared, runs, console))
    if run:
        check_same_data(prepared, run)
    else:

        def begun() -> Path:
            run = new_run(recipe.name, runs)
            write_text_atomically(run.recipe_file, dump_recipe(recipe))
            _hold(run, held, console)
            return run.folder

        run = run_of(from_first(begun))
    base = run.manifest.get("base", base_facts(prepared.loaded))
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
        warn(console, "this file system has no locks: see to it that no other process trains the run.")


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
    callbacks += [stop, MarkResumable(run, partial(warn, console)), *([watch(run)] if watch else [])]
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
