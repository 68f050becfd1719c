from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from iris_fast import plot
from iris_fast.command_line import run_command
from iris_fast.errors import UserError
from iris_fast.training import plots
from iris_fast.training.curves import Floats, across_runs, load_run, running_mean
from iris_fast.training.loggers import MetricLogger

RANGE = {"": 0.0, "_std": 0.7, "_min": -0.5, "_max": 0.75}  # of the returns of a test's episodes


def make_run(
    folder: Path, game: str | None = "Pong", epochs: int = 60, level: float = 0.0, collect: int = 50
) -> Path:
    """A run folder whose returns rise by one in ten epochs, from `level`; a test every fifth epoch."""
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "trainer.yaml").write_text(f"env:\n  train:\n    id: {game}\n" if game else "")
    logger = MetricLogger(folder, tensorboard=False, run_config={})
    for epoch in range(1, epochs + 1):
        metrics = {"tokenizer/train/total_loss": 10.0 / epoch, "actor_critic/train/entropy": 1.5}
        if epoch % 2 and epoch <= collect:
            metrics["collection/train/return"] = level + epoch / 10
        if epoch % 5 == 0:
            mean = level + epoch / 10
            metrics |= {f"collection/test/return{end}": mean + by for end, by in RANGE.items()}
            metrics |= {"tokenizer/eval/total_loss": 12.0 / epoch}
        logger.log(metrics, epoch=epoch, env_steps=200 * min(epoch, collect))
    logger.close()
    return folder


def learning_curve(runs: list[Path], smooth: int | None = None) -> Axes:
    figure = Figure()
    plots.draw_learning_curve(figure, [load_run(run) for run in runs], smooth)
    return figure.axes[0]


def is_drawn(path: Path) -> bool:
    """Whether the picture is of a fair size, and has more than one colour."""
    image = Image.open(path).convert("RGB")
    colours = image.getcolors(maxcolors=image.width * image.height)
    return min(image.size) > 400 and colours is not None and len(colours) > 20


def xs(line: Line2D) -> Floats:
    return np.asarray(line.get_xdata(), float)


def ys(line: Line2D) -> Floats:
    return np.asarray(line.get_ydata(), float)


def test_the_command_draws_two_pictures_into_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert plot.main([str(run)]) == 0
    pictures = [run / "media" / "plots" / name for name in ("learning_curve.png", "losses.png")]
    assert capsys.readouterr().out.split() == [str(path) for path in pictures]
    assert all(is_drawn(path) for path in pictures)


def test_out_is_a_folder_or_one_picture(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "run"))
    plot.main([run, "--out", str(tmp_path / "pictures")])
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"learning_curve.png", "losses.png"}
    plot.main([run, "--out", str(tmp_path / "all.png"), "--smooth", "3"])
    assert is_drawn(tmp_path / "all.png")
    plot.main([run, "--out", str(tmp_path / "all.svg")])
    assert (tmp_path / "all.svg").read_text().startswith("<?xml")


def test_several_games_get_pictures_of_their_own(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path / game, game)) for game in ("PongNoFrameskip-v4", "Breakout")]
    plot.main([*runs, "--out", str(tmp_path / "out")])
    names = {f"{kind}_{game}.png" for kind in ("learning_curve", "losses") for game in ("Pong", "Breakout")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    with pytest.raises(UserError, match="one picture for 2 games"):
        plot.main([*runs, "--out", str(tmp_path / "all.png")])


def test_a_learning_curve_shows_the_returns_logged(tmp_path: Path) -> None:
    axes = learning_curve([make_run(tmp_path / "run")], smooth=1)
    assert axes.get_xlabel() == "environment steps"
    train, test = (line for line in axes.get_lines() if str(line.get_label()).startswith(("train", "test")))
    np.testing.assert_allclose(xs(train), 200 * np.arange(1, 50, 2))
    np.testing.assert_allclose(ys(train), np.arange(1, 50, 2) / 10)
    # Collection stops at epoch 50: of the tests after it, the last one stands at the last step.
    np.testing.assert_allclose(xs(test), 1000 * np.arange(1, 11))
    np.testing.assert_allclose(ys(test)[-2:], [4.5, 6.0])
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((0.0, 6.75))  # from the lowest return to the highest


def test_scores_of_random_and_human_players_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    def texts(axes: Axes) -> str:
        return " ".join(text.get_text() for text in axes.texts)

    pong = learning_curve([make_run(tmp_path / "pong", "Pong", level=-10, epochs=250, collect=250)])
    dashed = [ys(line)[0] for line in pong.get_lines() if line.get_linestyle() == "--"]
    assert dashed == [-20.7, 14.6]
    assert "human\n14.6" in texts(pong)
    far = learning_curve([make_run(tmp_path / "far", "PrivateEye", level=20)])
    assert "human 69,571 ↑" in texts(far)
    assert far.get_ylim()[1] < 100  # a score out of reach does not flatten the curve
    assert "human" not in texts(learning_curve([make_run(tmp_path / "catch", "Catch")]))


def test_several_runs_are_drawn_as_mean_and_range_with_thin_lines(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(level), level=level, epochs=40 + 10 * level) for level in (0, 1)]
    axes = learning_curve(runs, smooth=1)
    assert "2 runs" in axes.get_title(loc="left")
    (mean,) = (line for line in axes.get_lines() if str(line.get_label()).startswith("test"))
    thin = [line for line in axes.get_lines() if line.get_color() == plots.ORANGE and line is not mean]
    assert len(thin) == 2
    # Up to epoch 40 both runs count; then the longer one goes on alone.
    np.testing.assert_allclose(ys(mean), [*(np.arange(5, 41, 5) / 10 + 0.5), 5.5, 6.0])


def test_losses_have_a_panel_per_part(tmp_path: Path) -> None:
    figure = Figure()
    plots.draw_losses(figure, [load_run(make_run(tmp_path / "run"))], smooth=1)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["tokenizer", "world model", "actor-critic", "policy entropy"]
    tokenizer = panels["tokenizer"]
    assert tokenizer.get_yscale() == "log"
    train, evaluation = tokenizer.get_lines()
    np.testing.assert_allclose(ys(train), 10 / np.arange(1, 61))
    assert evaluation.get_linestyle() == "--"
    assert [text.get_text() for text in panels["world model"].texts] == ["nothing logged yet"]


def drawn_points(axes: Axes) -> Floats:
    """Every point (x, y) of the lines and bands of axes."""
    lines = [np.stack([xs(line), ys(line)], axis=1) for line in axes.get_lines()]
    bands = [path.vertices for band in axes.collections for path in band.get_paths()]
    points = np.concatenate([np.asarray(part, float) for part in [*lines, *bands]] or [np.empty((0, 2))])
    return points[np.isfinite(points).all(axis=1)]


def staggered_run(folder: Path, epochs: int) -> Path:
    """A run whose parts begin and end at different epochs, the tokenizer's long before the others'."""
    logger = MetricLogger(folder, tensorboard=False, run_config={})
    for epoch in range(1, epochs + 1):
        metrics = {"collection/train/return": float(epoch)} if epoch <= 30 else {}
        for part, first, last in (("tokenizer", 1, 12), ("world_model", 9, 99), ("actor_critic", 21, 99)):
            if first <= epoch <= last:
                metrics |= {f"{part}/train/total_loss": 1 / epoch, f"{part}/train/loss_values": -epoch / 9}
                metrics[f"{part}/train/entropy"] = 1.0
            if first < epoch <= last and epoch % 6 == 0:
                metrics |= {f"{part}/eval/total_loss": 2 / epoch, "collection/test/return": 20.0}
        logger.log(metrics, epoch=epoch, env_steps=300 * epoch)
    logger.close()
    return folder


def committed_runs(folder: Path) -> list[Path]:
    """Run folders with the metrics that are committed of Catch."""
    found = sorted(Path("benchmarks/results/cpu/catch").glob("run_*_metrics.jsonl"))
    for number, file in enumerate(found):
        (folder / f"{number}" / "logs").mkdir(parents=True)
        (folder / f"{number}" / "logs" / "metrics.jsonl").write_bytes(file.read_bytes())
    return [folder / f"{number}" for number in range(len(found))]


@pytest.mark.parametrize("which", ["one", "several", "committed"])
def test_every_point_of_every_metric_lies_within_its_axes(tmp_path: Path, which: str) -> None:
    lengths: list[int] = {"one": [44], "several": [44, 30], "committed": []}[which]
    folders = [staggered_run(tmp_path / str(length), length) for length in lengths] or committed_runs(
        tmp_path
    )
    assert folders
    runs = [load_run(folder) for folder in folders]
    losses, curve = Figure(), Figure()
    plots.draw_losses(losses, runs, smooth=None)
    plots.draw_learning_curve(curve, runs, smooth=None)
    drawn = {axes: drawn_points(axes) for axes in [*losses.axes, *curve.axes]}
    for axes, points in drawn.items():
        assert len(points)
        for values, (low, high) in zip(points.T, (axes.get_xlim(), axes.get_ylim()), strict=True):
            assert low <= values.min() and values.max() <= high, axes.get_title(loc="left")
    for panel, (_, _, metrics) in zip(losses.axes, plots.PANELS, strict=True):
        kinds = ("/train/", "/eval/")
        names = [metric.replace("/train/", kind) for kind in kinds for metric, _, _ in metrics]
        ends = [x.max() for run in runs for name in names if len(x := run.series(name, "epoch")[0])]
        assert drawn_points(panel)[:, 0].max() == max(ends)


def test_a_lone_curve_has_its_name_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=3)  # before its first evaluation
    legend = learning_curve([run]).get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["training episodes"]


def test_running_mean_takes_neighbours_and_fewer_at_the_ends() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0, 8.0])
    np.testing.assert_allclose(running_mean(values, 3), [1.5, 3, 11 / 3, 17 / 3, 5.5])
    np.testing.assert_allclose(running_mean(values, 2), [1.5, 4, 4.5, 5.5, 8])
    np.testing.assert_array_equal(running_mean(values, 1), values)
    np.testing.assert_allclose(running_mean(values, 100), np.full(5, 4.0))


def test_curves_are_put_together_at_each_others_places() -> None:
    first = (np.array([0.0, 2.0]), np.array([0.0, 2.0]))
    second = (np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0, 5.0]))
    x, mean, lowest, highest = across_runs([first, second])
    np.testing.assert_array_equal(x, [0, 1, 2, 3])
    np.testing.assert_array_equal(mean, [0, 2, 3, 5])
    np.testing.assert_array_equal(lowest, [0, 1, 2, 5])
    np.testing.assert_array_equal(highest, [0, 3, 4, 5])


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    logger = MetricLogger(tmp_path, tensorboard=False, run_config={})
    for epoch, value in enumerate([1.0, float("nan"), float("inf"), 4.0], start=1):
        logger.log({"a": value}, epoch=epoch, env_steps=epoch)
    x, y = load_run(tmp_path).series("a", "epoch")
    np.testing.assert_array_equal(x, [1, 4])
    np.testing.assert_array_equal(y, [1.0, 4.0])


def test_a_run_without_a_readable_configuration_goes_by_its_folder(tmp_path: Path) -> None:
    assert load_run(make_run(tmp_path / "mine", game=None)).game == "mine"
    assert load_run(make_run(tmp_path / "other", game="SomeGameOfMyOwn")).game == "SomeGameOfMyOwn"


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ("nothing", [], "is not a folder"),
        ("folder", [], "is not the folder of a run"),
        ("config", [], "has no metrics yet"),
        ("run", ["--smooth", "0"], "--smooth 0 is not a number of points"),
        ("run", ["--out", "{folder}/config/trainer.yaml"], "ends in .png, .pdf or .svg"),
        ("run", ["--out", "{folder}/curves.jpg"], "ends in .png, .pdf or .svg"),
        ("run", ["--out", "{folder}/logs/metrics.jsonl/new"], "a file is in the place of a folder"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str, arguments: list[str], message: str
) -> None:
    folder = tmp_path / "run"
    if make == "folder":
        folder.mkdir()
    elif make == "config":
        (folder / "config").mkdir(parents=True)
        (folder / "config" / "trainer.yaml").touch()
    elif make == "run":
        make_run(folder)
    filled = [argument.format(folder=folder) for argument in arguments]
    assert run_command(plot.main, [str(folder), *filled]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "iris_fast.plot", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def measured_run(folder: Path) -> Path:
    """A run resumed by a version that logs which part is the bottleneck, from its fifth epoch on."""
    run = make_run(folder, epochs=4)
    logger = MetricLogger(run, tensorboard=False, run_config={})
    names = [metric for _, _, lines in plots.BOTTLENECK for metric, _, _ in lines]
    for epoch in range(5, 9):
        metrics = dict.fromkeys(names, epoch / 10)
        metrics |= {
            "world_model/eval/obs_vs_marginal": 0.9,
            "world_model/eval/obs_vs_marginal_position/03": 0.9,
        }
        logger.log(metrics, epoch=epoch, env_steps=200 * epoch)
    logger.close()
    return run


def test_the_bottleneck_has_a_picture_where_it_was_logged(tmp_path: Path) -> None:
    run = measured_run(tmp_path / "run")
    plot.main([str(run)])
    names = {path.name for path in (run / "media" / "plots").iterdir()}
    assert names == {"learning_curve.png", "losses.png", "bottleneck.png"}
    assert is_drawn(run / "media" / "plots" / "bottleneck.png")
    heights = []
    for name, folder in {"before.png": make_run(tmp_path / "before"), "with.png": run}.items():
        plot.main([str(folder), "--out", str(tmp_path / name)])
        heights.append(Image.open(tmp_path / name).height)
    assert heights[0] < heights[1]


def test_the_bottleneck_has_a_panel_from_the_tokenizer_to_the_policy(tmp_path: Path) -> None:
    figure, run = Figure(), load_run(measured_run(tmp_path / "run"))
    plots.draw_losses(figure, [run], 1, plots.BOTTLENECK)
    assert len(figure.axes) == len(plots.BOTTLENECK)
    for axes, (title, _, lines) in zip(figure.axes, plots.BOTTLENECK, strict=True):
        assert axes.get_title(loc="left") == title
        solid = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
        assert len(solid) == len(lines)
        for line in solid:
            np.testing.assert_array_equal(xs(line), np.arange(5, 9))
    by_position = figure.axes[
        [title for title, _, _ in plots.BOTTLENECK].index("observations by token position")
    ]
    dashed = [line for line in by_position.get_lines() if line.get_linestyle() == "--"]
    assert len(dashed) == 1, "positions have no second line"


def test_a_learning_curve_against_minutes(tmp_path: Path) -> None:
    """Of training, with the pauses of a stopped run left out."""
    (tmp_path / "config").mkdir()
    logger = MetricLogger(tmp_path, tensorboard=False, run_config={})
    for epoch, seconds in ((1, 60.0), (2, 120.0), (3, 30.0)):
        metrics = {"collection/test/return": float(epoch), "duration/epoch": seconds}
        logger.log(metrics, epoch=epoch, env_steps=100)  # collection has ended
    logger.close()
    figure = Figure()
    plots.draw_learning_curve(figure, [load_run(tmp_path)], None, "minutes")
    (line,) = (each for each in figure.axes[0].get_lines() if each.get_label() == "test episodes")
    assert xs(line).tolist() == [1.0, 3.0, 3.5] and ys(line).tolist() == [1.0, 2.0, 3.0]
    assert figure.axes[0].get_xlabel() == "minutes of training"
    assert run_command(plot.main, [str(tmp_path), "--against", "minutes"]) == 0


def test_a_run_without_durations_has_no_minutes(tmp_path: Path) -> None:
    figure = Figure()
    plots.draw_learning_curve(figure, [load_run(make_run(tmp_path / "run"))], None, "minutes")
    assert figure.axes[0].texts[0].get_text() == "nothing logged yet"
