"""How fast the page of `iris_fast.play` is: frames a second, and the time from a key to the frame that shows it."""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Result
from benchmarks.registry import Run, case
from iris_fast.agent import PARTS, Agent
from iris_fast.config import preset_config, resolve
from iris_fast.envs.games import CATCH
from iris_fast.interop.files import write_weights

ENDS = 8.0
"""Added to the logit of going on, so that the dreams of random weights last."""
DRAWN = {"panels": True, "thoughts": True}
PLAYED = 15  # frames a second while keys are pressed


class Page:
    """A tab over a websocket, which says of each frame at once that it is seen, as the page does after drawing."""

    def __init__(self, tab: Any):
        self._tab = tab
        self.actions: list[str] = []

    def send(self, kind: str, **fields: Any) -> None:
        self._tab.send(json.dumps({"type": kind, **fields}))

    def frame(self, within: float = 60.0) -> dict[str, Any]:
        """The next frame's header."""
        while isinstance(item := self._tab.recv(timeout=within), str):
            message = json.loads(item)
            if message["type"] == "error":
                raise RuntimeError(message["message"])
            self.actions = message.get("actions", self.actions)
        header: dict[str, Any] = json.loads(item[4 : 4 + int.from_bytes(item[:4], "little")])
        self.send("seen", n=header["n"])
        return header

    def enter(self, mode: str, **settings: Any) -> None:
        """Goes to a mode; returns with its first frame."""
        self.send("set", mode=mode, **settings)
        while self.frame()["mode"] != mode:
            pass


@contextmanager
def served(file: Path, game: str, threads: int) -> Iterator[Page]:
    """A page of a server in a process of its own."""
    from websockets.sync.client import connect
    from websockets.typing import Origin

    command = [sys.executable, "-m", "iris_fast.play", str(file), "--game", game, "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127.0.0.1:(\d+)/", process.stdout.readline())
        if found is None:
            raise RuntimeError("the server did not start")
        place = f"127.0.0.1:{found[1]}"
        with connect(f"ws://{place}/tab", origin=Origin(f"http://{place}")) as tab:
            yield Page(tab)
    finally:
        process.kill()
        process.communicate()


def write_agent(file: Path, preset: str, game: str, actions: int) -> None:
    """An agent with random weights."""
    torch.manual_seed(0)
    agent = Agent(resolve(preset_config(preset, game)).agent, actions)
    with torch.no_grad():
        agent.world_model.head_ends.head_module[2].bias[0] += ENDS  # type: ignore[operator,index]
    state = {name: value for name, value in agent.state_dict().items() if name.split(".")[0] in PARTS}
    write_weights(file, state, agent.config, actions)


def rate(page: Page, seconds: float) -> float:
    """Frames that arrive a second, after the first few."""
    for _ in range(5):
        page.frame()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        page.frame()
        count += 1
    return count / (time.perf_counter() - began)


def key_times(page: Page, presses: int) -> list[float]:
    """Seconds from each press to the frame that shows its action, pressed at random moments of the interval."""
    draws, held, found = random.Random(0), 0, []
    for _ in range(presses):
        until = time.perf_counter() + draws.uniform(2, 3) / PLAYED
        while (left := until - time.perf_counter()) > 0:
            try:
                page.frame(left)
            except TimeoutError:
                break
        held = draws.choice([action for action in range(len(page.actions)) if action != held])
        pressed = time.perf_counter()
        page.send("action", action=held)
        while page.frame()["action"] != held:
            pass
        found.append(time.perf_counter() - pressed)
    return found


def spread_of(times: list[float]) -> dict[str, float]:
    p95 = statistics.quantiles(times, n=20, method="inclusive")[-1]
    return {"median": statistics.median(times), "p95": p95, "presses": len(times)}


@case("play", minutes=3.2, least=3.2)
def play(run: Run) -> Result:
    """The page of play, over a websocket: frames a second of each mode, and from a key to the frame that shows it."""
    missing = [
        name for name in ("uvicorn", "websockets", *(() if run.quick else ("ale_py",))) if not find_spec(name)
    ]
    if missing:
        return Result(left_out=f"{missing[0]} is not installed: pip install 'iris_fast[play,atari]'")
    preset, game, actions = ("tiny", CATCH, 3) if run.quick else ("paper", "Pong", 6)
    seconds, presses = (0.5, 4) if run.quick else (10.0, 150)
    facts: dict[str, Any] = {"preset": preset, "game": game, "frames_a_second": {}, "key_seconds": {}}
    threads = run.systems.threads
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "agent.pt"
        write_agent(file, preset, game, actions)
        with served(file, game, threads) as page:
            for mode in ("real", "dream", "fork"):
                page.enter(mode, fps=60, panels=False, thoughts=False, controls="agent")
                plain = rate(page, seconds)
                page.send("set", **DRAWN)
                facts["frames_a_second"][mode] = {"plain": plain, "everything drawn": rate(page, seconds)}
            for mode in ("real", "dream"):
                facts["key_seconds"][mode] = {}
                for shown, drawn in (("plain", False), ("everything drawn", True)):
                    page.enter(mode, fps=PLAYED, controls="person", panels=drawn, thoughts=drawn)
                    facts["key_seconds"][mode][shown] = spread_of(key_times(page, presses))
    return Result(threads=threads, facts=facts)
