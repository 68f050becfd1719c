from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import philox_uniform, sample_categorical, sample_categorical_reference
from iris_fast.kernels._extension import find_extension
from iris_fast.kernels._registration import NAMESPACE

# By name, because the package exports the function under the same name.
MODULE = importlib.import_module("iris_fast.kernels.sample_categorical")

# A draw may differ between implementations only where u lies this near a boundary of the cumulative
# distribution. Measured over 1.6 million draws beside a boundary: 2.2e-8, because rounding a p by 6e-8 moves
# the boundary by p (1 - p) times that.
BOUNDARY_GAP = 5e-8


def boundary_gap(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """The distance (rows,) of u (rows,) to the nearest boundary of the float64 distribution of logits."""
    boundaries = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return (boundaries - uniform.double()[:, None]).abs().amin(-1)


def exact_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    boundaries = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return (boundaries <= uniform.double()[:, None]).sum(-1)


@pytest.mark.parametrize("classes", [1, 2, 3, 18, 512, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_both_implementations_invert_the_exact_distribution(classes: int, temperature: float) -> None:
    torch.manual_seed(classes)
    logits = 3 * torch.randn(2000, classes)
    options: dict[str, Any] = {"seed": 5, "position": 7, "purpose": 3, "temperature": temperature}
    uniform = philox_uniform(5, torch.arange(2000), 7, 3)
    clear = boundary_gap(logits, uniform, temperature) > BOUNDARY_GAP
    assert clear.float().mean() > 0.99
    expected = exact_tokens(logits, uniform, temperature)[clear]
    assert torch.equal(sample_categorical(logits, **options)[clear], expected)
    assert torch.equal(sample_categorical_reference(logits, **options)[clear], expected)


def test_draws_differ_only_within_rounding_of_a_boundary() -> None:
    uniform = philox_uniform(1, torch.arange(20_000), 0, 0)
    torch.manual_seed(0)
    boundary = (uniform.double() + torch.randn(20_000).double() * 3e-8).clamp(1e-6, 1 - 1e-6)
    logits = torch.stack([boundary.log(), (-boundary).log1p()], dim=-1).float()
    gap = boundary_gap(logits, uniform)
    assert (gap < BOUNDARY_GAP).float().mean() > 0.3  # the test reaches the region it is about
    exact = exact_tokens(logits, uniform)
    for draw in (sample_categorical, sample_categorical_reference):
        wrong = draw(logits, seed=1, position=0, purpose=0) != exact
        assert gap[wrong].max() < BOUNDARY_GAP


def test_the_extension_is_what_draws_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = find_extension()
    assert extension is not None, "iris_fast._C is not built: run `python -m pip install -e .`"
    calls = []

    class Spy:
        def sample_categorical(self, *arguments: Any) -> Any:
            calls.append(arguments)
            assert extension is not None
            return extension.sample_categorical(*arguments)

    monkeypatch.setattr(MODULE, "find_extension", Spy)
    sample_categorical(torch.zeros(2, 3), seed=0, position=0, purpose=0)
    assert len(calls) == 1


def test_the_reference_draws_where_there_is_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 9)
    with_extension = sample_categorical(logits, seed=3, position=1, purpose=0)
    monkeypatch.setattr(MODULE, "find_extension", lambda: None)
    assert torch.equal(sample_categorical(logits, seed=3, position=1, purpose=0), with_extension)


def test_the_distribution_by_chi_squared() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    for temperature in (1.0, 0.5):
        draws = sample_categorical(
            logits.expand(50_000, 5), seed=12, position=0, purpose=0, temperature=temperature
        )
        expected = 50_000 * (logits / temperature).softmax(0)
        chi_squared = ((torch.bincount(draws, minlength=5) - expected).square() / expected).sum().item()
        assert chi_squared < 33  # 4 degrees of freedom: above once in 10^6


def test_rows_are_counted_over_the_leading_dimensions_and_do_not_depend_on_the_batch() -> None:
    logits = torch.randn(4, 3, 7)
    tokens = sample_categorical(logits, seed=2, position=5, purpose=1)
    assert tokens.shape == (4, 3)
    assert tokens.dtype == torch.int64
    rows = torch.arange(12).reshape(4, 3)
    part = sample_categorical(logits[1:3], seed=2, position=5, purpose=1, row=rows[1:3])
    assert torch.equal(part, tokens[1:3])
    one = sample_categorical(logits[2, 1], seed=2, position=5, purpose=1, row=torch.tensor(7))
    assert one.shape == ()
    assert one == tokens[2, 1]


def test_addresses_may_be_tensors() -> None:
    logits = torch.randn(6, 11)
    tokens = sample_categorical(logits, seed=2**64 - 3, position=4, purpose=1)
    seed, position = torch.tensor(-3), torch.tensor(4, dtype=torch.int32)
    assert torch.equal(sample_categorical(logits, seed=seed, position=position, purpose=1), tokens)
    positions = torch.arange(6)
    by_row = sample_categorical(logits, seed=1, position=positions, purpose=0)
    alone = [sample_categorical(logits, seed=1, position=p, purpose=0)[p] for p in range(6)]
    assert by_row.tolist() == alone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_draw_as_their_float32_values(dtype: torch.dtype) -> None:
    logits = torch.randn(300, 20).to(dtype)
    expected = sample_categorical(logits.float(), seed=1, position=0, purpose=0)
    assert torch.equal(sample_categorical(logits, seed=1, position=0, purpose=0), expected)


def test_non_contiguous_logits() -> None:
    logits = torch.randn(20, 300).T
    expected = sample_categorical(logits.contiguous(), seed=1, position=0, purpose=0)
    assert torch.equal(sample_categorical(logits, seed=1, position=0, purpose=0), expected)
    assert torch.equal(sample_categorical_reference(logits, seed=1, position=0, purpose=0), expected)


@pytest.mark.parametrize("draw", [sample_categorical, sample_categorical_reference])
def test_special_rows(draw: Any) -> None:
    infinity, nan = float("inf"), float("nan")
    rows = torch.tensor(
        [
            [-infinity, 0.0, -infinity],  # one possible class
            [nan, 0.0, 0.0],
            [0.0, 0.0, nan],
            [0.0, infinity, 0.0],
            [-infinity, -infinity, -infinity],
            [3e38, -3e38, 3e38],
        ]
    )
    for position in range(20):
        tokens = draw(rows, seed=0, position=position, purpose=0)
        assert tokens[:5].tolist() == [1, 0, 0, 0, 0]
        assert tokens[5] in (0, 2)


@pytest.mark.parametrize("draw", [sample_categorical, sample_categorical_reference])
def test_zero_rows(draw: Any) -> None:
    tokens = draw(torch.empty(0, 5), seed=0, position=0, purpose=0)
    assert tokens.shape == (0,)
    assert tokens.dtype == torch.int64
    assert draw(torch.empty(2, 0, 5), seed=0, position=0, purpose=0).shape == (2, 0)


@pytest.mark.parametrize("draw", [sample_categorical, sample_categorical_reference])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": torch.zeros(3, 0)}, ValueError, r"at least one class, got shape \(3, 0\)"),
        ({"logits": torch.tensor(1.0)}, ValueError, r"got shape \(\)"),
        (
            {"logits": torch.zeros(3, 2, dtype=torch.int64)},
            TypeError,
            "floating point, got dtype torch.int64",
        ),
        ({"temperature": 0.0}, ValueError, "temperature must be positive and finite, got 0.0"),
        ({"temperature": float("nan")}, ValueError, "got nan"),
        ({"seed": -1}, ValueError, "seed must be an int from 0 to"),
        ({"position": 2**32}, ValueError, "position must be an int from 0 to"),
        ({"purpose": -1}, ValueError, "purpose must be an int from 0 to"),
        ({"row": torch.arange(4)}, ValueError, r"row must broadcast to shape \(3,\), got \(4,\)"),
        ({"row": torch.zeros(3)}, TypeError, "row must be an int or a tensor of integers"),
        ({"position": torch.arange(2)}, ValueError, r"position must broadcast to shape \(3,\), got \(2,\)"),
        (
            {"row": torch.arange(3, device="meta")},
            ValueError,
            "row must be on the device of logits, cpu, got meta",
        ),
    ],
)
def test_bad_arguments_are_refused(
    draw: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        draw(**{"logits": torch.zeros(3, 2), "seed": 0, "position": 0, "purpose": 0, **arguments})


@pytest.mark.parametrize("shape", [(4, 9), (0, 9)])
def test_operator_is_registered_as_torch_expects(shape: tuple[int, int]) -> None:
    operator = getattr(torch.ops, NAMESPACE).sample_categorical.default
    rows = torch.arange(shape[0])
    torch.library.opcheck(operator, (torch.randn(shape), torch.tensor(3), rows, rows, 2, 0.7))
    torch.library.opcheck(
        operator, (torch.randn(shape, requires_grad=True), torch.tensor(3), rows, rows, 2, 0.7)
    )


def test_compiles_without_graph_breaks() -> None:
    def draw(logits: Tensor, position: Tensor) -> Tensor:
        return sample_categorical(logits * 2, seed=3, position=position, purpose=1) + 1

    logits, position = torch.randn(8, 5), torch.tensor(6)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, position), draw(logits, position))


@pytest.mark.gpu
def test_cuda_draws_as_the_cpu_does_and_under_graph_capture() -> None:
    logits = 3 * torch.randn(4000, 512)
    seed, position = torch.tensor(3, device="cuda"), torch.tensor(0, device="cuda")
    on_device = logits.cuda()
    sample_categorical(on_device, seed=seed, position=position, purpose=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sample_categorical(on_device, seed=seed, position=position, purpose=0)
    for step in range(3):
        position.fill_(step)
        graph.replay()
        uniform = philox_uniform(3, torch.arange(4000), step, 0)
        clear = boundary_gap(logits, uniform) > 2 * BOUNDARY_GAP
        expected = sample_categorical(logits, seed=3, position=step, purpose=0)
        assert torch.equal(tokens.cpu()[clear], expected[clear])
