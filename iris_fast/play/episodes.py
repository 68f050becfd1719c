"""Browsing: the films that a run saved, and recordings, a frame at a time, two beside each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from iris_fast.errors import UserError
from iris_fast.files import file_inside

from .recording import ENDINGS, Recording, load_recording, read_summary

FOLDERS = ("episodes", "recordings")
KINDS = {"imagination": "dream", "train": "real", "test": "real"}
KEPT = 32  # decoded frames of a film, for steps back
FILM_ERRORS = (av.error.FFmpegError, OSError, IndexError)


@dataclass(frozen=True)
class Shown:
    """A frame `(height, width, 3)` uint8 and the step that led to it.

    Numbers are None where the film does not have them: a run's films show them in the picture.
    """

    frame: np.ndarray
    action_name: str | None = None
    action: int | None = None
    reward: float | None = None
    total: float | None = None
    end: bool = False


class Episode(Protocol):
    """An opened film or recording."""

    def __len__(self) -> int: ...

    def shown(self, index: int) -> Shown: ...

    def close(self) -> None: ...


class Recorded:
    """An episode from a recording's data."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self._returns = recording.returns

    def __len__(self) -> int:
        return len(self._recording)

    def shown(self, index: int) -> Shown:
        of = self._recording
        frame = of.frames[index]
        if of.dreams is not None:
            frame = np.concatenate([frame, of.dreams[index]], axis=1)
        action = int(of.actions[index])
        return Shown(
            frame,
            of.about.action_names[action] if action >= 0 else None,
            action if action >= 0 else None,
            float(of.rewards[index]),
            float(self._returns[index]),
            bool(of.ends[index]),
        )

    def close(self) -> None:
        pass


class Film:
    """An episode from a film, decoded as it is watched; only a few frames are kept."""

    def __init__(self, path: Path):
        self._name = path.name
        try:
            self._container = av.open(str(path))
        except FILM_ERRORS as error:
            raise self._broken() from error
        try:
            self._stream = self._container.streams.video[0]
            self._length = self._count()
            self._rate = self._stream.average_rate or Fraction(15)
        except FILM_ERRORS as error:
            self.close()
            raise self._broken() from error
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._coming: Iterator[tuple[int, np.ndarray]] | None = None
        self._next = 0  # the frame that `_coming` gives next

    def __len__(self) -> int:
        return self._length

    def shown(self, index: int) -> Shown:
        if index not in self._kept:
            self._decode(index)
        return Shown(self._kept[index])

    def close(self) -> None:
        self._container.close()

    def _count(self) -> int:
        count = self._stream.frames or sum(1 for _ in self._container.decode(self._stream))
        if count < 1:
            raise self._broken()
        return count

    def _decode(self, index: int) -> None:
        """Decodes up to a frame, from the key frame before it if that is ahead of what comes next."""
        try:
            if self._coming is None or index < self._next or index > self._next + KEPT:
                assert self._stream.time_base is not None
                self._container.seek(
                    int(index / self._rate / self._stream.time_base) + (self._stream.start_time or 0),
                    stream=self._stream,
                )
                self._coming = self._frames()
            frame = next(reversed(self._kept.values()), None)  # stands for one that the film lacks
            for number, frame in self._coming:
                self._next = number + 1
                self._keep(number, frame)
                if number >= index:
                    break
        except FILM_ERRORS as error:
            raise self._broken() from error
        if frame is None:
            raise self._broken()
        self._keep(index, frame)

    def _frames(self) -> Iterator[tuple[int, np.ndarray]]:
        for frame in self._container.decode(self._stream):
            since = (frame.pts or 0) - (self._stream.start_time or 0)
            number = round(since * (self._stream.time_base or 0) * self._rate)
            yield number, frame.to_ndarray(format="rgb24")

    def _keep(self, index: int, frame: np.ndarray) -> None:
        self._kept[index] = frame
        self._kept.move_to_end(index)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _broken(self) -> UserError:
        return UserError(f"{self._name} is not a film that can be read: choose another")


class Shelf:
    """The episodes below a run's media folder: `episodes/` (of training) and `recordings/`.

    An episode's id is its path in that folder. Nothing outside, and nothing behind a link that leads out, is read.
    """

    def __init__(self, media: Path):
        self.media = media
        self._known: dict[tuple[Path, int, int], dict[str, Any]] = {}  # by path, time and size

    def list(self) -> list[dict[str, object]]:
        """A description of each, the newest first: id, name, kind, and steps and return where the file says them."""
        paths = [path for folder in FOLDERS for path in (self.media / folder).rglob("*")]
        found = [path for path in paths if not path.name.startswith(".") and self._path(self._id(path))]
        data = {path.with_suffix("") for path in found if path.suffix == ".npz"}
        once = [path for path in found if path.suffix == ".npz" or path.with_suffix("") not in data]
        return [row for _, row in sorted(map(self._described, once), key=lambda item: item[0], reverse=True)]

    def open(self, id: str) -> Episode:
        """Opens an episode; UserError for an id that is none, or a broken file."""
        path = self._path(id)
        if path is None:
            raise UserError(f"there is no episode {id[:80]!r}: choose one of the list")
        return Recorded(load_recording(path)) if path.suffix == ".npz" else Film(path)

    def _path(self, id: str) -> Path | None:
        folder, _, name = id.partition("/")
        return file_inside(self.media / folder, name, ENDINGS) if folder in FOLDERS else None

    def _id(self, path: Path) -> str:
        return path.relative_to(self.media).as_posix()

    def _described(self, path: Path) -> tuple[int, dict[str, object]]:
        """The time of the file's last change, and what the list says of it."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._known:
            self._known[key] = self._read(path)
        row = {"id": self._id(path), "name": path.stem, "kind": self._kind(path), **self._known[key]}
        return status.st_mtime_ns, row

    def _kind(self, path: Path) -> str:
        folder, *inside = path.relative_to(self.media).parts
        return "recording" if folder == "recordings" else KINDS.get(inside[0], "real")

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            if path.suffix == ".npz":
                steps, total = read_summary(path)
                return {"steps": steps, "return": total}
            film = Film(path)
            film.close()
            return {"steps": len(film) - 1, "return": None}  # it begins with a frame to which no step led
        except UserError:
            return {"steps": None, "return": None}


class Screening:
    """One or two opened episodes at the same place in both; a shorter one stays at its last frame."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf
        self.index = 0
        self._sides: dict[int, Episode] = {}

    def open(self, side: int, id: str) -> None:
        """Shows an episode on a side (0 or 1), both from the beginning."""
        opened = self.shelf.open(id)
        if side in self._sides:
            self._sides.pop(side).close()
        self._sides[side] = opened
        self.index = 0

    @property
    def length(self) -> int:
        """Frames of the longer one; 0 while none is open."""
        return max(map(len, self._sides.values()), default=0)

    @property
    def at_end(self) -> bool:
        return self.index >= self.length - 1

    def seek(self, index: int) -> None:
        """Goes to a frame, or to the last one."""
        self.index = max(0, min(index, self.length - 1))

    def shown(self) -> dict[str, Shown]:
        """What is shown at the present place: `left` for side 0, `right` for side 1."""
        return {
            ("left", "right")[side]: episode.shown(min(self.index, len(episode) - 1))
            for side, episode in sorted(self._sides.items())
        }

    def close(self) -> None:
        for episode in self._sides.values():
            episode.close()
        self._sides.clear()
