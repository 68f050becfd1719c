"""The sizes where a side is faster than ours at the same work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..kernels import timed_operations
from ..record import Record, Result, Size
from .tables import duration, label_of

SLOWER_HEAD = ("case", "size", "ours", "faster", "ours takes")
MARGIN = 0.95  # a side counts as faster if its median is below this share of ours; smaller gains are noise
SLOWER_NOTE = (
    "Medians. Sides less than 5% faster, and other models, are not listed. `*`: on a CPU our operator is its plain "
    "PyTorch reference, and the difference is the operator's dispatch or the reference's algorithm."
)
OWN_ON_CPU = {f"kernel_{name}" for name, (_, one) in timed_operations().items() if one.own_on_cpu}
OURS = ("ours", "ours ieee", "cpp", "extension")  # what ours is called by the cases, in float32
NO_PEERS = ("linear, then our draw",)  # made of our own operators


def slower_rows(records: Mapping[str, Record]) -> list[list[str]]:
    """A row for each side of each size that is faster than ours, the worst first; see `SLOWER_HEAD`."""
    found = sorted(
        (row for name, record in records.items() for row in _rows(name, record.result)), reverse=True
    )
    return [[*cells, f"{times:.2g}×"] for times, *cells in found]


def _rows(name: str, result: Result) -> Iterator[tuple[float, str, str, str, str]]:
    on_cpu = result.ceilings is not None and result.ceilings.device == "cpu"
    reference = on_cpu and name.startswith("kernel_") and name not in OWN_ON_CPU
    for size in result.sizes:
        label = ", ".join(f"{key} {value}".replace("_", " ") for key, value in size.what.items())
        for times, side, ours in _faster(size, result.other_models()):
            yield (
                times,
                f"`{name}`{' `*`' if reference else ''}",
                label,
                duration(ours),
                f"{label_of(side)}, {duration(ours / times)}",
            )


def _faster(size: Size, others: list[str]) -> Iterator[tuple[float, str, float]]:
    """How many times as long as a faster side ours takes, the side, and the seconds of ours."""
    name = next((name for name in OURS if name in size.seconds), None)
    if name is None:
        return
    ours = size.seconds[name].median
    for side, spread in size.seconds.items():
        same_work = not side.startswith(("ours", "iris_fast", "cpp")) and side not in (*others, *NO_PEERS)
        if same_work and spread.median < MARGIN * ours:
            yield ours / spread.median, side, ours
