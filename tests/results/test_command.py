"""`python -m iris_fast.results`: what it says of runs in hand, what it refuses, its tables and figures."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from iris_fast.command_line import run_command
from iris_fast.results import summarize
from iris_fast.results.__main__ import main
from iris_fast.results.figures import line_of
from iris_fast.results.scores import NEWER_METHODS, published
from iris_fast.training.plots import ORANGE
from tests.support.commands import Say, refusal


def run_results(*arguments: object) -> int:
    return run_command(main, [*(str(argument) for argument in arguments), "--reps", "20"])


def make_run(folder: Path, game: str, returns: list[float], seed: int | None = 0, **changed: Any) -> Path:
    (folder / "logs").mkdir(parents=True)
    content = {"game": game, "epoch": 600, "settings": {"env": {}}, "returns": returns} | changed
    (folder / "logs" / "evaluation.json").write_text(json.dumps(content))
    if seed is not None:
        (folder / "config").mkdir()
        (folder / "config" / "trainer.yaml").write_text(f"common:\n  seed: {seed}\n  epochs: 600\n")
    return folder


def test_runs_are_compared_on_their_games_and_it_says_which(tmp_path: Path, capsys: Say) -> None:
    runs = [
        make_run(tmp_path / "a", "Pong", [10.0, 20.0]),
        make_run(tmp_path / "b", "PongNoFrameskip-v4", [14.6], seed=1, epoch=300),
        make_run(tmp_path / "c", "Boxing", [12.1], seed=None),
        make_run(tmp_path / "d", "Catch", [1.0]),
    ]
    assert run_results(*runs, "--name", "ours", "--methods", "IRIS,spr", "--format", "csv") == 0
    out, said = capsys.readouterr()
    aggregates, games, improvement = (list(csv.reader(part.splitlines())) for part in out.split("\n\n"))
    assert [row[0] for row in aggregates] == ["method", "IRIS", "SPR", "ours"]
    ours = dict(zip(aggregates[0], aggregates[-1], strict=True))
    mean = ((15 + 20.7) / 35.3 / 2 + 0.5 + 1) / 2
    assert ours["mean"] == f"{mean:.3f}" and ours["mean low"] == ours["mean high"] == ""
    assert ours["runs a game"] == "1–2" and ours["superhuman games"] == "2"
    assert [row[0] for row in games] == ["game", "Boxing", "Pong"] and games[2][-1] == "14.8"
    assert improvement[0][1] == "P(ours > Y)" and len(improvement) == 3
    assert "ours: 2 of 26 games: Boxing (seed ?); Pong (seeds 0, 1)" in said
    assert "missing: Alien, Amidar" in said
    assert "runs of Catch are left out" in said
    assert "no interval of ours" in said
    assert f"{tmp_path / 'b'} was evaluated after epoch 300 of 600" in said


def test_the_output_folder_gets_tables_and_figures(tmp_path: Path, capsys: Say) -> None:
    runs = [make_run(tmp_path / str(seed), "Pong", [seed], seed) for seed in (0, 1)]
    out = tmp_path / "new" / "folder"
    methods = "IRIS,Δ-IRIS,DrQ(eps),MuZero"
    assert run_results(*runs, "--methods", methods, "--format", "latex", "--output", out) == 0
    names = {f"{name}.{ending}" for name in ("aggregates", "improvement") for ending in ("tex", "png")}
    assert {path.name for path in out.iterdir()} == names | {"games.tex", "profiles.png"}
    for path in out.glob("*.png"):
        assert path.stat().st_size < 100_000 and min(Image.open(path).size) > 200
    text = (out / "games.tex").read_text()
    assert (
        text.startswith(r"\begin{tabular}{lrrrrrrr}")
        and r"$\Delta$-IRIS" in text
        and r"DrQ($\epsilon$)" in text
        and r"\textbf{" in text
    )
    assert run_results("--methods", methods, "--output", runs[0] / "logs" / "evaluation.json") == 2
    assert "--output" in capsys.readouterr().err


def test_every_method_has_a_line_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "Pong", [20.0], 0)
    for runs, methods in (([run], list(published())), ([], list(NEWER_METHODS))):
        result = summarize(runs, methods=methods, reps=2, show=False)
        lines = {method.name: line_of(result, method.name) for method in result.methods}
        assert len(set(lines.values())) == len(lines) == len(methods) + len(runs)
        oranges = [name for name, (colour, _) in lines.items() if colour in (ORANGE, "#e69f00")]
        assert oranges == [result.subject]


def test_summarize_prints_the_aggregates(tmp_path: Path, capsys: Say) -> None:
    runs = [make_run(tmp_path / str(seed), "Pong", [20.0], seed) for seed in (0, 1)]
    result = summarize(runs, methods=["IRIS"], name="sweep", reps=10)
    out = capsys.readouterr().out
    assert "| sweep " in out and "sweep: 1 of 26 games: Pong (seeds 0, 1)" in out
    assert result.games == ["Pong"] and result.subject == "sweep"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"game": "Pong", "returns": []}',
        '{"game": "Pong", "returns": [NaN]}',
        '{"game": "Pong", "returns": [1e999]}',
        '{"game": "Pong", "returns": [1' + "0" * 400 + "]}",
        '{"game": "Pong", "returns": [1e308, 1e308]}',
        '{"game": "Pong", "returns": [true]}',
        '{"game": "Pong", "returns": "123"}',
        '{"game": "Pong", "returns": 1}',
        '{"game": 3, "returns": [1]}',
        '{"game": "Pong", "returns": [1], "settings": []}',
        '{"game": "Pong", "returns": [1]',
    ],
)
def test_an_evaluation_that_is_not_whole_is_refused(content: str, tmp_path: Path, capsys: Say) -> None:
    run = make_run(tmp_path / "run", "Pong", [1.0])
    (run / "logs" / "evaluation.json").write_text(content)
    sentence = refusal(run_results, capsys, run)
    assert f"{run / 'logs' / 'evaluation.json'} is not a whole evaluation" in sentence


def test_refusals_of_folders(tmp_path: Path, capsys: Say) -> None:
    run = make_run(tmp_path / "run", "Pong", [1.0])
    (tmp_path / "link").symlink_to(run)
    shutil.copytree(run, tmp_path / "copy")
    make_run(tmp_path / "other", "Pong", [2.0])
    for twice in ("run", "link", "copy"):
        assert "the same run as" in refusal(run_results, capsys, run, tmp_path / twice)
    assert "with the same seed, 0" in refusal(run_results, capsys, run, tmp_path / "other")
    assert f"'{tmp_path / 'ruin'}' is not a folder" in refusal(run_results, capsys, tmp_path / "ruin")
    (tmp_path / "empty").mkdir()
    assert "python -m iris_fast.evaluate" in refusal(run_results, capsys, tmp_path / "empty")
    assert "unknown game" in refusal(run_results, capsys, make_run(tmp_path / "x", "Pung", [1.0]))
    assert "no human score" in refusal(run_results, capsys, make_run(tmp_path / "y", "Catch", [1.0]))
    clipped = make_run(tmp_path / "z", "Pong", [1.0], settings={"env": {"clip_reward": True}})
    assert "clip_reward" in refusal(run_results, capsys, clipped)


def test_refusals_of_options(tmp_path: Path, capsys: Say) -> None:
    assert "nearest: Simulus" in refusal(run_results, capsys, "--methods", "Simulos")
    assert "nothing to compare" in refusal(run_results, capsys, "--methods", "")
    run = make_run(tmp_path / "run", "Pong", [1.0])
    assert "--name IRIS" in refusal(run_results, capsys, run, "--name", "IRIS")
    assert "--seed -1" in refusal(run_results, capsys, "--seed", "-1")
    assert "--reps 0" in refusal(lambda *a: run_command(main, [*a]), capsys, "--reps", "0")


def test_without_the_extra_one_sentence_says_how_to_install_it(
    capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    assert run_results() == 2
    loading, sentence = capsys.readouterr().err.splitlines()
    assert loading == "loading rliable …"
    assert (
        sentence.startswith("error: results need rliable") and "pip install 'iris_fast[results]'" in sentence
    )
