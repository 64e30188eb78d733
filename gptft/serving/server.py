"""A server for one model with OpenAI's API: chat completions, completions, models, health."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gptft.errors import UserError
from gptft.models.classes import SETTINGS
from gptft.models.generation import generation_settings, prompt_positions
from gptft.models.loading import LoadedModel
from gptft.models.templates import render_prompt
from gptft.serving.bodies import Body, ChatBody, CompletionBody
from gptft.serving.engine import Engine
from gptft.tasks.completion import plain_ids
from gptft.tasks.dialogue import prompt_ids


class ApiError(HTTPException):
    """What a client is told, in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(status, message, {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status))
        self.code, self.param = code, param


def _error(error: Exception) -> dict[str, Any]:
    status = error.status_code if isinstance(error, HTTPException) else 500
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )
    message = error.detail if isinstance(error, HTTPException) else f"The server failed: {type(error).__name__}"
    fields = {name: getattr(error, name, None) for name in ("param", "code")}
    return {"error": {"message": message, "type": kind, **fields}}


async def _refuse(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return JSONResponse(_error(error), status, getattr(error, "headers", None))


@dataclass
class Server:
    """A model that is served under a name, and what clients may ask of it. With a key, only those who send it may."""

    loaded: LoadedModel
    name: str
    api_key: str | None = None
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    """None: as many as the model has positions for."""
    max_request_bytes: int = 2**20
    max_requests: int = 64

    def __post_init__(self) -> None:
        self.engine, self.active, self.created = Engine(self.loaded), 0, int(time.time())
        # A tokenizer is for one thread at a time.
        self.preparing = asyncio.Lock()

    def app(self) -> Starlette:
        """The ASGI application; at its shutdown the server is closed."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            self.engine.close()

        routes = [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._models),
            Route("/v1/chat/completions", ChatCompletion, methods=["POST"]),
            Route("/v1/completions", Completion, methods=["POST"]),
        ]
        handlers: Any = {HTTPException: _refuse, Exception: _refuse}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        app.state.server = self
        return app

    def admit(self, request: Request) -> None:
        """Refuse those without the key."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode("latin-1")
        if self.api_key and not hmac.compare_digest(given, self.api_key.encode()):
            raise ApiError(
                401, "The key is missing or wrong: send it as `Authorization: Bearer KEY`.", "invalid_api_key"
            )

    def check_name(self, name: str | None) -> None:
        """Refuse what is not the model's name; none is taken for it."""
        if name not in (None, self.name):
            raise ApiError(404, f"There is no model {name!r} here, but {self.name!r}.", "model_not_found", "model")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "requests": self.active})

    async def _models(self, request: Request) -> Response:
        self.admit(request)
        self.check_name(request.path_params.get("name"))
        model = {"id": self.name, "object": "model", "created": self.created, "owned_by": "gptft"}
        return JSONResponse(model if request.path_params else {"object": "list", "data": [model]})

    def prepare(self, body: Body) -> tuple[list[int], Any]:
        """The prompt and the GenerationConfig of what a client asks for."""
        model, tokenizer, positions = self.loaded.model, self.loaded.tokenizer, self.loaded.positions
        name = "max_completion_tokens" if getattr(body, "max_completion_tokens", None) else "max_tokens"
        asked, changes = getattr(body, name), body.generation()
        most = min(self.max_new_tokens or positions, positions - 1)
        if asked and asked > most:
            raise ApiError(400, f"{name} is {asked:,}; at most {most:,} are given here.", param=name)
        usual = min(generation_settings(model, changes).max_new_tokens, most)
        settings = generation_settings(model, {**changes, "max_new_tokens": asked or usual})
        room = min(prompt_positions(model, settings), self.max_prompt_tokens or positions)
        if isinstance(body, ChatBody):
            if getattr(model.config, SETTINGS, {}).get("task") == "completion":
                raise ApiError(400, f"{self.name} completes texts and was not trained to talk: use /v1/completions.")
            turns = [message.turn() for message in body.messages]
            prompt = prompt_ids(tokenizer, turns, room)
            # Older turns go where there is no room; a newest message that was cut is refused.
            newest = [turn for turn in turns[:1] if turn["role"] == "system" and len(turns) > 1] + turns[-1:]
            length = len(render_prompt(tokenizer, newest)) if len(prompt) == room else 0
        else:
            prompt = plain_ids(tokenizer, [getattr(body, "prompt")])[0]  # noqa: B009
            length = len(prompt)
        if length > room:
            beside = f"{room:,} fit beside an answer of up to {settings.max_new_tokens:,}"
            raise ApiError(400, f"The prompt is too long: {length:,} tokens; {beside}.", "context_length_exceeded")
        return prompt, settings


class Completion(HTTPEndpoint):
    """POST /v1/completions: one request and its answer."""

    kind: ClassVar[type[Body]] = CompletionBody

    async def dispatch(self) -> None:
        """Answer. What the request holds is given back when its response is over, however that ends."""
        request = Request(self.scope, self.receive)
        self.server: Server = request.app.state.server
        self.server.admit(request)
        if self.server.active >= self.server.max_requests:
            raise ApiError(429, f"{self.server.active} requests are being answered; try again soon.")
        self.server.active += 1
        self.row, self.count, self.finish = -1, 0, "length"
        self.tokens: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        try:
            self.body = await self._read(request)
            self.server.check_name(self.body.model)
            async with self.server.preparing:
                await run_in_threadpool(self._begin)
            chat = isinstance(self.body, ChatBody)
            self.head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", "created": int(time.time())}
            if self.body.stream:
                response: Response = StreamingResponse(self._events(chat), media_type="text/event-stream")
            else:
                response = JSONResponse(await self._whole(chat, request))
            await response(self.scope, self.receive, self.send)
        except UserError as error:
            raise ApiError(400, str(error)) from error
        except ClientDisconnect:
            pass
        finally:
            self.server.active -= 1
            self.server.engine.leave(self.row)

    async def _read(self, request: Request) -> Body:
        most, data = self.server.max_request_bytes, bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise ApiError(413, f"The request is larger than the {most:,} bytes that are read here.")
        try:
            return self.kind.model_validate_json(bytes(data))
        except ValidationError as error:
            found = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors(include_url=False)]
            message = "; ".join(f"{where}: {what}" if where else what for where, what in found[:8])
            raise ApiError(400, message, param=found[0][0] or None) from error

    def _begin(self) -> None:
        def emit(token: int | Exception | None) -> None:
            # A loop that is closed has no clients either.
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.tokens.put_nowait, token)

        self.prompt, settings = self.server.prepare(self.body)
        self.row, self.ends = self.server.engine.begin(self.prompt, settings, self.body.seed, emit)

    async def _pieces(self, chat: bool) -> AsyncIterator[str]:
        """The text as it comes, up to the first stop string; what may become one is held back."""
        ids, sent, over = [], "", False
        stops = [self.body.stop] if isinstance(self.body.stop, str) else self.body.stop
        while not over:
            token = await self.tokens.get()
            if isinstance(token, Exception):
                raise token
            over = token is None
            if token is not None:
                self.count += 1
                ids.append(token)
                self.finish = "stop" if token in self.ends else "length"
            text = self.server.loaded.tokenizer.decode(ids, skip_special_tokens=True)
            found = [place for stop in stops if (place := text.find(stop)) >= 0]
            if found:
                text, over, self.finish = text[: min(found)], True, "stop"
            elif not over:
                held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
                # A character may take several tokens.
                text = text[: len(text) - held].rstrip("\ufffd")
            text = text.strip() if chat else text
            if len(text) > len(sent):
                yield text[len(sent) :]
                sent = text

    async def _whole(self, chat: bool, request: Request) -> dict[str, Any]:
        text = ""
        async for piece in self._pieces(chat):
            text += piece
            if await request.is_disconnected():
                raise ClientDisconnect
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return self._object("chat.completion" if chat else "text_completion", choice, self.finish) | self._usage()

    async def _events(self, chat: bool) -> AsyncIterator[str]:
        def event(said: dict[str, Any], finish: str | None = None, **more: Any) -> str:
            kind, choice = ("chat.completion.chunk", {"delta": said}) if chat else ("text_completion", said)
            return f"data: {json.dumps(self._object(kind, choice, finish) | more)}\n\n"

        try:
            if chat:
                yield event({"role": "assistant", "content": ""})
            async for piece in self._pieces(chat):
                yield event({"content" if chat else "text": piece})
            yield event({} if chat else {"text": ""}, self.finish)
            if self.body.stream_options.get("include_usage"):
                yield event({}, choices=[], **self._usage())
            yield "data: [DONE]\n\n"
        except Exception as error:
            # The status is sent already.
            yield f"data: {json.dumps(_error(error))}\n\n"

    def _object(self, kind: str, choice: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choices = [{"index": 0, **choice, "logprobs": None, "finish_reason": finish}]
        return {**self.head, "object": kind, "model": self.server.name, "choices": choices}

    def _usage(self) -> dict[str, Any]:
        prompt = len(self.prompt)
        usage = {"prompt_tokens": prompt, "completion_tokens": self.count, "total_tokens": prompt + self.count}
        return {"usage": usage}


class ChatCompletion(Completion):
    """POST /v1/chat/completions."""

    kind = ChatBody
