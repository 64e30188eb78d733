"""Answers to validation prompts while a model is trained: scores to choose the best model by, and one to look at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console

from gptft.metrics.predictions import Predictions, score_values
from gptft.models.generation import generate_answers, generation_settings, prompt_positions
from gptft.tasks import Prompt, Task
from gptft.training.processes import gathered, rank, world_size


def sample_prompts(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """At most `count` of the prompts, always the same ones, in their order."""
    if not count or len(prompts) <= count:
        return list(prompts)
    return [prompts[index] for index in sorted(random.Random(0).sample(range(len(prompts)), count))]


class AnswerScores:
    """Generates answers to a fixed sample of validation prompts, shows one of them, and scores them all."""

    def __init__(
        self,
        task: Task,
        rows: Any,
        tokenizer: Any,
        generation: dict[str, Any],
        metrics: list[str],
        count: int,
        dtype: torch.dtype,
        console: Console,
    ) -> None:
        self.task, self.rows, self.tokenizer, self.generation = task, rows, tokenizer, generation
        self.metrics, self.count, self.dtype, self.console = metrics, count, dtype, console
        self.evaluations = 0

    def __call__(self, model: Any) -> dict[str, float]:
        """Scores by name. The model's mode and the random numbers of the training stay as they are."""
        settings = generation_settings(model, self.generation)
        limit = prompt_positions(model, settings)
        prompts = sample_prompts(self.task.prompts(self.rows, self.tokenizer, limit), self.count)
        was_training = model.training
        model.eval()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                own = [prompt.input_ids for prompt in prompts[rank() :: world_size()]]
                answers = gathered(generate_answers(model, self.tokenizer, own, settings, self.dtype) if own else [])
        finally:
            model.train(was_training)
        shown = self.evaluations % len(prompts)
        self.evaluations += 1
        asked = self.tokenizer.decode(prompts[shown].input_ids)[-200:]
        lines = {"asked": asked, "answered": answers[shown].text, "expected": prompts[shown].references[0]}
        for name, text in lines.items():
            self.console.print(f"  {name + ':':10}{' '.join(text.split())}", highlight=False, markup=False)
        said = Predictions(
            predictions=[answer.text for answer in answers],
            references=[prompt.references for prompt in prompts],
            stopped=[answer.stopped for answer in answers],
        )
        return score_values(self.metrics, said)
