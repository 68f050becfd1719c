from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.kernels.group_norm_swish import (
    choose_block,
    group_norm_swish,
    group_norm_swish_reference,
    launch_group_norm_swish,
    launch_group_norm_swish_backward,
)
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

EPS = 1e-6
forward: Any = launch_group_norm_swish
backward: Any = launch_group_norm_swish_backward
HERE = "cpu" if INTERPRETED else "cuda"


def random_inputs(
    shape: tuple[int, int, int], layout: str = "last", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x (batch, channels, area) with a mean that is not zero, weight and bias (channels,)."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(shape, generator=generator) + 1.5
    if layout == "last":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    weight, bias = torch.randn((2, shape[1]), generator=generator)
    return x, weight, bias


def as_dtype(dtype: torch.dtype, *tensors: Tensor) -> list[Any]:
    return [tensor.to(dtype) for tensor in tensors]


def plain_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, swish: bool
) -> list[Tensor]:
    """Gradients of x, weight and bias by PyTorch's own GroupNorm and SiLU in their dtype."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    normed = torch.group_norm(leaves[0], groups, leaves[1], leaves[2], EPS)
    (F.silu(normed) if swish else normed).backward(grad)
    return [leaf.grad for leaf in leaves]  # type: ignore[misc]


def check(
    inputs: tuple[Tensor, Tensor, Tensor],
    groups: int,
    dtype: torch.dtype,
    device: str,
    swish: bool = True,
    **options: Any,
) -> None:
    """Forward and backward kernels on inputs rounded to `dtype` against float64."""
    x, weight, bias = as_dtype(dtype, *inputs)
    exact = as_dtype(torch.float64, x, weight, bias)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    on_device: list[Any] = [tensor.to(device) for tensor in (x, weight, bias)]
    with poisoned_outputs():
        y, means, scales = forward(on_device[0], *on_device[1:], groups, EPS, swish, **options)
        gradients = backward(
            grad.to(device), on_device[0], means, scales, *on_device[1:], groups, swish, **options
        )
    assert y.stride() == torch.empty_like(x).stride() == gradients[0].stride()
    expected = group_norm_swish_reference(exact[0], groups, exact[1], exact[2], EPS, swish=swish)
    assert_as_exact_as(y, group_norm_swish_reference(x, groups, weight, bias, EPS, swish=swish), expected)
    plain = plain_gradients(grad, x, weight, bias, groups, swish)
    exact_gradients = plain_gradients(grad.double(), exact[0], exact[1], exact[2], groups, swish)
    for found, rounded, target in zip(gradients, plain, exact_gradients, strict=True):
        # Sums over the batch: both sides err by a rounding of each term, in another order.
        assert_as_exact_as(found, rounded, target, rounding=4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 64, 16), 32), ((1, 12, 50), 4), ((3, 6, 1), 2), ((2, 5, 33), 5), ((1, 8, 9), 1)],
)
def test_the_kernels_are_as_exact_as_plain_pytorch(
    device: str, dtype: torch.dtype, layout: str, shape: tuple[int, int, int], groups: int
) -> None:
    check(random_inputs(shape, layout), groups, dtype, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [(1, 16, 1), (2, 64, 1), (8, 32, 2), (4, 128, 4)])
def test_every_block_gives_the_same(device: str, block: tuple[int, int, int]) -> None:
    check(random_inputs((2, 12, 40)), 6, torch.float32, device, block=block)
    check(random_inputs((2, 9, 40)), 3, torch.float32, device, swish=False, block=block)


@pytest.mark.parametrize("device", DEVICES)
def test_statistics_survive_a_mean_far_from_zero(device: str) -> None:
    x, weight, bias = random_inputs((2, 4, 200))
    x += 3000.0  # E[x²] - E[x]² in float32 would miss a tenth of the variance
    arguments = (x.to(device), weight.to(device), bias.to(device), 2)
    found = forward(*arguments, block=(2, 64, 1))[0].cpu()
    exact = group_norm_swish_reference(x.double(), 2, weight, bias)
    assert (found - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("mean", [0.0, 1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("layout", ["3-D, adjacent channels", "channels last", "contiguous"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_mean_far_from_zero_costs_no_more_than_in_pytorch(layout: str, batch: int, mean: float) -> None:
    shapes = {"3-D, adjacent channels": (batch, 50, 8), "channels last": (batch, 5, 10, 8)}
    x = torch.randn(shapes.get(layout, (batch, 8, 5, 10)), generator=torch.Generator().manual_seed(0)) + mean
    x = x if layout == "contiguous" else x.movedim(-1, 1)
    _, weight, bias = random_inputs((1, 8, 1))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    exact = [t.double().contiguous().requires_grad_() for t in (x, weight, bias)]
    plain = [t.clone(memory_format=torch.contiguous_format).requires_grad_() for t in (x, weight, bias)]
    ours = [t.clone().requires_grad_() for t in (x, weight, bias)]
    results = []
    for leaves, run in ((ours, group_norm_swish), (plain, None), (exact, None)):
        x_leaf, w, b = leaves
        y = run(x_leaf, 4, w, b) if run else F.silu(F.group_norm(x_leaf, 4, w, b, EPS))
        results.append([y, *torch.autograd.grad(y, leaves, grad.to(y.dtype))])
    for found, rounded, target in zip(*results, strict=True):
        assert_as_exact_as(found, rounded, target, rounding=4)


@pytest.mark.parametrize("mean", [1.0, 3.0, 10.0, 100.0])
def test_one_group_far_from_zero_beside_others_and_outliers_first(mean: float) -> None:
    """In channels-last memory, where a CPU takes the variance from squares or from differences."""
    x, weight, bias = random_inputs((4, 8, 1024))
    x = x.view(4, 8, 32, 32).contiguous(memory_format=torch.channels_last)
    x[1, 2:4] += mean
    x[2, :, 0, :3] += 1e3 * mean
    x[3] = mean * x[3].sign()
    exact = group_norm_swish_reference(x.double().contiguous(), 4, weight, bias)
    found = group_norm_swish(x, 4, weight, bias)
    for one, target in zip(found, exact, strict=True):
        assert (one - target).abs().max() <= 1e-5 * target.abs().max()


def test_a_batch_of_one_in_every_memory_format() -> None:
    x, weight, bias = torch.randn(3, 4, 6, 6), torch.ones(4), torch.zeros(4)
    expected = group_norm_swish_reference(x, 2, weight, bias)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        one = x.to(memory_format=memory_format)[:1]
        torch.testing.assert_close(group_norm_swish(one, 2, weight, bias), expected[:1])
        torch.testing.assert_close(
            group_norm_swish(x[:1].to(memory_format=memory_format), 2, weight, bias), expected[:1]
        )


@pytest.mark.parametrize("device", DEVICES)
def test_weights_of_another_dtype(device: str) -> None:
    x, weight, bias = random_inputs((2, 4, 10))
    arguments: list[Any] = [x.to(device).bfloat16(), weight.to(device), bias.to(device)]
    y, means, scales = forward(*arguments, 2)
    assert (y.dtype, means.dtype) == (torch.bfloat16, torch.float32)
    exact = group_norm_swish_reference(x.bfloat16().double(), 2, weight, bias)
    assert_as_exact_as(y, group_norm_swish_reference(x.bfloat16(), 2, weight, bias), exact)
    gradients = backward(arguments[0], arguments[0], means, scales, *arguments[1:], 2)
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_stay_in_their_group(device: str, bad: float) -> None:
    x, weight, bias = random_inputs((2, 8, 20))
    x[1, 5, 7] = bad  # of groups 0 to 3 the third
    found = forward(x.to(device), weight.to(device), bias.to(device), 4)[0].cpu()
    assert torch.isnan(found[1, 4:6]).all()
    found[1, 4:6] = 0
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("device", DEVICES)
def test_large_values_do_not_overflow_in_swish(device: str) -> None:
    x, weight, bias = random_inputs((1, 4, 64))
    check((x, 300 * weight, 300 * bias), 2, torch.float32, device)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shape_and_stride(data: st.DataObject) -> None:
    batch, groups, size, area = (data.draw(st.integers(low, 5)) for low in (0, 1, 1, 0))
    x, weight, bias = random_inputs(
        (batch, groups * size, area), data.draw(st.sampled_from(["last", "first"]))
    )
    if data.draw(st.booleans()):
        x = torch.cat([x, x], dim=2)[:, :, ::2]
    if data.draw(st.booleans()) and batch:
        x = x[:1].expand(batch, -1, -1)
    swish = data.draw(st.booleans())
    if x.numel():
        check((x, weight, bias), groups, torch.float32, HERE, swish)
    found = group_norm_swish(x, groups, weight, bias, swish=swish)
    assert found.shape == x.shape
    if x.numel():
        torch.testing.assert_close(found, group_norm_swish_reference(x, groups, weight, bias, swish=swish))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("swish", [True, False])
def test_maps_keep_their_layout_and_have_pytorchs_gradients(
    memory_format: torch.memory_format, swish: bool
) -> None:
    x, weight, bias = as_dtype(torch.float64, *random_inputs((3, 6, 20)))
    x = x.reshape(3, 6, 4, 5).contiguous(memory_format=memory_format).requires_grad_()
    leaves = [x, weight.requires_grad_(), bias.requires_grad_()]
    y = group_norm_swish(x, 3, weight, bias, swish=swish)
    assert y.is_contiguous(memory_format=memory_format)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, leaves, grad)
    assert found[0].is_contiguous(memory_format=memory_format)
    for gradient, expected in zip(
        found, plain_gradients(grad, leaves[0], leaves[1], leaves[2], 3, swish), strict=True
    ):
        torch.testing.assert_close(gradient, expected)
    only_x = torch.autograd.grad(group_norm_swish(x, 3, weight.detach(), bias.detach(), swish=swish), x, grad)
    torch.testing.assert_close(only_x[0], found[0])


def test_no_batch_no_area_and_no_positions() -> None:
    weight, bias = torch.ones(4, requires_grad=True), torch.zeros(4)
    for shape in ((0, 4, 2, 2), (3, 4, 0)):
        y = group_norm_swish(torch.ones(shape), 2, weight, bias)
        assert y.shape == shape
        assert torch.autograd.grad(y.sum(), weight)[0].tolist() == [0.0] * 4
    x = torch.tensor([[1.0, 3.0, 0.0, 0.0]])
    flat = group_norm_swish(x, 2, weight, bias, swish=False)
    torch.testing.assert_close(flat, torch.tensor([[-1.0, 1.0, 0.0, 0.0]]), atol=1e-5, rtol=0)


def test_blocks_fill_sectors_and_hold_what_fits() -> None:
    assert choose_block(64 * 64, 32, 2, sector=8) == (4, 1024, 8)
    groups, positions, _ = choose_block(32 * 32, 32, 2, sector=8)
    assert groups * 2 >= 8 and positions == 32 * 32
    assert choose_block(16, 32, 2, sector=8)[0] == 32
    assert choose_block(1, 1, 3, sector=8) == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "groups", "channels", "message"),
    [
        ((2,), 1, 2, r"x must be \(batch, channels, ...\) with a channel at least, got \(2,\)"),
        ((2, 0, 3), 1, 0, "with a channel at least"),
        ((2, 6, 3), 4, 6, "num_groups must divide the 6 channels of x, got 4"),
        ((2, 6, 3), 0, 6, "num_groups must divide the 6 channels of x, got 0"),
        ((2, 6, 3), 3, 5, r"weight must have shape \(6,\), got \(5,\)"),
    ],
)
def test_bad_shapes_are_refused_by_name(
    shape: tuple[int, ...], groups: int, channels: int, message: str
) -> None:
    for function in (group_norm_swish, group_norm_swish_reference):
        with pytest.raises(ValueError, match=message):
            function(torch.ones(shape), groups, torch.ones(channels), torch.ones(channels))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"bias must be floating point, got dtype torch\.int64"):
        group_norm_swish(torch.ones(1, 2), 1, torch.ones(2), torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("layout", ["last", "first"])
def test_is_a_well_formed_operator_and_compiles_whole(layout: str) -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in random_inputs((2, 6, 4), layout))
    operators = torch.ops.iris_fast_kernels
    torch.library.opcheck(operators.group_norm_swish.default, (x, weight, bias, 3, EPS, True))
    _, means, scales = operators.group_norm_swish(x, weight, bias, 3, EPS, True)
    saved = [tensor.detach() for tensor in (x, x, means, scales, weight, bias)]
    torch.library.opcheck(operators.group_norm_swish_backward.default, (*saved, 3, True))
    compiled = torch.compile(group_norm_swish, backend="aot_eager", fullgraph=True)
    y = compiled(x, 3, weight, bias)
    torch.testing.assert_close(y, group_norm_swish(x, 3, weight, bias))
    found = torch.autograd.grad(y.square().sum(), (x, weight))
    expected = torch.autograd.grad(group_norm_swish(x, 3, weight, bias).square().sum(), (x, weight))
    torch.testing.assert_close(found, expected)
