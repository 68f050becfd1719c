"""Recordings: every frame with its step as .npz, and films of them as .mp4 or .gif.

The draws of a dream are addressed, so one that an agent played is the same again from the recording's seed and
temperature: `python -m iris_fast.play RUN --mode dream --seed SEED --temperature T`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from PIL import Image

from iris_fast.errors import UserError
from iris_fast.files import check_ending, check_writable, explained_writing, open_atomically, write_atomically
from iris_fast.training.media import save_episode_video

from .loading import Player
from .worlds import Fork, Moment, World, tokens_of

ENDINGS = (".mp4", ".gif", ".npz")
FOLDER = "recordings"
LONGEST = 50_000
"""Frames of the longest recording, some 600 MB of memory."""
SCALE = {".mp4": 6, ".gif": 4}
"""Side in pixels of the square drawn for one pixel."""


@dataclass
class Recording:
    """The frames of one world from some moment on, each with the step that led to it."""

    player: Player
    mode: str
    seed: int
    temperature: float
    fps: int
    moments: list[Moment] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def add(self, world: World | Fork) -> None:
        self.moments.append(world.moment)
        self.steps.append(world.steps)

    @property
    def total(self) -> float:
        """The sum of the rewards."""
        return float(sum(moment.reward for moment in self.moments))

    def arrays(self) -> dict[str, np.ndarray]:
        """The content of the .npz file, a row a frame.

        `frames` `(n, 3, 64, 64)` uint8, in a fork also `dreams`; `actions`, -1 at the first frame of an episode;
        `rewards`; `ends`; `tokens` `(n, 16)`; `values`, of the frame
        before, NaN where there is none; `persons`: whether a
        person acted; `steps`: the number of each in its episode; and seed, temperature, mode, game, fps and
        action_names.
        """
        moments = self.moments
        tokens = [
            moment.tokens
            if moment.tokens is not None
            else tokens_of(self.player, moment.frame)[0].cpu().numpy()
            for moment in moments
        ]
        values = [np.nan if m.output is None else float(m.output.values[0, -1]) for m in moments]
        found = {
            "frames": np.stack([moment.frame for moment in moments]),
            "actions": np.array([-1 if m.action is None else m.action for m in moments], np.int64),
            "rewards": np.array([moment.reward for moment in moments], np.float32),
            "ends": np.array([moment.end for moment in moments]),
            "tokens": np.stack(tokens),
            "values": np.array(values, np.float32),
            "persons": np.array([moment.person for moment in moments]),
            "steps": np.array(self.steps, np.int64),
            "seed": np.array(self.seed),
            "temperature": np.array(self.temperature),
            "mode": np.array(self.mode),
            "game": np.array(self.player.game),
            "fps": np.array(self.fps),
            "action_names": np.array(self.player.action_names),
        }
        dreams = [moment.dreamt for moment in moments if moment.dreamt is not None]
        if len(dreams) == len(moments):
            found["dreams"] = np.stack(dreams)
        return found

    def save(self, path: Path) -> None:
        """Writes the format that the path's ending names; UserError in a sentence if it cannot be written."""
        writers: dict[str, Callable[[Path], None]] = {
            ".npz": self._save_npz,
            ".mp4": self._save_mp4,
            ".gif": self._save_gif,
        }
        with explained_writing(path):
            writers[path.suffix.lower()](path)

    def _save_npz(self, path: Path) -> None:
        with open_atomically(path) as file:
            np.savez_compressed(file, **self.arrays())  # type: ignore[arg-type]

    def _save_mp4(self, path: Path) -> None:
        captions, total = [], 0.0
        for moment, step in zip(self.moments, self.steps, strict=True):
            total = total + moment.reward if step else 0.0
            action = "START" if moment.action is None else self.player.action_names[moment.action]
            captions.append(f"{action}\treward {moment.reward:g}\treturn {total:g}")
        save_episode_video(path, self._film(), fps=self.fps, scale=SCALE[".mp4"], captions=captions)

    def _save_gif(self, path: Path) -> None:
        scale = SCALE[".gif"]
        frames = self._film().transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
        first, *rest = (Image.fromarray(frame) for frame in frames)
        file = io.BytesIO()
        first.save(file, "gif", save_all=True, append_images=rest, duration=round(1000 / self.fps), loop=0)
        write_atomically(path, file.getvalue())

    def _film(self) -> np.ndarray:
        """The frames `(n, 3, height, width)`; in a fork the game's and the dream's side by side."""
        return film_of({name: array for name, array in self._frames().items() if array is not None})

    def _frames(self) -> dict[str, np.ndarray | None]:
        dreams = [moment.dreamt for moment in self.moments if moment.dreamt is not None]
        beside = np.stack(dreams) if len(dreams) == len(self.moments) else None
        return {"frames": np.stack([moment.frame for moment in self.moments]), "dreams": beside}


def film_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The frames of a recording's arrays, a dream's beside the game's."""
    return np.concatenate([arrays[name] for name in ("frames", "dreams") if name in arrays], axis=3)


def has_encoder() -> bool:
    """Whether this PyAV can make mp4 files."""
    try:
        av.codec.Codec("libx264", "w")
    except UnknownCodecError:
        return False
    return True


def check_recordable(path: Path) -> None:
    """UserError for a file that `Recording.save` could not write, before there is anything to write."""
    check_ending(path, ENDINGS, without=False)
    check_writable(path)
    if path.suffix.lower() == ".mp4" and not has_encoder():
        raise UserError(
            f"{path} cannot be made, since this PyAV has no H.264 encoder: name a .gif or .npz file"
        )


def save_in(folder: Path, recording: Recording) -> list[Path]:
    """Saves a recording under a new name in a folder, as .npz and as .mp4 (or .gif without an encoder)."""
    name = f"{recording.mode}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    with explained_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = _taken(folder, name)
    paths = [path, path.with_suffix(".mp4" if has_encoder() else ".gif")]
    try:
        for each in paths:
            recording.save(each)
    except BaseException:
        if path.stat().st_size == 0:
            path.unlink()
        raise
    return paths


def _taken(folder: Path, name: str) -> Path:
    """A new empty file NAME.npz; other tabs then choose NAME_2 and so on."""
    number = 1
    while True:
        path = folder / (f"{name}.npz" if number == 1 else f"{name}_{number}.npz")
        try:
            path.open("xb").close()
            return path
        except FileExistsError:
            number += 1
