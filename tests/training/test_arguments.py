import pytest
import torch
from tiny import make_model, make_rows

from gptft.errors import UserError
from gptft.training.arguments import training_arguments


def test_evaluation_follows_saving_but_for_saving_the_best(write_recipe, tmp_path):
    def rhythm(has_validation=True, **training):
        return training_arguments(write_recipe(training=training), tmp_path, has_validation).eval_strategy.value

    assert rhythm() == "epoch"
    assert rhythm(save_strategy="steps") == "steps"
    assert rhythm(save_strategy="best", metric_for_best_model="loss") == "epoch"
    assert rhythm(False, save_strategy="steps") == "no"


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "perplexity", "eval_perplexity"])
@pytest.mark.parametrize("given", [{}, {"greater_is_better": None}])
def test_the_lowest_loss_or_perplexity_is_the_best(write_recipe, tmp_path, metric, given):
    recipe = write_recipe(training={"metric_for_best_model": metric, **given})
    assert training_arguments(recipe, tmp_path, True).greater_is_better is False


def test_a_cpu_beside_a_gpu_computes_in_float32(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    recipe = write_recipe(model={"dtype": "auto"}, training={"dataloader_pin_memory": False})
    assert not training_arguments(recipe, tmp_path, False).bf16


def test_bfloat16_can_be_chosen_on_a_cpu_without_an_accelerator(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    recipe = write_recipe(model={"dtype": "bfloat16"}, training={"use_cpu": False})
    arguments = training_arguments(recipe, tmp_path, False)
    assert (arguments.bf16, arguments.use_cpu, arguments.device.type) == (True, True, "cpu")


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("bleu", True), ("ter", False), ("eval_f1:average=micro", True), ("mae", False), ("calibration_error", False)],
)
def test_which_way_is_better_follows_from_the_metric(write_recipe, tmp_path, metric, higher):
    recipe = write_recipe()
    recipe.training["metric_for_best_model"] = metric
    assert training_arguments(recipe, tmp_path, True).greater_is_better is higher
    recipe.training["greater_is_better"] = not higher
    assert training_arguments(recipe, tmp_path, True).greater_is_better is not higher


def test_early_stopping_keeps_the_model_of_the_lowest_loss_unless_told_otherwise(write_recipe, tmp_path):
    def chosen(**training):
        recipe = write_recipe(data={"validation": 0.5}, training=training, evaluation={"early_stopping_patience": 2})
        arguments = training_arguments(recipe, tmp_path, True)
        return arguments.metric_for_best_model, arguments.greater_is_better, arguments.load_best_model_at_end

    assert chosen() == ("loss", False, True)
    assert chosen(metric_for_best_model="perplexity") == ("perplexity", False, True)
    assert chosen(load_best_model_at_end=False) == ("loss", False, False)


@pytest.mark.parametrize(
    ("count", "training", "message"),
    [("world_size", {"per_device_train_batch_size": "auto"}, "give a number"), ("n_gpu", {}, "--launch 2")],
)
def test_several_processes_and_several_gpus(write_recipe, tmp_path, monkeypatch, count, training, message):
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, count, property(lambda arguments: 2))
    with pytest.raises(UserError, match=message):
        training_arguments(write_recipe(training=training), tmp_path, False)


def test_nothing_to_evaluate_on_at_the_start(write_recipe, tmp_path):
    with pytest.raises(UserError, match=r"no data\.validation"):
        training_arguments(write_recipe(training={"eval_on_start": True}), tmp_path, False)


def test_a_loss_that_is_no_number_is_logged(write_recipe, tmp_path):
    assert training_arguments(write_recipe(), tmp_path, False).logging_nan_inf_filter is False


def test_the_loader_gets_its_settings(fine_tuner):
    settings = {"num_workers": 1, "prefetch_factor": 3, "in_order": False, "multiprocessing_context": "spawn"}
    trainer = fine_tuner(make_model(), make_rows(8), **{f"dataloader_{key}": value for key, value in settings.items()})
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.in_order) == (1, 3, False)
    assert loader.multiprocessing_context.get_start_method() == "spawn"


def test_a_batch_size_that_does_not_fit_is_lowered(fine_tuner):
    trainer = fine_tuner(
        make_model(), make_rows(32), per_device_train_batch_size=16, auto_find_batch_size=True, num_train_epochs=1
    )
    sizes, collate = [], trainer.data_collator

    def collate_what_fits(rows):
        sizes.append(len(rows))
        if len(rows) > 8:
            raise RuntimeError("CUDA out of memory.")
        return collate(rows)

    trainer.data_collator = collate_what_fits
    trainer.train()
    assert sizes[0] == 16 and 0 < max(sizes[-4:]) <= 8
    assert trainer.state.num_input_tokens_seen == sum(row["length"] for row in make_rows(32))
