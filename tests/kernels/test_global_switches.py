"""No operation follows PyTorch's global settings: precision of products, autocast, defaults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import SPECS
from iris_fast.kernels.common.arithmetic import exact_float32

from .harness import calls, flat

MKLDNN: Any = torch.backends.mkldnn  # whose switches PyTorch's types leave out
needs_switches = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="this PyTorch has no fp32_precision"
)


@contextmanager
def matmul_precision(word: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(word)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if hasattr(torch.backends, "fp32_precision"):  # the word alone would leave the CPU's switch set
            MKLDNN.matmul.fp32_precision = "none"


@contextmanager
def fp32_precision(module: Any) -> Iterator[None]:
    module.fp32_precision = "bf16"
    try:
        yield
    finally:
        module.fp32_precision = "none"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "medium": partial(matmul_precision, "medium"),
    "mkldnn": partial(fp32_precision, MKLDNN),
    "mkldnn.matmul": lambda: fp32_precision(MKLDNN.matmul),
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "default device": partial(torch.device, "meta"),  # stands for a GPU where there is none
    "default float64": partial(default_dtype, torch.float64),
    "default bfloat16": partial(default_dtype, torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", list(calls("cpu")))
def test_outputs_are_the_same_bits(name: str, context: str) -> None:
    call = calls("cpu")[name]
    function, arguments = call.function, call.tensors
    with torch.no_grad():
        expected = flat(function(*arguments))
        with CONTEXTS[context]():
            found = flat(function(*arguments))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device
        assert torch.equal(one, other)


@pytest.mark.parametrize("context", ["medium", "autocast", "default bfloat16"])
@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.derivatives is not None])
def test_gradients_are_the_same_bits(name: str, context: str) -> None:
    call = calls("cpu")[name]
    function, arguments = call.function, call.tensors

    def gradients() -> list[Tensor]:
        leaves = [one.detach().clone().requires_grad_(one.is_floating_point()) for one in arguments]
        total = sum(one.sum() for one in flat(function(*leaves)) if one.requires_grad)
        assert isinstance(total, Tensor)
        total.backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    expected = gradients()
    with CONTEXTS[context]():
        found = gradients()
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@needs_switches
def test_the_switches_are_put_back_by_the_last_thread_to_leave() -> None:
    cpu, matmul = torch.device("cpu"), MKLDNN.matmul
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with exact_float32(cpu):
            inside.set()
            leave.wait(10)

    with fp32_precision(matmul):
        other = threading.Thread(target=stay)
        with exact_float32(cpu):
            other.start()
            assert inside.wait(10)
        assert matmul.fp32_precision == "ieee"  # the other thread is still computing
        leave.set()
        other.join()
        assert matmul.fp32_precision == "bf16"


@needs_switches
def test_a_switch_that_follows_its_backend_follows_it_afterwards() -> None:
    with fp32_precision(MKLDNN):
        with exact_float32(torch.device("cpu")):
            assert MKLDNN.conv.fp32_precision == "ieee"
        assert MKLDNN.conv.fp32_precision == "bf16"
    assert MKLDNN.conv.fp32_precision == "none"
