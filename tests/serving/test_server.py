"""The `openai` package talks to a server of the shop's tiny assistant."""

import asyncio
import copy
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from shop import THINGS, shop_assistant, turn

from gptft.models.generation import generation_settings
from gptft.models.loading import LoadedModel
from gptft.models.templates import render_prompt
from gptft.serving.chat import Conversation

openai = pytest.importorskip("openai", reason="not installed: pip install openai")
uvicorn = pytest.importorskip("uvicorn", reason="not installed: pip install 'gptft[serve]'")

KEY = "open-sesame"
LONG = {"temperature": 2.0, "seed": 1, "max_tokens": 90}
"""An answer of many steps."""


@pytest.fixture(scope="module")
def loaded(tokenizer):
    model = copy.deepcopy(shop_assistant())
    model.generation_config.update(max_new_tokens=24, do_sample=False)
    return LoadedModel(model, tokenizer, None)


@pytest.fixture(scope="module")
def serving(loaded):
    """The server and its port."""
    from gptft.serving.server import Server

    server = Server(loaded, "shop-bot", KEY, max_request_bytes=200_000, max_requests=20)
    listener = socket.create_server(("127.0.0.1", 0))
    runner = uvicorn.Server(
        uvicorn.Config(server.app(), log_config=None, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield server, listener.getsockname()[1]
    runner.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(serving):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{serving[1]}/v1", api_key=KEY, max_retries=0, timeout=60)


def asked(thing="hats"):
    return [turn("user", f"Do you sell {thing}?")]


def ask(client, messages, **options):
    return client.chat.completions.create(model="shop-bot", messages=messages, **options)


def said(client, messages, **options):
    return ask(client, messages, **options).choices[0].message.content


def by_transformers(loaded, messages):
    ids = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    out = loaded.model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return loaded.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()


def post(port, path, body, key=KEY):
    """Status and content of a request that the openai package would not send."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body, {"Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def is_idle(server):
    """Whether nothing is under way, a moment later at most; what is left is held no more."""
    decoder = server.engine._decoder
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not (server.active or server.engine._answers or decoder.requests):
            return all(lane.used == {0} for lane in decoder.lanes)
        time.sleep(0.01)
    return False


def test_the_same_answer_from_chat_server_and_transformers(client, loaded):
    conversation, messages = Conversation(loaded), []
    for text in ("Have you got boots?", "Thanks!"):
        answer = "".join(conversation.ask(text)).strip()
        messages.append(turn("user", text))
        assert said(client, messages) == answer == by_transformers(loaded, messages) != ""
        messages.append(turn("assistant", answer))


def test_sixteen_clients_at_once_get_what_each_gets_alone(client, loaded, serving):
    expected = {thing: by_transformers(loaded, asked(thing)) for thing in THINGS}
    assert len(set(expected.values())) > 1
    jobs = [thing for thing in THINGS for _ in range(8)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda thing: said(client, asked(thing)), jobs))
    assert answers == [expected[thing] for thing in jobs]
    assert is_idle(serving[0])


def test_requests_are_read_together(client, serving, monkeypatch):
    decoder, steps = serving[0].engine._decoder, []
    original = decoder.step
    monkeypatch.setattr(decoder, "step", lambda: steps.append(len(decoder.requests)) or original())
    with ThreadPoolExecutor(8) as pool:
        total = sum(
            pool.map(lambda seed: ask(client, asked(), **LONG | {"seed": seed}).usage.completion_tokens, range(8))
        )
    assert max(steps) > 4 and len(steps) < total / 2


def test_a_stream_is_the_answer_in_pieces(client):
    whole = ask(client, asked())
    chunks = list(ask(client, asked(), stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 5
    assert whole.choices[0].finish_reason == "stop" == chunks[-2].choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens == len("User:\nDo you sell hats?\nAssistant:\n")
    assert {chunk.model for chunk in chunks} == {"shop-bot"} and len({chunk.id for chunk in chunks}) == 1


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client):
    whole = said(client, asked())
    stop = whole[5:7]
    cut = ask(client, asked(), stop=["unheard of", stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)].strip() != whole
    assert cut.choices[0].finish_reason == "stop"
    # What may become a stop string is held back, and comes when it does not.
    for stops in (stop, whole[5] + "#", whole[-1] + "#"):
        chunks = ask(client, asked(), stop=stops, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert streamed == (cut.choices[0].message.content if stops == stop else whole)


def test_length_and_sampling_are_as_asked(client):
    short = ask(client, asked(), max_completion_tokens=2)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)
    assert said(client, asked(), temperature=0) == said(client, asked())
    drawn = [said(client, asked(), **LONG | {"seed": seed}) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with ThreadPoolExecutor(3) as pool:
        beside = list(pool.map(lambda seed: said(client, asked(), **LONG | {"seed": seed}), (2, 1, 3)))
    assert beside[:2] == [drawn[2], drawn[0]]
    assert said(client, asked(), temperature=2, extra_body={"top_k": 1}) == said(client, asked())


def test_texts_are_continued(client, loaded):
    prompt = "User:\nDo you sell hats?\nAssistant:\n"
    answer = client.completions.create(model="shop-bot", prompt=prompt)
    assert answer.choices[0].text.strip() == said(client, asked())
    chunks = list(client.completions.create(model="shop-bot", prompt=prompt, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason == "stop"


def test_a_character_of_several_tokens_comes_whole(client, loaded, monkeypatch):
    ids = iter([*loaded.tokenizer("né 你好", add_special_tokens=False)["input_ids"], loaded.tokenizer.eos_token_id])
    from gptft.models import generation

    monkeypatch.setattr(generation.torch.Tensor, "argmax", lambda *_, **__: torch.tensor([next(ids)]))
    pieces = [chunk.choices[0].delta.content for chunk in ask(client, asked(), stream=True)]
    assert [piece for piece in pieces if piece] == ["n", "é", " 你", "好"]


def test_parts_null_fields_and_developers_are_understood(client):
    parts = [{"type": "text", "text": "Do you "}, {"type": "text", "text": "sell hats?"}]
    assert said(client, [{"role": "user", "content": parts}]) == said(client, asked())
    answer = ask(client, asked()).choices[0].message
    messages = [*asked(), answer.model_dump(), turn("user", "Thanks!")]
    assert said(client, messages, user="me", n=1) == said(
        client, [*asked(), turn("assistant", answer.content), messages[-1]]
    )
    system = [turn("system", "Be kind."), *asked()]
    assert said(client, [{"role": "developer", "content": "Be kind."}, *asked()]) == said(client, system)


def test_a_long_conversation_loses_its_oldest_turns_as_in_chat(client, loaded):
    turns = [turn("system", "Be kind.")]
    for thing in THINGS:
        turns += [*asked(thing), turn("assistant", "Yes, sir.")]
    conversation = Conversation(loaded, messages=turns)
    answer = "".join(conversation.ask("Do you sell hats?")).strip()
    response = ask(client, [*turns, *asked()])
    assert response.choices[0].message.content == answer
    assert response.usage.prompt_tokens <= 128 - 24 < len(render_prompt(loaded.tokenizer, [*turns, *asked()]))


def test_models_and_health(client, serving):
    assert [model.id for model in client.models.list()] == ["shop-bot"] == [client.models.retrieve("shop-bot").id]
    connection = http.client.HTTPConnection("127.0.0.1", serving[1])
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok", "requests": 0}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, ("'gpt-4o'", "'shop-bot'")),
        ({"messages": asked("x" * 100_000)}, openai.BadRequestError, ("too long: 1", "104 fit", "up to 24")),
        ({"messages": []}, openai.BadRequestError, ("messages", "at least 1")),
        ({"messages": [turn("tool", "x")]}, openai.BadRequestError, ("messages.0.role",)),
        (
            {"messages": [turn("user", [{"type": "image_url", "image_url": {}}])]},
            openai.BadRequestError,
            ("image_url",),
        ),
        ({"max_tokens": 128}, openai.BadRequestError, ("max_tokens is 128", "at most 127")),
        ({"max_tokens": 0}, openai.BadRequestError, ("max_tokens",)),
        ({"temperature": 3}, openai.BadRequestError, ("temperature",)),
        ({"n": 2}, openai.BadRequestError, ("n:",)),
        ({"stop": ""}, openai.BadRequestError, ("stop",)),
        ({"logprobs": True, "tools": [{}]}, openai.BadRequestError, ("logprobs", "tools")),
        ({"messages": asked("x" * 300_000)}, openai.APIStatusError, ("200,000 bytes",)),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(client, options, kind, words):
    with pytest.raises(kind) as refused:
        client.chat.completions.create(**{"model": "shop-bot", "messages": asked(), **options})
    assert 400 <= refused.value.status_code < 500 and refused.value.type == "invalid_request_error"
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("body", ["{", "", "[1]", "nonsense", b"\xff\xfe", '{"messages": [{"role": "user"', "[" * 9000])
def test_what_is_no_json_object_is_refused(serving, body):
    status, content = post(serving[1], "/v1/chat/completions", body)
    assert status == 400 and content["error"]["message"]


@pytest.mark.parametrize("key", ["", "wrong", "open-sesame1", "open-sesam", "\xe9"])
def test_a_wrong_key_is_refused_everywhere(serving, key):
    for path in ("/v1/chat/completions", "/v1/completions"):
        status, content = post(serving[1], path, "{}", key)
        assert status == 401 and content["error"]["code"] == "invalid_api_key" and KEY not in json.dumps(content)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"http://127.0.0.1:{serving[1]}/v1", api_key="wrong", max_retries=0).models.list()


def test_wrong_paths_and_methods_have_the_same_shape(serving):
    assert post(serving[1], "/v1/embeddings", "{}")[0] == 404
    status, content = post(serving[1], "/v1/models", "{}")
    assert status == 405 and content["error"]["type"] == "invalid_request_error"


def test_more_requests_than_allowed_get_429(client, serving, monkeypatch):
    monkeypatch.setattr(serving[0], "max_requests", 0)
    with pytest.raises(openai.RateLimitError):
        said(client, asked())


def test_a_client_that_leaves_while_it_asks_is_no_failure(serving, capfd):
    with socket.create_connection(("127.0.0.1", serving[1])) as connection:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n{{"
        )
        connection.sendall(head.encode())
    assert is_idle(serving[0])
    assert post(serving[1], "/v1/completions", "{")[0] == 400
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_not_answered_any_more(client, serving, loaded, stream):
    server, port = serving
    long = next(
        seed for seed in range(99) if ask(client, asked(), **LONG | {"seed": seed}).usage.completion_tokens > 40
    )
    body = {"messages": asked(), "stream": stream, **LONG, "seed": long}
    steps: list[float] = []
    # Slow enough to be left.
    hook = loaded.model.register_forward_hook(lambda *_: steps.append(time.sleep(0.05)))
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {KEY}"})
        while not server.engine._decoder.requests:
            time.sleep(0.01)
        if stream:
            connection.getresponse().fp.readline()
        connection.sock.close()
        connection.close()
        assert is_idle(server)
        assert len(steps) < 20
    finally:
        hook.remove()
    assert said(client, asked())


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_told_and_the_next_request_answered(client, serving, monkeypatch, stream):
    from gptft.models import decoding

    def fail(*_):
        raise MemoryError("secret")

    monkeypatch.setattr(decoding._Reader, "__call__", fail)
    with pytest.raises(openai.APIError, match="The server failed: MemoryError") as failed:
        list(ask(client, asked(), stream=stream))
    assert "secret" not in str(failed.value)
    monkeypatch.undo()
    assert said(client, asked())
    assert is_idle(serving[0])


@pytest.mark.parametrize("changes", [{"num_beams": 2}, {"repetition_penalty": 1.3}])
def test_what_cannot_be_batched_is_answered_one_by_one(loaded, tokenizer, changes):
    from gptft.serving.engine import Answer, Engine

    model = copy.deepcopy(loaded.model)
    model.generation_config.update(**changes)
    other = LoadedModel(model, tokenizer, None)

    async def answer():
        engine = Engine(other)
        assert not engine.batches
        one = Answer(render_prompt(tokenizer, asked()), generation_settings(model, {}))
        await engine.begin(one)
        tokens = []
        while (token := await one.tokens.get()) is not None:
            tokens.append(token)
        engine.close()
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()

    assert asyncio.run(answer()) == "".join(Conversation(other).ask("Do you sell hats?")).strip() != ""
