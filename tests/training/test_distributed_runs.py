"""Whole runs by several processes: the files of one process, resumed by another number, and one end for all."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_fast.errors import UserError
from iris_fast.train import main
from iris_fast.training import distributed
from iris_fast.training.checkpoint import kept
from iris_fast.training.checks import check_shares
from iris_fast.training.distributed import Joined, joined_processes
from iris_fast.training.loggers import read_metrics
from iris_fast.training.provenance import read_provenance
from iris_fast.training.run_folder import RunFolder
from tests.support.micro import MICRO, micro_config
from tests.support.processes import ends, free_port, start_processes
from tests.support.stopping import numbers, wait_for

EVEN = [f"training.{part}.batch_num_samples=4" for part in ("tokenizer", "world_model", "actor_critic")]
GAME = ["--game", "Catch", "--device", "cpu", *MICRO, *EVEN]
FOREVER = "common.epochs=2000"


def by(size: int, *arguments: object) -> list[subprocess.Popen[str]]:
    return start_processes(size, ["-m", "iris_fast.train", *arguments])


def begun(folder: Path) -> tuple[Path, list[subprocess.Popen[str]]]:
    """A run by two processes after its first epoch."""
    run = folder / "run"
    processes = by(2, *GAME, "--run-dir", run, FOREVER, "evaluation.should=false")
    wait_for(lambda: RunFolder(run).checkpoint.is_file() or processes[0].poll() is not None)
    return run, processes


def saved(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(RunFolder(run).checkpoint, weights_only=True)
    return content


def assert_nearly_the_same(run: Path, other: Path) -> None:
    ours, theirs = numbers(run), numbers(other)
    assert len(ours) == len(theirs)
    for line, expected in zip(ours, theirs, strict=True):
        assert line.keys() == expected.keys()
        for key, value in line.items():
            assert value == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key


def speakers(found: list[tuple[int, str]]) -> list[str]:
    """What each process that said something said last."""
    return [error.strip().splitlines()[-1] for _, error in found if error.strip()]


def test_a_run_by_two_processes_is_that_by_one_and_goes_on_by_one(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    processes = by(2, *GAME, "--run-dir", together, "common.epochs=2")
    assert main([*GAME, "--run-dir", str(alone)]) == 0
    (first, said), (second, silent) = ends(processes)
    assert (first, second) == (0, 0), said + silent
    assert "processes: 2, each with 1/2 of the rows of every batch" in said
    assert silent == ""
    assert len(read_metrics(together)) == 2
    assert main(["--resume", str(together), "common.epochs=3"]) == 0
    assert_nearly_the_same(together, alone)


def test_interrupted_processes_save_once_and_another_number_goes_on(tmp_path: Path) -> None:
    run, processes = begun(tmp_path)
    for process in processes:
        process.send_signal(signal.SIGINT)
    found = ends(processes)
    assert [code for code, _ in found] == [130, 130], found
    (last,) = speakers(found)
    assert "stopped: saved at epoch " in last
    assert "--resume" in last
    epoch = saved(run)["position"]["epoch"]
    assert main(["--resume", str(run), f"common.epochs={epoch}"]) == 0
    assert [line["epoch"] for line in read_metrics(run)] == list(range(1, epoch + 1))


@pytest.mark.slow
def test_a_run_by_one_process_goes_on_by_two(tmp_path: Path) -> None:
    alone, begun_alone = tmp_path / "alone", tmp_path / "begun"
    assert main([*GAME, "--run-dir", str(alone)]) == 0
    assert main([*GAME, "--run-dir", str(begun_alone), "common.epochs=2"]) == 0
    found = ends(by(2, "--resume", begun_alone, "common.epochs=3"))
    assert [code for code, _ in found] == [0, 0], found
    assert_nearly_the_same(begun_alone, alone)
    assert [record["processes"] for record in read_provenance(RunFolder(begun_alone).provenance)] == [1, 2]


@pytest.mark.slow
def test_torchrun_passes_ctrl_c_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "iris_fast.train",
    ]
    command = [sys.executable, *options, *GAME, "--run-dir", str(run), FOREVER, "evaluation.should=false"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: RunFolder(run).checkpoint.is_file() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert said.count("stopped: saved at epoch ") == 1
    assert f"--resume {run}" in said
    assert saved(run)["position"]["epoch"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_to_one_process_stops_all(tmp_path: Path, which: int) -> None:
    run, processes = begun(tmp_path)
    processes[which].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [code for code, _ in found] == [143, 143], found
    (last,) = speakers(found)
    assert "stopped: saved at epoch " in last
    assert saved(run)["position"]["epoch"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_ends_the_others_with_one_sentence_and_a_whole_checkpoint(
    tmp_path: Path, which: int
) -> None:
    run, processes = begun(tmp_path)
    processes[which].kill()
    found = ends(processes)
    assert found[1 - which][0] == 1
    assert found[1 - which][1].strip().splitlines()[-1] == (
        "stopped: another process of this run ended or does not answer: the last checkpoint is whole; go on with "
        f"--resume {run}"
    )
    epoch = saved(run)["position"]["epoch"]
    again = by(2, "--resume", run, f"common.epochs={epoch}")
    assert [code for code, _ in ends(again)] == [0, 0]


@pytest.mark.slow
def test_a_diverging_loss_ends_all_processes_alike(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rate = "training.tokenizer.learning_rate=1e6"
    found = ends(by(2, *GAME, "--run-dir", run, rate, "training.tokenizer.steps_per_epoch=50"))
    assert [code for code, _ in found] == [3, 3], found
    (last,) = speakers(found)
    assert "became" in last
    assert "in epoch 1" in last


@pytest.mark.slow
def test_a_refusal_is_said_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for words in (["training.world_model.batch_num_samples=3"], ["common.colour=red"]):
        found = ends(by(2, *GAME, "--run-dir", run, *words))
        assert [code for code, _ in found] == [2, 2], found
        (last,) = speakers(found)
        assert last.startswith("error: ")
        assert not run.exists()


@pytest.mark.slow
def test_two_processes_learn_catch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = ends(by(2, "--game", "Catch", "--preset", "tiny", "--device", "cpu", "--run-dir", run), 7200)
    assert [code for code, _ in found] == [0, 0], found
    returns = [line["collection/train/return"] for line in read_metrics(run)]
    assert sum(returns[-3:]) / 3 > 0.8 > 0 > returns[0]


ENDING = """
import sys
from datetime import timedelta
from iris_fast.command_line import run_command
from iris_fast.errors import UserError
from iris_fast.training import distributed

distributed.LAST_WORDS = timedelta(seconds=1)

def main(argv):
    with distributed.joined_processes() as group:
        if group.rank == {rank}:
            {does}
        group.from_first(lambda: group.largest(0))

sys.exit(run_command(main))
"""


def ends_of(rank: int, does: str) -> list[tuple[int, str]]:
    """How two processes end of which one does something while the other waits for it."""
    return ends(start_processes(2, ["-c", ENDING.format(rank=rank, does=does)]))


def test_a_refusal_of_one_process_is_said_by_it_alone() -> None:
    (waited, silent), (code, said) = ends_of(1, 'raise UserError("there is no room here")')
    assert (code, said.strip()) == (2, "error: there is no room here")
    assert (waited, silent) == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("does", "code", "last"),
    [
        ('open("/nowhere/file")', 2, "error: /nowhere/file: No such file or directory"),
        ('raise ValueError("a fault")', 1, "ValueError: a fault"),
        ("sys.modules['os'].abort()", -6, ""),
    ],
)
def test_any_end_of_one_process_is_said_once(rank: int, does: str, code: int, last: str) -> None:
    found = ends_of(rank, does)
    assert found[rank][0] == code
    assert found[1 - rank][0] == 1
    (said,) = speakers(found)
    assert said.endswith(last or "stopped: another process of this run ended or does not answer")


@pytest.mark.slow
def test_a_file_that_the_first_process_cannot_read_ends_all_alike() -> None:
    found = ends_of(
        0, 'group.from_first(lambda: open("/nowhere/file"))\n        else: group.from_first(None)'
    )
    assert [code for code, _ in found] == [2, 2], found
    assert speakers(found) == ["error: /nowhere/file: No such file or directory"]


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, r"not all came to 127\.0\.0\.1:\d+ within 0\.1 s"),
        ({"WORLD_SIZE": "two"}, "invalid literal .* 'two'"),
        ({"RANK": ""}, "RANK expected, but not set"),
    ],
)
def test_processes_that_do_not_meet_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], why: str
) -> None:
    usual = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in (usual | variables).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(distributed, "JOIN_LIMIT", timedelta(seconds=0.1))
    with (
        pytest.raises(UserError, match=f"announces several processes, but .*{why}: start them with torchrun"),
        joined_processes(),
    ):
        pass


def test_a_folder_on_another_machine_is_not_called_empty(tmp_path: Path) -> None:
    assert kept(RunFolder(tmp_path / "elsewhere")) == "its folder is on the first process's machine"
    assert kept(RunFolder(tmp_path)) == "no checkpoint was written yet"


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UserError) as refused:
        check_shares(micro_config(*EVEN, "training.actor_critic.batch_num_samples=5"), 2)
    assert str(refused.value) == (
        "training.actor_critic.batch_num_samples=5: 2 processes cannot share it evenly; give a multiple of 2"
    )
    with pytest.raises(UserError) as refused:
        check_shares(micro_config(*EVEN, "training.tokenizer.pieces=4"), 2)
    assert str(refused.value) == (
        "training.tokenizer.batch_num_samples=4: 2 processes cannot share each of training.tokenizer.pieces=4 of it "
        "evenly; give a multiple of 8, or training.tokenizer.pieces=1"
    )
    check_shares(micro_config(*EVEN), 4)
    check_shares(micro_config(), 1)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Joined.__new__(Joined)
    group.rank, group.size = 1, 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError) as refused:
        group.device(torch.device("cuda"))
    assert str(refused.value) == (
        "4 processes were started on a machine with 1 GPU: use --nproc-per-node 1, or --device cpu"
    )
    with pytest.raises(UserError, match="--device cuda:0 is one GPU, and 4 processes want one each: use"):
        group.device(torch.device("cuda:0"))
    assert group.device(torch.device("cpu")) == torch.device("cpu")
