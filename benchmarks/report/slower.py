"""Where a side that does the same work is faster than ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..systems.client import LABELS
from .tables import NOT_LABELS, duration

Record = Mapping[str, Any]
SLOWER_HEAD = ("case", "size", "ours", "faster", "ours takes")
MARGIN = 0.95  # a side is faster whose median is below this share of ours: less is within the noise
SLOWER_NOTE = (
    "Medians; a side less than 5% faster is not listed, nor is one that is another model. `*`: on a CPU our operator "
    "is its plain PyTorch reference, and what it takes longer is the operator's dispatch or the reference's way."
)
# Kernel cases that have code of their own on a CPU, by the list of their result.
OWN_ON_CPU = {"kernel_sampling": ("draws",)}
OURS = ("ours", "ours ieee", "cpp", "extension")  # what ours is called by the cases, in float32
NO_PEERS = ("linear, then our draw",)  # made of our own operators


def slower_rows(records: Mapping[str, Record]) -> list[list[str]]:
    """A row for each side of each size that is faster than ours, the worst first; see `SLOWER_HEAD`."""
    found = sorted((row for name, record in records.items() for row in _rows(name, record)), reverse=True)
    return [[*cells, f"{times:.2g}×"] for times, *cells in found]


def _rows(name: str, record: Record) -> Iterator[tuple[Any, ...]]:
    result = record["result"]
    others = {side for side, facts in result.get("agreement", {}).items() if not facts["same_model"]}
    for key, sizes in result.items():
        if not isinstance(sizes, list):
            continue
        reference = (
            result.get("device") == "cpu"
            and name.startswith("kernel_")
            and key not in OWN_ON_CPU.get(name, ())
        )
        for size in sizes:
            for timings in _groups(size):
                for times, side, ours in _faster(timings, others):
                    yield (
                        times,
                        f"`{name}`{' `*`' if reference else ''}",
                        _label(size),
                        duration(ours),
                        f"{LABELS.get(side, side)}, {duration(ours / times)}",
                    )


def _groups(size: Any) -> list[dict[str, float]]:
    """The medians by side that were timed together, of one size."""
    if not isinstance(size, dict):
        return []
    groups = [size.get(name, {}) for name in ("seconds", "seconds_without_graphs")]
    if "cpp" in size:  # `cpu_frame_codec` has its sides beside its facts
        groups.append({side: size[side] for side in ("cpp", "pytorch")})
    return [
        {side: timing["median"] for side, timing in group.items() if "median" in timing}
        for group in groups
        if isinstance(group, dict)
    ]


def _faster(timings: Mapping[str, float], others: set[str]) -> Iterator[tuple[float, str, float]]:
    """How many times as long as a faster side ours takes, the side, and the seconds of ours."""
    name = next((name for name in OURS if name in timings), None)
    if name is None:
        return
    ours = timings[name]
    for side, seconds in timings.items():
        same_work = not side.startswith(("ours", "iris_fast")) and side not in (*others, *NO_PEERS)
        if same_work and seconds < MARGIN * ours:
            yield ours / seconds, side, ours


def _label(size: Mapping[str, Any]) -> str:
    facts = {
        key: value
        for key, value in size.items()
        if isinstance(value, (int, str, list)) and key not in NOT_LABELS
    }
    return ", ".join(f"{key} {value}".replace("_", " ") for key, value in facts.items())
