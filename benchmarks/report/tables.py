"""Results as text: a line for each side of each size, or JSON where a case has another form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..systems.client import LABELS
from ..timing import FEW

LISTS = (
    *("sizes", "shapes", "draws", "layers", "batches"),
    *("by_batch", "by_horizon", "by_threads", "by_environments", "by_replay"),
)
DIRECT = (
    "GFLOP/s of decoded frames are those of direct convolutions, whatever a side computes: Winograd's take fewer, "
    "so their share of the matrix rate may be above 100%"
)
DECODING = ("rollout", "rollout_whole", "frame_decoding")  # the cases whose operations hold such frames
NOT_LABELS = ("bytes", "flops", "amount", "fits_in_l2")
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def text_of(name: str, result: Mapping[str, Any]) -> str:
    """A table for people."""
    lists = [(key, result[key]) for key in LISTS if _is_table(result.get(key))]
    if not lists:
        return json.dumps(result, indent=1)
    parts = [f"{name}: {ceilings(result)}"]
    parts += [f"  {_label(side)}: {why}" for side, why in result.get("not_timed", {}).items()]
    parts += [
        f"  {_label(side)} is another model: {facts['difference']}"
        for side, facts in result.get("agreement", {}).items()
        if not facts["same_model"]
    ]
    parts += [f"  left out: {result['left_out']}"] if "left_out" in result else []
    parts += [f"  {note}" for note in result.get("notes", ())]
    parts += [
        f"  grows as the power: {what.removeprefix('by_')} {', '.join(f'{k} {v:.2f}' for k, v in powers.items())}"
        for what, powers in result.get("powers", {}).items()
    ]
    parts += ["  " + DIRECT] if name in DECODING else []
    for key, sizes in lists:
        parts.append(
            aligned(HEAD, rows_of(sizes)) if len(lists) == 1 else f"{key}\n{aligned(HEAD, rows_of(sizes))}"
        )
    return "\n".join(parts) + "\n"


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


def rows_of(sizes: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each side, or one that says why a size has none."""
    rows = []
    said: set[tuple[str, str]] = set()
    for size in sizes:
        label = " ".join(
            f"{key} {value}"
            for key, value in size.items()
            if isinstance(value, (int, str, list)) and key not in (*NOT_LABELS, "error", "left_out")
        )
        if "seconds" not in size and not size.keys() & {"error", "left_out"}:
            continue  # it holds something else than a size
        if "seconds" not in size:
            why = size.get("error") or f"left out: {size.get('left_out', 'not measured')}"
            rows.append([label, why])
            continue
        first = next(iter(size["seconds"]))
        for side, why in {**size.get("not_timed", {}), **size.get("absent", {})}.items():
            if (side, why) not in said:  # once for all sizes
                rows.append([label, f"{_label(side)}: {why}"])
            said.add((side, why))
        for side, timing in size["seconds"].items():
            rows.append([label if side == first else "", *_row(size, side, timing, first)])
        rows += [["", *row] for row in _without_graphs(size)]
    return rows


def _without_graphs(size: Mapping[str, Any]) -> list[list[str]]:
    """The rows of sides timed in turn without CUDA graphs, which some of them cannot be captured in."""
    return [
        [
            f"{_label(side)} (without graphs)",
            duration(timing["median"]),
            f"{duration(timing['quartile_1'])} – {duration(timing['quartile_3'])}",
            *[""] * (len(HEAD) - 5),
            ratio(size.get("speedup_over_without_graphs", {}).get(side), timing["rounds"]),
        ]
        for side, timing in size.get("seconds_without_graphs", {}).items()
    ]


def _row(size: Mapping[str, Any], side: str, timing: Mapping[str, float], first: str) -> list[str]:
    seconds = timing["median"]
    rates = size.get("rates", {}).get(side, {})
    flops, moved = rates.get("flops_a_second"), rates.get("bytes_a_second")
    if "rates" not in size:  # where it is there it has none of a side whose operations are others
        flops, moved = (size[name] / seconds if size.get(name) else None for name in ("flops", "bytes"))
    peak, copied = rates.get("share_of_matrix_rate"), rates.get("share_of_copy_bandwidth")
    peak = _share(size.get("share_of_matrix_rate"), side, first, peak)
    copied = _share(size.get("share_of_copy_bandwidth"), side, first, copied)
    units = [
        f"{scaled(rate)} {unit.removesuffix('_a_second').replace('_', ' ')}"
        for unit, rate in rates.items()
        if unit.endswith("_a_second") and unit not in ("flops_a_second", "bytes_a_second")
    ]
    return [
        _label(side),
        duration(seconds),
        f"{duration(timing['quartile_1'])} – {duration(timing['quartile_3'])}",
        units[0] if units else "",
        f"{flops / 1e9:.3g}" if flops else "",
        f"{peak:.0%}" if peak is not None else "",
        f"{moved / 1e9:.3g}" if moved else "",
        f"{copied:.0%}" if copied is not None else "",
        _speedup(size, side, int(timing["rounds"])),
    ]


def _speedup(size: Mapping[str, Any], side: str, rounds: int) -> str:
    """How many times faster ours is than this side; of one of our sides, than the fastest of the others."""
    best = size.get("speedup_over_the_best_other", {})
    if side in best:
        return f"{ratio(best[side], rounds)} than {_label(best[side]['other'])}"
    return ratio(size.get("speedup_over", {}).get(side) or size.get(f"speedup_over_{side}"), rounds)


def _share(found: Any, side: str, first: str, otherwise: float | None) -> float | None:
    """A side's share of a ceiling: a case gives one number for its first side, or one for each by name."""
    if isinstance(found, dict):
        return found.get(side, otherwise)
    return otherwise if found is None or side != first else found


def ratio(interval: Mapping[str, float] | None, rounds: int = FEW) -> str:
    """How many times faster ours is, with its interval, or the least to the greatest of a few rounds.

    `rounds` of the times stand for those of the ratio in files that are too old to have them: where they are few no
    interval is given.
    """
    if interval is None:
        return ""
    middle = f"{interval['ratio']:.3g}×"
    if "rounds" not in interval and rounds < FEW:
        return f"{middle} ({rounds} round{'s' if rounds > 1 else ''})"
    if "low" not in interval:
        return f"{middle} (1 round)"
    low, high = f"{interval['low']:.3g}", f"{interval['high']:.3g}"
    if interval.get("rounds", FEW) < FEW:
        return f"{middle} ({low} to {high} in {interval['rounds']} rounds)"
    return f"{middle} [{low}, {high}]"


def ceilings(result: Mapping[str, Any]) -> str:
    """The measured ceilings in words."""
    words = []
    if "copy_bandwidth" in result:
        words.append(f"copy {result['copy_bandwidth'] / 1e9:.3g} GB/s")
    rates = result.get("matrix_rates", {"": result["matrix_rate"]} if "matrix_rate" in result else {})
    words += [f"{dtype} products {rate / 1e9:.4g} GFLOP/s".strip() for dtype, rate in rates.items()]
    return ", ".join([str(result.get("device", "")), *words]).strip(", ")


def duration(seconds: float) -> str:
    """Three digits with a unit that suits."""
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
    """Columns of equal width; those that are empty everywhere are left out. A row of two cells spans the rest."""
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


def _label(side: str) -> str:
    return LABELS.get(side, side)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(size, dict) for size in value)
