"""A CUDA device of tensors without data: GPU code runs on it, and must not read any number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import work

DEVICE = torch.device("cuda", 0)


class LeavesTheDevice(RuntimeError):
    """An operation moved data between host and device, or worked on the host."""


class OnDeviceAlone(TorchDispatchMode):
    """Raises where an operation has a tensor that is not on the device: a capture would fail, or record a copy
    of what the host held then. Operations whose result's shape depends on numbers raise in FakeTensorMode.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor) and leaf.device != DEVICE:
                raise LeavesTheDevice(f"{func} has a tensor on {leaf.device}")
        return result


class WithoutTheDriver(TorchFunctionMode):
    """Indexing and copying by way of operations that fake tensors have in a PyTorch without CUDA too.

    (Its own ways of both set the current device first, which such a build refuses.)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            return _indexed(*args)
        if func is Tensor.copy_:
            target, source = args[:2]
            assert (target + source).shape == target.shape
            return target
        if func in (Tensor.contiguous, Tensor.clone):
            return _copied(args[0], *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _copied(tensor: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    if memory_format == torch.preserve_format:
        return torch.mul(tensor, 1)
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return torch.empty_like(torch.mul(tensor, 1), memory_format=memory_format)


def _indexed(tensor: Tensor, index: Any) -> Tensor:
    dim = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        elif isinstance(part, slice):
            start, stop, step = part.indices(tensor.shape[dim])
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, start, max(start, stop), step)
        else:
            tensor = torch.ops.aten.index.Tensor(tensor, [None] * dim + [part])
        dim += 1
    return tensor


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Inside, tensors made for `DEVICE` have shapes and types alone."""
    with FakeTensorMode(), WithoutTheDriver():
        yield


def without_data(module: nn.Module, device: torch.device = DEVICE) -> nn.Module:
    """Puts tensors without data in place of a module's own; inside `fake_cuda`, or a FakeTensorMode for a CPU."""
    return work.without_data(module, device)
