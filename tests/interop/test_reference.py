"""Our exports in the public implementation's strict loader: `pytest tests/interop --reference CHECKOUT`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from iris_fast.agent import Agent, AgentConfig
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


def load_there(checkout: Path, file: Path, agent: Agent, perceptual: str) -> subprocess.CompletedProcess[str]:
    config = agent.config
    autoencoder = dataclasses.asdict(config.tokenizer.autoencoder)
    del autoencoder["norm_groups"]
    sizes = {
        "autoencoder": autoencoder,
        "tokenizer": {"vocab_size": config.tokenizer.vocab_size, "embed_dim": config.tokenizer.embed_dim},
        "world_model": dataclasses.asdict(config.world_model),
    }
    script = Path(__file__).with_name("reference_loader.py")
    arguments = [str(checkout), str(file), str(agent.num_actions), perceptual, json.dumps(sizes)]
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


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
