"""The play loop by itself; the tests of collection and evaluation cover its use there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iris_fast.envs.playing import PlayLoop
from iris_fast.models.actor_critic import LSTMState
from tests.training.scripted import ScriptedEnv, address


def counting(observations: np.ndarray, state: LSTMState, number: int) -> tuple[np.ndarray, LSTMState]:
    """Actions that tell the step's number, and a state that counts the steps of an episode."""
    return np.full(len(observations), number % 3), LSTMState(state.hx + 1, state.cx - 1)


def test_episodes_begin_where_they_are_told_to_and_with_a_state_of_zeros() -> None:
    env = ScriptedEnv([[2], [3]])
    loop = PlayLoop(env, counting)
    loop.begin(2**31 + 5)
    assert env.seeds == [5]
    loop.state = LSTMState(torch.zeros(2, 4), torch.zeros(2, 4))
    seen, lengths = [], []
    for number in range(6):
        step = loop.step()
        assert step.actions.tolist() == [number % 3] * 2
        seen.append([address(frame) for frame in step.observations])
        lengths += [(row, int(loop.state.hx[row, 0])) for row in np.nonzero(step.ends)[0]]
        assert torch.equal(loop.state.hx, -loop.state.cx)
        if step.ends.any():
            loop.restart(step.ends)
            assert not loop.state.hx[torch.from_numpy(step.ends)].any()
    assert [row for row, _, _ in seen[0]] == [0, 1]
    assert [number for (_, number, _), _ in seen] == [0, 0, 1, 1, 2, 2]
    assert [step for _, (_, _, step) in seen] == [0, 1, 2, 0, 1, 2]
    assert lengths == [(0, 2), (1, 3), (0, 2), (0, 2), (1, 3)]


def test_what_an_ended_episode_led_to_is_its_last_observation() -> None:
    loop = PlayLoop(ScriptedEnv([[1], [2]]), counting)
    loop.begin(0)
    loop.state = LSTMState(torch.zeros(2, 1), torch.zeros(2, 1))
    step = loop.step()
    last = address(step.following[0])
    loop.restart(step.ends)
    assert loop.observations is not None
    assert last[1] == 0 and address(loop.observations[0])[1] == 1


def test_nothing_is_played_before_it_began() -> None:
    with pytest.raises(RuntimeError, match="call begin"):
        PlayLoop(ScriptedEnv([[1]]), counting).step()
