from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.kernels.layer_norm_linear import (
    TILES,
    choose_tile,
    launch_layer_norm_linear,
    layer_norm_linear,
    layer_norm_linear_reference,
    whole_columns,
)
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

Inputs = dict[str, Any]
HERE = "cpu" if INTERPRETED else "cuda"
ALL = ("bias", "norm_weight", "norm_bias", "residual")
ORDER = ("x", "weight", *ALL, "eps", "activation", "precision")


def random_inputs(rows: int, dim: int, out: int, parts: tuple[str, ...] = ALL, seed: int = 0) -> Inputs:
    """Float32 arguments of `layer_norm_linear`, with those of its optional tensors that `parts` names."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs: Inputs = {"x": 3 * random(rows, dim) + 1, "weight": random(out, dim) / max(dim, 1) ** 0.5}
    optional = {
        "bias": random(out),
        "norm_weight": 1 + 0.1 * random(dim),
        "norm_bias": random(dim),
        "residual": random(rows, out),
    }
    return inputs | {name: optional[name] for name in parts}


def cast(inputs: Inputs, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    return {name: t.to(device, dtype) if isinstance(t, Tensor) else t for name, t in inputs.items()}


def launch(inputs: Inputs, **options: Any) -> Tensor:
    """The launcher, which takes every argument in turn, with the defaults of the public function."""
    defaults: Inputs = {"eps": 1e-5, "activation": None, "precision": "ieee"}
    given = defaults | inputs
    given["activation"] = given["activation"] or "identity"
    return launch_layer_norm_linear(*(given.get(name) for name in ORDER), **options)  # type: ignore[arg-type]


def plain(inputs: Inputs) -> Tensor:
    """The formula by PyTorch's own functions, in the dtype of the inputs; not the reference of the operation."""
    x = inputs["x"]
    if "norm_weight" in inputs:
        shift = inputs.get("norm_bias")
        x = F.layer_norm(x, x.shape[-1:], inputs["norm_weight"], shift, inputs.get("eps", 1e-5))
    result = F.linear(x, inputs["weight"], inputs.get("bias"))
    activations: dict[Any, Any] = {"gelu": F.gelu, "relu": F.relu, None: lambda z: z}
    result = activations[inputs.get("activation")](result)
    return result + inputs["residual"] if "residual" in inputs else result


def check(inputs: Inputs, dtype: torch.dtype, device: str, **options: Any) -> None:
    """The kernel on `inputs` rounded to `dtype` against float64."""
    rounded = cast(inputs, dtype)
    with poisoned_outputs():
        found = launch(cast(rounded, dtype, device), **options)
    assert_as_exact_as(found, plain(rounded), plain(cast(rounded, torch.float64)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "parts", "activation"),
    [
        ((1, 256, 48), ALL, "gelu"),
        ((5, 64, 33), ALL[:3], "relu"),
        ((33, 100, 17), ("bias", "residual"), None),
        ((18, 300, 20), ("norm_weight",), "gelu"),
        ((3, 1, 2), ("norm_weight", "norm_bias"), None),
        ((2, 7, 1), (), None),
    ],
)
def test_the_kernel_is_as_exact_as_plain_pytorch(
    device: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    parts: tuple[str, ...],
    activation: str | None,
) -> None:
    check(random_inputs(*shape, parts) | {"activation": activation}, dtype, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tile", TILES)
def test_every_tile_covers_what_it_does_not_divide(device: str, tile: tuple[int, int, int]) -> None:
    inputs = random_inputs(tile[0] + 3, 40, tile[1] + 5) | {"activation": "gelu"}
    check(inputs, torch.float32, device, tile=tile, block_dim=16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parts", [ALL, ("norm_weight",), ()], ids=str)
@pytest.mark.parametrize("dim", [1, 100, 256])
def test_all_of_a_tile_at_once_is_as_exact_as_piece_by_piece(
    device: str, dim: int, parts: tuple[str, ...]
) -> None:
    """With a mean far from zero, in rows that the tile does not divide; and not where registers would not do."""
    tile, inputs = (16, 32, 4), random_inputs(19, dim, 37, parts) | {"activation": "gelu"}
    inputs["x"] = inputs["x"] + 30.0
    assert whole_columns(dim, torch.bfloat16, *tile) == max(16, 2 ** math.ceil(math.log2(dim)))
    for dtype in (torch.bfloat16, torch.float16):
        check(inputs, dtype, device, tile=tile)
        check(inputs, dtype, device, tile=tile, block_dim=32)
    assert whole_columns(1024, torch.bfloat16, *tile) is whole_columns(dim, torch.float32, *tile) is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "allowed"), [("tf32x3", 5e-6), ("tf32", 5e-3)])
def test_lower_precisions_err_by_what_they_say(device: str, precision: str, allowed: float) -> None:
    inputs = random_inputs(17, 130, 24) | {"precision": precision}
    found = launch(cast(inputs, torch.float32, device)).cpu()
    exact = plain(cast(inputs, torch.float64))
    assert (found - exact).abs().max() < allowed * exact.abs().max()


@pytest.mark.parametrize("device", DEVICES)
def test_statistics_survive_a_mean_far_from_zero(device: str) -> None:
    inputs = random_inputs(4, 300, 16)
    inputs["x"] = inputs["x"] + 4000.0
    check(inputs, torch.float32, device)


@pytest.mark.parametrize("device", DEVICES)
def test_products_in_the_dtype_of_the_weights_and_result_in_that_of_the_residual(device: str) -> None:
    inputs = random_inputs(6, 96, 40) | {"activation": "gelu"}
    inputs["weight"] = inputs["weight"].bfloat16()
    on_device = {name: t.to(device) if isinstance(t, Tensor) else t for name, t in inputs.items()}
    found = launch(on_device)
    reference = layer_norm_linear_reference(**inputs)
    assert found.dtype == reference.dtype == torch.float32
    assert_as_exact_as(found, reference, plain(cast(inputs, torch.float64)))
    del inputs["residual"], on_device["residual"]
    assert launch(on_device).dtype == layer_norm_linear(**inputs).dtype == torch.bfloat16


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_infinity_stay_in_their_row(device: str) -> None:
    inputs = random_inputs(5, 70, 20) | {"activation": "relu"}
    inputs["x"][1, 3], inputs["x"][2, 69], inputs["x"][3, 0] = float("nan"), float("inf"), 3e38
    found = launch(cast(inputs, torch.float32, device)).cpu()
    assert torch.isnan(found[1:3]).all() and torch.isfinite(found[[0, 3, 4]]).all()
    del inputs["norm_weight"], inputs["norm_bias"]
    inputs["x"][3, 0], inputs["activation"] = 0.0, None
    found = launch(cast(inputs, torch.float32, device)).cpu()
    assert torch.equal(torch.isfinite(found), torch.isfinite(plain(inputs)))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_shape_stride_and_choice(data: st.DataObject) -> None:
    rows, dim, out = (data.draw(st.integers(low, 20)) for low in (0, 1, 0))
    parts = tuple(data.draw(st.lists(st.sampled_from(ALL[:2] + ALL[3:]), unique=True)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    inputs = cast(random_inputs(rows, dim, out, parts, seed=data.draw(st.integers(0, 99))), dtype)
    inputs["activation"] = data.draw(st.sampled_from([None, "gelu", "relu"]))
    for name in ("x", "weight", "residual"):
        if name in inputs and data.draw(st.booleans()):
            inputs[name] = inputs[name].t().contiguous().t()
    found = launch(cast(inputs, dtype, HERE))
    if found.numel():
        assert_as_exact_as(found, plain(inputs), plain(cast(inputs, torch.float64)))
    assert found.shape == (rows, out)


def test_leading_dimensions_and_the_reference() -> None:
    inputs = random_inputs(12, 10, 6) | {"activation": "gelu"}
    expected = plain(inputs)
    inputs["x"] = inputs["x"].reshape(3, 4, 10)
    inputs["residual"] = inputs["residual"].reshape(3, 4, 6)
    for function in (layer_norm_linear, layer_norm_linear_reference):
        torch.testing.assert_close(function(**inputs), expected.reshape(3, 4, 6))
    assert layer_norm_linear(torch.ones(2, 0, 10), torch.ones(4, 10)).shape == (2, 0, 4)
    assert layer_norm_linear(torch.ones(2, 0), torch.ones(4, 0)).tolist() == [[0.0] * 4] * 2
    vector = layer_norm_linear(inputs["x"][0, 0], inputs["weight"])
    torch.testing.assert_close(vector, F.linear(inputs["x"][0, 0], inputs["weight"]))


def test_more_rows_get_larger_tiles() -> None:
    chosen = [choose_tile(rows, 768, 132) for rows in (1, 64, 256, 1024, 8192)]
    assert chosen == sorted(chosen, key=lambda tile: tile[0] * tile[1])
    assert chosen[0] == TILES[-1] and chosen[-1] == TILES[0]


@pytest.mark.parametrize("parts", [ALL, ("bias",), ("norm_weight",), ()])
@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_gradients_are_those_of_plain_pytorch(parts: tuple[str, ...], activation: str | None) -> None:
    inputs = cast(random_inputs(4, 9, 5, parts), torch.float64) | {"activation": activation}
    weight = torch.randn(4, 5, dtype=torch.float64)
    gradients = []
    for function in (lambda i: layer_norm_linear(**i), plain):
        leaves = {k: v.clone().requires_grad_() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        (function(leaves) * weight).sum().backward()
        gradients.append([leaves[name].grad for name in ("x", "weight", *parts)])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_gradients_of_mixed_dtypes_have_the_dtypes_of_their_tensors() -> None:
    inputs = random_inputs(4, 9, 5)
    inputs["weight"] = inputs["weight"].bfloat16()
    for tensor in inputs.values():
        tensor.requires_grad_()
    layer_norm_linear(**inputs).sum().backward()
    for tensor in inputs.values():
        assert tensor.grad.dtype == tensor.dtype and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.ones(4, 7)}, r"got \(2, 6\) and \(4, 7\)"),
        ({"bias": torch.ones(5)}, r"bias must have shape \(4,\), got \(5,\)"),
        ({"norm_weight": torch.ones(4)}, r"norm_weight must have shape \(6,\), got \(4,\)"),
        ({"residual": torch.ones(1, 4)}, r"residual must have shape \(2, 4\), got \(1, 4\)"),
        ({"norm_bias": torch.ones(6)}, "norm_bias needs norm_weight"),
        ({"activation": "swish"}, 'activation must be None, "gelu" or "relu", got \'swish\''),
        ({"precision": "half"}, "precision must be one of ieee, tf32x3, tf32, got 'half'"),
        ({"bias": torch.ones(4, device="meta")}, "bias must be on the device of x"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes: Inputs, message: str) -> None:
    arguments: Inputs = {"x": torch.ones(2, 6), "weight": torch.ones(4, 6)} | changes
    for function in (layer_norm_linear, layer_norm_linear_reference):
        with pytest.raises(ValueError, match=message):
            function(**arguments)


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be floating point, got dtype torch\.int64"):
        layer_norm_linear(torch.ones(2, 6, dtype=torch.int64), torch.ones(4, 6))


def test_is_a_well_formed_operator_and_compiles_whole() -> None:
    inputs = random_inputs(3, 6, 4) | {"activation": "gelu", "eps": 1e-5, "precision": "ieee"}
    for tensor in inputs.values():
        if isinstance(tensor, Tensor):
            tensor.requires_grad_()
    operator = torch.ops.iris_fast_kernels.layer_norm_linear.default
    torch.library.opcheck(operator, tuple(inputs[name] for name in ORDER))
    compiled = torch.compile(layer_norm_linear, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs), layer_norm_linear(**inputs))
