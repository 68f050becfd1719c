"""A session of each mode: what steps show, what messages change, that a person takes over and hands back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iris_fast.agent import PARTS
from iris_fast.interop.files import write_weights
from iris_fast.play.interface import MessageError, Update
from iris_fast.play.loading import Player, load_player
from iris_fast.play.session import Session
from tests.support.agents import micro_agent


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Player:
    agent = micro_agent()
    path = tmp_path_factory.mktemp("agent") / "agent.pt"
    state = {name: value for name, value in agent.state_dict().items() if name.split(".")[0] in PARTS}
    write_weights(path, state, agent.config, agent.num_actions)
    return load_player(path, "Catch", "cpu")


@pytest.fixture()
def session(player: Player) -> Iterator[Session]:
    made = Session(player)
    yield made
    made.close()


def step(session: Session) -> Update:
    update = session.advance()
    assert update is not None
    return update


def test_the_real_game_is_shown_step_by_step_with_its_rewards_and_ends(session: Session) -> None:
    assert session.state()["actions"] == ["NOOP", "LEFT", "RIGHT"]
    for number in range(1, 10):
        update = step(session)
        assert update.info["step"] == number and update.info["end"] == (number == 9)
        assert update.images["observation"].shape == (64, 64, 3)
    assert update.info["return"] == update.info["reward"] and abs(float(str(update.info["reward"]))) == 1
    first = step(session)
    assert first.info["step"] == 0 and first.info["action"] is None and not first.info["end"]


def test_a_person_acts_and_the_agent_goes_on_with_the_state_of_what_was_seen(player: Player) -> None:
    alone, shared = Session(player, seed=3), Session(player, seed=3)
    policy = player.policy
    state = player.agent.actor_critic.initial_state(1)
    frame = shared._world.moment.frame  # type: ignore[union-attr]
    for number in range(6):
        if number == 2:
            shared.handle({"type": "handover"})
            shared.handle({"type": "action", "action": 2})
        if number == 4:
            shared.handle({"type": "handover"})
        state = policy(frame[None], state).state
        update = step(shared)
        frame = shared._world.moment.frame  # type: ignore[union-attr]
        assert (update.info["action"] == 2) or number not in (2, 3)
        if number < 2:
            assert update.info["action"] == step(alone).info["action"]
    torch.testing.assert_close(shared._world._loop.state, state)  # type: ignore[union-attr]
    alone.close()
    shared.close()


def test_panels_show_the_screen_and_what_the_agent_sees(session: Session, player: Player) -> None:
    session.handle({"type": "set", "paused": True, "panels": True})
    update = step(session)  # the same moment again
    assert update.info["step"] == 0 and session.advance() is None
    assert set(update.images) == {"observation", "screen", "reconstruction"}
    frame = torch.from_numpy(update.images["observation"].transpose(2, 0, 1))[None]
    seen = (player.agent.reconstruct(frame)[0] * 255).round().byte().numpy()
    assert np.array_equal(update.images["reconstruction"], seen.transpose(1, 2, 0))


def test_pause_single_steps_reset_and_speed(session: Session) -> None:
    session.handle({"type": "set", "paused": True, "fps": 60})
    assert session.interval == 1 / 60
    while session.advance() is not None:
        pass
    session.handle({"type": "step"})
    assert step(session).info["step"] == 1 and session.advance() is None
    session.handle({"type": "reset"})
    assert step(session).info["step"] == 0 and session.advance() is None


def test_a_seed_is_the_same_game_again(session: Session) -> None:
    def played() -> list[Any]:
        session.handle({"type": "set", "seed": 5})
        return [step(session).images["observation"] for _ in range(12)]

    assert np.array_equal(played(), played())


def test_what_makes_no_sense_gets_a_sentence(session: Session) -> None:
    with pytest.raises(MessageError, match="Catch has 3 actions: there is no action 9"):
        session.handle({"type": "action", "action": 9})


def test_a_closed_session_frees_its_environment(player: Player) -> None:
    session = Session(player)
    env = session._world._env  # type: ignore[union-attr]
    session.close()
    session.close()
    assert env.closed


def test_atari_shows_the_emulators_screen(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    agent = micro_agent(num_actions=6)
    path = tmp_path / "agent.pt"
    write_weights(path, dict(agent.state_dict()), agent.config, agent.num_actions)
    session = Session(load_player(path, "Pong", "cpu"), panels=True)
    update = step(session)
    assert update.images["screen"].shape == (210, 160, 3) and update.images["screen"].max() > 0
    session.close()
