"""Checkpoints of a run: one file that commits everything, and an append-only log of played frames.

`checkpoints/last.pt` is replaced atomically, and names the dataset files that belong to it. Played frames go to
`checkpoints/dataset/000012_0.npz`, one file for the new frames of each save, and are written before the checkpoint.
So a save writes only the models, the optimizers and the new frames. A process killed at any moment leaves the
previous checkpoint complete: files that no checkpoint names are ignored and overwritten.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iris_fast.agent import Agent
from iris_fast.errors import RunStopped, UserError, quoted
from iris_fast.files import is_disk_full, open_atomically
from iris_fast.interop.files import read_payload, write_weights
from iris_fast.replay.store import EpisodeStore

from .run_folder import RunFolder

COLUMNS = ("frames", "actions", "rewards", "ends")  # of a store and of its files


@dataclass
class DatasetLog:
    """The part of the store already written: the files in order, and the number of written frames of each episode.

    A store smaller than the files drops whole episodes while it is filled, as it does during play. The files keep
    these episodes for a later resume with more room.
    """

    files: list[str] = field(default_factory=list)
    written: dict[int, int] = field(default_factory=dict)
    _closed: set[int] = field(default_factory=set, init=False, repr=False)  # recorded in the files
    _evictions: int = field(default=0, init=False, repr=False)  # likewise, of the store's

    def save(self, folder: Path, store: EpisodeStore, epoch: int) -> None:
        """Writes the frames since the last save to a new file; no file if there are none."""
        parts = self.news(store)
        if parts is None:
            return
        name = f"{epoch:06d}_{len(self.files)}.npz"
        with open_atomically(folder / name) as file:
            np.savez_compressed(file, **parts)  # type: ignore[arg-type]
        self.files.append(name)
        self.has_recorded(store)

    def news(self, store: EpisodeStore) -> dict[str, np.ndarray] | None:
        """What happened in the store since the last record, for `play_back`; None if nothing did."""
        evicted = store.evicted[self._evictions :]
        # An open episode may have been evicted and then continued: nothing of it is written yet.
        written = {key: count for key, count in self.written.items() if key not in evicted}
        fresh = {
            key: episode.held[written.get(key, 0) :]
            for key, episode in store.episodes.items()
            if episode.length > written.get(key, 0)
        }
        closed = [key for key, episode in store.episodes.items() if episode.closed]
        if not fresh and not evicted and self._closed.issuperset(closed):
            return None
        slots = np.concatenate([*fresh.values(), np.empty(0, np.int64)]).astype(np.int64)
        index = torch.from_numpy(slots).to(store.frames.device)
        stored = {name: getattr(store, name)[index].cpu().numpy() for name in COLUMNS}
        return stored | {
            "episode_ids": np.array(list(fresh), np.int64),
            "counts": np.array([len(part) for part in fresh.values()], np.int64),
            "closed": np.array(closed, np.int64),
            "evicted": np.array(evicted, np.int64),
        }

    def has_recorded(self, store: EpisodeStore) -> None:
        """Notes that everything in the store is recorded, so that `news` begins here."""
        self.written = {key: episode.length for key, episode in store.episodes.items()}
        self._closed = {key for key, episode in store.episodes.items() if episode.closed}
        self._evictions = len(store.evicted)

    def state_dict(self) -> dict[str, Any]:
        return {"files": self.files, "written": self.written}

    def load(self, folder: Path, store: EpisodeStore) -> None:
        """Reads the files back into an empty store, in the order of writing."""
        for name in self.files:
            if not re.fullmatch(r"\d+_\d+\.npz", name):  # a checkpoint may come from an untrusted source
                raise UserError(f"{folder.parent / 'last.pt'} names a dataset file '{name}': it is damaged")
            try:
                with np.load(folder / name, allow_pickle=False) as file:
                    parts = {key: file[key] for key in file.files}
            except (OSError, ValueError, zipfile.BadZipFile, EOFError):
                raise UserError(f"{folder / name} is missing or damaged: the run cannot be resumed") from None
            play_back(parts, store)
        store.evicted.clear()
        self.has_recorded(store)


def play_back(parts: dict[str, np.ndarray], store: EpisodeStore) -> None:
    """Repeats in `store` what happened in another one, from its `DatasetLog.news`."""
    for key in parts["evicted"].tolist():
        if key in store.episodes:
            store.evict(key)
    closed = set(parts["closed"].tolist())
    start = 0
    for key, count in zip(parts["episode_ids"].tolist(), parts["counts"].tolist(), strict=True):
        piece = slice(start, start + count)
        frames, actions, rewards, ends = (parts[name][piece] for name in COLUMNS)
        store.extend(key, frames, actions, rewards, ends, closed=key in closed)
        start += count
    for key in closed & set(store.episodes):
        store.close(key)


def save_checkpoint(
    run: RunFolder, agent: Agent, extra: dict[str, Any], before_replacing: Callable[[], None] | None = None
) -> None:
    """Replaces the run's checkpoint. RunStopped on a full disk; the previous checkpoint stays complete."""
    with explained_disk_errors(run):
        write_weights(
            run.checkpoint, agent.state_dict(), agent.config, agent.num_actions, extra, before_replacing
        )


def load_checkpoint(run: RunFolder) -> dict[str, Any]:
    """The content of the run's checkpoint; UserError if there is none or it cannot be read."""
    run.check_is_run()
    if not run.checkpoint.is_file():
        raise UserError(f"{run.path} has no checkpoint yet (checkpoints/last.pt): start the run anew")
    content = read_payload(run.checkpoint)
    if "position" not in content:
        init = quoted("--init", run.checkpoint)
        raise UserError(f"{run.checkpoint} holds weights alone: start a new run with {init}")
    return content


class explained_disk_errors:
    """Turns an OSError of a full disk in its block into RunStopped with one sentence."""

    def __init__(self, run: RunFolder):
        self.run = run

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not is_disk_full(error):
            return
        resume = quoted("--resume", self.run.path)
        raise RunStopped(
            f"the disk with {self.run.path} is full: {kept(self.run)}; make room and go on with {resume}",
            exit_code=4,
        ) from error


def kept(run: RunFolder) -> str:
    """What a run that ends without saving has kept, as far as this machine sees."""
    if not run.path.is_dir():
        return "its folder is on the first process's machine"
    return "the last checkpoint is whole" if run.checkpoint.is_file() else "no checkpoint was written yet"
