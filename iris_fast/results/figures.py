"""Figures of a summary: aggregates with intervals, performance profiles, probability of improvement."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from iris_fast.files import explained_writing, write_atomically
from iris_fast.training.plots import BLUE, GREEN, GREY, ORANGE

from .statistics import AGGREGATES, TAUS, Estimate
from .summary import Summary

# The colours of Okabe and Ito, which colour-blind readers tell apart, without the two oranges: the subject has orange
# to itself. No two of twenty methods have both colour and style in common.
OTHERS = (BLUE, GREEN, "#cc79a7", "#56b4e9", "#000000")
STYLES = ("-", "--", ":", "-.")
DPI = 110


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Draws every figure into the folder; returns the files."""
    made = {"aggregates": aggregates_figure(summary), "profiles": profiles_figure(summary)}
    if summary.improvements:
        made["improvement"] = improvement_figure(summary)
    return [save(figure, folder / f"{name}.png") for name, figure in made.items()]


def save(figure: Figure, path: Path) -> Path:
    with explained_writing(path, "choose another folder with --output"):
        write_atomically(path, png(figure))
    return path


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 128 colours, a third as large as one of all colours."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    Image.open(drawn).convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()


def aggregates_figure(summary: Summary) -> Figure:
    """A panel an aggregate, a row a method: the value, and its 95 % interval where there is one."""
    figure = _figure(10.5, 1.5 + 0.3 * len(summary.methods))
    panels: Any = figure.subplots(1, len(AGGREGATES), sharey=True)
    for axes, name in zip(panels, AGGREGATES, strict=True):
        found = {method.name: summary.aggregates[method.name][name] for method in summary.methods}
        _intervals(axes, found, summary)
        better = "lower" if name == "optimality gap" else "higher"
        axes.set_title(f"{name} ({better} is better)", loc="left", fontsize="small", fontweight="bold")
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    figure.supxlabel(f"human-normalised score, {_games(summary)}{_method_words(summary)}", fontsize="small")
    return figure


def improvement_figure(summary: Summary) -> Figure:
    """A row a method: the probability that a run of the subject beats one of it."""
    figure = _figure(6, 1.4 + 0.3 * len(summary.improvements))
    axes = figure.subplots()
    _intervals(axes, summary.improvements, summary)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylabel("Y")
    words = _interval_words(found.interval is not None for found in summary.improvements.values())
    axes.set_xlabel(f"P({summary.subject} > Y), {_games(summary)}{words}", fontsize="small")
    axes.set_title("probability of improvement", loc="left", fontsize="medium", fontweight="bold")
    return figure


def profiles_figure(summary: Summary) -> Figure:
    """The share of runs above each score; bands are pointwise, and only where there is more than one run."""
    figure = _figure(8.5, 4.6)
    axes = figure.subplots()
    for name, found in summary.profiles.items():
        colour, style = line_of(summary, name)
        label = name if found.band is not None else f"{name} (no interval)"
        width = 2.4 if name == summary.subject else 1.5
        axes.plot(TAUS, found.shares, style, color=colour, linewidth=width, label=label)
        if found.band is not None:
            axes.fill_between(TAUS, *found.band, color=colour, alpha=0.13, linewidth=0)
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        " human", (1, 1), xycoords=("data", "axes fraction"), va="top", fontsize="small", color=GREY
    )
    axes.set_xscale("symlog", linthresh=1, linscale=1)
    ticks = [0, 0.25, 0.5, 1, 2, 4]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0, TAUS[-1])
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"human-normalised score τ, {_games(summary)}{_method_words(summary)}", fontsize="small")
    axes.set_ylabel("share of runs with a score above τ")
    _finish(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    return figure


def _intervals(axes: Axes, found: dict[str, Estimate], summary: Summary) -> None:
    names = list(found)[::-1]
    for row, name in enumerate(names):
        estimate, colour = found[name], ORANGE if name == summary.subject else BLUE
        if estimate.interval is None:
            axes.plot([estimate.value], [row], "o", markerfacecolor="white", color=colour, markersize=6)
            continue
        axes.plot(estimate.interval, [row, row], color=colour, alpha=0.35, linewidth=8, solid_capstyle="butt")
        axes.plot([estimate.value], [row], "|", color=colour, markersize=13, markeredgewidth=2.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    _finish(axes)


def line_of(summary: Summary, name: str) -> tuple[str, str]:
    """Colour and style of a method's line."""
    if name == summary.subject:
        return ORANGE, "-"
    others = [method.name for method in summary.methods if method.name != summary.subject]
    round_, place = divmod(others.index(name), len(OTHERS))
    return OTHERS[place], STYLES[round_ % len(STYLES)]


def _games(summary: Summary) -> str:
    return f"{len(summary.games)} games" if len(summary.games) > 1 else summary.games[0]


def _method_words(summary: Summary) -> str:
    return _interval_words(profile.band is not None for profile in summary.profiles.values())


def _interval_words(has_interval: Iterable[bool]) -> str:
    """What the figure's intervals are, and what has none; a line of its own."""
    has = list(has_interval)
    words = ["95 % stratified bootstrap intervals"] if any(has) else []
    words += [] if all(has) else ["no interval where a game has one run"]
    return "\n" + "; ".join(words)


def _finish(axes: Axes) -> None:
    axes.grid(axis="both", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
