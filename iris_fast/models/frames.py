"""Frames from users: bytes, or floats in [0, 1]. Models take floats in [0, 1] without checking them."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_frames(frames: Tensor) -> Tensor:
    """Frames in [0, 1]: uint8 is divided by 255 in float32, floats are unchanged. Raises as `check_frames`."""
    check_frames(frames)
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames


def check_frames(frames: Tensor, uint8: bool = True) -> None:
    """Raises ValueError for frames that are neither uint8 (if `uint8` allows it) nor floats in [0, 1].

    During a CUDA graph capture values cannot be read, so floats outside [0, 1] pass.
    """
    if frames.dtype == torch.uint8 and uint8:
        return
    taken = "uint8 in [0, 255] or floats in [0, 1]" if uint8 else "floats in [0, 1]"
    if not frames.is_floating_point():
        raise ValueError(f"frames must be {taken}, not {frames.dtype}")
    if frames.numel() == 0 or (frames.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    low, high = (float(bound) for bound in frames.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN is outside too
        raise ValueError(
            f"frames must be {taken}, not {frames.dtype} from {low:.4g} to {high:.4g}: scale them"
        )
