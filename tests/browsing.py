"""Serve a page, and look at it with Chromium; what is missing for that skips the test."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an ASGI application on a free port of this machine."""
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'gptft[ui]'")
    settings = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, log_level="error", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


class Tab:
    """A tab of the browser: `page` is playwright's; `said` what its console said, `asked` what was loaded."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: set[str] = set()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.add(request.url))

    def fits(self) -> bool:
        """Whether nothing is wider than the screen: what is wide scrolls in itself."""
        return self.page.evaluate("document.documentElement.scrollWidth") == self.page.viewport_size["width"]

    def background(self) -> str:
        """`light` or `dark`, by the colour behind everything."""
        colour = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return {"rgb(255, 255, 255)": "light", "rgb(20, 23, 27)": "dark"}[colour]


@contextmanager
def browser() -> Iterator[Any]:
    """A function that opens an address in a new tab of Chromium: open(address, width, colour scheme)."""
    reason = "playwright is not installed: pip install 'gptft[browser]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(CHROMIUM)}")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])

        def open_tab(address: str, width: int = 1200, scheme: str = "light") -> Tab:
            tab = Tab(chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme))
            tab.page.set_default_timeout(30_000)
            tab.page.goto(address)
            return tab

        yield open_tab
        chromium.close()
