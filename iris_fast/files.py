"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, so that, whatever happens, `path` holds its old or its new content whole.

    The bytes go to a hidden neighbour `.NAME.partial`, which takes the name when the block ends; folders
    are made as needed. On an error (`OSError`: a full disk, say) the neighbour is removed and the error
    goes on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path` whole or not at all, as `open_atomically` does."""
    with open_atomically(path) as file:
        file.write(data)


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power failure, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
