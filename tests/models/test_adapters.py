import warnings
from typing import Any

import pytest
import torch
from tiny import make_model, make_rows

from gptft.errors import GptftError, UserError
from gptft.models.adapters import add_adapter, merge_adapter, shared_embeddings
from gptft.models.loading import load_model, save_model
from gptft.recipe.schema import AdapterSection

IDS = torch.arange(12).reshape(2, 6)


def adapted(**settings: Any) -> Any:
    return add_adapter(make_model(), AdapterSection.model_validate({"type": "lora", **settings}))


def disturb(model: Any) -> None:
    """As training would: an adapter starts without effect."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))


def test_lora_adapts_every_layer_of_the_blocks_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = adapted(r=4)
    config = model.peft_config["default"]
    assert set(config.target_modules) == {"c_attn", "c_proj", "c_fc"}
    assert config.fan_in_fan_out is True
    assert config.r == 4
    layers = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert len(layers) == 2 * 4  # each block's c_attn, two c_proj and c_fc


def test_named_targets_and_settings_are_kept():
    config = adapted(target_modules=["c_attn"], lora_alpha=3).peft_config["default"]
    assert (set(config.target_modules), config.lora_alpha) == ({"c_attn"}, 3)


def test_only_the_adapter_is_trained(fine_tuner):
    model = adapted(r=2)
    assert all("lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    fine_tuner(model, make_rows(8), max_steps=2, learning_rate=0.1).train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all("lora_" in name for name in changed)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_saved_adapter_loads_with_peft_and_merged_gives_the_same_logits(kind, tmp_path, base_folder):
    from peft import AutoPeftModelForCausalLM

    loaded = load_model(str(base_folder))
    plain = loaded.model(IDS).logits
    model = add_adapter(loaded.model, AdapterSection.model_validate({"type": kind}))
    disturb(model)
    model.eval()
    expected = model(IDS).logits
    assert (expected - plain).abs().max() > 1e-3
    save_model(model, loaded.tokenizer, tmp_path)
    again = load_model(str(tmp_path))
    torch.testing.assert_close(again.model(IDS).logits, expected, rtol=0, atol=1e-5)
    assert type(again.model).__name__ == "GPT2LMHeadModel"
    peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(peft(IDS).logits, expected, rtol=0, atol=1e-6)
    assert (tmp_path / "generation_config.json").is_file()
    assert (tmp_path / "tokenizer.json").is_file()
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_adapters_that_lengthen_the_input_are_refused(kind):
    with pytest.raises(UserError, match=f"adapter.type: {kind} puts learned tokens before the input"):
        adapted(type=kind, num_virtual_tokens=4)


@pytest.mark.parametrize("name", ["lm_head", "wte"])
@pytest.mark.filterwarnings("ignore:.*tie")
def test_an_adapter_on_embeddings_that_the_head_shares_is_refused(name):
    with pytest.raises(UserError, match=f"target_modules: {name}: this model's head and embeddings are one weight"):
        adapted(target_modules=["c_attn", name])


@pytest.mark.filterwarnings("ignore:.*tie")
def test_merging_that_would_change_what_the_model_says_is_refused():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make_model(), LoraConfig(target_modules=["lm_head"]))
    disturb(model)
    with pytest.raises(GptftError, match="cannot be merged into its base: the logits would change by up to"):
        merge_adapter(model)


@pytest.mark.filterwarnings("ignore:.*tie")
def test_a_head_that_is_trained_whole_is_merged_and_no_longer_shared():
    model = adapted(modules_to_save=["lm_head"])
    disturb(model)
    expected = model.eval()(IDS).logits
    merged = merge_adapter(model)
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=0, atol=1e-5)
    assert shared_embeddings(make_model()) is not None and shared_embeddings(merged) is None


def test_an_adapter_that_cannot_adapt_gpt2_is_one_sentence():
    with pytest.raises(UserError, match=r"adapter loha could not be loaded: Target module .* not supported"):
        adapted(type="loha")


def test_a_setting_that_peft_refuses_is_one_sentence():
    with pytest.raises(UserError, match="adapter lora could not be loaded"):
        adapted(r=0)
    with pytest.raises(UserError, match="nowhere"):
        adapted(target_modules=["nowhere"])


def test_a_recipe_with_an_adapter_ends_as_a_run_that_can_be_a_base(write_recipe, tmp_path):
    from gptft.training.finetune import finetune

    recipe = write_recipe(adapter={"type": "lora", "r": 2}, training={"max_steps": 2, "learning_rate": 0.1})
    run = finetune(recipe, runs=tmp_path / "runs")
    assert (run.adapter / "adapter_model.safetensors").is_file()
    # The model is complete without PEFT, template included; it equals base and adapter together.
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, pipeline

    assert not (run.model / "adapter_config.json").exists()
    expected = AutoPeftModelForCausalLM.from_pretrained(run.adapter).eval()(IDS).logits
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(run.model)(IDS).logits, expected, rtol=0, atol=1e-5)
    bot = pipeline("text-generation", model=str(run.model))
    answer = bot([{"role": "user", "content": "hi"}], max_new_tokens=4)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"
    again = write_recipe(model={"base": str(run.folder)}, training={"max_steps": 1}, name="again")
    second = finetune(again, runs=tmp_path / "runs")
    assert (second.model / "model.safetensors").is_file()


def test_an_adapter_resumes_where_it_was(write_recipe, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from gptft.training.finetune import finetune
    from gptft.training.interruption import StopWhenAsked

    def recipe():
        return write_recipe(adapter={"type": "lora", "r": 2}, training={"max_steps": 4})

    whole = finetune(recipe(), runs=tmp_path / "whole")
    with monkeypatch.context() as patch:
        ended = StopWhenAsked.on_step_end

        def stop_early(self, args, state, control, **kwargs):
            self.asked = state.global_step == 2
            return ended(self, args, state, control, **kwargs)

        patch.setattr(StopWhenAsked, "on_step_end", stop_early)
        assert finetune(recipe(), runs=tmp_path / "runs").manifest["state"] == "stopped"
    resumed = finetune(recipe(), resume=True, runs=tmp_path / "runs")
    one, two = (load_file(run.adapter / "adapter_model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
