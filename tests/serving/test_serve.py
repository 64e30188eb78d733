import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from commands import environment, in_process

pytest.importorskip("uvicorn", reason="not installed: pip install 'gptft[serve]'")


@pytest.fixture
def quiet_start(monkeypatch):
    """The command without its last step: what it would serve, and where."""
    import uvicorn

    started = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: started.append((self.config.app.state.server, sockets))
    )
    monkeypatch.delenv("GPTFT_API_KEY", raising=False)
    yield started
    for server, sockets in started:
        server.engine.close()
        sockets[0].close()


def test_the_command_serves_until_it_is_stopped(base_folder, tmp_path):
    """With the key from the environment, which no output shows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gptft", "serve", base_folder, "--port", "0", "--name", "bot"],
        env=environment(tmp_path) | {"GPTFT_API_KEY": "open-sesame"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        found = re.search(r"Serving bot at (http://127\.0\.0\.1:\d+)/v1", line)
        assert found, line + process.stderr.read()
        with urllib.request.urlopen(f"{found[1]}/health") as response:
            assert json.load(response)["status"] == "ok"
        body = json.dumps({"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}).encode()
        headers = {"Authorization": "Bearer open-sesame"}
        asked = urllib.request.Request(f"{found[1]}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(asked) as response:
            assert json.load(response)["usage"]["completion_tokens"] == 4
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{found[1]}/v1/models")
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert "Traceback" not in err and "sesame" not in line + out + err


def test_the_model_is_called_by_its_folder_and_stays_on_this_machine(base_folder, quiet_start):
    result = in_process("serve", base_folder, "--port", "0", "--max-new-tokens", "9", "--max-requests", "3")
    server, sockets = quiet_start[0]
    assert result.code == 0 and sockets[0].getsockname()[0] == "127.0.0.1"
    assert (server.name, server.api_key, server.max_new_tokens, server.max_requests) == (base_folder.name, None, 9, 3)
    assert server.max_prompt_tokens is None and server.max_request_bytes == 2**18
    assert "other machines" not in result.message
    with socket.create_connection(sockets[0].getsockname()), sockets[0].accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_handlers_of_other_logs_stay_open(base_folder, quiet_start, monkeypatch):
    closed = []
    handler = logging.NullHandler()
    monkeypatch.setattr(handler, "close", lambda: closed.append(handler))
    assert in_process("serve", base_folder, "--port", "0").code == 0 and not closed


def test_another_host_is_said_aloud(base_folder, quiet_start):
    result = in_process("serve", base_folder, "--port", "0", "--host", "0.0.0.0")
    assert "Listening at 0.0.0.0: other machines may reach this." in result.message
    assert "Whoever does may use the model" in result.message
    result = in_process("serve", base_folder, "--port", "0", "--host", "0.0.0.0", "--api-key", "sesame")
    assert "Whoever" not in result.message and "sesame" not in result.message
    assert quiet_start[1][0].api_key == "sesame"


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = in_process("serve", "no/such/model", "--port", str(port))
    assert result.code == 2 and f"127.0.0.1, port {port}" in result.message and "--port" in result.message


def test_an_empty_key_is_a_mistake(base_folder):
    result = in_process("serve", base_folder, "--api-key", "")
    assert result.code == 2 and "--api-key is empty" in result.message


def test_a_classifier_is_sent_to_predict(tmp_path, tokenizer):
    from tiny import make_model
    from transformers import GPT2ForSequenceClassification

    GPT2ForSequenceClassification(make_model().config).save_pretrained(tmp_path / "labels")
    tokenizer.save_pretrained(tmp_path / "labels")
    result = in_process("serve", tmp_path / "labels", "--port", "0")
    assert result.code == 2 and "gives labels, not text: gptft predict" in result.message


def test_without_the_extra_it_says_how_to_install_it(base_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = in_process("serve", base_folder)
    assert result.code == 2 and "pip install 'gptft[serve]'" in result.message


def test_vllm_takes_over_where_it_is_installed(base_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    arguments = ["serve", base_folder, "--engine", "vllm", "--port", "9", "--name", "bot", "--api-key", "sesame"]
    result = in_process(*arguments)
    assert result.code == 2 and "vLLM is not installed here" in result.message
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    handed = []
    monkeypatch.setattr(os, "execve", lambda *call: handed.append(call))
    result = in_process(*arguments)
    path, words, variables = handed[0]
    assert path == words[0] == str(program)
    options = ["--served-model-name", "bot", "--host", "127.0.0.1", "--port", "9"]
    assert words[1:] == ["serve", str(base_folder), *options]
    assert variables["VLLM_API_KEY"] == "sesame" and "sesame" not in result.message
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    result = in_process("serve", adapter, "--engine", "vllm")
    assert result.code == 2 and "Merge it first" in result.message
