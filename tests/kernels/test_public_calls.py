"""Tests of every public operation: on the CPU and, marked `gpu`, on a GPU."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import iris_fast.kernels
from iris_fast.kernels.common.registration import NAMESPACE
from iris_fast.kernels.common.triton import INTERPRETED, on_its_device

from .harness import ON_ALL, ON_BOTH, calls, cuda_code_on_the_cpu, flat, operators, poisoned_outputs

NAMES = list(calls("cpu"))


def run(name: str, device: str) -> list[Tensor]:
    call = calls(device)[name]
    with torch.no_grad():
        return flat(call.function(*call.tensors))


def test_every_public_operation_is_called() -> None:
    public = {
        name for name in iris_fast.kernels.__all__ if not name.endswith("_reference") and name.islower()
    }
    called = {name for name in public if any(call.startswith(name) for call in NAMES)}
    assert public - called == {"philox_4x32"}  # which takes ints, and is philox_uniform's


@pytest.mark.parametrize("device", ON_BOTH)
@pytest.mark.parametrize("name", NAMES)
def test_gives_the_same_bits_twice(name: str, device: str) -> None:
    for first, second in zip(run(name, device), run(name, device), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("device", "backend"),
    [
        ("cpu", "aot_eager"),
        pytest.param("cpu", "inductor", marks=pytest.mark.slow),
        pytest.param("cuda", "inductor", marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole_for_shapes_that_change(name: str, device: str, backend: str) -> None:
    call = calls(device)[name]
    function, arguments = call.function, call.tensors
    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for found, expected in zip(flat(compiled(*arguments)), flat(function(*arguments)), strict=True):
            torch.testing.assert_close(found, expected)


class RecordedOperators(TorchDispatchMode):
    """Notes which operators of ours were called, and with what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == NAMESPACE:
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", ON_ALL, indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_operators_are_well_formed(name: str, device: str) -> None:
    call = calls(device)[name]
    function, arguments = call.function, call.tensors
    with RecordedOperators() as recorded, torch.no_grad():
        function(*arguments)
    assert recorded.calls or name == "philox_uniform"
    for operator, given in recorded.calls:
        fp8 = any(isinstance(one, Tensor) and one.dtype == torch.float8_e4m3fn for one in given)
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        # Two of the checks compare caches by an operation that PyTorch lacks for e4m3.
        torch.library.opcheck(operator, given, test_utils=checks[1:3] if fp8 else checks)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    for found, expected in zip(run(name, "cuda"), run(name, "cpu"), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter")
@pytest.mark.parametrize("name", NAMES)
def test_the_code_for_a_gpu_gives_what_the_cpu_gives_in_the_interpreter(name: str) -> None:
    expected = run(name, "cpu")
    with cuda_code_on_the_cpu(), poisoned_outputs():
        found = run(name, "cpu")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter")
def test_an_implementation_for_cuda_may_not_return_two_tensors_of_one_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, found = "sample_categorical_truncated", operators()["sample_categorical_info"]._operator
    expected = run(name, "cpu")
    tokens = expected[0].clone()
    monkeypatch.setitem(
        found._backend_fns, "cuda", lambda *_: (tokens, *torch.zeros(2, len(tokens)).unbind())
    )
    with cuda_code_on_the_cpu(), pytest.raises(RuntimeError, match="may not alias"):
        run(name, "cpu")
    assert torch.equal(run(name, "cpu")[1], expected[1])  # the CPU has its own again


@contextmanager
def synchronising_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_is_captured_in_a_graph_and_never_waits_for_the_device(name: str) -> None:
    call = calls("cuda")[name]
    function, arguments = call.function, call.tensors
    with torch.no_grad():
        expected = flat(function(*arguments))  # also loads the kernels, which a capture may not
        with synchronising_is_an_error():
            function(*arguments)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = flat(function(*arguments))
        for part in found:
            part.zero_()
        for _ in range(2):
            graph.replay()
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_runs_on_the_device_of_its_tensors(name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    with torch.cuda.device(0):
        for found, expected in zip(run(name, "cuda:1"), run(name, "cpu"), strict=True):
            torch.testing.assert_close(found.cpu(), expected, rtol=2e-5, atol=2e-5)


def launchers() -> dict[str, Any]:
    """Every function of the folder that launches kernels on tensors that it is given first."""
    found = {}
    for info in pkgutil.walk_packages(iris_fast.kernels.__path__, "iris_fast.kernels."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.startswith("launch_") and value.__module__ == module.__name__:
                found[name] = value
    return found


def test_every_launcher_takes_the_device_of_its_tensors() -> None:
    found = launchers()
    assert len(found) >= 10
    wrapped = {name for name, launcher in found.items() if hasattr(launcher, "__wrapped__")}
    assert set(found) - wrapped == {"launch_long_rows"}  # part of another launcher


def test_the_device_of_the_first_tensor_is_current_while_a_launcher_runs() -> None:
    current: list[torch.device | None] = [None]

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        current[0] = wanted
        yield
        current[0] = None

    @on_its_device
    def launcher(tensor: Tensor, factor: int) -> tuple[torch.device | None, int]:
        return current[0], factor

    assert launcher(torch.zeros(1), 2) == (None, 2)
    with mock.patch.object(torch.cuda, "device", device), FakeTensorMode():
        assert launcher(torch.empty(1, device="cuda:3"), factor=5) == (torch.device("cuda:3"), 5)
    assert current == [None]


SEVERAL = [name for name, call in calls("cpu").items() if any(one.dim() for one in call.tensors[:-1])]


@pytest.mark.parametrize("name", SEVERAL)
def test_tensors_of_two_devices_are_refused_by_name(name: str) -> None:
    call = calls("cpu")[name]
    *arguments, last = call.tensors
    with pytest.raises(ValueError, match=r"(?=.*\bcpu\b).*\bmeta\b") as refusal:
        call.function(*arguments, last.to("meta"))
    public = max((one for one in iris_fast.kernels.__all__ if name.startswith(one)), key=len)
    taken = inspect.signature(getattr(iris_fast.kernels, public)).parameters
    assert any(re.search(rf"\b{argument}\b", str(refusal.value)) for argument in taken)
