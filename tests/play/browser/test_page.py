"""The page in a real browser, with fake sessions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}: apt-get install chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def start(folder: Path, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.play.served", str(folder), str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://127.0.0.1:(\d+)/", process.stdout.readline())
    assert found is not None
    return process, int(found[1])


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture()
def address(tmp_path: Path) -> Iterator[str]:
    process, port = start(tmp_path)
    yield f"http://127.0.0.1:{port}/"
    end(process)


@pytest.fixture()
def page(browser: Any, address: str, request: Any) -> Iterator[Any]:
    context = browser.new_context(viewport=getattr(request, "param", {"width": 1280, "height": 900}))
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    frames_change(page)
    yield page
    shots = os.environ.get("IRIS_FAST_SCREENSHOTS")
    if shots:
        page.screenshot(path=Path(shots) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not [text for text in problems if "WebSocket" not in text]


def wait(page: Any, expression: str, seconds: float = 10) -> None:
    """Waits until an expression is true, asked from outside: the page's policy forbids Playwright's own wait."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(20)


def frames_change(page: Any) -> None:
    """Waits until three more frames are drawn."""
    page.wait_for_selector("#stage[data-frames]")
    before = int(page.get_attribute("#stage", "data-frames"))
    wait(page, f"Number(document.getElementById('stage').dataset.frames) > {before + 2}")


@pytest.mark.parametrize(
    ("key", "mode", "canvases"), [("1", "real", 1), ("2", "dream", 1), ("3", "fork", 2), ("4", "episodes", 1)]
)
def test_every_mode_shows_changing_frames_in_whole_number_scales(
    page: Any, key: str, mode: str, canvases: int
) -> None:
    page.keyboard.press("t")
    page.keyboard.press(key)
    page.wait_for_selector(f'[data-mode="{mode}"][aria-pressed="true"]')
    wait(page, f"document.querySelectorAll('#stage canvas').length === {canvases}")
    frames_change(page)
    widths = page.eval_on_selector_all("#stage canvas", "all => all.map((canvas) => canvas.width)")
    assert all(width >= 128 and width % 64 == 0 for width in widths)
    page.wait_for_selector("#stage canvas.grid")


def test_tab_hands_over_and_keys_act(page: Any) -> None:
    page.keyboard.press("Tab")
    page.wait_for_selector("#handover.person")
    page.keyboard.down("ArrowLeft")
    wait(page, "document.getElementById('action').textContent === 'left'")
    page.keyboard.up("ArrowLeft")
    wait(page, "document.getElementById('action').textContent === 'noop'")


def test_pause_stops_and_a_step_is_one(page: Any) -> None:
    page.keyboard.press(" ")
    wait(page, "document.getElementById('pause').textContent === 'Go on'")
    page.wait_for_timeout(300)
    before = int(page.text_content("#step"))
    page.keyboard.press(".")
    wait(page, f"document.getElementById('step').textContent !== '{before}'")
    page.wait_for_timeout(200)
    assert int(page.text_content("#step")) <= before + 2  # setting a paused session draws it once


def test_a_recording_downloads(page: Any, tmp_path: Path) -> None:
    page.keyboard.press(",")
    page.wait_for_selector("#recording:visible")
    frames_change(page)
    page.keyboard.press(",")
    with page.expect_download() as download:
        page.click("#downloads a")
    download.value.save_as(tmp_path / "copy.npz")
    assert np.load(tmp_path / "copy.npz")["frames"].shape[1:] == (64, 64, 3)


def test_an_episode_scrubs_and_two_compare(page: Any) -> None:
    page.keyboard.press("4")
    page.click('[aria-label="Show epoch 3 as episode A"]')
    page.click('[aria-label="Show epoch 6 as episode B"]')
    wait(page, "document.querySelectorAll('#stage canvas').length === 2")
    page.evaluate("scrub.value = 30; scrub.dispatchEvent(new Event('input'))")
    wait(page, "document.getElementById('step').textContent === '30'")


def test_a_token_is_replaced(page: Any) -> None:
    page.keyboard.press("t")
    page.click("#stage canvas.grid", position={"x": 5, "y": 5})
    page.fill("#token-code", "11")
    page.click('#token button[value="replace"]')
    frames_change(page)
    page.click("#stage canvas.grid", position={"x": 5, "y": 5})
    assert page.input_value("#token-code") == "11"
    page.click('#token button[value="cancel"]')


def test_two_tabs_have_their_own_state(page: Any, address: str) -> None:
    other = page.context.new_page()
    other.goto(address)
    frames_change(other)
    other.keyboard.press("2")
    other.wait_for_selector('[data-mode="dream"][aria-pressed="true"]')
    assert page.get_attribute('[data-mode="real"]', "aria-pressed") == "true"


def test_the_page_connects_again_after_a_restart(browser: Any, tmp_path: Path) -> None:
    process, port = start(tmp_path)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    frames_change(page)
    end(process)
    page.wait_for_selector("#notice:visible")
    process, again = start(tmp_path, port)
    assert again == port
    frames_change(page)
    page.wait_for_selector("#notice", state="hidden")
    end(process)
    page.close()


def test_help_lists_every_key(page: Any) -> None:
    page.keyboard.press("?")
    assert page.locator("#keys dt").count() == page.locator("[data-key]").count() + 2
    page.keyboard.press("Escape")


@pytest.mark.parametrize("page", [{"width": 390, "height": 844}], indirect=True)
def test_a_phone_shows_everything_without_scrolling_sideways(page: Any) -> None:
    page.keyboard.press("3")
    wait(page, "document.querySelectorAll('#stage canvas').length === 2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#pad button").count() == 3
