"""The chat page: one HTML file that loads nothing from outside, and the two requests that it makes."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gptft.errors import GptftError, UserError
from gptft.files import disk_errors, write_text_atomically
from gptft.models.generation import generation_settings
from gptft.models.loading import LoadedModel
from gptft.models.logits import answer_tokens
from gptft.serving.chat import Conversation

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_REQUEST = 1_000_000
"""Bytes."""
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
"""What transformers takes for settings that a model does not have."""


class Message(BaseModel):
    """A turn of a conversation; those of the assistant may have a thumb."""

    role: Literal["system", "user", "assistant"]
    content: str
    thumb: Literal["up", "down"] | None = None


class Settings(BaseModel, extra="forbid"):
    """How an answer is generated, in the words of GenerationConfig; what is left out is as the model has it."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None


class Question(BaseModel):
    """A conversation that ends with a turn of the user, and the number of the model to answer it."""

    model: Annotated[int, Field(ge=0)]
    messages: Annotated[list[Message], Field(min_length=1)]
    settings: Settings


class Thumbs(BaseModel):
    """A conversation with its thumbs; `conversation` names it, so that a change of mind replaces what was saved."""

    conversation: Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]
    model: str
    messages: list[Message]


Body = TypeVar("Body", Question, Thumbs)


def make_app(models: Sequence[tuple[str, LoadedModel]], thumbs: Path, system: str = "", host: str = "127.0.0.1") -> Any:
    """The page as an ASGI application.

    Args:
        models: one, or several to stand side by side, each with its name.
        thumbs: the folder for up.jsonl and down.jsonl.
        system: the system message that the page begins with.
        host: where it will listen; on the loopback no other name is answered, which keeps other sites' scripts out.
    """
    locks = [threading.Lock() for _ in models]
    nonce = secrets.token_hex(16)
    facts = {
        "names": [name for name, _ in models],
        "ends": [loaded.tokenizer.eos_token_id for _, loaded in models],
        "defaults": _defaults(models[0][1].model),
        "thumbs": str(thumbs),
    }
    folders = [Path(__file__).parent, Path(__file__).parent.parent / "report"]
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("chat.html.jinja").render(facts=facts, system=system, nonce=nonce)

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers={"X-Frame-Options": "DENY"})

    async def ask(request: Request) -> Response:
        question = await _read(request, Question)
        if question.model >= len(models):
            raise UserError(f"model: there is no number {question.model}, only {len(models)} models.")

        async def stream() -> AsyncIterator[str]:
            lines = _answer(models[question.model][1], question, locks[question.model])
            try:
                async for line in iterate_in_threadpool(lines):
                    yield json.dumps(line, ensure_ascii=False) + "\n"
            finally:
                # A reader who has gone stops the generation.
                lines.close()

        return StreamingResponse(stream(), media_type="application/x-ndjson")

    async def rate(request: Request) -> Response:
        await run_in_threadpool(save_thumbs, thumbs, await _read(request, Thumbs))
        return JSONResponse({})

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, UserError) else 500)

    routes = [Route("/", show), Route("/ask", ask, methods=["POST"]), Route("/thumbs", rate, methods=["POST"])]
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={GptftError: refuse})


def _defaults(model: Any) -> dict[str, Any]:
    settings = generation_settings(model, {})
    own = {name: getattr(settings, name) for name in Settings.model_fields}
    return {name: SAMPLING.get(name, False) if value is None else value for name, value in own.items()}


async def _read(request: Request, kind: type[Body]) -> Body:
    # Another type is what a form of another site could send without asking.
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise UserError("Expected JSON (Content-Type: application/json).")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LONGEST_REQUEST:
            raise UserError(f"The conversation is too long: more than {LONGEST_REQUEST:,} bytes.")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc'])) or 'request'}: {first['msg']}.") from error


def _answer(loaded: LoadedModel, question: Question, lock: threading.Lock) -> Generator[dict[str, Any], None, None]:
    """The answer as pieces of text, then whole with its tokens and their alternatives; or what went wrong."""
    *said, last = _plain(question.messages)
    conversation = Conversation(loaded, question.settings.model_dump(exclude_none=True), said)
    try:
        with lock:
            for piece in conversation.ask(last["content"]):
                yield {"text": piece}
            tokens = answer_tokens(loaded.model, loaded.tokenizer, conversation.prompt, conversation.answer)
        yield {"answer": conversation.messages[-1]["content"], "tokens": tokens}
    except Exception as error:
        yield {"error": str(error) if isinstance(error, GptftError) else f"{type(error).__name__}: {error}"}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def save_thumbs(folder: Path, rated: Thumbs) -> None:
    """Write a conversation's thumbs, in place of those that it had: up.jsonl to train on, down.jsonl to look at.

    Training learns all answers of a row. So a row of up.jsonl has only answers with a thumb up, as many as follow each
    other, after the system message. A row of down.jsonl has `prompt` and `rejected`, which no task takes.

    Raises:
        GptftError: it cannot be written.
    """
    about = {"conversation": rated.conversation, "model": rated.model}
    messages = _plain(rated.messages)
    start = 1 if messages and messages[0]["role"] == "system" else 0
    rows: dict[str, list[dict[str, Any]]] = {"up": [], "down": []}
    turn, joined = start, False
    for index, message in enumerate(rated.messages):
        if message.role != "assistant":
            continue
        if message.thumb == "up":
            if not joined:
                rows["up"].append({**about, "messages": messages[:start]})
            rows["up"][-1]["messages"] += messages[turn : index + 1]
        elif message.thumb == "down":
            rows["down"].append({**about, "prompt": messages[:index], "rejected": messages[index : index + 1]})
        turn, joined = index + 1, message.thumb == "up"
    # A row's line begins so; whatever else stands in the files is left as it is.
    mark = f'{{"conversation": "{rated.conversation}"'
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            for kind, new in rows.items():
                file = folder / f"{kind}.jsonl"
                old = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
                lines = [line for line in old if line and not line.startswith(mark)]
                lines += [json.dumps(row, ensure_ascii=False) for row in new]
                if old or new:
                    write_text_atomically(file, "".join(f"{line}\n" for line in lines))
        finally:
            os.close(held)


def serve(app: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `ready` is called with the address once it is taken (port 0: any that is free).

    Raises:
        UserError: the address cannot be had.
    """
    import uvicorn

    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = f"{host} port {port} cannot be had: {error.strerror or error}."
        raise UserError(f"{reason} Name another: --port 0 takes a free one.") from error
    with listener, suppress(KeyboardInterrupt):
        ready(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/")
        settings = uvicorn.Config(
            app, log_config=None, log_level="warning", timeout_graceful_shutdown=2, server_header=False
        )
        uvicorn.Server(settings).run(sockets=[listener])
