"""Typed records of measurements; only this module writes and reads their files.

A record keeps medians, spread and provenance. `benchmarks.report` computes rates, shares of ceilings and tables from
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from iris_fast.errors import UserError
from iris_fast.files import explained_writing, write_atomically

SCHEMA = 2  # of the files; 1 had no number
DIGITS = 6  # significant digits in files, more than any clock has
PACKAGES = ("torch", "triton", "numpy", "gymnasium", "ale-py", "envpool", "simulusion")
Label = bool | int | str | list[int]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Spread:
    """Seconds of one side over the rounds."""

    median: float
    quartile_1: float
    quartile_3: float
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """The time of another side divided by ours; see `timing.ratio_of` for the range.

    `than`: of a side of ours that is compared with the fastest of the others, which that is.
    """

    ratio: float
    rounds: int
    low: float | None = None
    high: float | None = None
    than: str = ""


@dataclass(frozen=True)
class Size:
    """One size of a case: the work, the sides, and their seconds.

    what: the label that distinguishes it from other sizes of its table, such as `{"batch": 64}`.
    table: the name of the list that it belongs to, for cases that have several.
    seconds: by side; the first is ours. Empty where nothing was timed, and then `missing` says why.
    ratios: time relative to ours, by side.
    flops: operations; `bytes`: the minimum moved, by side if it differs (`bytes_of`).
    uncounted: sides with different operations, which get no rate.
    rate: the dtype whose matrix products are the ceiling.
    units: what is counted a second, such as `{"tokens": 1088}`.
    not_timed, absent: why a side has no seconds: `not_timed` if its outputs are wrong or it failed, `absent` if it is
    not installed. usual_rounds: the usual number of rounds, if it had fewer.
    more: other numbers that were measured along with it.
    """

    what: dict[str, Label]
    table: str = "sizes"
    seconds: dict[str, Spread] = field(default_factory=dict)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    flops: float | None = None
    bytes: float | None = None
    bytes_of: dict[str, float] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    rate: str = "float32"
    units: dict[str, float] = field(default_factory=dict)
    not_timed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    usual_rounds: int | None = None
    missing: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def is_like(self, **wanted: Any) -> bool:
        """Whether its label has these values."""
        return all(self.what.get(name) == value for name, value in wanted.items())

    def number(self, name: str) -> int:
        """A number of its label."""
        value = self.what[name]
        if not isinstance(value, int):
            raise TypeError(f"the {name} of a size is {value!r}, which is no number")
        return value


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of the device: bytes a second of a copy, operations a second of products by dtype."""

    device: str
    copy_bandwidth: float | None = None
    matrix_rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The result of a case.

    sides: in a comparison of systems, by side: whether it agrees with the oracle, and how exactly.
    not_timed: sides in no size, and why. left_out: why there are no sizes at all.
    facts: the results of cases that time no sides, in their format.
    """

    sizes: list[Size] = field(default_factory=list)
    ceilings: Ceilings | None = None
    threads: int | None = None
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_timed: dict[str, str] = field(default_factory=dict)
    left_out: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, list[Size]]:
        """The sizes by table, in their order."""
        found: dict[str, list[Size]] = {}
        for size in self.sizes:
            found.setdefault(size.table, []).append(size)
        return found

    def timed(self, table: str = "sizes") -> list[Size]:
        """The sizes of a table that have times."""
        return [size for size in self.sizes if size.table == table and size.seconds]

    def other_models(self) -> list[str]:
        """Sides that compute another model than the oracle's."""
        return [side for side, facts in self.sides.items() if not facts["same_model"]]


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement."""

    processor: str
    cores: int | None
    gpu: str | None
    system: str

    def __str__(self) -> str:
        return self.gpu or f"{self.processor}, {self.cores} cores"


@dataclass(frozen=True)
class Circumstances:
    """Commit, time, machine and versions of a measurement."""

    commit: str
    time: str
    machine: Machine
    threads: int
    python: str
    versions: dict[str, str | None]

    @classmethod
    def here(cls) -> Circumstances:
        """The circumstances of this process."""
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        return cls(
            commit_of(Path(__file__).parent),
            time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            Machine(_processor(), os.cpu_count(), gpu, platform.platform()),
            torch.get_num_threads(),
            sys.version.split()[0],
            {name: _version(name) for name in PACKAGES},
        )


@dataclass(frozen=True)
class Record:
    """One file of results: a case, its result, and the circumstances.

    quick: a smoke test, whose times say nothing. reference: the commit of the public implementation beside it.
    """

    case: str
    result: Result
    circumstances: Circumstances
    quick: bool = False
    wall_seconds: float | None = None
    reference: str | None = None
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Writes `CASE.json` into the folder."""
        path = folder / f"{self.case}.json"
        text = json.dumps(_plain(self), ensure_ascii=False, indent=1) + "\n"
        with explained_writing(path):
            write_atomically(path, text.encode())
        return path

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file; UserError if it does not have this schema."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("schema") != SCHEMA:
                raise ValueError(f"its schema is {content.get('schema')}, this version reads {SCHEMA}")
            return _typed(cls, content, "")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path} is no record of a measurement: {error}") from None


def commit_of(folder: Path) -> str:
    """The commit of a checkout, with `-dirty` if it was changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return result.stdout.strip() or "unknown"


def checkout_version(checkout: Path | None) -> str | None:
    """The commit of a checkout, or a digest of its sources if it is not a repository; None without a checkout."""
    if checkout is None:
        return None
    if (checkout / ".git").exists():
        return commit_of(checkout)
    digest = hashlib.sha256()
    for path in sorted((checkout / "src").rglob("*.py")):
        digest.update(path.relative_to(checkout).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sources {digest.hexdigest()[:12]}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """A record as JSON data: without fields at their defaults, and with rounded numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {}
        for each in fields(value):
            found = getattr(value, each.name)
            usual = each.default_factory() if callable(each.default_factory) else each.default
            if found != usual or each.name == "schema":
                kept[each.name] = _plain(found)
        return kept
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """The value as its type; ValueError with its place if it does not match."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return _record_of(kind, value, where)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _typed(option, value, where)
            except ValueError:
                continue
    elif origin is list and isinstance(value, list):
        return [_typed(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif isinstance(value, bool):
        if kind is bool:
            return value
    elif origin is None and isinstance(value, (int, float) if kind is float else kind):
        return value
    raise ValueError(f"{where.lstrip('.') or 'it'} is {str(value)[:40]!r}")


def _record_of(kind: type[Made], value: Any, where: str) -> Made:
    if not isinstance(value, dict):
        raise ValueError(f"{where.lstrip('.') or 'it'} is {str(value)[:40]!r}")
    hints = get_type_hints(kind)
    if unknown := value.keys() - hints.keys():
        raise ValueError(f"it has {where.lstrip('.')} {', '.join(sorted(unknown))}, which there is not")
    try:
        return kind(**{name: _typed(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    except TypeError as error:  # a field without a default is not there
        raise ValueError(f"{where.lstrip('.') or 'it'} lacks a part: {error}") from None
