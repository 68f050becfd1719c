"""Plots of results as PNG: speed by batch, where a rollout's time goes, a whole run by phase, how cost grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ..record import Result, Size
from .pictures import shrink
from .projection import PHASES
from .tables import bytes_a_second, duration, label_of

Results = Mapping[str, Result]
COLOURS = {
    "ours": "#0b6e4f",
    "ours_float16_cache": "#66b88f",
    "ours_bf16": "#66b88f",
    "pytorch": "#7a7a7a",
    "pytorch_compiled": "#b0b0b0",
    "public": "#c1440e",
    "public_tuned": "#e8a87c",
    "simulusion": "#33658a",
    "simulusion_tuned": "#33658a",
    "ours_cached": "#0b6e4f",
}
DASHED = ("ours_float16_cache", "ours_bf16", "pytorch_compiled")
PART_COLOURS = ("#264653", "#2a9d8f", "#e9c46a", "#f4a261", "#e76f51", "#9d4edd")
HOUR = 3600


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draws all plots that the results allow; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in PLOTS.items():
        figure = draw(results)
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=140, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            shrink(path)
            drawn.append(path)
    return drawn


def timed_sizes(results: Results, case: str) -> list[Size]:
    """The sizes of a case that have times."""
    return results[case].timed() if case in results else []


def speed_by_batch(results: Results) -> Any:
    """Imagined steps, tokens and frames a second against batch size, with quartiles and rooflines."""
    panels = [
        ("rollout", "imagined_steps", "rollouts: imagined steps a second"),
        ("token_generation", "tokens", "world model alone: tokens a second"),
        ("frame_decoding", "frames", "decoder alone: frames a second"),
    ]
    panels = [panel for panel in panels if timed_sizes(results, panel[0])]
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4), squeeze=False)
    for axis, (case, unit, title) in zip(axes[0], panels, strict=True):
        sizes = timed_sizes(results, case)
        for side in sizes[0].seconds:
            _speeds(axis, [size for size in sizes if side in size.seconds], side, unit, results[case])
        _roofline(axis, results[case], sizes, unit)
        _log_batches(axis, [size.number("batch") for size in sizes])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("batch")
        axis.grid(True, which="both", alpha=0.2)
    named = [axis.get_legend_handles_labels() for axis in axes[0]]
    entries = {
        label: handle for handles, labels in named for handle, label in zip(handles, labels, strict=True)
    }
    figure.tight_layout()
    # Below the axes, where it can cover no data.
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
    figure.legend(entries.values(), entries.keys(), fontsize=8, ncols=4, frameon=False, **place)
    return figure


def _speeds(axis: Axes, sizes: Sequence[Size], side: str, unit: str, result: Result) -> None:
    """A side's medians by batch, and between which rates its quartiles lie."""
    spreads = [size.seconds[side] for size in sizes]
    counts = [size.units[unit] for size in sizes]
    batches = [size.number("batch") for size in sizes]
    medians, low, high = (
        [count / getattr(spread, name) for count, spread in zip(counts, spreads, strict=True)]
        for name in ("median", "quartile_3", "quartile_1")
    )
    colour, style = COLOURS.get(side), "--" if side in DASHED else "-"
    axis.plot(batches, medians, style, marker="o", markersize=4, color=colour, label=_name(side, result))
    axis.fill_between(batches, low, high, color=colour, alpha=0.2)


def _name(side: str, result: Result, between: str = " ") -> str:
    """A side's label, with a note if it is another model."""
    return label_of(side) + f"{between}(another model)" * (side in result.other_models())


def _roofline(axis: Axes, result: Result, sizes: Sequence[Size], unit: str) -> None:
    """The upper bound on the rate from the measured products or the measured copy."""
    ceilings = result.ceilings
    assert ceilings is not None
    points = []
    for size in sizes:
        floor = (size.flops or 0.0) / ceilings.matrix_rates["float32"]
        moved = bytes_a_second(size, "ours")
        if moved and ceilings.copy_bandwidth:
            floor = max(floor, moved * size.seconds["ours"].median / ceilings.copy_bandwidth)
        points.append((size.number("batch"), size.units[unit] / floor))
    axis.plot(*zip(*points, strict=True), ":", color="black", label="roofline (float32, direct convolutions)")


def _log_batches(axis: Axes, batches: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(batches, [str(batch) for batch in batches])


def rollout_parts(results: Results) -> Any:
    """Milliseconds of an imagined step by part, at the largest batch that rollout, tokens and decoding share."""
    by_batch = [
        {size.number("batch"): size for size in timed_sizes(results, case)}
        for case in ("rollout", "token_generation", "frame_decoding")
    ]
    shared = set(by_batch[0]) & set(by_batch[1]) & set(by_batch[2])
    if not shared:
        return None
    batch = max(shared)
    rollout, tokens, decoding = (sizes[batch] for sizes in by_batch)
    parts = step_parts(rollout, tokens, decoding)
    horizon = rollout.number("horizon")
    whole = {side: rollout.seconds[side].median / horizon for side in parts}
    figure, axis = plt.subplots(figsize=(8, 0.7 * len(parts) + 1.6))
    names = {side: _name(side, results["rollout"], "\n") for side in parts}
    named = {names[side]: found for side, found in parts.items()}
    _stacked(axis, named, "s", 1, {names[side]: seconds for side, seconds in whole.items()})
    label = f"seconds of an imagined step, batch {batch} (rollouts of {horizon} steps)"
    apart = any(sum(found.values()) > 1.005 * whole[side] for side, found in parts.items())
    axis.set_xlabel(label + "\nline: the whole step, where its parts, timed apart, took longer" * apart)
    figure.tight_layout()
    return figure


def step_parts(rollout: Size, tokens: Size, decoding: Size) -> dict[str, dict[str, float]]:
    """Seconds of a step of a rollout by side and part; the rest is what the two parts leave of the whole.

    Parts timed separately may take longer than the whole; then there is no rest.
    """
    horizon = rollout.number("horizon")
    found = {}
    for side, spread in rollout.seconds.items():
        decoder = "ours" if side == "ours_float16_cache" else side
        if side not in tokens.more["step_seconds"] or decoder not in decoding.seconds:
            continue
        step = spread.median / horizon
        # The last step of a rollout generates no frame.
        generation = sum(tokens.more["step_seconds"][side][: horizon - 1]) / horizon
        frames = decoding.seconds[decoder].median
        rest = max(0.0, step - generation - frames)
        found[side] = {
            "decoding": frames,
            "tokens": generation,
            "rest: first frame encoded, policy, draws of actions": rest,
        }
    return found


def run_by_phase(results: Results) -> Any:
    """Projected hours of a whole run by phase, one bar a system."""
    facts = results["projection"].facts if "projection" in results else {}
    seconds = facts.get("seconds")
    if not seconds:
        return None
    figure, axis = plt.subplots(figsize=(8, 0.7 * len(seconds) + 1.6))
    others = facts.get("other_models", ())
    bars = {
        label_of(side) + "\n(another model)" * (side in others): {
            phase.replace("_", " "): phases[phase] for phase in PHASES if phases.get(phase)
        }
        for side, phases in seconds.items()
    }
    _stacked(axis, bars, "h", HOUR)
    axis.set_xlabel("projected hours of an Atari-100k run of the paper's agent (600 epochs)")
    figure.tight_layout()
    return figure


def _stacked(
    axis: Axes,
    bars: Mapping[str, Mapping[str, float]],
    unit: str,
    divisor: float,
    wholes: Mapping[str, float] | None = None,
) -> None:
    """Horizontal stacked bars, the first on top, each with its total: of its parts, or as measured (`wholes`)."""
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    order = list(bars)[::-1]
    totals = {label: sum(bars[label].values()) / divisor for label in order}
    left = dict.fromkeys(order, 0.0)
    for name, colour in zip(names, PART_COLOURS[: len(names)], strict=True):
        widths = [bars[label].get(name, 0.0) / divisor for label in order]
        axis.barh(order, widths, left=[left[label] for label in order], color=colour, label=name)
        for label, width in zip(order, widths, strict=True):
            left[label] += width
    for place, label in enumerate(order):
        words = f" {_three_digits(totals[label])} {unit}"
        whole = (wholes or totals)[label] / (divisor if wholes else 1)
        if whole < 0.995 * totals[label]:
            words = f" {_three_digits(whole)} {unit} (line)"
            axis.plot([whole, whole], [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        axis.text(totals[label], place, words, va="center", fontsize=9)
    axis.set_xlim(0, max(totals.values()) * 1.15)
    axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for spine in ("top", "right"):
        axis.spines[spine].set_visible(False)


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def cost_growth(results: Results) -> Any:
    """Seconds against what grows, on logarithmic axes, with the line that a linear cost would follow."""
    if "scaling" not in results:
        return None
    panels = [
        (key, results["scaling"].timed(key))
        for key in ("by_batch", "by_horizon", "by_environments", "by_replay", "by_threads")
    ]
    panels = [(key, sizes) for key, sizes in panels if len(sizes) > 1]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.4 * columns, 3.7 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (_, sizes) in zip(axes.flat, panels, strict=False):
        _growth(axis, sizes)
    figure.tight_layout()
    return figure


def _growth(axis: Axes, sizes: Sequence[Size]) -> None:
    """One panel: medians and quartiles of what is timed against what grows."""
    what = next(iter(sizes[0].what))
    x: list[Any] = [size.what[what] for size in sizes]
    for index, side in enumerate(sizes[0].seconds):
        spreads = [size.seconds[side] for size in sizes]
        y = [spread.median for spread in spreads]
        colour = PART_COLOURS[index]
        axis.plot(x, y, marker="o", markersize=4, color=colour, label=side)
        low, high = ([getattr(spread, name) for spread in spreads] for name in ("quartile_1", "quartile_3"))
        axis.fill_between(x, low, high, color=colour, alpha=0.2)
        if what == "threads":  # more of them take less
            axis.plot(x, [y[0] * x[0] / value for value in x], ":", color=colour, linewidth=1)
        else:
            axis.plot(x, [y[-1] * value / x[-1] for value in x], ":", color=colour, linewidth=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    shown = x if len(x) <= 6 else x[:: -(-len(x) // 6)]
    axis.set_xticks(shown, [f"{value:,}" for value in shown], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel(what.replace("_", " "))
    axis.set_title(f"time by {what.replace('_', ' ')} (dotted: linear)", fontsize=9)
    axis.legend(fontsize=8)
    axis.grid(True, which="both", alpha=0.2)


PLOTS = {
    "speed_by_batch": speed_by_batch,
    "rollout_parts": rollout_parts,
    "run_by_phase": run_by_phase,
    "cost_growth": cost_growth,
}
