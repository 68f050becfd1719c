"""Outputs and gradients of every differentiable operation err at most twice as much as plain PyTorch in its dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import SPECS
from iris_fast.kernels.common.spec import Derivatives

from .harness import ON_ALL, assert_as_exact_as

DERIVATIVES = {name: spec.derivatives for name, spec in SPECS.items() if spec.derivatives is not None}


def computed(
    case: Derivatives, function: Callable[..., Any], numbers: torch.dtype, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """Outputs, then gradients by every input, computed in `dtype` from inputs that `numbers` can hold."""
    leaves = [tensor.to(numbers).to(device, dtype).requires_grad_() for tensor in case.inputs]
    result = function(*leaves, *(tensor.to(device) for tensor in case.others))
    outputs = [result] if isinstance(result, Tensor) else list(result)
    generator = torch.Generator().manual_seed(5)
    above = [torch.randn(one.shape, generator=generator).to(numbers) for one in outputs]
    given = [one.to(device, output.dtype) for one, output in zip(above, outputs, strict=True)]
    return [*(one.detach() for one in outputs), *torch.autograd.grad(outputs, leaves, given)]


@pytest.mark.parametrize("device", ON_ALL, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_outputs_and_gradients_are_as_exact_as_plain_pytorch(
    name: str, dtype: torch.dtype, device: str
) -> None:
    case = DERIVATIVES[name]()
    found = computed(case, case.ours, dtype, dtype, device)
    plain = computed(case, case.plain, dtype, dtype, device)
    exact = computed(case, case.plain, dtype, torch.float64, "cpu")
    for one, rounded, target in zip(found, plain, exact, strict=True):
        # Sums in another order may differ by some roundings where plain PyTorch happens to be exact.
        assert_as_exact_as(one, rounded, target, rounding=4)
