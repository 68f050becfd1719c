"""The data of each part's losses."""

from __future__ import annotations

import pytest
import torch

from iris_fast.agent import Agent
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.parts import imagination_start
from tests.support.agents import gradients, micro_agent
from tests.support.episodes import noise_store
from tests.support.parts import losses_on, micro_parts

BURN_IN = 3


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


@pytest.fixture
def store() -> EpisodeStore:
    return noise_store(1, 2, 12)


@pytest.fixture
def cache(agent: Agent, store: EpisodeStore) -> FrameCache:
    return FrameCache(agent.coder, store, max_bytes=10**9)


def test_tokenizer_batches_are_single_frames_of_the_replay(agent: Agent, store: EpisodeStore) -> None:
    part = micro_parts(agent, FrameCache(agent.coder, store), "training.tokenizer.pieces=1")["tokenizer"]
    frames = part.inputs(0, 32)["frames"]
    assert frames.shape == (32, 3, 64, 64)
    stored = {frame.numpy().tobytes() for frame in store.frames[1:].float() / 255}
    assert all(frame.numpy().tobytes() in stored for frame in frames)
    assert len({frame.numpy().tobytes() for frame in frames}) > 5
    assert torch.equal(frames, part.inputs(0, 32)["frames"])
    assert not torch.equal(frames, part.inputs(1, 32)["frames"])
    losses = losses_on(part, 0, 32)
    assert {name: loss.item() for name, loss in losses.items()} == {
        name: loss.item() for name, loss in agent.tokenizer.losses(frames).items()
    }


def test_a_rollout_starts_from_the_last_frame_and_burns_in_on_those_before(
    agent: Agent, store: EpisodeStore, cache: FrameCache
) -> None:
    start = imagination_start(cache, 40, BURN_IN, seed=0)
    assert start.burn_in_frames.shape == (40, BURN_IN, 3, 64, 64)
    assert start.burn_in_mask.shape == (40, BURN_IN)
    assert start.first_tokens.shape == (40, 16)
    every = agent.tokenizer.tokens_of(store.frames.float() / 255)
    seen = agent.tokenizer.frames_of(every)
    followed = set()
    for row in range(40):
        held = int(start.burn_in_mask[row].sum())
        assert start.burn_in_mask[row].tolist() == [False] * (BURN_IN - held) + [True] * held, "left-padded"
        (slot,) = (every == start.first_tokens[row]).all(dim=1).nonzero()[0].tolist()
        before = [key for key, episode in store.episodes.items() if slot in episode.held]
        position = store.episodes[before[0]].held.tolist().index(slot)
        assert held == min(BURN_IN, position)
        earlier = store.episodes[before[0]].held[position - held : position]
        torch.testing.assert_close(
            start.burn_in_frames[row, BURN_IN - held :], seen[torch.from_numpy(earlier)]
        )
        followed.add((before[0], position))
    assert len(followed) > 8


def test_without_a_burn_in(agent: Agent, cache: FrameCache) -> None:
    part = micro_parts(agent, cache, "training.actor_critic.burn_in=0")["actor_critic"]
    rollout = part.inputs(0, 4)
    assert all((state == 0).all() for state in rollout.start_state)
    assert all(torch.isfinite(loss) for losses in part.losses(rollout) for loss in losses.values())


def test_imagination_is_in_evaluation_mode(cache: FrameCache) -> None:
    agent = micro_agent()
    cache = FrameCache(agent.coder, cache.store, max_bytes=10**9)
    found = []
    for training in (False, True):
        agent.train(training)
        losses = losses_on(micro_parts(agent, cache)["actor_critic"], 0, 4)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0] == found[1]


def test_each_parts_losses_teach_that_part_alone(agent: Agent, cache: FrameCache) -> None:
    for name, part in micro_parts(agent, cache, "training.tokenizer.pieces=1").items():
        agent.zero_grad()
        torch.stack(list(losses_on(part, 0, 4).values())).sum().backward()
        found = gradients(agent.named_parameters())
        assert {parameter.partition(".")[0] for parameter in found} == {name}
        assert len(found) == len(part.parameters) == len(list(agent.get_submodule(name).parameters())), (
            "and all of it"
        )
    agent.zero_grad()


def test_a_seed_says_everything(agent: Agent, cache: FrameCache) -> None:
    parts = micro_parts(agent, cache)
    for name in ("world_model", "actor_critic"):
        drawn = [losses_on(parts[name], seed, 4) for seed in (1, 1, 2)]
        first, again, other = ([loss.item() for loss in losses.values()] for losses in drawn)
        assert first == again
        assert first != other


def test_the_horizon_is_the_configurations(agent: Agent, cache: FrameCache) -> None:
    horizons = []

    class Engine(OracleEngine):
        def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
            horizons.append(horizon)
            return super().imagine(start, horizon, seed)

    for horizon, expected in (("null", 4), ("6", 6)):
        overrides = (f"training.actor_critic.imagine_horizon={horizon}", "common.sequence_length=4")
        micro_parts(agent, cache, *overrides, engine=Engine(agent))["actor_critic"].inputs(0, 2)
        assert horizons.pop() == expected
