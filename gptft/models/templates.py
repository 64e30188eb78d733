"""Messages to tokens, in one place: what is trained and what is asked for at inference come from the same template.

gptft's own template is for bases that have none. It is made of existing tokens only, because new ones hurt small
models and break merging into tied embeddings. Each turn of the assistant is closed by the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptft.errors import UserError

Message = dict[str, str]

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set content = message['content'] | replace(eos_token, ' ') | trim -%}
{%- if not loop.first %}{{ '\\n' }}{% endif -%}
{{- message['role'] | capitalize + ':\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- content + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- content -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- if messages %}{{ '\\n' }}{% endif -%}
{{- 'Assistant:\\n' -}}
{%- endif -%}
"""
"""Roles as words, contents on lines of their own. A content cannot smuggle in the end-of-text string: a space takes its
place, as what is left and right of it could make another one."""


def _apply(tokenizer: Any, messages: Sequence[Message], **options: Any) -> dict[str, list[int]]:
    try:
        # As a batch of one: transformers renders no empty conversation otherwise, and an assistant may speak first.
        rendered = tokenizer.apply_chat_template([list(messages)], return_dict=True, **options)
    except Exception as error:  # whatever a template can do wrong, in the sandbox of transformers
        raise UserError(
            f"The base's chat template refuses a conversation: {error}. Change the data, or use a base without a "
            "template, which gets gptft's."
        ) from error
    return {name: values[0] for name, values in rendered.items()}


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids that end where the assistant's answer to `messages` begins."""
    return _apply(tokenizer, messages, add_generation_prompt=True)["input_ids"]


def render_conversation(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether the assistant says it (its closing token included).

    A template without generation markers is rendered turn by turn instead: what a turn adds to its prompt is the
    assistant's.

    Raises:
        UserError: when the base's template does not let the assistant's tokens be told from the others.
    """
    if "endgeneration" in (tokenizer.chat_template or ""):
        rendered = _apply(tokenizer, messages, return_assistant_tokens_mask=True)
        ids, mask = rendered["input_ids"], [bool(value) for value in rendered["assistant_masks"]]
    else:
        ids, mask = _render_by_prefixes(tokenizer, list(messages))
    for index in range(1, len(ids)):
        if mask[index - 1] and not mask[index] and ids[index] == tokenizer.eos_token_id:
            mask[index] = True
    return ids, mask


def _render_by_prefixes(tokenizer: Any, messages: list[Message]) -> tuple[list[int], list[bool]]:
    ids: list[int] = _apply(tokenizer, messages)["input_ids"]
    mask = [False] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_prompt(tokenizer, messages[:index])
        closed = _apply(tokenizer, messages[: index + 1])["input_ids"]
        if ids[: len(prompt)] != prompt or ids[: len(closed)] != closed:
            raise UserError(
                "The base's chat template writes a turn differently once another follows, so the assistant's tokens "
                "cannot be told apart. Use a template with {% generation %} markers (tokenizer.chat_template), or a "
                "base without a template, which gets gptft's."
            )
        mask[len(prompt) : len(closed)] = [True] * (len(closed) - len(prompt))
    return ids, mask
