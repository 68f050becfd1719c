"""The server with fake sessions: who may ask, what a bad message gets, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import iris_fast.play.__main__ as play
from iris_fast.command_line import run_command
from iris_fast.play.guard import Guard, is_loopback
from iris_fast.play.interface import MessageError, Update
from iris_fast.play.server import LARGEST_BYTES, Place
from iris_fast.play.tab import WAITING, Tab
from tests.play.fake_session import FakeSession


@contextmanager
def served(folder: Path, *host: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A server of fake sessions, its port and the address that it printed."""
    pytest.importorskip("uvicorn", reason="needs the extra play")
    command = [sys.executable, "-m", "tests.play.served", str(folder), "0", *host]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"(http://\S+:(\d+)/\S*)", process.stdout.readline())
        assert found is not None
        yield process, int(found[2]), found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture()
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with served(tmp_path) as (process, port, _):
        yield process, port


def connect(port: int, origin: str | None = None, **options: Any) -> Any:
    client = pytest.importorskip("websockets.sync.client", reason="needs the extra play")
    return client.connect(
        f"ws://127.0.0.1:{port}/tab", origin=origin or f"http://127.0.0.1:{port}", **options
    )


def next_text(tab: Any, kind: str) -> dict[str, Any]:
    """The next text message of a type; frames in between are dropped."""
    while True:
        item = tab.recv(timeout=10)
        if isinstance(item, str) and (message := json.loads(item))["type"] == kind:
            return dict(message)


def status(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_downloads_are_confined_to_their_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "secret.npz", tmp_path / "media"
    folder.mkdir()
    for path in (outside, folder / "mine.npz", folder / "config.yaml"):
        path.write_bytes(b"x")
    (folder / "link.npz").symlink_to(outside)
    place = Place(lambda: FakeSession(folder), folder)
    assert place.file("mine.npz") == folder / "mine.npz"
    for name in (
        "../secret.npz",
        str(outside),
        "link.npz",
        "config.yaml",
        "none.npz",
        "a\0.npz",
        ".",
        "x" * 5000,
    ):
        assert place.file(name) is None, name


def test_only_the_own_page_of_this_machine_may_ask(server: tuple[Any, int]) -> None:
    _, port = server
    assert (
        status(port, "/") == status(port, "/static/main.js") == status(port, "/", Host="localhost:9") == 200
    )
    assert status(port, "/", Host=f"evil.example:{port}") == 403
    for path in ("/files/../server.py", "/files/%2e%2e/%2e%2e/etc/passwd", "/static/%2e%2e/server.py"):
        assert status(port, path) == 404
    with pytest.raises(Exception, match="403"):
        connect(port, origin="http://evil.example")


def test_a_tunnel_from_another_port_leads_here_and_another_name_does_not(server: tuple[Any, int]) -> None:
    """Also a name that was made to lead to this machine, whose page says that it is at home."""
    client = pytest.importorskip("websockets.sync.client", reason="needs the extra play")
    _, port = server

    def connected(place: str) -> Any:
        there = socket.create_connection(("127.0.0.1", port))
        return client.connect(f"ws://{place}/tab", sock=there, origin=f"http://{place}")

    for place in ("localhost:9", "127.0.0.1:9", "[::1]:9"):
        with connected(place) as tab:
            assert next_text(tab, "state")["mode"] == "real"
    for place in (f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"10.0.0.1:{port}"):
        with pytest.raises(Exception, match="403"):
            connected(place)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(tmp_path: Path, host: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(tmp_path, host) as (_, port, address):
        _, _, rest = address.partition(
            f":{port}/"
        )  # after a host that is another machine's to reach, for all
        assert ("token" in rest) == (host == "::")
        assert host == "::" or address.startswith("http://[::1]:")
        with urllib.request.urlopen(f"http://[::1]:{port}/{rest}", timeout=10) as answer:
            assert answer.status == 200


def test_a_token_is_needed_beyond_this_machine() -> None:
    guard = Guard(None, "secret", 8000)
    scope = {"type": "http", "query_string": b"token=secret"}
    assert guard._allowed(scope, {}, guard._given(scope, {}))
    cookie = {"cookie": "iris_fast_play_8000=secret"}
    assert guard._allowed({"type": "http"}, cookie, guard._given({"type": "http"}, cookie))
    for query in (b"", b"token=", b"token=Secret", b"token=%C3%A9"):
        bad = {"type": "http", "query_string": query}
        assert not guard._allowed(bad, {}, guard._given(bad, {}))
    assert is_loopback("::1") and is_loopback("127.0.0.2") and not is_loopback("0.0.0.0")


def test_a_served_host_answers_with_its_token_alone(tmp_path: Path) -> None:
    with served(tmp_path, "0.0.0.0") as (_, port, address):
        assert not address.startswith("http://0.0.0.0")  # other machines can open it
        token = address.partition("?token=")[2]
        assert status(port, "/") == status(port, "/static/main.js") == status(port, "/files/none.npz") == 403
        assert status(port, f"/?token={token}") == 200
        cookie = {"Cookie": f"iris_fast_play_{port}={token}"}
        assert status(port, "/static/main.js", **cookie) == 200
        with pytest.raises(Exception, match="403"):
            connect(port)
        with pytest.raises(Exception, match="403"):
            connect(port, "http://evil.example", additional_headers=cookie)
        with connect(port, additional_headers=cookie) as tab:
            assert next_text(tab, "state")["mode"] == "real"


def test_a_message_beyond_the_limit_ends_its_connection_alone(server: tuple[Any, int]) -> None:
    _, port = server
    with connect(port) as tab:
        tab.send("x" * (LARGEST_BYTES + 1))
        with pytest.raises(Exception, match="1009"):
            next_text(tab, "never")
    with connect(port) as tab:
        next_text(tab, "state")


def open_tab(test: Callable[[Tab], Awaitable[None]], folder: Path) -> None:
    """Runs a test on a tab with a fake session, in an event loop of its own."""

    async def run() -> None:
        tab = Tab(lambda: FakeSession(folder), asyncio.get_running_loop())
        try:
            await test(tab)
        finally:
            tab.close()
            tab._thread.join(10)

    asyncio.run(asyncio.wait_for(run(), 30))


async def frame_of(tab: Tab) -> dict[str, Any]:
    """The header of the next frame, which is seen at once."""
    while not isinstance(item := await tab.outbox.get(), bytes):
        pass
    header = json.loads(item[4 : 4 + int.from_bytes(item[:4], "little")])
    tab.take({"type": "seen", "n": header["n"]})
    return dict(header)


def test_a_closed_tab_frees_its_session(tmp_path: Path) -> None:
    closed = FakeSession.closed

    async def test(tab: Tab) -> None:
        await frame_of(tab)

    open_tab(test, tmp_path)
    assert FakeSession.closed == closed + 1


def test_a_persons_key_does_not_wait_for_the_end_of_a_slow_step(tmp_path: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.take({"type": "set", "controls": "person", "fps": 1})
        while (await frame_of(tab))["action"] != 0:  # until the person's step
            pass
        shown = time.monotonic()
        await asyncio.sleep(0.55)  # the next step is due after one second
        tab.take({"type": "action", "action": 1})
        assert (await frame_of(tab))["action"] == 1
        assert time.monotonic() - shown < 0.9

    open_tab(test, tmp_path)


def test_a_page_that_never_reads_is_let_go(tmp_path: Path) -> None:
    async def test(tab: Tab) -> None:
        for _ in range(2 * WAITING):
            tab.reply({"type": "error", "message": "A bad message."})
        assert tab.outbox.qsize() <= WAITING + 1
        while await tab.outbox.get() is not None:
            pass

    open_tab(test, tmp_path)


def test_without_the_extra_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert run_command(play.main, [str(tmp_path)]) == 2
    assert "pip install 'iris_fast[play]'" in capsys.readouterr().err


def test_bad_messages_get_errors_and_the_tab_goes_on(server: tuple[Any, int]) -> None:
    _, port = server
    with connect(port) as tab:
        for text in ("nonsense", "x" * 10_000, '{"type": "action", "action": 9}'):
            tab.send(text)
            assert next_text(tab, "error")["message"]
        tab.send('{"type": "handover"}')
        while next_text(tab, "state")["controls"] != "person":
            pass


def test_a_page_that_sees_nothing_gets_two_frames_and_then_the_newest(server: tuple[Any, int]) -> None:
    _, port = server
    with connect(port) as tab:
        frames = []
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            try:
                item = tab.recv(timeout=0.2)
            except TimeoutError:
                continue
            if isinstance(item, bytes):
                frames.append(item)
        assert len(frames) == 2
        tab.send('{"type": "seen", "n": 2}')
        while not isinstance(item := tab.recv(timeout=5), bytes):
            pass
        header = json.loads(item[4 : 4 + int.from_bytes(item[:4], "little")])
        assert header["n"] == 3 and header["step"] > 10


def test_tabs_have_a_limit_and_a_closed_one_makes_room(server: tuple[Any, int]) -> None:
    _, port = server
    with connect(port), connect(port), connect(port) as third:
        assert "limit" in next_text(third, "error")["message"]
    time.sleep(0.5)
    with connect(port) as tab:
        assert next_text(tab, "state")["mode"] == "real"


def test_ctrl_c_ends_at_once_and_a_tab_open_saves_its_recording(
    server: tuple[Any, int], tmp_path: Path
) -> None:
    process, port = server
    with connect(port) as tab:
        tab.send('{"type": "record"}')
        while not next_text(tab, "state")["recording"]:
            pass
        tab.send('{"type": "seen", "n": 0}')
        time.sleep(0.3)  # some frames of it
        started = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - started < 3
    assert process.returncode == 130 and "Traceback" not in errors, errors
    with np.load(tmp_path / "r.npz") as arrays:
        assert len(arrays["frames"]) > 0


def test_a_port_in_use_leads_to_the_next(server: tuple[Any, int], tmp_path: Path) -> None:
    _, port = server
    command = [sys.executable, "-m", "tests.play.served", str(tmp_path), str(port)]
    second = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    line = second.stdout.readline()
    second.kill()
    second.communicate()
    assert line.startswith(f"port {port} is in use: serving on ")


class Failing(FakeSession):
    """Its third step fails."""

    def advance(self) -> Update | None:
        update = super().advance()
        if self.step == 3:
            raise MessageError("This film is damaged.")
        return update


def test_a_step_that_fails_is_said_and_the_tab_goes_on(tmp_path: Path) -> None:
    async def played() -> list[object]:
        tab = Tab(lambda: Failing(tmp_path), asyncio.get_running_loop())
        tab.take({"type": "set", "fps": 60})
        said: list[object] = []
        while sum(isinstance(item, bytes) for item in said) < 5:
            said.append(await asyncio.wait_for(tab.outbox.get(), 10))
            tab.take({"type": "seen", "n": 100})
        tab.close()
        return said

    told = [item for item in asyncio.run(played()) if isinstance(item, dict)]
    failed = next(number for number, item in enumerate(told) if item["type"] == "error")
    assert told[failed] == {"type": "error", "message": "This film is damaged."}
    assert told[failed + 1]["type"] == "state", "how things are after what was done in part"
    assert sum(item["type"] == "error" for item in told) == 1
