"""Repair of one text at a time; each repair is told, so that the report can count it."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any

from gptft.recipe.schema import CleaningSection

CONTROL_REMOVED = 1
NFC_CHANGED = 2
EMPTY = 4
"""Bits of what cleaning found in a row."""

# Page breaks and the like separate words, so they become line ends instead of vanishing.
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
# Control characters but tab and line end, the byte-order mark, and halves of surrogate pairs (no UTF-8 exists for them).
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

Messages = list[dict[str, str]]


def clean_text(text: str, cleaning: CleaningSection) -> tuple[str, int]:
    """Give the repaired text and the bits of what was changed.

    Raises:
        ValueError: when a half of a surrogate pair stays in the text because its removal is switched off.
    """
    found = 0
    if cleaning.control_characters:
        repaired = _REMOVED.sub("", _LINE_ENDS.sub("\n", text))
        found |= CONTROL_REMOVED if repaired != text else 0
        text = repaired
    elif half := _SURROGATE.search(text):
        raise ValueError(
            f"has {ascii(half[0])}, half of a character, which no file can hold; mend the row or leave "
            "data.cleaning.control_characters on, which removes it"
        )
    # After the removal, which can put a letter beside its accent.
    if cleaning.unicode_nfc and not unicodedata.is_normalized("NFC", text):
        text, found = unicodedata.normalize("NFC", text), found | NFC_CHANGED
    return text, found


def clean_row(messages: Messages | None, text: str | None, cleaning: CleaningSection) -> tuple[Any, Any, int]:
    """Clean a row of one kind or the other; EMPTY is found when there is nothing in it to learn from."""
    if messages is None:
        text, found = clean_text(text or "", cleaning)
        return None, text, found | (0 if text.strip() else EMPTY)
    cleaned, found, answered = [], 0, False
    for message in messages:
        content, bits = clean_text(message["content"], cleaning)
        cleaned.append({"role": message["role"], "content": content})
        found |= bits
        answered = answered or (message["role"] == "assistant" and bool(content.strip()))
    return cleaned, None, found | (0 if answered else EMPTY)


def content_digest(messages: Messages | None, text: str | None) -> str:
    """Digest of what a row says (32 hex digits), the same on every machine; white space at the ends does not count."""
    said = text.strip() if text is not None else [[m["role"], m["content"].strip()] for m in messages or []]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:32]
