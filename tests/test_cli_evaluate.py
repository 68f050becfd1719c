"""`python -m iris_fast.evaluate` from its command line to what it prints and writes."""

from __future__ import annotations

import errno
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iris_fast import __version__, acting
from iris_fast.agent import Agent
from iris_fast.graphs import Uncaptured
from iris_fast.interop.public import to_public
from iris_fast.training.final_evaluation import table
from tests.support.commands import Say, contents, run_evaluate, train_micro
from tests.support.micro import micro_config

# The smallest agent that has a public form, which fixes some sizes.
PUBLIC_SIZES = (
    "tokenizer.encoder.config.ch=32",
    "tokenizer.encoder.config.norm_groups=32",
    "actor_critic.channels=[32,32,64,64]",
    "actor_critic.lstm_dim=512",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on Catch; not to be written to."""
    run = tmp_path_factory.mktemp("evaluate") / "run"
    assert train_micro(run, "common.epochs=2", "evaluation.should=false") == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be written to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "logs" / "evaluation.json").read_text())


def test_help_reads_well(capsys: Say) -> None:
    with pytest.raises(SystemExit) as ended:
        run_evaluate("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    options = "game episodes envs temperature epsilon greedy seed device video json"
    for option in options.split():
        assert re.search(rf"^  --{option}\b", text, re.MULTILINE), option
    assert "RUN/logs/evaluation.json" in text and "examples:" in text
    assert max(map(len, text.splitlines())) <= 110


def test_acting_is_captured_where_there_are_graphs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All environments in one graph; with the same episodes."""
    captures = 0

    class Counted(Uncaptured):
        def capture(self, function: Any) -> Any:
            nonlocal captures
            captures += 1
            return super().capture(function)

    assert run_evaluate(run, "--episodes", 6, "--envs", 3) == 0
    plain = result_of(run)["returns"]
    monkeypatch.setattr("iris_fast.training.final_evaluation.graphs_of", Counted)
    assert run_evaluate(run, "--episodes", 6, "--envs", 3) == 0
    assert captures == 1 and result_of(run)["returns"] == plain


def test_a_run_is_evaluated(run: Path, capsys: Say) -> None:
    before = contents(run)
    assert run_evaluate(run, "--episodes", 20) == 0
    said = capsys.readouterr()
    result = result_of(run)
    found, returns = result["statistics"], np.array(result["returns"])
    assert (result["game"], result["epoch"], len(returns)) == ("Catch", 2, 20)
    assert set(result["returns"]) <= {-1.0, 1.0} and set(result["lengths"]) == {9}
    assert found["return"] == returns.mean()
    assert found["standard_error"] == pytest.approx(returns.std(ddof=1) / np.sqrt(20))
    assert found["human_normalized_score"] is None
    settings = result["settings"]
    assert (settings["envs"], settings["temperature"], settings["epsilon"]) == (8, 0.5, 0.0)
    assert not settings["greedy"] and settings["backend"] == "catch" and settings["env"]["noop_max"] == 1
    assert result["versions"]["iris_fast"] == __version__
    lines = dict(re.findall(r"^(\S.*?)  +(.*)$", said.out, re.MULTILINE))
    assert lines["episodes"] == "20" and lines["game"] == "Catch (catch)"
    assert lines["mean return"].startswith(f"{returns.mean():.4g} ± ") and "9 steps" in lines["mean length"]
    assert lines["checkpoint"].endswith("last.pt after epoch 2") and "human-normalised" not in lines
    assert said.err == ""  # no bar where nobody watches
    after = contents(run)
    assert after.keys() - before.keys() == {"logs/evaluation.json"}
    assert {name: after[name] for name in before} == before


def test_the_same_seed_plays_the_same_episodes(run: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        assert run_evaluate(run, "--episodes", 24, "--seed", seed) == 0
        found.append(result_of(run)["returns"])
    assert found[0] == found[1] != found[2]


def test_how_actions_are_chosen(run: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Any] = []
    choose = acting.choose_actions

    def remember(logits: torch.Tensor, config: Any, seed: int, position: int) -> np.ndarray:
        played.append((config, choose(logits, config, seed, position), logits))
        return played[-1][1]

    monkeypatch.setattr(acting, "choose_actions", remember)
    assert run_evaluate(run, "--episodes", 3, "--envs", 2, "--temperature", 2, "--epsilon", 0.25) == 0
    config, _, logits = played[0]
    assert (config.temperature, config.epsilon, config.should_sample) == (2.0, 0.25, True)
    assert logits.shape == (2, 3) and result_of(run)["settings"]["envs"] == 2
    assert "temperature 2, epsilon 0.25" in capsys.readouterr().out
    played.clear()
    assert run_evaluate(run, "--episodes", 2, "--greedy") == 0
    assert all((actions == logits.argmax(1).numpy()).all() for _, actions, logits in played)
    assert "greedy" in capsys.readouterr().out and result_of(run)["settings"]["envs"] == 2


def test_video_and_json_are_written_where_they_are_wanted(run: Path, tmp_path: Path, capsys: Say) -> None:
    video, copy = tmp_path / "films" / "first.mp4", tmp_path / "result.json"
    assert run_evaluate(run, "--episodes", 2, "--video", video, "--json", copy) == 0
    assert video.read_bytes()[4:8] == b"ftyp"
    assert json.loads(copy.read_text()) == result_of(run)
    assert f"wrote {video}" in capsys.readouterr().out


def test_the_video_is_of_one_whole_episode(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed: list[Any] = []
    monkeypatch.setattr(
        "iris_fast.training.final_evaluation.save_steps", lambda *arguments: filmed.append(arguments)
    )
    assert run_evaluate(run, "--episodes", 9, "--envs", 3, "--video", tmp_path / "first.mp4") == 0
    ((_, frames, actions, rewards, _),) = filmed
    assert len(frames) == 10 and len(actions) == len(rewards) == 9  # the last one is what the end looked like
    assert sum(rewards) == result_of(run)["returns"][0]


def test_a_run_that_may_not_be_written_to(run: Path, tmp_path: Path, capsys: Say) -> None:
    shutil.rmtree(run / "logs")
    (run / "logs").write_text("in the way, as a missing permission would be (which root has)")
    before = contents(run)
    assert run_evaluate(run, "--episodes", 2, "--json", tmp_path / "own.json") == 0
    said = capsys.readouterr().out
    assert "mean return" in said and f"wrote {tmp_path / 'own.json'}\n" in said
    assert f"not kept in the run: {run / 'logs' / 'evaluation.json'} cannot be written" in said
    assert contents(run) == before and len(json.loads((tmp_path / "own.json").read_text())["returns"]) == 2


def test_a_longer_evaluation_is_not_replaced_by_a_shorter_one(run: Path, capsys: Say) -> None:
    assert run_evaluate(run, "--episodes", 5) == 0
    longest = result_of(run)
    assert run_evaluate(run, "--episodes", 3, "--seed", 1) == 0
    beside = run / "logs" / "evaluation_3_episodes.json"
    assert f"wrote {beside} (evaluation.json there has more episodes: 5)" in capsys.readouterr().out
    assert result_of(run) == longest and len(json.loads(beside.read_text())["returns"]) == 3
    assert run_evaluate(run, "--episodes", 5, "--seed", 1) == 0
    assert result_of(run) != longest and result_of(run)["settings"]["seed"] == 1
    (run / "logs" / "evaluation.json").write_text("torn")
    assert run_evaluate(run, "--episodes", 1) == 0 and len(result_of(run)["returns"]) == 1


def test_a_checkpoint_of_a_run_knows_its_game_and_settings(run: Path, tmp_path: Path, capsys: Say) -> None:
    assert run_evaluate(run, "--episodes", 6) == 0
    shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "copied.pt")
    before = contents(run)
    for path in (run / "checkpoints" / "last.pt", tmp_path / "copied.pt"):
        assert run_evaluate(path, "--episodes", 6, "--json", tmp_path / "own.json") == 0
        own = json.loads((tmp_path / "own.json").read_text())
        assert {**own, "checkpoint": ""} == {**result_of(run), "checkpoint": ""}
    assert contents(run) == before


@pytest.mark.parametrize("episodes", [1, 3])
def test_the_bar_moves_with_steps(run: Path, episodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("iris_fast.training.progress.REFRESH_SECONDS", 0)
    assert run_evaluate(run, "--episodes", episodes, "--envs", 1) == 0
    shown = [int(count) for count in re.findall(r"(\d+) steps", terminal.getvalue())]
    assert set(range(1, 9 * episodes)) <= set(shown)


def test_a_full_disk_ends_an_evaluation_with_its_table_and_4(
    run: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for named, path in (((), run / "logs" / "evaluation.json"), (("--json", tmp_path / "x"), tmp_path / "x")):

        def full(written: Path, data: bytes, path: Path = path) -> None:
            if written == path:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("iris_fast.training.final_evaluation.write_atomically", full)
        assert run_evaluate(run, "--episodes", 2, *named) == 4
        said = capsys.readouterr()
        assert "mean return" in said.out
        assert said.err == f"stopped: the disk is full and {path} was not written: make room\n"


@pytest.mark.parametrize("form", ["ours", "public"])
def test_a_checkpoint_file_is_evaluated_with_its_game(form: str, trained: Path, tmp_path: Path) -> None:
    path = trained / "checkpoints" / "last.pt"
    before = contents(trained)
    if form == "public":
        config = micro_config(*PUBLIC_SIZES).agent
        path = tmp_path / "public.pt"
        torch.save(to_public(Agent(config, 3).state_dict(), config), path)
    assert run_evaluate(path, "--game", "catch", "--episodes", 4, "--json", tmp_path / "x.json") == 0
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["game"] == "Catch" and len(result["returns"]) == 4
    assert result["epoch"] == (2 if form == "ours" else None)
    assert contents(trained) == before


def test_a_run_folder_of_the_public_implementation(tmp_path: Path, capsys: Say) -> None:
    config = micro_config(*PUBLIC_SIZES).agent
    run = tmp_path / "theirs"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config").mkdir()
    (run / "config" / "trainer.yaml").write_text("env: {train: {id: PongNoFrameskip-v4}}\n")
    torch.save(to_public(Agent(config, 3).state_dict(), config), run / "checkpoints" / "last.pt")
    before = contents(run)
    assert run_evaluate(run, "--game", "Catch", "--episodes", 2) == 0
    assert "Catch (catch)" in capsys.readouterr().out
    assert contents(run) == before


def test_atari_is_scored_against_human_players(tmp_path: Path, capsys: Say) -> None:
    pytest.importorskip("ale_py")
    run = tmp_path / "run"
    overrides = ("common.epochs=1", "training.should=false", "evaluation.should=false", "env.backend=ale")
    short = ("collection.train.config.num_steps=2", "env.test.max_episode_steps=81")
    assert train_micro(run, *overrides, *short, game="Pong") == 0
    capsys.readouterr()
    assert run_evaluate(run, "--episodes", 1) == 0
    result = result_of(run)
    assert result["lengths"] == [20]  # 1 no-op and 20 steps of 4 frames
    (reached,) = result["returns"]
    assert result["statistics"]["human_normalized_score"] == pytest.approx((reached + 20.7) / 35.3)
    assert result["statistics"]["standard_error"] is None
    said = capsys.readouterr().out
    assert "human-normalised" in said and "±" not in said


def test_ctrl_c_writes_nothing(run: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    steps = []
    choose = acting.choose_actions

    def interrupted(*arguments: Any) -> np.ndarray:
        steps.append(1)
        if len(steps) == 12:  # in the second round of episodes of 9 steps
            raise KeyboardInterrupt
        return choose(*arguments)

    monkeypatch.setattr(acting, "choose_actions", interrupted)
    assert run_evaluate(run, "--episodes", 9, "--envs", 3) == 130
    assert capsys.readouterr().err == "stopped: interrupted after 3 of 9 episodes; nothing was written\n"
    assert contents(run) == before


def test_the_table_of_a_large_score() -> None:
    statistics = {
        "return": 23456.7,
        "standard_error": 1234.5,
        "return_std": 9876.5,
        "return_min": 100.0,
        "return_max": 65000.0,
        "return_median": 23000.0,
        "length": 12345.6,
        "human_normalized_score": 2.84,
    }
    settings = {
        "greedy": False,
        "temperature": 0.5,
        "epsilon": 0.0,
        "seed": 0,
        "episodes": 100,
        "backend": "ale",
    }
    result = {"game": "Qbert", "checkpoint": "last.pt", "epoch": None, "settings": settings}
    text = table({**result, "statistics": statistics})
    assert "e+" not in text, text
    assert "23456.7 ± 1234.5" in text and "100, 65000" in text and "2.840" in text
    starts = {re.match(r"(?:\S+ )*\S+  +", line).end() for line in text.splitlines()}  # type: ignore[union-attr]
    assert len(starts) == 1  # one column
