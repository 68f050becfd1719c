"""The learning curve and the losses of runs, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from iris_fast.envs.games import ATARI_100K_SCORES
from iris_fast.errors import UserError
from iris_fast.files import explained_writing, open_atomically

from .curves import PICTURE_ENDINGS, Run, across_runs, running_mean

Axis = Literal["env_steps", "minutes"]
AXES: dict[Axis, str] = {"env_steps": "environment steps", "minutes": "minutes of training"}
PLOTS_FOLDER = Path("media") / "plots"

Canvas: TypeAlias = Figure | SubFigure

TOKENS_SHOWN = 16  # positions of a frame's tokens that have a line
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6b6b6b"
Line: TypeAlias = tuple[str, str | None, str]
Panel: TypeAlias = tuple[str, str, Sequence[Line]]
# Panels of losses: (title, vertical axis, [(metric, label, colour)]).
PANELS: tuple[Panel, ...] = (
    (
        "tokenizer",
        "loss",
        [
            ("tokenizer/train/total_loss", "total", "black"),
            ("tokenizer/train/reconstruction_loss", "reconstruction", BLUE),
            ("tokenizer/train/perceptual_loss", "perceptual", ORANGE),
            ("tokenizer/train/commitment_loss", "commitment", GREEN),
        ],
    ),
    (
        "world model",
        "loss (nats)",
        [
            ("world_model/train/total_loss", "total", "black"),
            ("world_model/train/loss_obs", "observations", BLUE),
            ("world_model/train/loss_rewards", "rewards", ORANGE),
            ("world_model/train/loss_ends", "ends", GREEN),
        ],
    ),
    (
        "actor-critic",
        "loss",
        [
            ("actor_critic/train/total_loss", "total", "black"),
            ("actor_critic/train/loss_actions", "actions", BLUE),
            ("actor_critic/train/loss_values", "values", ORANGE),
        ],
    ),
    ("policy entropy", "nats", [("actor_critic/train/entropy", "entropy", GREEN)]),
)
# Panels that say which part is the bottleneck, from the tokenizer to the policy.
BOTTLENECK: tuple[Panel, ...] = (
    (
        "codes",
        "codes",
        [
            ("tokenizer/train/codes_used", "in use", BLUE),
            ("tokenizer/train/codebook_perplexity", "perplexity", ORANGE),
        ],
    ),
    (
        "reconstruction of what moves",
        "absolute error",
        [
            ("tokenizer/train/reconstruction_loss_moving", "moving pixels", ORANGE),
            ("tokenizer/train/reconstruction_loss", "all pixels", BLUE),
            ("tokenizer/train/moving_vs_previous_frame", "moving, over the frame before", "black"),
        ],
    ),
    (
        "predictions",
        "loss over that of the base rate",
        [
            ("world_model/train/rewards_vs_base_rate", "rewards", ORANGE),
            ("world_model/train/ends_vs_base_rate", "ends", GREEN),
            ("world_model/train/obs_vs_marginal", "observations", BLUE),
        ],
    ),
    (
        "rewards",
        "share",
        [
            ("world_model/train/rewards_recall", "of rewards found", ORANGE),
            ("world_model/train/rewarded_steps", "of replayed steps with one", "black"),
            ("actor_critic/train/imagined_rewarded_steps", "of imagined steps", BLUE),
        ],
    ),
    (
        "observations by token position",
        "loss over that of the marginal",
        [
            (f"world_model/train/obs_vs_marginal_position/{position:02}", None, GREY)
            for position in range(TOKENS_SHOWN)
        ]
        + [("world_model/train/obs_vs_marginal", "all positions", BLUE)],
    ),
    (
        "policy",
        "share",
        [
            ("actor_critic/train/explained_variance", "of returns explained by values", BLUE),
            ("actor_critic/train/entropy_vs_maximum", "entropy of its maximum", GREEN),
        ],
    ),
)


def draw_runs(
    runs: Sequence[Run], *, out: Path | None = None, smooth: int | None = None, against: Axis = "env_steps"
) -> list[Path]:
    """Draws a learning curve, the losses and, where they were logged, the metrics that say which part is the
    bottleneck, for each game of `runs`; returns the files written.

    Args:
        runs: runs of one game or of several.
        out: a folder, or a picture file (.png, .pdf, .svg) for all; by default the run's folder media/plots, or the
        current folder for several runs.
        smooth: points in the running mean of the curves; by default a fiftieth of them.
        against: the horizontal axis of the learning curve: steps in the game, or minutes of training.
    """
    games: dict[str, list[Run]] = {}
    for run in runs:
        games.setdefault(run.game, []).append(run)
    if out is None:
        out = runs[0].folder / PLOTS_FOLDER if len(runs) == 1 else Path()
    if out.suffix.lower() in PICTURE_ENDINGS and not out.is_dir():
        if len(games) > 1:
            raise UserError(
                f"{out} is one picture for {len(games)} games ({', '.join(games)}): give a folder as --out"
            )
        (of_one_game,) = games.values()
        heights = (5, 7, 10)[: 3 if has_bottleneck(of_one_game) else 2]
        figure = _figure(10, sum(heights))
        parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
        draw_learning_curve(parts[0], of_one_game, smooth, against)
        draw_losses(parts[1], of_one_game, smooth)
        if len(heights) > 2:
            draw_losses(parts[2], of_one_game, smooth, BOTTLENECK)
        return [_save(figure, out)]
    written = []
    for game, of_game in games.items():
        suffix = f"_{game}" if len(games) > 1 else ""
        curve = _figure(9, 5)
        draw_learning_curve(curve, of_game, smooth, against)
        written.append(_save(curve, out / f"learning_curve{suffix}.png"))
        losses = _figure(11, 7.5)
        draw_losses(losses, of_game, smooth)
        written.append(_save(losses, out / f"losses{suffix}.png"))
        if has_bottleneck(of_game):
            bottleneck = _figure(11, 11)
            draw_losses(bottleneck, of_game, smooth, BOTTLENECK)
            written.append(_save(bottleneck, out / f"bottleneck{suffix}.png"))
    return written


def draw_learning_curve(
    canvas: Canvas, runs: Sequence[Run], smooth: int | None, against: Axis = "env_steps"
) -> None:
    """Train and test returns of runs of one game against environment steps or minutes."""
    axes = canvas.subplots()
    drawn = [
        _draw_returns(axes, runs, "collection/train/return", "training episodes", BLUE, smooth, against),
        _draw_returns(axes, runs, "collection/test/return", "test episodes", ORANGE, 1, against),
    ]
    if not any(drawn):
        _say_no_data(axes)
    _draw_scores(axes, runs[0].game)
    many = f", {len(runs)} runs: mean and range" if len(runs) > 1 else ""
    axes.set_xlabel(AXES[against])
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _start_at_zero(axes)
    _finish_axes(axes, f"{runs[0].game}{many}")


def has_bottleneck(runs: Sequence[Run]) -> bool:
    """Whether a run has a metric that the panels of `BOTTLENECK` alone show; runs of earlier versions have none."""
    shown, new = (
        {metric for _, _, lines in panels for metric, _, _ in lines} for panels in (PANELS, BOTTLENECK)
    )
    return any(name in record for run in runs for record in run.records for name in new - shown)


def draw_losses(
    canvas: Canvas, runs: Sequence[Run], smooth: int | None, panels: Sequence[Panel] = PANELS
) -> None:
    """The metrics of `panels` of runs of one game against epochs, by default the losses; evaluation's are dashed."""
    grid = canvas.subplots(len(panels) // 2, 2, sharex=True)
    for axes, (title, label, metrics) in zip(grid.flat, panels, strict=True):
        lines = []
        for metric, name, colour in metrics:
            lines.append(_draw_metric(axes, runs, metric, "epoch", name, colour, smooth))
            if name is not None:
                evaluated = metric.replace("/train/", "/eval/")
                _draw_metric(axes, runs, evaluated, "epoch", None, colour, 1, style="--")
        if any(lines):
            _choose_scale(axes)
        else:
            _say_no_data(axes)
        axes.set_ylabel(label)
        axes.tick_params(labelbottom=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        _finish_axes(axes, title)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    _start_at_zero(axes)  # all of them, because they share it
    if any("/eval/" in name for run in runs for record in run.records for name in record):
        canvas.supxlabel("solid: training batches; dashed: evaluation", fontsize="small", color=GREY)


def _draw_metric(
    axes: Axes,
    runs: Sequence[Run],
    metric: str,
    against: str,
    label: str | None,
    colour: str,
    smooth: int | None,
    style: str = "-",
) -> bool:
    """Draws the metric of one run, or mean, range and thin lines of several; False without any data."""
    curves = [curve for run in runs if len((curve := run.series(metric, against))[0])]
    if not curves:
        return False
    smoothed = [(x, running_mean(y, max(1, len(y) // 50) if smooth is None else smooth)) for x, y in curves]
    if len(runs) == 1:
        (x, raw), (_, y) = curves[0], smoothed[0]
        if not np.array_equal(raw, y):
            axes.plot(x, raw, style, color=colour, alpha=0.25, linewidth=0.8)
    else:
        for places, values in smoothed:
            axes.plot(places, values, style, color=colour, alpha=0.35, linewidth=0.8)
        x, y, lowest, highest = across_runs(smoothed)
        axes.fill_between(x, lowest, highest, color=colour, alpha=0.12, linewidth=0)
    marker = "o" if len(x) <= 40 else ""
    width = 1.8 if label else 1.2
    axes.plot(x, y, style, color=colour, linewidth=width, marker=marker, markersize=3.5, label=label)
    return True


def _draw_returns(
    axes: Axes, runs: Sequence[Run], metric: str, label: str, colour: str, smooth: int | None, against: Axis
) -> bool:
    """Draws returns; for one run with the range of the episodes' returns, if it was logged."""
    if len(runs) == 1:
        x, _ = runs[0].series(metric, against)
        (low_x, low), (high_x, high) = (runs[0].series(f"{metric}_{end}", against) for end in ("min", "max"))
        if len(x) and np.array_equal(x, low_x) and np.array_equal(x, high_x):
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            label += ", mean and range"
    return _draw_metric(axes, runs, metric, against, label, colour, smooth)


def _draw_scores(axes: Axes, game: str) -> None:
    """Dashed lines at the scores of a random and of a human player, if they are known.

    A score far outside the curve would flatten it, so it is named above the axes instead of drawn.
    """
    scores = dict(zip(("random", "human"), ATARI_100K_SCORES.get(game, ()), strict=False))
    low, high = axes.get_ylim()
    reach = 2 * (high - low)
    drawn = {name: score for name, score in scores.items() if low - reach <= score <= high + reach}
    for score in drawn.values():
        axes.axhline(score, color=GREY, linestyle="--", linewidth=1)
    low, high = axes.get_ylim()
    places = {name: (score - low) / (high - low) for name, score in drawn.items()}
    if len(places) == 2 and abs(places["human"] - places["random"]) < 0.1:
        # Each name takes two lines of text beside the axes, so keep them apart.
        middle, up = sum(places.values()) / 2, 0.05 if drawn["human"] > drawn["random"] else -0.05
        places = {"random": middle - up, "human": middle + up}
    style: dict[str, Any] = {"transform": axes.transAxes, "color": GREY, "fontsize": "small"}
    for name, place in places.items():
        axes.text(1.01, place, f"{name}\n{_number(scores[name])}", va="center", **style)
    beyond = [
        f"{name} {_number(score)} {'↑' if score > high else '↓'}"
        for name, score in scores.items()
        if name not in drawn
    ]
    axes.text(1.0, 1.015, "   ".join(beyond), ha="right", va="bottom", **style)


def _number(score: float) -> str:
    return (f"{score:,.0f}" if abs(score) >= 1000 else f"{score:g}").replace("-", "−")


def _choose_scale(axes: Axes) -> None:
    """A logarithmic axis if the drawn positive values span more than a factor of 20."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")


def _say_no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks([])


def _start_at_zero(axes: Axes) -> None:
    """Sets the horizontal axis from 0 to the largest value drawn so far; later data will not widen it."""
    axes.set_xlim(left=0)


def _finish_axes(axes: Axes, title: str) -> None:
    """Title, grid, no box, and the legend between title and axes, where it covers no data."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontweight="bold", pad=20)
    if axes.get_legend_handles_labels()[0]:
        place: dict[str, Any] = {
            "loc": "lower left",
            "bbox_to_anchor": (0.0, 1.0),
            "borderaxespad": 0.2,
            "borderpad": 0.0,
        }
        axes.legend(ncols=4, frameon=False, fontsize="small", columnspacing=1.5, **place)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, with room around its parts."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(width, height), layout=layout)


def _save(figure: Figure, path: Path) -> Path:
    with explained_writing(path, "choose another place with --out"), open_atomically(path) as file:
        figure.savefig(file, dpi=130, format=path.suffix[1:].lower())
    return path
