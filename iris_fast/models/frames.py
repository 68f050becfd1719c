"""Frames as users hand them over: bytes, or floats in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_frames(frames: Tensor, uint8: bool = True) -> Tensor:
    """Frames in [0, 1]: uint8 is divided by 255 in float32, floats in [0, 1] stay what they are.

    `uint8`: whether bytes are taken too. Raises ValueError for another dtype, and for floats outside [0, 1] (within a
    CUDA graph's capture, where nothing can be looked at, they pass).
    """
    if frames.dtype == torch.uint8 and uint8:
        return frames.float() / 255
    taken = "uint8 in [0, 255] or floats in [0, 1]" if uint8 else "floats in [0, 1]"
    if not frames.is_floating_point():
        raise ValueError(f"frames must be {taken}, not {frames.dtype}")
    if frames.numel() and not (frames.is_cuda and torch.cuda.is_current_stream_capturing()):
        low, high = (float(bound) for bound in frames.detach().aminmax())
        if not (low >= 0 and high <= 1):  # NaN is outside too
            raise ValueError(
                f"frames must be {taken}, not {frames.dtype} from {low:.4g} to {high:.4g}: divide them by 255 first"
            )
    return frames
