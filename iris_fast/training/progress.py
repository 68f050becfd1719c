"""Progress of a run: a bar per phase, the time left for the whole run, a line per epoch."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

Schedule = Callable[[int], Mapping[str, float]]

REFRESH_SECONDS = 0.1
RECENT_MEASUREMENTS = 5
SHORTEST_BAR = 5

# The metrics in the line of an epoch, in order, if present: (metric, label, format).
SUMMARY = (
    ("tokenizer/train/total_loss", "tokenizer", ".4f"),
    ("tokenizer/train/codes_used", "codes", ".0f"),
    ("world_model/train/total_loss", "world model", ".4f"),
    ("world_model/train/rewards_vs_base_rate", "rewards/base rate", ".2f"),
    ("world_model/train/rewards_recall", "recall", ".2f"),
    ("actor_critic/train/total_loss", "actor-critic", ".4f"),
    ("actor_critic/train/entropy", "entropy", ".3f"),
    ("actor_critic/train/explained_variance", "explained variance", ".2f"),
    ("collection/train/return", "train return", ".4g"),
    ("collection/test/return", "test return", ".4g"),
)


@dataclass(frozen=True)
class TimeLeft:
    """Seconds left, and the remaining phases without a known duration."""

    seconds: float
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.unknown:
            return format_duration(self.seconds)
        return f"over {format_duration(self.seconds)}" if self.seconds else "unknown"


class RunProgress:
    """The progress of a run: epochs, their phases, and the units of each phase (steps, episodes, ...).

    The time left is the sum over remaining phases of units times seconds per unit, as measured in this process or,
    before that, as given by `priors`. So it is right even in early epochs, which have fewer phases than later ones.

    Args:
        total_epochs: the number of the last epoch; epochs count from 1.
        schedule: gives the phases of an epoch, in order, with their units: `{"collection": 200, ...}`.
        start_epoch: the first epoch of this process (more than 1 when a run resumes).
        priors: seconds per unit of each phase, used until they are measured.
        stream: the output, standard error by default. A terminal gets bars that are redrawn in place; any other
        stream gets one plain line per epoch. enabled: False shows nothing but still measures.
        clock: a function giving seconds.
    """

    def __init__(
        self,
        total_epochs: int,
        *,
        schedule: Schedule,
        start_epoch: int = 1,
        priors: Mapping[str, float] | None = None,
        stream: TextIO | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.total_epochs = total_epochs
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.shows_bars = enabled and self.stream.isatty()
        self._enabled = enabled
        self._schedule = schedule
        self._priors = dict(priors or {})
        self._measured: dict[str, _Measurements] = {}
        self._running: Phase | None = None
        self._epoch = start_epoch
        self._epoch_start = clock()
        self._due: dict[str, float] = dict(schedule(start_epoch)) if start_epoch <= total_epochs else {}
        self._later = self._units_after(start_epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Starts an epoch: its phases become due."""
        self._epoch = epoch
        self._epoch_start = self.clock()
        self._due = dict(self._schedule(epoch))
        self._later = self._units_after(epoch)

    def phase(self, name: str, total: float, unit: str = "step") -> Phase:
        """A phase of the current epoch with `total` units, as a context manager."""
        return Phase(self, name, total, unit)

    def epoch_summary(self, epoch: int, metrics: Mapping[str, float]) -> str:
        """Ends an epoch: returns its line, and prints it.

        The line has the main losses and returns of `metrics` (flat names), the duration of the epoch
        (`duration/epoch`, or else the time since `begin_epoch`) and the time left for the run.
        """
        self._due = {}
        seconds = metrics.get("duration/epoch", self.clock() - self._epoch_start)
        width = len(str(self.total_epochs))
        fields = [f"epoch {epoch:>{width}}/{self.total_epochs}"]
        fields += [f"{label} {metrics[name]:{form}}" for name, label, form in SUMMARY if name in metrics]
        fields.append(f"took {format_duration(seconds)}")
        if epoch < self.total_epochs:
            fields.append(f"left {self.time_left()}")
        line = " | ".join(fields)
        self.say(line)
        return line

    def say(self, line: str) -> None:
        """Prints a line, between phases."""
        if self._enabled:
            print(line, file=self.stream, flush=True)

    def time_left(self) -> TimeLeft:
        """The time left for the run: the rest of this epoch and the epochs after it."""
        units = dict(self._later)
        for name, count in self._due.items():
            units[name] = units.get(name, 0.0) + count
        running = self._running
        if running is not None:
            units[running.name] = units.get(running.name, 0.0) + max(0.0, running.total - running.done)
        seconds, unknown = 0.0, []
        for name, count in units.items():
            rate = self.seconds_per_unit(name)
            if rate is not None:
                seconds += rate * count
            elif count > 0:
                unknown.append(name)
        return TimeLeft(seconds, tuple(unknown))

    def seconds_per_unit(self, name: str) -> float | None:
        """Seconds per unit of the phase: measured, or from its running bar, or its prior, or None."""
        if name in self._measured:
            return self._measured[name].seconds_per_unit
        running = self._running
        # The first units may include compilation and allocation, so they do not represent the others.
        if running is not None and running.name == name and running.done >= running.total / 10 > 0:
            return running.seconds / running.done
        return self._priors.get(name)

    def _units_after(self, epoch: int) -> dict[str, float]:
        """The units of each phase in all epochs after `epoch`."""
        units: dict[str, float] = {}
        for later in range(epoch + 1, self.total_epochs + 1):
            for name, count in self._schedule(later).items():
                units[name] = units.get(name, 0.0) + count
        return units

    def _phase_began(self, phase: Phase) -> None:
        if self._running is not None:
            raise RuntimeError(f"phase {phase.name!r} cannot begin inside phase {self._running.name!r}")
        self._running = phase
        if phase.name in self._due:
            # Earlier phases are over too: a run resumed within an epoch skips the completed ones.
            names = list(self._due)
            self._due = {name: self._due[name] for name in names[names.index(phase.name) + 1 :]}

    def _phase_ended(self, phase: Phase) -> None:
        self._running = None
        if phase.done > 0:
            self._measured.setdefault(phase.name, _Measurements()).add(phase.seconds, phase.done)

    def bar_titles(self, phase: Phase) -> tuple[str, str]:
        """The text left of a phase's bar, and a short form for narrow terminals."""
        name = phase.name.replace("_", " ")
        return f"epoch {self._epoch}/{self.total_epochs} {name}", name


class Phase:
    """A running phase, made by `RunProgress.phase`:

    >>> with progress.phase("tokenizer", 200) as phase:
    ...     for step in phase:                # or phase.update(units)
    ...         phase.set(loss=train_step())
    """

    def __init__(self, run: RunProgress, name: str, total: float, unit: str):
        self.name = name
        self.total = total
        self.done: float = 0
        self._run = run
        self._unit = unit
        self._values: dict[str, Any] = {}
        self._note = ""
        self._bar: Bar | None = None
        self._start = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the phase began."""
        return self._run.clock() - self._start

    def __enter__(self) -> Phase:
        self._run._phase_began(self)
        self._start = self._run.clock()
        if self._run.shows_bars:
            self._bar = Bar(
                self._run.stream,
                self._run.bar_titles(self),
                self.total,
                self._unit,
                self._describe,
                clock=self._run.clock,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._run._phase_ended(self)

    def __iter__(self) -> Iterator[int]:
        """Counts from 0 up to the total, one unit done per iteration."""
        for index in range(int(self.total)):
            yield index
            self.update()

    def set(self, **values: Any) -> None:
        """Shows values (numbers, or tensors of one element) after the bar.

        They are read only when the bar is redrawn, a few times a second, so passing a GPU tensor at every step does
        not wait for the GPU at every step.
        """
        self._values.update(values)

    def note(self, text: str) -> None:
        """Shows a note after the bar during long units, such as the steps of an episode."""
        self._note = text
        self.update(0)

    def update(self, units: float = 1) -> None:
        """Counts units as done."""
        self.done += units
        if self._bar is not None:
            self._bar.update(units)

    def _describe(self) -> list[str]:
        """The most important first, because a narrow terminal shows only that."""
        shown = [f"{name} {float(value):.4g}" for name, value in self._values.items()]
        noted = [self._note] if self._note else []
        return [f"run: {self._run.time_left()} left", *noted, *shown]


class Bar:
    """A line redrawn in place on a terminal: the done part of `total`, followed by the text of `describe`.

    Each redraw fits the current width of the terminal. A narrow one loses first the pace, then the text from its end,
    then the bar.

    Args:
        titles: the text left of the bar, and a shorter one for the narrowest terminals.
        describe: returns the texts, the most important first.
    """

    def __init__(
        self,
        stream: TextIO,
        titles: tuple[str, str],
        total: float,
        unit: str,
        describe: Callable[[], list[str]],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._stream = stream
        self._titles = titles
        self._total, self._done = total, 0.0
        self._unit = unit
        self._describe = describe
        self._clock, self._start = clock, clock()
        self._refreshed = -math.inf
        self._width = 0  # of what was drawn last
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        self._filled = "█" if encoding.startswith("utf") else "#"
        self.update(0)

    def update(self, units: float) -> None:
        """Counts units as done; with 0 it only refreshes the text."""
        self._done += units
        if self._clock() - self._refreshed >= REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        self._refreshed = self._clock()
        # A full last column would begin a new line in some terminals.
        line = self._line(terminal_width(self._stream) - 1)
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Clears the line."""
        self._stream.write("\r" + " " * self._width + "\r")
        self._stream.flush()

    def _line(self, width: int) -> str:
        """The fullest line that fits."""
        (title, short), said = self._titles, self._describe()
        share = self._done / self._total if self._total else 1.0
        texts = [*said[:1], f"{self._done:g}/{self._total:g}", *said[1:], self._pace()]
        for words, count in (*((title, count) for count in range(len(texts), -1, -1)), (short, 0)):
            head, tail = f"{words} {share:4.0%}", ", ".join(texts[:count])
            room = width - len(f"{head}|| {tail}")
            if room >= SHORTEST_BAR:
                filled = min(room, round(room * share))
                return f"{head}|{self._filled * filled}{' ' * (room - filled)}| {tail}".rstrip()
        return f"{short} {share:4.0%}"[:width]

    def _pace(self) -> str:
        """The time that has passed, the time left, and units a second."""
        passed = self._clock() - self._start
        if not self._done or not passed:
            return format_duration(passed)
        rate = self._done / passed
        words = f"{rate:.3g} {self._unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{self._unit}"
        return f"{format_duration(passed)} < {format_duration((self._total - self._done) / rate)}, {words}"


class _Measurements:
    """Seconds per unit over the last few runs of a phase."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_MEASUREMENTS)
        self._count = 0

    def add(self, seconds: float, units: float) -> None:
        """Adds one run of the phase; the second run drops the first, which included compilation."""
        self._count += 1
        if self._count == 2:
            self._recent.clear()
        self._recent.append((seconds, units))

    @property
    def seconds_per_unit(self) -> float:
        return sum(seconds for seconds, _ in self._recent) / sum(units for _, units in self._recent)


def terminal_width(stream: TextIO) -> int:
    """Columns of the terminal behind `stream`: from COLUMNS, else from the terminal, else 100."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError, AttributeError):
        # Not the width of standard output, which may be a file.
        return os.get_terminal_size(stream.fileno()).columns or 100
    return 100


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: "2 h 05 min", "3 min 20 s", "45 s", "4.2 s", "1 d 03 h"."""
    if not math.isfinite(seconds):
        return "unknown"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"
