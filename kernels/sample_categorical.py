"""One draw from the softmax of each row of logits, addressed by (seed; row, position, purpose).

With p_i = exp((l_i - max l) / temperature) in float32 and u the Philox number in [0, 1) of the row's
address, the token is the first i whose running sum of p, in float64, exceeds u * sum(p). A class of logit
-inf is never drawn. A row that is no distribution (it holds a NaN or +inf, or -inf alone) gives token 0 on
every device: an index that is valid, without a synchronisation to look.

`logits` is (..., classes), the tokens are (...). Bytes moved: the logits once. Work: `classes` exponentials
a row, and 10 Philox rounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._extension import find_extension
from ._registration import NAMESPACE
from .philox import philox_uniform


@torch.library.custom_op(f"{NAMESPACE}::sample_categorical", mutates_args=())
def _sample_categorical(
    logits: Tensor,  # (rows, classes), floating point
    seed: Tensor,  # () int64: the 64 bits of the seed
    row: Tensor,  # (rows,) int64
    position: Tensor,  # (rows,) int64
    purpose: int,
    temperature: float,
) -> Tensor:  # (rows,) int64
    return _invert(logits, philox_uniform(seed, row, position, purpose), temperature)


@_sample_categorical.register_kernel("cpu")
def _sample_categorical_cpu(
    logits: Tensor, seed: Tensor, row: Tensor, position: Tensor, purpose: int, temperature: float
) -> Tensor:
    extension = find_extension()
    if extension is None:
        return _invert(logits, philox_uniform(seed, row, position, purpose), temperature)
    tokens = extension.sample_categorical(
        logits.detach().to(torch.float32).contiguous().numpy(),
        int(seed) % 2**64,
        row.contiguous().numpy(),
        position.contiguous().numpy(),
        purpose,
        temperature,
    )
    return torch.from_numpy(tokens)


@_sample_categorical.register_fake
def _sample_categorical_fake(
    logits: Tensor, seed: Tensor, row: Tensor, position: Tensor, purpose: int, temperature: float
) -> Tensor:
    return logits.new_empty(logits.shape[:1], dtype=torch.int64)


def sample_categorical(
    logits: Tensor,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Draws int64 tokens (...) from softmax(logits / temperature); logits (..., classes), any float dtype.

    Args:
        seed: int in [0, 2^64), or a () int64 tensor holding its 64 bits (which a captured CUDA graph needs to
            draw anew at each replay).
        position: int in [0, 2^32), or an integer tensor that broadcasts to (...); its low 32 bits count.
        purpose: int in [0, 2^32): what the draw is for, so that draws at one position differ.
        row: integer tensor that broadcasts to (...); by default the index into the flattened (...).
        temperature: positive and finite.

    Equal addresses and logits give equal tokens on every device, except where u * sum(p) lies within
    float32 rounding of a running sum. CPU tensors go to the C++ extension where it was built, and
    otherwise, like those of other devices, to `sample_categorical_reference`. Not differentiable.

    Raises ValueError or TypeError naming an argument of a wrong shape, dtype, device or range.
    """
    seed, row, position = _address(logits, seed, row, position, purpose, temperature)
    tokens = _sample_categorical(
        logits.reshape(row.numel(), logits.shape[-1]),
        seed,
        row.reshape(-1),
        position.reshape(-1),
        purpose,
        float(temperature),
    )
    return tokens.reshape(logits.shape[:-1])


def sample_categorical_reference(
    logits: Tensor,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """`sample_categorical` in plain PyTorch, for every device."""
    seed, row, position = _address(logits, seed, row, position, purpose, temperature)
    return _invert(logits, philox_uniform(seed, row, position, purpose), temperature)


def _invert(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The tokens (...) at `uniform` (...) in [0, 1) of the distributions of `logits` (..., classes)."""
    logits = logits.detach().to(torch.float32).contiguous()
    probabilities = torch.exp((logits - logits.amax(dim=-1, keepdim=True)) / temperature)
    running = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = running[..., -1:]
    # u <= 1 - 2^-24, so the threshold is below the total: the search ends on a class, and on one whose p is
    # positive, because only such a class raises the running sum.
    threshold = uniform.to(torch.float64).unsqueeze(-1) * total
    tokens = torch.searchsorted(running, threshold, right=True)
    is_distribution = torch.isfinite(total) & (total > 0)
    return torch.where(is_distribution, tokens, 0).squeeze(-1)


def _address(
    logits: Tensor,
    seed: int | Tensor,
    row: Tensor | None,
    position: int | Tensor,
    purpose: int,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Checks all arguments; gives seed () and row and position of the leading shape as int64 tensors."""
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"logits must be (..., classes) with at least one class, got shape {tuple(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got dtype {logits.dtype}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature must be positive and finite, got {temperature} (for 0, take the argmax)"
        )
    if not 0 <= purpose < 2**32:
        raise ValueError(f"purpose must be an int from 0 to 2**32 - 1, got {purpose}")
    if isinstance(seed, int):
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be an int from 0 to 2**64 - 1, got {seed}")
        seed = seed - 2**64 if seed >= 2**63 else seed
    if isinstance(position, int) and not 0 <= position < 2**32:
        raise ValueError(f"position must be an int from 0 to 2**32 - 1, got {position}")
    leading = logits.shape[:-1]
    if row is None:
        row = torch.arange(leading.numel(), device=logits.device).reshape(leading)
    return (
        _integer_tensor("seed", seed, torch.Size(()), logits.device),
        _integer_tensor("row", row, leading, logits.device),
        _integer_tensor("position", position, leading, logits.device),
    )


def _integer_tensor(name: str, value: int | Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    if isinstance(value, int):
        # Not torch.tensor, whose copy from the host a CUDA graph cannot capture.
        return torch.full((), value, dtype=torch.int64, device=device).expand(shape)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an int or a tensor of integers, got dtype {value.dtype}")
    if value.device != device:
        raise ValueError(f"{name} must be on the device of logits, {device}, got {value.device}")
    try:
        return value.to(torch.int64).expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to shape {tuple(shape)}, got {tuple(value.shape)}") from None
