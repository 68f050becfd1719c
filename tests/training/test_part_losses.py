"""What each part's losses are computed on."""

from __future__ import annotations

import pytest
import torch

from iris_fast.agent import Agent
from iris_fast.config import resolve
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.part_losses import (
    imagination_start,
    imagine,
    imagined_losses,
    tokenizer_frames,
    tokenizer_losses,
    world_model_losses,
)
from tests.support.agents import gradients, micro_agent
from tests.support.episodes import noise_store
from tests.support.micro import micro_config

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
    frames = tokenizer_frames(store, 32, seed=0)
    assert frames.shape == (32, 3, 64, 64)
    stored = {frame.numpy().tobytes() for frame in store.frames[1:].float() / 255}
    assert all(frame.numpy().tobytes() in stored for frame in frames)
    assert len({frame.numpy().tobytes() for frame in frames}) > 5
    assert torch.equal(frames, tokenizer_frames(store, 32, seed=0))
    assert not torch.equal(frames, tokenizer_frames(store, 32, seed=1))
    losses = tokenizer_losses(agent, store, 32, seed=0)
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
    config = resolve(micro_config("training.actor_critic.burn_in=0"))
    rollout = imagine(agent, cache, OracleEngine(agent), 4, 0, 3, seed=0)
    assert all((part == 0).all() for part in rollout.start_state)
    losses = imagined_losses(agent, cache, OracleEngine(agent), config, 4, seed=0)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_imagination_is_in_evaluation_mode(cache: FrameCache) -> None:
    agent, config = micro_agent(), resolve(micro_config())
    cache = FrameCache(agent.coder, cache.store, max_bytes=10**9)
    found = []
    for training in (False, True):
        agent.train(training)
        losses = imagined_losses(agent, cache, OracleEngine(agent), config, 4, seed=0)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0] == found[1]


def test_each_parts_losses_teach_that_part_alone(
    agent: Agent, store: EpisodeStore, cache: FrameCache
) -> None:
    config = resolve(micro_config())
    engine = OracleEngine(agent)
    for part, losses in {
        "tokenizer": tokenizer_losses(agent, store, 4, 0),
        "world_model": world_model_losses(agent, cache, 4, 4, 0),
        "actor_critic": imagined_losses(agent, cache, engine, config, 4, 0),
    }.items():
        agent.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        found = gradients(agent.named_parameters())
        assert {name.partition(".")[0] for name in found} == {part}
        assert len(found) == len(list(agent.get_submodule(part).parameters())), "and all of it"
    agent.zero_grad()


def test_a_seed_says_everything(agent: Agent, cache: FrameCache) -> None:
    config, engine = resolve(micro_config()), OracleEngine(agent)
    for losses in (
        lambda seed: world_model_losses(agent, cache, 4, 4, seed),
        lambda seed: imagined_losses(agent, cache, engine, config, 4, seed),
    ):
        first, again, other = ([loss.item() for loss in losses(seed).values()] for seed in (1, 1, 2))
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
        config = resolve(micro_config(*overrides))
        imagined_losses(agent, cache, Engine(agent), config, 2, seed=0)
        assert horizons.pop() == expected
