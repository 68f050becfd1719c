"""Who may ask the server: its own page, and beyond this machine only who has the token."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Guard:
    """An ASGI application before another: refuses what is not the server's own page, and adds the safety headers.

    Without a token the Host header must be this machine's, so that no other name can be made to lead here.
    A websocket needs the Origin of the page; one without is refused too.
    """

    app: Any
    token: str | None
    port: int

    @property
    def cookie(self) -> str:
        return f"iris_fast_play_{self.port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self._given(scope, headers)
        if not self._allowed(scope, headers, given):
            await self._refuse(scope, receive, send)
            return

        async def send_safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = list(HEADERS)
                if self.token is not None and scope["path"] == "/":
                    extra.append((b"set-cookie", self._cookie_line()))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C ends open answers without a word
            await self.app(scope, receive, send_safely)

    def _cookie_line(self) -> bytes:
        return f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/".encode()

    def _given(self, scope: Any, headers: dict[str, str]) -> str:
        """The token in the address, or else the one in the cookie that the page's first answer set."""
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if "token" in query:
            return query["token"][0]
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    def _allowed(self, scope: Any, headers: dict[str, str], given: str) -> bool:
        host = headers.get("host", "")
        if self.token is None:
            try:
                name = urlsplit(f"//{host}").hostname or ""
            except ValueError:
                return False
            if not is_loopback(name):
                return False
        elif not secrets.compare_digest(given.encode(), self.token.encode()):
            return False
        if scope["type"] == "websocket":
            return headers.get("origin", "") in (f"http://{host}", f"https://{host}")
        return True

    async def _refuse(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        text = b"This address needs the token that the server printed when it started.\n"
        if self.token is None:
            text = b"This server answers only under an address of its own machine, such as 127.0.0.1.\n"
        plain = (b"content-type", b"text/plain; charset=utf-8")
        await send({"type": "http.response.start", "status": 403, "headers": [plain, *HEADERS]})
        await send({"type": "http.response.body", "body": text})
