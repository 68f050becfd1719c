"""Our exports in the public implementation's strict loader: `pytest tests/interop --reference CHECKOUT`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from iris_fast.agent import Agent, AgentConfig, config_to_dict
from iris_fast.convert import main
from iris_fast.interop.files import write_weights
from iris_fast.models.perceptual import LPIPS
from tests.golden.recipe import golden_agent

from .conftest import small_config


@pytest.fixture
def checkout(request: pytest.FixtureRequest) -> Path:
    path: Path | None = request.config.getoption("--reference", default=None)
    if path is None:
        pytest.skip("no --reference CHECKOUT given")
    return path.resolve()


def run_there(checkout: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a module of these tests with the checkout, in a process of its own."""
    command = [sys.executable, "-m", f"tests.interop.{module}", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def load_there(checkout: Path, file: Path, agent: Agent, perceptual: str) -> subprocess.CompletedProcess[str]:
    config = json.dumps(config_to_dict(agent.config))
    return run_there(checkout, "reference_loader", str(file), str(agent.num_actions), perceptual, config)


@pytest.mark.parametrize("config", [AgentConfig(), small_config(), small_config(attention="block_causal")])
@pytest.mark.parametrize("perceptual", ["with", "without"])
def test_its_strict_loader_accepts_our_export(
    checkout: Path, tmp_path: Path, lpips: LPIPS, config: AgentConfig, perceptual: str
) -> None:
    agent = golden_agent(1, 6, config, with_lpips=False)
    source, target = tmp_path / "ours.pt", tmp_path / "public.pt"
    weights = agent.state_dict()
    if perceptual == "with":
        weights |= {f"tokenizer.lpips.{name}": value for name, value in lpips.state_dict().items()}
    write_weights(source, weights, config, 6)
    omitted = ["--lpips", "omit"] if perceptual == "without" else []
    assert main([str(source), str(target), "--to", "public", *omitted]) == 0
    result = load_there(checkout, target, agent, perceptual)
    assert result.stdout.splitlines()[-1].startswith("loaded "), result.stderr
    other = load_there(checkout, target, agent, "without" if perceptual == "with" else "with")
    assert other.returncode != 0 and "lpips" in other.stderr  # its loader is strict about this


@pytest.mark.parametrize("engine", ["auto", "oracle"])
@pytest.mark.parametrize("attention", ["causal", "block_causal"])
def test_an_accelerated_agent_gives_the_same_results(checkout: Path, attention: str, engine: str) -> None:
    result = run_there(checkout, "accelerated_results", attention, engine)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.splitlines()[-1] == "the same"
