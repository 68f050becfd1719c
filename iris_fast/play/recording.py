"""Recordings: every frame with its step as .npz, and films of them as .mp4 or .gif.

The draws of a dream are addressed, so one that an agent played is the same again from the recording's seed and
temperature: `python -m iris_fast.play RUN --mode dream --seed SEED --temperature T`.
"""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.codec.codec import UnknownCodecError
from PIL import Image

from iris_fast.errors import UserError
from iris_fast.files import (
    PARTIAL,
    check_ending,
    check_writable,
    explained_writing,
    open_atomically,
    write_atomically,
)
from iris_fast.models.frames import unit_frames
from iris_fast.training.media import return_comment, save_episode_video

from .loading import Player
from .worlds import Fork, World

ENDINGS = (".mp4", ".gif", ".npz")
FOLDER = "recordings"
LONGEST = 50_000
"""Frames of the longest recording that a page makes: 600 MB while it is saved, and before that some 50 MB."""
LONGEST_GIF = 5_000
SHORTEST_GIF_FRAME = 2  # hundredths of a second; browsers slow down what is shorter
BATCH = 256  # frames encoded at once
SCALE = {".mp4": 6, ".gif": 4}
"""Side in pixels of the square drawn for one pixel."""


LINE = (94, 234, 212)
"""The colour between a game and its dream."""


class Row(NamedTuple):
    """The step that led to a frame; at the first frame of an episode `action` is -1 and `value` NaN."""

    action: int
    reward: float
    end: bool
    person: bool
    value: float
    step: int
    temperature: float


@dataclass
class Recording:
    """The frames of one world from some moment on, each with the step that led to it. Frames are kept compressed."""

    player: Player
    mode: str
    seed: int
    fps: int
    rows: list[Row] = field(default_factory=list)
    _frames: list[bytes] = field(default_factory=list)
    _dreams: list[bytes] = field(default_factory=list)
    _tokens: dict[int, np.ndarray] = field(default_factory=dict)  # by row, where the world said them

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        """Frames to which a step led."""
        return sum(row.action >= 0 for row in self.rows)

    def amend(self, world: World | Fork) -> None:
        """The present frame once more: one of its tokens was exchanged."""
        for kept in (self.rows, self._frames, self._dreams if self._dreams else []):
            del kept[-1:]
        self.add(world)

    def add(self, world: World | Fork) -> None:
        """The present frame, and the step that led to it."""
        moment, temperature = world.moment, world.hands.temperature
        if moment.tokens is not None:
            self._tokens[len(self)] = moment.tokens
        self._frames.append(zlib.compress(moment.frame.tobytes(), 1))
        if moment.dreamt is not None:
            self._dreams.append(zlib.compress(moment.dreamt.tobytes(), 1))
        action = -1 if moment.action is None else moment.action
        value = float("nan") if moment.output is None else float(moment.output.values[0, -1])
        self.rows.append(
            Row(action, moment.reward, moment.end, moment.person, value, world.steps, temperature)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The content of the .npz file, a row a frame.

        `frames` `(n, 3, 64, 64)` uint8, in a fork also `dreams`; `actions`, -1 at the first frame of an episode;
        `rewards`; `ends`; `tokens` `(n, 16)`, in a fork the dream's; `values`, of the frame before, NaN where
        there is none; `persons`: whether a person acted; `steps`: the number of each in its episode;
        `temperatures`: the policy's at each; and seed, temperature (the first one), mode, game, fps and
        action_names.
        """
        actions, rewards, ends, persons, values, steps, temperatures = zip(*self.rows, strict=True)
        frames = self._frame_arrays()
        return {
            **frames,
            "actions": np.array(actions, np.int64),
            "rewards": np.array(rewards, np.float32),
            "ends": np.array(ends),
            "tokens": self._all_tokens(frames["frames"]),
            "values": np.array(values, np.float32),
            "persons": np.array(persons),
            "steps": np.array(steps, np.int64),
            "seed": np.array(self.seed),
            "temperatures": np.array(temperatures),
            "temperature": np.array(temperatures[0]),
            "mode": np.array(self.mode),
            "game": np.array(self.player.game),
            "fps": np.array(self.fps),
            "action_names": np.array(self.player.action_names),
        }

    def _all_tokens(self, frames: np.ndarray) -> np.ndarray:
        """The tokens of all frames; those that the world did not say are found here, many at once."""
        missing = [row for row in range(len(self)) if row not in self._tokens]
        found = dict(self._tokens)
        for first in range(0, len(missing), BATCH):
            rows = missing[first : first + BATCH]
            batch = unit_frames(torch.from_numpy(frames[rows]).to(self.player.agent.device))
            found |= zip(rows, self.player.agent.coder.tokens_of(batch).cpu().numpy(), strict=True)
        return np.stack([found[row] for row in range(len(self))])

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
        for row in self.rows:
            total = total + row.reward if row.step else 0.0
            action = "START" if row.action < 0 else self.player.action_names[row.action]
            numbers = f"reward {row.reward:g}", f"return {total:g}"
            columns = (
                [f"game: {action}", ", ".join(numbers), "dream", ""] if self._dreams else [action, *numbers]
            )
            captions.append("\t".join(columns))
        film = film_of(self._frame_arrays())
        comment = return_comment(sum(row.reward for row in self.rows))
        save_episode_video(path, film, fps=self.fps, scale=SCALE[".mp4"], captions=captions, comment=comment)

    def _save_gif(self, path: Path) -> None:
        _check_gif(path, self.steps)
        scale = SCALE[".gif"]
        film = film_of(self._frame_arrays()).transpose(0, 2, 3, 1)
        first, *rest = (Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1)).quantize() for frame in film)
        hundredths = max(SHORTEST_GIF_FRAME, round(100 / self.fps))  # a gif counts these
        file = io.BytesIO()
        first.save(file, "gif", save_all=True, append_images=rest, duration=10 * hundredths, loop=0)
        write_atomically(path, file.getvalue())

    def _frame_arrays(self) -> dict[str, np.ndarray]:
        """`frames` `(n, 3, height, width)`; of a fork also `dreams`."""
        size = self.player.config.env.test.size
        found = {"frames": self._frames, "dreams": self._dreams}
        return {
            name: np.stack(
                [np.frombuffer(zlib.decompress(one), np.uint8).reshape(3, size, size) for one in packed]
            )
            for name, packed in found.items()
            if packed
        }


def _check_gif(path: Path, steps: int) -> None:
    if steps > LONGEST_GIF:
        raise UserError(f"{path} is for at most {LONGEST_GIF} steps, not {steps}: name an .mp4 or .npz file")


def film_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The frames of a recording's arrays, a dream's beside the game's, with a line between them."""
    if "dreams" not in arrays:
        return arrays["frames"]
    line = np.broadcast_to(np.array(LINE, np.uint8)[:, None, None], (*arrays["frames"].shape[:3], 2))
    return np.concatenate([arrays["frames"], line, arrays["dreams"]], axis=3)


def has_encoder() -> bool:
    """Whether this PyAV can make mp4 files."""
    try:
        av.codec.Codec("libx264", "w")
    except UnknownCodecError:
        return False
    return True


def check_recordable(path: Path, steps: int) -> None:
    """UserError for a file that `Recording.save` could not write, before there is anything to write."""
    check_ending(path, ENDINGS, without=False)
    check_writable(path)
    if path.suffix.lower() == ".gif":
        _check_gif(path, steps)
    if path.suffix.lower() == ".mp4" and not has_encoder():
        raise UserError(
            f"{path} cannot be made, since this PyAV has no H.264 encoder: name a .gif or .npz file"
        )


def save_in(folder: Path, recording: Recording) -> list[Path]:
    """Saves a recording under a new name in a folder, as .npz and as .mp4 (without an encoder as .gif)."""
    name = f"{recording.mode}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    with _new_name(folder, name) as path:
        paths = [path]
        if has_encoder():
            paths.append(path.with_suffix(".mp4"))
        elif recording.steps <= LONGEST_GIF:
            paths.append(path.with_suffix(".gif"))
        for each in paths:
            recording.save(each)
    return paths


@contextmanager
def _new_name(folder: Path, name: str) -> Iterator[Path]:
    """NAME.npz, or NAME_2.npz and so on where there is one, which is nobody else's within the block.

    A hidden file holds the name meanwhile, so that a process that is killed leaves nothing that looks like a film.
    """
    with explained_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = folder / (f"{name}.npz" if number == 1 else f"{name}_{number}.npz")
            held = path.with_name(f".{path.name}{PARTIAL}")
            with suppress(FileExistsError):
                held.open("xb").close()
                if not path.exists():
                    break
                held.unlink()
    try:
        yield path
    finally:
        held.unlink()
