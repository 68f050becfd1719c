"""A micro agent for Catch in a checkpoint of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iris_fast.agent import PARTS
from iris_fast.interop.files import write_weights
from iris_fast.play.loading import Player, load_player
from tests.support.agents import micro_agent


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = micro_agent()
    with torch.no_grad():  # dreams that end after some thirty steps, not after two
        agent.world_model.head_ends.head_module[2].bias[0] += 4  # type: ignore[operator,index]
    path = tmp_path_factory.mktemp("agent") / "agent.pt"
    state = {name: value for name, value in agent.state_dict().items() if name.split(".")[0] in PARTS}
    write_weights(path, state, agent.config, agent.num_actions)
    return path


@pytest.fixture(scope="session")
def player(agent_file: Path) -> Player:
    return load_player(agent_file, "Catch", "cpu")


@pytest.fixture()
def own(player: Player, tmp_path: Path) -> Player:
    """The player with a media folder of its own."""
    return replace(player, media=tmp_path / "media")
