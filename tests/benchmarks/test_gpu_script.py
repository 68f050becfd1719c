"""`benchmarks/gpu.sh`, which needs a GPU to run: every command in it exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from unittest import mock

import pytest
import torch

import benchmarks.chip as chip
import benchmarks.predictions as predictions
from benchmarks.__main__ import chosen_cases
from benchmarks.__main__ import make_parser as benchmarks_parser
from benchmarks.first_contact import SECTIONS
from benchmarks.registry import CASES
from iris_fast.config import apply_overrides, preset_config, resolve
from iris_fast.config.validation import validate
from iris_fast.train import make_parser
from tests.benchmarks.test_lacking_packages import LACKING
from tests.support.lacking import lacking

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
MARK = "mark." + "gpu"
# Notes its arguments, one a line and an empty line after them, and ends as it is told.
NOTES = """#!/bin/sh
printf '%s\\n' "$@" '' >> "$NOTES"
case "$*" in *"$FAILS"*) exit 3;; esac
"""


# Notes the seconds that a command may take, and the command, which it runs.
LIMITS = f"""#!/bin/sh
echo "$5 $6 $7 $8 $9 ${{10}}" >> "$NOTES.limits"
exec {which("timeout")} "$@"
"""


STEPS_OF_FIRST = len(SECTIONS) + 1  # and the kernels' tests
CALLS = ("first", "figures", "compare")


def commands(
    tmp_path: Path, call: str, *arguments: str, fails: str = "nothing", **environment: str
) -> list[list[str]]:
    """What the script calls python3 with, none of which is run."""
    stubs, notes = tmp_path / "stubs", tmp_path / "notes"
    stubs.mkdir(exist_ok=True)
    for name in ("python3", "nvidia-smi", "compute-sanitizer"):
        (stubs / name).write_text(NOTES)
        (stubs / name).chmod(0o755)
    (stubs / "timeout").write_text(LIMITS)
    (stubs / "timeout").chmod(0o755)
    notes.write_text("")
    result = subprocess.run(
        ["bash", str(SCRIPT), call, str(tmp_path / "results"), *arguments],
        env=os.environ
        | {"PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}", "NOTES": str(notes), "FAILS": fails}
        | environment,
        capture_output=True,
        text=True,
    )
    assert result.stderr == "" and result.returncode in (0, 1), result.stderr
    assert {path.name for path in (tmp_path / "results").iterdir()} == {f"{call}.tar.gz", f"{call}.txt"}
    called = [block.strip("\n").split("\n") for block in notes.read_text().split("\n\n")]
    return [command for command in called if command[:1] in (["-m"], ["setup.py"])]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> list[list[str]]:
    return [one for call in CALLS for one in commands(tmp_path_factory.mktemp(call), call, str(checkout))]


def arguments_of(called: list[list[str]], module: str) -> list[list[str]]:
    return [command[2:] for command in called if command[:2] == ["-m", module]]


def test_every_module_is_there(called: list[list[str]]) -> None:
    modules = {command[1] for command in called if command[0] == "-m"}
    ours = {
        "benchmarks",
        "benchmarks.first_contact",
        "iris_fast.train",
    }
    assert modules == {"pytest"} | ours
    assert all(find_spec(module) for module in modules)
    assert ["setup.py", "-q", "build_ext", "--inplace"] in called and (ROOT / "setup.py").is_file()
    sections = [
        name for arguments in arguments_of(called, "benchmarks.first_contact") for name in arguments[1:]
    ]
    assert sorted(sections) == sorted(SECTIONS)


def test_cases_and_options_of_the_benchmarks_are_there(called: list[list[str]], checkout: Path) -> None:
    parsed = [benchmarks_parser().parse_args(arguments) for arguments in arguments_of(called, "benchmarks")]
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
    parsed = make_parser().parse_intermixed_args(arguments)
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


@pytest.mark.parametrize(("call", "seconds"), [("first", 200), ("figures", 400), ("compare", 530)])
def test_the_limits_of_a_call_add_up_to_no_more_than_it_may_take(
    tmp_path: Path, call: str, seconds: int
) -> None:
    commands(tmp_path, call)
    lines = (tmp_path / "notes.limits").read_text().splitlines()
    limits = [line.split() for line in lines if " " in line and line.split()[0].isdecimal()]
    beside = ("exact", "tokens")  # the kernels' tests, which have the same limit
    alone = [int(words[0]) for words in limits if words[-1] not in beside]
    assert 0.8 * seconds < sum(alone) <= seconds


def printed(folder: Path) -> str:
    return (folder / "results" / "first.txt").read_text()


def test_what_fails_leaves_the_others_alone_and_is_said(tmp_path: Path) -> None:
    found = commands(tmp_path, "first", fails="exact")
    assert len(found) == STEPS_OF_FIRST
    failures = {line.partition(" after ")[0] for line in printed(tmp_path).splitlines() if ": exit " in line}
    assert failures == {"exact: exit 3"}


def test_a_step_that_hangs_is_ended_and_leaves_the_others_alone(tmp_path: Path) -> None:
    hanging = NOTES.replace("exit 3", "exec sleep 60")
    with mock.patch.dict(globals(), NOTES=hanging):
        found = commands(tmp_path, "first", fails="rollouts", MOST="2")
    assert len(found) == STEPS_OF_FIRST and "rollouts: exit 124 after " in printed(tmp_path)


def test_where_nothing_can_be_kept_facts_are_printed(tmp_path: Path) -> None:
    (tmp_path / "results" / "first.tar.gz" / "taken").mkdir(parents=True)
    found = subprocess.run(
        ["bash", str(SCRIPT), "first", str(tmp_path / "results")],
        env=os.environ | {"STEPS": "nothing"},
        capture_output=True,
        text=True,
    )
    assert "results were not kept" in found.stdout and "done" in found.stdout


def test_the_first_call_in_small_on_a_machine_that_lacks_packages(tmp_path: Path) -> None:
    """The chip, and apart from the limits the parts, run for real, uncaptured: facts as lines, and as JSON."""
    environment = lacking(LACKING, tmp_path / "site")
    found = subprocess.run(
        ["bash", str(SCRIPT), "first", str(tmp_path / "out")],
        env=environment | {"STEPS": "chip"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "chip: a small launch in a graph, us: " in found.stdout and "FAILED" not in found.stdout
    with tarfile.open(tmp_path / "out" / "first.tar.gz") as archive:
        kept = archive.extractfile("first/chip.json")
        assert kept is not None and set(LACKING[:4]) == set(json.load(kept)["lacking"]) & set(LACKING[:4])
    command = [sys.executable, "-m", "benchmarks.first_contact", str(tmp_path), "parts"]
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0 and "FAILED" not in found.stdout, found.stdout + found.stderr
    facts = {in_general(fact) for fact in json.loads((tmp_path / "parts.json").read_text())}
    predicted = {
        in_general(fact) for fact in predictions.kept() if "rollout" not in fact and "step in" not in fact
    }
    assert predicted - facts == {"world_model step", "actor_critic step"}, "predictions name facts of parts"


def in_general(fact: str) -> str:
    """A fact's name at any size."""
    return re.sub(r"\d+", "#", fact)


def test_facts_of_the_chip_survive_what_fails_and_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def shell(script: str) -> list[str]:
        return ["sh", "-c", script, "grid"]

    assert list(chip.measured(shell("echo 'a, ns: 3'; echo 'b: 4'"), 5)) == [("a, ns", "3"), ("b", "4")]
    failing = shell("echo 'a: 3'; echo 'cudaMalloc(x): no memory'; exit 1")
    assert list(chip.measured(failing, 5)) == [("a", "3"), ("grid", "FAILED cudaMalloc(x): no memory")]
    assert list(chip.measured(shell("echo 'a: 3'; exec sleep 9"), 0.5)) == [
        ("a", "3"),
        ("grid", "FAILED more than 0.5 s"),
    ]
    monkeypatch.setattr(chip, "which", lambda _: None)
    assert dict(chip.facts()) == {chip.ALL: "not measured: there is no nvcc here"}


@pytest.mark.slow
@pytest.mark.skipif(which("nvcc") is None, reason="needs nvcc")
def test_the_program_of_the_chip_compiles_and_says_what_keeps_it_from_running() -> None:
    found = dict(chip.facts())
    assert list(found) == list(chip.FACTS) or torch.cuda.is_available()
    assert (
        all(value.startswith("FAILED cudaGetDevice") for value in found.values()) or torch.cuda.is_available()
    )


def test_a_checkout_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = subprocess.run(
        ["bash", str(SCRIPT), "compare", str(tmp_path), str(tmp_path / "nowhere")], capture_output=True
    )
    assert result.returncode == 2 and b"nowhere" in result.stderr


def test_chosen_steps_run_alone(tmp_path: Path) -> None:
    found = commands(tmp_path, "compare", STEPS="kernels")
    assert [command[1] for command in found] == ["-q", "benchmarks"]
    assert found[1][found[1].index("--only") + 1] == "kernel_*"


def test_under_the_sanitizer_the_kernels_tests_run_alone(tmp_path: Path) -> None:
    assert commands(tmp_path, "first", SANITIZE="1") == []
    notes = (tmp_path / "notes").read_text()
    assert notes.count("--tool\n") == 2 and notes.count("tests/kernels\n") == 2


def test_a_call_that_there_is_not_is_refused_with_the_calls_that_there_are(tmp_path: Path) -> None:
    found = subprocess.run(["bash", str(SCRIPT), "all", str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 2 and all(call in found.stderr for call in CALLS)
