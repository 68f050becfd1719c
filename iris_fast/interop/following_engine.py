"""An engine for an agent that others train and move: it looks for itself whether its weights are still those."""

from __future__ import annotations

import torch
from torch import Tensor

from iris_fast.agent import PARTS, Agent
from iris_fast.imagination.engine import EngineName, ImaginationStart, Rollout
from iris_fast.imagination.factory import make_engine
from iris_fast.models.cpu_weights import WeightVersions, weight_versions
from iris_fast.models.frame_codec import coder_for


class FollowingEngine:
    """Imagines with an agent whose weights change without a word, by an optimizer of any kind or by loading.

    Engines keep copies of weights and decoded frames, and want to be told (`weights_changed`). Here, before each
    rollout, an element and the version of every weight are looked at on a CPU; on a GPU, where such a look would wait
    for the device and a copy costs next to nothing, every copy is made anew.
    """

    def __init__(self, agent: Agent, name: EngineName = "auto", precision: str = "float32"):
        """`name`, `precision`: as in `make_engine`, which is asked again where `agent` has been moved.

        Raises as `make_engine`.
        """
        self.agent = agent
        self._name: EngineName = name
        self._precision = precision
        self._make()

    def start(self, observations: Tensor, mask: Tensor) -> ImaginationStart:
        """The start of rollouts from segments `(batch, burn_in + 1, 3, 64, 64)` in [0, 1] that end unpadded.

        `mask`: `(batch, burn_in + 1)` bool, False where left-padded.
        """
        self._follow()
        before = observations[:, :-1]
        with torch.no_grad():
            seen = self.coder.frames_of(self.coder.tokens_of(before.flatten(0, 1)))
            first_tokens = self.coder.tokens_of(observations[:, -1])
        return ImaginationStart(seen.view(before.shape), mask[:, :-1], first_tokens)

    def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
        """As every engine's."""
        self._follow()
        return self.engine.imagine(start, horizon, seed)

    def _make(self) -> None:
        self._place = self._place_now()
        self.engine = make_engine(self.agent, self._name, self._precision)
        self.coder = coder_for(self.agent.tokenizer)
        self._versions = self._versions_now()

    def _follow(self) -> None:
        if self._place_now() != self._place:
            self._make()
            return
        versions = self._versions_now()
        changed = [part for part in PARTS if not versions or versions[part] != self._versions[part]]
        self.engine.weights_changed(changed)
        self._versions = versions

    def _place_now(self) -> tuple[torch.device, torch.dtype]:
        return self.agent.device, self.agent.actor_critic.actor_linear.weight.dtype

    def _versions_now(self) -> dict[str, WeightVersions]:
        """Of each part; nothing where looking costs more than copying."""
        if self.agent.device.type != "cpu":
            return {}
        return {part: weight_versions(self.agent.get_submodule(part)) for part in PARTS}
