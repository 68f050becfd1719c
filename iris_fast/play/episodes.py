"""Films to look through: the episodes of a run, and recordings. Nothing outside the media folder is opened."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from iris_fast.files import file_inside

from .interface import Message, MessageError
from .recording import FOLDER, film_of

KINDS = {"imagination": "dream", "train": "real", "test": "real"}
KEYFRAMES_APART = 250
LARGEST_BYTES = 2**31
"""Of a recording's frames in memory."""


class Film(Protocol):
    """Frames of one file, and what is known of their steps."""

    length: int

    def frame(self, index: int) -> np.ndarray:
        """Frame `(height, width, 3)` uint8."""
        ...

    def info(self, index: int) -> Message:
        """What the page shows beside the frame."""
        ...

    def close(self) -> None: ...


class RecordedFilm:
    """A recording's .npz."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as arrays:
            size = sum(np.prod(shape_of(arrays, name)) for name in ("frames", "dreams") if name in arrays)
            if size > LARGEST_BYTES:
                raise ValueError("too large")
            self._frames = film_of({name: arrays[name] for name in ("frames", "dreams") if name in arrays})
            names = ("actions", "rewards", "ends", "steps")
            kinds = (np.int64, np.float64, np.bool_, np.int64)
            self._actions, self._rewards, self._ends, self._steps = (
                arrays[name].astype(kind, casting="same_kind")
                for name, kind in zip(names, kinds, strict=True)
            )
            self._names = [str(name) for name in arrays["action_names"]]
        self.length = len(self._frames)
        if (
            self._frames.ndim != 4
            or self._frames.shape[1] != 3
            or self._frames.dtype != np.uint8
            or not self.length
        ):
            raise ValueError("no frames")
        if any(
            each.shape != (self.length,) for each in (self._actions, self._rewards, self._ends, self._steps)
        ):
            raise ValueError("rows are missing")

    def frame(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._frames[index].transpose(1, 2, 0))

    def info(self, index: int) -> Message:
        action = int(self._actions[index])
        begin = index - min(int(self._steps[index]), index)
        return {
            "action": action if action >= 0 else None,
            "action_name": self._names[action] if 0 <= action < len(self._names) else None,
            "reward": float(self._rewards[index]),
            "return": float(self._rewards[begin : index + 1].sum()),
            "end": bool(self._ends[index]),
        }

    def close(self) -> None:
        pass


class FilmFile:
    """An .mp4, decoded as it is watched."""

    _index: int  # of the frame decoded last
    _frame: np.ndarray

    def __init__(self, path: Path):
        self._container = av.open(str(path))
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "NONE"  # a tab more is no thread more
        self._rate = float(self._stream.average_rate or 1)
        self.length = self._stream.frames or sum(1 for _ in self._container.decode(self._stream))
        self._rewind(0)
        if not self.length:
            raise ValueError("no frames")

    def frame(self, index: int) -> np.ndarray:
        if index != self._index and not self._index < index <= self._index + KEYFRAMES_APART:
            self._rewind(index)
        last = None
        while self._index < index and (decoded := next(self._decoded, None)) is not None:
            last, self._index = decoded, self._at(decoded)
        if last is not None:
            self._frame = last.to_ndarray(format="rgb24")
        elif self._index < 0:
            raise ValueError("no frame from here on")
        return self._frame

    def _at(self, decoded: av.VideoFrame) -> int:
        assert decoded.pts is not None and decoded.time_base is not None
        return round(float(decoded.pts * decoded.time_base) * self._rate)

    def _rewind(self, index: int) -> None:
        """To the last whole frame at or before `index`."""
        assert self._stream.time_base is not None
        self._container.seek(round(index / self._rate / float(self._stream.time_base)), stream=self._stream)
        self._decoded: Iterator[av.VideoFrame] = self._container.decode(self._stream)
        self._index = -1
        self._frame = np.zeros((self._stream.height, self._stream.width, 3), np.uint8)

    def info(self, index: int) -> Message:
        """The picture itself says these: its strip has the action, the reward and the return."""
        last = index == self.length - 1
        return {"action": None, "action_name": None, "reward": None, "return": None, "end": last}

    def close(self) -> None:
        self._container.close()


def shape_of(arrays: np.lib.npyio.NpzFile, name: str) -> tuple[int, ...]:
    """The shape of an array in an .npz, without reading the array."""
    with arrays.zip.open(f"{name}.npy") as file:  # type: ignore[union-attr]
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        return read(file)[0]


class Episodes:
    """The page's mode *episodes*: a film on each of two sides, at the same frame."""

    def __init__(self, media: Path):
        self.media = media
        self.index = 0
        self._films: dict[int, Film] = {}

    def listed(self) -> list[Message]:
        """Every episode and recording, the newest last, recordings at the end."""
        root = self.media.resolve()
        found = sorted((root / "episodes").rglob("*.mp4"))
        recorded = sorted((root / FOLDER).rglob("*.npz"))
        with_npz = {path.with_suffix("") for path in recorded}
        recorded += [p for p in sorted((root / FOLDER).rglob("*.mp4")) if p.with_suffix("") not in with_npz]
        rows = []
        for path in (*found, *recorded):
            with suppress(OSError):  # it has just gone
                if path.resolve().is_relative_to(root):
                    rows.append(_row(root, path, path.stat().st_mtime_ns))
        return rows

    def open(self, side: int, name: str) -> None:
        """Shows a film, at its beginning; MessageError if there is none of this name, or it cannot be read."""
        path = file_inside(self.media, name, (".npz", ".mp4"))
        if path is None:
            raise MessageError(f"There is no episode {name[:80]!r}.")
        film = _film(path)
        if side in self._films:
            self._films.pop(side).close()
        self._films[side] = film
        self.index = 0

    @property
    def length(self) -> int:
        """Frames of the longer film."""
        return max((film.length for film in self._films.values()), default=0)

    def seek(self, index: int) -> None:
        """Shows a frame, the last one beyond it."""
        self.index = max(0, min(index, self.length - 1))

    def step(self) -> bool:
        """Goes on by one frame; False at the end."""
        before = self.index
        self.seek(self.index + 1)
        return self.index != before

    def info(self) -> Message:
        """What is known of the step at the first side's frame."""
        side = min(self._films)
        film = self._films[side]
        told = film.info(min(self.index, film.length - 1))
        return {**told, "step": self.index, "length": self.length - 1}

    def images(self) -> dict[str, np.ndarray]:
        """The frames of both sides; MessageError for a film that is damaged here, which is then closed."""
        found = {}
        for side, film in sorted(self._films.items()):
            try:
                found[("left", "right")[side]] = film.frame(min(self.index, film.length - 1))
            except BROKEN:
                self._films.pop(side).close()
                raise MessageError(f"The film at frame {self.index} is damaged: choose another.") from None
        return found

    def close(self) -> None:
        for film in self._films.values():
            film.close()
        self._films.clear()


BROKEN = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    av.error.FFmpegError,
)
"""Errors from files that are damaged, or of something else."""


def _film(path: Path) -> Film:
    try:
        return RecordedFilm(path) if path.suffix == ".npz" else FilmFile(path)
    except BROKEN:
        raise MessageError(
            f"{path.name} cannot be read as a film: it is damaged, or of something else."
        ) from None


@lru_cache(maxsize=4096)
def _row(root: Path, path: Path, changed: int) -> Message:
    """A line of the list. `changed`: the file's time, so that a new file is read again."""
    folder = path.parent.name
    kind = KINDS.get(folder, "recording")
    row: Message = {"id": str(path.relative_to(root)), "kind": kind, "steps": None, "return": None}
    row["name"] = path.stem if kind == "recording" else f"{folder} {path.stem}"
    with suppress(*BROKEN):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                row |= {
                    "steps": int((arrays["actions"] >= 0).sum()),
                    "return": float(arrays["rewards"].sum()),
                }
        else:
            with av.open(str(path)) as container:
                row["steps"] = max(0, container.streams.video[0].frames - 1)
    return row
