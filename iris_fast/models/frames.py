"""Frames as users hand them over: bytes, or floats in [0, 1]. Models take floats in [0, 1] unchecked."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_frames(frames: Tensor) -> Tensor:
    """Frames in [0, 1]: uint8 is divided by 255 in float32, floats stay what they are. Raises as `check_frames`."""
    check_frames(frames)
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames


def check_frames(frames: Tensor, uint8: bool = True) -> None:
    """Raises ValueError for frames that are neither uint8 (where `uint8` says so) nor floats in [0, 1].

    Within a CUDA graph's capture, where nothing can be looked at, floats outside [0, 1] pass.
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
