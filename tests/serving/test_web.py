"""What the chat page asks of its server, without a browser."""

import copy
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
import torch
from browsing import served
from commands import environment, in_process
from shop import shop_assistant, turn, write_shop
from tiny import make_model

from gptft.models.loading import LoadedModel
from gptft.serving.chat import Conversation

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'gptft[ui]'")
QUESTION = [turn("user", "Do you sell hats?")]
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def loaded(tokenizer):
    model = copy.deepcopy(shop_assistant())
    model.generation_config.update(max_new_tokens=16, do_sample=False)
    return LoadedModel(model, tokenizer, None)


@pytest.fixture(scope="module")
def address(loaded, tokenizer, tmp_path_factory):
    from gptft.serving.web import make_app

    other = LoadedModel(make_model(), tokenizer, None)
    with served(make_app([("bot", loaded), ("other", other)], tmp_path_factory.mktemp("page"))) as found:
        yield found


def post(address, body, **headers):
    """Status, and each line that came back."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, content, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, [json.loads(line) for line in response.read().decode().splitlines()]
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, [json.loads(text) if text.startswith("{") else text]


def ask(address, messages=QUESTION, model=0, **settings):
    return post(f"{address}ask", {"model": model, "messages": messages, "settings": settings})


def test_an_answer_comes_in_pieces_then_with_its_tokens(address, loaded):
    conversation = Conversation(loaded)
    pieces = [piece for piece in conversation.ask("Do you sell hats?") if piece]
    status, lines = ask(address)
    assert (status, [line["text"] for line in lines[:-1] if line["text"]]) == (200, pieces) and len(pieces) > 1
    last = lines[-1]
    assert last["answer"] == conversation.messages[-1]["content"]
    assert [chosen[0] for chosen, _ in last["tokens"]] == conversation.answer
    assert last["tokens"][-1][0][1] == "<|endoftext|>"
    expected = loaded.model(torch.tensor([conversation.prompt + conversation.answer])).logits[0].softmax(-1)
    for place, (chosen, candidates) in enumerate(last["tokens"], start=len(conversation.prompt) - 1):
        assert chosen[2] == pytest.approx(expected[place, chosen[0]].item(), abs=1e-5)
        assert [one[2] for one in candidates] == pytest.approx(expected[place].topk(8).values.tolist(), abs=1e-5)
        # Greedy: the likeliest was taken.
        assert candidates[0] == chosen


def test_the_whole_conversation_and_the_settings_count(address, loaded):
    said = [turn("system", "Be kind."), *QUESTION, turn("assistant", "No, not."), turn("user", "Thanks!")]
    conversation = Conversation(loaded, {"max_new_tokens": 3}, said[:-1])
    assert "".join(conversation.ask("Thanks!")).strip() == ask(address, said, max_new_tokens=3)[1][-1]["answer"]
    drawn = {ask(address, do_sample=True, temperature=50.0, top_k=0)[1][-1]["answer"] for _ in range(3)}
    assert len(drawn) > 1
    assert ask(address, model=1)[1][-1]["answer"] != ask(address)[1][-1]["answer"]
    # Beams: which one wins is known at the end only.
    loaded.model.generation_config.num_beams = 2
    try:
        assert len(ask(address)[1]) == 2 and ask(address)[1][-1]["tokens"]
    finally:
        loaded.model.generation_config.num_beams = None


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        ({"model": 2, "messages": QUESTION, "settings": {}}, {}, 400, "there is no number 2"),
        ({"model": 0, "messages": QUESTION, "settings": {"temperature": 0}}, {}, 400, "settings.temperature"),
        ({"model": 0, "messages": QUESTION, "settings": {"tempreature": 1}}, {}, 400, "settings.tempreature"),
        ({"model": 0, "messages": [], "settings": {}}, {}, 400, "messages"),
        ({"model": 0, "messages": [turn("tool", "x")], "settings": {}}, {}, 400, "messages.0.role"),
        ({"model": 0, "messages": QUESTION, "settings": {"max_new_tokens": 500}}, {}, 200, "at most 127"),
        (b"{", {}, 400, "JSON"),
        (b" " * 1_000_001, {}, 400, "too long"),
        (b"{}", {"Content-Type": "text/plain"}, 400, "Expected JSON"),
        (b"{}", {"Host": "evil.example"}, 400, "host"),
    ],
)
def test_what_cannot_be_answered_is_said(address, body, headers, status, words):
    code, lines = post(f"{address}ask", body, **headers)
    assert code == status and words in str(lines[-1].get("error") if isinstance(lines[-1], dict) else lines[-1])


def test_a_reader_who_leaves_stops_the_answer(address, loaded):
    steps, held = [], threading.Event()

    def wait(*_):
        steps.append(1)
        held.wait(0.05)

    settings = {"model": 0, "messages": QUESTION, "settings": {"max_new_tokens": 120, "repetition_penalty": 5.0}}
    request = urllib.request.Request(
        f"{address}ask", json.dumps(settings).encode(), {"Content-Type": "application/json"}
    )
    hook = loaded.model.register_forward_hook(wait)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            response.readline()
        # The next one is answered only when the first has let go of the model.
        assert ask(address, max_new_tokens=2)[1][-1]["tokens"]
        assert len(steps) < 60
    finally:
        hook.remove()


def rated(*thumbs, system=False, key=KEY):
    from gptft.serving.web import Thumbs

    messages = [turn("system", "Kind.")] if system else []
    for number, thumb in enumerate(thumbs):
        messages += [turn("user", f"q{number}"), {**turn("assistant", f"答\u2028{number}"), "thumb": thumb}]
    return Thumbs.model_validate({"conversation": key, "model": "bot", "messages": messages})


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]


def test_a_row_to_train_on_has_only_answers_with_a_thumb_up(tmp_path):
    from gptft.serving.web import save_thumbs

    save_thumbs(tmp_path, rated("up", None, "up", "up", "down", "up", system=True))
    texts = [[message["content"][-1] for message in row["messages"]] for row in rows(tmp_path, "up.jsonl")]
    assert texts == [[".", "0", "0"], [".", "2", "2", "3", "3"], [".", "5", "5"]]
    (down,) = rows(tmp_path, "down.jsonl")
    assert len(down["prompt"]) == 10 and down["rejected"] == [turn("assistant", "答\u20284")]


def test_a_change_of_mind_replaces_and_other_conversations_stay(tmp_path):
    from gptft.serving.web import save_thumbs

    (tmp_path / "up.jsonl").write_text("not JSON\n")
    save_thumbs(tmp_path, rated("up", key="f" * 16))
    save_thumbs(tmp_path, rated("up"))
    save_thumbs(tmp_path, rated("up", "up"))
    assert (tmp_path / "up.jsonl").read_text(encoding="utf-8").split("\n")[0] == "not JSON"
    assert [len(json.loads(line)["messages"]) for line in (tmp_path / "up.jsonl").open() if line[0] == "{"] == [2, 4]
    save_thumbs(tmp_path, rated("down", None))
    assert KEY not in (tmp_path / "up.jsonl").read_text(encoding="utf-8")
    assert [row["conversation"] for row in rows(tmp_path, "down.jsonl")] == [KEY]


def test_thumbs_of_many_at_once_are_all_kept(tmp_path):
    from gptft.serving.web import save_thumbs

    threads = [threading.Thread(target=save_thumbs, args=(tmp_path, rated("up", key=f"{i:016x}"))) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(tmp_path, "up.jsonl")) == 20


def test_thumbs_up_are_training_data_and_thumbs_down_are_none(tmp_path, base_folder, monkeypatch):
    from gptft.serving.web import save_thumbs

    for number in range(12):
        save_thumbs(tmp_path / "thumbs", rated("up", "down", system=True, key=f"{number:016x}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write_shop(tmp_path, base_folder, data={"train": ["train.jsonl", "thumbs/up.jsonl"]}, training={"max_steps": 1})
    done = in_process("finetune", "bot.yaml", "data.cleaning.duplicates=false")
    assert done.code == 0 and "train: 68 of 68 rows" in done.message, done.err
    for wrong in ("thumbs/down.jsonl", "thumbs/*.jsonl"):
        done = in_process("finetune", "bot.yaml", f"data.train={wrong}")
        assert done.code == 2 and "down.jsonl" in done.message and "messages" in done.message


def test_the_command_serves_a_run_beside_its_base_until_ctrl_c(tmp_path, base_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write_shop(tmp_path, base_folder, training={"max_steps": 1})
    assert in_process("finetune", "bot.yaml").code == 0
    arguments = [sys.executable, "-m", "gptft"]
    options = ["--web", "--beside", "base", "--port", "0", "--system", "Be kind."]
    with subprocess.Popen(
        [*arguments, "chat", *options], cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            talk, address = process.stdout.readline(), process.stdout.readline().strip()
            assert "beside base" in talk and address.startswith("http://127.0.0.1:")
            page = urllib.request.urlopen(address, timeout=30).read().decode()
            assert "Be kind." in page and "runs/bot-" in page
            assert ask(f"{address}", model=1)[1][-1]["tokens"]
            thumbs = {
                "conversation": KEY,
                "model": "m",
                "messages": [*QUESTION, {**turn("assistant", "A"), "thumb": "up"}],
            }
            assert post(f"{address}thumbs", thumbs) == (200, [{}])
            assert len(rows(tmp_path / "runs" / "latest" / "thumbs", "up.jsonl")) == 1
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_mistakes_in_the_command(base_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["--beside", "x"], "--beside is for the page"),
        (["--thumbs", "x"], "--thumbs is for the page"),
        (["--web", "--message", "Hi"], "--message is for the terminal"),
        (["--web", "--beside", "base"], "is no run, so its base is not known"),
        (["--web", "--host", "203.0.113.1"], "203.0.113.1 port 7860 cannot be had"),
    ):
        done = in_process("chat", str(base_folder), *arguments)
        assert done.code == 2 and words in done.message
    assert "asks for no password" in " ".join(in_process("chat", str(base_folder), *arguments).out.split())
    monkeypatch.setattr("gptft.cli.ask.find_spec", lambda name: None)
    done = in_process("chat", "--web")
    assert done.code == 2 and "--web needs starlette, uvicorn, not installed here" in done.message
