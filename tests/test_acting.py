"""The captured policy equals the agent's, for frames from the host and a continuing state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iris_fast.acting import Policy
from iris_fast.graphs import CudaGraphs, GraphedCall, Uncaptured
from tests.support.agents import micro_agent
from tests.support.fake_device import DEVICE, OnDeviceAlone, fake_cuda, without_data


def frames(batch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 3, 64, 64), dtype=np.uint8)


def test_captured_it_is_the_agents_policy_step_by_step() -> None:
    agent = micro_agent()
    captured, plain = Policy(agent, Uncaptured(torch.device("cpu"))), Policy(agent)
    for batch in (2, 3, 2):
        state = expected_state = agent.actor_critic.initial_state(batch)
        for step in range(3):
            found, expected = captured(frames(batch, step), state), plain(frames(batch, step), expected_state)
            assert torch.equal(found.logits_actions, expected.logits_actions)
            assert torch.equal(found.values, expected.values)
            state, expected_state = found.state, expected.state
        assert all(map(torch.equal, state, expected_state))


def test_the_two_halves_of_a_step_are_the_whole_step() -> None:
    agent = micro_agent()
    captured, plain = Policy(agent, Uncaptured(torch.device("cpu"))), Policy(agent)
    state = agent.actor_critic.initial_state(2)
    for step in range(3):
        whole = plain(frames(2, step), state)
        for policy in (captured, plain):
            tokens, seen = policy.look(frames(2, step))
            assert torch.equal(tokens, agent.coder.tokens_of(torch.from_numpy(frames(2, step)) / 255))
            assert torch.equal(seen, agent.reconstruct(torch.from_numpy(frames(2, step))))
            found = policy.on_reconstructions(seen, state)
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
        state = whole.state


def test_what_is_captured_never_looks_at_a_number_nor_leaves_the_device() -> None:
    agent = micro_agent()
    policy = Policy(agent, Uncaptured(torch.device("cpu")))
    with fake_cuda():
        without_data(agent)
        state = agent.actor_critic.initial_state(2)
        inputs = {"frames": torch.empty((2, 3, 64, 64), dtype=torch.uint8, device=DEVICE), **state._asdict()}
        with OnDeviceAlone(), torch.no_grad():
            assert policy._act(inputs)["logits_actions"].shape == (2, 1, 3)
            looked = policy._look(inputs)
            assert looked["tokens"].shape == (2, 16)
            seen = inputs | {"frames": looked["seen"]}
            assert policy._act_on_reconstructions(seen)["logits_actions"].shape == (2, 1, 3)


def test_a_captured_function_takes_what_it_was_captured_with() -> None:
    call = GraphedCall(lambda inputs: {"y": inputs["x"] + inputs["n"]}, Uncaptured(torch.device("cpu")))
    assert call({"x": torch.ones(2), "n": 2**64 - 1})["y"].tolist() == [0.0, 0.0]
    outputs = call({"x": torch.zeros(2), "n": 5})
    assert outputs["y"].tolist() == [5.0, 5.0]
    with pytest.raises(ValueError, match=r"x was captured as torch.float32 \(2,\), called with .* \(3,\)"):
        call({"x": torch.ones(3), "n": 5})
    with pytest.raises(ValueError, match="captured with inputs x, n, called with x"):
        call({"x": torch.ones(2)})


@pytest.mark.gpu
def test_on_a_gpu_the_captured_policy_is_the_agents() -> None:
    agent = micro_agent().to("cuda")
    captured, plain = Policy(agent, CudaGraphs(torch.device("cuda"))), Policy(agent)
    state = agent.actor_critic.initial_state(2)
    for step in range(3):
        found, expected = captured(frames(2, step), state), plain(frames(2, step), state)
        torch.testing.assert_close(found.logits_actions, expected.logits_actions)
        state = found.state
