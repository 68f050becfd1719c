"""Dreams that are stepped from outside, a captured step for each place in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from iris_fast.graphs import GraphedCall, Graphs, Tensors
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws, Purpose

from .dream import DreamStep, StepLogits
from .token_pass import TokenPasses


class StepPlan(NamedTuple):
    """A unit of capture: one step after `held` tokens.

    `feed`: the current frame is put into the cache first, as its last tokens; `given`: the next frame is not drawn;
    `frame`: whether there is a next frame.
    """

    held: int
    feed: bool
    given: bool
    frame: bool


class DeviceStep:
    """Runs a planned step. Nothing in `__call__` reads a number back to the host or depends on one.

    Inputs: `seed`, `step` () int64; `tokens` and, if given, `next_tokens` `(batch, 16)` int64; `actions` `(batch,)`.
    Outputs: `rewards`, `ends`, `tokens`, and the logits of each.
    """

    def __init__(self, plan: StepPlan, passes: TokenPasses):
        self.plan = plan
        self.passes = passes
        self.offsets = torch.arange(2 * passes.config.tokens_per_block, device=passes.places.device)

    @torch.no_grad()
    def __call__(self, inputs: Tensors) -> Tensors:
        passes, weights, held = self.passes, self.passes.weights, self.plan.held
        slots, seed = inputs["tokens"].shape[1], inputs["seed"]
        positions = (inputs["step"] * (slots + 1) + self.offsets).unbind()
        if self.plan.feed:
            passes.feed(inputs["tokens"], held - slots)
        x = passes.feed((inputs["actions"] + len(weights.tokens))[:, None], held)[:, 0]
        found = {
            "rewards": passes.draw(weights.rewards, x, seed, positions[slots], Purpose.REWARD),
            "ends": passes.draw(weights.ends, x, seed, positions[slots], Purpose.END),
            "logits_rewards": passes.logits(weights.rewards, x),
            "logits_ends": passes.logits(weights.ends, x),
        }
        return found | self._frame(inputs, x, positions[slots + 1 :]) if self.plan.frame else found

    def _frame(self, inputs: Tensors, x: Tensor, positions: tuple[Tensor, ...]) -> Tensors:
        passes, head, tokens, logits = self.passes, self.passes.weights.observations, [], []
        for slot in range(inputs["tokens"].shape[1]):
            logits.append(passes.logits(head, x))
            if self.plan.given:
                tokens.append(inputs["next_tokens"][:, slot])
            else:
                tokens.append(passes.draw(head, x, inputs["seed"], positions[slot], Purpose.TOKEN))
            x = passes.feed(tokens[-1][:, None], self.plan.held + 1 + slot)[:, 0]
        return {"tokens": torch.stack(tokens, dim=1), "logits_observations": torch.stack(logits, dim=1)}


@dataclass
class DreamRoom:
    """The cache of one dream and the steps captured on it, which the next dream takes over."""

    passes: TokenPasses
    graphs: Graphs
    calls: dict[StepPlan, GraphedCall] = field(default_factory=dict)

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor | int]) -> Tensors:
        """A step's outputs, copied out of the graph's memory."""
        if plan not in self.calls:
            self.calls[plan] = GraphedCall(DeviceStep(plan, self.passes), self.graphs)
        return {name: tensor.clone() for name, tensor in self.calls[plan](inputs).items()}


class DeviceDream:
    """`Dream` on the CUDA-graph engine's kernels, with the same addresses and so the same draws."""

    def __init__(self, world_model: WorldModel, room: DreamRoom, first_tokens: Tensor, draws: PhiloxDraws):
        if draws.first_row:
            raise ValueError(f"the CUDA-graph engine draws at rows from 0 on, not from {draws.first_row}")
        self.world_model = world_model
        self.tokens = first_tokens
        self.steps = 0
        self.length = first_tokens.shape[1]
        self._room = room
        self._seed = draws.seed
        self._feed = True  # the cache does not hold the current frame yet

    def replace(self, tokens: Tensor) -> None:
        """Exchanges the current frame for `tokens` `(batch, 16)`; what came before it stays in the context."""
        self.tokens = tokens
        self._feed = True

    def step_with_logits(
        self, actions: Tensor, generate_frame: bool = True, next_tokens: Tensor | None = None
    ) -> tuple[DreamStep, StepLogits]:
        """As `Dream.step_with_logits`."""
        config, slots = self.world_model.config, self.world_model.frame_tokens
        passes = slots + 1 if generate_frame else 1
        if self.length + passes > config.max_tokens:
            self.length, self._feed = slots, True
        given = generate_frame and next_tokens is not None
        plan = StepPlan(self.length, self._feed, given, generate_frame)
        inputs: dict[str, Tensor | int] = {
            "seed": self._seed,
            "step": self.steps,
            "tokens": self.tokens,
            "actions": actions,
        }
        if given and next_tokens is not None:
            inputs["next_tokens"] = next_tokens
        found = self._room.run(plan, inputs)
        self.steps += 1
        self.length += passes
        self._feed = False
        tokens = found.get("tokens")
        if tokens is not None:
            self.tokens = tokens
        return (
            DreamStep(found["rewards"].float() - 1, found["ends"].bool(), tokens),
            StepLogits(found["logits_rewards"], found["logits_ends"], found.get("logits_observations")),
        )
