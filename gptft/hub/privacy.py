"""Find personal data and secrets in texts before they are published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EMAIL = re.compile(r"[\w.+-]+@(?P<domain>[\w-]+(?:\.[\w-]+)+)")
RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$", re.IGNORECASE)
"""Domains that can belong to nobody (RFC 2606)."""
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
DETECTORS = [
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "ArtifactoryDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "KeywordDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
]
"""Those of detect-secrets that know a form; its guesses from entropy alone would find every digest."""
REGIONS = (None, "US", "GB", "CN")
"""Where a phone number without a country's code may be from; None: numbers with one, of all countries."""


@dataclass(frozen=True)
class Finding:
    """Something that should not be published: what, and where. What it says is shown in part only."""

    file: str
    line: int
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what} ({self.hint})"


def find_personal_data(texts: Mapping[str, str], secrets: Iterable[str] = ()) -> list[Finding]:
    """Find e-mail addresses, phone numbers, keys and tokens.

    Phone numbers are found by phonenumbers (Google's libphonenumber), keys and tokens by detect-secrets (Yelp).

    Args:
        texts: file name -> what is in it.
        secrets: strings that are known to be secret, such as the token in use.
    """
    from detect_secrets.settings import transient_settings

    known = [secret for secret in secrets if secret]
    with transient_settings({"plugins_used": [{"name": name} for name in DETECTORS]}):
        return [
            Finding(file, number, what, _hint(value))
            for file, text in texts.items()
            for number, line in enumerate(text.split("\n"), 1)
            for what, value in dict.fromkeys(_in_line(line, known))
        ]


def _in_line(line: str, known: list[str]) -> Iterable[tuple[str, str]]:
    for match in EMAIL.finditer(line):
        if not RESERVED.search(match["domain"]):
            yield "e-mail address", match[0]
    if sum(character.isdigit() for character in line) >= 7:
        for number in dict.fromkeys(_phone_numbers(line)):
            yield "phone number", number
    for secret in [*(match[0] for match in HUB_TOKEN.finditer(line)), *(one for one in known if one in line)]:
        yield "token of the Hub", secret
    from detect_secrets.core.scan import scan_line

    yield from ((found.type, found.secret_value or "") for found in scan_line(line))


def _phone_numbers(line: str) -> Iterable[str]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region in REGIONS:
        # Without a country's code, only what is also grouped as phone numbers are: order numbers are digits too.
        leniency = Leniency.STRICT_GROUPING if region else Leniency.VALID
        yield from (match.raw_string for match in PhoneNumberMatcher(line, region, leniency=leniency))


def _hint(value: str) -> str:
    """Enough of it to find the place, and no more."""
    return f"{value[:3]}…, {len(value)} characters"
