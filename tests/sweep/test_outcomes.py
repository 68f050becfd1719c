"""What an attempt's end leads to, and how runs are shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from iris_fast.sweep.queue import Attempts, told
from iris_fast.sweep.runner import Outcome
from iris_fast.sweep.runs import PlannedRun
from iris_fast.sweep.state import RunState
from iris_fast.sweep.table import Board, Row, Table, count
from iris_fast.training.progress import TimeLeft
from tests.support.commands import Say


def planned(seed: int, game: str = "Pong") -> PlannedRun:
    return PlannedRun(game, seed, "small", Path("/out"), (), "cpu", 100)


@pytest.mark.parametrize(
    ("outcome", "retry", "words"),
    [
        (Outcome(0), False, "failed with exit code 0"),
        (Outcome(1), True, "failed with exit code 1"),
        (Outcome(2), False, "refused"),
        (Outcome(3), False, "diverged"),
        (Outcome(4), False, "disk full"),
        (Outcome(-9), True, "ended by SIGKILL"),
        (Outcome(143), True, "ended by SIGTERM"),
        (Outcome(143, stopped=True), False, "ended by SIGTERM"),
    ],
)
def test_what_is_tried_again(outcome: Outcome, retry: bool, words: str) -> None:
    assert (outcome.retry, outcome.words) == (retry, words)


def test_retries_are_counted_since_the_last_finished_epoch() -> None:
    attempts, killed = Attempts(2, epoch=5), Outcome(-9)
    assert "retry 1 of 2 at epoch 5" in (attempts.again(killed, 5) or "")
    assert "retry 2 of 2" in (attempts.again(killed, 5) or "")
    assert "retry 1 of 2 at epoch 6" in (attempts.again(killed, 6) or "")
    assert attempts.again(killed, 6) and attempts.again(killed, 6) is None
    assert Attempts(2, 0).again(Outcome(3), 0) is None
    assert Attempts(0, 0).again(killed, 0) is None


def test_a_failure_is_told_with_its_sentence_and_log() -> None:
    said = told(Outcome(3, "the loss is nan"), planned(1))
    assert said == "diverged: the loss is nan (log: /out/logs/Pong_seed_1.log)"


def rows(number: int) -> list[Row]:
    state = RunState("begun", 3, 600, -20.5, "test", TimeLeft(4 * 3600 + 600))
    return [
        Row(planned(seed), state, "running" if seed == number - 1 else "waiting") for seed in range(number)
    ]


def test_lines_tell_changes_alone(capsys: Say) -> None:
    runs = rows(3)
    board = Board(runs)
    board.show()
    board.show()
    assert capsys.readouterr().err == "3 runs: 1 running, 2 waiting\n"
    runs[0].status = "running"
    runs[2].state = RunState("done", 600, 600, 1.0, "evaluation")
    board.show()
    board.show()
    assert capsys.readouterr().err.splitlines() == [
        "Pong seed 0: running, epoch 3/600, test return -20.5, left 4 h 10 min",
        "Pong seed 2: running, epoch 600/600, evaluation return 1",
    ]


def test_the_table_fits_the_terminal_and_shows_running_runs_first() -> None:
    console_of, live_of = pytest.importorskip("rich.console"), pytest.importorskip("rich.live")
    written = io.StringIO()
    console = console_of.Console(file=written, force_terminal=True, width=100, height=12)
    runs = rows(40)
    with live_of.Live(console=console, auto_refresh=False) as live:
        table = Table(runs, live)
        table.show()
        table.say("Pong seed 3: [diverged]")
    text = written.getvalue()
    assert "[diverged]" in text and count(runs) in text
    first = next(line for line in text.splitlines() if "Pong" in line and "│" in line)
    assert all(word in first for word in ("39", "3/600", "-20.5 (test)", "4 h 10 min", "running"))
    drawn = text[: text.index(count(runs))]
    assert len(drawn.splitlines()) <= 12
