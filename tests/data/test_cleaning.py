import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptft.data.cleaning import CONTROL_REMOVED, EMPTY, NFC_CHANGED, clean_row, clean_text, content_digest
from gptft.recipe.schema import CleaningSection

ALL, NONE = CleaningSection(), CleaningSection(unicode_nfc=False, control_characters=False)
any_text = st.text(st.characters() | st.sampled_from("\ud800\ufeff\r\n\x00\x85\u0301e\u2028"))


@given(any_text)
def test_cleaning_twice_is_cleaning_once(text):
    once, _ = clean_text(text, ALL)
    assert clean_text(once, ALL) == (once, 0)


@given(any_text)
def test_clean_text_is_nfc_storable_and_without_controls(text):
    cleaned, found = clean_text(text, ALL)
    cleaned.encode("utf-8")
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not [c for c in cleaned if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert bool(found) == (cleaned != text)


@pytest.mark.parametrize(
    ("text", "cleaned", "found"),
    [
        ("a\r\nb\rc\x0cd\x85e", "a\nb\nc\nd\ne", CONTROL_REMOVED),
        ("\ufeffa\x00b\x1bc\td", "abc\td", CONTROL_REMOVED),
        ("half \ud83d", "half ", CONTROL_REMOVED),
        ("cafe\u0301", "café", NFC_CHANGED),
        ("e\x00\u0301", "é", CONTROL_REMOVED | NFC_CHANGED),
        ("line\u2028separator 👨‍👩‍👧 नि", "line\u2028separator 👨‍👩‍👧 नि", 0),
    ],
)
def test_what_is_repaired(text, cleaned, found):
    assert clean_text(text, ALL) == (cleaned, found)


def test_each_repair_has_a_switch():
    assert clean_text("e\u0301\x00\r\n", NONE) == ("e\u0301\x00\r\n", 0)
    assert clean_text("e\u0301\x00", CleaningSection(unicode_nfc=False)) == ("e\u0301", CONTROL_REMOVED)
    assert clean_text("e\u0301\x00", CleaningSection(control_characters=False)) == ("é\x00", NFC_CHANGED)


def test_half_a_character_that_may_not_be_removed_is_an_error():
    with pytest.raises(ValueError, match=r"'\\ud83d' is half of a character.*data\.cleaning\.control_characters"):
        clean_text("a\ud83d", NONE)


def test_a_row_is_empty_when_nothing_can_be_learned_from_it():
    assert clean_row(None, " \x00\n", ALL)[2] & EMPTY
    assert not clean_row(None, "a", ALL)[2]
    silent = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}]
    assert clean_row(silent, None, ALL) == (silent, None, EMPTY)
    later = [*silent, {"role": "assistant", "content": "Hel\x00lo"}]
    messages, _, found = clean_row(later, None, ALL)
    assert messages == [*silent, {"role": "assistant", "content": "Hello"}]
    assert found == CONTROL_REMOVED


def test_digest_is_of_what_is_said():
    turn = {"role": "user", "content": "Hi"}
    assert content_digest([turn], None) == content_digest([{**turn, "content": " Hi\n"}], None)
    assert content_digest([turn], None) != content_digest([{**turn, "role": "assistant"}], None)
    assert content_digest([turn], None) != content_digest(None, "Hi")
    # The same on every machine and in every version: splits and fingerprints in manifests depend on it.
    assert content_digest(None, "Grüße, 世界") == "659122f6101967d51088587a90ce142a"
