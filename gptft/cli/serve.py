"""Serve a model: `gptft serve`."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gptft.cli.app import Target, app, load_target
from gptft.errors import UserError


@app.command()
def serve(
    target: Target = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="GPTFT_API_KEY", show_default=False, help="Answer only who sends this key."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default: the run's name.")] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt; default: what the model has positions for.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default: likewise.")] = None,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 2**20,
    max_requests: Annotated[int, typer.Option(min=1, help="Most requests answered at once; more get 429.")] = 64,
    engine: Annotated[Literal["gptft", "vllm"], typer.Option(help="vllm: hand over to `vllm serve`.")] = "gptft",
) -> None:
    """Serve a model with OpenAI's API: chat completions, completions, models, health."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise UserError("The API key (--api-key, GPTFT_API_KEY) must be of printable ASCII characters, not empty.")
    if not _is_loopback(host):
        console.print(f"Listening at {host}: other machines can reach this" + (", with the key." if api_key else "."))
        if not api_key:
            console.print("Whoever reaches it may use the model: set a key (GPTFT_API_KEY=... or --api-key).")
    if engine == "vllm":
        return _hand_over_to_vllm(target, name, host, port, api_key, console)
    try:
        import uvicorn

        from gptft.serving.server import Limits, make_app
    except ModuleNotFoundError as error:
        raise UserError(f"gptft serve needs {error.name}, not installed here: pip install 'gptft[serve]'") from error
    listener = _bind(host, port)
    title, loaded = load_target(target)
    from gptft.models.classes import SETTINGS

    task = getattr(loaded.model.config, SETTINGS, {}).get("task")
    if task == "classification" or not loaded.model.can_generate():
        command = " ".join(filter(None, ("gptft predict", target)))
        raise UserError(f'{title} gives labels, not text: {command} "TEXT"')
    name = name or _served_name(title)
    application = make_app(
        loaded, name, Limits(max_prompt_tokens, max_new_tokens, max_request_bytes, max_requests), api_key
    )
    address = f"[{host}]" if ":" in host else host
    console.print(f"Serving {name} at http://{address}:{listener.getsockname()[1]}/v1 (Ctrl-C ends it).")
    if not application.state.batches:
        console.print(
            "This model, or its generation settings (beams, say), cannot batch: requests wait for each other."
        )
    config = uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


def _served_name(title: str) -> str:
    """A folder's own name; a Hub id stays whole."""
    return Path(title).resolve().name if Path(title).is_dir() else title


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before a model is loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(
            f"Cannot listen at {host}, port {port}: {error.strerror}. Give another --host or --port."
        ) from error
    return listener


def _hand_over_to_vllm(
    target: str | None, name: str | None, host: str, port: int, api_key: str | None, console: Console
) -> None:
    """Become `vllm serve`, which has limits of its own; the key goes by its environment, as others see arguments."""
    program = shutil.which("vllm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not program:
        raise UserError("--engine vllm: vLLM is not installed here. See its installation page, or leave --engine out.")
    from gptft.models.bases import resolve_base
    from gptft.runs import find_run

    run = None if target == "starter" else find_run(target)
    folder = resolve_base(str(run.model) if run else str(target)).folder
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds an adapter. Merge it first: gptft export {target} --to merged")
    served = name or (run.folder.name if run else _served_name(str(target)))
    command = [program, "serve", str(folder), "--served-model-name", served, "--host", host, "--port", str(port)]
    console.print("Handing over to: " + " ".join(command[1:]))
    os.execve(program, command, os.environ | ({"VLLM_API_KEY": api_key} if api_key else {}))
