"""Answers to requests that come at any time: one thread steps a `Decoder`, which reads all answers under way at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch

from gptft.models.decoding import Decoder, keeps_to_masks
from gptft.models.generation import generate_tokens, generation_settings, token_choice
from gptft.models.loading import LoadedModel


@dataclass
class Request:
    """A prompt, how to answer it, and where the answer goes."""

    prompt: list[int]
    settings: Any
    """A GenerationConfig."""
    emit: Callable[[int | Exception | None], None]
    """Called in the engine's thread with each token, then with None, or with what failed."""
    random: torch.Generator | None = None
    ends: frozenset[int] = frozenset()
    choose: Any = None
    row: int = -1


class Engine:
    """A model that answers requests together.

    What `decode` cannot do (beams, penalties that look at the text, models whose attention has a window) comes from
    `model.generate`, one request at a time, and makes the others wait.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        with torch.inference_mode():
            self.batches = keeps_to_masks(loaded.model)
        self._rows, self._inbox = itertools.count(), SimpleQueue[Any]()
        self._running: dict[int, Request] = {}
        self._decoder = Decoder(loaded.model, self._choose)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def can_batch(self, settings: Any | None = None) -> bool:
        """Whether requests with these settings (default: the model's own) are answered together."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        settings = settings or generation_settings(model, {})
        return self.batches and token_choice(model, tokenizer, settings, 1)[1] is not None

    def prepare(self, request: Request) -> Request:
        """Decide how the request's tokens are chosen; in any thread, but in one at a time."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        request.ends, choose = token_choice(model, tokenizer, request.settings, 1, request.random)
        request.choose, request.row = choose if self.batches else None, next(self._rows)
        return request

    def begin(self, request: Request) -> None:
        """Answer a prepared request; what it emits comes from another thread."""
        self._inbox.put(request)

    def leave(self, request: Request) -> None:
        """Nobody waits for the rest of the answer."""
        self._inbox.put(request.row)

    def close(self) -> None:
        """End the thread, and with it all answers."""
        self._inbox.put(None)
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            # With nothing under way, wait.
            waits = not self._running
            try:
                while (order := self._inbox.get(block=waits)) is not None:
                    waits = False
                    self._obey(order)
                return
            except Empty:
                pass
            try:
                tokens = self._decoder.step()
            except Exception as error:
                # Out of memory, say: those under way are told, and those that come are answered.
                for request in self._running.values():
                    request.emit(error)
                self._running, self._decoder = {}, Decoder(self.loaded.model, self._choose)
                continue
            for row, token, over in tokens:
                self._running[row].emit(token)
                if over:
                    self._running.pop(row).emit(None)

    def _obey(self, order: Request | int) -> None:
        if isinstance(order, int):
            self._decoder.remove(order)
            self._running.pop(order, None)
        elif order.choose is None:
            self._generate(order)
        else:
            self._running[order.row] = order
            self._decoder.add(order.row, order.prompt, order.settings.max_new_tokens, order.ends)

    def _generate(self, request: Request) -> None:
        try:
            with torch.random.fork_rng(enabled=request.random is not None):
                if request.random is not None:
                    torch.manual_seed(request.random.initial_seed())
                found, _ = generate_tokens(self.loaded.model, self.loaded.tokenizer, [request.prompt], request.settings)
        except Exception as error:
            return request.emit(error)
        for token in found[0]:
            request.emit(token)
            if token in request.ends:
                break
        request.emit(None)

    def _choose(self, scores: torch.Tensor, rows: list[int], places: list[int]) -> list[int]:
        return [
            self._running[row].choose(scores[index : index + 1], [0], [place])[0]
            for index, (row, place) in enumerate(zip(rows, places, strict=True))
        ]
