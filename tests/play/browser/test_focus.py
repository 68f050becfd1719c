"""Keys, buttons and boxes of the page: who has the keys after a pointer was used, numbers that are refused, buttons
without effect in a mode, the page before its session."""

from __future__ import annotations

from typing import Any

import pytest

from tests.play.browser.driving import frames_change, wait


def shown(name: str, value: object) -> str:
    return f"document.getElementById('{name}').value === '{value}'"


def action(name: str) -> str:
    return f"document.getElementById('action').textContent === '{name}'"


def test_a_clicked_button_gives_the_keys_back(page: Any) -> None:
    page.click("#handover")
    page.wait_for_selector("#handover.person")
    page.keyboard.press("Enter")  # fires
    page.keyboard.press(" ")  # pauses, and does not press the button once more
    wait(page, "document.getElementById('pause').textContent === 'Go on'")
    assert page.locator("#handover.person").count() == 1


def test_a_used_slider_gives_the_keys_back(page: Any) -> None:
    page.keyboard.press("Tab")
    page.wait_for_selector("#handover.person")
    page.click("#fps", position={"x": 90, "y": 5})
    wait(page, "document.getElementById('fps-shown').value !== '15'")
    speed = page.input_value("#fps")
    page.keyboard.down("ArrowRight")
    wait(page, action("right"))
    page.keyboard.up("ArrowRight")
    assert page.input_value("#fps") == speed
    page.keyboard.press("Tab")
    page.wait_for_selector("#handover:not(.person)")
    page.keyboard.press("2")
    page.wait_for_selector('[data-mode="dream"][aria-pressed="true"]')


def test_keys_alone_still_reach_and_use_buttons_and_sliders(page: Any) -> None:
    for _ in range(30):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.id") == "fps":
            break
    page.keyboard.press("ArrowRight")
    wait(page, "document.getElementById('fps-shown').value === '16'")
    page.keyboard.press("3")  # no key of a slider
    page.wait_for_selector('[data-mode="fork"][aria-pressed="true"]')
    page.focus("#think")
    page.keyboard.press("Enter")
    page.wait_for_selector('#think[aria-pressed="true"]')


def test_enter_commits_a_number_and_gives_the_keys_back(page: Any) -> None:
    page.fill("#seed", "7")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    page.wait_for_selector('[data-mode="dream"][aria-pressed="true"]')
    assert page.input_value("#seed") == "7"
    page.fill("#seed", "9")
    page.keyboard.press("Escape")  # as it was
    wait(page, shown("seed", 7))
    page.keyboard.press("1")
    page.wait_for_selector('[data-mode="real"][aria-pressed="true"]')
    assert page.input_value("#seed") == "7"


@pytest.mark.parametrize(
    ("box", "old", "entries", "sentence"),
    [
        ("temperature", "1", ("0", "", "-1", "99"), "Temperature goes from 0.1 to 10."),
        ("seed", "0", ("-5", "", "99999999999", "1.5"), "Seed goes from 0 to 2147483647, in whole numbers."),
    ],
)
def test_a_refused_number_says_its_bounds_and_is_the_old_one_again(
    page: Any, box: str, old: str, entries: tuple[str, ...], sentence: str
) -> None:
    for entry in entries:
        page.fill(f"#{box}", entry)
        page.keyboard.press("Enter")
        page.wait_for_selector("#notice:visible")
        assert page.text_content("#notice") == sentence
        assert page.input_value(f"#{box}") == old
    frames_change(page)
    page.keyboard.press(".")  # whatever the server says afterwards has the old one too
    page.wait_for_timeout(200)
    assert page.input_value(f"#{box}") == old


@pytest.mark.parametrize(
    ("mode", "ids"),
    [
        ("real", ()),
        ("dream", ("panels", "fork")),
        ("fork", ()),
        ("episodes", ("handover", "fork", "record", "panels", "think", "temperature", "seed", "save")),
    ],
)
def test_what_has_no_effect_in_a_mode_is_disabled_and_says_why(
    page: Any, mode: str, ids: tuple[str, ...]
) -> None:
    page.keyboard.press("r")
    page.keyboard.press("t")
    page.click(f'[data-mode="{mode}"]')
    page.wait_for_selector(f'[data-mode="{mode}"][aria-pressed="true"]')
    disabled = page.locator("main :disabled:not(option), nav :disabled")
    assert set(disabled.evaluate_all("all => all.map((one) => one.id)")) == set(ids)
    assert all(disabled.evaluate_all("all => all.map((one) => one.title)"))
    assert page.locator(':disabled[aria-pressed="true"]').count() == 0
    if ids:
        page.keyboard.press("f")  # a key of one of them
        page.wait_for_selector("#notice:visible")
        assert page.text_content("#notice") == page.get_attribute("#fork", "title")


def test_before_there_is_a_session_the_page_says_so_and_takes_no_clicks(browser: Any, address: str) -> None:
    """A server that takes the websocket's connection and does not answer."""
    page = browser.new_page()
    page.add_init_script(
        "window.WebSocket = class { static OPEN = 1; constructor() { window.opened = this; } };"
    )
    page.goto(address)
    assert page.text_content("#notice") == "Connecting to the server…"
    assert page.locator("main[inert]").count() == page.locator("nav[inert]").count() == 1
    page.evaluate("opened.onopen()")
    assert page.text_content("#notice") == "Starting the game…"
    state = '{"type": "state", "mode": "real", "actions": ["NOOP"], "fps": 15, "temperature": 1, "seed": 0}'
    page.evaluate("(data) => opened.onmessage({ data })", state)
    assert not page.locator("#notice").is_visible() and page.locator("[inert]").count() == 0
    page.evaluate("opened.onclose({ code: 1006 })")
    assert "No connection" in page.text_content("#notice") and page.locator("main[inert]").count() == 1
    page.close()


def test_a_session_that_cannot_be_made_says_why_while_the_page_tries_again(
    browser: Any, address: str
) -> None:
    page = browser.new_page()
    page.add_init_script(
        "window.WebSocket = class { static OPEN = 1; constructor() { window.opened = this; } };"
    )
    page.goto(address)
    page.evaluate("opened.onopen()")
    failed = '{"type": "error", "message": "The game is not installed."}'
    page.evaluate("(data) => { opened.onmessage({ data }); opened.onclose({ code: 1000 }); }", failed)
    assert page.text_content("#notice") == "The game is not installed. Trying again."
    page.close()
