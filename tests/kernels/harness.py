"""Shared by tests of kernels: devices, poisoned outputs, and error bounds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import iris_fast.kernels
from iris_fast.kernels import SPECS
from iris_fast.kernels.common.registration import Operator
from iris_fast.kernels.common.spec import Call
from iris_fast.kernels.common.triton import INTERPRETED

DEVICES = [
    pytest.param(
        "cpu",
        id="interpreter",
        marks=pytest.mark.skipif(not INTERPRETED, reason="a GPU is used instead of the interpreter"),
    ),
    pytest.param("cuda", id="gpu", marks=pytest.mark.gpu),
]
"""Where a kernel's launcher is tested: Triton's interpreter on CPU tensors, and, marked `gpu`, the hardware."""


ON_BOTH = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
"""Where a public function is tested."""


ON_ALL = [
    *ON_BOTH,
    pytest.param("cuda's code", marks=pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter")),
]
"""There, and on CPU tensors with what operators do on CUDA: of the fixture `device` (conftest.py), indirectly."""


def operators() -> dict[str, Operator]:
    """Every operator of the folder, by name."""
    modules = pkgutil.walk_packages(iris_fast.kernels.__path__, "iris_fast.kernels.")
    values = [value for info in modules for value in vars(importlib.import_module(info.name)).values()]
    return {value._name: value for value in values if isinstance(value, Operator)}


@contextmanager
def cuda_code_on_the_cpu() -> Iterator[None]:
    """Gives CPU tensors to every operator's CUDA implementation: its launches, in the interpreter, what it allocates
    and returns, and PyTorch's rules for that, which a launcher's tests do not meet.
    """
    definitions = [operator._operator for operator in operators().values()]
    for definition in definitions:
        definition.register_kernel("cpu", definition._backend_fns["cuda"])
    try:
        yield
    finally:
        for definition in definitions:
            definition.register_kernel("cpu", definition._backend_fns[None])


def calls(device: str) -> dict[str, Call]:
    """The small calls of every operation's specification; their inputs are the same numbers on every device."""
    return {name: call for spec in SPECS.values() for name, call in spec.calls(device).items()}


def flat(result: Any) -> list[Tensor]:
    """The tensors of a result, None left out."""
    parts = [result] if isinstance(result, Tensor) else list(result or [])
    return [part for part in parts if part is not None]


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Fills what `torch.empty` and its kin allocate with NaN (the largest value, for integers)."""

    def poison(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate_poisoned(*args: object, **kwargs: object) -> Tensor:
            tensor = allocate(*args, **kwargs)
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            return tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max)

        return allocate_poisoned

    with (
        mock.patch.object(torch, "empty", poison(torch.empty)),
        mock.patch.object(torch, "empty_like", poison(torch.empty_like)),
        mock.patch.object(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty)),
    ):
        yield


def assert_as_exact_as(
    found: Tensor, plain: Tensor, exact: Tensor, *, factor: float = 2.0, rounding: float | None = None
) -> None:
    """Asserts that `found` errs from `exact` (float64) at most `factor` times as much as `plain` PyTorch does.

    `plain` is the same computation by PyTorch in the dtype of `found`. A few units of rounding of the largest
    value (`rounding` of them, by default 2) are allowed besides, since plain PyTorch is sometimes exact.
    NaN and infinity must be where `plain` has them.
    """
    assert found.shape == plain.shape and found.dtype == plain.dtype, (found.shape, found.dtype, plain.dtype)
    found64, plain64 = found.detach().double().cpu(), plain.detach().double().cpu()
    exact64 = exact.detach().double().cpu()
    finite = torch.isfinite(plain64)
    assert torch.equal(torch.isfinite(found64), finite), "NaN or infinity where plain PyTorch has none"
    if not finite.any():
        return
    scale = exact64[finite].abs().max()
    unit = torch.finfo(found.dtype).eps * scale
    error = (found64 - exact64)[finite].abs().max()
    allowed = (
        factor * (plain64 - exact64)[finite].abs().max() + (2.0 if rounding is None else rounding) * unit
    )
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g} (largest value {scale:.3g})"
