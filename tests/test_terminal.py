"""Printing cannot end a command (closed pipes, full disks, encodings); and Ctrl-C in its first seconds."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from iris_fast.terminal import Output, encodable

ROOT = Path(__file__).resolve().parents[1]
# A command that prints more than a pipe and all buffers hold, to both streams, and then leaves a file.
PRINTING = """
import os, sys
from pathlib import Path
from iris_fast.command_line import CommandParser, run_command
def main(argv):
    CommandParser("printing", "prints").parse_args(argv)
    for number in range(8000):
        print("result ±", number)
        print("message ±", number, file=sys.stderr, flush=True)
    os.fstat(2)  # the descriptor is there, whatever became of its reader
    Path("done").write_text("")
    return 0
sys.exit(run_command(main))
"""


def printing(folder: Path, shell: str, **environment: str) -> tuple[int, str, bool]:
    """Exit code, messages seen, and whether the command came to its end; `"$@"` stands for it in `shell`."""
    command = ["bash", "-c", f"set -o pipefail; {shell}", "bash", sys.executable, "-c", PRINTING]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, timeout=60
    )
    return done.returncode, done.stderr.decode(errors="replace"), (folder / "done").is_file()


@pytest.mark.parametrize(
    "shell",
    [
        '"$@" | true',
        '"$@" 2>&1 | head -2',
        '"$@" >&-',
        '"$@" 2>&-',
        '"$@" >&- 2>&- <&-',
        '"$@" 2> /dev/full',
        '"$@" | head -1 2> /dev/null',
        '"$@" --help | true',
        '"$@" --version >&-',
    ],
)
def test_messages_that_nobody_reads_end_nothing(shell: str, tmp_path: Path) -> None:
    code, messages, done = printing(tmp_path, shell)
    assert code == 0 and (done or "--" in shell)
    assert "Traceback" not in messages and "Exception ignored" not in messages


def test_a_result_that_a_full_disk_refused_is_not_called_a_success(tmp_path: Path) -> None:
    for shell in ('"$@" > /dev/full', '"$@" --help > /dev/full'):
        code, messages, done = printing(tmp_path, shell)
        assert code == 4 and done, shell
        last = messages.splitlines()[-1]
        assert last == "stopped: the output is incomplete (No space left on device)"


def test_a_closed_descriptor_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    opening = "import os; from iris_fast.terminal import open_descriptors; open_descriptors(); "
    opening += "raise SystemExit(os.open(os.devnull, os.O_RDONLY) < 3)"
    command = ["bash", "-c", '"$@" 2>&- >&-', "bash", sys.executable, "-c", opening]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_a_terminal_that_is_lost_ends_nothing(tmp_path: Path) -> None:
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTING],
        cwd=tmp_path,
        stdout=side,
        stderr=side,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    os.close(side)
    assert os.read(terminal, 10)
    os.close(terminal)
    assert process.wait(timeout=60) == 0 and (tmp_path / "done").is_file()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "± – ball ä 球"), ("latin-1", "± - ball ä \\u7403"), ("ascii", "+- - ball \\xe4 \\u7403")],
)
def test_signs_that_an_encoding_lacks_are_written_in_others(encoding: str, shown: str) -> None:
    assert encodable("± – ball ä 球", encoding) == shown
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Output(stream).write("± – ball ä 球")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == shown  # type: ignore[attr-defined]


def test_a_path_of_undecodable_bytes_can_be_printed() -> None:
    assert encodable(os.fsdecode(b"l\xe4ufe"), "utf-8") == "l\\udce4ufe"


def test_a_full_disk_that_has_room_again_gets_messages_again() -> None:
    class Disk(io.RawIOBase):
        full, written = True, b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            self.written += bytes(data)
            return len(data)

    disk = Disk()
    output = Output(io.TextIOWrapper(io.BufferedWriter(disk), encoding="utf-8", line_buffering=True))
    output.write("first\n")
    disk.full = False
    output.write("second\n")
    output.flush()
    assert disk.written.endswith(b"second\n") and output.lost is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("command", [("iris_fast.train", "--list-keys"), ("benchmarks", "--list")])
def test_ctrl_c_during_the_imports(command: tuple[str, ...], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    limit = time.monotonic() + 60
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, messages = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, b"")
    assert messages.decode().removeprefix("loading PyTorch …\n") == "stopped: interrupted\n"


def test_ctrl_c_anywhere_in_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    from iris_fast.command_line import run_command

    def main(argv: list[str] | None) -> int:
        raise KeyboardInterrupt

    assert run_command(main, []) == 130
    assert capsys.readouterr().err == "stopped: interrupted\n"
