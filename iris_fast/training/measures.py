"""What a batch says about its part besides the losses: sums, and the metrics that they become at an epoch's end.

A gradient step gives sums over its batch: of counts, of nats, of squares. They add up over pieces, steps and
processes, and the ratios are taken once an epoch, on the host. So a metric is of all batches of the epoch together,
and the same however they were split. Nothing here draws a number, changes a loss or waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from iris_fast.models.world_model import IGNORED, Prediction

Sums: TypeAlias = dict[str, Tensor]
Totals: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Sums on the host."""

NO_REWARD = 1  # the class of reward 0
SIGNS = np.array([-1, 0, 1])


def add_sums(sums: Sums, more: Mapping[str, Tensor]) -> None:
    """Adds `more` to the sums of the same names."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def totals_of(sums: Mapping[str, Tensor]) -> Totals:
    """The sums on the host."""
    return {name: value.double().cpu().numpy() for name, value in sums.items()}


# --- of the world model


@torch.no_grad()
def measure_predictions(predictions: Mapping[str, Prediction], frame_tokens: int) -> Sums:
    """Sums over the steps of a batch of segments, of the predictions of `WorldModel.predictions`.

    `NAME_nats` `(positions,)` and `NAME_counts` `(positions, classes)`: cross-entropy and number of labels, by class
    and, for observations, by position in the frame; `rewards_recalled`: the steps with a reward whose sign has the
    highest probability.
    """
    sums: Sums = {}
    for name, prediction in predictions.items():
        positions = frame_tokens if name == "obs" else 1
        sums |= {f"{name}_{key}": value for key, value in _label_sums(prediction, positions).items()}
    rewards = predictions["rewards"]
    rewarded = (rewards.labels != IGNORED) & (rewards.labels != NO_REWARD)
    found = rewards.log_probabilities.argmax(dim=1) == rewards.labels
    return sums | {"rewards_recalled": (rewarded & found).sum().float()}


def _label_sums(prediction: Prediction, positions: int) -> Sums:
    """Nats by position, and labels by position and class; rows begin a frame wherever the missing first ones do."""
    labels, classes = prediction.labels, prediction.log_probabilities.shape[1]
    known = labels != IGNORED
    labels = labels.masked_fill(~known, 0)
    nats = -prediction.log_probabilities.gather(1, labels[:, None]).squeeze(1) * known
    # The first token of a segment is not predicted.
    rows = prediction.segments
    missing = -(len(labels) // rows) % positions
    by_position = [
        F.pad(part.view(rows, -1), (missing, 0)).view(-1, positions) for part in (nats, known.float(), labels)
    ]
    nats, known_float, labels = by_position
    counts = known_float.new_zeros(positions, classes).scatter_add_(1, labels.t(), known_float.t())
    return {"nats": nats.sum(dim=0), "counts": counts}


def world_model_metrics(totals: Totals) -> dict[str, float]:
    """The metrics of the sums of `measure_predictions`."""
    metrics: dict[str, float] = {}
    for name, reference in (("obs", "marginal"), ("rewards", "base_rate"), ("ends", "base_rate")):
        nats, counts = totals[f"{name}_nats"], totals[f"{name}_counts"]
        least = frequency_nats(counts)
        metrics |= _ratio(f"{name}_vs_{reference}", nats.sum(), least.sum())
        if name == "obs":
            for position, (loss, count, bound) in enumerate(
                zip(nats, counts.sum(axis=1), least, strict=True)
            ):
                metrics |= _ratio(f"loss_obs_position/{position:02}", loss, count)
                metrics |= _ratio(f"obs_vs_marginal_position/{position:02}", loss, bound)
    steps, rewarded = totals["rewards_counts"].sum(), (totals["rewards_counts"][0] * SIGNS**2).sum()
    metrics |= _ratio("rewarded_steps", rewarded, steps)
    metrics |= _ratio("rewards_recall", totals["rewards_recalled"], rewarded)
    return metrics


def frequency_nats(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cross-entropy, summed over labels, of the frequencies themselves: `(rows, classes)` counts to `(rows,)`."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.ones_like(counts), where=counts > 0)
    nats: NDArray[np.float64] = -(counts * np.log(shares)).sum(axis=1)
    return np.maximum(nats, 0)  # not -0


# --- of the tokenizer


@torch.no_grad()
def measure_tokens(tokens: Tensor, num_codes: int) -> Sums:
    """`codes` `(positions, codes)`: how often each code stands at each position of `tokens` `(batch, positions)`."""
    ones = torch.ones(tokens.shape, device=tokens.device).t()
    counts = torch.zeros(tokens.shape[1], num_codes, device=tokens.device)
    return {"codes": counts.scatter_add_(1, tokens.t(), ones)}


@torch.no_grad()
def measure_moving(error: Tensor, change: Tensor) -> Sums:
    """Errors where frames differ from the frames before them.

    `error` `(batch, 3, height, width)`: absolute, of frames in [-1, 1]; `change`: uint8, absolute difference of those
    frames to the ones before, in levels of 255. A pixel moves if any of its channels changes.
    """
    red, green, blue = change.unbind(1)
    moving = ((red | green | blue) != 0).float()
    return {
        "moving_error": (error.sum(dim=1) * moving).sum(),
        "moving_change": change.sum(dtype=torch.float32) * (2 / 255),
        "moving": 3 * moving.sum(),
        "pixels": torch.full((), change.numel(), dtype=torch.float32, device=change.device),
    }


def tokenizer_metrics(totals: Totals) -> dict[str, float]:
    """The metrics of the sums of `measure_tokens` and `measure_moving`."""
    codes = totals["codes"]
    every = codes.sum(axis=0)
    metrics = {
        "codes_used": float((every > 0).sum()),
        "codebook_perplexity": float(np.exp(frequency_nats(every[None])[0] / max(1.0, every.sum()))),
        "tokens_entropy": float(frequency_nats(codes).sum() / max(1.0, codes[0].sum())),
    }
    if "moving" in totals:
        error, moving = totals["moving_error"], totals["moving"]
        metrics |= _ratio("moving_pixels", moving, totals["pixels"])
        metrics |= _ratio("reconstruction_loss_moving", error, moving)
        metrics |= _ratio("moving_vs_previous_frame", error, totals["moving_change"])
    return metrics


# --- of the actor-critic


@torch.no_grad()
def measure_imagined(
    rewards: Tensor, ends: Tensor, returns: Tensor, values: Tensor, entropies: Tensor
) -> Sums:
    """Sums over imagined steps: moments of lambda returns and of what values leave of them, entropies, rewards.

    `rewards`, `ends`: `(batch, horizon)`, of which steps after an end do not count; the others `(batch, steps)`.
    """
    before_end = ends.cumsum(dim=1) - ends.long() == 0
    left = returns - values
    size = torch.full((), returns.numel(), dtype=torch.float32, device=returns.device)
    return {
        "returns": torch.stack([size, returns.sum(), returns.square().sum()]),
        "residuals": torch.stack([size, left.sum(), left.square().sum()]),
        "entropy": torch.stack([size, entropies.sum()]),
        "imagined": torch.stack([before_end.sum(), ((rewards != 0) & before_end).sum()]).float(),
    }


def actor_critic_metrics(totals: Totals, num_actions: int) -> dict[str, float]:
    """The metrics of the sums of `measure_imagined`."""
    count, entropy = totals["entropy"]
    metrics = _ratio("entropy", entropy, count)
    metrics |= _ratio("entropy_vs_maximum", entropy, count * np.log(num_actions))
    spread = _variance(totals["returns"])
    if spread > 0:
        metrics["explained_variance"] = float(1 - _variance(totals["residuals"]) / spread)
    return metrics | _ratio("imagined_rewarded_steps", totals["imagined"][1], totals["imagined"][0])


def _variance(moments: NDArray[np.float64]) -> float:
    count, total, squares = moments
    return max(0.0, float(squares / count - (total / count) ** 2))


def _ratio(
    name: str, over: np.float64 | NDArray[np.float64], under: np.float64 | NDArray[np.float64]
) -> dict[str, float]:
    """The metric, or none where there is nothing to divide by: no reward in the batches, say."""
    return {name: float(over / under)} if under > 0 else {}
