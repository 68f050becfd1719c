from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import (
    Sample,
    linear_sample,
    linear_sample_reference,
    philox_uniform,
    sample_categorical,
)
from iris_fast.kernels.common.registration import NAMESPACE
from iris_fast.kernels.linear_sample import launch_linear_sample
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

# A draw may differ where u is this near a boundary: sums of up to 100 products of float32 are a few 1e-6 off.
BOUNDARY_GAP = 1e-5


def random_layer(
    rows: int, classes: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x (rows, dim), weight (classes, dim) and bias (classes,) that give logits of about ±3."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator)
    weight = 3 * torch.randn(classes, dim, generator=generator) / max(dim, 1) ** 0.5
    return x.to(dtype), weight.to(dtype), torch.randn(classes, generator=generator).to(dtype)


def launched(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    device: str,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    precision: str = "ieee",
    **kwargs: Any,
) -> Sample:
    """The kernels' draw at (seed 5; index, position 7, purpose 3), their outputs poisoned before."""
    with poisoned_outputs():
        parts = launch_linear_sample(
            x.to(device),
            weight.to(device),
            None if bias is None else bias.to(device),
            seed=torch.tensor(5, device=device),
            row=None,
            position=torch.tensor(7, device=device).expand(len(x)),
            purpose=3,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            precision=precision,
            with_info=True,
            **kwargs,
        )
    return Sample(*(part for part in parts if part is not None))


def assert_drawn_from(
    sample: Sample, logits: Tensor, temperature: float = 1.0, gap: float = BOUNDARY_GAP
) -> None:
    """Asserts tokens, log-probabilities and entropies for exact logits (rows, classes) float64."""
    rows = len(logits)
    log_probs = (logits / temperature).log_softmax(-1)
    boundaries = log_probs.exp().cumsum(-1)
    uniform = philox_uniform(5, torch.arange(rows), 7, 3).double()[:, None]
    clear = (boundaries - uniform).abs().amin(-1) > gap
    assert clear.double().mean() > 0.8
    tokens = sample.tokens.cpu()
    assert torch.equal(tokens[clear], (boundaries <= uniform).sum(-1)[clear])
    plain = (logits.float() / temperature).log_softmax(-1)
    exact_entropies = -(log_probs.exp() * log_probs).sum(-1)
    rounding = 4 + gap / torch.finfo(torch.float32).eps / 10
    for found, start, exact in (
        (
            sample.log_probs,
            plain.gather(-1, tokens[:, None])[:, 0],
            log_probs.gather(-1, tokens[:, None])[:, 0],
        ),
        (sample.entropies, -(plain.exp() * plain).sum(-1), exact_entropies),
    ):
        assert_as_exact_as(found, start, exact, rounding=rounding)


def exact_logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 2, 1), (5, 3, 8), (17, 20, 40), (4, 130, 33), (64, 512, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_draws_from_the_layers_distribution(
    device: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    x, weight, bias = random_layer(*shape, dtype=dtype)
    assert_drawn_from(launched(x, weight, bias, device, 1.3), exact_logits(x, weight, bias), 1.3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_more_classes_than_a_program_holds_are_drawn_from_the_layers_distribution(
    device: str, dtype: torch.dtype, temperature: float
) -> None:
    x, weight, bias = random_layer(18, 600, 20, dtype=dtype)
    sample = launched(x, weight, bias, device, temperature)
    assert_drawn_from(sample, exact_logits(x, weight, bias), temperature)
    assert len(set((sample.tokens // 150).tolist())) == 4  # every part was drawn from


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("precision", "gap"), [("tf32", 2e-3), ("tf32x3", BOUNDARY_GAP), ("bf16", BOUNDARY_GAP)]
)
def test_precisions(device: str, precision: str, gap: float) -> None:
    x, weight, bias = random_layer(20, 30, 40)
    sample = launched(x, weight, bias, device, precision=precision)
    if precision == "bf16":
        x, weight = x.bfloat16(), weight.bfloat16()
    assert_drawn_from(sample, exact_logits(x, weight, bias), gap=gap)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [25, 513])
def test_the_kernel_truncates_as_sample_categorical(device: str, classes: int) -> None:
    # Products and sums of small integers are exact, so the logits are those of the linear layer bit by bit.
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-2, 3, (10, 8), generator=generator).float()
    weight = torch.randint(-2, 3, (classes, 8), generator=generator).float() / 4
    for top_k, top_p in [(3, 1.0), (0, 0.6), (9, 0.8)]:
        found = launched(x, weight, None, device, 1.0, top_k, top_p)
        expected = sample_categorical(
            x @ weight.t(), seed=5, position=7, purpose=3, top_k=top_k or None, top_p=top_p, return_info=True
        )
        assert torch.equal(found.tokens.cpu(), expected.tokens)
        torch.testing.assert_close(found.log_probs.cpu(), expected.log_probs, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.entropies.cpu(), expected.entropies, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [40, 520])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_rows_that_are_no_distribution_give_token_0(device: str, classes: int) -> None:
    x, weight, bias = random_layer(5, classes, 6)
    x[0, 2], x[1, 3] = float("nan"), float("inf")
    bias[35] = -float("inf")
    sample = launched(x, weight, bias, device)
    assert sample.tokens[:2].tolist() == [0, 0]
    assert torch.isnan(sample.log_probs).tolist() == [True, True, False, False, False]
    assert torch.isnan(sample.entropies).tolist() == [True, True, False, False, False]
    weight[:], bias[:] = 0.0, -float("inf")
    assert launched(x[2:], weight, bias, device).tokens.tolist() == [0, 0, 0]


@pytest.mark.parametrize("device", DEVICES)
@given(
    rows=st.integers(0, 20),
    classes=st.integers(1, 40),
    dim=st.integers(0, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    strided=st.booleans(),
    biased=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_any_shape_and_stride(
    device: str, rows: int, classes: int, dim: int, dtype: torch.dtype, strided: bool, biased: bool
) -> None:
    x, weight, bias = random_layer(rows, classes, dim, dtype)
    if strided:
        x, weight = x.t().contiguous().t(), torch.cat([weight, weight])[::2]
    sample = launched(x, weight, bias if biased else None, device)
    logits = exact_logits(x.float(), weight.float(), bias.float() if biased else None)
    boundaries = logits.softmax(-1).cumsum(-1)
    uniform = philox_uniform(5, torch.arange(rows), 7, 3).double()[:, None]
    clear = (boundaries - uniform).abs().amin(-1) > BOUNDARY_GAP
    assert torch.equal(sample.tokens.cpu()[clear], (boundaries <= uniform).sum(-1)[clear])


@pytest.mark.parametrize("return_info", [False, True])
@pytest.mark.parametrize("truncation", [{}, {"top_k": 4, "top_p": 0.9}])
@pytest.mark.parametrize("draw", [linear_sample, linear_sample_reference])
def test_is_the_draw_of_sample_categorical_from_the_linear_layer(
    draw: Any, truncation: dict[str, Any], return_info: bool
) -> None:
    x, weight, bias = random_layer(12, 10, 6)
    x = x.reshape(3, 4, 6)
    options: dict[str, Any] = {"seed": 9, "position": 2, "purpose": 1, "temperature": 1.5, **truncation}
    logits = torch.nn.functional.linear(x, weight, bias)
    options["return_info"] = return_info
    expected: Any = sample_categorical(logits, **options)
    found = draw(x, weight, bias, **options)
    if not return_info:
        assert torch.equal(found, expected)
        return
    assert isinstance(found, Sample)
    for part, expected_part in zip(found, expected, strict=True):
        torch.testing.assert_close(part, expected_part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("draw", [linear_sample, linear_sample_reference])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(3, 5)}, ValueError, r"x must be \(..., 4\).*got shape \(3, 5\)"),
        ({"x": torch.tensor(1.0)}, ValueError, r"got shape \(\)"),
        ({"weight": torch.zeros(4)}, ValueError, r"weight must be \(classes, dim\).*got shape \(4,\)"),
        ({"weight": torch.zeros(0, 4)}, ValueError, r"got shape \(0, 4\)"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \(2,\), got \(3,\)"),
        ({"weight": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "weight must be floating point"),
        (
            {"bias": torch.zeros(2, device="meta")},
            ValueError,
            "bias must be on the device of x, cpu, got meta",
        ),
        ({"precision": "fp8"}, ValueError, "precision must be one of ieee, tf32, tf32x3, bf16, got 'fp8'"),
        ({"temperature": -1.0}, ValueError, "temperature must be positive"),
        ({"position": torch.arange(2)}, ValueError, r"position must broadcast to shape \(3,\)"),
    ],
)
def test_bad_arguments_are_refused(
    draw: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    good = {"x": torch.zeros(3, 4), "weight": torch.zeros(2, 4), "seed": 0, "position": 0, "purpose": 0}
    with pytest.raises(error, match=message):
        draw(**{**good, **arguments})


def test_no_rows() -> None:
    tokens = linear_sample(torch.zeros(2, 0, 4), torch.zeros(3, 4), seed=0, position=0, purpose=0)
    assert tokens.shape == (2, 0) and tokens.dtype == torch.int64


@pytest.mark.parametrize("with_info", [False, True])
def test_is_a_well_formed_operator(with_info: bool) -> None:
    operator = getattr(torch.ops, NAMESPACE).linear_sample.default
    x, weight, bias = random_layer(4, 9, 5)
    address = (torch.tensor(3), None, torch.arange(4), 2)
    torch.library.opcheck(operator, (x, weight, bias, *address, 0.7, 0, 1.0, "ieee", with_info))


def test_compiles_without_graph_breaks() -> None:
    def draw(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        tokens = linear_sample(x * 2, weight, bias, seed=3, position=4, purpose=1)
        sample = linear_sample(x, weight, seed=3, position=4, purpose=1, return_info=True)
        return tokens + 1, sample.log_probs

    layer = random_layer(8, 5, 3)
    found = torch.compile(draw, fullgraph=True, backend="aot_eager")(*layer)
    for part, expected in zip(found, draw(*layer), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.gpu
def test_cuda_draws_under_graph_capture() -> None:
    x, weight, bias = random_layer(64, 512, 256)
    layer = [tensor.cuda() for tensor in (x, weight, bias)]
    seed, position = torch.tensor(5, device="cuda"), torch.tensor(0, device="cuda")
    linear_sample(*layer, seed=seed, position=position, purpose=3, return_info=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sample = linear_sample(*layer, seed=seed, position=position, purpose=3, return_info=True)
    position.fill_(7)
    graph.replay()
    assert_drawn_from(sample, exact_logits(x, weight, bias))
