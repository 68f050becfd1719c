"""The policy and the value function: convolutions, an LSTM and two linear heads (docs/iris.md, part 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import channels_last
from .versioned import Versioned

POOLINGS = 4


@dataclass(frozen=True)
class ActorCriticConfig:
    """Sizes of the actor-critic; the defaults are the paper's."""

    channels: tuple[int, int, int, int] = (32, 32, 64, 64)
    lstm_dim: int = 512


class LSTMState(NamedTuple):
    """Hidden and cell state, each `(batch, lstm_dim)`."""

    hx: Tensor
    cx: Tensor


class ActorCriticOutput(NamedTuple):
    """`logits_actions`: `(batch, time, num_actions)`; `values`: `(batch, time)`; the state after them."""

    logits_actions: Tensor
    values: Tensor
    state: LSTMState


class ActorCritic(Versioned):
    """Acts on reconstructed frames in [0, 1]; the caller keeps the recurrent state.

    `sequence_in_one_call`: whether a GPU's recurrence over frames is cuDNN's LSTM, not a loop of fused cells.
    """

    sequence_in_one_call = True

    def __init__(self, config: ActorCriticConfig, num_actions: int, resolution: int = 64):
        super().__init__()
        self.config = config
        widths = (3, *config.channels)
        for index in range(POOLINGS):
            convolution = nn.Conv2d(widths[index], widths[index + 1], 3, padding=1)
            self.add_module(f"conv{index + 1}", convolution)
        features = config.channels[-1] * (resolution // 2**POOLINGS) ** 2
        self.lstm = nn.LSTMCell(features, config.lstm_dim)
        self.critic_linear = nn.Linear(config.lstm_dim, 1)
        self.actor_linear = nn.Linear(config.lstm_dim, num_actions)
        channels_last(self)

    def initial_state(self, batch: int) -> LSTMState:
        zeros = self.lstm.weight_hh.new_zeros(batch, self.config.lstm_dim)
        return LSTMState(zeros, zeros)

    def features(self, frames: Tensor) -> Tensor:
        """Flattened features of frames `(batch, 3, 64, 64)` in [0, 1]."""
        x = (frames * 2 - 1).contiguous(memory_format=torch.channels_last)
        for index in range(POOLINGS):
            x = F.relu(F.max_pool2d(self.get_submodule(f"conv{index + 1}")(x), 2))
        return x.flatten(1)  # in (channels, height, width) order whatever the memory layout

    def forward(self, frames: Tensor, state: LSTMState, mask: Tensor | None = None) -> ActorCriticOutput:
        """Policy logits and values of frames `(batch, time, 3, 64, 64)`, seen in order, starting from `state`.

        `mask` `(batch, time)` bool, optional: a row keeps its state at steps where it is False. The convolutions and
        the LSTM's input products run over all steps at once; only the recurrence is a loop."""
        features = self.features(frames.flatten(0, 1))
        return self.recur(features.unflatten(0, frames.shape[:2]), state, mask)

    def recur(self, features: Tensor, state: LSTMState, mask: Tensor | None = None) -> ActorCriticOutput:
        """As `forward`, from the frames' features `(batch, time, count)`."""
        recurrence = self._recurrence_on_gpu if features.is_cuda else self._recurrence
        outputs, state = recurrence(features, state, mask)
        values = self.critic_linear(outputs).squeeze(2).float()
        return ActorCriticOutput(self.actor_linear(outputs).float(), values, state)

    def _recurrence(
        self, features: Tensor, state: LSTMState, mask: Tensor | None
    ) -> tuple[Tensor, LSTMState]:
        """Hidden states `(batch, time, lstm_dim)` and the state after them."""
        projected = F.linear(features.flatten(0, 1), self.lstm.weight_ih, self.lstm.bias_ih)
        hidden = []
        for inputs, keep in self._steps(projected.unflatten(0, features.shape[:2]), mask):
            state = self._recur(inputs, state, keep)
            hidden.append(state.hx)
        return torch.stack(hidden, dim=1), state

    def _recurrence_on_gpu(
        self, features: Tensor, state: LSTMState, mask: Tensor | None
    ) -> tuple[Tensor, LSTMState]:
        """`_recurrence` in few launches: cuDNN's LSTM over the sequence, or one fused cell per step if rows are
        masked.

        It runs in float32 even under autocast, which would run cuDNN's LSTM in float16 and let its gradient
        underflow."""
        with torch.autocast(features.device.type, enabled=False):
            return self._fused_recurrence(features.float(), state, mask)

    def _fused_recurrence(
        self, features: Tensor, state: LSTMState, mask: Tensor | None
    ) -> tuple[Tensor, LSTMState]:
        lstm = self.lstm
        weights = [lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh]
        if mask is None and features.shape[1] > 1 and self.sequence_in_one_call:
            layers = (state.hx.unsqueeze(0), state.cx.unsqueeze(0))
            # cuDNN saves the tensors for the gradient only in training mode.
            outputs, hx, cx = torch.lstm(
                features, layers, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
            )
            return outputs, LSTMState(hx.squeeze(0), cx.squeeze(0))
        hidden = []
        for inputs, keep in self._steps(features, mask):
            hx, cx = torch.lstm_cell(inputs, state, *weights)
            if keep is not None:
                hx, cx = torch.where(keep, hx, state.hx), torch.where(keep, cx, state.cx)
            state = LSTMState(hx, cx)
            hidden.append(hx)
        return torch.stack(hidden, dim=1), state

    def burn_in(self, frames: Tensor, mask: Tensor) -> LSTMState:
        """The state after frames `(batch, time, 3, 64, 64)`, left-padded where `mask` is False; no gradient."""
        state = self.initial_state(frames.shape[0])
        if frames.shape[1] == 0:
            return state
        with torch.no_grad():
            return self(frames, state, mask).state

    @staticmethod
    def _steps(inputs: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        # The gradient of unbind is one stack; that of each index would be as large as the whole sequence.
        for step, part in enumerate(inputs.unbind(1)):
            yield part, None if mask is None else mask[:, step, None]

    def _recur(self, inputs: Tensor, state: LSTMState, keep: Tensor | None) -> LSTMState:
        """One LSTM step from the projected input; gates in PyTorch's order: input, forget, cell, output."""
        gates = inputs + F.linear(state.hx, self.lstm.weight_hh, self.lstm.bias_hh)
        gate_in, gate_forget, cell, gate_out = gates.chunk(4, dim=1)
        cx = gate_forget.sigmoid() * state.cx + gate_in.sigmoid() * cell.tanh()
        hx = gate_out.sigmoid() * cx.tanh()
        if keep is None:
            return LSTMState(hx, cx)
        return LSTMState(torch.where(keep, hx, state.hx), torch.where(keep, cx, state.cx))
