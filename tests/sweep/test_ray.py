"""A sweep on a real local Ray: the queue, kills, divergence, Ctrl-C and going on, addresses without Ray."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from iris_fast.sweep import cluster
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, train_micro
from tests.support.micro import MICRO
from tests.support.stopping import assert_same_run, wait_for

from .test_plan import run_sweep

pytest.importorskip("ray", reason="the extra `sweep` (ray) is not installed")

UNTRAINED = ("common.epochs=1", "training.should=false", "evaluation.should=false")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray of two cores, without dashboard, that all tests share."""
    from ray.cluster_utils import Cluster

    small = {
        "num_cpus": 2,
        "num_gpus": 0,
        "include_dashboard": False,
        "object_store_memory": cluster.OBJECT_STORE,
    }
    before = signal.getsignal(signal.SIGTERM)
    started = Cluster(initialize_head=True, head_node_args=small)
    signal.signal(signal.SIGTERM, before)  # Ray's own handler would end the tests that come after
    yield started.address
    started.shutdown()


def words(output: Path, *arguments: object) -> list[str]:
    base = ["--games", "Catch", "--preset", "tiny", "--episodes", 2, "--output", output, *MICRO]
    return [str(word) for word in (*base, *arguments)]


def in_background(*arguments: str) -> subprocess.Popen[str]:
    """The command as a user has it in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "iris_fast.sweep", *arguments], stderr=subprocess.PIPE, text=True
    )


def processes(output: Path, seed: int) -> list[tuple[int, int]]:
    """The number and the parent's of each process that trains the run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int(re.search(r"^PPid:\s*(\d+)", (entry / "status").read_text(), re.MULTILINE)[1])  # type: ignore[index]
        except (OSError, TypeError):
            continue
        if b"iris_fast.train" in command and f"{output}/Catch/seed_{seed}".encode() in command:
            found.append((int(entry.name), parent))
    return found


def epochs(output: Path, seed: int) -> int:
    path = output / "Catch" / f"seed_{seed}" / "logs" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_runs_wait_for_room_and_done_ones_are_skipped(address: str, tmp_path: Path, capsys: Say) -> None:
    output = tmp_path / "out"
    arguments = words(output, *UNTRAINED, "--address", address, "--seeds", 2, "--cpus-per-run", 2)
    assert run_sweep(*arguments) == 0
    said = capsys.readouterr().err.splitlines()
    states = [line for line in said if line.startswith("Catch seed")]
    assert [line.split(":")[0] for line in states if ": done" in line] in (
        ["Catch seed 0", "Catch seed 1"],
        ["Catch seed 1", "Catch seed 0"],
    )
    # Each run needs both cores: the second begins when the first is done.
    began = [number for number, line in enumerate(states) if ": running, epoch 0/1" in line]
    assert len(began) == 2 and ": done" in states[began[1] - 1]
    assert said[-1] == "all 2 runs are done"
    logs = (
        (output / "logs" / "Catch_seed_0.log").read_bytes(),
        (output / "logs" / "Catch_seed_1.log").read_bytes(),
    )
    assert run_sweep(*arguments) == 0  # starts nothing
    assert "all 2 runs are done" in capsys.readouterr().err
    assert logs == tuple((output / "logs" / f"Catch_seed_{seed}.log").read_bytes() for seed in (0, 1))


def test_what_no_machine_has_is_refused_or_said(tmp_path: Path, capsys: Say) -> None:
    said = refusal_after_start(capsys, *words(tmp_path / "out", "--cpus-per-run", 4000))
    assert "a run needs 4000 CPU" in said and "--cpus-per-run" in said


def refusal_after_start(capsys: Say, *arguments: str) -> str:
    """The sentence of a refusal that comes after lines about a start."""
    code = run_sweep(*arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    last = said.splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in said
    return last


def test_an_address_where_nothing_listens(tmp_path: Path, capsys: Say) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    said = refusal_after_start(capsys, *words(tmp_path / "out", "--address", f"127.0.0.1:{free}"))
    assert f"nothing answers at --address 127.0.0.1:{free}" in said and "ray start --head" in said
    for wrong in ("nowhere", "ray://host:1", "host:"):
        said = refusal_after_start(capsys, *words(tmp_path / "out", "--address", wrong))
        assert f"--address {wrong}" in said and "HOST:PORT" in said


@pytest.mark.slow
def test_an_address_where_something_else_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(cluster, "START_SECONDS", 2.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        said = refusal_after_start(capsys, *words(tmp_path / "out", "--address", place))
    assert f"no Ray answers at {place}" in said


@pytest.mark.slow
@pytest.mark.parametrize("who", ["worker", "run"])
def test_a_killed_worker_or_run_goes_on_from_its_folder(
    who: str, address: str, tmp_path: Path, capsys: Say
) -> None:
    """SIGKILL, as of a machine without memory; the result is that of a run that nothing has ended."""
    output, overrides = tmp_path / "out", ("common.epochs=12",)
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: epochs(output, 0) >= 3)
        ((run, worker),) = processes(output, 0)
        killed.append(worker if who == "worker" else run)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert run_sweep(*words(output, *overrides, "--address", address, "--seeds", 1)) == 0
    killer.join()
    said = capsys.readouterr().err
    cause = "its worker is gone (WorkerCrashedError)" if who == "worker" else "ended by SIGKILL"
    assert killed and cause in said
    assert re.search(r"going on from its folder \(retry 1 of 3 at epoch \d+\)", said)
    assert "Catch seed 0: done, epoch 12/12" in said
    reference = ("--preset", "tiny", "--device", "cpu", "--seed", 0)
    assert train_micro(tmp_path / "whole", *reference, *overrides) == 0
    assert_same_run(output / "Catch" / "seed_0", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_diverges_is_told_once_and_the_others_go_on(
    address: str, tmp_path: Path, capsys: Say
) -> None:
    output = tmp_path / "out"
    diverging = RunFolder(output / "Catch" / "seed_0")
    reference = ("--preset", "tiny", "--device", "cpu", "--seed", 0)
    assert train_micro(diverging.path, *reference, "common.epochs=1") == 0
    content = torch.load(diverging.checkpoint, weights_only=True)
    content["agent"]["world_model.pos_emb.weight"][0, 0] = float("nan")
    torch.save(content, diverging.checkpoint)
    capsys.readouterr()
    assert run_sweep(*words(output, "common.epochs=2", "--address", address, "--seeds", 2)) == 1
    said = capsys.readouterr().err
    assert said.count("diverged: world model total_loss became nan in epoch 2") == 1 and "retry" not in said
    assert "Catch seed 1: done, epoch 2/2" in said
    assert said.endswith(
        "stopped: 1 of 2 runs are done; not Catch seed 0 (diverged): the same command tries again\n"
    )


@pytest.mark.slow
def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(address: str, tmp_path: Path) -> None:
    output, overrides = tmp_path / "out", ("common.epochs=30",)
    arguments = words(output, *overrides, "--address", address, "--seeds", 3)  # the third waits
    sweep = in_background(*arguments)
    wait_for(lambda: epochs(output, 0) >= 2 and epochs(output, 1) >= 2)
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, said
    assert "SIGINT: every run finishes its step and saves" in said
    assert "stopped: 0 of 3 runs are done, the others saved: the same command goes on with them" in said
    for seed in (0, 1):
        assert not processes(output, seed)
        assert "stopped: saved at epoch" in (output / "logs" / f"Catch_seed_{seed}.log").read_text()
        assert 2 <= epochs(output, seed) < 30
    assert not (output / "Catch" / "seed_2").exists()
    assert run_sweep(*arguments) == 0
    reference = ("--preset", "tiny", "--device", "cpu", "--seed", 1)
    assert train_micro(tmp_path / "whole", *reference, *overrides) == 0
    assert_same_run(output / "Catch" / "seed_1", tmp_path / "whole")


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    """With a Ray of its own; a step of this run takes longer than the test."""
    output = tmp_path / "out"
    long = ("common.epochs=10000", "training.world_model.batch_num_samples=20000")
    sweep = in_background(*words(output, *long, "--seeds", 1))
    wait_for(lambda: (output / "Catch" / "seed_0" / "config" / "trainer.yaml").is_file())
    sweep.send_signal(signal.SIGINT)
    assert sweep.stderr is not None
    while "every run finishes its step" not in sweep.stderr.readline():
        assert sweep.poll() is None
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "the same command goes on" in said
    wait_for(lambda: not processes(output, 0))


@pytest.mark.slow
def test_a_killed_sweep_leaves_saved_runs_and_no_process(tmp_path: Path) -> None:
    """With a Ray of its own, which ends with it."""
    output = tmp_path / "out"
    sweep = in_background(*words(output, "common.epochs=10000", "--seeds", 1))
    wait_for(lambda: epochs(output, 0) >= 1)
    sweep.kill()
    sweep.communicate(timeout=60)
    wait_for(lambda: not processes(output, 0))
    assert (output / "Catch" / "seed_0" / "checkpoints" / "last.pt").is_file()
