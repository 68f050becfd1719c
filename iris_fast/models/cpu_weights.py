"""What the C++ engines take of a PyTorch module: its weights as arrays."""

from __future__ import annotations

import itertools
import math
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iris_fast.kernels._extension import find_extension


def require_extension() -> ModuleType:
    """The C++ extension; RuntimeError where it was not built."""
    extension = find_extension()
    if extension is None:
        raise RuntimeError("the CPU engine needs the C++ extension: build it with `pip install -e .`")
    return extension


def weight_arrays(module: nn.Module, skip: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """The state dict's tensors as arrays that share their memory, but those whose names start as in `skip`.

    Raises ValueError for one that is not float32 on the CPU.
    """
    weights = {}
    for name, tensor in module.state_dict().items():
        if name.startswith(skip):
            continue
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(
                f"the CPU engine needs float32 weights on the CPU; {name} is {tensor.dtype} on {tensor.device}"
            )
        weights[name] = tensor.detach().contiguous().numpy()
    return weights


WeightVersions = list[tuple[int, int, float | None]]


def weight_versions(module: nn.Module, skip: tuple[str, ...] = ()) -> WeightVersions:
    """Another list after any change of a weight in place, such as an optimizer's step or loading a checkpoint.

    Weights whose names start as in `skip` do not count. PyTorch counts a tensor's versions, but its fused optimizers
    do not count theirs: so an element of each tensor is looked at too. A step moves every parameter that has a
    gradient, so one of so many elements gives it away.
    """
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return [_version(tensor) for name, tensor in named if tensor.numel() and not name.startswith(skip)]


def _version(tensor: Tensor) -> tuple[int, int, float | None]:
    element = float(tensor.detach()[(-1,) * tensor.dim()])
    counted = 0 if tensor.is_inference() else tensor._version  # inference tensors have no count
    return (
        tensor.data_ptr(),
        counted,
        None if math.isnan(element) else element,
    )  # NaN would differ from itself
