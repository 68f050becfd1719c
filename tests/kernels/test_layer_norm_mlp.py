from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.kernels.layer_norm_mlp import (
    SLICE_WIDTHS,
    configuration,
    default_slice_width,
    launch_layer_norm_mlp,
    layer_norm_mlp,
    layer_norm_mlp_reference,
)
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

Inputs = dict[str, Any]
HERE = "cpu" if INTERPRETED else "cuda"
ORDER = ("parts", "norm_weight", "norm_bias", "in_weight", "in_bias", "out_weight", "out_bias")
OPTIONAL = ("norm_bias", "in_bias", "out_bias")


def random_inputs(parts: int, rows: int, dim: int, width: int, seed: int = 0) -> Inputs:
    """Float32 tensors of `layer_norm_mlp`; the stream's parts do not cancel."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "parts": 3 * random(parts, rows, dim) + 1,
        "norm_weight": 1 + 0.1 * random(dim),
        "norm_bias": random(dim),
        "in_weight": random(width, dim) / dim**0.5,
        "in_bias": random(width),
        "out_weight": random(dim, width) / width**0.5,
        "out_bias": random(dim),
    }


def cast(inputs: Inputs, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    return {name: t.to(device, dtype) if isinstance(t, Tensor) else t for name, t in inputs.items()}


def launch(inputs: Inputs, **options: Any) -> Tensor:
    return launch_layer_norm_mlp(*(inputs.get(name) for name in ORDER), **options)  # type: ignore[arg-type]


def plain(inputs: Inputs, activation: str | None = "gelu") -> Tensor:
    """The formula by PyTorch's own functions, in the dtype of the inputs; not the reference of the operation."""
    given = {name: inputs.get(name) for name in ORDER}
    x = inputs["parts"].sum(0)
    hidden = F.layer_norm(x, x.shape[-1:], given["norm_weight"], given["norm_bias"], inputs.get("eps", 1e-5))
    hidden = F.linear(hidden, inputs["in_weight"], given["in_bias"])
    activations: dict[Any, Any] = {"gelu": F.gelu, "relu": F.relu, None: lambda z: z}
    return x + F.linear(activations[activation](hidden), inputs["out_weight"], given["out_bias"])


def check(inputs: Inputs, dtype: torch.dtype, device: str, **options: Any) -> Tensor:
    """The sum of the kernel's parts, of `inputs` rounded to `dtype`, against float64; the stream is float32."""
    rounded = cast(inputs, dtype)
    stream = {"parts": inputs["parts"]}
    with poisoned_outputs():
        found = launch(cast(rounded, dtype, device) | cast(stream, torch.float32, device), **options)
    activation = options.get("activation", "gelu")
    exact = plain(cast(rounded | stream, torch.float64), activation)
    # In plain PyTorch the stream is in the dtype too, so that it errs by the stream's rounding besides.
    assert_as_exact_as(found.sum(0).to(dtype), plain(rounded, activation), exact)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "slice_width", "activation"),
    [
        ((1, 1, 32, 64), 64, "gelu"),
        ((3, 5, 40, 100), 32, "relu"),
        ((5, 18, 70, 33), 16, "gelu"),
        ((2, 3, 1, 1), 16, "identity"),
    ],
)
def test_the_kernel_is_as_exact_as_plain_pytorch(
    device: str, dtype: torch.dtype, shape: tuple[int, int, int, int], slice_width: int, activation: str
) -> None:
    inputs = random_inputs(*shape)
    options = {"slice_width": slice_width, "activation": activation}
    found = check(
        inputs, dtype, device, **options | ({"activation": None} if activation == "identity" else {})
    )
    assert found.dtype == torch.float32
    assert found.shape == (1 + -(-shape[3] // slice_width), *shape[1:3])


@pytest.mark.parametrize("device", DEVICES)
def test_parts_are_those_of_the_reference_one_by_one(device: str) -> None:
    inputs = random_inputs(4, 7, 48, 80)
    found = launch(cast(inputs, torch.float32, device), slice_width=32, ROWS=2, BLOCK_K=16, BLOCK_OUT=32)
    expected = layer_norm_mlp_reference(**inputs, slice_width=32)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "allowed"), [("tf32x3", 5e-6), ("tf32", 5e-3)])
def test_lower_precisions_err_by_what_they_say(device: str, precision: str, allowed: float) -> None:
    inputs = random_inputs(2, 6, 64, 64)
    found = launch(cast(inputs, torch.float32, device), precision=precision).sum(0).cpu()
    exact = plain(cast(inputs, torch.float64))
    assert (found - exact).abs().max() < allowed * exact.abs().max()


@pytest.mark.parametrize("device", DEVICES)
def test_statistics_survive_a_mean_far_from_zero(device: str) -> None:
    inputs = random_inputs(2, 4, 48, 32)
    inputs["parts"][0] += 4000.0
    check(inputs, torch.float32, device)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_infinity_stay_in_their_row(device: str) -> None:
    inputs = random_inputs(2, 5, 32, 32)
    inputs["parts"][0, 1, 3], inputs["parts"][1, 3, 31] = float("nan"), float("inf")
    found = launch(cast(inputs, torch.float32, device)).sum(0).cpu()
    bad = torch.zeros(5, dtype=torch.bool).index_fill(0, torch.tensor([1, 3]), True)
    assert torch.isnan(found[bad]).all() and torch.isfinite(found[~bad]).all()


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shape_stride_and_choice(data: st.DataObject) -> None:
    parts, rows, dim, width = (
        data.draw(st.integers(low, high)) for low, high in ((1, 4), (0, 9), (1, 20), (1, 40))
    )
    inputs = random_inputs(parts, rows, dim, width, seed=data.draw(st.integers(0, 99)))
    for name in data.draw(st.lists(st.sampled_from(OPTIONAL), unique=True)):
        inputs[name] = None
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    activation = data.draw(st.sampled_from([None, "gelu", "relu"]))
    for name in data.draw(st.lists(st.sampled_from(["in_weight", "out_weight"]), unique=True)):
        inputs[name] = inputs[name].t().contiguous().t()
    if data.draw(st.booleans()):
        inputs["parts"] = inputs["parts"].transpose(0, 2).contiguous().transpose(0, 2)
    slice_width = data.draw(st.sampled_from(SLICE_WIDTHS))
    if rows:
        check(inputs, dtype, HERE, activation=activation, slice_width=slice_width)
    else:
        assert launch(cast(inputs, dtype, HERE), slice_width=slice_width).shape[1:] == (0, dim)


def test_the_sum_is_the_plain_result_and_layers_follow_one_another() -> None:
    one, other = random_inputs(1, 6, 24, 96), random_inputs(1, 6, 24, 40, seed=1)
    with torch.no_grad():
        first = layer_norm_mlp(**one, activation="relu", slice_width=16)
        assert len(first) == 7
        torch.testing.assert_close(first.sum(0), plain(one, "relu"))
        second = layer_norm_mlp(**other | {"parts": first})
    torch.testing.assert_close(second.sum(0), plain(other | {"parts": plain(one, "relu")[None]}))


def test_float64_stays_float64() -> None:
    inputs = cast(random_inputs(2, 3, 8, 20), torch.float64)
    found = layer_norm_mlp(**inputs)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.sum(0), plain(inputs), rtol=1e-12, atol=1e-12)


def test_sizes_follow_the_shapes() -> None:
    assert [configuration(rows, 256, torch.float32, True)["ROWS"] for rows in (0, 1, 3, 64)] == [1, 1, 4, 16]
    assert configuration(64, 20, torch.bfloat16, True)["BLOCK_K"] == 32
    assert configuration(64, 256, torch.bfloat16, False)["STAGES"] == 2
    assert [default_slice_width(*shape) for shape in ((64, 1024), (64, 4097), (256, 1024))] == [64, 128, 128]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": torch.ones(2, 6)}, r"parts must be \(parts, rows, dim\).*got shape \(2, 6\)"),
        ({"parts": torch.ones(66, 2, 6)}, "1 to 65 parts"),
        ({"parts": torch.ones(1, 2, 1025)}, "dim from 1 to 1024"),
        ({"in_weight": torch.ones(4, 7)}, r"in_weight must have shape \(4, 6\), got \(4, 7\)"),
        ({"in_weight": torch.ones(0, 6)}, r"in_weight must be \(width, dim\) with a unit"),
        ({"in_bias": torch.ones(5)}, r"in_bias must have shape \(4,\), got \(5,\)"),
        ({"out_weight": torch.ones(4, 6)}, r"out_weight must have shape \(6, 4\), got \(4, 6\)"),
        ({"out_bias": torch.ones(4)}, r"out_bias must have shape \(6,\), got \(4,\)"),
        ({"norm_weight": torch.ones(4)}, r"norm_weight must have shape \(6,\), got \(4,\)"),
        (
            {"norm_bias": torch.ones(6, device="meta")},
            "norm_bias must be on the device of parts, cpu, got meta",
        ),
        ({"activation": "swish"}, 'activation must be None, "gelu" or "relu", got \'swish\''),
        ({"precision": "half"}, "precision must be one of ieee, tf32x3, tf32, got 'half'"),
        ({"slice_width": 48}, r"slice_width must be one of \(16, 32, 64, 128\), got 48"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_norm_mlp(**random_inputs(1, 2, 6, 4) | changes)


def test_integers_two_dtypes_and_gradients_are_refused() -> None:
    inputs = random_inputs(1, 2, 6, 4)
    with pytest.raises(TypeError, match=r"parts must be floating point, got dtype torch\.int64"):
        layer_norm_mlp(**inputs | {"parts": torch.ones(1, 2, 6, dtype=torch.int64)})
    with pytest.raises(TypeError, match=r"out_weight must have the dtype of in_weight, torch\.float32"):
        layer_norm_mlp(**inputs | {"out_weight": inputs["out_weight"].bfloat16()})
    with pytest.raises(RuntimeError, match=r"layer_norm_mlp has no gradient: call it under torch\.no_grad"):
        layer_norm_mlp(**inputs | {"out_weight": inputs["out_weight"].requires_grad_()})


def test_an_old_triton_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from iris_fast.kernels._stream import arguments

    monkeypatch.setattr(arguments.triton, "__version__", "3.2.0")
    with pytest.raises(RuntimeError, match=r"needs Triton 3\.3 or later, found 3\.2\.0"):
        launch(cast(random_inputs(1, 2, 6, 4), torch.float32, HERE))
