"""A server for one model with OpenAI's API: chat completions, completions, models, health."""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
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
from gptft.serving.engine import Answer, Engine
from gptft.tasks.completion import plain_ids
from gptft.tasks.dialogue import prompt_ids


class ApiError(HTTPException):
    """What a client is told."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(status, message)
        self.code, self.param = code, param


def _shape(error: Exception) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind, message = "server_error", f"The server failed: {type(error).__name__}"
    if isinstance(error, HTTPException):
        kind, message = "invalid_request_error", error.detail
    return {"error": {"message": message, "type": kind} | {key: getattr(error, key, None) for key in ("param", "code")}}


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse(_shape(error), getattr(error, "status_code", 500))


@dataclass
class Server:
    """A model that is served under a name, and what clients may ask of it. With a key, only those who send it may."""

    loaded: LoadedModel
    name: str
    api_key: str | None = None
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    """None: as many as the model has positions for."""
    max_request_bytes: int = 2**18
    max_requests: int = 64

    def __post_init__(self) -> None:
        self.engine, self.active, self.created = Engine(self.loaded), 0, int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            self.engine.close()

        routes = [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._models),
            Route("/v1/completions", Completion, methods=["POST"]),
            Route("/v1/chat/completions", ChatCompletion, methods=["POST"]),
        ]
        app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _refuse, 500: _refuse})
        app.state.server = self
        return app

    def check(self, request: Request) -> None:
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
        self.check(request)
        self.check_name(request.path_params.get("name"))
        model = {"id": self.name, "object": "model", "created": self.created, "owned_by": "gptft"}
        return JSONResponse(model if request.path_params else {"object": "list", "data": [model]})

    def answer(self, body: Body) -> Answer:
        """Turn what a client asks for into a prompt and a GenerationConfig."""
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
            newest = [turn for turn in turns[:-1][:1] if turn["role"] == "system"] + turns[-1:]
            length = len(render_prompt(tokenizer, newest)) if len(prompt) == room else 0
        else:
            prompt = plain_ids(tokenizer, [getattr(body, "prompt")])[0]  # noqa: B009
            length = len(prompt)
        if length > room:
            beside = f"{room:,} fit beside an answer of up to {settings.max_new_tokens:,}"
            raise ApiError(400, f"The prompt is too long: {length:,} tokens; {beside}.", "context_length_exceeded")
        return Answer(prompt, settings, body.seed)


class Completion(HTTPEndpoint):
    """POST /v1/completions: a request and its answer."""

    kind: type[Body] = CompletionBody

    async def dispatch(self) -> None:
        """Answer. What the request holds is given back when its response is over, however that ends."""
        request = Request(self.scope, self.receive)
        self.server: Server = request.app.state.server
        self.server.check(request)
        try:
            body = await self._read(request)
            self.server.check_name(body.model)
            if self.server.active >= self.server.max_requests:
                raise ApiError(429, f"{self.server.active} requests are being answered; try again soon.")
            self.server.active += 1
            self.answer = Answer([], None)
            try:
                self.answer = await self.server.engine.run(self.server.answer, body)
                await self.server.engine.begin(self.answer)
                await (await self._response(request, body))(self.scope, self.receive, self.send)
            finally:
                self.server.active -= 1
                self.server.engine.leave(self.answer)
        except UserError as error:
            raise ApiError(400, str(error)) from error
        except ClientDisconnect:
            pass

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

    async def _response(self, request: Request, body: Body) -> Response:
        chat, text, self.count, self.finish = isinstance(body, ChatBody), "", 0, "length"
        head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", "model": self.server.name}
        head |= {"object": "chat.completion" if chat else "text_completion", "created": int(time.time())}
        pieces = self._pieces([body.stop] if isinstance(body.stop, str) else body.stop, chat)

        def choices(said: dict[str, Any], finish: str | None) -> dict[str, Any]:
            return {"choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish}]}

        def usage() -> dict[str, Any]:
            counts = {"prompt_tokens": len(self.answer.prompt), "completion_tokens": self.count}
            return {"usage": counts | {"total_tokens": sum(counts.values())}}

        async def events() -> AsyncIterator[str]:
            kind = {"object": "chat.completion.chunk"} if chat else {}

            def event(content: dict[str, Any]) -> str:
                return f"data: {json.dumps(content)}\n\n"

            def part(said: dict[str, str], finish: str | None = None) -> str:
                return event(head | kind | choices({"delta": said} if chat else {"text": "", **said}, finish))

            try:
                if chat:
                    yield part({"role": "assistant", "content": ""})
                async for piece in pieces:
                    yield part({"content" if chat else "text": piece})
                yield part({}, self.finish)
                if body.stream_options.get("include_usage"):
                    yield event(head | kind | {"choices": []} | usage())
                yield "data: [DONE]\n\n"
            except Exception as error:
                # The status is sent already.
                yield event(_shape(error))

        if body.stream:
            return StreamingResponse(events(), media_type="text/event-stream")
        async for piece in pieces:
            text += piece
            if await request.is_disconnected():
                raise ClientDisconnect
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return JSONResponse(head | choices(said, self.finish) | usage())

    async def _pieces(self, stops: list[str], strip: bool) -> AsyncIterator[str]:
        """The text as it comes, up to the first stop string; what may become one is held back."""
        ids, sent, over = [], "", False
        while not over:
            token = await self.answer.tokens.get()
            if isinstance(token, Exception):
                raise token
            over = token is None
            if token is not None:
                self.count += 1
                ids.append(token)
                self.finish = "stop" if token in self.answer.ends else "length"
            text = self.server.loaded.tokenizer.decode(ids, skip_special_tokens=True)
            if found := [place for stop in stops if (place := text.find(stop)) >= 0]:
                text, over, self.finish = text[: min(found)], True, "stop"
            elif not over:
                held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
                # A character may take several tokens.
                text = text[: len(text) - held].rstrip("\ufffd")
            text = text.strip() if strip else text
            if len(text) > len(sent):
                yield text[len(sent) :]
                sent = text


class ChatCompletion(Completion):
    """POST /v1/chat/completions."""

    kind = ChatBody
