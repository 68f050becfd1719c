"""An operation is added by its file, with its specification, and its name in `kernels/__init__.py`: nothing else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import iris_fast.kernels as kernels
from benchmarks import micro
from benchmarks.cases import kernels as cases
from benchmarks.compilation import compile_operation, compiled_operations
from benchmarks.kernels import timed_operations
from benchmarks.registry import CASES, Run
from benchmarks.report.kernels import kernel_rows, references, sections
from benchmarks.systems.client import Systems

from . import (
    test_arguments,
    test_global_switches,
    test_gradients,
    test_graphs_and_gradients,
    test_public_calls,
)

FILE = '''
"""Twice a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from .common.arguments import check_range, with_checked_types
from .common.registration import operator
from .common.spec import Benchmark, Call, Derivatives, Launch, Numbers, OpSpec, Problem, Row


@operator("scaled")
def _scaled(x: Tensor, factor: float) -> Tensor:
    return factor * x


@_scaled.register_fake
def _scaled_fake(x: Tensor, factor: float) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx, inputs, output) -> None:
    ctx.factor = inputs[1]


def _backward(ctx, grad: Tensor):
    return _scaled(grad, ctx.factor), None


_scaled.register_autograd(_backward, setup_context=_setup_context)


@with_checked_types
def scaled(x: Tensor, factor: float = 2.0) -> Tensor:
    """`factor` times x."""
    check_range("factor", factor, 0)
    return _scaled(x, factor)


def scaled_reference(x: Tensor, factor: float = 2.0) -> Tensor:
    """`scaled` in plain PyTorch."""
    return factor * x


def _problem(device: torch.device, rows: int) -> Problem:
    x = Numbers(device).normal(rows, 4)
    return Problem(
        {"rows": rows},
        flops=4 * rows,
        bytes=32 * rows,
        ours={"ours": lambda: scaled(x)},
        plain=scaled_reference,
        bind=lambda function: lambda: function(x),
        expected=lambda: scaled_reference(x.double()),
        tolerance=1e-6,
    )


SPEC = OpSpec(
    scaled,
    lambda device: {"scaled": Call(scaled, (Numbers(device, alike=True).normal(6, 4),), {0: 0})},
    lambda: {"scaled": {"x": torch.ones(2, 3), "factor": 3.0}},
    scaled_reference,
    about="Twice a tensor.",
    example="import torch",
    launches=lambda _: iter([Launch("whole", lambda: None, hot=True)]),
    derivatives=lambda: Derivatives(scaled, lambda x: 2 * x, (torch.ones(3, 4),)),
    benchmark=Benchmark(
        lambda cuda, quick: [{"rows": 5, "compile_it": True}],
        _problem,
        {"rows": 5},
        Row("(…) → (…)", "none", {"rows": 5}, {"rows": 5}, "{rows} rows"),
    ),
)
'''


MODULE = "iris_fast.kernels.scaled"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file above, loaded as if it were in the folder."""
    path = tmp_path_factory.mktemp("kernels") / "scaled.py"
    path.write_text(FILE)
    found = importlib.util.spec_from_file_location(MODULE, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    yield module


@pytest.fixture
def scaled(loaded: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of its operation, which is added for one test by what the lines in `kernels/__init__.py` do."""
    monkeypatch.setitem(sys.modules, MODULE, loaded)
    monkeypatch.setitem(kernels.SPECS, "scaled", loaded.SPEC)
    monkeypatch.setattr(kernels, "__all__", [*kernels.__all__, "scaled", "scaled_reference"])
    for public in ("scaled", "scaled_reference"):
        monkeypatch.setattr(kernels, public, getattr(loaded, public), raising=False)
    yield "scaled"
    CASES.pop("kernel_scaled", None)


def test_the_tests_of_all_operations_take_it(scaled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_public_calls, "NAMES", [*test_public_calls.NAMES, scaled])
    test_public_calls.test_every_public_operation_is_called()
    test_public_calls.test_gives_the_same_bits_twice(scaled, "cpu")
    test_public_calls.test_operators_are_well_formed(scaled, "cpu")
    test_public_calls.test_compiles_whole_for_shapes_that_change(scaled, "cpu", "aot_eager")
    test_graphs_and_gradients.test_one_graph_serves_every_number_of_rows(scaled)
    test_graphs_and_gradients.test_is_exported_for_every_number_of_rows(scaled, False)
    test_graphs_and_gradients.test_forward_mode_is_refused(scaled)
    for context in test_global_switches.CONTEXTS:
        test_global_switches.test_outputs_are_the_same_bits(scaled, context)
    test_global_switches.test_gradients_are_the_same_bits(scaled, "autocast")
    monkeypatch.setitem(test_gradients.DERIVATIVES, scaled, kernels.SPECS[scaled].derivatives)
    test_gradients.test_outputs_and_gradients_are_as_exact_as_plain_pytorch(scaled, torch.bfloat16, "cpu")
    test_arguments.test_numpy_numbers_give_what_python_s_give(scaled, "factor")
    test_arguments.test_what_is_no_such_value_is_refused_by_name(scaled, "factor")
    test_arguments.test_numbers_out_of_range_are_refused_by_name(scaled, "factor")


def test_compilation_benchmarks_and_documentation_take_it(scaled: str) -> None:
    assert scaled in compiled_operations()
    with torch.no_grad():
        assert micro.call_of(scaled)().shape == (5, 4)
    cases.register(scaled)
    case = CASES["kernel_scaled"]
    assert "plain PyTorch" in case.description and scaled in timed_operations()
    (size,) = case.run(Run(True, Systems(torch.device("cpu"), 1, None, ()))).sizes
    assert set(size.seconds) == {"ours", "pytorch"} and size.bytes == 160
    row = kernel_rows()[-1]
    assert row[:4] == ["[`scaled`](scaled.py)", "`scaled(x, factor=2.0)`", "(…) → (…)", "none"]
    assert "`scaled_reference`" in references()
    assert sections().endswith("### `scaled`\n\nTwice a tensor.\n\n```python\nimport torch\n```")


def test_what_has_no_launches_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="philox has no launches: operations that have are vq_lookup"):
        compile_operation("philox", 90, hot=True)
