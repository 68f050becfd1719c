"""One tab: its mode, its controls, its settings, and what each step shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .interface import Message, MessageError, Update
from .loading import Player
from .thoughts import thoughts_of
from .worlds import Dream, Fork, Hands, Real, World

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
        self.paused = False
        self.panels = panels
        self.save = save
        self.fps = player.steps_per_second
        self.mode = mode
        self._real: Real | None = None
        self._dream: Dream | None = None
        self._fork: Fork | None = None
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
            "thoughts": self.hands.thoughts,
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
                return self._update() if self._redraw else None
            self._once = False
            self._world.step()
            self._shown.append(time.perf_counter())
            return self._update()

    def close(self) -> None:
        for world in (self._fork, self._dream, self._real):
            if world is not None:
                world.close()
        self._fork = self._dream = self._real = None

    @property
    def _world(self) -> World | Fork:
        """The world of the present mode."""
        world = {"real": self._real, "dream": self._dream, "fork": self._fork}[self.mode]
        assert world is not None, "the session is closed"
        return world

    def _enter(self, mode: str) -> None:
        """Goes to a mode. The game and the dream of before go on; a fork is a new one each time."""
        if self._fork is not None:
            self._fork.close()
            self._fork = None
        if mode == "dream" and self._dream is None:
            self._dream = Dream(self.player, self.hands)
        if mode != "dream" and self._real is None:
            self._real = Real(self.player, self.hands)
        if mode == "fork":
            assert self._real is not None
            self._fork = Fork(self._real)
        self.mode = mode
        self._shown.clear()
        self._redraw = True

    def _update(self) -> Update:
        self._redraw = False
        world, moment = self._world, self._world.moment
        info: Message = {
            "mode": self.mode,
            "step": world.steps,
            "action": moment.action,
            "action_name": None if moment.action is None else self.player.action_names[moment.action],
            "reward": moment.reward,
            "return": world.total,
            "end": moment.end,
            "fps": self._rate(),
            "context": moment.context,
        }
        if moment.fork is not None:
            info["fork"] = moment.fork
        if self.hands.thoughts and (thoughts := thoughts_of(moment, self.hands.temperature)) is not None:
            info["thoughts"] = thoughts
        return Update(info, world.images(self.panels))

    def _rate(self) -> float:
        """Frames a second, over the last steps."""
        times = self._shown
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return float((len(times) - 1) / span) if span else float(self.fps)

    def _on_set(self, message: dict[str, Any]) -> None:
        hands = self.hands
        for name in ("paused", "fps", "panels"):
            setattr(self, name, message.get(name, getattr(self, name)))
        hands.temperature = float(message.get("temperature", hands.temperature))
        hands.thoughts = message.get("thoughts", hands.thoughts)
        if "controls" in message:
            hands.person = message["controls"] == "person"
        self._redraw = True
        if "seed" in message:  # everything starts again from it
            hands.seed = message["seed"]
            self.close()
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
        self._world.restart()
        self._redraw = True

    def _on_handover(self, _: dict[str, Any]) -> None:
        self.hands.person = not self.hands.person
        self.hands.held = 0

    def _on_token(self, message: dict[str, Any]) -> None:
        self._world.replace_token(message["index"], message["code"])
        self._redraw = True

    def _on_fork(self, _: dict[str, Any]) -> None:
        self._enter("fork")
