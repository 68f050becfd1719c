"""A PyTorch module's weights as arrays, for the C++ engines."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from iris_fast.kernels.common.extension import find_extension


def require_extension() -> ModuleType:
    """The C++ extension; RuntimeError if it was not built."""
    extension = find_extension()
    if extension is None:
        raise RuntimeError("the CPU engine needs the C++ extension: build it with `pip install -e .`")
    return extension


def weight_arrays(module: nn.Module, skip: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """The state dict's tensors as arrays that share their memory, except names with a prefix in `skip`.

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
