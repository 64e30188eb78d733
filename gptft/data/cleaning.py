"""Repair of one row at a time; what was found is told, so that the report can count it."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

from gptft.recipe.schema import CleaningSection

CONTROL_REMOVED, NFC_CHANGED, EMPTY = 1, 2, 4
"""Bits of what was found in a row; EMPTY: nothing in it to learn from."""

Messages = list[dict[str, str]]

# Page breaks and the like separate words, so they become line ends instead of vanishing.
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
# Control characters but tab and line end, the byte-order mark, and halves of surrogate pairs (UTF-8 cannot hold them).
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str, cleaning: CleaningSection) -> tuple[str, int]:
    """Give the repaired text and the bits of what was changed.

    Raises:
        ValueError: when a half of a surrogate pair stays because its removal is switched off.
    """
    found = 0
    if cleaning.control_characters:
        repaired = _REMOVED.sub("", _LINE_ENDS.sub("\n", text))
        text, found = repaired, CONTROL_REMOVED if repaired != text else 0
    elif half := _SURROGATE.search(text):
        raise ValueError(
            f"{half[0]!a} is half of a character and cannot be stored; mend the row, or leave "
            "data.cleaning.control_characters on, which removes it"
        )
    # After the removal, which can put a letter beside its accent.
    if cleaning.unicode_nfc and not unicodedata.is_normalized("NFC", text):
        text, found = unicodedata.normalize("NFC", text), found | NFC_CHANGED
    return text, found


def clean_row(
    messages: Messages | None, text: str | None, cleaning: CleaningSection
) -> tuple[Messages | None, str | None, int]:
    """Clean messages or text, whichever is there, and give them with the bits of what was found."""
    if messages is None:
        text, found = clean_text(text or "", cleaning)
        return None, text, found if text.strip() else found | EMPTY
    contents, bits = zip(*(clean_text(message["content"], cleaning) for message in messages), strict=True)
    cleaned = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
    found = CONTROL_REMOVED * any(b & CONTROL_REMOVED for b in bits) | NFC_CHANGED * any(b & NFC_CHANGED for b in bits)
    answered = any(message["role"] == "assistant" and message["content"].strip() for message in cleaned)
    return cleaned, None, found if answered else found | EMPTY


def clean_targets(text: str, targets: list[str], cleaning: CleaningSection) -> tuple[str, list[str], int]:
    """Clean a prompt and what should follow it, and give them with the bits of what was found."""
    (text, *cleaned), bits = zip(*(clean_text(part, cleaning) for part in (text, *targets)), strict=True)
    found = CONTROL_REMOVED * any(b & CONTROL_REMOVED for b in bits) | NFC_CHANGED * any(b & NFC_CHANGED for b in bits)
    nothing = not text.strip() or any(not target.strip() for target in cleaned)
    return text, cleaned, found | EMPTY if nothing else found


def content_digest(
    messages: Messages | None, text: str | None, exact: bool = False, targets: list[str] | None = None
) -> str:
    """Digest of what a row says (32 hex digits), the same everywhere; white space at the ends counts if `exact`."""
    kept = str if exact else str.strip
    said = kept(text) if text is not None else [[m["role"], kept(m["content"])] for m in messages or []]
    if targets is not None:
        said = [said, [kept(target) for target in targets]]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:32]
