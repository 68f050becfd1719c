"""What the server asks of a session: one tab's game, dream, fork or episode."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

Message = dict[str, object]


class MessageError(Exception):
    """A message that a page should not have sent, in one sentence that the page shows."""


class Update(NamedTuple):
    """What one step changed: `info` for the page's text, and frames by their names, (height, width, 3) uint8.

    `messages` are sent too, also where the frame is dropped.
    """

    info: Message
    images: dict[str, np.ndarray]
    messages: tuple[Message, ...] = ()


class Session(Protocol):
    """One tab. The server uses it from one thread at a time."""

    @property
    def interval(self) -> float:
        """Seconds between two steps. The server waits; a session never does."""

    def handle(self, message: Message) -> list[Message]:
        """The replies to a message, whose form is right already; `MessageError` if it makes no sense now."""

    def advance(self) -> Update | None:
        """Takes one step; None when nothing changes (paused, at an end, waiting for an answer).

        `MessageError` for what went wrong within it, which the next call does not try again.
        """

    def state(self) -> Message:
        """What the page draws of the controls."""

    def close(self) -> None:
        """Frees environments and memory; `MessageError` for what was to be saved first and could not be."""
