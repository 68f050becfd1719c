"""What is where on the page: sizes of frames, what fits into a window, the curve's range, marks that can be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.play.browser.driving import canvases, frames_change, wait

SIZES = "all => all.map((canvas) => [canvas.clientWidth, canvas.clientHeight])"


@pytest.mark.parametrize("width", [1120, 1280, 1600])
def test_the_emulators_screen_is_as_tall_as_the_frames(
    visit: Callable[..., Any], address: str, width: int
) -> None:
    page = visit(address, width, 900)
    page.keyboard.press("r")
    canvases(page, 3)
    frames_change(page)
    frame, screen, seen = page.eval_on_selector_all("#stage canvas", SIZES)
    assert frame == seen and frame[0] == frame[1] >= 256 and screen[1] == frame[1] > screen[0]
    tops = page.eval_on_selector_all(
        "#stage figure", "all => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert len(set(tops)) == 1


@pytest.mark.parametrize("ratio", [1, 3])
def test_a_phone_shows_panels_two_in_a_row_of_one_size(
    visit: Callable[..., Any], address: str, ratio: int
) -> None:
    page = visit(address, 390, 844, has_touch=True, is_mobile=True, device_scale_factor=ratio)
    page.tap("#panels")
    canvases(page, 3)
    frames_change(page)
    frame, screen, seen = page.eval_on_selector_all("#stage canvas", SIZES)
    assert frame == seen and screen[1] == frame[1] >= (128 if ratio == 1 else 149)
    assert all(
        width % 64 == 0
        for width in page.eval_on_selector_all(
            "#stage canvas:not([aria-label*=emulator])", "all => all.map((canvas) => canvas.width)"
        )
    )
    tops = page.eval_on_selector_all(
        "#stage figure", "all => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert tops[0] == tops[1] < tops[2]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("mode", ["real", "dream", "fork"])
def test_controls_stay_within_a_small_window(visit: Callable[..., Any], address: str, mode: str) -> None:
    page = visit(address, 1280, 800)
    page.keyboard.press("t")
    page.click(f'[data-mode="{mode}"]')
    page.wait_for_selector("#thoughts:visible")
    frames_change(page)
    assert page.evaluate("document.getElementById('controls').getBoundingClientRect().bottom") <= 800
    assert page.evaluate("document.querySelector('#stage canvas').clientHeight") >= 192


def test_the_buttons_of_actions_keep_their_distance(page: Any) -> None:
    page.keyboard.press("t")
    page.keyboard.press("Tab")
    page.wait_for_selector("#pad:visible")
    pad, below = (page.locator(one).bounding_box() for one in ("#pad button >> nth=0", "#thoughts"))
    assert pad["y"] + pad["height"] + 8 <= below["y"]


def test_the_curve_keeps_noise_flat_and_forgets_its_beginning(page: Any) -> None:
    def reach(values: str) -> float:
        low, high = page.evaluate(f"import('/static/charts.js').then(({{ rangeOf }}) => rangeOf({values}))")
        return float(high - low)

    assert reach("Array.from({ length: 100 }, (_, n) => -3.72 + 1e-4 * (n % 2))") >= 0.2
    beginning = "[...Array(20).fill(-40), ...Array.from({ length: 80 }, (_, n) => Math.sin(n))]"
    assert 2 <= reach(beginning) < 4


def test_a_rebuilt_context_is_said_for_a_second(page: Any) -> None:
    page.keyboard.press("2")
    wait(page, "document.getElementById('marks').textContent.includes('context rebuilt')")
    page.wait_for_timeout(500)
    assert "context rebuilt" in page.text_content("#marks")
    wait(page, "!document.getElementById('marks').textContent.includes('context rebuilt')")


def test_tokens_of_the_game_are_over_what_they_give(page: Any) -> None:
    page.keyboard.press("t")
    page.keyboard.press("r")
    page.wait_for_selector('#stage canvas.grid[aria-label="what the agent sees"]')
    assert page.locator("#stage canvas.grid").count() == 1
