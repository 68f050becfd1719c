"""The folder of a run: its paths, its creation, and its recognition."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from iris_fast.config import Config, from_dict, ignored_keys, to_dict
from iris_fast.errors import UserError, quoted
from iris_fast.files import lock_folder, nearest_entry, remove_partials, write_atomically


class RunFolder:
    """Paths of a run. `outputs/GAME/DATE_TIME/` with checkpoints/, config/, media/ and logs/.

    Copies and pickles name the same folder and do not hold its lock, which stays with this object.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lock_missing: str | None = None  # why the file system refused a lock
        self._lock: int | None = None
        self._numbered = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lock": None}  # a descriptor: elsewhere the number is another file's

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def dataset(self) -> Path:
        return self.path / "checkpoints" / "dataset"

    @property
    def config(self) -> Path:
        return self.path / "config" / "trainer.yaml"

    @property
    def provenance(self) -> Path:
        return self.path / "config" / "provenance.json"

    @property
    def reconstructions(self) -> Path:
        return self.path / "media" / "reconstructions"

    def episodes(self, kind: str) -> Path:
        """Videos of `kind` train, test or imagination."""
        return self.path / "media" / "episodes" / kind

    @classmethod
    def default(cls, game: str) -> RunFolder:
        """A folder named by game, date and time; if another run takes the name first, it gets a number."""
        run = cls(Path("outputs") / game / time.strftime("%Y-%m-%d_%H-%M-%S"))
        run._numbered = True
        return run

    def check_new(self) -> None:
        """UserError if the folder is not empty and cannot be numbered."""
        if not self._numbered and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            resume = f", or {quoted('--resume', self.path)}" if self.config.is_file() else ""
            raise UserError(f"{self.path} exists already: choose another --run-dir{resume}")

    def lock(self) -> None:
        """Locks the folder for this process until it ends; UserError while another process trains in it.

        A file system may have no locks (NFS, FUSE): then nothing keeps another process out, and `lock_missing`
        says why.
        """
        try:
            self._lock = lock_folder(self.path)
        except BlockingIOError:
            raise UserError(f"another process is training in {self.path}: wait for it or stop it") from None
        except OSError as error:
            self.lock_missing = error.strerror or str(error)

    def remove_partials(self) -> None:
        """Removes partial files of a killed training process, but not those of other commands, such as plots."""
        if self.lock_missing is None:  # otherwise another process may be writing them
            for folder in (
                self.checkpoint.parent,
                self.config.parent,
                self.reconstructions,
                self.episodes(""),
            ):
                remove_partials(folder)
            remove_partials(self.path / "logs", "metrics.jsonl.*")

    def unlock(self) -> None:
        """Releases the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check_is_run(self) -> None:
        """UserError if the folder is not that of a run."""
        if not self.path.is_dir():
            if self.path.is_file():
                raise UserError(f"'{self.path}' is a file: give the folder of a run")
            raise UserError(f"there is no run folder '{self.path}'{nearest_entry(self.path)}")
        if not self.config.is_file():
            raise UserError(f"'{self.path}' is not a run folder: it has no config/trainer.yaml")

    @contextmanager
    def creating(self, config: Config) -> Iterator[None]:
        """Makes and locks the folder for a new run; removes it again if the run cannot start."""
        new = self._make()
        self.lock()
        self.check_new()  # again, because another process may have started here since the first check
        try:
            self.create(config)
            yield
        except BaseException:
            for entry in list(self.path.iterdir()):  # nothing was here before
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.unlock()
            with suppress(OSError):  # another process may have used the folders above
                for folder in new:
                    folder.rmdir()
            raise

    def _make(self) -> list[Path]:
        """Makes the folder under a free name, and its parents; returns the new folders, lowest first."""
        base, number = self.path, 1
        while True:
            new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=not self._numbered)
            except FileExistsError:
                if not self._numbered:
                    raise
                number += 1
                self.path = base.with_name(f"{base.name}_{number}")
            else:
                self._numbered = False  # it has its name
                return new

    def create(self, config: Config) -> None:
        """Makes the folder and writes its configuration."""
        for folder in (self.checkpoint.parent, self.dataset, self.reconstructions, self.path / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        for kind in ("train", "test", "imagination"):
            self.episodes(kind).mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        import yaml

        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        write_atomically(self.config, text.encode())

    def read_config(self, say: Callable[[str], None] = lambda line: None) -> Config:
        """The run's configuration; UserError if it cannot be read. `say` is told of keys that are ignored."""
        import yaml

        self.check_is_run()
        try:
            data = yaml.safe_load(self.config.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            raise UserError(
                f"{self.config} cannot be read as a configuration: restore it from a copy"
            ) from None
        for line in ignored_keys(data):
            say(line)
        return from_dict(data, Config)
