from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping

import pytest
import torch

from iris_fast.training.progress import RunProgress, TimeLeft, format_duration, terminal_width


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def schedule(epoch: int) -> Mapping[str, float]:
    """100 steps of collection in all of 10 epochs, 50 of training from the fourth on."""
    return {"collection": 100} | ({"tokenizer": 50} if epoch >= 4 else {})


def make_progress(clock: Clock, stream: io.StringIO | None = None, **settings: object) -> RunProgress:
    stream = io.StringIO() if stream is None else stream
    return RunProgress(10, schedule=schedule, stream=stream, clock=clock, **settings)  # type: ignore[arg-type]


def run_epoch(progress: RunProgress, clock: Clock, epoch: int, seconds_per_unit: Mapping[str, float]) -> str:
    progress.begin_epoch(epoch)
    for name, units in schedule(epoch).items():
        with progress.phase(name, units) as phase:
            for _ in phase:
                clock.now += seconds_per_unit[name]
    return progress.epoch_summary(epoch, {})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.21, "4.2 s"),
        (9.96, "10 s"),
        (45, "45 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.8, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86370, "1 d 00 h"),
        (3.5 * 86400, "3 d 12 h"),
        (-1, "0.0 s"),
        (float("inf"), "unknown"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_before_anything_is_measured_the_priors_count() -> None:
    clock = Clock()
    assert make_progress(clock).time_left() == TimeLeft(0.0, ("collection", "tokenizer"))
    assert str(make_progress(clock).time_left()) == "unknown"
    half = make_progress(clock, priors={"collection": 0.1}).time_left()
    assert half.seconds == pytest.approx(100.0)  # 10 × 100 × 0.1 s
    assert half.unknown == ("tokenizer",)
    assert str(half) == "over 1 min 40 s"
    whole = make_progress(clock, priors={"collection": 0.1, "tokenizer": 2.0}).time_left()
    assert whole.seconds == pytest.approx(100.0 + 7 * 50 * 2.0)  # the tokenizer trains in 7 of 10 epochs
    resumed = make_progress(clock, start_epoch=8, priors={"collection": 0.1, "tokenizer": 2.0}).time_left()
    assert resumed.seconds == pytest.approx(3 * (10 + 100))


def test_time_left_comes_from_measured_seconds_per_unit() -> None:
    clock = Clock()
    progress = make_progress(clock, priors={"collection": 9.0, "tokenizer": 2.0})
    line = run_epoch(progress, clock, 1, {"collection": 0.5})
    assert progress.time_left().seconds == pytest.approx(9 * 50 + 7 * 100)
    assert line == "epoch  1/10 | took 50 s | left 19 min 10 s"


def test_the_first_measurement_is_dropped_for_the_second_and_old_ones_fade() -> None:
    clock = Clock()
    progress = make_progress(clock)
    run_epoch(progress, clock, 1, {"collection": 60.0})  # compilation, say
    assert progress.seconds_per_unit("collection") == pytest.approx(60.0)
    run_epoch(progress, clock, 2, {"collection": 1.0})
    assert progress.seconds_per_unit("collection") == pytest.approx(1.0)
    run_epoch(progress, clock, 3, {"collection": 2.0})
    assert progress.seconds_per_unit("collection") == pytest.approx(1.5)
    for epoch in range(4, 9):
        run_epoch(progress, clock, epoch, {"collection": 3.0, "tokenizer": 1.0})
    assert progress.seconds_per_unit("collection") == pytest.approx(3.0)


def test_within_a_phase_its_rest_and_the_phases_after_it_count() -> None:
    clock = Clock()
    progress = make_progress(clock, start_epoch=10, priors={"tokenizer": 1.0})
    progress.begin_epoch(10)
    with progress.phase("collection", 100) as phase:
        assert progress.time_left() == TimeLeft(50.0, ("collection",))
        clock.now += 30
        phase.update(60)  # half a second each, by the bar itself
        assert progress.time_left().seconds == pytest.approx(40 * 0.5 + 50.0)
    assert progress.time_left().seconds == pytest.approx(50.0)
    with progress.phase("tokenizer", 50) as phase:
        phase.update(50)
        assert progress.time_left().seconds == 0.0


def test_a_phase_that_fails_is_over() -> None:
    clock = Clock()
    progress = make_progress(clock)
    with pytest.raises(KeyboardInterrupt), progress.phase("collection", 100) as phase:
        clock.now += 4
        phase.update(8)
        raise KeyboardInterrupt
    assert progress.seconds_per_unit("collection") == pytest.approx(0.5)
    with progress.phase("checkpoint", 1):
        pass
    with (
        progress.phase("collection", 100),
        pytest.raises(RuntimeError, match="cannot begin inside"),
        progress.phase("tokenizer", 50),
    ):
        pass


def test_the_line_of_an_epoch_has_losses_returns_and_times() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = make_progress(clock, stream, priors={"collection": 1.0, "tokenizer": 1.0})
    metrics = {
        "tokenizer/train/total_loss": 0.12345,
        "collection/train/return": -20.5,
        "duration/epoch": 75.0,
        "rates/tokenizer_steps_per_second": 3.0,
    }
    expected = "epoch  9/10 | tokenizer 0.1235 | train return -20.5 | took 1 min 15 s | left 2 min 30 s"
    progress.begin_epoch(9)
    assert progress.epoch_summary(9, metrics) == expected
    assert stream.getvalue() == expected + "\n"
    progress.begin_epoch(10)
    assert "left" not in progress.epoch_summary(10, metrics)


def test_a_file_gets_a_plain_line_per_epoch_and_no_bars() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = make_progress(clock, stream)
    for epoch in range(1, 4):
        run_epoch(progress, clock, epoch, {"collection": 0.1})
    assert "\r" not in stream.getvalue()
    assert [line[:11] for line in stream.getvalue().splitlines()] == [
        "epoch  1/10",
        "epoch  2/10",
        "epoch  3/10",
    ]


def test_disabled_shows_nothing_and_still_measures() -> None:
    clock, stream = Clock(), Terminal()
    progress = make_progress(clock, stream, enabled=False)
    run_epoch(progress, clock, 1, {"collection": 0.1})
    assert stream.getvalue() == ""
    assert progress.time_left().seconds == pytest.approx(90.0)


def test_a_terminal_gets_bars_with_rate_losses_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    clock, stream = Clock(), Terminal()
    progress = make_progress(clock, stream, priors={"tokenizer": 1.0})
    run_epoch(progress, clock, 1, {"collection": 0.5})
    progress.begin_epoch(4)
    stream.truncate(0)
    with progress.phase("tokenizer", 50, "step") as phase:
        for step in phase:
            phase.set(loss=torch.tensor(2.5 - step), entropy=1)
            clock.now += 1.0
        assert phase._bar is not None
        phase._bar.refresh()
    drawn = stream.getvalue()
    assert "epoch 4/10 tokenizer 100%" in drawn
    # 6 × 50 s of collection and as much of training are still to come; this epoch's collection was skipped.
    assert "run: 10 min 00 s left, 50/50, loss -46.5, entropy 1" in drawn
    assert drawn.rstrip(" ").endswith("\r")  # cleared: the line of the epoch comes in its place


def test_values_behind_a_bar_are_read_only_when_it_is_redrawn() -> None:
    class Reads:
        count = 0

        def __float__(self) -> float:
            self.count += 1
            return 0.5

    clock, value = Clock(), Reads()
    with make_progress(clock, Terminal()).phase("collection", 1000) as phase:
        for _ in phase:
            phase.set(loss=value)
            clock.now += 0.001
    assert 5 <= value.count <= 15  # a second long, ten times a second


def drawn_at(width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The line of a bar halfway through a phase, on a terminal of that many columns."""
    monkeypatch.setenv("COLUMNS", str(width))
    clock, stream = Clock(), Terminal()
    progress = RunProgress(600, schedule=lambda epoch: {"actor_critic": 200}, stream=stream, clock=clock)
    progress.begin_epoch(123)
    with progress.phase("actor_critic", 200) as phase:
        for _ in range(100):
            phase.set(loss=0.12345, entropy=1.5)
            clock.now += 1.0
            phase.update()
        assert phase._bar is not None
        phase._bar.refresh()
        return stream.getvalue().rpartition("\r")[2]


@pytest.mark.parametrize(
    ("width", "wanted"),
    [
        (
            150,
            ["epoch 123/600 actor critic  50%", "100/200", "1 step/s", "run: 1 d 03 h left", "entropy 1.5"],
        ),
        (
            100,
            [
                "epoch 123/600 actor critic  50%",
                "100/200",
                "run: 1 d 03 h left",
                "loss 0.1235",
                "entropy 1.5",
            ],
        ),
        (80, ["epoch 123/600 actor critic  50%", "100/200", "run: 1 d 03 h left", "loss 0.1235"]),
        (60, ["epoch 123/600 actor critic  50%", "run: 1 d 03 h left"]),
        (40, ["epoch 123/600 actor critic  50%"]),
        (20, ["actor critic  50%"]),
    ],
)
def test_a_bar_is_laid_out_for_the_width_there_is(
    width: int, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = drawn_at(width, monkeypatch)
    assert len(line) < width  # so nothing of it was cut, and no line begun
    for words in wanted:
        assert words in line
    bar = re.search(r"\|(.*?)\|", line)
    assert (bar is not None and len(bar[1]) >= 5) if width >= 40 else bar is None


def test_the_width_is_that_of_the_stream_and_not_of_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    termios, fcntl = pytest.importorskip("termios"), pytest.importorskip("fcntl")
    monkeypatch.delenv("COLUMNS", raising=False)
    main, terminal = os.openpty()
    with os.fdopen(main), os.fdopen(terminal, "w") as stream:
        for columns, width in ((60, 60), (0, 100)):  # a container's terminal may report 0
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, bytes([24, 0, columns, 0, 0, 0, 0, 0]))
            assert terminal_width(stream) == width
    assert terminal_width(io.StringIO()) == 100
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal_width(io.StringIO()) == 72
