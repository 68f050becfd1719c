"""Results as text: a line for each side of each size, or for each fact of cases in another format."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..record import Ceilings, Ratio, Result, Size, Spread
from ..systems.client import LABELS
from ..timing import FEW

DIRECT = (
    "GFLOP/s of decoded frames are those of direct convolutions, whatever a side computes: Winograd's take fewer, "
    "so their share of the matrix rate may be above 100%"
)
# The cases whose operations hold such frames.
DECODING = ("rollout", "rollout_whole", "frame_decoding", "cpu_frame_codec")
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
HEAD = (
    "size",
    "side",
    "median",
    "quartiles",
    "a second",
    "GFLOP/s",
    "of matrix rate",
    "GB/s",
    "of copy",
    "ours is faster",
)


def text_of(name: str, result: Result) -> str:
    """A table for people."""
    if not result.sizes and not result.left_out:
        return "\n".join(fact_lines(result.facts))
    parts = [f"{name}: {ceilings(result.ceilings)}"]
    parts += [f"  {label_of(side)}: {why}" for side, why in result.not_timed.items()]
    parts += [
        f"  {label_of(side)} is another model: {result.sides[side]['difference']}"
        for side in result.other_models()
    ]
    parts += [f"  left out: {result.left_out}"] if result.left_out else []
    parts += [
        f"  grows as the power: {what.removeprefix('by_')} {', '.join(f'{k} {v:.2f}' for k, v in powers.items())}"
        for what, powers in result.facts.get("powers", {}).items()
    ]
    parts += ["  " + DIRECT] if name in DECODING else []
    tables = result.tables()
    for table, sizes in tables.items():
        text = aligned(HEAD, rows_of(sizes, result.ceilings))
        parts.append(text if len(tables) == 1 else f"{table}\n{text}")
    return "\n".join(parts) + "\n"


def fact_lines(facts: Mapping[str, Any], above: str = "") -> list[str]:
    """A line a fact, with the names of what it is in; lists are cut where a line is full."""
    found: list[str] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += fact_lines(value, f"{above}{name}.")
        else:
            text = f"{value:.5g}" if isinstance(value, float) else json.dumps(value)
            found.append(f"{above}{name}: {textwrap.shorten(text, 160, placeholder=' …')}")
    return found


def rows_of(sizes: Iterable[Size], found: Ceilings | None) -> list[list[str]]:
    """A row for each side, or one row with the reason why a size has none."""
    rows = []
    said: set[tuple[str, str]] = set()
    for size in sizes:
        label = " ".join(f"{key} {value}" for key, value in size.what.items())
        if size.missing:
            rows.append([label, size.missing])
            continue
        for side, why in {**size.not_timed, **size.absent}.items():
            if (side, why) not in said:  # once for all sizes
                rows.append([label, f"{label_of(side)}: {why}"])
            said.add((side, why))
        if size.usual_rounds is not None:
            rounds = next(iter(size.seconds.values())).rounds
            rows.append([label, f"{rounds} of the usual {size.usual_rounds} rounds, for want of time"])
        first = next(iter(size.seconds))
        for side, spread in size.seconds.items():
            rows.append([label if side == first else "", *_row(size, side, spread, found)])
    return rows


def _row(size: Size, side: str, spread: Spread, found: Ceilings | None) -> list[str]:
    flops, moved = flops_a_second(size, side), bytes_a_second(size, side)
    peak, copied = matrix_rate(size, side, found), found.copy_bandwidth if found else None
    units = [
        f"{scaled(count / spread.median)} {unit.replace('_', ' ')}" for unit, count in size.units.items()
    ]
    return [
        label_of(side),
        duration(spread.median),
        f"{duration(spread.quartile_1)} – {duration(spread.quartile_3)}",
        units[0] if units else "",
        f"{flops / 1e9:.3g}" if flops else "",
        f"{flops / peak:.0%}" if flops and peak else "",
        f"{moved / 1e9:.3g}" if moved else "",
        f"{moved / copied:.0%}" if moved and copied else "",
        ratio(size.ratios.get(side)),
    ]


def flops_a_second(size: Size, side: str) -> float | None:
    """A side's operations a second; None if its operations are not counted."""
    counted = size.flops is not None and side not in size.uncounted
    return size.flops / size.seconds[side].median if counted and size.flops else None


def bytes_a_second(size: Size, side: str) -> float | None:
    """A side's minimum bytes a second; None if its operations are not counted."""
    moved = None if side in size.uncounted else size.bytes_of.get(side, size.bytes)
    return moved / size.seconds[side].median if moved else None


def matrix_rate(size: Size, side: str, found: Ceilings | None) -> float | None:
    """The ceiling of a side: that of the precision at the end of its name, or that of the size."""
    rates = found.matrix_rates if found else {}
    last = {"bf16": "bfloat16", "ieee": "float32"}.get(side.split()[-1], size.rate)
    return rates.get(last, rates.get(size.rate))


def ratio(found: Ratio | None) -> str:
    """The speed-up of ours, with its interval, or with the smallest and largest of a few rounds."""
    if found is None:
        return ""
    text = f"{found.ratio:.3g}×"
    if found.low is None or found.high is None:
        text += f" ({found.rounds} round{'s' * (found.rounds > 1)})"
    elif found.rounds < FEW:
        text += f" ({found.low:.3g} to {found.high:.3g} in {found.rounds} rounds)"
    else:
        text += f" [{found.low:.3g}, {found.high:.3g}]"
    return f"{text} than {label_of(found.than)}" if found.than else text


def ceilings(found: Ceilings | None) -> str:
    """The measured ceilings in words."""
    if found is None:
        return ""
    words = [] if found.copy_bandwidth is None else [f"copy {found.copy_bandwidth / 1e9:.3g} GB/s"]
    words += [f"{dtype} products {rate / 1e9:.4g} GFLOP/s" for dtype, rate in found.matrix_rates.items()]
    return ", ".join([found.device, *words])


def label_of(side: str) -> str:
    """A side's name in tables."""
    return LABELS.get(side, side)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def duration(seconds: float) -> str:
    """A duration with three digits and a suitable unit."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def scaled(number: float) -> str:
    for scale, letter in SCALES:
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; empty columns are left out. A row of two cells spans the rest."""
    full = [row for row in rows if len(row) == len(head)]
    kept = [index for index in range(len(head)) if index < 2 or any(row[index] for row in full)]
    widths = {
        index: max(len(head[index]), *(len(row[index]) for row in full), 0) if full else len(head[index])
        for index in kept
    }
    widths[0] = max(widths[0], *(len(row[0]) for row in rows)) if rows else widths[0]
    lines = []
    for row in [head, *rows]:
        cells = [index for index in kept if index < len(row)]
        last = cells[-1]
        lines.append("  ".join(row[i].ljust(widths[i] if i != last else 0) for i in cells).rstrip())
    return "\n".join(lines)
