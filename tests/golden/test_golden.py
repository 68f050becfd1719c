"""The golden file agrees, and the check notices any difference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_fast.command_line import run_command
from tests.golden.__main__ import main
from tests.golden.checks import EXACT, INPUTS, ROUNDINGS, TOKENS, compare, compute, read_golden
from tests.golden.recipe import GOLDEN_FILE, STATE_DICT_FILE, golden_agent, golden_parameter

Computed = tuple[dict[str, Tensor], dict[str, str]]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden(GOLDEN_FILE)


@pytest.fixture(scope="module")
def computed(golden: dict[str, Tensor]) -> Computed:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the many small operations of a rollout gain nothing from more
    try:
        return compute(golden)
    finally:
        torch.set_num_threads(threads)


def failing(golden: dict[str, Tensor], computed: Computed) -> list[str]:
    return [row.name for row in compare(golden, *computed) if not row.ok]


def save_part(golden: dict[str, Tensor], path: Path, *names: str, **changed: Tensor) -> Path:
    """A file with the arrays that the actor-critic's check needs, and `names`: quick to check."""
    kept = ("seed", "observations", "mask_padding", "actor_logits", "critic_values", *names)
    chosen = {name: golden[name] for name in kept} | changed
    arrays: dict[str, Any] = {name: value.numpy() for name, value in chosen.items()}
    np.savez(path, **arrays)
    return path


def test_every_array_agrees(golden: dict[str, Tensor], computed: Computed) -> None:
    rows = compare(golden, *computed)
    assert [row for row in rows if not row.ok] == []
    assert {row.name for row in rows} == set(np.load(GOLDEN_FILE).files)
    assert sum(row.is_input for row in rows) == len(INPUTS) == 13


@pytest.mark.parametrize("name", ROUNDINGS)
def test_a_little_more_than_rounding_falls_short(
    golden: dict[str, Tensor], computed: Computed, name: str
) -> None:
    changed = golden[name].clone()
    where = changed.abs().flatten().argmin()  # anywhere: the tolerance is of the array's largest entry
    changed.view(-1)[where] += 2.5 * ROUNDINGS[name] * 2**-23 * changed.abs().max()
    assert failing(golden | {name: changed}, computed) == [name]
    changed.view(-1)[where] = float("nan")
    assert failing(golden | {name: changed}, computed) == [name]
    assert failing(golden | {name: golden[name][None]}, computed) == [name]


@pytest.mark.parametrize("name", [*EXACT, *TOKENS])
def test_integers_must_be_equal(golden: dict[str, Tensor], computed: Computed, name: str) -> None:
    changed = golden[name].clone()
    changed.view(-1)[0] += 1
    assert failing(golden | {name: changed}, computed) == [name]


def test_tokens_may_differ_where_codewords_tie(golden: dict[str, Tensor], computed: Computed) -> None:
    tokens, margin = golden["tokens"].clone(), golden["tokens_margin"].clone()
    tokens[1, 2, 3], margin[1, 2, 3] = (tokens[1, 2, 3] + 1) % 512, 1e-3
    assert failing(golden | {"tokens": tokens, "tokens_margin": margin}, computed) == ["tokens_margin"]


def test_an_array_that_nothing_checks_falls_short(golden: dict[str, Tensor], computed: Computed) -> None:
    assert failing(golden | {"novelty": torch.zeros(2)}, computed) == ["novelty"]


def test_the_command_passes_and_fails(
    golden: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(save_part(golden, tmp_path / "good.npz"))]) == 0
    assert "5 arrays: 3 inputs, 2 agree, 0 fall short" in capsys.readouterr().out
    path = save_part(golden, tmp_path / "bad.npz", critic_values=golden["critic_values"] * 1.0001)
    result = subprocess.run([sys.executable, "-m", "tests.golden", path], capture_output=True, text=True)
    assert result.returncode == 1
    verdicts = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert " FAIL " in verdicts["critic_values"] and " ok " in verdicts["actor_logits"]


def test_missing_inputs_fall_short_by_name(
    golden: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(save_part(golden, tmp_path / "part.npz", "lambda_returns"))]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lambda_returns")]
    assert "FAIL" in line and "the file lacks 'lambda_rewards'" in line


def test_what_is_no_golden_file_exits_with_2(
    golden: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, other, cut = tmp_path / "text.npz", tmp_path / "other.npz", tmp_path / "cut.npz"
    text.write_text("hello")
    np.savez(other, seed=np.array(1))
    cut.write_bytes(GOLDEN_FILE.read_bytes()[:5000])
    for path in (text, other, cut, tmp_path / "absent.npz"):
        assert run_command(main, [str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_the_recipe_is_that_of_the_specification() -> None:
    """Written out again, independently, for one parameter of each kind."""
    draw = np.random.RandomState(1379327073).standard_normal  # crc32 of b"1:actor_critic.conv1.bias"
    assert torch.equal(
        golden_parameter("actor_critic.conv1.bias", (32,), 1),
        torch.from_numpy((0.1 * draw(32)).astype(np.float32)),
    )
    assert abs(float(golden_parameter("world_model.transformer.ln_f.weight", (256,), 1).mean()) - 1) < 0.05
    assert abs(float(golden_parameter("actor_critic.conv4.weight", (64, 64, 3, 3), 1).std()) * 24 - 1) < 0.02
    assert float(golden_parameter("tokenizer.lpips.lin0.model.1.weight", (1, 64, 1, 1), 1).min()) > 0


def test_the_agent_has_every_parameter_of_the_published_one() -> None:
    published = json.loads(STATE_DICT_FILE.read_text())["parameters"]
    agent = golden_agent(1, 6)
    assert {name: list(value.shape) for name, value in agent.named_parameters()} == published
