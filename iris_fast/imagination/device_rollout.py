"""A stretch of a rollout as one function of static tensors on the device, for capture in a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from iris_fast.graphs import Graphs, Tensors
from iris_fast.kernels import sample_categorical
from iris_fast.models.actor_critic import ActorCritic, LSTMState
from iris_fast.models.transformer import TransformerConfig
from iris_fast.randomness import Purpose

from .frame_decoder import FrameDecoder
from .token_pass import TokenPasses


@dataclass(frozen=True)
class Stretch:
    """A unit of capture: `steps` steps of `batch` rollouts from an empty cache.

    `burn_in`: number of frames before it, or None if it continues from a recurrent state; `last`: the rollout ends
    here, so the last step generates no frame; `first_row`: as in `ImaginationStart`.
    """

    batch: int
    steps: int
    burn_in: int | None
    last: bool
    first_row: int = 0

    def parts(self, count: int) -> list[Stretch]:
        """The stretches of `count` parts of the batch, or of as many as it has rows; the first ones are larger."""
        count = min(count, self.batch)
        ends = [-(-self.batch * part // count) for part in range(count + 1)]
        return [
            replace(self, batch=end - begin, first_row=self.first_row + begin)
            for begin, end in pairwise(ends)
        ]


def stretches(
    horizon: int, batch: int, burn_in: int, config: TransformerConfig, first_row: int = 0
) -> list[Stretch]:
    """The stretches of a rollout: one if the context holds all steps, otherwise one for each point where the oracle
    rebuilds the cache from the current frame.

    Raises ValueError for a horizon below 1, and for a context too small for a step and a frame.
    """
    if horizon < 1:
        raise ValueError(f"the horizon must be at least 1 step, not {horizon}")
    whole = config.max_blocks - 1  # steps with a frame after the first frame
    if whole < 1 and horizon > 1:
        raise ValueError(
            "a rollout of several steps needs a context of two blocks: raise world_model.max_blocks"
        )
    found: list[Stretch] = []
    while horizon > whole + 1:
        found.append(Stretch(batch, whole, None if found else burn_in, False, first_row))
        horizon -= whole
    return [*found, Stretch(batch, horizon, None if found else burn_in, True, first_row)]


class DeviceRollout:
    """Runs a stretch. Nothing in `__call__` reads a number back to the host or depends on one.

    Inputs: `seed`, `first_step` () int64; `tokens` `(batch, 16)` int64; `burn_in_frames` `(batch, burn_in, 3, 64,
    64)` and `burn_in_mask` `(batch, burn_in)`, or `hx` and `cx`. Outputs: the fields of a `Rollout` over the
    stretch's steps, `start_hx` and `start_cx`, and the inputs of the next stretch: `next_tokens`, `hx`, `cx`.
    """

    def __init__(
        self, stretch: Stretch, actor_critic: ActorCritic, decoder: FrameDecoder, passes: TokenPasses
    ):
        self.stretch = stretch
        self.actor_critic = actor_critic
        self.decoder = decoder
        self.passes = passes
        block = passes.config.tokens_per_block
        device, first = passes.places.device, stretch.first_row
        self.offsets = torch.arange((stretch.steps + 1) * block, device=device)
        # The rows that address the draws; None for a whole batch, whose rows the kernels count themselves.
        self.rows = torch.arange(first, first + stretch.batch, device=device) if first else None

    @torch.no_grad()
    def __call__(self, inputs: Tensors) -> Tensors:
        block = self.passes.config.tokens_per_block
        state = self._start_state(inputs)
        outputs = {"start_hx": state.hx, "start_cx": state.cx}
        # () tensors that address the draws; the kernels read them in place.
        positions = (inputs["first_step"] * block + self.offsets).unbind()
        tokens = inputs["tokens"]
        self.passes.feed(tokens, 0)
        steps: list[Tensors] = []
        for step in range(self.stretch.steps):
            fields, state, tokens = self._step(
                step, tokens, state, inputs["seed"], positions[step * block : (step + 2) * block]
            )
            steps.append(fields)
        outputs |= {name: torch.stack([fields[name] for fields in steps], dim=1) for name in steps[0]}
        outputs["rewards"] = outputs["rewards"].float() - 1
        outputs["ends"] = outputs["ends"].bool()
        return outputs | {"next_tokens": tokens, "hx": state.hx, "cx": state.cx}

    def _start_state(self, inputs: Tensors) -> LSTMState:
        if self.stretch.burn_in is None:
            return LSTMState(inputs["hx"], inputs["cx"])
        return self.actor_critic.burn_in(inputs["burn_in_frames"], inputs["burn_in_mask"])

    def _step(
        self, step: int, tokens: Tensor, state: LSTMState, seed: Tensor, positions: tuple[Tensor, ...]
    ) -> tuple[Tensors, LSTMState, Tensor]:
        """A step's fields, the state after it, and the next frame's tokens (after the last step, the current
        frame's).

        `positions` are those of the draws of this block and of the next one.
        """
        passes, weights = self.passes, self.passes.weights
        slots = tokens.shape[1]
        frames = self.decoder.frames_of(tokens)
        policy = self.actor_critic(frames.unsqueeze(1), state)
        logits = policy.logits_actions.squeeze(1)
        at_action = positions[slots]
        actions = sample_categorical(
            logits, seed=seed, position=at_action, purpose=int(Purpose.ACTION), row=self.rows
        )
        held = slots + step * (slots + 1)
        x = passes.feed((actions + len(weights.tokens))[:, None], held)[:, 0]
        fields = {
            "observations": frames,
            "tokens": tokens,
            "actions": actions,
            "rewards": passes.draw(weights.rewards, x, seed, at_action, Purpose.REWARD, self.rows),
            "ends": passes.draw(weights.ends, x, seed, at_action, Purpose.END, self.rows),
            "logits_actions": logits,
            "values": policy.values.squeeze(1),
        }
        if self.stretch.last and step == self.stretch.steps - 1:
            return fields, policy.state, tokens
        return fields, policy.state, self._frame(x, held + 1, slots, seed, positions[slots + 1 :])

    def _frame(self, x: Tensor, held: int, slots: int, seed: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
        """Samples a frame's tokens `(batch, 16)`, each from the features of the previous token, and adds them to the
        cache."""
        tokens = []
        for slot in range(slots):
            token = self.passes.draw(
                self.passes.weights.observations, x, seed, positions[slot], Purpose.TOKEN, self.rows
            )
            tokens.append(token)
            x = self.passes.feed(token[:, None], held + slot)[:, 0]
        return torch.stack(tokens, dim=1)


class SideBySide:
    """A stretch whose batch is divided into parts, which run at the same time; each has its own cache.

    A pass of a token waits for memory more than it computes, so another part can compute meanwhile. Draws are
    addressed by row, so the rollout is that of the whole batch.
    """

    def __init__(self, parts: Sequence[DeviceRollout], graphs: Graphs):
        self.parts = parts
        self.graphs = graphs

    def __call__(self, inputs: Tensors) -> Tensors:
        sizes = [part.stretch.batch for part in self.parts]
        shares = {
            name: value.split(sizes) if value.dim() else (value,) * len(sizes)
            for name, value in inputs.items()
        }
        found = self.graphs.side_by_side(
            [
                partial(part, {name: values[index] for name, values in shares.items()})
                for index, part in enumerate(self.parts)
            ]
        )
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}
