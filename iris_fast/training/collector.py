"""The policy in the real environments: plays, records, and measures returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from iris_fast.acting import ActingConfig, Actor, Policy
from iris_fast.acting import choose_actions as choose_actions  # under the name that it had first
from iris_fast.agent import Agent
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.envs.playing import PlayedSteps, PlayLoop, Step
from iris_fast.models.actor_critic import LSTMState
from iris_fast.randomness import derive_seed
from iris_fast.replay.store import EpisodeStore


def saved_backend(state: Mapping[str, Any]) -> str:
    """The backend of the environments in a collector's saved state."""
    if "backend" in state:
        return str(state["backend"])
    # In older checkpoints the snapshot names it; only envpool had no snapshot.
    return "envpool" if state["env"] is None else str(state["env"]["backend"])


class Collector:
    """Plays and stores training episodes, which may span epochs.

    When an episode continues in a new epoch, the recurrent state is rebuilt from its last `burn_in` frames, because
    the tokenizer and the policy have changed. `state_dict` holds the state that a resumed run continues; an
    environment that cannot be saved restarts, and its episode is cut there.

    `last_frames` has the final observations of the last `keep_last` ended episodes, by episode number. Videos show
    them; the replay does not store them, because training does not use them.
    """

    def __init__(
        self,
        env: FrameVectorEnv,
        agent: Agent,
        store: EpisodeStore,
        config: ActingConfig,
        seed: int,
        policy: Policy | None = None,
        keep_last: int = 0,
    ):
        self.env = env
        self.agent = agent
        self.store = store
        self.config = config
        self.seed = seed
        self.policy = policy or Policy(agent)
        self.loop = PlayLoop(
            env, Actor(self.policy, config, seed)
        )  # its steps count from the start of the run
        self.next_episode = 0
        self.episode_ids = np.full(env.num_envs, -1, np.int64)
        self.keep_last = keep_last
        self.last_frames: dict[int, np.ndarray] = {}
        self._pending = [PlayedSteps() for _ in range(env.num_envs)]

    def collect(
        self, num_steps: int, on_step: Callable[[int], bool], resumed: bool = False
    ) -> dict[str, list[float]]:
        """Plays `num_steps` agent steps over all environments; returns the returns and lengths of ended episodes.

        `on_step(steps)` is called after each vector step; if it returns True, collection stops early. With `resumed`,
        the recurrent state of `state_dict` is kept instead of rebuilt.
        """
        finished: dict[str, list[float]] = {"return": [], "length": []}
        if self.loop.observations is None:
            self._begin_episodes(np.ones(self.env.num_envs, bool))
        if not resumed or self.loop.state is None:
            self.loop.state = self._burned_in_state()
        taken = 0
        while taken < num_steps:
            self._step(finished)
            taken += self.env.num_envs
            if on_step(self.env.num_envs):
                break
        self._hand_over()
        return finished

    def _step(self, finished: dict[str, list[float]]) -> None:
        step = self.loop.step()
        for row, pending in enumerate(self._pending):
            pending.add(step, row)
        if step.ends.any():
            self._finish_episodes(step, finished)

    def _finish_episodes(self, step: Step, finished: dict[str, list[float]]) -> None:
        for row in np.nonzero(step.ends)[0]:
            self._hand_over_row(int(row), closed=True)
            episode = self.store.episodes[int(self.episode_ids[row])]
            finished["return"].append(episode.episode_return)
            finished["length"].append(float(episode.length))
            self.last_frames[int(self.episode_ids[row])] = step.following[row].copy()
        for number in sorted(self.last_frames)[: max(0, len(self.last_frames) - self.keep_last)]:
            del self.last_frames[number]
        self._begin_episodes(step.ends)

    def _begin_episodes(self, rows: np.ndarray) -> None:
        if self.loop.observations is None:  # the first episodes of this process
            self.loop.begin(derive_seed(self.seed, "reset", self.next_episode))
        else:
            self.loop.restart(rows)
        for row in np.nonzero(rows)[0]:
            self.episode_ids[row] = self.next_episode
            self.next_episode += 1

    def _burned_in_state(self) -> LSTMState:
        length, count = self.config.burn_in, self.env.num_envs
        slots = np.zeros((count, length), np.int64)
        mask = np.zeros((count, length), bool)
        for row, episode_id in enumerate(self.episode_ids):
            episode = self.store.episodes.get(int(episode_id))
            if episode is not None and length:
                held = episode.held[-length:]
                slots[row, length - len(held) :] = held
                mask[row, length - len(held) :] = True
        if not mask.any():
            return self.agent.actor_critic.initial_state(count)
        frames = self.store.gather_frames(slots).flatten(0, 1)
        seen = self.agent.reconstruct(frames)
        mask_tensor = torch.from_numpy(mask).to(self.agent.device)
        return self.agent.actor_critic.burn_in(seen.unflatten(0, (count, length)), mask_tensor)

    def _hand_over(self) -> None:
        for row, pending in enumerate(self._pending):
            if pending.frames:
                self._hand_over_row(row, closed=False)

    def _hand_over_row(self, row: int, closed: bool) -> None:
        pending, self._pending[row] = self._pending[row], PlayedSteps()
        self.store.extend(
            int(self.episode_ids[row]),
            np.stack(pending.frames),
            np.array(pending.actions, np.int64),
            np.array(pending.rewards, np.float32),
            np.array(pending.ends, bool),
            closed,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain data for `load_state_dict`, in this process or another."""
        observations, state = self.loop.observations, self.loop.state
        return {
            "steps": self.loop.steps,
            "next_episode": self.next_episode,
            "episode_ids": self.episode_ids.tolist(),
            "observations": None if observations is None else torch.from_numpy(observations),
            "state": None if state is None else list(state),
            "env": self.env.get_state(),
            "backend": self.env.backend,
            "last_frames": {number: torch.from_numpy(frame) for number, frame in self.last_frames.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restores a saved state; returns False if the environments had to be restarted.

        That happens if their backend has no snapshots, or differs from this process's backend.
        """
        self.loop.steps, self.next_episode = state["steps"], state["next_episode"]
        self.episode_ids = np.array(state["episode_ids"], np.int64)
        saved = state.get("last_frames", {})  # older checkpoints have none
        self.last_frames = {number: frame.numpy() for number, frame in saved.items()}
        if state["observations"] is None:
            return True
        if state["env"] is None or saved_backend(state) != self.env.backend:
            for episode_id in self.episode_ids:
                if int(episode_id) in self.store.episodes:
                    self.store.close(int(episode_id))
            self._begin_episodes(np.ones(self.env.num_envs, bool))
            return False
        self.env.set_state(state["env"])
        self.loop.observations = state["observations"].numpy()
        if state["state"] is not None:
            self.loop.state = LSTMState(*(part.to(self.agent.device) for part in state["state"]))
        return True
