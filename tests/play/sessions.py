"""What tests do with a session."""

from __future__ import annotations

from typing import Any

import numpy as np

from iris_fast.play.interface import Update
from iris_fast.play.loading import Player
from iris_fast.play.session import Session


def step(session: Session) -> Update:
    update = session.advance()
    assert update is not None
    return update


def reply(replies: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(message for message in replies if message["type"] == kind)


def recorded(session: Session, steps: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The frames shown while it was recorded, the one at its start included, and the reply."""
    shown = [next(iter(session._world.images(False).values()))]
    session.handle({"type": "record"})
    assert session.state()["recording"] is True
    shown += [next(iter(step(session).images.values())) for _ in range(steps)]
    return shown, reply(session.handle({"type": "record"}), "recorded")


def load(own: Player, answer: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(own.media / answer["id"]) as arrays:
        return dict(arrays)
