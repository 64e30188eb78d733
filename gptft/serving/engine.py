"""Answers to requests that come at any time. All work on the model is done in one thread, in steps that serve all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from gptft.models.decoding import Decoder, keeps_to_masks
from gptft.models.generation import generate_tokens, generation_settings, token_choice
from gptft.models.loading import LoadedModel


@dataclass(eq=False)
class Answer:
    """What is asked, and the answer's tokens as they come; then None, or what failed."""

    prompt: list[int]
    settings: Any
    """A GenerationConfig."""
    seed: int | None = None
    tokens: asyncio.Queue[int | Exception | None] = field(default_factory=asyncio.Queue)
    ends: frozenset[int] = frozenset()
    """Tokens that close it."""
    choose: Any = None


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
        # With prompts of any length at any time, more lanes would be filled unequally.
        self._answers, self._decoder = dict[int, Answer](), Decoder(self.model, self._choose, lanes=1)
        self._thread, self._stepping = ThreadPoolExecutor(1), None

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the model's thread, between two steps; the tokenizer, too, is for one thread only."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def begin(self, answer: Answer) -> None:
        """Answer from now on."""
        for token in await self.run(self._begin, answer):
            answer.tokens.put_nowait(token)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._steps())

    def leave(self, answer: Answer) -> None:
        """Nobody waits for the rest of the answer, if there is one."""
        self._thread.submit(self._remove, answer)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _steps(self) -> None:
        while self._answers:
            for answer, token in await self.run(self._step):
                answer.tokens.put_nowait(token)

    @torch.inference_mode()
    def _begin(self, answer: Answer) -> list[int | None]:
        model, tokenizer, settings = self.model, self.tokenizer, answer.settings
        random = None if answer.seed is None else torch.Generator().manual_seed(answer.seed)
        answer.ends, answer.choose = token_choice(model, tokenizer, settings, 1, random)
        if answer.choose and self.keeps_to_masks:
            self._answers[id(answer)] = answer
            self._decoder.add(id(answer), answer.prompt, settings.max_new_tokens, answer.ends)
            return []
        with torch.random.fork_rng(enabled=random is not None):
            if answer.seed is not None:
                torch.manual_seed(answer.seed)
            tokens = generate_tokens(model, tokenizer, [answer.prompt], settings)[0][0]
        return [*tokens[: next((place for place, token in enumerate(tokens, 1) if token in answer.ends), None)], None]

    @torch.inference_mode()
    def _step(self) -> list[tuple[Answer, int | Exception | None]]:
        try:
            tokens = self._decoder.step()
        except Exception as error:
            # Out of memory, say: those under way are told, and those that come are answered.
            failed, self._answers = self._answers, {}
            self._decoder = Decoder(self.model, self._choose, lanes=1)
            return [(answer, error) for answer in failed.values()]
        emitted: list[tuple[Answer, int | Exception | None]] = [(self._answers[row], token) for row, token, _ in tokens]
        return emitted + [(self._answers.pop(row), None) for row, _, over in tokens if over]

    def _remove(self, answer: Answer) -> None:
        self._decoder.remove(id(answer))
        self._answers.pop(id(answer), None)

    def _choose(self, scores: torch.Tensor, rows: list[int], places: list[int]) -> list[int]:
        turns = zip(scores.split(1), rows, places, strict=True)
        return [self._answers[row].choose(score, [0], [place])[0] for score, row, place in turns]
