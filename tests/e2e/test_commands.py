"""The main job by the commands that a user types: fine-tune, score, talk, look at the next token, repeat."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import command, environment, in_process
from safetensors.torch import load_file

pytestmark = pytest.mark.e2e
QUESTION = "Do you have boots?"


def test_finetune_leaves_a_run(shop, tuned):
    assert tuned.code == 0, tuned.err
    [line] = tuned.out.splitlines()
    run = shop / line
    assert re.fullmatch(r"runs/bot-\d{8}-\d{6}", line)
    assert {path.name for path in run.iterdir()} - {"eval"} == {
        "recipe.yaml",
        "manifest.json",
        "log.jsonl",
        "checkpoints",
        "model",
        "report.html",
    }
    assert (shop / "runs" / "latest").resolve() == run
    model = {path.name for path in (run / "model").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= model
    assert not [name for name in model if name.endswith((".bin", ".pt", ".pkl"))]
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["state"], manifest["task"], manifest["base"]["used"]) == (
        "finished",
        "dialogue",
        str(shop / "base"),
    )
    losses = [line["loss"] for line in map(json.loads, (run / "log.jsonl").open()) if "loss" in line]
    assert losses[-1] < losses[0] / 2
    assert "gptft eval" in tuned.err and "gptft chat" in tuned.err
    # The shop's rows are few, so that some of the test are in train: that is said, and no library warns of anything.
    assert "9 of 15 rows are also in train" in tuned.err
    assert "Traceback" not in tuned.err and tuned.err.count("Warning") == 1


def test_eval_prints_json_alone_and_keeps_it(shop, scored):
    assert scored.code == 0, scored.err
    result = json.loads(scored.out)
    assert (result["split"], result["base_model"]) == ("test", str(shop / "base"))
    assert list(result["scores"]) == ["bleu", "chrf", "exact_match", "stop_rate", "perplexity"]
    assert result["base"].keys() == result["scores"].keys()
    assert result["scores"]["perplexity"]["value"] < result["base"]["perplexity"]["value"] / 5
    assert result["scores"]["bleu"]["value"] > 10 > result["base"]["bleu"]["value"]
    assert result["scores"]["stop_rate"]["value"] > 0.8
    folder = shop / "runs" / "latest" / "eval" / "test"
    assert json.loads((folder / "scores.json").read_text()) == result
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    assert len(rows) == result["scores"]["bleu"]["rows"] == 20
    first = json.loads((shop / "test.jsonl").read_text().splitlines()[0])["messages"]
    assert rows[0]["origin"] == "test.jsonl:1#1"
    assert rows[0]["prompt"] == f"User:\n{first[0]['content']}\nAssistant:\n"
    assert rows[0]["references"] == [first[1]["content"]]
    assert {"prediction", "stopped", "base_prediction"} <= rows[0].keys()


def test_bleu_equals_the_sacrebleu_command(shop, scored, tmp_path, monkeypatch):
    value, signature = (json.loads(scored.out)["scores"]["bleu"][key] for key in ("value", "definition"))
    rows = [json.loads(line) for line in (shop / "runs" / "latest" / "eval" / "test" / "predictions.jsonl").open()]
    for name, texts in (
        ("answers", [row["prediction"] for row in rows]),
        ("references", [row["references"][0] for row in rows]),
    ):
        (tmp_path / name).write_text("".join(" ".join(text.splitlines()) + "\n" for text in texts), encoding="utf-8")
    call = [sys.executable, "-m", "sacrebleu", "references", "-i", "answers", "-m", "bleu", "-w", "6"]
    found = json.loads(subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert f"{value:.6f}" == f"{found['score']:.6f}"
    assert signature == found["signature"]
    # What a person reads is the same number, and so is the base's beside it.
    monkeypatch.chdir(shop)
    monkeypatch.setenv("COLUMNS", "200")
    shown = in_process("eval", "--metric", "bleu")
    assert shown.code == 0, shown.err
    [row] = [line for line in shown.out.splitlines() if "bleu" in line and "│" in line]
    assert re.search(r"│ +([\d.]+) \[", row)[1] == f"{found['score']:.2f}"
    assert row.count("[") == 2


def test_perplexity_equals_a_plain_loop(shop, scored):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shop / "runs" / "latest" / "model"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
        AutoTokenizer.from_pretrained(folder),
    )
    total, count = 0.0, 0
    for line in (shop / "test.jsonl").open():
        ids: list[int] = []
        said: list[bool] = []
        for number, message in enumerate(json.loads(line)["messages"]):
            opening = ("\n" if number else "") + message["role"].capitalize() + ":\n"
            answers = message["role"] == "assistant"
            closing = "<|endoftext|>" if answers else ""
            for text, supervised in ((opening, False), (message["content"] + closing, answers)):
                tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += tokens
                said += [supervised] * len(tokens)
        with torch.no_grad():
            likelihoods = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if said[place]:
                total -= likelihoods[place - 1, ids[place]].item()
                count += 1
    assert json.loads(scored.out)["scores"]["perplexity"]["value"] == pytest.approx(math.exp(total / count), rel=1e-4)


PLAIN = """
import sys
sys.modules["gptft"] = None
import json
from transformers import pipeline
talk = pipeline("text-generation", model=sys.argv[1])
messages = [{"role": "user", "content": sys.argv[2]}]
whole = talk(messages)[0]["generated_text"]
prompt = talk.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
print(json.dumps([whole[-1]["content"], talk(prompt, return_full_text=False)[0]["generated_text"]]))
assert sys.modules["gptft"] is None
"""


def test_chat_next_and_a_process_without_gptft_agree(shop, tuned):
    model = shop / "runs" / "latest" / "model"
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, str(model), QUESTION],
        cwd=shop,
        env=environment(shop / "cache"),
        capture_output=True,
        text=True,
    )
    assert plain.returncode == 0, plain.stderr
    by_messages, by_template = json.loads(plain.stdout.splitlines()[-1])
    chat = command(["chat", "--message", QUESTION], shop)
    assert chat.code == 0, chat.err
    assert chat.out == by_messages.strip() + "\n" == by_template.strip() + "\n"
    # The next token after the prompt is the one that the answer begins with.
    shown = command(["next", f"User:\n{QUESTION}\nAssistant:\n", "--count", "3"], shop)
    assert shown.code == 0, shown.err
    rows = [line.split("│")[1:-1] for line in shown.out.splitlines() if line.startswith("│")]
    probabilities = [float(row[2].strip(" %")) for row in rows]
    assert rows[0][0].strip() == repr(chat.out[0])
    assert len(rows) == 3
    assert 100 >= probabilities[0] >= probabilities[1] >= probabilities[2] >= 0


def test_the_recipe_of_a_run_repeats_it(shop, tuned, tmp_path, monkeypatch, own_cache):
    run = (shop / "runs" / "latest").resolve()
    monkeypatch.chdir(tmp_path)
    again = in_process("finetune", run)
    assert again.code == 0, again.err
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (run, Path(again.out.strip())))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recipes_are_listed_copied_and_described(tmp_path, monkeypatch):
    listed = command(["recipes"], tmp_path)
    assert listed.code == 0 and "customer_service" in listed.out and "continue_pretraining" in listed.out
    copied = command(["recipes", "copy", "customer_service"], tmp_path)
    assert (copied.code, copied.out) == (0, "customer_service.yaml\n")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    data = {f"data/customer_service/{split}.jsonl" for split in ("train", "validation", "test")}
    assert {"customer_service.yaml", "recipe.schema.json", *data} <= files
    schema = command(["recipes", "schema"], tmp_path)
    assert schema.code == 0
    assert json.loads(schema.out)["properties"].keys() >= {"task", "model", "data", "training", "evaluation"}
    monkeypatch.chdir(tmp_path)
    twice = in_process("recipes", "copy", "customer_service")
    assert twice.code == 2 and "exists already" in twice.err
    unknown = in_process("recipes", "copy", "customer")
    assert unknown.code == 2 and "customer_service" in unknown.err


def test_a_copied_recipe_is_one_that_can_be_used(tmp_path, monkeypatch):
    from gptft.recipe import load_recipe

    monkeypatch.chdir(tmp_path)
    for name in ("customer_service", "continue_pretraining"):
        assert in_process("recipes", "copy", name).code == 0
        recipe = load_recipe(Path(f"{name}.yaml"))
        assert recipe.data.train[0].path.startswith(os.path.realpath(tmp_path))
