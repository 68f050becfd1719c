"""The page in a real browser, with fake sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.play.browser.driving import FAKE, canvases, frames_change, served, wait


@pytest.mark.parametrize(
    ("key", "mode", "count"), [("1", "real", 1), ("2", "dream", 1), ("3", "fork", 2), ("4", "episodes", 1)]
)
def test_every_mode_shows_changing_frames_in_whole_number_scales(
    page: Any, key: str, mode: str, count: int
) -> None:
    page.keyboard.press("t")
    page.keyboard.press(key)
    page.wait_for_selector(f'[data-mode="{mode}"][aria-pressed="true"]')
    canvases(page, count)
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
    canvases(page, 2)
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


def test_the_page_connects_again_after_a_restart_with_its_settings(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    with served(FAKE, str(tmp_path), "0") as (_, port):
        page = visit(f"http://127.0.0.1:{port}/")
        page.keyboard.press("2")
        page.keyboard.press("Tab")
        page.wait_for_selector("#handover.person")
        wait(page, "document.querySelector('[data-mode=dream]').getAttribute('aria-pressed') === 'true'")
    page.wait_for_selector("#notice:visible")
    with served(FAKE, str(tmp_path), str(port)) as (_, again):
        assert again == port
        frames_change(page)
        page.wait_for_selector("#notice", state="hidden")
        page.wait_for_selector('[data-mode="dream"][aria-pressed="true"]')
        page.wait_for_selector("#handover.person")


def test_help_lists_every_key(page: Any) -> None:
    page.keyboard.press("?")
    assert page.locator("#keys dt").count() == page.locator("[data-key]").count() + 3
    page.keyboard.press("Escape")


def test_a_gamepad_acts(page: Any) -> None:
    page.keyboard.press("Tab")
    page.evaluate("""() => {
        const pad = { axes: [1, 0], buttons: [] };
        navigator.getGamepads = () => [pad];
        window.letGo = () => { pad.axes = [0, 0]; };
        window.dispatchEvent(new Event("gamepadconnected"));
    }""")
    wait(page, "document.getElementById('action').textContent === 'right'")
    page.evaluate("letGo()")
    wait(page, "document.getElementById('action').textContent === 'noop'")


def test_the_tokens_of_a_fork_are_over_the_dream(page: Any) -> None:
    page.keyboard.press("t")
    page.keyboard.press("3")
    canvases(page, 2)
    page.wait_for_selector('#stage canvas.grid[aria-label="dream"]')
    assert page.locator("#stage canvas.grid").count() == 1
    assert page.locator("#stage figcaption").all_text_contents() == ["real, 64×64", "dream"]


def test_a_hovered_token_says_its_probability(page: Any) -> None:
    page.keyboard.press("t")
    page.hover("#stage canvas.grid", position={"x": 60, "y": 60})
    column = "stage.querySelector('canvas').getContext('2d').getImageData(5, 30, 40, 12).data"
    bright = f"[...{column}].filter((value, at) => at % 4 < 3 && value > 200).length > 20"
    wait(page, bright)  # text below the code


def test_motion_is_reduced_on_request(visit: Callable[..., Any], address: str) -> None:
    page = visit(address, reduced_motion="reduce")
    page.keyboard.press(",")
    page.wait_for_selector("#recording:visible")
    blink = "getComputedStyle(document.getElementById('recording'), '::before').animationName"
    assert page.evaluate(blink) == "none"


def test_a_phone_shows_everything_and_is_played_by_touch(visit: Callable[..., Any], address: str) -> None:
    page = visit(address, 390, 844, has_touch=True, is_mobile=True)
    page.tap('[data-mode="fork"]')
    canvases(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.locator("#pad").is_visible()  # the agent plays
    page.tap("#handover")
    page.wait_for_selector("#pad:visible")
    assert page.locator("#pad button").count() == 3
    left = page.locator("#pad button", has_text="left")
    left.dispatch_event("pointerdown")
    wait(page, "document.getElementById('action').textContent === 'left'")
    left.dispatch_event("pointerup")
    wait(page, "document.getElementById('action').textContent === 'noop'")


def test_the_list_of_films_says_which_are_shown(page: Any) -> None:
    page.keyboard.press("4")
    page.wait_for_selector("#rows .group")
    page.click('[aria-label="Show epoch 6 as episode A"]')
    page.wait_for_selector('[aria-label="Show epoch 6 as episode A"][aria-pressed="true"]')
    assert page.locator('#rows [aria-pressed="true"]').count() == 1
    wait(page, "document.querySelector('#stage figcaption').textContent === 'A · film b'")


def test_without_a_film_there_is_a_hint_and_no_frame_of_before(
    visit: Callable[..., Any], address: str
) -> None:
    page = visit(
        address,
        before="""
        const Socket = WebSocket;
        window.WebSocket = class extends Socket { constructor(address) { super(address); window.opened = this; } };
    """,
    )
    page.keyboard.press("2")
    page.wait_for_selector('[data-mode="dream"][aria-pressed="true"]')
    state = '{"type": "state", "mode": "episodes", "films": {}}'
    page.evaluate("(data) => { opened.send = () => {}; opened.onmessage({ data }); }", state)
    page.wait_for_timeout(300)  # frames of the dream still come
    assert page.locator("#stage canvas").count() == 0
    assert "There is no film yet" in page.text_content("#stage")
