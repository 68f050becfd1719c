"""One tab: its mode, its controls, its settings, and what each step shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from iris_fast.config.validation import check_number
from iris_fast.errors import RunStopped, UserError

from .episodes import Episodes
from .interface import Message, MessageError, Update
from .loading import Player
from .recording import FOLDER, LONGEST, Recording, save_in
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
        temperature: float | None = None,
        panels: bool = False,
        save: bool = False,
    ):
        self.player = player
        chosen = player.temperature if temperature is None else temperature
        self.hands = Hands(controls == "person", 0, chosen, seed)
        self.paused = False
        self.panels = panels
        self.save = "ask" if save else "off"  # of episodes at their ends; "all" keeps them without a question
        self.fps = player.steps_per_second
        self.mode = mode
        self._real: Real | None = None
        self._dream: Dream | None = None
        self._fork: Fork | None = None
        self._episodes = Episodes(player.media)
        self._recording: Recording | None = None  # between the page's start and stop
        self._episode: Recording | None = None  # of save mode: the episode under way
        self._asking = False
        self._said: list[Message] = []  # for the page, with the next frame
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
            "asking": self._asking,
            "films": self._episodes.opened(),
            "recording": self._recording is not None,
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
            if self._asking or (self.paused and not self._once):
                return self._update() if self._redraw else None
            self._once = False
            if not self.step():
                return self._update() if self._redraw else None
            self._shown.append(time.perf_counter())
            return self._update()

    def step(self) -> bool:
        """One step of the mode, recorded where it is; False at the end of a film."""
        if self.mode == "episodes":
            return self._episodes.step()
        self._world.step()
        if self._recording is not None:
            self._recording.add(self._world)
            if len(self._recording) >= LONGEST:
                self._said += [*self._stopped(), {"type": "state", **self.state()}]
        self._keep_episode()
        return True

    def record_step(self, recording: Recording) -> None:
        """One step without a page, added to a recording."""
        self.step()
        recording.add(self._world)

    def new_recording(self) -> Recording:
        """A recording that begins with the present frame."""
        made = Recording(self.player, self.mode, self.hands.seed, self.fps)
        made.add(self._world)
        return made

    def _keep_episode(self) -> None:
        """Records the episode under way, if it is to be saved; at its end asks, or saves it."""
        if self.save == "off":
            return
        if self._episode is None or self._world.moment.action is None:
            self._episode = self.new_recording()
        elif len(self._episode) < LONGEST:  # of a dream that never ends the beginning is kept
            self._episode.add(self._world)
        self._asking = self._world.moment.end and self._episode.steps > 0
        if self._asking and self.save == "all":
            self._said += self._kept()

    def _kept(self) -> list[Message]:
        """Saves the episode that has ended."""
        episode, self._episode, self._asking = self._episode, None, False
        return [] if episode is None else self._saved(episode)

    def _saved(self, recording: Recording) -> list[Message]:
        """Saves a recording, and tells the page where."""
        media = self.player.media
        try:
            paths = save_in(media / FOLDER, recording)
        except (UserError, RunStopped) as error:
            raise MessageError(f"{error}.") from None
        files = [{"name": path.name, "url": f"/files/{quote(f'{FOLDER}/{path.name}')}"} for path in paths]
        return [{"type": "recorded", "id": f"{FOLDER}/{paths[0].name}", "files": files}]

    def _stopped(self) -> list[Message]:
        """Ends the recording under way, if there is one."""
        recording, self._recording = self._recording, None
        return [] if recording is None else self._saved(recording)

    def close(self) -> None:
        """Frees everything. A recording under way is saved first; an episode that nobody said to keep is not."""
        with self.player.turn:
            try:
                self._stopped()
            finally:
                self._free()

    def _free(self) -> None:
        for world in (self._fork, self._dream, self._real):
            if world is not None:
                world.close()
        self._fork = self._dream = self._real = None
        self._episodes.close()
        self._recording = self._episode = None

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
        if mode in ("real", "fork") and self._real is None:
            self._real = Real(self.player, self.hands)
        if mode == "fork":
            assert self._real is not None
            self._fork = Fork(self._real)
        if mode == "episodes":
            self._episodes.begin()
        self.mode = mode
        self._episode, self._asking = None, False
        if mode != "episodes":
            self._keep_episode()
        self._shown.clear()
        self._redraw = True

    def _update(self) -> Update | None:
        self._redraw = False
        if self.mode == "episodes":
            if not self._episodes.length:
                return None
            info = {**self._episodes.info(), "mode": self.mode, "fps": self._rate()}
            return Update(info, self._episodes.images())
        return self._update_of_world()

    def _update_of_world(self) -> Update:
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
        said, self._said = self._said, []
        if self._asking:
            said.append({"type": "asked", "steps": world.steps, "return": world.total})
        return Update(info, world.images(self.panels), tuple(said))

    def _rate(self) -> float:
        """Frames a second, over the last steps."""
        times = self._shown
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return float((len(times) - 1) / span) if span else float(self.fps)

    def _on_set(self, message: dict[str, Any]) -> list[Message]:
        hands, temperature = self.hands, message.get("temperature", self.hands.temperature)
        try:
            check_number("temperature", f"Temperature {str(temperature)[:40]}", temperature)
        except UserError as error:
            raise MessageError(f"{error}.") from None
        hands.temperature = float(temperature)
        for name in ("paused", "fps", "panels"):
            setattr(self, name, message.get(name, getattr(self, name)))
        hands.thoughts = message.get("thoughts", hands.thoughts)
        asked, self.save = self._asking, message.get("save", self.save)
        if self.save == "off":
            self._episode, self._asking = None, False
        if "controls" in message:
            hands.person = message["controls"] == "person"
        self._redraw = True
        leaves = "seed" in message or message.get("mode", self.mode) != self.mode
        replies = self._kept() if asked and self.save == "all" else []
        if leaves:
            replies += self._stopped()
        if "seed" in message:  # everything starts again from it
            hands.seed = message["seed"]
            self._free()
        if leaves:
            self._enter(message.get("mode", self.mode))
        return replies

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
        if self.mode == "episodes":
            self._episodes.seek(0)
        else:
            self._world.restart()
            self._asking = False
            if self._recording is not None:
                self._recording.add(self._world)
            self._keep_episode()
        self._redraw = True

    def _on_handover(self, _: dict[str, Any]) -> None:
        self.hands.person = not self.hands.person
        self.hands.held = 0

    def _on_token(self, message: dict[str, Any]) -> None:
        self._playing()
        self._world.replace_token(message["index"], message["code"])
        for recording in (self._recording, self._episode):
            if recording is not None:
                recording.amend(self._world)
        self._redraw = True

    def _on_fork(self, _: dict[str, Any]) -> list[Message]:
        replies = self._stopped()
        self._enter("fork")
        return replies

    def _on_record(self, _: dict[str, Any]) -> list[Message]:
        self._playing()
        if self._recording is not None:
            return self._stopped()
        self._recording = self.new_recording()
        return []

    def _on_keep(self, message: dict[str, Any]) -> list[Message]:
        if not self._asking:
            raise MessageError("No episode waits to be kept.")
        if not message["keep"]:
            self._episode = None
        return self._kept()

    def _on_list(self, _: dict[str, Any]) -> list[Message]:
        return [{"type": "episodes", "episodes": self._episodes.listed()}]

    def _on_open(self, message: dict[str, Any]) -> list[Message]:
        self._episodes.open(message["side"], message["id"])
        replies = self._stopped()
        if self.mode != "episodes":
            self._enter("episodes")
        self._redraw = True
        return replies

    def _on_seek(self, message: dict[str, Any]) -> None:
        if self.mode != "episodes":
            raise MessageError("Only episodes and recordings can be sought in.")
        self._episodes.seek(message["index"])
        self._redraw = True

    def _playing(self) -> None:
        if self.mode == "episodes":
            raise MessageError("An episode is a film: go to another mode first.")
