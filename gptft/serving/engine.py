"""Answers to requests that come at any time: one thread steps a `Decoder`, which reads all under way at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch

from gptft.models.decoding import Decoder, keeps_to_masks
from gptft.models.generation import generate_tokens, generation_settings, token_choice
from gptft.models.loading import LoadedModel

Emit = Callable[[int | Exception | None], None]
"""Called in the engine's thread with each token of an answer, then with None; or with what failed."""


class Engine:
    """A model that answers requests together.

    What `Decoder` cannot do (beams, penalties that look at the text, models whose attention has a window) comes from
    `model.generate`, one request at a time, and makes the others wait.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.keeps_to_masks = keeps_to_masks(self.model)
        settings = generation_settings(self.model, {})
        self.batches = self.keeps_to_masks and token_choice(self.model, self.tokenizer, settings, 1)[1] is not None
        """Whether requests that change no settings are answered together."""
        self._rows, self._orders = itertools.count(), SimpleQueue[Callable[[], None] | None]()
        self._running: dict[int, tuple[Any, Emit]] = {}
        self._decoder = Decoder(self.model, self._choose)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, prompt: list[int], settings: Any, seed: int | None, emit: Emit) -> tuple[int, frozenset[int]]:
        """Answer a prompt by a GenerationConfig; gives a number for `leave`, and the tokens that close an answer."""
        random = None if seed is None else torch.Generator().manual_seed(seed)
        ends, choose = token_choice(self.model, self.tokenizer, settings, 1, random)
        row, method = next(self._rows), self._add if choose and self.keeps_to_masks else self._generate
        self._orders.put(partial(method, row, prompt, settings, ends, choose, seed, emit))
        return row, ends

    def leave(self, row: int) -> None:
        """Nobody waits for the rest of an answer, if there is one."""
        self._orders.put(partial(self._remove, row))

    def close(self) -> None:
        """End the thread, and with it all answers."""
        self._orders.put(None)
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            try:
                # With nothing under way, wait.
                while order := self._orders.get(block=not self._running):
                    order()
                return
            except Empty:
                pass
            try:
                tokens = self._decoder.step()
            except Exception as error:
                # Out of memory, say: those under way are told, and those that come are answered.
                for _, emit in self._running.values():
                    emit(error)
                self._running, self._decoder = {}, Decoder(self.model, self._choose)
                continue
            for row, token, over in tokens:
                emit = self._running[row][1]
                emit(token)
                if over:
                    del self._running[row]
                    emit(None)

    def _add(
        self, row: int, prompt: list[int], settings: Any, ends: frozenset[int], choose: Any, _: Any, emit: Emit
    ) -> None:
        self._running[row] = choose, emit
        self._decoder.add(row, prompt, settings.max_new_tokens, ends)

    def _generate(self, _: int, prompt: list[int], settings: Any, ends: Any, __: Any, seed: Any, emit: Emit) -> None:
        try:
            with torch.random.fork_rng(enabled=seed is not None):
                if seed is not None:
                    torch.manual_seed(seed)
                tokens = generate_tokens(self.model, self.tokenizer, [prompt], settings)[0][0]
        except Exception as error:
            return emit(error)
        closed = next((place for place, token in enumerate(tokens, 1) if token in ends), None)
        for token in [*tokens[:closed], None]:
            emit(token)

    def _remove(self, row: int) -> None:
        self._decoder.remove(row)
        self._running.pop(row, None)

    def _choose(self, scores: torch.Tensor, rows: list[int], places: list[int]) -> list[int]:
        turns = zip(scores.split(1), rows, places, strict=True)
        return [self._running[row][0](score, [0], [place])[0] for score, row, place in turns]
