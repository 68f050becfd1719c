"""What `doctor` finds, on this machine and on made-up ones."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iris_fast import doctor
from iris_fast.command_line import run_command
from iris_fast.envs import factory
from iris_fast.kernels.common import extension
from iris_fast.play import recording
from tests.support.commands import Say

ROOT = Path(__file__).parents[1]
MANY_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: MANY_THREADS)


def test_this_machine(tmp_path: Path, capsys: Say) -> None:
    file = tmp_path / "found.json"
    assert run_command(doctor.main, ["--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "nothing in the way of a run was found" in out and "!" not in out
    found = json.loads(file.read_text())
    assert found["problems"] == [] and found["rows"]["iris_fast"].startswith(doctor.__package__ and "0")
    assert f"torch {torch.__version__}" in found["rows"]["packages"]
    for name, value in found["rows"].items():
        assert re.search(rf"^{re.escape(name)} +{re.escape(value)}$", out, re.MULTILINE)


def problems(capsys: Say) -> str:
    assert run_command(doctor.main, []) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]
    assert len(lines) == 1
    return lines[0]


def test_threads_that_a_variable_takes_away(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: MANY_THREADS - 1)
    said = problems(capsys)
    assert "OMP_NUM_THREADS=1" in said and f"common.threads={MANY_THREADS}" in said


def test_an_extension_that_was_not_built(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setattr(extension, "find_extension", lambda: None)
    assert "was not built" in problems(capsys)


def test_an_extension_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    def broken() -> None:
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(extension, "find_extension", broken)
    assert "cannot be loaded (undefined symbol: x)" in problems(capsys)


def test_an_extension_without_vectors(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    plain = SimpleNamespace(simd_levels=lambda: ["portable"])
    monkeypatch.setattr(extension, "find_extension", lambda: plain)
    assert "no vector instructions" in problems(capsys)


def test_no_atari(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setattr(factory, "is_available", lambda backend: False)
    assert "pip install 'iris_fast[atari]'" in problems(capsys)


@pytest.mark.parametrize(("build", "words"), [(None, "built without CUDA"), ("13.0", "update the driver")])
def test_a_gpu_that_pytorch_does_not_see(
    build: str | None, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    which = doctor.shutil.which
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(
        doctor.shutil, "which", lambda name: "/bin/true" if name == "nvidia-smi" else which(name)
    )
    assert words in problems(capsys)


def test_what_is_optional_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    find: Any = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "ray" else find(name))
    monkeypatch.setattr(recording, "has_encoder", lambda: False)
    assert run_command(doctor.main, []) == 0
    out = capsys.readouterr().out
    assert "pip install 'iris_fast[sweep]'" in out and "--force-reinstall av" in out


def test_extras_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = dict(re.findall(r"^(\w+) = \[(.*?)\]$", declared, re.MULTILINE | re.DOTALL))
    of_development = {"examples", "test", "all"}
    assert doctor.EXTRAS.keys() == extras.keys() - of_development
    for extra, (_, packages) in doctor.EXTRAS.items():
        for package in packages:
            assert re.search(rf'"{package.replace("_", "[-_]")}\b', extras[extra]), (extra, package)
