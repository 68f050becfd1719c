"""One tab of the page: a thread that steps its session, and the frames that are under way to the page."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Callable

from iris_fast.errors import UserError
from iris_fast.play.interface import Message, MessageError, Session, Update
from iris_fast.play.messages import pack_frame

EARLIEST = 0.5
"""The share of an interval after which a person's key takes the next step, instead of at the interval's end."""
UNDER_WAY = 2
"""Frames that may be under way unseen. The newest later one waits for room; those before it are dropped."""
WAITING = 64
"""Messages that may wait in either direction."""


class Tab:
    """Steps a session in a thread of its own. `outbox` has what is to be sent; None there ends the connection."""

    def __init__(self, make_session: Callable[[], Session], loop: asyncio.AbstractEventLoop):
        self.outbox: asyncio.Queue[Message | bytes | None] = asyncio.Queue()
        self._make_session = make_session
        self._loop = loop
        self._inbox: queue.Queue[Message | None] = queue.Queue(WAITING)
        self._closed = threading.Event()
        self._full = False  # the connection ends once the page has read what waits
        self._sent = self._seen = 0
        self._newest: Update | None = None
        self._thread = threading.Thread(target=self._run, name="iris_fast.play tab", daemon=True)
        self._thread.start()

    def take(self, message: Message) -> None:
        """Hands a checked message to the session's thread; `MessageError` when too many wait already."""
        try:
            self._inbox.put_nowait(message)
        except queue.Full:
            raise MessageError(f"More than {WAITING} messages wait: this one was dropped.") from None

    def reply(self, message: Message) -> None:
        """Sends an answer from the event loop's thread."""
        self._put(message)

    def close(self) -> None:
        """Ends the thread after its present step; the session is closed there."""
        self._closed.set()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    def wait(self, until: float) -> None:
        """Waits for the end of a closed tab, at most until a time of `time.monotonic`."""
        self._thread.join(max(0.0, until - time.monotonic()))

    def _send(self, message: Message | bytes | None) -> None:
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: Message | bytes | None) -> None:
        if self.outbox.qsize() < WAITING:
            self.outbox.put_nowait(message)
        elif not self._full:  # a page that sends and never reads
            self._full = True
            self.close()
            self.outbox.put_nowait(None)

    def _run(self) -> None:
        session: Session | None = None
        try:
            session = self._make_session()
            self._send({"type": "state", **session.state()})
            self._steps(session)
        except UserError as error:
            self._send({"type": "error", "message": str(error)})
        except Exception as error:  # the other tabs go on
            print(f"a tab's session failed: {type(error).__name__}: {error}", file=sys.stderr)
            self._send({"type": "error", "message": f"The session failed ({type(error).__name__})."})
        finally:
            self._newest = None
            if session is not None:
                try:
                    session.close()
                except MessageError as error:  # the page is gone
                    print(error, file=sys.stderr)
            if not self._loop.is_closed():
                self._send(None)

    def _steps(self, session: Session) -> None:
        due = last = time.perf_counter()
        while not self._closed.is_set():
            wait = due - time.perf_counter()
            if wait > 0 or not self._inbox.empty():
                acts = self._answer(session, max(wait, 0.0))
                due = min(due, time.perf_counter() + session.interval)  # a higher speed acts at once
                if acts:
                    due = min(due, last + EARLIEST * session.interval)
                continue
            last = time.perf_counter()
            update = self._advanced(session)
            due = max(due + session.interval, time.perf_counter())  # late steps are not caught up
            if update is not None:
                self._newest = update
                for message in update.messages:
                    self._send(message)
            self._show()

    def _advanced(self, session: Session) -> Update | None:
        try:
            return session.advance()
        except MessageError as error:
            self._refuse(session, error)
            return None

    def _refuse(self, session: Session, error: MessageError) -> None:
        """Sends the error, and the present state, since the failed step may have done a part of its work."""
        self._send({"type": "error", "message": str(error)})
        self._send({"type": "state", **session.state()})

    def _answer(self, session: Session, wait: float) -> bool:
        """Waits at most `wait` seconds for a message, and answers it; True if a person acted by it."""
        try:
            message = self._inbox.get(timeout=min(wait, 0.1)) if wait else self._inbox.get_nowait()
        except queue.Empty:
            return False
        if message is None:
            return False
        if message["type"] == "seen":
            self._seen = max(self._seen, min(int(str(message["n"])), self._sent))
            self._show()
            return False
        try:
            for reply in session.handle(message):
                self._send(reply)
        except MessageError as error:
            self._refuse(session, error)
            return False
        return message["type"] == "action" and session.state()["controls"] == "person"

    def _show(self) -> None:
        """Sends the newest frame, if there is room for it."""
        if self._newest is not None and self._sent - self._seen < UNDER_WAY:
            self._sent += 1
            self._send(pack_frame(self._sent, self._newest))
            self._newest = None
