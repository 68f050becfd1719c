"""GroupNorm with swish by the C++ extension, against float64 and against itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from iris_fast.kernels import group_norm_swish
from iris_fast.kernels._group_norm import in_cpp, on_cpu

EPS = 1e-6
SHAPES = ((1, 16, 1, 1), (3, 32, 65, 32), (2, 48, 7, 3), (5, 64, 300, 8))  # batch, channels, area, groups


def make(shape: tuple[int, int, int, int], mean: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, the gradient of y, weight and bias; maps in channels-last memory."""
    batch, channels, area, _ = shape
    generator = torch.Generator().manual_seed(area)
    x, grad = torch.randn((2, batch, area, channels), generator=generator).transpose(2, 3)
    weight, bias = torch.randn((2, channels), generator=generator)
    return x + mean, grad, weight, bias


def both_ways(inputs: tuple[Tensor, ...], groups: int, swish: bool, cpp: bool) -> list[Tensor]:
    x, grad, weight, bias = inputs
    forward = in_cpp.forward if cpp else on_cpu.plain
    y, means, scales = forward(x, weight, bias, groups, EPS, swish)
    if cpp:
        gradients = in_cpp.backward(grad, x, means, scales, weight, bias, swish)
    else:
        gradients = on_cpu.plain_backward(grad, x, means, scales, weight, bias, groups, swish)
    return [y, means, scales, *gradients]


@pytest.mark.parametrize("swish", [True, False])
@pytest.mark.parametrize("mean", [0.5, 300.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_as_exact_as_plain_pytorch(shape: tuple[int, int, int, int], mean: float, swish: bool) -> None:
    if shape[2] == 1 and mean > 1:
        pytest.skip("one number a group has no variance: eps alone scales what rounding leaves")
    inputs, groups = make(shape, mean), shape[3]
    exact = both_ways(tuple(tensor.double() for tensor in inputs), groups, swish, cpp=False)
    plain = both_ways(inputs, groups, swish, cpp=False)
    for found, other, wanted in zip(both_ways(inputs, groups, swish, cpp=True), plain, exact, strict=True):
        size = wanted.abs().max()
        error, allowed = (found - wanted).abs().max(), (other - wanted).abs().max()
        assert error <= 1.5 * allowed + 1e-6 * size


@pytest.mark.parametrize("swish", [True, False])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_bfloat16_is_rounded_float32(shape: tuple[int, int, int, int], swish: bool) -> None:
    """Once at the end; gradients of x also before their last formula, as PyTorch rounds them after swish."""
    x, grad, weight, bias = make(shape)
    half = (x.bfloat16(), grad.bfloat16(), weight, bias)
    found = both_ways(half, shape[3], swish, cpp=True)
    wide = tuple(tensor.float() for tensor in half)
    wanted = both_ways(wide, shape[3], swish, cpp=True)
    assert found[0].dtype == found[3].dtype == torch.bfloat16
    assert torch.equal(found[0], wanted[0].bfloat16())
    for name in (1, 2, 4, 5):  # statistics, and gradients of weight and bias
        assert found[name].dtype == torch.float32 and torch.equal(found[name], wanted[name])
    if not swish:
        assert torch.equal(found[3], wanted[3].bfloat16())
    error, size = (found[3].float() - wanted[3]).abs().max(), wanted[3].abs().max()
    assert error <= 2 * torch.finfo(torch.bfloat16).eps * size
    assert found[0].stride() == found[3].stride() == x.stride()


@pytest.mark.parametrize("shape", SHAPES)
def test_threads_and_the_rest_of_the_batch_change_no_bit(shape: tuple[int, int, int, int]) -> None:
    inputs, groups, threads = make(shape), shape[3], torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(both_ways(inputs, groups, True, cpp=True))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))
    alone = both_ways((inputs[0][-1:], inputs[1][-1:], *inputs[2:]), groups, True, cpp=True)
    assert all(torch.equal(a[-1:], b) for a, b in zip(found[0][:4], alone[:4], strict=True))


def test_results_keep_the_layout_and_inputs_their_values() -> None:
    inputs = make(SHAPES[1])
    kept = [tensor.clone() for tensor in inputs]
    y, *_, grad_x, _, _ = both_ways(inputs, 32, True, cpp=True)
    assert y.stride() == grad_x.stride() == inputs[0].stride()
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))


def test_a_gradient_in_another_layout_gives_the_same_bits() -> None:
    x, grad, weight, bias = make(SHAPES[1])
    last = both_ways((x, grad, weight, bias), 32, True, cpp=True)
    first = both_ways((x, grad.contiguous(), weight, bias), 32, True, cpp=True)
    assert all(torch.equal(a, b) for a, b in zip(last, first, strict=True))


def test_it_takes_only_what_it_computes() -> None:
    x = make(SHAPES[1])[0]
    assert in_cpp.takes(x) and in_cpp.takes(x.bfloat16())
    for other in (x.contiguous(), x.double(), x.half(), x[:0], make((2, 20, 7, 4))[0]):
        assert not in_cpp.takes(other)


def test_nothing_between_gives_the_operators_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients of the public function, beside and through `torch.library`."""
    inputs = [tensor.requires_grad_() for tensor in make(SHAPES[1])]
    x, grad, weight, bias = inputs
    found = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(in_cpp, "runs_at_once", lambda _: False)
        y = group_norm_swish(x, 32, weight, bias)
        assert y.grad_fn is not None
        found.append([y, *torch.autograd.grad(y, (x, weight, bias), grad.detach())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_it_is_differentiable_once_and_without_forward_mode() -> None:
    x, _, weight, bias = make(SHAPES[1])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(group_norm_swish(x, 32, weight, bias).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="group_norm_swish"):
            group_norm_swish(dual, 32, weight, bias)


def test_what_traces_gets_the_operator() -> None:
    x, _, weight, bias = make(SHAPES[1])
    found: list[bool] = []

    def seen(x: Tensor) -> Tensor:
        found.append(in_cpp.runs_at_once(x))
        return group_norm_swish(x, 32, weight, bias)

    y, graph = seen(x), make_fx(seen)(x)
    assert found == [True, False]
    assert any("group_norm_swish" in str(node.target) for node in graph.graph.nodes)
    assert torch.equal(graph(x), y)
