"""The CUDA-graph engine: the oracle's rollouts with our kernels, recorded once and replayed.

A rollout of up to 20 steps, from the burn-in to the last reward, is one graph for each (batch, horizon, burn-in), and
one launch from the host. The seed, the frames and the first tokens are copied into its inputs; weights are read in
place. Tests without a GPU compare the recorded function with the oracle and check that it never reads back to the
host. The graph has not yet run on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.graphs import CudaGraphs, GraphedCall, Graphs, Tensors
from iris_fast.kernels.common.arguments import with_checked_types
from iris_fast.models.actor_critic import LSTMState
from iris_fast.models.versioned import Version
from iris_fast.randomness import PhiloxDraws

from .device_dream import DeviceDream, DreamRoom
from .device_rollout import DeviceRollout, SideBySide, Stretch, stretches
from .engine import ImaginationStart, Rollout, check_rollout
from .frame_decoder import FrameDecoder
from .token_pass import InferenceWeights, TokenPasses


@dataclass(frozen=True)
class GraphOptions:
    """`dtype`: of the world model's and the decoder's weights, keys and values. In float32 the trajectory is the
    oracle's, unless two choices differ by less than rounding; in bfloat16 the distribution is the oracle's to
    bfloat16 rounding. `precision`: of float32 products in our kernels, "ieee" (exact), "tf32x3" (nearly exact) or
    "tf32". `launches_per_layer`: for a pass of one token. By calculation two are faster than five only if a launch in
    a graph costs 1.5 µs (`benchmarks/LOG.md`); neither has been timed on a GPU. `streams`: parts of the batch that
    run at the same time, with the same trajectory; whether two are faster is for a GPU to tell.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    precision: Literal["ieee", "tf32x3", "tf32"] = "ieee"
    launches_per_layer: Literal[2, 5] = 5
    streams: int = 1


class CudaGraphEngine:
    """Imagines by replaying graphs. The agent must be in evaluation mode, its weights in float32.

    Weights are read in place, or copied into place at the first rollout after a change; after a move of the
    parameters the graphs are captured again. Callers may keep the results of `imagine`. Only one thread at a time may
    use it. Copies and pickles hold the constructor's arguments and capture again.
    """

    name = "cuda_graph"

    def __init__(self, agent: Agent, options: GraphOptions = GraphOptions(), graphs: Graphs | None = None):
        """`graphs`: by default CUDA graphs on the agent's device; ValueError if that is not a CUDA device."""
        self.agent = agent
        self.options = options
        self.graphs = CudaGraphs(agent.device) if graphs is None else graphs
        self._versions: dict[str, Version] = {}  # of the weights in use
        self._calls: dict[Stretch, GraphedCall] = {}
        self._passes: dict[tuple[int, int], TokenPasses] = {}  # by part of the batch, and rows
        self._rooms: dict[int, list[DreamRoom]] = {}  # of dreams that are over, by batch
        self._decodings: dict[int, GraphedCall] = {}  # by batch
        self._prepare()

    def __reduce__(self) -> tuple[type[CudaGraphEngine], tuple[Agent, GraphOptions, Graphs]]:
        return CudaGraphEngine, (self.agent, self.options, self.graphs)

    @torch.no_grad()
    @with_checked_types
    def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
        """Rolls out `horizon` steps; ValueError outside evaluation mode and for a horizon below 1."""
        check_rollout(self.agent, horizon)
        batch, burn_in = start.burn_in_mask.shape
        plan = stretches(horizon, batch, burn_in, self.agent.world_model.config, start.first_row)
        self._bring_up_to_date()
        inputs: dict[str, Tensor | int] = {
            "tokens": start.first_tokens,
            "burn_in_frames": start.burn_in_frames,
            "burn_in_mask": start.burn_in_mask,
        }
        found: list[Tensors] = []
        done = 0
        for stretch in plan:
            found.append(self._run(stretch, inputs | {"seed": seed, "first_step": done}))
            inputs = {"tokens": found[-1]["next_tokens"], "hx": found[-1]["hx"], "cx": found[-1]["cx"]}
            done += stretch.steps
        steps = {
            name: torch.cat([part[name] for part in found], dim=1)
            for name in Rollout._fields
            if name in found[0]
        }
        return Rollout(**steps, start_state=LSTMState(found[0]["start_hx"], found[0]["start_cx"]))

    @torch.no_grad()
    def frames_of(self, tokens: Tensor) -> Tensor:
        """The policy's frames `(batch, 3, 64, 64)` in [0, 1] for tokens `(batch, 16)`."""
        self._bring_up_to_date()
        call = self._decodings.setdefault(
            len(tokens),
            GraphedCall(lambda inputs: {"frames": self._decoder.frames_of(inputs["tokens"])}, self.graphs),
        )
        return call({"tokens": tokens})["frames"].clone()

    def dream(self, first_tokens: Tensor, draws: PhiloxDraws) -> DeviceDream:
        """A new dream from `first_tokens` `(batch, 16)` int64, with the current weights. Each has a cache of its own;
        a new dream takes over that of one which is no longer used, with its captures."""
        self._bring_up_to_date()
        free = self._rooms.setdefault(len(first_tokens), [])
        room = free.pop() if free else DreamRoom(self._new_passes(len(first_tokens)), self.graphs)
        dream = DeviceDream(self.agent.world_model, room, first_tokens, draws)
        weakref.finalize(dream, free.append, room)
        return dream

    def _run(self, stretch: Stretch, inputs: Mapping[str, Tensor | int]) -> Tensors:
        """A stretch's outputs, copied out of the graph's memory."""
        if stretch not in self._calls:
            self._calls[stretch] = GraphedCall(self.rollout(stretch), self.graphs)
        return {name: tensor.clone() for name, tensor in self._calls[stretch](inputs).items()}

    def rollout(self, stretch: Stretch) -> Callable[[Tensors], Tensors]:
        """The captured call of a stretch. Calls of one batch size share a cache; each starts by emptying it."""
        parts = [
            DeviceRollout(part, self.agent.actor_critic, self._decoder, self._passes_of(index, part.batch))
            for index, part in enumerate(stretch.parts(self.options.streams))
        ]
        return parts[0] if len(parts) == 1 else SideBySide(parts, self.graphs)

    def _passes_of(self, part: int, batch: int) -> TokenPasses:
        if (part, batch) not in self._passes:
            self._passes[part, batch] = self._new_passes(batch)
        return self._passes[part, batch]

    def _new_passes(self, batch: int) -> TokenPasses:
        return TokenPasses(self._weights, batch, self.options.precision, self.options.launches_per_layer)

    def _bring_up_to_date(self) -> None:
        versions, before = self.agent.versions, self._versions
        if any(versions[part].moves != before[part].moves for part in versions):
            self._prepare()
            return
        if versions["world_model"] != before["world_model"]:
            self._weights.refresh()
        if versions["tokenizer"] != before["tokenizer"]:
            self._decoder.refresh()
        self._versions = versions

    def _prepare(self) -> None:
        """Starts again with the parameters at their current addresses, and drops old captures."""
        dtype = getattr(torch, self.options.dtype)
        self._calls.clear()
        self._passes.clear()
        self._rooms = {}  # a dream that goes on keeps its old weights, and its room goes with it
        self._decodings.clear()
        self._weights = InferenceWeights(self.agent.world_model, dtype)
        self._decoder = FrameDecoder(self.agent.tokenizer, dtype)
        self._versions = self.agent.versions
