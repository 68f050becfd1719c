"""The policy on raw frames, one step at a time, and the choice of actions.

On a GPU it is captured as a CUDA graph for each number of environments.

A step is some 350 launches (encoding, decoding, policy and state) for a handful of frames, so without a graph it
waits for the host. The graph has not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.graphs import Body, GraphedCall, Graphs, Tensors
from iris_fast.kernels import sample_categorical
from iris_fast.kernels.common.arithmetic import exact_on_cpu
from iris_fast.kernels.philox import philox_uniform
from iris_fast.models.actor_critic import ActorCriticOutput, LSTMState
from iris_fast.models.cpu_policy import CpuPolicy
from iris_fast.models.frame_codec import has_codec
from iris_fast.models.frames import check_frames, unit_frames
from iris_fast.randomness import Purpose


class Policy:
    """`agent.policy` on frames from the host; with `graphs` it is captured, and captured again after weights have
    moved.

    With graphs, only one thread at a time may use it. Copied and pickled as its agent and `graphs`.
    """

    def __init__(self, agent: Agent, graphs: Graphs | None = None):
        self.agent = agent
        self.graphs = graphs
        self._calls: dict[tuple[Body, int, torch.dtype], GraphedCall] = {}
        self._cpu: CpuPolicy | None = None
        self._moves: list[int] = []  # of the parts' weights at capture

    def __reduce__(self) -> tuple[type[Policy], tuple[Agent, Graphs | None]]:
        return Policy, (self.agent, self.graphs)

    @torch.no_grad()
    def __call__(self, observations: np.ndarray, state: LSTMState) -> ActorCriticOutput:
        """One step on frames `(batch, 3, 64, 64)`, as in `agent.policy`.

        The agent must be in evaluation mode. Raises ValueError for other frames.
        """
        frames = _checked(observations)
        if self.graphs is None:
            return self.agent.policy(frames.to(self.agent.device), state)
        return _output(self._replayed(self._act, {"frames": frames, **state._asdict()}))

    @torch.no_grad()
    def look(self, observations: np.ndarray) -> tuple[Tensor, Tensor]:
        """The first half of a step, for callers that show it: the frames' tokens `(batch, 16)`, and their
        reconstructions in [0, 1], which are all that the policy sees."""
        frames = _checked(observations)
        if self.graphs is None:
            found = self._look({"frames": frames.to(self.agent.device)})
        else:
            found = self._replayed(self._look, {"frames": frames})
        return found["tokens"], found["seen"]

    @torch.no_grad()
    def on_reconstructions(self, seen: Tensor, state: LSTMState) -> ActorCriticOutput:
        """The second half, on frames `(batch, 3, 64, 64)` float32 in [0, 1] that are reconstructed or imagined; in
        C++ on a CPU, so that a dream has the bits of the engine there."""
        if self.graphs is not None:
            return _output(self._replayed(self._act_on_reconstructions, {"frames": seen, **state._asdict()}))
        if has_codec(self.agent.tokenizer):
            return self._on_cpu()(seen.unsqueeze(1), state)
        with exact_on_cpu(self.agent.device):
            return self.agent.actor_critic(seen.unsqueeze(1), state)

    def _on_cpu(self) -> CpuPolicy:
        if self._cpu is None:
            resolution = self.agent.config.tokenizer.autoencoder.resolution
            self._cpu = CpuPolicy(self.agent.actor_critic, self.agent.coder.codec().pool, resolution)
        return self._cpu

    def _replayed(self, body: Body, inputs: dict[str, Tensor]) -> Tensors:
        """The outputs of a captured step, copied: the next replay overwrites them, and callers may keep them."""
        assert self.graphs is not None
        moves = [version.moves for version in self.agent.versions.values()]
        if moves != self._moves:
            self._moves = moves
            self._calls.clear()
        frames = inputs["frames"]
        call = self._calls.setdefault((body, len(frames), frames.dtype), GraphedCall(body, self.graphs))
        return {name: tensor.clone() for name, tensor in call(inputs).items()}

    def _act(self, inputs: Tensors) -> Tensors:
        return _named(self.agent.policy(inputs["frames"], LSTMState(inputs["hx"], inputs["cx"])))

    def _look(self, inputs: Tensors) -> Tensors:
        tokens = self.agent.coder.tokens_of(unit_frames(inputs["frames"]))
        return {"tokens": tokens, "seen": self.agent.coder.frames_of(tokens)}

    def _act_on_reconstructions(self, inputs: Tensors) -> Tensors:
        state = LSTMState(inputs["hx"], inputs["cx"])
        return _named(self.agent.actor_critic(inputs["frames"].unsqueeze(1), state))


def _checked(observations: np.ndarray) -> Tensor:
    frames = torch.from_numpy(observations)
    check_frames(frames)  # here, since a captured graph cannot look at them
    return frames


def _named(output: ActorCriticOutput) -> Tensors:
    return {
        "logits_actions": output.logits_actions,
        "values": output.values,
        **output.state._asdict(),
    }


def _output(named: Tensors) -> ActorCriticOutput:
    state = LSTMState(named["hx"], named["cx"])
    return ActorCriticOutput(named["logits_actions"], named["values"], state)


PolicyStep = Callable[[np.ndarray, LSTMState], ActorCriticOutput]


@dataclass(frozen=True)
class ActingConfig:
    """How actions are chosen from the policy's logits."""

    epsilon: float
    should_sample: bool
    temperature: float
    burn_in: int


def choose_actions(logits: Tensor, config: ActingConfig, seed: int, position: int) -> np.ndarray:
    """Actions `(envs,)`: sampled at a temperature, or the likeliest; with probability epsilon, uniformly random."""
    if config.should_sample:
        actions = sample_categorical(
            logits, seed=seed, position=position, purpose=int(Purpose.ACTION), temperature=config.temperature
        )
    else:
        actions = logits.argmax(dim=1)
    chosen = actions.cpu().numpy()
    if config.epsilon > 0:
        row = torch.arange(len(chosen), device="cpu")
        explore = philox_uniform(seed, row, position, int(Purpose.EXPLORE)).numpy() < config.epsilon
        uniform = philox_uniform(seed, row, position, int(Purpose.RANDOM_ACTION)).numpy()
        chosen = np.where(explore, (uniform * logits.shape[1]).astype(np.int64), chosen)
    return chosen


class Actor:
    """Chooses a policy's actions as `config` says, for a `PlayLoop`."""

    def __init__(self, policy: PolicyStep, config: ActingConfig, seed: int):
        """`policy`: a `Policy`, or another function from frames and a state; `seed`: addresses the draws, together
        with the step number and the environment."""
        self.policy = policy
        self.config = config
        self.seed = seed
        self.output: ActorCriticOutput | None = None  # the policy's, at the last step

    def __call__(
        self, observations: np.ndarray, state: LSTMState, number: int
    ) -> tuple[np.ndarray, LSTMState]:
        """Actions `(envs,)` on `observations` `(envs, 3, 64, 64)` uint8, and the state after them."""
        self.output = output = self.policy(observations, state)
        return choose_actions(output.logits_actions.squeeze(1), self.config, self.seed, number), output.state
