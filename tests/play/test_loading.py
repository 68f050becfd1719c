"""What can be played: files of both kinds, run folders, agents of any grid of tokens, a run that is being trained."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iris_fast.agent import Agent
from iris_fast.interop import files
from iris_fast.interop.files import write_weights
from iris_fast.interop.public import to_public
from iris_fast.play.interface import MessageError
from iris_fast.play.loading import Player, load_player
from iris_fast.play.session import Session
from iris_fast.training.device import choose_device
from iris_fast.training.run_folder import RunFolder
from iris_fast.training.subject import read_subject
from iris_fast.training.trainer import Position
from tests.golden.recipe import golden_agent
from tests.interop.conftest import small_config
from tests.support.agents import micro_agent
from tests.support.micro import micro_config


def play_everywhere(session: Session, side: int) -> None:
    """A step of each mode with thoughts, and the last token replaced."""
    session.handle({"type": "set", "thoughts": True, "paused": True})
    for mode in ("real", "dream", "fork"):
        session.handle({"type": "set", "mode": mode})
        session.handle({"type": "step"})
        update = session.advance()
        assert update is not None
        thoughts: Any = update.info["thoughts"]
        assert len(thoughts["tokens"]) == len(thoughts["token_entropies"]) == side**2
    last: dict[str, Any] = {"type": "token", "index": side**2 - 1, "code": 3}
    session.handle(last)
    assert session._world.moment.tokens is not None and session._world.moment.tokens[-1] == 3
    with pytest.raises(MessageError, match=f"has {side**2} tokens: there is no token {side**2}"):
        session.handle({**last, "index": side**2})
    recording = session.new_recording()
    session.record_step(recording)
    assert recording.arrays()["tokens"].shape == (2, side**2)
    session.close()


@pytest.mark.parametrize("side", [2, 8])
def test_an_agent_of_any_grid_of_tokens(tmp_path: Path, side: int) -> None:
    levels = {2: 6, 8: 4}[side]
    agent = micro_agent(
        f"tokenizer.encoder.config.ch_mult={[1] * levels}", f"world_model.tokens_per_block={side**2 + 1}"
    )
    write_weights(tmp_path / "agent.pt", agent.state_dict(), agent.config, agent.num_actions)
    play_everywhere(Session(load_player(tmp_path / "agent.pt", "Catch", "cpu")), side)


def test_a_checkpoint_and_a_run_folder_of_the_public_implementation(tmp_path: Path) -> None:
    agent = golden_agent(3, 3, small_config(num_heads=2), with_lpips=False)
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    torch.save(to_public(agent.state_dict(), agent.config), path)
    for given in (path, tmp_path / "run"):
        player = load_player(given, "Catch", "cpu", num_heads=2)
        assert player.media == tmp_path / "run" / "media"
        assert all(
            torch.equal(value, player.agent.state_dict()[name]) for name, value in agent.state_dict().items()
        )
    play_everywhere(Session(player), side=16)


def test_a_run_that_is_being_trained_is_read_at_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is replaced right after it was opened, and again while it is played."""
    run = RunFolder(tmp_path / "run")
    run.create(micro_config())

    def trained(epoch: int) -> Agent:
        agent = micro_agent(seed=epoch)
        extra = {"position": asdict(Position(epoch=epoch))}
        write_weights(tmp_path / "next.pt", agent.state_dict(), agent.config, agent.num_actions, extra)
        run.checkpoint.parent.mkdir(exist_ok=True)
        os.replace(tmp_path / "next.pt", run.checkpoint)
        return agent

    load, expected = files.load_payload, trained(5)
    monkeypatch.setattr(files, "load_payload", lambda path: (load(path), trained(9))[0])
    subject = read_subject(run.path, None, None, choose_device("cpu"))
    assert subject.epoch == 4
    trained(5)
    player = load_player(run.path, None, "cpu")
    trained(9)
    found = Session(player).player.agent.state_dict()
    for name, value in expected.state_dict().items():
        assert torch.equal(subject.weights.state_dict[name], value), name
        assert np.array_equal(found[name].numpy(), value.numpy()), name


def test_the_agent_that_is_watched_is_the_one_that_is_scored(player: Player) -> None:
    """The temperature is the run's in tests, which `evaluate` takes too, unless another is given."""
    test = player.config.collection.test
    warm = replace(test, config=replace(test.config, temperature=0.25))
    other = replace(player.config, collection=replace(player.config.collection, test=warm))
    for owner, given, expected in (
        (player, None, 0.5),
        (replace(player, config=other), None, 0.25),
        (player, 2.0, 2.0),
    ):
        session = Session(owner, temperature=given)
        assert session.state()["temperature"] == expected
        session.close()
