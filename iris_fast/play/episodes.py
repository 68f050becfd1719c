"""Films to look through: the episodes of a run, and recordings. Nothing outside the media folder is opened."""

from __future__ import annotations

import re
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
from iris_fast.training.media import return_of

from .interface import Message, MessageError
from .recording import FOLDER, film_of

KINDS = {
    "test": ("real", "Test episode"),
    "train": ("real", "Training episode"),
    "imagination": ("dream", "Dream"),
}
"""By the folder of a run's films: what they show, and what they are called."""
RECORDED = {"real": "game", "dream": "dream", "fork": "fork"}
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
        self._names: dict[int, str] = {}  # their files

    def listed(self) -> list[Message]:
        """Every recording, then every episode of the run, the newest first."""
        rows = [_row(self.media.resolve(), path, changed) for path, changed in self._files()]
        recordings = [row for row in rows if row["kind"] == "recording"]
        return recordings + sorted((row for row in rows if row["kind"] != "recording"), key=_order)

    def _files(self) -> list[tuple[Path, int]]:
        """The files of films, and when each was changed; the newest first, a run's tests before its dreams."""
        root = self.media.resolve()
        found = [path for folder in KINDS for path in sorted((root / "episodes" / folder).glob("*.mp4"))]
        found += sorted(set((root / "episodes").rglob("*.mp4")).difference(found))
        recorded = list((root / FOLDER).rglob("*.npz"))
        with_npz = {path.with_suffix("") for path in recorded}
        recorded += [path for path in (root / FOLDER).rglob("*.mp4") if path.with_suffix("") not in with_npz]
        timed = []
        for path in (*recorded, *found):
            with suppress(OSError):  # it has just gone
                if path.resolve().is_relative_to(root):
                    timed.append((path, path.stat().st_mtime_ns))
        return sorted(timed, key=lambda file: -file[1])

    def begin(self) -> None:
        """Shows the newest film that can be read, if none is open."""
        if self._films:
            return
        for path, _ in self._files():
            with suppress(MessageError):
                self.open(0, str(path.relative_to(self.media.resolve())))
                return

    def opened(self) -> Message:
        """Of each side that shows a film: its file and its name."""
        return {
            str(side): {"id": name, "name": _name(Path(name))} for side, name in sorted(self._names.items())
        }

    def open(self, side: int, name: str) -> None:
        """Shows a film, at its beginning; MessageError if there is none of this name, or it cannot be read."""
        path = file_inside(self.media, name, (".npz", ".mp4"))
        if path is None:
            raise MessageError(f"There is no episode {name[:80]!r}.")
        film = _film(path)
        if side in self._films:
            self._films.pop(side).close()
        self._films[side], self._names[side] = film, name
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
                del self._names[side]
                raise MessageError(f"The film at frame {self.index} is damaged: choose another.") from None
        return found

    def close(self) -> None:
        for film in self._films.values():
            film.close()
        self._films.clear()
        self._names.clear()


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


def _name(path: Path) -> str:
    """What people call a film: Test episode, epoch 10; Recording: dream."""
    numbers = re.fullmatch(r"epoch_(\d+)_(\d+)", path.stem)
    if path.parent.name in KINDS and numbers:
        other = f", number {int(numbers[2]) + 1}" if int(numbers[2]) else ""
        return f"{KINDS[path.parent.name][1]}, epoch {int(numbers[1])}{other}"
    recorded = re.fullmatch(r"(real|dream|fork)_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?", path.stem)
    return f"Recording: {RECORDED[recorded[1]]}" if recorded else path.stem


def _order(row: Message) -> tuple[int, int]:
    """Of a run's films: the newest epoch first, and in it tests before training before dreams."""
    path = Path(str(row["id"]))
    numbers = re.match(r"epoch_(\d+)", path.stem)
    return (-int(numbers[1]) if numbers else 1, [*KINDS, path.parent.name].index(path.parent.name))


@lru_cache(maxsize=4096)
def _row(root: Path, path: Path, changed: int) -> Message:
    """A line of the list. `changed`: the file's time, so that a new file is read again."""
    kind = KINDS[path.parent.name][0] if path.parent.name in KINDS else "recording"
    name = str(path.relative_to(root))
    row: Message = {"id": name, "kind": kind, "name": _name(path), "changed": changed // 10**9}
    row |= {"steps": None, "return": None}
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
                row["return"] = return_of(container.metadata.get("comment", ""))
    return row
