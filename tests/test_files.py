from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from iris_fast.files import open_atomically, remove_partials, write_atomically


def test_makes_folders_and_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, b"old and longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "b.txt"
    write_atomically(path, b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.txt"]


def test_a_link_goes_on_linking(tmp_path: Path) -> None:
    """To a file that is there, and to one that is not yet, in a folder that is not yet either."""
    for name in ("there/real.json", "not_there/real.json"):
        real, link = tmp_path / name, tmp_path / f"{name[0]}.json"
        if name.startswith("there"):
            write_atomically(real, b"old")
        link.symlink_to(real)
        write_atomically(link, b"new")
        assert link.is_symlink() and real.read_bytes() == b"new"
        assert os.listdir(real.parent) == ["real.json"]


def test_a_fifo_and_an_open_descriptor_are_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(fifo, b"new")
    assert os.read(reader, 10) == b"new" and stat.S_ISFIFO(fifo.stat().st_mode)
    os.close(reader)
    with open(tmp_path / "redirected", "wb", buffering=0) as file:
        file.write(b"before ")
        write_atomically(Path(f"/dev/fd/{file.fileno()}"), b"new")
        file.write(b" after")
    assert (tmp_path / "redirected").read_bytes() == b"before new after"


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o664), (0o022, 0o600)])
def test_a_file_keeps_its_permissions(tmp_path: Path, umask: int, mode: int) -> None:
    path, kept = tmp_path / "b.txt", os.umask(umask)
    try:
        write_atomically(path, b"old")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.chmod(mode)
        write_atomically(path, b"new")
    finally:
        os.umask(kept)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_two_writers_of_one_file_leave_one_of_them_whole(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 250}.txt"  # a name as long as they come
    with open_atomically(path) as one:
        one.write(b"one" * 1000)
        with open_atomically(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
        one.write(b"one")
    assert path.read_bytes() == b"one" * 1001
    assert len(os.listdir(tmp_path)) == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in ("a/.last.pt.partial", ".last.pt.0a1b2c3d.partial", "kept.partial", ".kept"):
        write_atomically(tmp_path / name, b"half")
    remove_partials(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"kept.partial", ".kept"}
