"""`python -m benchmarks.report.screenshots RUN FOLDER`: pictures of the play page in each mode, by Chromium."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report.pictures import shrink

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
COLOURS = 256
DESK, PHONE = {"width": 1120, "height": 800}, {"width": 390, "height": 844}
SETTLED = 4000  # milliseconds in a mode, before its picture


def visit(browser: Any, address: str, size: dict[str, int], shots: dict[str, str], folder: Path) -> None:
    """Presses the keys of each picture, and takes it."""
    page = browser.new_page(viewport=size)
    page.goto(address)
    page.wait_for_selector("#stage[data-frames]")
    for name, keys in shots.items():
        for key in keys.split():
            page.keyboard.press(key)
        page.wait_for_timeout(SETTLED)
        if name == "episodes":
            for episode, side in ((0, 0), (-1, 1)):
                page.locator(f"#rows [data-side='{side}']").nth(episode).click()
            page.wait_for_timeout(SETTLED)
        page.screenshot(path=folder / f"{name}.png", full_page=True)
        shrink(folder / f"{name}.png", COLOURS)
    page.close()


def main(run: str, folder: str) -> None:
    from playwright.sync_api import sync_playwright

    into = Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "iris_fast.play", run, "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        if found is None:
            raise SystemExit(f"{run} is not served: see above")
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            shots = {"real": "r", "dream": "r 2 t", "fork": "1 3", "episodes": "4"}
            visit(browser, found[0], DESK, shots, into)
            visit(browser, found[0], PHONE, {"phone": "2 Tab"}, into)
            browser.close()
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
