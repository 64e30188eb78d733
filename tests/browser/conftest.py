"""Chromium, once for a module."""

from collections.abc import Iterator
from typing import Any

import pytest
from browsing import browser


@pytest.fixture(scope="module")
def open_tab() -> Iterator[Any]:
    """Open an address: open_tab(address, width, colour scheme)."""
    with browser() as opened:
        yield opened
