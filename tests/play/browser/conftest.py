"""One browser for all tests of the page; skipped, with the reason, where there is none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.play.browser.driving import FAKE, frames_change, served

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Not for the whole session: while it lives an event loop runs in this thread, and no other test can have one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@pytest.fixture()
def visit(browser: Any, request: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a page of its own; at the end its console must have had no error.

    `IRIS_FAST_SCREENSHOTS`: a folder that gets a picture of each page as its test leaves it.
    """
    contexts, pages = [], []
    problems: list[str] = []

    def open_page(
        address: str, width: int = 1280, height: int = 900, before: str = "", **options: Any
    ) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.add_init_script(before)
        page.goto(address)
        frames_change(page)
        pages.append(page)
        return page

    yield open_page
    shots = os.environ.get("IRIS_FAST_SCREENSHOTS")
    for number, page in enumerate(pages if shots else ()):
        page.screenshot(path=Path(str(shots)) / f"{request.node.name}_{number}.png", full_page=True)
    for context in contexts:
        context.close()
    assert not [text for text in problems if "WebSocket" not in text]


@pytest.fixture()
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server of fake sessions."""
    pytest.importorskip("uvicorn", reason="needs the extra play")
    with served(FAKE, str(tmp_path), "0") as (_, port):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture()
def page(visit: Callable[..., Any], address: str) -> Any:
    return visit(address)
