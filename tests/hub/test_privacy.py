"""Personal data and secrets are found, and what only looks a little like them is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptft.hub.privacy import find_personal_data

KEY = "AKIA" + "IOSFODNN7EXAMPLF"


def found(text: str, *secrets: str) -> list[str]:
    return [finding.what for finding in find_personal_data({"file": text}, secrets)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Write to jane.doe+x@mail.example-shop.de please", "e-mail address"),
        ("发邮件到li.wei@163.com即可", "e-mail address"),
        ("Call (650) 253-0000 now", "phone number"),
        ("Call +44 20 7031 3000", "phone number"),
        ("电话：138 0013 8000", "phone number"),
        (f"the key is {KEY}", "AWS Access Key"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "Private Key"),
        ("https://user:pa55word@host.net/x", "Basic Auth Credentials"),
        ("login with hf_" + "abcdefghij" * 3, "token of the Hub"),
        ('password = "hunter2abc"', "Secret Keyword"),
    ],
)
def test_found(text, what):
    assert what in found(f"first line\n{text}")
    (finding,) = [one for one in find_personal_data({"file": f"\n{text}"}) if one.what == what]
    assert str(finding).startswith("file:2: ")


@pytest.mark.parametrize(
    "text",
    [
        "care@example.com or 555 0142, me@localhost",
        "Reset your password in the settings. The secret of good tea: patience.",
        "loss 4.0163, 12345678 tokens, 2026-11-24T10:15:00, 192.168.0.1",
        "fingerprint 46a4d1ee64439efb6a0e20b53e1078837c766ea5b15bd5a18b2dcfe51ccd6ad5",
        "order 10234, 4 hats at $19.99, size 42/44",
    ],
)
def test_left_alone(text):
    assert found(text) == []


def test_a_secret_that_is_known_is_found_whatever_its_form():
    assert found("say open-sesame", "open-sesame", "") == ["token of the Hub"]


@given(st.text(max_size=200))
def test_what_is_shown_is_never_the_whole(text):
    for finding in find_personal_data({"file": f"{text} jane@mail.com"}):
        assert "jane@mail.com" not in str(finding)
