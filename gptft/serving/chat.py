"""A conversation in the terminal: streaming answers, history, a few commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from gptft.models.generation import generate_tokens, generation_settings, left_padded, prompt_positions
from gptft.models.loading import LoadedModel
from gptft.tasks.dialogue import prompt_ids

HELP = """\
/reset          forget the conversation
/system TEXT    begin anew with TEXT as the system message (without TEXT: with none)
/help           these commands
/quit           leave (also Ctrl-D)"""


@dataclass
class Conversation:
    """A model and what was said so far. The prompt is the one of training; the oldest turns go when it gets long."""

    loaded: LoadedModel
    generation: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    """Token ids that the last answer was asked with."""
    answer: list[int] = field(default_factory=list)
    """Token ids of the last answer, with what closed it; none where reading it was given up."""

    def ask(self, text: str) -> Iterator[str]:
        """Say `text` and yield the answer piece by piece; both then belong to the conversation.

        An answer that the caller stops reading is kept as far as it was read, and no more of it is generated. After a
        failure the conversation is as it was.
        """
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        settings = generation_settings(model, self.generation)
        said = [*self.messages, {"role": "user", "content": text}]
        ids = prompt_ids(tokenizer, said, prompt_positions(model, settings))
        self.prompt, self.answer = ids, []
        if settings.num_beams and settings.num_beams > 1:
            # Which beam wins is known at the end only.
            [tokens], ends = generate_tokens(model, tokenizer, [ids], settings)
            self.answer = tokens[: next((end for end, token in enumerate(tokens, 1) if token in ends), None)]
            pieces = iter([tokenizer.decode(self.answer, skip_special_tokens=True)])
        else:
            pieces = self._stream(ids, settings)
        answer, failed = "", False
        try:
            for piece in pieces:
                answer += piece
                yield piece
        except Exception:
            failed = True
            raise
        finally:
            if not failed:
                self.messages = [*said, {"role": "assistant", "content": answer.strip()}]

    def _stream(self, prompt: list[int], settings: Any) -> Iterator[str]:
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        ids, mask = left_padded([prompt], tokenizer.pad_token_id, next(model.parameters()).device)
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        unread = threading.Event()
        failure: list[BaseException] = []
        outputs: list[list[int]] = []

        class Unread(StoppingCriteria):
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
                return torch.full((len(input_ids),), unread.is_set(), device=input_ids.device)

        def generate() -> None:
            try:
                generated = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=settings,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([Unread()]),
                    tokenizer=tokenizer,
                )
                outputs.append(generated[0, len(prompt) :].tolist())
            except BaseException as error:
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            unread.set()
            thread.join()
        if failure:
            raise failure[0]
        self.answer = outputs[0]

    def reset(self, system: str | None = None) -> None:
        """Forget what was said; begin with a system message if one is given."""
        self.messages = [{"role": "system", "content": system}] if system else []


def chat(conversation: Conversation, console: Console, title: str) -> None:
    """Read lines from the terminal and answer them until /quit or the end of input."""
    console.print(f"Talking to [bold]{escape(title)}[/bold]. /help lists the commands; Ctrl-C stops an answer.")
    while True:
        try:
            line = console.input("[bold cyan]You:[/bold cyan] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/help":
            console.print(HELP, markup=False)
        elif command == "/reset":
            system = next(
                (message["content"] for message in conversation.messages if message["role"] == "system"), None
            )
            conversation.reset(system)
            console.print("The conversation is forgotten.")
        elif command == "/system":
            conversation.reset(rest.strip() or None)
            console.print("A new conversation begins" + (" with this system message." if rest.strip() else "."))
        elif command.startswith("/"):
            console.print(f"{command} is not a command.\n{HELP}", markup=False)
        elif line:
            _print_answer(conversation, line, console)


def _print_answer(conversation: Conversation, line: str, console: Console) -> None:
    console.print("[bold green]Assistant:[/bold green] ", end="")
    try:
        for piece in conversation.ask(line):
            console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/dim]", end="")
    console.print()
