"""One tab: its mode, its controls, its settings, and what each step shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .interface import Message, MessageError, Update
from .loading import Player
from .worlds import Hands, Moment, Real

RATE_OVER = 15
"""Steps over which the rate of frames is measured."""


class Session:
    """What one page controls. A step is drawn as the frame after it, with the action that led there."""

    def __init__(
        self,
        player: Player,
        mode: str = "real",
        controls: str = "agent",
        seed: int = 0,
        temperature: float = 1.0,
        panels: bool = False,
        save: bool = False,
    ):
        self.player = player
        self.hands = Hands(controls == "person", 0, temperature, seed)
        self.paused = self.panels = self.thoughts = False
        self.panels = panels
        self.save = save
        self.fps = player.steps_per_second
        self.mode = mode
        self._world: Real | None = None
        self._once = False  # a single step, though paused
        self._redraw = False
        self._shown: deque[float] = deque(maxlen=RATE_OVER)
        with player.turn:
            self._enter(mode)

    @property
    def interval(self) -> float:
        return 1 / self.fps

    def state(self) -> Message:
        return {
            "mode": self.mode,
            "controls": "person" if self.hands.person else "agent",
            "paused": self.paused,
            "fps": self.fps,
            "temperature": self.hands.temperature,
            "seed": self.hands.seed,
            "panels": self.panels,
            "thoughts": self.thoughts,
            "save": self.save,
            "recording": False,
            "game": self.player.game,
            "actions": list(self.player.action_names),
            "codes": self.player.config.tokenizer.vocab_size,
        }

    def handle(self, message: Message) -> list[Message]:
        kind = str(message["type"])
        handler: Callable[[dict[str, Any]], list[Message] | None] | None = getattr(self, f"_on_{kind}", None)
        if handler is None:
            raise MessageError(f"This version knows no message of type {kind}.")
        with self.player.turn:
            replies = handler(dict(message))
        return [*(replies or ()), {"type": "state", **self.state()}]

    def advance(self) -> Update | None:
        with self.player.turn:
            if self.paused and not self._once:
                return self._again() if self._redraw else None
            self._once = False
            assert self._world is not None
            self._count(self._world.step())
            self._shown.append(time.perf_counter())
            return self._update()

    def close(self) -> None:
        if self._world is not None:
            self._world.close()
        self._world = None

    def _enter(self, mode: str) -> None:
        if mode != "real":
            raise MessageError(f"There is no mode {mode} yet.")
        self.close()
        self.mode = mode
        self._world = Real(self.player, self.hands)
        self._begin(self._world.moment)

    def _begin(self, moment: Moment) -> None:
        self._steps, self._return = 0, 0.0
        self._shown.clear()
        self._redraw = True

    def _count(self, moment: Moment) -> None:
        if moment.action is None:
            self._begin(moment)
            return
        self._steps += 1
        self._return += moment.reward

    def _again(self) -> Update:
        return self._update()

    def _update(self) -> Update:
        assert self._world is not None
        self._redraw = False
        moment = self._world.moment
        info: Message = {
            "mode": self.mode,
            "step": self._steps,
            "action": moment.action,
            "action_name": None if moment.action is None else self.player.action_names[moment.action],
            "reward": moment.reward,
            "return": self._return,
            "end": moment.end,
            "fps": self._rate(),
        }
        return Update(info, self._world.images(self.panels))

    def _rate(self) -> float:
        """Frames a second, over the last steps."""
        times = self._shown
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return float((len(times) - 1) / span) if span else float(self.fps)

    def _on_set(self, message: dict[str, Any]) -> None:
        hands = self.hands
        for name in ("paused", "fps", "panels", "thoughts"):
            setattr(self, name, message.get(name, getattr(self, name)))
        hands.temperature = float(message.get("temperature", hands.temperature))
        if "controls" in message:
            hands.person = message["controls"] == "person"
        self._redraw = True
        if "seed" in message:
            hands.seed = message["seed"]
        if "seed" in message or message.get("mode", self.mode) != self.mode:
            self._enter(message.get("mode", self.mode))

    def _on_action(self, message: dict[str, Any]) -> None:
        count = len(self.player.action_names)
        if message["action"] >= count:
            raise MessageError(
                f"{self.player.game} has {count} actions: there is no action {message['action']}."
            )
        self.hands.held = message["action"]

    def _on_step(self, _: dict[str, Any]) -> None:
        self._once = True

    def _on_reset(self, _: dict[str, Any]) -> None:
        assert self._world is not None
        self._begin(self._world.restart())

    def _on_handover(self, _: dict[str, Any]) -> None:
        self.hands.person = not self.hands.person
        self.hands.held = 0
