"""What the models think at a step, as numbers for the page."""

from __future__ import annotations

import torch
from torch import Tensor

from .interface import Message
from .worlds import Moment


def thoughts_of(moment: Moment, temperature: float) -> Message | None:
    """Probabilities, value and entropies of a step; None at the first frame of an episode, before any.

    The action's probabilities are those it is drawn with, at the policy's temperature. Reward and end are what the
    world model expected of the step. A token's probability and entropy are those of the distribution that it was
    drawn from, or, in the real game, of what the world model expected after the frames and actions before.
    """
    output, expected, tokens = moment.output, moment.logits, moment.tokens
    if output is None or expected is None or expected.observations is None or tokens is None:
        return None
    logits = output.logits_actions[0, -1] / temperature
    observations = expected.observations[0].cpu()
    chances = observations.softmax(1).gather(1, torch.from_numpy(tokens)[:, None]).squeeze(1)
    return {
        "probabilities": _rounded(logits.softmax(0)),
        "value": float(output.values[0, -1]),
        "entropy": float(_entropy(logits)),
        "reward": _rounded(expected.rewards[0].softmax(0)),
        "end": _rounded(expected.ends[0].softmax(0)),
        "tokens": tokens.tolist(),
        "token_probabilities": _rounded(chances),
        "token_entropies": _rounded(_entropy(observations)),
    }


def _entropy(logits: Tensor) -> Tensor:
    """In nats, over the last axis."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 5) for value in values]
