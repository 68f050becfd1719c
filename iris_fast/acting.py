"""The policy on raw frames, one step at a time: captured as a CUDA graph for each number of environments.

Encoding, decoding, the policy and its state are some 350 launches for a handful of frames, so that without a graph
the host is what a step waits for. As a graph on a GPU it has never run: none was to be had.
"""

from __future__ import annotations

import numpy as np
import torch

from iris_fast.agent import Agent
from iris_fast.graphs import GraphedCall, Graphs, Tensors
from iris_fast.models.actor_critic import ActorCriticOutput, LSTMState
from iris_fast.models.frames import check_frames


class Policy:
    """`agent.policy` of frames from the host; with `graphs`, captured, and captured anew where weights have moved.

    With graphs of one thread at a time. Copied and pickled as its agent and `graphs`.
    """

    def __init__(self, agent: Agent, graphs: Graphs | None = None):
        self.agent = agent
        self.graphs = graphs
        self._calls: dict[tuple[int, torch.dtype], GraphedCall] = {}
        self._moves: list[int] = []  # of the parts' weights, when the calls were captured

    def __reduce__(self) -> tuple[type[Policy], tuple[Agent, Graphs | None]]:
        return Policy, (self.agent, self.graphs)

    @torch.no_grad()
    def __call__(self, observations: np.ndarray, state: LSTMState) -> ActorCriticOutput:
        """One step on frames `(batch, 3, 64, 64)`, as `agent.policy` takes them.

        The agent must be in evaluation mode. Raises ValueError for other frames.
        """
        frames = torch.from_numpy(observations)
        check_frames(frames)  # here, since a captured graph cannot look at them
        if self.graphs is None:
            return self.agent.policy(frames.to(self.agent.device), state)
        moves = [version.moves for version in self.agent.versions.values()]
        if moves != self._moves:
            self._moves = moves
            self._calls.clear()
        call = self._calls.setdefault((len(frames), frames.dtype), GraphedCall(self._act, self.graphs))
        # What follows overwrites the outputs, and a state may be kept for long.
        outputs = {name: t.clone() for name, t in call({"frames": frames, **state._asdict()}).items()}
        after = LSTMState(outputs["hx"], outputs["cx"])
        return ActorCriticOutput(outputs["logits_actions"], outputs["values"], after)

    def _act(self, inputs: Tensors) -> Tensors:
        output = self.agent.policy(inputs["frames"], LSTMState(inputs["hx"], inputs["cx"]))
        return {
            "logits_actions": output.logits_actions,
            "values": output.values,
            **output.state._asdict(),
        }
