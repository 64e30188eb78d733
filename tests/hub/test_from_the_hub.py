"""Every command takes a model on the Hub; what is wrong with it is said in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
from commands import command
from loopback_hub import TOKEN, Fault

from gptft.runs import latest_run


@pytest.fixture
def pushed(hub, shop: Path):
    """The run of the shop on the Hub as a push leaves it, tagged v1."""
    from gptft.hub.push import collect

    contents = collect(latest_run(shop / "runs"), "me/bot", license="mit")
    files = {name: file.read_bytes() for name, file in contents.files.items()}
    repo = hub.add("me/bot", files=files | {name: text.encode() for name, text in contents.texts.items()})
    repo.tags["v1"] = repo.refs["main"]
    return repo


def test_pull_gives_the_same_files_and_goes_on_after_a_cut(hub, pushed, shop, tmp_path, gptft_on):
    hub.faults.append(Fault("GET .*/resolve/.*/model.safetensors", 503))
    broken = gptft_on(tmp_path, "pull", "me/bot@v1")
    assert broken.code == 1 and "HTTP 503" in broken.message and "try it again" in broken.message
    done = gptft_on(tmp_path, "pull", "me/bot@v1")
    assert done.code == 0 and done.out.strip() == "bot", done.err
    for file in latest_run(shop / "runs").model.iterdir():
        assert (tmp_path / "bot" / file.name).read_bytes() == file.read_bytes()
    asked = len(hub.requests)
    assert gptft_on(tmp_path, "pull", "me/bot@v1").code == 0
    assert not [request for request in hub.requests[asked:] if request.startswith("GET") and "safetensors" in request]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    refused = gptft_on(tmp_path, "pull", "me/bot", "--to", "mine")
    assert refused.code == 2 and "was not pulled from the Hub" in refused.message


def test_eval_uses_the_recipe_in_the_card(pushed, shop, gptft_on):
    run = latest_run(shop / "runs")
    known = json.loads((run.evaluation("test") / "scores.json").read_text())["scores"]["chrf"]
    shutil.rmtree(shop / "runs")
    done = gptft_on(shop, "eval", "me/bot@v1", "--metric", "chrf", "--no-base", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["scores"]["chrf"] == known
    elsewhere = gptft_on(shop.parent, "eval", "me/bot@v1")
    assert elsewhere.code == 2 and "the recipe in the card of me/bot@v1" in elsewhere.message


def test_plain_transformers_says_what_gptft_chat_says(pushed, shop, tmp_path, gptft_on):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    question = "When do you open?"
    ours = gptft_on(tmp_path, "chat", "me/bot", "--message", question)
    assert ours.code == 0, ours.err
    assert gptft_on(tmp_path, "pull", "me/bot").code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bot")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bot")
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = model.generate(ids)[0, ids.shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == ours.out.strip()


@pytest.mark.parametrize(
    ("name", "token", "code", "said"),
    [
        ("me/nowhere", TOKEN, 2, "the Hub has no such model"),
        ("me/bot@v9", TOKEN, 2, "has no revision 'v9'"),
        ("me/secret", None, 2, "or it is private"),
        ("me/gated", TOKEN, 2, "is gated: accept its terms"),
        ("me/rows", TOKEN, 2, "that it is a model"),
        ("me/pickled", TOKEN, 2, "has no weights (model.safetensors)"),
        ("me/bot", "hf_" + "WrongOrExpired" * 3, 2, "it is wrong or has expired"),
    ],
)
def test_one_sentence_for_each_mistake(hub, pushed, tmp_path, gptft_on, name, token, code, said):
    hub.add("me/secret", private=True)
    hub.add("me/gated", gated=True, files={"config.json": b"{}"})
    hub.add("me/rows", kind="datasets")
    hub.add("me/pickled", files={"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    done = gptft_on(tmp_path, "pull", name, token=token)
    assert (done.code, "Traceback" in done.err) == (code, False)
    assert said in done.message


def test_no_network(tmp_path):
    done = command(["pull", "me/bot"], tmp_path)
    assert done.code == 1 and "HF_HUB_OFFLINE is set" in done.message
