"""Files that appear whole or not at all, where a user may name them, and why one cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import RunStopped, UserError, nearest

PARTIAL = ".partial"  # the ending of a file that is being written
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, so that, whatever happens, `path` holds its old or its new content whole.

    The bytes go to a hidden neighbour `.NAME.SIGNS.partial` of this writer alone, which takes the name when the
    block ends: of two writers the last one's file stays, whole. Folders are made as needed. On an error
    (`OSError`: a full disk, say) the neighbour is removed and the error goes on.

    A symbolic link goes on linking: the file that it names is replaced, or made. A file keeps its permissions
    (of several hard links, the others keep the old content). A fifo or a device is written to as it is, since
    there is nothing to replace.
    """
    path = Path(path)
    if (stream := _stream(path)) is not None:
        with stream:
            yield stream
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of a long name a part: the neighbour's must fit too.
    partial = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
            _keep_mode(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_partials(folder: Path, name: str = "*") -> None:
    """Removes what a killed process left half-written below a folder that this process alone writes to."""
    for path in folder.rglob(f".{name}{PARTIAL}"):
        with contextlib.suppress(OSError):
            path.unlink()


def _stream(path: Path) -> BinaryIO | None:
    """What is written to as it is: a fifo, a device, or an open descriptor, however it is redirected."""
    descriptor = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    number = {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path), descriptor and int(descriptor[1]))
    if number is not None:
        return os.fdopen(os.dup(number), "wb")  # goes on where that descriptor is in its file
    if path.exists() and not path.is_file() and not path.is_dir():
        return open(path, "wb")
    return None


def _keep_mode(path: Path, descriptor: int) -> None:
    """Gives the new file the permissions of the one that it replaces, where there is one."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: Windows
        os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))


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


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or what PyTorch's writer hid behind it, is that of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def explained_writing(path: Path, instead: str = "choose another place") -> Iterator[None]:
    """Says in a sentence why `path` could not be written: RunStopped of 4 for a full disk, else UserError.

    `instead`: what the user can do where it is not the room that lacks.
    """
    try:
        yield
    except (UserError, RunStopped):
        raise
    except Exception as error:
        if is_disk_full(error):
            raise RunStopped(f"the disk is full and {path} was not written: make room", 4) from error
        if isinstance(error, OSError):
            in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
            reason = "a file stands where a folder has to" if in_the_way else error.strerror
            raise UserError(f"{path} cannot be written ({reason}): {instead}") from error
        raise


def check_writable(path: Path) -> None:
    """UserError for a file to be written that cannot be, before the work whose result it will hold."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file to write")
    folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    if path.exists() and not path.is_file():  # a fifo or a device, which is written to as it is
        folder = path
    elif not folder.is_dir():
        raise UserError(f"{path} cannot be written, since {folder} is a file: choose another place")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: choose a folder that is yours to write to")


def user_path(text: str) -> Path:
    """The path that a user wrote, `~` expanded; UserError for one that no system call would take."""
    if not text.strip():
        raise UserError(f"'{text}' is no path: name a file or a folder")
    shown = text if len(text) <= 80 else f"{text[:40]}…{text[-20:]}"
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # what is to be made, or is missed in a sentence of the command's own
    except RuntimeError:  # ~NOBODY
        raise UserError(f"'{shown}': there is no such user: write the folder out") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{shown}' cannot be used as a path ({reason}): name another") from None
    return path


def check_ending(path: Path, endings: Sequence[str], without: bool = True) -> None:
    """UserError unless the file's ending is one of `endings`, of lower case or upper.

    Without an ending, or with one that names no format (`agent.v2`), it passes where `without` allows it.
    """
    ending = path.suffix.lower()
    if ending in endings or (without and not re.fullmatch(r"\.[a-z]{2,}\d?", ending)):
        return
    *others, last = endings
    wanted = f"{', '.join(others)} or {last}" if others else last
    named = f"ends in '{path.suffix}'" if ending else "has no ending"
    raise UserError(f"'{path}' {named}: what is written there ends in {wanted}")


def nearest_entry(path: Path) -> str:
    """The entries of the folder that are most like a path that is not there, as the end of a sentence."""
    try:
        return nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    except OSError:
        return ""
