"""The server of the page: its files, one websocket a tab, downloads.

It listens on 127.0.0.1. From another machine: `ssh -L 8000:127.0.0.1:8000 MACHINE`, then open the printed address.
With another host, every request needs the token that the printed address carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iris_fast.errors import UserError
from iris_fast.files import file_inside
from iris_fast.play.guard import Guard, is_loopback
from iris_fast.play.interface import MessageError, Session
from iris_fast.play.messages import as_json, parse_message
from iris_fast.play.tab import Tab

STATIC = Path(__file__).parent / "static"
DOWNLOADS = {".mp4": "video/mp4", ".gif": "image/gif", ".npz": "application/octet-stream"}
PORTS_TRIED = 20
FULL = 4001
"""The websocket's closing code when all tabs are taken."""
FAREWELL = 2.0
"""Seconds that open tabs have at Ctrl-C to save a recording under way."""
ELSEWHERE = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}
"""For a host that is all addresses of this machine, any address beyond it (these belong to nobody)."""
LARGEST_BYTES = 65_536
"""A message beyond this closes its connection; a smaller one that is too long gets an error message."""


@dataclass
class Place:
    """What is served: how a tab's session is made, the folder of downloads, how many tabs there may be."""

    make_session: Callable[[], Session]
    downloads: Path
    limit: int = 4
    tabs: set[Tab] = field(default_factory=set)
    closed: list[Tab] = field(default_factory=list)  # tabs that may still save a recording

    def file(self, name: str) -> Path | None:
        """The recording or episode under `downloads` with this name; None for anything else."""
        return file_inside(self.downloads, name, tuple(DOWNLOADS))


def make_app(place: Place, *, port: int, token: str | None = None) -> Guard:
    """The ASGI application."""
    with needed():
        from starlette.applications import Starlette
        from starlette.responses import FileResponse, PlainTextResponse, Response
        from starlette.routing import Mount, Route, WebSocketRoute
        from starlette.staticfiles import StaticFiles

    async def index(_: Any) -> Response:
        return FileResponse(STATIC / "index.html")

    async def download(request: Any) -> Response:
        path = place.file(request.path_params["name"])
        if path is None:
            return PlainTextResponse("There is no such recording.\n", 404)
        return FileResponse(path, media_type=DOWNLOADS[path.suffix], filename=path.name)

    async def tab(websocket: Any) -> None:
        await serve_tab(websocket, place)

    routes = [
        Route("/", index),
        Route("/files/{name:path}", download),
        WebSocketRoute("/tab", tab),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes), token, port)


async def serve_tab(websocket: Any, place: Place) -> None:
    """One connection from its beginning to its end."""
    await websocket.accept()
    if len(place.tabs) >= place.limit:
        text = f"{place.limit} tabs are open already, which is the limit: close one, then reload this page."
        await websocket.send_text(as_json({"type": "error", "message": text}))
        await websocket.close(FULL)
        return
    tab = Tab(place.make_session, asyncio.get_running_loop())
    place.tabs.add(tab)
    tasks = {asyncio.ensure_future(_send(websocket, tab)), asyncio.ensure_future(_receive(websocket, tab))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        tab.close()
        place.tabs.discard(tab)
        place.closed = [one for one in (*place.closed, tab) if one.alive]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):  # the page has gone already
            await websocket.close()


async def _send(websocket: Any, tab: Tab) -> None:
    while (item := await tab.outbox.get()) is not None:
        if isinstance(item, bytes):
            await websocket.send_bytes(item)
        else:
            await websocket.send_text(as_json(item))


async def _receive(websocket: Any, tab: Tab) -> None:
    while (event := await websocket.receive())["type"] != "websocket.disconnect":
        try:
            tab.take(parse_message(event.get("text")))
        except MessageError as error:
            tab.reply({"type": "error", "message": str(error)})


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """A block that imports what the extra `play` installs."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"play needs {error.name}: run `pip install 'iris_fast[play]'`") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on the first free port from `port` on."""
    for tried in range(port, min(port + PORTS_TRIED, 65_536)):
        try:
            family, kind, number, _, address = socket.getaddrinfo(host, tried, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise UserError(f"--host {host} is not an address of this machine ({error.strerror})") from None
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            if error.errno == errno.EACCES:
                raise UserError(f"--port {tried} needs an administrator: give 1024 or more") from None
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"cannot serve on --host {host} --port {tried}: {error.strerror}") from None
    raise UserError(f"--port {port} and the {PORTS_TRIED - 1} after it are in use: give another")


def reachable(host: str) -> str:
    """A host as other machines reach it. For all addresses (0.0.0.0, ::) that is the one with a route to others, or
    without a network this machine's name."""
    if host not in ELSEWHERE:
        return host
    family, other = ELSEWHERE[host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as route:
            route.connect((other, 9))  # nothing is sent
            return str(route.getsockname()[0])
    except OSError:
        return socket.gethostname()


def serve(place: Place, *, host: str = "127.0.0.1", port: int = 8000, open_browser: bool = True) -> None:
    """Serves until Ctrl-C, which raises KeyboardInterrupt at once. Prints the address, and opens it on request."""
    with needed():
        import uvicorn
        import websockets  # noqa: F401  (uvicorn imports it when the first page connects)
    listener = listen(host, port)
    bound = listener.getsockname()[1]
    token = None if is_loopback(host) else secrets.token_urlsafe()
    shown = reachable(host)
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{bound}/" + (
        f"?token={token}" if token else ""
    )
    if port and bound != port:
        print(f"port {port} is in use: serving on {bound}")
    print(f"watch and play at {address} (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(
        make_app(place, port=bound, token=token),
        ws="websockets-sansio",
        ws_max_size=LARGEST_BYTES,
        ws_per_message_deflate=False,  # frames are PNG files already
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
    )
    if open_browser:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(address)
    try:
        asyncio.run(_server(config).serve(sockets=[listener]))
    finally:
        listener.close()
        for tab in place.tabs:
            tab.close()
        until = time.monotonic() + FAREWELL
        for tab in (*place.tabs, *place.closed):
            tab.wait(until)


def _server(config: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves signals as they are: Ctrl-C cancels `serve`, without a wait for the open tabs."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(config)
