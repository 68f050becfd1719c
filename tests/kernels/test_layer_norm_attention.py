from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.kernels.layer_norm_attention import (
    configuration,
    launch_layer_norm_attention,
    layer_norm_attention,
    layer_norm_attention_reference,
)
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

Inputs = dict[str, Any]
HERE = "cpu" if INTERPRETED else "cuda"
STREAM = ("parts", "norm_weight", "norm_bias", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias")
ORDER = (*STREAM, "key_cache", "value_cache", "lengths")
OPTIONAL = ("norm_bias", "qkv_bias", "proj_bias")


def random_inputs(
    parts: int, lengths: list[int], dim: int, heads: int, head_dim: int, room: int, seed: int = 0
) -> Inputs:
    """Float32 arguments of `layer_norm_attention`; what the caches do not hold is NaN, which nothing may read."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch, width = len(lengths), heads * head_dim
    held = torch.tensor(lengths, dtype=torch.int32)
    there = (torch.arange(room) < held[:, None])[:, None, :, None]
    return {
        "parts": 3 * random(parts, batch, dim) + 1,
        "norm_weight": 1 + 0.1 * random(dim),
        "norm_bias": random(dim),
        "qkv_weight": random(3 * width, dim) / dim**0.5,
        "qkv_bias": random(3 * width),
        "proj_weight": random(dim, width) / width**0.5,
        "proj_bias": random(dim),
        "key_cache": torch.where(there, random(batch, heads, room, head_dim), float("nan")),
        "value_cache": torch.where(there, random(batch, heads, room, head_dim), float("nan")),
        "lengths": held,
    }


def cast(inputs: Inputs, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    """Floats in `dtype`, all on the device; copies, so that caches can be written."""
    return {
        name: t.clone().to(device, dtype if t.is_floating_point() else None) if isinstance(t, Tensor) else t
        for name, t in inputs.items()
    }


def launch(inputs: Inputs, **options: Any) -> Tensor:
    tensors: Any = [inputs.get(name) for name in ORDER]
    given: Inputs = {"scale": inputs["key_cache"].shape[3] ** -0.5} | options
    return launch_layer_norm_attention(*tensors, **given)


def plain(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The result and the new key and value (batch, heads, head_dim), sequence by sequence, by PyTorch's functions."""
    heads, head_dim = inputs["key_cache"].shape[1], inputs["key_cache"].shape[3]
    x = inputs["parts"].sum(0)
    normed = F.layer_norm(x, x.shape[-1:], inputs["norm_weight"], inputs.get("norm_bias"))
    packed = F.linear(normed, inputs["qkv_weight"], inputs.get("qkv_bias")).unflatten(1, (3, heads, head_dim))
    query, key, value = packed.unbind(1)
    attended = []
    for row, length in enumerate(inputs["lengths"].tolist()):
        keys = torch.cat((inputs["key_cache"][row, :, :length], key[row][:, None]), dim=1)
        values = torch.cat((inputs["value_cache"][row, :, :length], value[row][:, None]), dim=1)
        scores = (keys @ query[row][:, :, None])[:, :, 0] * head_dim**-0.5
        attended.append((scores.softmax(-1)[:, None] @ values)[:, 0].flatten())
    result = x + F.linear(torch.stack(attended), inputs["proj_weight"], inputs.get("proj_bias"))
    return result, key, value


def appended(inputs: Inputs, name: str) -> Tensor:
    """What a cache holds where each sequence's new token goes."""
    row = torch.arange(len(inputs["lengths"]), device=inputs["lengths"].device)
    return inputs[name][row, :, inputs["lengths"].long()]


def check(inputs: Inputs, dtype: torch.dtype, device: str, **options: Any) -> Tensor:
    """The kernel's sum and what it appends, of `inputs` rounded to `dtype`, against float64."""
    stream = inputs["parts"]
    rounded = cast(inputs, dtype)
    on_device = cast(rounded, dtype, device) | {"parts": stream.to(device)}
    with poisoned_outputs():
        found = launch(on_device, **options)
    exact = plain(cast(rounded | {"parts": stream}, torch.float64))
    ours = (found.sum(0).to(dtype), appended(on_device, "key_cache"), appended(on_device, "value_cache"))
    for one, other, target in zip(ours, plain(rounded), exact, strict=True):
        assert_as_exact_as(one, other, target)
    for name in ("key_cache", "value_cache"):  # nothing else was written
        slot = torch.arange(inputs[name].shape[2])
        kept = (slot != inputs["lengths"][:, None])[:, None, :, None].expand_as(inputs[name])
        before, after = rounded[name][kept], on_device[name].cpu()[kept]
        assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0))
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, [0], 32, 2, 16, 8), {}),
        ((3, [5, 0, 11], 40, 2, 12, 12), {"ROWS": 2, "LANES": 4}),
        ((5, [20, 3, 19, 20, 7], 64, 1, 32, 21), {"ROWS": 4, "LANES": 8, "BLOCK_K": 16, "BLOCK_OUT": 32}),
        ((2, [9, 2], 6, 3, 1, 10), {"ROWS": 8, "LANES": 1}),
    ],
)
def test_the_kernel_is_as_exact_as_plain_pytorch(
    device: str, dtype: torch.dtype, shape: tuple[int, list[int], int, int, int, int], sizes: dict[str, int]
) -> None:
    found = check(random_inputs(*shape), dtype, device, **sizes)
    assert found.dtype == torch.float32 and found.shape == (1 + shape[3], len(shape[1]), shape[2])


@pytest.mark.parametrize("device", DEVICES)
def test_parts_and_caches_are_those_of_the_reference_one_by_one(device: str) -> None:
    inputs = random_inputs(4, [6, 1, 8], 48, 3, 16, 9)
    ours, theirs = cast(inputs, torch.float32, device), cast(inputs, torch.float32)
    found, expected = launch(ours), layer_norm_attention_reference(**theirs)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=2e-5)
    for name in ("key_cache", "value_cache"):
        torch.testing.assert_close(ours[name].cpu(), theirs[name], rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "allowed"), [("tf32x3", 5e-6), ("tf32", 5e-3)])
def test_lower_precisions_err_by_what_they_say(device: str, precision: str, allowed: float) -> None:
    inputs = random_inputs(2, [5, 9], 64, 2, 16, 12)
    found = launch(cast(inputs, torch.float32, device), precision=precision).sum(0).cpu()
    exact = plain(cast(inputs, torch.float64))[0]
    assert (found - exact).abs().max() < allowed * exact.abs().max()


def run_both(inputs: Inputs) -> list[tuple[Tensor, Inputs]]:
    """The sum and the arguments after it, by the kernel and by the reference."""
    kernel, reference = cast(inputs, torch.float32, HERE), cast(inputs, torch.float32)
    return [
        (launch(kernel).sum(0).cpu(), {name: t.cpu() for name, t in kernel.items()}),
        (layer_norm_attention_reference(**reference).sum(0), reference),
    ]


def test_a_sequence_without_room_gets_nan_and_keeps_its_cache() -> None:
    inputs = random_inputs(2, [3, 4, 2, 4], 16, 2, 8, 4)
    inputs["lengths"][2] = -1
    for found, after in run_both(inputs):
        assert torch.isnan(found[1:]).all() and torch.isfinite(found[0]).all()
        for name in ("key_cache", "value_cache"):
            assert torch.equal(after[name][1:].nan_to_num(7.0), inputs[name][1:].nan_to_num(7.0))
            assert not torch.isnan(after[name][0, :, 3]).any()


def test_nan_and_infinity_stay_in_their_sequence() -> None:
    inputs = random_inputs(2, [3, 5, 2, 1], 16, 2, 8, 8)
    inputs["parts"][0, 1, 3], inputs["key_cache"][3, 0, 0, 0] = float("inf"), float("nan")
    for found, _ in run_both(inputs):
        assert torch.isnan(found[[1, 3]]).all() and torch.isfinite(found[[0, 2]]).all()


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shape_stride_length_and_choice(data: st.DataObject) -> None:
    parts, batch, dim, heads, head_dim, room = (
        data.draw(st.integers(low, high)) for low, high in ((1, 3), (1, 6), (1, 20), (1, 3), (1, 18), (1, 20))
    )
    lengths = data.draw(st.lists(st.integers(0, room - 1), min_size=batch, max_size=batch))
    inputs = random_inputs(parts, lengths, dim, heads, head_dim, room, seed=data.draw(st.integers(0, 99)))
    for name in data.draw(st.lists(st.sampled_from(OPTIONAL), unique=True)):
        del inputs[name]
    for name in data.draw(st.lists(st.sampled_from(["qkv_weight", "proj_weight"]), unique=True)):
        inputs[name] = inputs[name].t().contiguous().t()
    if data.draw(st.booleans()):
        inputs["lengths"] = inputs["lengths"].long()
    if data.draw(st.booleans()):  # caches with tokens before heads
        for name in ("key_cache", "value_cache"):
            inputs[name] = inputs[name].transpose(1, 2).contiguous().transpose(1, 2)
    rows = data.draw(st.sampled_from([1, 2, 4, 8]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    check(inputs, dtype, HERE, ROWS=rows, LANES=data.draw(st.sampled_from([1, 2, 8])))


def test_a_dream_of_several_tokens_and_layers_is_that_of_one_without_a_cache() -> None:
    """Token by token through one layer, against causal attention over all of them at once."""
    inputs = cast(random_inputs(1, [0, 0], 16, 2, 8, 6), torch.float64)
    tokens = torch.randn(5, 2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = [
        layer_norm_attention(**inputs | {"parts": token[None], "lengths": place}).sum(0)
        for place, token in enumerate(tokens)
    ]
    x = tokens.transpose(0, 1)
    normed = F.layer_norm(x, (16,), inputs["norm_weight"], inputs["norm_bias"])
    packed = F.linear(normed, inputs["qkv_weight"], inputs["qkv_bias"]).unflatten(2, (3, 2, 8))
    query, key, value = packed.permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
    expected = x + F.linear(attended, inputs["proj_weight"], inputs["proj_bias"])
    torch.testing.assert_close(torch.stack(outputs, 1), expected, rtol=1e-10, atol=1e-10)


def test_no_sequences_and_no_room() -> None:
    inputs = random_inputs(2, [], 16, 2, 8, 6)
    assert launch(cast(inputs, torch.float32, HERE)).shape == (3, 0, 16)
    assert layer_norm_attention(**inputs).shape == (3, 0, 16)
    inputs = random_inputs(2, [0, 0], 16, 2, 8, 0)
    for found, _ in run_both(inputs):
        assert torch.isnan(found).all()


def test_few_sequences_get_a_block_each() -> None:
    rows = [
        configuration(b, 4, 64, 256, torch.bfloat16, 132, True)["ROWS"] for b in (1, 16, 32, 64, 256, 1024)
    ]
    assert rows == [1, 1, 2, 4, 8, 8]
    for head_dim in (1, 64, 100, 256):  # a stage of loading of W_qkv is 48 KB at the most
        for dtype in (torch.bfloat16, torch.float32):
            sizes = configuration(64, 4, head_dim, 256, dtype, 132, True)
            block_dim = max(16, 1 << (head_dim - 1).bit_length())
            assert 3 * sizes["BLOCK_K"] * block_dim * dtype.itemsize <= 48 * 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": torch.ones(2, 6)}, r"parts must be \(parts, rows, dim\)"),
        ({"parts": torch.ones(1, 3, 6)}, r"with the batch of parts, 3, got \(2, 2, 5, 4\)"),
        ({"value_cache": torch.ones(2, 2, 4, 4)}, r"got \(2, 2, 5, 4\) and \(2, 2, 4, 4\)"),
        ({"qkv_weight": torch.ones(8, 6)}, r"qkv_weight must have shape \(24, 6\), got \(8, 6\)"),
        ({"proj_weight": torch.ones(8, 6)}, r"proj_weight must have shape \(6, 8\), got \(8, 6\)"),
        ({"proj_bias": torch.ones(8)}, r"proj_bias must have shape \(6,\), got \(8,\)"),
        ({"norm_bias": torch.ones(8)}, r"norm_bias must have shape \(6,\), got \(8,\)"),
        ({"key_cache": torch.ones(2, 2, 5, 1).expand(2, 2, 5, 4)}, "key_cache must not be expanded"),
        ({"lengths": 5}, "room for 5 tokens, lengths 5 and 1 new"),
        ({"lengths": torch.zeros(3, dtype=torch.int32)}, r"lengths must be \(batch,\), here \(2,\)"),
        ({"precision": "half"}, "precision must be one of ieee, tf32x3, tf32, got 'half'"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_norm_attention(**random_inputs(1, [1, 2], 6, 2, 4, 5) | changes)


def test_wrong_dtypes_and_gradients_are_refused() -> None:
    inputs = random_inputs(1, [1, 2], 6, 2, 4, 5)
    with pytest.raises(TypeError, match="lengths must be an int or an int32 or int64 tensor"):
        layer_norm_attention(**inputs | {"lengths": torch.ones(2)})
    with pytest.raises(TypeError, match=r"key_cache must have the dtype of qkv_weight, torch\.float32"):
        layer_norm_attention(**inputs | {"key_cache": inputs["key_cache"].half()})
    with pytest.raises(RuntimeError, match="layer_norm_attention has no gradient"):
        layer_norm_attention(**inputs | {"parts": inputs["parts"].requires_grad_()})
