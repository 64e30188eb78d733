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
from typing import Any

import torch
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gptft.errors import UserError
from gptft.models.classes import SETTINGS
from gptft.models.generation import generation_settings, prompt_positions
from gptft.models.loading import LoadedModel
from gptft.models.templates import render_prompt
from gptft.serving.bodies import Body, ChatBody, CompletionBody
from gptft.serving.engine import Engine, Request
from gptft.tasks.completion import plain_ids
from gptft.tasks.dialogue import prompt_ids


@dataclass(frozen=True)
class Limits:
    """What a client may ask for."""

    prompt_tokens: int | None = None
    """None: as many as the model has positions for."""
    new_tokens: int | None = None
    """None: likewise."""
    request_bytes: int = 2**20
    requests: int = 64
    """Answers under way."""


class ApiError(Exception):
    """What a client is told in OpenAI's error shape."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        kind = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
        self.status = status
        self.content = {
            "error": {
                "message": message,
                "type": kind.get(status, "invalid_request_error"),
                "param": param,
                "code": code,
            }
        }

    def response(self) -> Response:
        """The error as a response."""
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}
        return JSONResponse(self.content, self.status, headers.get(self.status))


def make_app(loaded: LoadedModel, name: str, limits: Limits | None = None, api_key: str | None = None) -> Starlette:
    """Make the ASGI application that serves a model under a name; with a key, only to those who send it."""
    server = _Server(loaded, name, limits or Limits(), api_key)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        server.engine.close()

    async def failed(request: HttpRequest, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return (error if isinstance(error, ApiError) else ApiError(500, "The server failed.")).response()

    app = Starlette(
        routes=[
            Route("/health", server.health),
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.models),
            Route("/v1/chat/completions", _Endpoint(server, ChatBody), methods=["POST"]),
            Route("/v1/completions", _Endpoint(server, CompletionBody), methods=["POST"]),
        ],
        exception_handlers={ApiError: failed, HTTPException: failed, Exception: failed},
        lifespan=lifespan,
    )
    app.state.batches = server.engine.can_batch()
    return app


class _Server:
    """What the endpoints share."""

    def __init__(self, loaded: LoadedModel, name: str, limits: Limits, api_key: str | None) -> None:
        self.loaded, self.name, self.limits, self.api_key = loaded, name, limits, api_key
        self.engine, self.active, self.created = Engine(loaded), 0, int(time.time())
        # A tokenizer is used by one thread at a time.
        self.preparing = asyncio.Lock()

    def authorize(self, request: HttpRequest) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.api_key and not hmac.compare_digest(given.encode(), self.api_key.encode()):
            raise ApiError(
                401, "The API key is missing or wrong: send it as `Authorization: Bearer KEY`.", "invalid_api_key"
            )

    def check_name(self, name: str | None) -> None:
        if name not in (None, self.name):
            raise ApiError(
                404, f"There is no model {name!r} here; this server has {self.name!r}.", "model_not_found", "model"
            )

    async def health(self, request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok", "model": self.name, "requests": self.active})

    async def models(self, request: HttpRequest) -> Response:
        self.authorize(request)
        model = {"id": self.name, "object": "model", "created": self.created, "owned_by": "gptft"}
        if "name" in request.path_params:
            self.check_name(request.path_params["name"])
            return JSONResponse(model)
        return JSONResponse({"object": "list", "data": [model]})

    def prepare(self, body: Body, request: Request) -> Request:
        """Turn what a client asks for into what the engine answers."""
        model, tokenizer, positions = self.loaded.model, self.loaded.tokenizer, self.loaded.positions
        asked = (body.max_completion_tokens if isinstance(body, ChatBody) else None) or body.max_tokens
        most = min(self.limits.new_tokens or positions, positions - 1)
        if asked and asked > most:
            raise ApiError(400, f"max_tokens is {asked:,}; at most {most:,} are given here.", param="max_tokens")
        changes = body.generation()
        usual = generation_settings(model, changes).max_new_tokens
        request.settings = generation_settings(model, {**changes, "max_new_tokens": asked or min(usual, most)})
        room = min(prompt_positions(model, request.settings), self.limits.prompt_tokens or positions)
        if isinstance(body, ChatBody):
            if getattr(model.config, SETTINGS, {}).get("task") == "completion":
                raise ApiError(400, f"{self.name} was trained to complete texts, not to talk: use /v1/completions.")
            turns = [message.turn() for message in body.messages]
            request.prompt = prompt_ids(tokenizer, turns, room)
            # At the limit it may have lost words; without the older turns, which may go, it must fit.
            newest = [*turns[:1], turns[-1]] if len(turns) > 1 and turns[0]["role"] == "system" else turns[-1:]
            length = len(render_prompt(tokenizer, newest)) if len(request.prompt) == room else 0
        else:
            assert isinstance(body, CompletionBody)
            request.prompt = plain_ids(tokenizer, [body.prompt])[0]
            length = len(request.prompt)
        if length > room:
            raise ApiError(
                400,
                f"The prompt is too long: {length:,} tokens; {room:,} fit beside an answer of up to "
                f"{request.settings.max_new_tokens:,}.",
                "context_length_exceeded",
                "messages" if isinstance(body, ChatBody) else "prompt",
            )
        if body.seed is not None:
            request.random = torch.Generator().manual_seed(body.seed)
        return self.engine.prepare(request)


class _Endpoint:
    """An endpoint that answers; an ASGI application, so that it knows when the response is over, however it ends."""

    def __init__(self, server: _Server, kind: type[Body]) -> None:
        self.server, self.kind = server, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server, http = self.server, HttpRequest(scope, receive)
        server.authorize(http)
        if server.active >= server.limits.requests:
            raise ApiError(429, f"{server.active} requests are being answered; try again soon.", "too_many_requests")
        server.active += 1
        loop, tokens = asyncio.get_running_loop(), asyncio.Queue[int | Exception | None]()

        def emit(token: int | Exception | None) -> None:
            # A loop that is closed has no clients either.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tokens.put_nowait, token)

        request = Request([], None, emit)
        try:
            body = await self._read(http)
            server.check_name(body.model)
            try:
                async with server.preparing:
                    await run_in_threadpool(server.prepare, body, request)
            except UserError as error:
                raise ApiError(400, str(error)) from error
            server.engine.begin(request)
            answer = _Answer(server, body, request, tokens)
            if body.stream:
                response: Response = StreamingResponse(answer.events(), media_type="text/event-stream")
            else:
                response = JSONResponse(await answer.whole(http))
            await response(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            server.active -= 1
            server.engine.leave(request)

    async def _read(self, http: HttpRequest) -> Body:
        most, data = self.server.limits.request_bytes, bytearray()
        async for chunk in http.stream():
            data += chunk
            if len(data) > most:
                raise ApiError(413, f"The request is larger than the {most:,} bytes that are read here.")
        try:
            return self.kind.model_validate_json(bytes(data))
        except ValidationError as error:
            found = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors(include_url=False)]
            message = "; ".join(f"{where}: {what}" if where else what for where, what in found[:8])
            raise ApiError(400, message, param=found[0][0] or None) from error


class _Answer:
    """An answer as its tokens come, in the shapes of OpenAI's API."""

    def __init__(self, server: _Server, body: Body, request: Request, tokens: asyncio.Queue[Any]) -> None:
        self.server, self.body, self.request, self.tokens = server, body, request, tokens
        self.chat, self.count, self.finish = isinstance(body, ChatBody), 0, "length"
        self.head = {"id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}", "created": int(time.time())}

    async def pieces(self) -> AsyncIterator[str]:
        """The text, piece by piece, up to the first stop string; what may become one is held back."""
        ids, sent, stops = [], "", self.body.stops()
        while True:
            token = await self.tokens.get()
            if isinstance(token, Exception):
                raise ApiError(500, f"The model failed: {type(token).__name__}")
            over = token is None
            if token in self.request.ends:
                self.finish = "stop"
            elif token is not None:
                ids.append(token)
            self.count += not over
            text = self.server.loaded.tokenizer.decode(ids, skip_special_tokens=True)
            found = [place for stop in stops if (place := text.find(stop)) >= 0]
            if found:
                text, over, self.finish = text[: min(found)], True, "stop"
            elif not over:
                held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
                # A character may take several tokens.
                text = text[: len(text) - held].rstrip("\ufffd")
            if self.chat:
                text = text.strip()
            if len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
            if over:
                return

    async def whole(self, http: HttpRequest) -> dict[str, Any]:
        """The answer as one object."""
        text = ""
        async for piece in self.pieces():
            text += piece
            if await http.is_disconnected():
                raise ClientDisconnect
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return self._object("", [self._choice(said, self.finish)]) | {"usage": self._usage()}

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            if self.chat:
                yield self._event([self._choice({"delta": {"role": "assistant", "content": ""}})])
            async for piece in self.pieces():
                yield self._event([self._choice({"delta": {"content": piece}} if self.chat else {"text": piece})])
            yield self._event([self._choice({"delta": {}} if self.chat else {"text": ""}, self.finish)])
            if self.body.stream_options.include_usage:
                yield self._event([], usage=self._usage())
            yield "data: [DONE]\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(error.content)}\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps(self._object('.chunk', choices) | more)}\n\n"

    def _choice(self, said: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish}

    def _object(self, suffix: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {**self.head, "object": kind, "model": self.server.name, "choices": choices}

    def _usage(self) -> dict[str, int]:
        prompt = len(self.request.prompt)
        return {"prompt_tokens": prompt, "completion_tokens": self.count, "total_tokens": prompt + self.count}
