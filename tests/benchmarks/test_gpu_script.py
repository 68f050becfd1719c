"""`benchmarks/gpu.sh`, which needs a GPU to run: every command in it exists."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser, chosen_cases
from benchmarks.registry import CASES
from iris_fast import train
from iris_fast.config import apply_overrides, preset_config, resolve
from iris_fast.config.validation import validate

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
MARK = "mark." + "gpu"
# Notes its arguments, one a line and an empty line after them, and ends as it is told.
NOTES = """#!/bin/sh
printf '%s\\n' "$@" '' >> "$NOTES"
case "$*" in *"$FAILS"*) exit 3;; esac
"""


def commands(tmp_path: Path, *arguments: str, fails: str = "nothing", **environment: str) -> list[list[str]]:
    """What the script calls python3 with, none of which is run."""
    stubs, notes = tmp_path / "stubs", tmp_path / "notes"
    stubs.mkdir(exist_ok=True)
    for name in ("python3", "nvidia-smi", "compute-sanitizer"):
        (stubs / name).write_text(NOTES)
        (stubs / name).chmod(0o755)
    notes.write_text("")
    result = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "results"), *arguments],
        env=os.environ
        | {"PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}", "NOTES": str(notes), "FAILS": fails}
        | environment,
        capture_output=True,
        text=True,
    )
    failed = (tmp_path / "results" / "failures.log").exists()
    assert result.returncode == failed and result.stderr == "", result.stderr
    called = [block.strip("\n").split("\n") for block in notes.read_text().split("\n\n")]
    return [command for command in called if command[:1] in (["-m"], ["setup.py"])]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> list[list[str]]:
    return commands(tmp_path_factory.mktemp("all"), str(checkout))


def arguments_of(called: list[list[str]], module: str) -> list[list[str]]:
    return [command[2:] for command in called if command[:2] == ["-m", module]]


def test_every_module_is_there(called: list[list[str]]) -> None:
    modules = {command[1] for command in called if command[0] == "-m"}
    assert {"pytest", "benchmarks", "benchmarks.report.captured_projection", "iris_fast.train"} == modules
    assert all(find_spec(module) for module in modules)
    assert called[0] == ["setup.py", "-q", "build_ext", "--inplace"] and (ROOT / "setup.py").is_file()


def test_cases_and_options_of_the_benchmarks_are_there(called: list[list[str]], checkout: Path) -> None:
    parsed = [build_parser().parse_args(arguments) for arguments in arguments_of(called, "benchmarks")]
    cases = [case for arguments in parsed for case in chosen_cases(arguments.only)]
    assert {"training_steps", "same_learning", "rollout", "gradient_steps", "projection"} <= set(cases)
    assert {name for name in CASES if name.startswith("kernel_")} <= set(cases), "a kernel is left out"
    assert len(cases) == len(set(cases))
    assert all(arguments.device in (None, "cuda") and arguments.json for arguments in parsed)
    assert [arguments.reference for arguments in parsed if arguments.reference] == [checkout]
    (compared,) = (arguments for arguments in parsed if arguments.reference)
    names = compared.only.split(",")
    assert names.index("projection") == len(names) - 1, "it is made from those before it"


def test_the_short_training_is_a_run_that_there_is(called: list[list[str]]) -> None:
    (arguments,) = arguments_of(called, "iris_fast.train")
    parsed = train.make_parser().parse_intermixed_args(arguments)
    config = apply_overrides(preset_config(parsed.preset, parsed.game), parsed.overrides)
    validate(config)
    config = resolve(config)
    assert config.common.precision == "bf16" and config.evaluation.every == config.common.epochs
    starts = [getattr(config.training, part).start_after_epochs for part in ("world_model", "actor_critic")]
    assert max(starts) < config.common.epochs


def test_every_gpu_test_is_run_and_every_path_has_some(called: list[list[str]]) -> None:
    paths = [ROOT / a for arguments in arguments_of(called, "pytest") for a in arguments if "tests/" in a]
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text()]
    assert len(marked) > 5
    for path in marked:
        assert [True for given in paths if path.is_relative_to(given)] == [True], f"{path} runs once"
    assert all(any(path.is_relative_to(given) for path in marked) for given in paths)


def test_what_fails_leaves_the_others_alone_and_is_said(tmp_path: Path, called: list[list[str]]) -> None:
    found = commands(tmp_path, fails="training_steps")
    assert len(found) == len(called)
    assert "--reference" not in [argument for command in found for argument in command]
    failures = (tmp_path / "results" / "failures.log").read_text()
    assert failures.startswith("training_steps: exit 3 after ") and failures.count("\n") == 1


def test_a_checkout_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path), str(tmp_path / "nowhere")], capture_output=True
    )
    assert result.returncode == 2 and b"nowhere" in result.stderr


def test_chosen_steps_run_alone(tmp_path: Path) -> None:
    found = commands(tmp_path, STEPS="kernels same_learning")
    assert [command[1] for command in found] == ["-q", "benchmarks", "benchmarks"]
    assert "same_learning" in found[1] and found[2][found[2].index("--only") + 1] == "kernel_*"


def test_under_the_sanitizer_the_kernels_tests_run_alone(tmp_path: Path) -> None:
    assert commands(tmp_path, SANITIZE="1") == [["setup.py", "-q", "build_ext", "--inplace"]]
    notes = (tmp_path / "notes").read_text()
    assert notes.count("--tool\n") == 2 and notes.count("tests/kernels\n") == 2


def test_the_order_leaves_time_for_what_matters() -> None:
    """No step may take what those of the engine and of training, which come first, are expected to need."""
    text = SCRIPT.read_text()
    assert "limit=530" in text
    limits = {line.split()[1]: int(line.split()[2]) for line in text.splitlines() if line.startswith("step ")}
    assert list(limits)[-2:] == ["kernel_tests", "kernels"], "what can wait for a second call comes last"
    assert sum(limits[name] for name in ("engine_tests", "training_steps", "compare")) < 530 - 120
