"""Bad input gets one sentence and exit code 2, and nothing is written or lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_fast import convert, plot
from iris_fast.agent import Agent
from iris_fast.command_line import run_command
from iris_fast.envs import factory
from iris_fast.errors import UserError
from iris_fast.interop.files import write_weights
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, contents, refusal, run_evaluate, run_train, train_micro
from tests.support.micro import MICRO, micro_config

NO_CUDA = not torch.cuda.is_available()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; not to be written to."""
    run = tmp_path_factory.mktemp("bad_input") / "run"
    assert train_micro(run, "common.epochs=1", "evaluation.should=false") == 0
    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where a run would make `outputs/`."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def weights_file(path: Path, *overrides: str, num_actions: int = 3) -> Path:
    """A checkpoint file of ours, of the micro agent with overrides."""
    config = micro_config(*overrides).agent
    write_weights(path, Agent(config, num_actions).state_dict(), config, num_actions)
    return path


TRAIN_CATCH = ("--game", "Catch", *MICRO)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--game", "Pang"), ["'Pang'", "Pong"], id="unknown game"),
        pytest.param((), ["--game Pong"], id="no game"),
        pytest.param(("--game", "Pong", "--preset", "smal"), ["'smal'", "small"], id="unknown preset"),
        pytest.param(("--game", "Pong", "--preset", ""), ["there is no preset ''"], id="empty preset"),
        pytest.param(("--game", "Pong", "--preset", "huge"), ["'huge'", "paper"], id="unlike any preset"),
        pytest.param((*TRAIN_CATCH, "common.epochs=ten"), ["common.epochs=ten", "whole"], id="wrong type"),
        pytest.param((*TRAIN_CATCH, "training.should=2"), ["training.should=2", "true or false"], id="bool"),
        pytest.param((*TRAIN_CATCH, "env.backend=gym"), ["env.backend=gym", "envpool"], id="choice"),
        pytest.param((*TRAIN_CATCH, "actor_critic.channels=[4,4]"), ["takes 4 values"], id="list"),
        pytest.param((*TRAIN_CATCH, "common.epoch=3"), ["'common.epoch'", "common.epochs"], id="unknown key"),
        pytest.param(
            (*TRAIN_CATCH, "training.world_model.batch_size=3"),
            ["'training.world_model.batch_size'", "training.world_model.batch_num_samples"],
            id="unknown nested key",
        ),
        pytest.param((*TRAIN_CATCH, "Pong"), ["'Pong'", "key=value"], id="no override"),
        pytest.param(("--game", "Pong", "env.train.id=PongNoFrameskip-v4"), ["use --game"], id="public id"),
        pytest.param(
            (*TRAIN_CATCH, "evaluation.actor_critic.horizon=9"),
            ["use evaluation.imagined_frames=9"],
            id="public horizon",
        ),
        pytest.param(
            (*TRAIN_CATCH, "evaluation.actor_critic.num_episodes_to_save=2"),
            ["use evaluation.num_imagined_episodes=2"],
            id="public imagined episodes",
        ),
        pytest.param((*TRAIN_CATCH, "game=Pong"), ["use --game Pong"], id="game as override"),
        pytest.param((*TRAIN_CATCH, "--seed", "x"), ["--seed", "'x'"], id="seed of a wrong type"),
        pytest.param((*TRAIN_CATCH, "--seed", "-1"), ["common.seed=-1"], id="negative seed"),
        pytest.param(
            (*TRAIN_CATCH, "--seed", "1", "common.seed=2"), ["--seed 1", "common.seed=2"], id="two seeds"
        ),
        pytest.param(
            (*TRAIN_CATCH, "--device", "cpu", "common.device=cuda"),
            ["--device cpu", "common.device=cuda"],
            id="two devices",
        ),
        pytest.param(
            (*TRAIN_CATCH, "tokenizer.encoder.config.attn_resolutions=[5]"),
            ["attn_resolutions=[5]", "[64, 32, 16, 8, 4]"],
            id="attention at no level",
        ),
        pytest.param((*TRAIN_CATCH, "--sed", "1"), ["--sed", "--seed"], id="unknown option"),
        pytest.param(
            (*TRAIN_CATCH, "training.tokenizer.batch_num_samples=0"),
            ["training.tokenizer.batch_num_samples=0", "at least 1"],
            id="batch size 0",
        ),
        pytest.param(
            (*TRAIN_CATCH, "collection.train.stop_after_epochs=0"),
            ["collection.train.stop_after_epochs=0", "replay empty"],
            id="empty replay",
        ),
        pytest.param(
            (*TRAIN_CATCH, "datasets.train.max_ram_usage=1K"),
            ["datasets.train.max_ram_usage=1K", "one frame"],
            id="no room for a replay",
        ),
        pytest.param((*TRAIN_CATCH, "env.backend=ale"), ["env.backend=ale", "Catch"], id="wrong backend"),
        pytest.param((*TRAIN_CATCH, "--device", "tpu"), ["--device tpu", "cpu"], id="unknown device"),
        pytest.param((*TRAIN_CATCH, "--device", "meta"), ["--device meta", "cpu"], id="unusable device"),
        pytest.param(
            (*TRAIN_CATCH, "--device", "cpu", "common.precision=fp16"),
            ["common.precision=fp16", "float32"],
            id="precision without a GPU",
        ),
        pytest.param(
            (*TRAIN_CATCH, "--device", "cpu", "common.engine=cuda_graph"),
            ["common.engine=cuda_graph", "common.engine=auto"],
            id="engine of a GPU on a CPU",
        ),
        pytest.param(
            (*TRAIN_CATCH, "common.engine=oracle", "common.kv_dtype=float16"),
            ["common.kv_dtype", "common.engine=cpu"],
            id="setting of another engine",
        ),
        pytest.param(
            (*TRAIN_CATCH, "--device", "cpu", "common.layer_launches=2"),
            ["common.layer_launches", "common.engine=cuda_graph"],
            id="setting of an engine of a GPU",
        ),
        pytest.param((*TRAIN_CATCH, "--init", "gone.pt"), ["no checkpoint 'gone.pt'"], id="no checkpoint"),
        pytest.param(
            (*TRAIN_CATCH, "--init", "x.pt", "--init-parts", "tokenizer,actor"),
            ["--init-parts actor", "actor_critic"],
            id="unknown part",
        ),
        pytest.param((*TRAIN_CATCH, "--init-parts", "tokenizer"), ["--init CHECKPOINT"], id="parts alone"),
        pytest.param(
            (*TRAIN_CATCH, "initialization.load_tokenizer=true"),
            ["initialization.path_to_checkpoint=FILE"],
            id="nothing to load from",
        ),
        pytest.param(
            (*TRAIN_CATCH, "initialization.path_to_checkpoint=x.pt"),
            ["x.pt", "initialization.load_tokenizer=true"],
            id="nothing to load",
        ),
        pytest.param(("--resume", "gone"), ["no run folder 'gone'"], id="no run folder"),
        pytest.param(("--resume", "."), ["not a run folder", "config/trainer.yaml"], id="not a run folder"),
        pytest.param(
            ("--resume", "gone", "--preset", "tiny"), ["--preset", "--resume"], id="preset for a resumed run"
        ),
    ],
)
def test_train_refuses(arguments: tuple[str, ...], words: list[str], here: Path, capsys: Say) -> None:
    sentence = refusal(run_train, capsys, *arguments)
    for word in words:
        assert word in sentence
    assert contents(here) == {}


@pytest.mark.skipif(not NO_CUDA, reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_asked_for_where_there_is_none(device: str, here: Path, trained: Path, capsys: Say) -> None:
    before = contents(trained)
    for command, arguments in (
        (run_train, [*TRAIN_CATCH, "--device", device]),
        (run_train, ["--resume", trained, "--device", device]),
        (run_evaluate, [trained, "--device", device]),
    ):
        sentence = refusal(command, capsys, *arguments)
        assert f"--device {device}" in sentence and "--device cpu" in sentence
    assert contents(here) == {} and contents(trained) == before


def test_a_device_number_that_there_is_not(here: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "cuda:0 to cuda:1" in refusal(run_train, capsys, *TRAIN_CATCH, "--device", "cuda:2")
    assert contents(here) == {}


@pytest.mark.parametrize(("backend", "package"), [("envpool", "envpool"), ("ale", "ale_py")])
def test_a_backend_that_is_not_installed(
    backend: str, package: str, here: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "is_installed", lambda name: name != package)
    sentence = refusal(run_train, capsys, "--game", "Pong", *MICRO, f"env.backend={backend}")
    assert f"env.backend={backend}" in sentence and "pip install 'iris_fast[atari]'" in sentence
    assert contents(here) == {}


def test_wandb_that_is_not_installed(here: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iris_fast.training.checks.find_spec", lambda name: None)
    assert "iris_fast[wandb]" in refusal(run_train, capsys, *TRAIN_CATCH, "--wandb")
    assert contents(here) == {}


def test_a_run_folder_that_exists_already(trained: Path, tmp_path: Path, capsys: Say) -> None:
    note = tmp_path / "mine" / "note.txt"
    note.parent.mkdir()
    note.write_text("precious")
    for folder in (trained, note.parent, note):
        before = contents(folder.parent)
        sentence = refusal(run_train, capsys, *TRAIN_CATCH, "--run-dir", folder)
        assert f"{folder} exists already" in sentence and "--run-dir" in sentence
        assert contents(folder.parent) == before
        assert ("--resume" in sentence) == (folder == trained)
    assert train_micro(tmp_path / "empty", "common.epochs=1", "evaluation.should=false") == 0


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_cannot_start_leaves_no_folder(
    there: bool, here: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loggers are made last, since Weights & Biases writes into the folder; it may refuse even then."""
    if there:
        (here / "new" / "run").mkdir(parents=True)

    def refuse(run_dir: Path, settings: object, run_config: object) -> None:
        (run_dir / "wandb").mkdir()
        raise UserError("Weights & Biases did not start")

    monkeypatch.setattr("iris_fast.training.checks.find_spec", lambda name: object())
    monkeypatch.setattr("iris_fast.training.loggers._start_wandb", refuse)
    before = contents(here)
    assert "did not start" in refusal(run_train, capsys, *TRAIN_CATCH, "--wandb", "--run-dir", "new/run")
    assert contents(here) == before


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capsys: Say) -> None:
    (tmp_path / "file").write_text("kept")
    sentence = refusal(run_train, capsys, *TRAIN_CATCH, "--run-dir", tmp_path / "file" / "run")
    assert "cannot be written" in sentence and "--run-dir" in sentence
    assert contents(tmp_path) == {"file": b"kept"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("world_model.embed_dim=32",), ["architecture", "new run"]),
        (("tokenizer.vocab_size=32",), ["architecture", "new run"]),
        (("--game", "Pong"), ["--game Pong", "plays Catch"]),
        (("--game", "Pang"), ["'Pang'", "Pong"]),
        (("--run-dir", "other"), ["--run-dir", "--resume"]),
        (("--init", "x.pt"), ["--init", "--resume"]),
        (("--init-parts", "tokenizer"), ["--init-parts", "--resume"]),
        (("collection.train.num_envs=3",), ["collection.train.num_envs"]),
        (("env.test.noop_max=30",), ["env.test"]),
        (("initialization.load_tokenizer=true",), ["initialization"]),
        (("common.epochs=many",), ["common.epochs=many", "whole number"]),
        (("training.world_model.batch_num_samples=0",), ["batch_num_samples=0"]),
    ],
)
def test_resume_refuses_what_would_make_it_another_run(
    arguments: tuple[str, ...], words: list[str], trained: Path, here: Path, capsys: Say
) -> None:
    before = contents(trained)
    sentence = refusal(run_train, capsys, "--resume", trained, *arguments)
    for word in words:
        assert word in sentence
    assert contents(trained) == before and contents(here) == {}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def replace_by_text(path: Path) -> None:
    path.write_text("not a checkpoint")


@pytest.mark.parametrize("corrupt", [truncate, flip_a_bit, replace_by_text])
def test_a_corrupt_checkpoint(corrupt, trained: Path, here: Path, capsys: Say) -> None:  # type: ignore[no-untyped-def]
    run = here / "run"
    shutil.copytree(trained, run)
    checkpoint = RunFolder(run).checkpoint
    corrupt(checkpoint)
    before = contents(here)
    for command, arguments in (
        (run_train, ["--resume", run, "common.epochs=2"]),
        (run_train, [*TRAIN_CATCH, "--init", checkpoint]),
        (run_train, [*TRAIN_CATCH, "--init", run, "--init-parts", "tokenizer"]),
        (run_evaluate, [run, "--episodes", 1]),
    ):
        sentence = refusal(command, capsys, *arguments)
        assert str(checkpoint) in sentence and "another copy" in sentence
    assert contents(here) == before


def test_a_damaged_replay_cannot_be_resumed(trained: Path, here: Path, capsys: Say) -> None:
    run = here / "run"
    shutil.copytree(trained, run)
    (played,) = RunFolder(run).dataset.iterdir()
    truncate(played)
    before = contents(here)
    assert str(played) in refusal(run_train, capsys, "--resume", run, "common.epochs=2")
    assert contents(here) == before


def test_a_damaged_configuration(trained: Path, here: Path, capsys: Say) -> None:
    run = here / "run"
    shutil.copytree(trained, run)
    RunFolder(run).config.write_text("common: {epochs: [")
    before = contents(here)
    for command in (run_train, run_evaluate):
        arguments = ["--resume", run] if command is run_train else [run]
        assert "config/trainer.yaml" in refusal(command, capsys, *arguments)
    assert contents(here) == before


def test_weights_alone_cannot_be_resumed(trained: Path, here: Path, capsys: Say) -> None:
    run = here / "run"
    shutil.copytree(trained, run)
    weights_file(RunFolder(run).checkpoint)
    before = contents(here)
    assert "--init" in refusal(run_train, capsys, "--resume", run)
    assert contents(here) == before


def test_initial_weights_that_do_not_fit(here: Path, capsys: Say) -> None:
    other_game = weights_file(here / "pong.pt", num_actions=6)
    other_sizes = weights_file(here / "wide.pt", "world_model.embed_dim=32")
    before = contents(here)
    sentence = refusal(run_train, capsys, *TRAIN_CATCH, "--init", other_game)
    assert "6 actions" in sentence and "has 3" in sentence
    sentence = refusal(run_train, capsys, *TRAIN_CATCH, "--init", other_sizes)
    assert "world_model.embed_dim is 32 there and 16 here" in sentence
    sentence = refusal(run_train, capsys, *TRAIN_CATCH, "--init", other_sizes, "--init-parts", "world_model")
    assert "world_model.embed_dim" in sentence
    assert contents(here) == before


def test_perceptual_weights_that_are_none(here: Path, capsys: Say) -> None:
    (here / "vgg.pt").write_bytes(b"nothing")
    sentence = refusal(
        run_train,
        capsys,
        *TRAIN_CATCH,
        "tokenizer.perceptual=lpips",
        "initialization.lpips_weights=vgg.pt",
    )
    assert "vgg.pt" in sentence
    assert contents(here) == {"vgg.pt": b"nothing"}


def test_perceptual_weights_for_a_loss_without_them(here: Path, capsys: Say) -> None:
    sentence = refusal(run_train, capsys, *TRAIN_CATCH, "initialization.lpips_weights=vgg.pt")
    assert "initialization.lpips_weights=" in sentence and "tokenizer.perceptual=lpips" in sentence
    assert contents(here) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--episodes", "0"), ["--episodes 0", "at least 1"]),
        (("--episodes", "many"), ["--episodes", "'many'"]),
        (("--envs", "0"), ["--envs 0"]),
        (("--temperature", "0"), ["--temperature 0", "--greedy"]),
        (("--epsilon", "2"), ["--epsilon 2"]),
        (("--seed", "-3"), ["--seed -3"]),
        (("--game", "Pong"), ["--game Pong", "plays Catch"]),
        (("--game", "Pang"), ["'Pang'", "Pong"]),
        (("--json", "."), ["folder"]),
        (("--vidio", "x.mp4"), ["--vidio", "--video"]),
    ],
)
def test_evaluate_refuses(
    arguments: tuple[str, ...], words: list[str], trained: Path, here: Path, capsys: Say
) -> None:
    before = contents(trained)
    sentence = refusal(run_evaluate, capsys, trained, *arguments)
    for word in words:
        assert word in sentence
    assert contents(trained) == before and contents(here) == {}


def test_evaluate_refuses_what_is_no_run(trained: Path, here: Path, capsys: Say) -> None:
    new = here / "new"
    RunFolder(new).create(micro_config())
    checkpoint, diverged = weights_file(here / "weights.pt"), here / "nan.pt"
    agent = Agent(micro_config().agent, 3)
    with torch.no_grad():
        agent.actor_critic.lstm.weight_hh[1, 2] = torch.nan
    write_weights(diverged, agent.state_dict(), micro_config().agent, 3)
    before = contents(here)
    for arguments, word in (
        ((diverged, "--game", "Catch"), "not finite, first in actor_critic.lstm.weight_hh: use an earlier"),
        ((), "required: RUN"),
        (("gone",), "there is no checkpoint 'gone'"),
        ((".",), "not a run folder"),
        ((new,), "no checkpoint yet"),
        ((checkpoint,), "--game"),
        ((checkpoint, "--game", "Pong"), "trained with 3 actions and Pong has 6"),
        ((RunFolder(trained).config, "--game", "Catch"), "not a checkpoint"),
    ):
        assert word in refusal(run_evaluate, capsys, *arguments)
    assert contents(here) == before


@pytest.mark.parametrize(
    ("command", "arguments", "word"),
    [
        (convert.main, ("a.pt", "b.pt"), "required: --to"),
        (convert.main, ("a.pt", "b.pt", "--to", "public", "--lpip", "omit"), "nearest: --lpips"),
        (plot.main, (), "required: RUN"),
        (plot.main, ("run", "--smoot", "3"), "nearest: --smooth"),
        (plot.main, ("run", "--smooth", "x"), "'x'"),
    ],
)
def test_convert_and_plot_refuse(
    command: Callable[[list[str] | None], int],
    arguments: tuple[str, ...],
    word: str,
    here: Path,
    capsys: Say,
) -> None:
    assert word in refusal(partial(run_command, command), capsys, list(arguments))
    assert contents(here) == {}


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, 2), (errno.ENOSPC, 4)])
def test_plot_and_convert_say_that_they_cannot_write(
    number: int, code: int, trained: Path, here: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that may only be read, or on a full disk; nothing half-written stays."""

    def fail(what: object, file: Any, **options: object) -> None:
        file.write(b"half of it")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    monkeypatch.setattr("torch.save", lambda payload, file: fail(payload, file))
    for command, arguments, named in (
        (plot.main, ["--out", "."], "learning_curve.png"),
        (plot.main, ["--out", "all.pdf"], "all.pdf"),
        (convert.main, ["weights.pt", "--to", "iris_fast"], "weights.pt"),
    ):
        capsys.readouterr()
        assert run_command(command, [str(trained), *arguments]) == code
        said = capsys.readouterr()
        told = said.err.removeprefix("loading matplotlib …\n")
        assert named in told and told.count("\n") == 1 and said.out == ""
        assert ("the disk is full" if code == 4 else os.strerror(number)) in told
        assert contents(here) == {}


@pytest.mark.parametrize(
    ("module", "arguments"), [("train", ["--game", "Pang"]), ("evaluate", ["gone", "--episodes", "1"])]
)
def test_a_real_process_prints_one_line_and_ends_with_2(
    module: str, arguments: list[str], here: Path
) -> None:
    command = [sys.executable, "-m", f"iris_fast.{module}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=here)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("loading PyTorch …\nerror: ") and result.stderr.count("\n") == 2
    assert contents(here) == {}
