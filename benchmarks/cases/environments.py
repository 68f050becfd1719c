"""Agent steps a second of the Atari environments: envpool beside ale-py, by number of environments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from benchmarks.harness import Work
from benchmarks.plan import Cost
from benchmarks.record import Ceilings, Label, Result, Size
from benchmarks.registry import Run, case
from iris_fast.envs import EnvConfig, make_vector_env

CONFIG = EnvConfig(max_episode_steps=108_000, noop_max=1, done_on_life_loss=False)  # the test environment's
COMPARED = 20  # steps with compared frames and rewards
SIZES, QUICK_SIZES = (1, 2, 4, 8, 16), (2,)


class Player:
    """A vector environment and its actions, which are the same for every backend."""

    def __init__(self, backend: str, num_envs: int):
        self.env = make_vector_env("Pong", CONFIG, num_envs=num_envs, seed=0, backend=backend)
        self.actions = np.random.default_rng(0).integers(0, 6, (4096, num_envs))
        self.taken = 0

    def play(self, steps: int) -> list[np.ndarray]:
        """Takes `steps` steps; the last frames and all rewards."""
        rewards = []
        observations = np.empty(0)
        for _ in range(steps):
            actions = self.actions[self.taken % len(self.actions)]
            observations, reward, ended, truncated, _ = self.env.step(actions)
            self.taken += 1
            rewards.append(reward)
            if (ended | truncated).any():
                observations, _ = self.env.reset(options={"reset_mask": ended | truncated})
        return [observations, np.stack(rewards)]

    def seconds(self, steps: int, number: int = 0) -> float:
        """Seconds of `steps` steps, in every round."""
        began = time.perf_counter()
        self.play(steps)
        return time.perf_counter() - began


def measure(run: Run, backends: Sequence[str], num_envs: int, steps: int, costs: list[Cost]) -> Size:
    """Times the backends with the same seed and actions; if there are two, first compares their frames and
    rewards."""
    what: dict[str, Label] = {"environments": num_envs, "steps": steps}
    players = {name: Player(name, num_envs) for name in backends}
    try:
        seen = [[player.env.reset()[0], *player.play(COMPARED)] for player in players.values()]
        for ours, theirs in zip(seen[0], seen[-1], strict=True):
            if not np.array_equal(ours, theirs):
                return Size(what, missing="the backends' frames or rewards differ: not timed")
        calls = {name: partial(Player.seconds, player, steps) for name, player in players.items()}
        times = run.in_turn(calls, costs)
    finally:
        for player in players.values():
            player.env.close()
    return run.timed(what, times, Work(units={"agent_steps": num_envs * steps}), costs[0])


@case("environments", minutes=0.45, default=True, least=0.35)
def environments(run: Run) -> Result:
    """Agent steps a second of Pong (4 raw frames each): envpool beside ale-py, by number of environments."""
    modules = {"envpool": "envpool", "ale": "ale_py"}
    backends = [name for name, module in modules.items() if find_spec(module)]
    if not backends:
        return Result([Size({"environments": 1}, missing="neither envpool nor ale-py is installed")])
    counts, steps = (QUICK_SIZES, 20) if run.quick else (SIZES, 40)
    costs = [Cost(3, 0.4)] * len(counts)
    sizes = [measure(run, backends, count, steps, costs[index:]) for index, count in enumerate(counts)]
    return Result(sizes, Ceilings("cpu"))
