"""Recordings: what was shown, step by step, kept as data (.npz) and as films (.mp4, .gif)."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from PIL import Image

from iris_fast.errors import UserError
from iris_fast.files import write_atomically
from iris_fast.training.media import NoFilmError, save_episode_video

ENDINGS = (".npz", ".mp4", ".gif")
LONGEST = 36_000
"""Frames of the longest recording (40 minutes at 15 a second); what is shown after them is not recorded."""
TOKENS = 16
SCALE = 6
SHORTEST_GIF_FRAME = 20  # milliseconds; browsers slow down what is shorter
_FORMAT, _VERSION = "iris_fast recording", 1
_ARRAYS = ("frames", "actions", "rewards", "ends", "tokens", "values")


@dataclass(frozen=True)
class About:
    """What a recording is of. `seed` and `temperature` are the session's at its start."""

    mode: str
    game: str
    action_names: tuple[str, ...]
    seed: int
    temperature: float
    fps: float


@dataclass(frozen=True)
class Recording:
    """A row for each frame that was shown, with the step that led to it.

    Attributes:
        frames: `(rows, height, width, 3)` uint8; of a fork the real ones.
        actions: `(rows,)` int64; -1 at the first frame of an episode, to which no step led.
        rewards, ends: `(rows,)` float32 and bool.
        tokens: `(rows, 16)` int64, of the frame.
        values: `(rows,)` float32, of the frame before, where the action was chosen; NaN where there is none.
        dreams: as `frames`, the dreamed ones of a fork; None in other modes.
    """

    about: About
    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray
    values: np.ndarray
    dreams: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def steps(self) -> int:
        """Rows to which a step led."""
        return int((self.actions >= 0).sum())

    @property
    def returns(self) -> np.ndarray:
        """`(rows,)`: the return so far of the episode, as far as it was recorded."""
        sums, total = np.zeros(len(self)), 0.0
        for row, (action, reward) in enumerate(zip(self.actions, self.rewards, strict=True)):
            total = 0.0 if action < 0 else total + float(reward)
            sums[row] = total
        return sums

    def save(self, path: Path) -> None:
        """Writes the format that the path's ending names; UserError (`NoFilmError`) if PyAV cannot encode an mp4."""
        if path.suffix.lower() == ".npz":
            write_atomically(path, self._npz())
        elif path.suffix.lower() == ".gif":
            write_atomically(path, self._gif())
        else:
            check_film(path)
            film = self._film().transpose(0, 3, 1, 2)
            save_episode_video(path, film, fps=self.about.fps, scale=SCALE, captions=self._captions())

    def _npz(self) -> bytes:
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.dreams is not None:
            arrays["dreams"] = self.dreams
        about = json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self.about)})
        file = io.BytesIO()
        np.savez_compressed(file, seed=np.int64(self.about.seed), about=np.array(about), **arrays)
        return file.getvalue()

    def _gif(self) -> bytes:
        images = [
            Image.fromarray(frame.repeat(SCALE - 2, 0).repeat(SCALE - 2, 1)).quantize()
            for frame in self._film()
        ]
        file = io.BytesIO()
        duration = max(SHORTEST_GIF_FRAME, 10 * round(100 / self.about.fps))  # a gif counts hundredths
        images[0].save(
            file, "gif", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False
        )
        return file.getvalue()

    def _film(self) -> np.ndarray:
        """What a film shows: the frames, with the dreamed ones of a fork at their right."""
        return self.frames if self.dreams is None else np.concatenate([self.frames, self.dreams], axis=2)

    def _captions(self) -> list[str]:
        """The action that led to each frame, its reward, and the return."""
        captions = []
        for action, reward, total, end in zip(
            self.actions, self.rewards, self.returns, self.ends, strict=True
        ):
            name = self.about.action_names[action] if action >= 0 else "START"
            reward_text = f"{reward:+g}" if reward else "0"
            captions.append(f"{name}{' END' if end else ''}\treward {reward_text}\treturn {total:g}")
        return captions


class Recorder:
    """Collects a recording. Frames wait compressed, some 20 times smaller."""

    def __init__(self, about: About):
        self.about = about
        self._shape: tuple[int, ...] = ()
        self._frames: list[bytes] = []
        self._dreams: list[bytes] = []
        self._rows: list[tuple[int, float, bool, float]] = []
        self._tokens: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        frame: np.ndarray,
        action: int | None,
        reward: float,
        end: bool,
        tokens: np.ndarray,
        value: float | None,
        dream: np.ndarray | None = None,
    ) -> None:
        """A row of the recording; `action` and `value` are None at the first frame of an episode."""
        if len(self) >= LONGEST:
            return
        self._shape = frame.shape
        self._frames.append(zlib.compress(frame.tobytes(), 1))
        if dream is not None:
            self._dreams.append(zlib.compress(dream.tobytes(), 1))
        self._rows.append(
            (-1 if action is None else action, reward, end, float("nan") if value is None else value)
        )
        self._tokens.append(np.asarray(tokens, np.int64).reshape(TOKENS))

    def recording(self) -> Recording:
        """What was collected; ValueError for nothing."""
        if not self._rows:
            raise ValueError("nothing was recorded: add a row first")
        actions, rewards, ends, values = zip(*self._rows, strict=True)
        return Recording(
            self.about,
            self._stack(self._frames),
            np.array(actions, np.int64),
            np.array(rewards, np.float32),
            np.array(ends, bool),
            np.stack(self._tokens),
            np.array(values, np.float32),
            self._stack(self._dreams) if self._dreams else None,
        )

    def _stack(self, packed: Sequence[bytes]) -> np.ndarray:
        frames = np.empty((len(packed), *self._shape), np.uint8)
        for row, data in enumerate(packed):
            frames[row] = np.frombuffer(zlib.decompress(data), np.uint8).reshape(self._shape)
        return frames


def load_recording(path: Path) -> Recording:
    """Reads a recording (.npz); UserError for a file that is none."""
    with _opened(path) as file:
        about = json.loads(str(file["about"][()]))
        if about.pop("format") != _FORMAT or about.pop("version") != _VERSION:
            raise ValueError("another format or version")
        about["action_names"] = tuple(about["action_names"])
        arrays: dict[str, Any] = {name: file[name] for name in (*_ARRAYS, *("dreams",) * ("dreams" in file))}
        recording = Recording(About(**about), **arrays)
        _check(recording)
    return recording


def read_summary(path: Path) -> tuple[int, float]:
    """Steps and sum of rewards of a recording (.npz), without its frames; UserError for a file that is none."""
    with _opened(path) as file:
        steps, total = int((file["actions"] >= 0).sum()), float(file["rewards"].sum())
    return steps, total


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (
        OSError,
        ValueError,
        LookupError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path.name} is not a recording that can be read: choose another") from error


def _check(recording: Recording) -> None:
    rows, names = len(recording), recording.about.action_names
    films = [recording.frames] if recording.dreams is None else [recording.frames, recording.dreams]
    shapes = [(film.ndim, len(film), film.shape[-1], film.dtype) for film in films]
    fits = rows > 0 and shapes == [(4, rows, 3, np.uint8)] * len(films)
    fits &= recording.rewards.shape == recording.ends.shape == recording.values.shape == (rows,)
    fits &= recording.tokens.shape == (rows, TOKENS)
    if not fits or not -1 <= recording.actions.min() <= recording.actions.max() < len(names):
        raise ValueError("arrays of other shapes")


def has_film_encoder() -> bool:
    """Whether PyAV can encode mp4 films here."""
    try:
        av.codec.Codec("libx264", "w")
    except UnknownCodecError:
        return False
    return True


def check_film(path: Path) -> None:
    """`NoFilmError` if the path is an mp4 and PyAV cannot encode it."""
    if path.suffix.lower() == ".mp4" and not has_film_encoder():
        raise NoFilmError(
            f"{path} was not made, since this PyAV has no H.264 encoder: name a .gif or an .npz instead, or run "
            "pip install --force-reinstall av"
        )


_naming = threading.Lock()
_named: set[Path] = set()


def new_name(folder: Path, mode: str) -> str:
    """A name for a recording's files that no other of this process or in the folder has: time and mode."""
    stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{mode}"
    with _naming:
        for number in range(1, 1000):
            name = stem if number == 1 else f"{stem}_{number}"
            if folder / name not in _named and not any((folder / f"{name}{end}").exists() for end in ENDINGS):
                _named.add(folder / name)
                return name
    raise UserError(f"{folder} has a thousand recordings of this second: wait")


def save_recording(recording: Recording, folder: Path) -> list[Path]:
    """Saves a recording under a new name: as data, and as an mp4, or as a gif where PyAV cannot encode one."""
    name = new_name(folder, recording.about.mode)
    paths = [folder / f"{name}.npz", folder / f"{name}{'.mp4' if has_film_encoder() else '.gif'}"]
    for path in paths:
        recording.save(path)
    return paths
