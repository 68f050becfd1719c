"""Atomic files, checks of the paths that users give, and reasons why a file cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import RunStopped, UserError, nearest

PARTIAL = ".partial"  # suffix of an unfinished file
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for atomic writing: `path` always holds the complete old or the complete new content.

    The bytes go to a hidden file `.NAME.SIGNS.partial` beside it, one for each writer, which is renamed when the
    block ends. With two writers, the last one's complete file stays. Folders are made as needed. On an error
    (`OSError`: a full disk, say) the hidden file is removed and the error is raised.

    A symbolic link stays, and its target is replaced or made. A file keeps its permissions (other hard links to it
    keep the old content). A fifo or a device is written directly, because there is nothing to replace.
    """
    path = Path(path)
    if (stream := _stream(path)) is not None:
        with stream:
            yield stream
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # A long name is shortened, because the hidden file's name must fit too.
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
    """Removes the partial files of a killed process below a folder that only this process writes to."""
    for path in folder.rglob(f".{name}{PARTIAL}"):
        with contextlib.suppress(OSError):
            path.unlink()


def lock_folder(path: Path) -> int | None:
    """An exclusive lock of a folder, which ends with this process or with `os.close` of the returned descriptor.

    None where the system has no such locks. Raises BlockingIOError while another process holds it, and another
    OSError where the file system has none (NFS, FUSE).
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _stream(path: Path) -> BinaryIO | None:
    """A stream for a target that is written directly: a fifo, a device, or an open descriptor, redirected or not."""
    descriptor = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    number = {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path), descriptor and int(descriptor[1]))
    if number is not None:
        return os.fdopen(os.dup(number), "wb")  # continues at the descriptor's position
    if path.exists() and not path.is_file() and not path.is_dir():
        return open(path, "wb")
    return None


def _keep_mode(path: Path, descriptor: int) -> None:
    """Gives the new file the permissions of the file it replaces, if there is one."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: Windows
        os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically, as in `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power failure, if the system can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or the one that PyTorch's writer hid behind it, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def explained_writing(path: Path, instead: str = "choose another place") -> Iterator[None]:
    """Turns an error of writing `path` into one sentence: RunStopped with code 4 for a full disk, else UserError.

    `instead`: the user's remedy unless the disk is full.
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
            reason = "a file is in the place of a folder" if in_the_way else error.strerror
            raise UserError(f"{path} cannot be written ({reason}): {instead}") from error
        raise


def check_writable(path: Path) -> None:
    """UserError for an output file that cannot be written, before the work for it starts."""
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: name a file to write")
    folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    if path.exists() and not path.is_file():  # a fifo or a device is written directly
        folder = path
    elif not folder.is_dir():
        raise UserError(f"{path} cannot be written, since {folder} is a file: choose another place")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: choose a folder that is yours to write to")


def file_inside(root: Path, name: str, endings: Sequence[str]) -> Path | None:
    """The file below `root` with this name and one of these endings; None for anything else, and behind links out."""
    try:
        root = root.resolve()
        path = (root / name).resolve()
        inside = path.is_relative_to(root) and path.suffix in endings and path.is_file()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if inside else None


def user_path(text: str) -> Path:
    """The path that a user wrote, `~` expanded; UserError for a path that no system call accepts."""
    if not text.strip():
        raise UserError(f"'{text}' is not a path: give a file or a folder")
    shown = text if len(text) <= 80 else f"{text[:40]}…{text[-20:]}"
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a path to be made, or whose absence the command reports itself
    except RuntimeError:  # ~NOBODY
        raise UserError(f"'{shown}': there is no such user: give the folder's full path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{shown}' cannot be used as a path ({reason}): name another") from None
    return path


def whole_path(path: Path) -> Path:
    """The path from the root without `..`, as other folders and machines can use it; links in it stay if they can."""
    plain = Path(os.path.abspath(path.expanduser()))
    followed = path.expanduser().resolve()
    return plain if plain.resolve() == followed else followed  # a `..` after a link leads elsewhere


def check_ending(path: Path, endings: Sequence[str], without: bool = True) -> None:
    """UserError unless the file's ending is one of `endings`, in lower or upper case.

    With `without`, a path without an ending, or with one that is not a format (`agent.v2`), passes too.
    """
    ending = path.suffix.lower()
    if ending in endings or (without and not re.fullmatch(r"\.[a-z]{2,}\d?", ending)):
        return
    *others, last = endings
    wanted = f"{', '.join(others)} or {last}" if others else last
    named = f"ends in '{path.suffix}'" if ending else "has no ending"
    raise UserError(f"'{path}' {named}: what is written there ends in {wanted}")


def nearest_entry(path: Path) -> str:
    """The entries of the folder most like a missing path, as the end of a sentence."""
    try:
        return nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    except OSError:
        return ""
