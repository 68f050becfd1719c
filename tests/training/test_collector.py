"""Collection: played steps are stored, and episodes keep their state across epochs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from iris_fast.acting import ActingConfig, choose_actions
from iris_fast.agent import Agent
from iris_fast.envs import EnvConfig, make_vector_env
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.collector import Collector
from tests.support.agents import micro_agent
from tests.support.episodes import CPU, assert_uniform
from tests.training.scripted import ScriptedEnv, WatchedAgent, address

ACTING = ActingConfig(epsilon=0.01, should_sample=True, temperature=1.0, burn_in=3)
LENGTHS = [[2, 5, 3], [7], [1, 4], [30]]


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


def make_collector(
    agent: Agent, lengths: list[list[int]] = LENGTHS, burn_in: int = 3, seed: int = 0
) -> tuple[Collector, ScriptedEnv, EpisodeStore]:
    env, store = ScriptedEnv(lengths), EpisodeStore(400, 64, CPU)
    acting = ActingConfig(ACTING.epsilon, ACTING.should_sample, ACTING.temperature, burn_in)
    return Collector(env, agent, store, acting, seed), env, store


def collect(collector: Collector, steps: int, resumed: bool = False) -> dict[str, list[float]]:
    return collector.collect(steps, lambda taken: False, resumed=resumed)


def frames_of(store: EpisodeStore, key: int) -> np.ndarray:
    return store.frames[torch.from_numpy(store.episodes[key].held)].numpy()


def test_each_episode_is_one_rows_whole_episode(agent: Agent) -> None:
    """Whatever ends when, over several epochs."""
    collector, env, store = make_collector(agent)
    finished: dict[str, list[float]] = {"return": [], "length": []}
    for _ in range(3):
        for name, values in collect(collector, 4 * 7).items():
            finished[name] += values
    assert store.num_frames == 4 * 21
    seen, returns = set(), []
    for key, episode in store.episodes.items():
        addresses = [address(frame) for frame in frames_of(store, key)]
        row, number, _ = addresses[0]
        assert addresses == [(row, number, step) for step in range(episode.length)]
        seen.add((row, number))
        lasting = LENGTHS[row][number % len(LENGTHS[row])]
        assert episode.closed == (episode.length == lasting)
        index = torch.from_numpy(episode.held)
        ends = [step == lasting - 1 for step in range(episode.length)]
        assert store.ends[index].tolist() == ends
        rewards = [env.reward(row, number, step, ended) for step, ended in enumerate(ends)]
        assert store.rewards[index].tolist() == rewards
        assert episode.episode_return == sum(rewards)
        returns += [sum(rewards)] if episode.closed else []
    assert len(seen) == len(store.episodes)
    assert sorted(finished["return"]) == sorted(returns)
    assert sorted(finished["length"]) == sorted(e.length for e in store.episodes.values() if e.closed)
    assert store.episodes[collector.episode_ids[3]].length == 21, "one episode spans all three epochs"


def test_stored_actions_are_those_taken(agent: Agent) -> None:
    collector, env, store = make_collector(agent)
    collect(collector, 4 * 10)
    collect(collector, 4 * 10)
    taken = np.stack(env.taken)
    assert taken.shape == (20, 4)
    for row in range(4):
        keys = [key for key in store.episodes if address(frames_of(store, key)[0])[0] == row]
        stored = [store.actions[torch.from_numpy(store.episodes[key].held)].numpy() for key in keys]
        np.testing.assert_array_equal(np.concatenate(stored), taken[:, row])
    assert len(np.unique(taken)) == 3


def test_the_state_starts_anew_with_each_episode(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = WatchedAgent(agent)
    monkeypatch.setattr(agent, "policy", watch)
    collector, _, _ = make_collector(agent)
    collect(collector, 4 * 12)
    collect(collector, 4 * 12)
    assert len(watch.states) == 24
    watch.assert_fresh_exactly_at_starts()


@pytest.mark.parametrize("burn_in", [0, 1, 3, 20])
def test_the_rebuilt_state_is_that_of_feeding_the_frames(agent: Agent, burn_in: int) -> None:
    collector, _, store = make_collector(agent, burn_in=burn_in)
    collect(collector, 4 * 5)
    collect(collector, 0)  # begins an epoch and takes no step
    assert collector.loop.state is not None
    for row, key in enumerate(collector.episode_ids.tolist()):
        expected = agent.actor_critic.initial_state(1)
        # An episode that has just begun has nothing in the store yet.
        held = frames_of(store, key) if key in store.episodes else np.zeros((0, 3, 64, 64), np.uint8)
        for frame in held[len(held) - min(burn_in, len(held)) :]:
            expected = agent.policy(torch.from_numpy(frame[None]), expected).state
        for found, part in zip(collector.loop.state, expected, strict=True):
            torch.testing.assert_close(found[row : row + 1], part)
    keys = collector.episode_ids.tolist()
    lengths = {store.episodes[key].length for key in keys if key in store.episodes}
    assert len(lengths) > 1
    assert 5 in lengths


def test_an_epochs_end_changes_nothing_with_the_whole_episode_in_the_burn_in(agent: Agent) -> None:
    """And the same models: the state is rebuilt as it was, so the same actions are drawn."""
    whole, _, whole_store = make_collector(agent, burn_in=40)
    parts, _, parts_store = make_collector(agent, burn_in=40)
    collect(whole, 4 * 24)
    for _ in range(4):
        collect(parts, 4 * 6)
    for key, episode in whole_store.episodes.items():
        np.testing.assert_array_equal(frames_of(whole_store, key), frames_of(parts_store, key))
        index, other = (torch.from_numpy(s.episodes[key].held) for s in (whole_store, parts_store))
        assert torch.equal(whole_store.actions[index], parts_store.actions[other])
        assert parts_store.episodes[key].closed == episode.closed
        assert parts_store.episodes[key].episode_return == episode.episode_return


def test_a_short_burn_in_forgets(agent: Agent) -> None:
    states = []
    for burn_in in (1, 40):
        collector, _, _ = make_collector(agent, burn_in=burn_in)
        collect(collector, 4 * 5)
        collect(collector, 0)
        assert collector.loop.state is not None
        states.append(collector.loop.state.hx[3])
    assert not torch.allclose(states[0], states[1], atol=1e-3)


def test_steps_are_counted_over_all_environments(agent: Agent) -> None:
    collector, env, store = make_collector(agent)
    counted = []
    collector.collect(10, lambda taken: counted.append(taken) or False, resumed=False)  # type: ignore[func-returns-value]
    assert counted == [4, 4, 4], "the last vector step may go past"
    assert store.num_frames == 12
    collector.collect(400, lambda taken: len(env.taken) == 5, resumed=False)
    assert store.num_frames == 20, "stopped early, all that was played is stored"


def test_same_seed_same_actions_other_seed_others(agent: Agent) -> None:
    def actions(seed: int) -> np.ndarray:
        collector, env, _ = make_collector(agent, seed=seed)
        collect(collector, 4 * 12)
        return np.stack(env.taken)

    np.testing.assert_array_equal(actions(0), actions(0))
    assert (actions(0) != actions(1)).any()


def test_goes_on_from_its_state(agent: Agent) -> None:
    """In the middle of a collection, bit for bit, where the environments can be saved."""

    def make() -> tuple[Collector, EpisodeStore]:
        env = make_vector_env("Catch", EnvConfig(), num_envs=2, seed=3)
        store = EpisodeStore(100, 64, CPU)
        return Collector(env, agent, store, ACTING, seed=0), store

    whole, whole_store = make()
    collect(whole, 40)
    first, first_store = make()
    collect(first, 14)
    state = copy.deepcopy(first.state_dict())
    second, _ = make()
    second.store = first_store
    assert second.load_state_dict(state)
    collect(second, 26, resumed=True)
    assert list(first_store.episodes) == list(whole_store.episodes)
    for key in whole_store.episodes:
        np.testing.assert_array_equal(frames_of(first_store, key), frames_of(whole_store, key))
    ours, theirs = second.state_dict(), whole.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(ours["state"], theirs["state"], strict=True))
    assert torch.equal(ours["observations"], theirs["observations"])
    assert {k: ours[k] for k in ("steps", "next_episode", "episode_ids", "env")} == {
        k: theirs[k] for k in ("steps", "next_episode", "episode_ids", "env")
    }


def test_an_environment_that_cannot_be_saved_starts_anew(agent: Agent) -> None:
    first, _, store = make_collector(agent)
    collect(first, 4 * 5)
    open_before = [int(key) for key in first.episode_ids if key in store.episodes]
    assert open_before
    state = copy.deepcopy(first.state_dict())
    second, _, _ = make_collector(agent)
    second.store = store
    assert not second.load_state_dict(state)
    assert all(store.episodes[key].closed for key in open_before), "the episodes under way are cut there"
    collect(second, 4 * 3)
    assert min(second.episode_ids) > max(first.episode_ids)
    assert all(store.episodes[key].length for key in second.episode_ids.tolist())
    for key in open_before:
        assert not store.ends[torch.from_numpy(store.episodes[key].held)].any(), "cut, not ended"


def test_a_state_from_before_the_first_step(agent: Agent) -> None:
    first, _, _ = make_collector(agent)
    second, _, store = make_collector(agent)
    assert second.load_state_dict(first.state_dict())
    collect(second, 4)
    assert store.num_frames == 4


def acting(**settings: object) -> ActingConfig:
    values = {"epsilon": 0.0, "should_sample": True, "temperature": 1.0, "burn_in": 0} | settings
    return ActingConfig(**values)  # type: ignore[arg-type]


def counts(logits: torch.Tensor, config: ActingConfig) -> np.ndarray:
    """How often each action is chosen in 200 steps of 50 environments."""
    rows = logits.expand(50, -1)
    chosen = [choose_actions(rows, config, seed=1, position=step) for step in range(200)]
    return np.bincount(np.concatenate(chosen), minlength=logits.numel())


def test_epsilon_of_one_is_uniform_whatever_the_policy() -> None:
    found = counts(torch.tensor([9.0, 0.0, -3.0, 0.0, 0.0, 0.0]), acting(epsilon=1.0))
    assert_uniform(found)


def test_epsilon_mixes() -> None:
    found = counts(torch.tensor([50.0, 0.0, 0.0, 0.0]), acting(epsilon=0.2))
    assert_uniform(found[1:])
    assert found[0] / found.sum() == pytest.approx(0.85, abs=0.015)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_actions_are_sampled_at_the_temperature(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    found = counts(logits, acting(temperature=temperature)) / 10_000
    np.testing.assert_allclose(found, (logits / temperature).softmax(0).numpy(), atol=0.02)


def test_without_sampling_the_best_is_taken() -> None:
    assert counts(torch.tensor([0.1, 0.2, 0.15]), acting(should_sample=False)).tolist() == [0, 10_000, 0]
