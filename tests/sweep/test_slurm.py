"""The Slurm script: it parses, and its tasks do the runs of the list with the same resume behaviour."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from iris_fast.sweep.plan import chosen_seeds
from tests.support.commands import Say
from tests.support.micro import MICRO
from tests.support.stopping import wait_for

from .test_plan import run_sweep

LIST = ("--games", "Catch", "--seeds", "4,5", "--preset", "tiny", "--episodes", 3)


def script_of(folder: Path, *arguments: object) -> Path:
    path = folder / "sweep.sbatch"
    assert run_sweep(*LIST, "--output", folder / "out", "--slurm", path, *MICRO, *arguments) == 0
    return path


def task(script: Path, number: int, **more: str) -> subprocess.Popen[Any]:
    """The script as Slurm would start it, outside of any Slurm."""
    slurm = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "77"}
    return subprocess.Popen(
        ["bash", str(script)], env=os.environ | slurm | more, stderr=subprocess.PIPE, text=True
    )


def test_the_script_parses_and_asks_for_what_a_run_needs(tmp_path: Path, capsys: Say) -> None:
    script = script_of(tmp_path, "--gpus-per-run", 0.5, "--cpus-per-run", 1.5)
    assert "each run has a whole GPU" in capsys.readouterr().err
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    for line in ("--array=0-1", "--cpus-per-task=2", "--gres=gpu:1", "--requeue", "--signal=B:USR1@300"):
        assert f"#SBATCH {line}\n" in text
    assert f"#SBATCH --output={tmp_path}/out/logs/slurm_%A_%a.log\n" in text
    assert (tmp_path / "out" / "logs").is_dir()
    assert " --seeds 4-5 " in text
    assert "--gres" not in script_of(tmp_path, "--gpus-per-run", 0).read_text()


@pytest.mark.parametrize(("seeds", "written"), [("3", "0-2"), ("3,", "3-3"), ("5,0", "5,0"), ("0,2", "0,2")])
def test_the_script_has_the_same_seeds_and_a_plain_folder(
    seeds: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = Path("sweep.sbatch")
    words = ("--games", "Catch", "--seeds", seeds, "--output", "../other", "--slurm", script)
    assert run_sweep(*words, "--gpus-per-run", 0) == 0
    assert f" --seeds {written} " in script.read_text() and "/../" not in script.read_text()
    assert f" --output {tmp_path.parent / 'other'} " in script.read_text()
    assert chosen_seeds(written) == chosen_seeds(seeds)


def test_a_task_is_the_run_of_its_number(tmp_path: Path) -> None:
    """Its seed and its folder, which is seen by what is refused: a file in the place of the folder."""
    script = script_of(tmp_path, "--gpus-per-run", 0)
    (tmp_path / "out" / "Catch").write_text("")
    done = task(script, 1)
    _, said = done.communicate(timeout=120)
    assert done.returncode == 2, said
    assert f"Catch seed 5: refused: {tmp_path}/out/Catch/seed_5" in said


@pytest.mark.slow
def test_a_task_trains_evaluates_and_is_skipped_when_done(tmp_path: Path) -> None:
    script = script_of(tmp_path, "--gpus-per-run", 0)
    first = task(script, 0)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 0 and "Catch seed 4 is done: epoch 3/3, evaluation return" in said
    log = (tmp_path / "out" / "logs" / "Catch_seed_4.log").read_bytes()
    again = task(script, 0)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0 and "Catch seed 4 is done" in said
    assert (tmp_path / "out" / "logs" / "Catch_seed_4.log").read_bytes() == log  # nothing was started


@pytest.mark.slow
def test_before_the_time_limit_a_task_saves_and_is_queued_again(tmp_path: Path) -> None:
    script = script_of(tmp_path, "--gpus-per-run", 0, "common.epochs=10000")
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    running = task(script, 0, PATH=f"{scontrol.parent}:{os.environ['PATH']}")
    metrics = tmp_path / "out" / "Catch" / "seed_4" / "logs" / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0)
    running.send_signal(signal.SIGUSR1)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM and "saved at epoch" in said
    assert (tmp_path / "asked").read_text() == "requeue 77_0\n"
