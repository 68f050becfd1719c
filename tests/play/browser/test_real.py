"""The page in a real browser with the real command: a small agent plays Catch."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from iris_fast.interop.files import write_weights
from tests.play.browser.driving import canvases, pixels, served, until, wait
from tests.support.agents import micro_agent

PADDLE = (64, 160, 255)


@pytest.fixture(scope="module")
def server(agent_file: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command's process, and its address."""
    with command(agent_file) as (process, port):
        yield process, f"http://127.0.0.1:{port}/"


def command(agent_file: Path, *options: str) -> Any:
    pytest.importorskip("uvicorn", reason="needs the extra play")
    words = ("--game", "Catch", "--device", "cpu", "--port", "0", "--no-browser", *options)
    return served("iris_fast.play", str(agent_file), *words)


@pytest.fixture()
def page(visit: Callable[..., Any], server: tuple[Any, str]) -> Any:
    return visit(server[1])


CANVASES = {"real": ["real, 64×64"], "dream": ["dream"], "fork": ["real, 64×64", "dream"]}


def enter(page: Any, mode: str) -> None:
    """Goes to a mode, and waits for its first frame."""
    page.click(f'[data-mode="{mode}"]')
    page.wait_for_selector(f'[data-mode="{mode}"][aria-pressed="true"]')
    titles = page.locator("#stage figcaption")
    until(page, lambda: titles.all_text_contents() == CANVASES.get(mode, titles.all_text_contents()), mode)


def speed(page: Any, fps: int) -> None:
    page.evaluate(f"fps.value = {fps}; fps.dispatchEvent(new Event('input'))")
    wait(page, f"document.getElementById('fps-shown').value === '{fps}'")


def pause(page: Any) -> None:
    """Stops, and waits for the frame that the pause draws."""
    page.keyboard.press(" ")
    wait(page, "document.getElementById('pause').textContent === 'Go on'")
    page.wait_for_timeout(150)


def single(page: Any, number: int = 0) -> np.ndarray:
    """The frame after one step more; `number`: of the canvas."""
    drawn = int(page.get_attribute("#stage", "data-frames"))
    step = page.text_content("#step")
    page.keyboard.press(".")
    wait(
        page,
        f"Number(stage.dataset.frames) > {drawn} && document.getElementById('step').textContent !== '{step}'",
    )
    page.wait_for_timeout(50)  # the setting of the pause draws the same frame again
    return pixels(page, number)


def download(page: Any, ending: str) -> bytes:
    with page.expect_download() as found:
        page.locator(f'#downloads a[download$="{ending}"]').last.click()
    return Path(found.value.path()).read_bytes()


def record(page: Any, steps: int) -> list[np.ndarray]:
    """The frames shown while a recording is made, step by step."""
    before = page.locator("#downloads a").count()
    shown = [pixels(page)]
    page.keyboard.press(",")
    page.wait_for_selector("#recording:visible")
    shown += [single(page) for _ in range(steps)]
    page.keyboard.press(",")
    wait(page, f"document.querySelectorAll('#downloads a').length === {before + 2}")
    page.wait_for_selector("#recording", state="hidden")
    return shown


@pytest.mark.parametrize("mode", ["real", "dream", "fork"])
def test_frames_change_and_a_recording_has_those_shown(page: Any, mode: str) -> None:
    enter(page, mode)
    for number in range(2 if mode == "fork" else 1):
        before = pixels(page, number)
        until(page, lambda n=number, old=before: bool((pixels(page, n) != old).any()), "the frame is another")  # type: ignore[misc]
    pause(page)
    shown = record(page, 5)
    with np.load(io.BytesIO(download(page, ".npz"))) as arrays:
        assert np.array_equal(arrays["frames"].transpose(0, 2, 3, 1), np.stack(shown))
        if mode == "fork":
            assert np.array_equal(arrays["dreams"][-1].transpose(1, 2, 0), pixels(page, 1))
    with av.open(io.BytesIO(download(page, ".mp4")), "r") as film:
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(decoded) == len(shown)
    for large, small in zip(decoded, shown, strict=True):  # below the strip of text; the game is at the left
        picture = large[large.shape[0] - 384 :, :384][3::6, 3::6]
        assert np.abs(picture.astype(int) - small).mean() < 4


def is_paddle(page: Any, column: int) -> bool:
    return tuple(pixels(page)[62, column]) == PADDLE


def test_keys_move_the_paddle_and_tab_hands_over_and_back(page: Any) -> None:
    speed(page, 60)
    page.keyboard.press("Tab")
    page.wait_for_selector("#handover.person")
    for key, action, column in (("ArrowLeft", "left", 6), ("d", "right", 57)):
        page.keyboard.down(key)
        until(page, partial(is_paddle, page, column), f"the paddle goes {action}")
        wait(page, f"document.getElementById('action').textContent === '{action}'")
        page.keyboard.up(key)
    page.keyboard.press("Tab")
    page.wait_for_selector("#handover:not(.person)")
    for action in ("left", "right"):
        wait(page, f"document.getElementById('action').textContent === '{action}'")


def test_episodes_scrub_and_two_compare(page: Any) -> None:
    pause(page)
    real = record(page, 4)
    enter(page, "dream")
    dream = record(page, 6)
    enter(page, "episodes")
    page.wait_for_selector("#rows tr")
    page.locator('#rows tr:has-text("game") button[data-side="0"]').first.click()
    canvases(page, 1)
    page.locator('#rows tr:has-text("dream") button[data-side="1"]').first.click()
    canvases(page, 2)
    for index in (6, 2, 0):
        page.evaluate(f"scrub.value = {index}; scrub.dispatchEvent(new Event('input'))")
        wait(page, f"document.getElementById('step').textContent === '{index}'")
        assert np.array_equal(pixels(page, 0), real[min(index, 4)])
        assert np.array_equal(pixels(page, 1), dream[index])
    page.keyboard.press(".")
    wait(page, "document.getElementById('step').textContent === '1'")
    page.keyboard.press(" ")  # plays to its end
    wait(page, "document.getElementById('step').textContent === '6'")
    assert np.array_equal(pixels(page, 1), dream[6])


def test_a_token_replaced_in_the_dream_changes_its_frame(page: Any) -> None:
    enter(page, "dream")
    pause(page)
    before = single(page)
    page.keyboard.press("t")
    page.wait_for_selector("#stage canvas.grid")
    page.click("#stage canvas.grid", position={"x": 5, "y": 5})
    code = int(page.input_value("#token-code"))
    page.fill("#token-code", str((code + 1) % int(page.get_attribute("#token-code", "max"))))
    page.click('#token button[value="replace"]')
    page.keyboard.press("t")
    page.wait_for_selector("#stage canvas:not(.grid)")
    until(page, lambda: bool((pixels(page) != before).any()), "the frame is another")
    page.wait_for_timeout(100)
    assert (pixels(page) != before).any()


def test_the_tokens_of_another_grid(visit: Callable[..., Any], tmp_path: Path) -> None:
    agent = micro_agent("tokenizer.encoder.config.ch_mult=[1,1,1,1]", "world_model.tokens_per_block=65")
    write_weights(tmp_path / "agent.pt", agent.state_dict(), agent.config, agent.num_actions)
    with command(tmp_path / "agent.pt") as (_, port):
        page = visit(f"http://127.0.0.1:{port}/")
        page.keyboard.press("t")
        page.wait_for_selector("#stage canvas.grid")
        size = page.locator("#stage canvas.grid").bounding_box()["width"]
        for place, index in (((0.9, 0.9), 63), ((0.3, 0.2), 10)):
            page.click("#stage canvas.grid", position={"x": place[0] * size, "y": place[1] * size})
            page.wait_for_selector("#token:visible")
            assert page.text_content("#token-index") == str(index)
            page.click('#token button[value="cancel"]')


def test_two_tabs_have_their_own_state_and_a_closed_one_frees_its_thread(
    page: Any, server: tuple[subprocess.Popen[str], str]
) -> None:
    process, address = server
    enter(page, "dream")
    tasks = Path(f"/proc/{process.pid}/task")
    before = len(os.listdir(tasks))
    other = page.context.new_page()
    other.goto(address)
    other.wait_for_selector("#stage canvas")
    pause(other)
    single(other)
    assert page.get_attribute('[data-mode="dream"]', "aria-pressed") == "true"
    assert other.get_attribute('[data-mode="real"]', "aria-pressed") == "true"
    old = pixels(page)
    until(page, lambda: bool((pixels(page) != old).any()), "the first tab goes on")
    assert len(os.listdir(tasks)) > before
    other.close()
    until(page, lambda: len(os.listdir(tasks)) <= before, "its thread has ended")


def test_save_mode_asks_and_keeps_or_discards(visit: Callable[..., Any], agent_file: Path) -> None:
    with command(agent_file, "-s") as (process, port):
        page = visit(f"http://127.0.0.1:{port}/")
        speed(page, 60)
        page.wait_for_selector("#keep:visible")
        assert "9 steps" in page.text_content("#keep-text")
        page.click("#keep-yes")
        wait(page, "document.querySelectorAll('#downloads a').length === 2")
        with np.load(io.BytesIO(download(page, ".npz"))) as arrays:
            assert len(arrays["frames"]) == 10 and arrays["ends"][-1]
        page.wait_for_selector("#keep:visible")
        page.keyboard.press("4")  # it stops nothing else; leaving is a no
        page.wait_for_selector('[data-mode="episodes"][aria-pressed="true"]')
        page.wait_for_selector("#keep", state="hidden")
        enter(page, "real")
        page.wait_for_selector("#keep:visible")
        page.keyboard.press("n")
        wait(page, "Number(document.getElementById('step').textContent) < 9")
        page.wait_for_selector("#keep:visible")
        assert page.locator("#downloads a").count() == 2
        page.click("#keep-all")
        wait(page, "document.querySelectorAll('#downloads a').length === 8")  # one after the other
        page.select_option("#save", "ask")
        page.wait_for_selector("#keep:visible")
        page.click("#keep-none")
        page.wait_for_selector("#keep", state="hidden")
        assert page.input_value("#save") == "off"
        process.kill()
        page.wait_for_selector("#notice:visible")
        assert not page.locator("#keep").is_visible(), "who asked is gone"


def test_an_address_that_is_not_there(page: Any, server: tuple[Any, str]) -> None:
    for path in ("nothing", "files/agent.pt", "files/recordings/none.npz", "static/none.js"):
        assert page.request.get(server[1] + path).status == 404
