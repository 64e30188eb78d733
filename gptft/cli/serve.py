"""Serve a model: `gptft serve`."""

from __future__ import annotations

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
        str, typer.Option(help="Where to listen; 0.0.0.0: at all of this machine's addresses.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="GPTFT_API_KEY", show_default=False, help="Answer only who sends this key.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; else the run's name.")] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt; else what the model has positions for.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; else likewise.")] = None,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 2**18,
    max_requests: Annotated[int, typer.Option(min=1, help="Most requests answered at once; more get 429.")] = 64,
    engine: Annotated[Literal["gptft", "vllm"], typer.Option(help="vllm: hand over to `vllm serve`.")] = "gptft",
) -> None:
    """Serve a model with OpenAI's API: chat completions, completions, models, health."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    if api_key == "":
        raise UserError("--api-key is empty: give a key, or leave it out.")
    if host not in ("127.0.0.1", "localhost", "::1"):
        console.print(f"Listening at {host}: other machines may reach this.")
        if not api_key:
            console.print("Whoever does may use the model. To ask for a key: GPTFT_API_KEY=KEY gptft serve ...")
    if engine == "vllm":
        return _hand_over(target, name, host, port, api_key, console)
    try:
        import uvicorn

        from gptft.serving.server import Server
    except ModuleNotFoundError as error:
        raise UserError(f"gptft serve needs {error.name}, not installed here: pip install 'gptft[serve]'") from error
    try:
        # Taken before the model is loaded.
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Else the body of an answer waits for the client to have confirmed the head, 40 ms; connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise UserError(f"Cannot listen at {host}, port {port} ({error.strerror}): give another --port.") from error
    title, loaded = load_target(target)
    from gptft.models.classes import SETTINGS

    task = getattr(loaded.model.config, SETTINGS, {}).get("task")
    if task == "classification" or not loaded.model.can_generate():
        command = " ".join(filter(None, ("gptft predict", target)))
        raise UserError(f'{title} gives labels, not text: {command} "TEXT"')
    served = name or _name(title)
    limits = max_prompt_tokens, max_new_tokens, max_request_bytes, max_requests
    server = Server(loaded, served, api_key, *limits)
    if not server.engine.batches:
        console.print("Requests are answered one by one: the model or its generation settings (beams?) do not batch.")
    address = f"[{host}]" if ":" in host else host
    console.print(f"Serving {served} at http://{address}:{listener.getsockname()[1]}/v1 (Ctrl-C ends it).")
    # uvicorn's own setting up of logs would close every handler of this process.
    config = uvicorn.Config(
        server.app(), log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    uvicorn.Server(config).run(sockets=[listener])


def _name(title: str) -> str:
    """A folder's own name; a Hub id stays whole."""
    return Path(title).resolve().name if Path(title).is_dir() else title


def _hand_over(target: str | None, name: str | None, host: str, port: int, key: str | None, console: Console) -> None:
    """Become `vllm serve`, which has limits of its own; the key goes by the environment, as others see arguments."""
    program = shutil.which("vllm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not program:
        raise UserError("--engine vllm: vLLM is not installed here (its documentation says how).")
    from gptft.models.bases import resolve_base
    from gptft.runs import find_run

    run = None if target == "starter" else find_run(target)
    folder = resolve_base(str(run.model) if run else str(target)).folder
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is an adapter. Merge it first: gptft export {target} --to merged")
    served = name or (run.folder.name if run else _name(str(target)))
    arguments = ["serve", str(folder), "--served-model-name", served, "--host", host, "--port", str(port)]
    console.print("Handing over to vllm " + " ".join(arguments))
    os.execve(program, [program, *arguments], {**os.environ, **({"VLLM_API_KEY": key} if key else {})})
