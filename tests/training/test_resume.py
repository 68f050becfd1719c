"""A run stopped in any way resumes as if it had not been stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_fast.command_line import run_command
from iris_fast.terminal import ENDING
from iris_fast.train import main
from iris_fast.training import builder
from iris_fast.training.evaluation import Evaluator
from iris_fast.training.loggers import MetricLogger, read_metrics
from iris_fast.training.run_folder import RunFolder
from iris_fast.training.trainer import Trainer
from tests.support.micro import MICRO
from tests.support.stopping import StopAt, assert_same_run, numbers, stop_during, wait_for

SLOWER = ["training.tokenizer.steps_per_epoch=60", "common.epochs=2"]


def train(run: Path, *arguments: str) -> int:
    return main(["--game", "Catch", "--run-dir", str(run), *MICRO, *arguments])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert train(run) == 0
    return run


def test_same_seed_same_run(uninterrupted: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "again") == 0
    assert_same_run(uninterrupted, tmp_path / "again")


def test_other_seed_other_run(uninterrupted: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "other", "--seed", "1") == 0
    assert numbers(uninterrupted) != numbers(tmp_path / "other")


def test_every_part_was_trained(uninterrupted: Path) -> None:
    last = numbers(uninterrupted)[-1]
    for name in ("tokenizer", "world_model", "actor_critic"):
        assert last[f"{name}/train/total_loss"] != 0
        assert last[f"{name}/train/grad_norm"] > 0


def test_resumed_after_an_epoch_is_the_uninterrupted_run(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    assert train(run, "common.epochs=1") == 0
    assert main(["--resume", str(run), "common.epochs=3"]) == 0
    assert_same_run(uninterrupted, run)


def test_a_run_of_a_former_version_goes_on_without_its_keys(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "older"
    assert train(run, "common.epochs=2") == 0
    config = RunFolder(run).config
    config.write_text(
        config.read_text().replace("evaluation:\n", "evaluation:\n  save_reconstructions: false\n")
    )
    capsys.readouterr()
    assert main(["--resume", str(run), "common.epochs=3"]) == 0
    said = capsys.readouterr().err
    assert "ignored: evaluation.save_reconstructions=False, which is no configuration key any more" in said
    assert "save_reconstructions" not in config.read_text()
    assert_same_run(uninterrupted, run)


@pytest.mark.parametrize("phase", ["collection", "tokenizer", "world_model", "actor_critic"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_the_middle_of_a_phase(
    phase: str, number: int, code: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "stopped"
    stop = StopAt(phase, 2, number)
    with monkeypatch.context() as patch:
        stop_during(patch, stop)
        assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == code
    assert stop.sent
    position = torch.load(RunFolder(run).checkpoint, weights_only=True)["position"]
    assert (position["epoch"], position["phase"]) == (2, phase)
    assert position["step"] > 0
    assert position["metrics"]["duration/epoch"] >= position["metrics"][f"duration/{phase}"] > 0
    assert main(["--resume", str(run)]) == 0
    assert_same_run(uninterrupted, run)


@pytest.mark.parametrize("number", [number for number in ENDING if number != signal.SIGTERM])
def test_a_terminal_that_closes_and_a_schedulers_warning(
    number: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come twice, and save all the same."""
    run, stop = tmp_path / "stopped", StopAt("world_model", 2, number)

    def twice(trainer: Trainer) -> None:
        stop(trainer)
        if stop.sent:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        stop_during(patch, twice)
        assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == 128 + number
    position = torch.load(RunFolder(run).checkpoint, weights_only=True)["position"]
    assert (position["epoch"], position["phase"]) == (2, "world_model")
    assert main(["--resume", str(run)]) == 0
    assert_same_run(uninterrupted, run)


def test_a_run_under_nohup_outlives_its_terminal(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stop = tmp_path / "run", StopAt("world_model", 2, signal.SIGHUP)
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_during(monkeypatch, stop)
        assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == 0
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert stop.sent
    assert_same_run(uninterrupted, run)


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_signal_while_the_trainer_is_built(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left of a run that has not begun, and handlers are as they were."""
    before, make = [signal.getsignal(each) for each in (signal.SIGINT, *ENDING)], Trainer.__init__

    def interrupted(self: Trainer, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "__init__", interrupted)
    run = tmp_path / "run"
    assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == "stopped: interrupted before training began"
    assert not run.exists()
    assert [signal.getsignal(each) for each in (signal.SIGINT, *ENDING)] == before


def test_a_signal_while_the_time_is_estimated_leaves_a_run_that_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(
            builder, "estimate_seconds_per_unit", lambda trainer: os.kill(os.getpid(), signal.SIGTERM)
        )
        assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"stopped: interrupted before training began; begin with --resume {run}"
    assert run_command(main, ["--resume", str(run), "training.should=false", "common.epochs=1"]) == 0


def test_signal_during_evaluation(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, evaluate = tmp_path / "stopped", Evaluator.evaluate
    sent: list[int] = []

    def interrupted(self: Evaluator, *arguments: Any) -> dict[str, float]:
        sent.append(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == 130
    assert len(sent) == 1
    position = torch.load(RunFolder(run).checkpoint, weights_only=True)["position"]
    assert (position["epoch"], position["phase"]) == (2, "evaluation")
    assert main(["--resume", str(run)]) == 0
    assert_same_run(uninterrupted, run)


def test_a_second_signal_stops_at_once(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the step itself, before anything of the epoch is saved: the checkpoint before it is gone on from."""
    run, stop = tmp_path / "stopped", StopAt("world_model", 2, signal.SIGINT)

    def twice(trainer: Trainer) -> None:
        stop(trainer)
        if stop.sent:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        stop_during(patch, twice)
        assert run_command(main, ["--game", "Catch", "--run-dir", str(run), *MICRO]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert "at once" in said and f"--resume {run}" in said
    position = torch.load(RunFolder(run).checkpoint, weights_only=True)["position"]
    assert (position["epoch"], position["step"]) == (2, 0)
    assert main(["--resume", str(run)]) == 0
    assert_same_run(uninterrupted, run)


def start(run: Path, *arguments: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "iris_fast.train",
        "--game",
        "Catch",
        "--run-dir",
        str(run),
        *MICRO,
        *arguments,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=limit)


def test_kill_9_loses_at_most_the_epoch_under_way(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole, *SLOWER) == 0
    process = start(killed, *SLOWER)
    wait_for(lambda: RunFolder(killed).checkpoint.is_file())
    time.sleep(0.3)  # somewhere in the second epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    saved = torch.load(RunFolder(killed).checkpoint, weights_only=True)
    assert saved["position"]["epoch"] >= 2
    assert main(["--resume", str(killed)]) == 0
    assert_same_run(whole, killed)


def test_kill_9_before_the_first_checkpoint_starts_over_in_the_same_folder(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole, *SLOWER, "common.epochs=1") == 0
    process = start(killed, *SLOWER, "common.epochs=1")
    wait_for(lambda: RunFolder(killed).config.is_file())
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not RunFolder(killed).checkpoint.is_file():
        assert main(["--resume", str(killed)]) == 0
    assert_same_run(whole, killed)


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the checkpoint of 200 kB cannot be written."""
    run = tmp_path / "full"
    assert train(run, "common.epochs=1") == 0
    before = RunFolder(run).checkpoint.read_bytes()
    limit = len(before) // 2

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "iris_fast.train", "--resume", str(run), "common.epochs=2"]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_files)
    assert result.returncode == 4, result.stderr
    assert "is full: the last checkpoint is whole" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert RunFolder(run).checkpoint.read_bytes() == before
    assert not list(run.rglob("*.partial"))
    assert main(["--resume", str(run), "common.epochs=2"]) == 0


# TensorBoard's own thread prints its error; what the run says is the last line.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_full_of_events_ends_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard's file crosses the limit, and would again as it is closed: still exit 4, and all closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    make = MetricLogger._tensorboard_writer

    def on_a_full_disk(logger: MetricLogger) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        return make(logger)

    run = tmp_path / "full"
    assert train(run, "common.epochs=1") == 0
    before = RunFolder(run).checkpoint.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(MetricLogger, "_tensorboard_writer", on_a_full_disk)
            code = run_command(main, ["--resume", str(run), "common.epochs=2", "logging.tensorboard=true"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 4
    assert "is full: the last checkpoint is whole" in capsys.readouterr().err.splitlines()[-1]
    assert RunFolder(run).checkpoint.read_bytes() == before
    assert main(["--resume", str(run), "common.epochs=2"]) == 0  # which needs the folder's lock


def test_nan_loss_stops_before_anything_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "diverged"
    assert train(run, "common.epochs=1") == 0
    before = RunFolder(run).checkpoint.read_bytes()
    content = torch.load(RunFolder(run).checkpoint, weights_only=True)
    content["agent"]["world_model.pos_emb.weight"][0, 0] = float("nan")
    torch.save(content, RunFolder(run).checkpoint)
    poisoned = RunFolder(run).checkpoint.read_bytes()
    assert poisoned != before
    assert run_command(main, ["--resume", str(run), "common.epochs=2"]) == 3
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("stopped: world model total_loss became nan in epoch 2, step 0")
    assert RunFolder(run).checkpoint.read_bytes() == poisoned
    assert len(read_metrics(run)) == 1


def test_checkpoints_add_only_new_frames(uninterrupted: Path) -> None:
    files = sorted(path.name for path in RunFolder(uninterrupted).dataset.iterdir())
    assert files == ["000001_0.npz", "000002_1.npz", "000003_2.npz"]
    content = torch.load(RunFolder(uninterrupted).checkpoint, weights_only=True)
    assert content["dataset"]["files"] == files
    assert json.dumps(content["position"])  # plain data


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "busy"
    assert train(run, "common.epochs=1") == 0
    other = RunFolder(run)
    other.lock()
    capsys.readouterr()
    assert run_command(main, ["--resume", str(run)]) == 2
    assert capsys.readouterr().err == f"error: another process is training in {run}: wait for it or stop it\n"
    other.unlock()
    assert run_command(main, ["--resume", str(run), "common.epochs=2"]) == 0
