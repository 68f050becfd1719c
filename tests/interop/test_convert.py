"""`python -m iris_fast.convert`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.command_line import run_command
from iris_fast.convert import main
from iris_fast.interop import lpips_files
from iris_fast.interop.files import read_weights, write_weights
from iris_fast.models.actor_critic import ActorCriticConfig
from iris_fast.models.perceptual import LPIPS
from tests.golden.recipe import golden_agent

from .conftest import small_config
from .test_public import assert_identical


@pytest.fixture(autouse=True)
def no_cached_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips_files, "search_folders", lambda: (tmp_path / "cache",))


@pytest.fixture
def ours(tmp_path: Path, small_agent: Agent) -> Path:
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    write_weights(path, small_agent.state_dict(), small_agent.config, 5)
    return path


def convert(*arguments: object) -> int:
    return run_command(main, [str(argument) for argument in arguments])


def test_published_to_ours_and_back_changes_no_bit(published: dict[str, Tensor], tmp_path: Path) -> None:
    source, middle, target = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt"
    torch.save(published, source)
    assert convert(source, middle, "--to", "iris_fast") == 0
    assert read_weights(middle).kind == "iris_fast"
    assert convert(middle, target, "--to", "public") == 0
    assert_identical(torch.load(target, weights_only=True), published)


def test_export_wants_the_perceptual_network(
    ours: Path, tmp_path: Path, lpips: LPIPS, capsys: pytest.CaptureFixture[str]
) -> None:
    target, network = tmp_path / "public.pt", tmp_path / "lpips.pt"
    assert convert(ours.parents[1], target, "--to", "public") == 2
    sentence = capsys.readouterr().err
    assert "--lpips PATH" in sentence and "--lpips omit" in sentence and sentence.count("\n") == 1
    assert not target.exists()

    assert convert(ours, target, "--to", "public", "--lpips", "omit") == 0
    said = capsys.readouterr().out
    assert "without the perceptual network" in said and "world_model.num_layers=2" in said
    without = torch.load(target, weights_only=True)

    torch.save(lpips.state_dict(), network)
    assert convert(ours, target, "--to", "public", "--lpips", network, "--force") == 0
    complete = torch.load(target, weights_only=True)
    assert {name for name in complete if ".lpips." not in name} == without.keys()
    assert torch.equal(complete["tokenizer.lpips.lin4.model.1.weight"], lpips.lin4.model[1].weight)  # type: ignore[index, union-attr]


def test_nothing_is_overwritten_unasked(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "kept.pt"
    target.write_text("precious")
    for arguments, word in (
        ((ours, target, "--to", "iris_fast"), "--force"),
        ((ours.parents[1], ours, "--to", "iris_fast", "--force"), "is the source itself"),
        ((ours, tmp_path, "--to", "iris_fast", "--force"), "is a folder"),
    ):
        assert convert(*arguments) == 2
        assert word in capsys.readouterr().err
    assert target.read_text() == "precious" and read_weights(ours).num_actions == 5
    assert convert(ours, target, "--to", "iris_fast", "--force") == 0
    assert read_weights(target).num_actions == 5


def test_an_agent_that_the_public_code_cannot_hold_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(small_config(), actor_critic=ActorCriticConfig((8, 8, 8, 8), 16))
    path = tmp_path / "tiny.pt"
    write_weights(path, golden_agent(1, 3, config, with_lpips=False).state_dict(), config, 3)
    assert convert(path, tmp_path / "out.pt", "--to", "public", "--lpips", "omit") == 2
    assert "always (32, 32, 64, 64) in the public implementation" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_a_corrupt_source_exits_with_2(ours: Path, tmp_path: Path) -> None:
    ours.write_bytes(ours.read_bytes()[:1000])
    command = [
        sys.executable,
        "-m",
        "iris_fast.convert",
        str(ours),
        str(tmp_path / "out.pt"),
        "--to",
        "public",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("loading PyTorch …\nerror: ") and result.stderr.count("\n") == 2


def test_heads_that_the_file_does_not_tell(
    published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, eight, four = tmp_path / "public.pt", tmp_path / "eight.pt", tmp_path / "four.pt"
    torch.save(published, source)
    assert convert(source, eight, "--to", "iris_fast", "--num-heads", 8) == 0
    assert "assumed" not in capsys.readouterr().err
    assert read_weights(eight).agent_config["world_model"]["num_heads"] == 8
    assert convert(source, four, "--to", "iris_fast") == 0
    assert "4 assumed" in capsys.readouterr().err
    for arguments, word in (
        ((source, 7), "must divide"),
        ((eight, 4), "has 8"),
        ((source, 0), "must divide"),
    ):
        target = tmp_path / "refused.pt"
        assert convert(arguments[0], target, "--to", "iris_fast", "--num-heads", arguments[1]) == 2
        assert word in capsys.readouterr().err and not target.exists()
