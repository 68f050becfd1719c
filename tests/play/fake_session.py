"""A session without an agent, for tests of the server and the page: a bright column that the action moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from iris_fast.play.interface import Message, MessageError, Update

ACTIONS = ["NOOP", "LEFT", "RIGHT"]
CODES = 16


class FakeSession:
    """Every step moves a column; `closed` counts the sessions that were freed."""

    closed = 0

    def __init__(self, downloads: Path):
        self.downloads = downloads
        self.settings: Message = {
            "mode": "real",
            "controls": "agent",
            "paused": False,
            "fps": 15,
            "temperature": 1.0,
            "seed": 0,
            "panels": False,
            "thoughts": False,
            "save": "off",
        }
        self.step = self.column = self.action = 0
        self.recorded: list[np.ndarray] | None = None
        self.once = False
        self.tokens = list(range(16))
        self.opened: dict[int, str] = {}

    @property
    def interval(self) -> float:
        return 1 / int(str(self.settings["fps"]))

    def state(self) -> Message:
        recording = self.recorded is not None
        opened = {str(side): {"id": name, "name": f"film {name}"} for side, name in self.opened.items()}
        films: Message = {"films": opened} if opened else {}
        return {
            **self.settings,
            "game": "Fake",
            "actions": ACTIONS,
            "codes": CODES,
            "recording": recording,
            **films,
        }

    def handle(self, message: Message) -> list[Message]:
        kind = str(message["type"])
        handler: Callable[[Message], list[Message]] = getattr(self, f"_{kind}", lambda _: [])
        return [*handler(message), {"type": "state", **self.state()}]

    def _set(self, message: Message) -> list[Message]:
        self.settings.update({name: value for name, value in message.items() if name != "type"})
        self.once = True
        return []

    def _handover(self, _: Message) -> list[Message]:
        self.settings["controls"] = "person" if self.settings["controls"] == "agent" else "agent"
        return []

    def _action(self, message: Message) -> list[Message]:
        if int(str(message["action"])) >= len(ACTIONS):
            raise MessageError(f"There are {len(ACTIONS)} actions.")
        self.action = int(str(message["action"]))
        return []

    def _step(self, _: Message) -> list[Message]:
        self.once = True
        return []

    def _reset(self, _: Message) -> list[Message]:
        self.step, self.once = 0, True
        return []

    def _fork(self, _: Message) -> list[Message]:
        self.settings["mode"] = "fork"
        return []

    def _token(self, message: Message) -> list[Message]:
        self.tokens[int(str(message["index"]))] = int(str(message["code"]))
        self.once = True
        return []

    def _list(self, _: Message) -> list[Message]:
        row = {"name": "epoch 3", "steps": 40, "return": 7.0, "kind": "real"}
        return [{"type": "episodes", "episodes": [{**row, "id": "a"}, {**row, "id": "b", "name": "epoch 6"}]}]

    def _open(self, message: Message) -> list[Message]:
        self.opened[int(str(message["side"]))] = str(message["id"])
        self.step, self.once = 0, True
        return []

    def _seek(self, message: Message) -> list[Message]:
        self.step, self.once = int(str(message["index"])) - 1, True
        return []

    def _record(self, _: Message) -> list[Message]:
        if self.recorded is None:
            self.recorded = []
            return []
        frames, self.recorded = self.recorded, None
        np.savez(self.downloads / "r.npz", frames=np.stack(frames))
        file = {"name": "r.npz", "url": "/files/r.npz"}
        return [{"type": "recorded", "id": "r", "files": [file]}]

    def _frame(self) -> np.ndarray:
        frame = np.full((64, 64, 3), 24, np.uint8)
        frame[:, self.column % 64] = (94, 234, 212)
        frame[56:60, (self.step * 3) % 64] = 255
        return frame

    def advance(self) -> Update | None:
        if self.settings["paused"] and not self.once:
            return None
        self.once = False
        self.step += 1
        person = self.settings["controls"] == "person"
        action = self.action if person else 2
        self.column = (self.column + (0, -1, 1)[action]) % 64
        frame = self._frame()
        if self.recorded is not None:
            self.recorded.append(frame)
        mode = str(self.settings["mode"])
        info: Message = {"mode": mode, "step": self.step, "action": action, "action_name": ACTIONS[action]}
        info |= {
            "reward": float(self.step % 9 == 0),
            "return": float(self.step // 9),
            "end": False,
            "fps": 15.0,
        }
        if self.settings["thoughts"]:
            chance = [0.1, 0.2, 0.7]
            info["thoughts"] = {
                "probabilities": chance,
                "value": np.sin(self.step / 9).item(),
                "entropy": 0.8,
            }
            info["thoughts"] |= {"reward": [0.0, 0.9, 0.1], "end": [0.98, 0.02], "tokens": self.tokens}  # type: ignore[operator]
            info["thoughts"] |= {"token_probabilities": [0.5] * 16, "token_entropies": [0.4] * 16}  # type: ignore[operator]
        if mode == "episodes":
            info["length"] = 40
        if mode == "dream":
            info["context"] = self.step % 40 == 0
        if mode == "fork":
            info["fork"] = {"steps": self.step, "first_reward": 12, "first_end": None, "first_frame": 3}
            info["fork"] |= {"difference": 0.04}  # type: ignore[operator]
        names = {"real": ["observation"], "dream": ["dream"], "fork": ["observation", "dream"]}
        shown = names.get(mode, ["left", "right"][: max(1, len(self.opened))])
        images = dict.fromkeys(shown, frame)
        if mode == "real" and self.settings["panels"]:
            images |= {"screen": frame.repeat(3, 0).repeat(2, 1)[:210], "reconstruction": frame // 2}
        return Update(info, images)

    def close(self) -> None:
        if self.recorded:
            self._record({})
        type(self).closed += 1
