import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import END, make_model, make_tokenizer

from gptft.errors import UserError
from gptft.models.loading import load_for_training, load_model, load_tokenizer, save_model
from gptft.models.templates import CHAT_TEMPLATE, render_prompt


@pytest.fixture
def folder(tmp_path: Path, base_folder: Path) -> Path:
    """A copy of the base's folder to damage."""
    return Path(shutil.copytree(base_folder, tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def test_special_tokens_agree_wherever_they_are_read(folder):
    edit(folder / "config.json", pad_token_id=7, eos_token_id=None, bos_token_id=8)
    edit(folder / "generation_config.json", eos_token_id=9, pad_token_id=None)
    edit(folder / "tokenizer_config.json", pad_token=None)
    loaded = load_model(str(folder))
    for owner in (loaded.tokenizer, loaded.model.config, loaded.model.generation_config):
        assert (owner.bos_token_id, owner.eos_token_id, owner.pad_token_id) == (END, END, END)


def test_a_pad_token_of_its_own_is_kept(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    make_model(vocab_size=258).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert (loaded.model.config.pad_token_id, loaded.model.config.eos_token_id) == (257, END)


def test_weights_are_float32_whatever_they_were_saved_in(tmp_path, tokenizer):
    make_model().to(torch.float16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path)).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training


def test_a_tokenizer_without_a_template_gets_gptfts_and_one_with_keeps_its_own(folder):
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(str(folder)).chat_template == CHAT_TEMPLATE
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert load_tokenizer(str(folder)).chat_template == "{{ messages[0].content }}"


def test_configuration_is_changed_and_attention_dropout_off_unless_asked_for(base_folder):
    config = load_model(str(base_folder)).model.config
    assert (config.attn_pdrop, config.resid_pdrop) == (0.0, 0.1)
    config = load_model(str(base_folder), config={"attn_pdrop": 0.3, "resid_pdrop": 0.0}).model.config
    assert (config.attn_pdrop, config.resid_pdrop) == (0.3, 0.0)


def test_an_unknown_configuration_key_is_refused(base_folder):
    with pytest.raises(UserError, match=r"model.config: n_heads: .* \(gpt2\) has no such setting"):
        load_model(str(base_folder), config={"n_heads": 4})


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(folder):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["one", "two"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="The tokenizer has 259 tokens but the model embeds only 257"):
        load_model(str(folder))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_folder_is_one_sentence(folder, file):
    (folder / file).write_text("{")
    with pytest.raises(UserError, match="could not be loaded"):
        load_model(str(folder))


def test_longer_inputs_than_the_model_has_positions_are_refused(write_recipe):
    recipe = write_recipe()
    recipe.data.max_length = 129  # reading a recipe finds this too, where the base is a folder
    with pytest.raises(UserError, match=r"data.max_length is 129, but .* has 128 positions"):
        load_for_training(recipe, lambda: [])
    assert load_for_training(write_recipe(data={"max_length": 128}), lambda: []).positions == 128


@pytest.mark.parametrize("shape", [{"n_embd": 30, "n_head": 4}, {"n_embd": -16, "n_head": 2}])
def test_a_shape_that_cannot_be_is_one_sentence(write_recipe, shape):
    recipe = write_recipe(model={"base": None, "vocab_size": 300, "config": {"n_layer": 1}})
    recipe.model.config = shape  # reading a recipe finds these too
    with pytest.raises(UserError, match=r"shape in model\.config"):
        load_for_training(recipe, lambda: ["text"])


def test_the_recipes_generation_settings_take_the_place_of_the_bases(folder, write_recipe):
    edit(folder / "generation_config.json", do_sample=True, temperature=0.3)
    kept = load_for_training(write_recipe(model={"base": str(folder)}), lambda: []).model.generation_config
    assert (kept.do_sample, kept.temperature) == (True, 0.3)
    recipe = write_recipe(
        model={"base": str(folder)}, evaluation={"generation": {"do_sample": False, "max_new_tokens": 9}}
    )
    loaded = load_for_training(recipe, lambda: [])
    settings = loaded.model.generation_config
    assert (settings.do_sample, settings.temperature, settings.max_new_tokens) == (False, None, 9)
    assert settings.eos_token_id == END


def test_what_is_saved_loads_in_transformers_alone(base_folder, write_recipe, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    recipe = write_recipe(evaluation={"generation": {"do_sample": False, "max_new_tokens": 4}})
    loaded = load_for_training(recipe, lambda: [])
    loaded.model.config.use_cache = False  # as the Trainer leaves it
    saved = tmp_path / "saved"
    saved.mkdir()
    save_model(loaded.model, loaded.tokenizer, saved)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model.eval()(ids).logits, loaded.model.eval()(ids).logits)
    assert model.config.use_cache
    assert (model.config.pad_token_id, model.config.eos_token_id, tokenizer.pad_token_id) == (END, END, END)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (model.generation_config.max_new_tokens, model.generation_config.eos_token_id) == (4, END)
    messages = [{"role": "user", "content": "Hi"}]
    [result] = pipeline("text-generation", str(saved))(messages)
    assert [turn["role"] for turn in result["generated_text"]] == ["user", "assistant"]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = model.generate(prompt)[0, prompt.shape[1] :]
    assert len(answer) <= 4
    assert result["generated_text"][-1]["content"] == tokenizer.decode(answer, skip_special_tokens=True)


@pytest.fixture
def with_code(base_folder, tmp_path):
    """A model folder with code of its own, which leaves a file when it is run."""
    folder = tmp_path / "with_code"
    shutil.copytree(base_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import GPT2Config, GPT2LMHeadModel\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Own(GPT2Config):\n    model_type = 'own'\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = Own\n"
    )
    return folder


def test_code_that_comes_with_a_model_is_run_only_when_the_recipe_says_so(with_code, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(UserError, match=r"model\.trust_remote_code: true"):
        load_model(str(with_code))
    assert not (tmp_path / "ran").exists()
    assert load_model(str(with_code), trust_remote_code=True).model.config.model_type == "own"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for number in range(10 ** 9) %}a{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 1 // 0 }}",
        "{{ messages + 1 }}",
        "{% if %}",
    ],
)
def test_a_chat_template_can_do_no_harm(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="chat template refuses a conversation"):
        render_prompt(tokenizer, [{"role": "user", "content": "hello"}])
