"""Fused parts of layers: LayerNorm with a product or a whole MLP, GroupNorm with swish, embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Function, Work, dtype_name
from benchmarks.record import Label
from iris_fast.kernels import (
    group_norm_swish,
    group_norm_swish_reference,
    layer_norm_linear,
    layer_norm_linear_reference,
    layer_norm_mlp,
    layer_norm_mlp_reference,
    token_embedding,
    token_embedding_reference,
)
from iris_fast.kernels.group_norm_swish import launch_group_norm_swish
from iris_fast.kernels.layer_norm_linear import TILES, launch_layer_norm_linear
from iris_fast.kernels.layer_norm_mlp import SLICE_WIDTHS, default_slice_width

from .table import Operation, Problem, Row, Sizes, with_gradients

BF16, FLOAT32 = torch.bfloat16, torch.float32
ROLLOUTS = 64  # rows of a token pass
# Linear layers by name: (dim, out, LayerNorm, activation, residual).
LAYERS = {
    "query_key_value": (256, 768, True, None, False),
    "projection": (256, 256, False, None, True),
    "mlp_in": (256, 1024, True, "gelu", False),
    "mlp_out": (1024, 256, False, None, True),
}
TOLERANCES = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 4e-3}
DIM, WIDTH, PARTS = 256, 1024, 5  # the paper's; the parts that attention with 4 heads leaves
CHANNELS, GROUPS = 64, 32
LARGEST = 64  # side of the maps
# (groups, positions, warps) of a block of GroupNorm at 64 x 64 positions: by chunks, and whole in registers.
BLOCKS = ((4, 512, 8), (4, 2048, 8), (4, 4096, 32), (8, 512, 8), (32, 64, 8))
VOCAB, ACTIONS, POSITIONS = 512, 18, 1024


def linear_sizes(cuda: bool, quick: bool) -> Sizes:
    """All layers at the paper's batch, then the largest product by rows and in float32."""
    if quick or not cuda:  # compiled at the rows of a rollout alone: each takes a second
        return [
            {"layer": layer, "rows": rows, "compile_it": rows == ROLLOUTS}
            for layer in LAYERS
            for rows in ((4,) if quick else (1, ROLLOUTS))
        ]
    found: Sizes = [{"layer": layer, "rows": 64, "dtype": BF16} for layer in LAYERS]
    found += [{"layer": "mlp_in", "rows": rows, "dtype": BF16} for rows in (1, 16, 256, 1024, 8192)]
    found += [{"layer": layer, "rows": 64} for layer in ("mlp_in", "mlp_out")]
    return [size | {"compile_it": True} for size in found]


def linear_inputs(device: torch.device, layer: str, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    dim, out, normalise, activation, residual = LAYERS[layer]
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    found: dict[str, Any] = {"x": random(rows, dim), "weight": random(out, dim) / 16, "bias": random(out)}
    if normalise:
        found |= {"norm_weight": random(dim), "norm_bias": random(dim)}
    if residual:
        found["residual"] = random(rows, out)
    return found | {"activation": activation}


def linear(
    device: torch.device, layer: str, rows: int, dtype: torch.dtype = FLOAT32, compile_it: bool = False
) -> Problem:
    """One layer. Weights, 0.4 to 1 MB in float32, are in the L2 cache of a GPU as in a rollout."""
    inputs = linear_inputs(device, layer, rows, dtype)
    cuda = device.type == "cuda"
    precisions = ("ieee", "tf32x3", "tf32") if dtype == FLOAT32 and cuda else ("ieee",)
    ours: dict[str, Function] = {"ours": lambda: layer_norm_linear(**inputs)}
    for precision in precisions[1:]:
        ours[f"ours_{precision}"] = lambda p=precision: layer_norm_linear(**inputs, precision=p)  # type: ignore[misc]
    order = ("x", "weight", "bias", "norm_weight", "norm_bias", "residual")
    tensors: Any = [inputs.get(name) for name in order]
    activation = inputs["activation"] or "identity"
    for tile in TILES if cuda else ():
        ours[f"ours_{tile[0]}x{tile[1]}"] = lambda t=tile: launch_layer_norm_linear(  # type: ignore[misc]
            *tensors, activation=activation, tile=t
        )
    dim, out, normalise, _, residual = LAYERS[layer]
    numbers = rows * (dim + out * (2 if residual else 1)) + out * (dim + 1) + 2 * dim * normalise
    exact: dict[str, Any] = {
        name: value.double() if isinstance(value, Tensor) else value for name, value in inputs.items()
    }
    return Problem(
        {"layer": layer, "rows": rows, "dtype": dtype_name(dtype)},
        Work(2 * rows * dim * out, numbers * dtype.itemsize, dtype_name(dtype)),
        ours,
        layer_norm_linear_reference,
        lambda function: lambda: function(**inputs),
        compile_it,
        expected=lambda: layer_norm_linear_reference(**exact),
        tolerance=TOLERANCES[precisions[-1]] if dtype == FLOAT32 else 2e-2,
    )


LAYER_NORM_LINEAR = Operation(
    "layer_norm_linear",
    "LayerNorm + linear + GELU + residual by layer, rows and dtype: ours by tile, PyTorch, torch.compile.",
    0.15,
    linear_sizes,
    linear,
    {"layer": "mlp_in", "rows": 64},
    Row(
        "(…, dim), (out, dim) → (…, out)",
        "made for up to about 1000 rows",
        {"layer": "mlp_in", "rows": 64},
        {"layer": "mlp_in", "rows": 64, "dtype": "bfloat16"},
        "{rows} × 256 → 1024, GELU",
    ),
)


def mlp_sizes(cuda: bool, quick: bool) -> Sizes:
    if quick or not cuda:
        return [{"rows": rows, "compile_it": True} for rows in ((4,) if quick else (1, 64))]
    found: Sizes = [{"rows": rows, "dtype": BF16, "compile_it": True} for rows in (1, 16, 64, 256)]
    return [*found, {"rows": 64, "compile_it": True}]


def in_two_launches(x: Tensor, inputs: dict[str, Any]) -> Tensor:
    """The same by `layer_norm_linear`, from a stream in one piece."""
    norm = {"norm_weight": inputs["norm_weight"], "norm_bias": inputs["norm_bias"]}
    hidden = layer_norm_linear(x, inputs["in_weight"], inputs["in_bias"], activation="gelu", **norm)
    return layer_norm_linear(hidden, inputs["out_weight"], inputs["out_bias"], residual=x)


def mlp(device: torch.device, rows: int, dtype: torch.dtype = FLOAT32, compile_it: bool = False) -> Problem:
    """So many rows of a stream in parts. The weights, 1 to 2 MB, are in the L2 cache of a GPU as in a rollout."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    inputs: dict[str, Any] = {
        "parts": random(PARTS, rows, DIM),
        "in_weight": random(WIDTH, DIM).to(dtype) / 16,
        "in_bias": random(WIDTH).to(dtype),
        "out_weight": random(DIM, WIDTH).to(dtype) / 32,
        "out_bias": random(DIM).to(dtype),
        "norm_weight": random(DIM),
        "norm_bias": random(DIM),
    }
    one = inputs | {"parts": inputs["parts"].sum(0)[None]}
    ours: dict[str, Function] = {"ours": lambda: layer_norm_mlp(**inputs)}
    for width in SLICE_WIDTHS[1:] if device.type == "cuda" else ():
        ours[f"ours_slices_of_{width}"] = lambda w=width: layer_norm_mlp(**inputs, slice_width=w)  # type: ignore[misc]
    ours["ours_in_two_launches"] = lambda: in_two_launches(one["parts"][0], inputs)
    written = 1 + WIDTH // default_slice_width(rows, WIDTH)
    return Problem(
        {"rows": rows, "dtype": dtype_name(dtype)},
        Work(
            4 * rows * WIDTH * DIM,
            2 * WIDTH * DIM * dtype.itemsize + 4 * (PARTS + written) * rows * DIM,
            dtype_name(dtype),
        ),
        ours,
        layer_norm_mlp_reference,
        lambda function: lambda: function(**one, slice_width=128),
        compile_it,
        expected=lambda: layer_norm_mlp_reference(**{name: t.double() for name, t in inputs.items()}).sum(0),
        tolerance=1e-5 if dtype == FLOAT32 else 2e-2,
        compared=lambda found: found.sum(0) if found.dim() == 3 else found,
    )


LAYER_NORM_MLP = Operation(
    "layer_norm_mlp",
    "LayerNorm + MLP + residual in one launch, by rows and dtype: ours by slice, our two launches, PyTorch.",
    0.1,
    mlp_sizes,
    mlp,
    {"rows": 64},
    Row(
        "(parts, rows, dim), (width, dim), (dim, width) → (1 + slices, rows, dim)",
        "dim to 1024, 65 parts; made for up to some 100 rows; no gradient",
        {"rows": 64},
        {"rows": 64, "dtype": "bfloat16"},
        "{rows} × 256, width 1024",
    ),
)


def norm_sizes(cuda: bool, quick: bool) -> Sizes:
    """Every resolution at batch 64, the largest at 256 too, then with gradients."""
    if quick:
        return [{"batch": 2, "side": 16, "gradients": gradients} for gradients in (False, True)]
    if not cuda:  # compiled at the largest maps alone: each takes seconds
        return [
            {"batch": 8, "side": side, "gradients": gradients, "compile_it": side == LARGEST}
            for side in (16, LARGEST)
            for gradients in (False, True)
        ]
    found: Sizes = [
        {"batch": 64, "side": side, "dtype": dtype} for side in (64, 32, 16, 4) for dtype in (FLOAT32, BF16)
    ]
    found += [
        {"batch": 256, "side": side, "dtype": BF16, "gradients": gradients}
        for side in (64, 16)
        for gradients in (False, True)
    ]
    return [size | {"compile_it": True} for size in found]


def norm(
    device: torch.device,
    batch: int,
    side: int,
    dtype: torch.dtype = FLOAT32,
    gradients: bool = False,
    compile_it: bool = False,
) -> Problem:
    """GroupNorm and swish of `batch` maps of 64 channels in channels-last memory, as IRIS's autoencoder has them."""
    generator = torch.Generator(device).manual_seed(0)
    maps = torch.randn(batch, CHANNELS, side, side, generator=generator, device=device).to(dtype)
    x = maps.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, CHANNELS, generator=generator, device=device)
    numbers = batch * CHANNELS * side**2
    what: dict[str, Label] = {
        "batch": batch,
        "side": side,
        "dtype": dtype_name(dtype),
        "gradients": gradients,
    }
    work = Work(numbers * (37 if gradients else 12), numbers * dtype.itemsize * (5 if gradients else 2))
    tolerance = 1e-4 if dtype == FLOAT32 else 4e-2
    grad = torch.randn_like(x)

    def bind(function: Any, x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> Function:
        if not gradients:
            return lambda: function(x, GROUPS, weight, bias)
        call = lambda x, weight, bias: function(x, GROUPS, weight, bias)  # noqa: E731
        return with_gradients(call, [x, weight, bias], grad.to(x.dtype))

    ours = {"ours": bind(group_norm_swish)}
    for block in BLOCKS if device.type == "cuda" and side == LARGEST and not gradients else ():
        ours["ours_{}_groups_{}_positions_{}_warps".format(*block)] = lambda b=block: launch_group_norm_swish(  # type: ignore[misc]
            x.flatten(2), weight, bias, GROUPS, block=b
        )[0].reshape(x.shape)
    return Problem(
        what,
        work,
        ours,
        group_norm_swish_reference,
        bind,
        compile_it,
        expected=lambda: bind(group_norm_swish_reference, x.double(), weight.double(), bias.double())(),
        tolerance=tolerance,
    )


GROUP_NORM_SWISH = Operation(
    "group_norm_swish",
    "GroupNorm + swish by resolution and dtype, also with gradients: ours by block, PyTorch, torch.compile.",
    0.15,
    norm_sizes,
    norm,
    {"batch": 8, "side": 64},
    Row(
        "(batch, channels, …) → the same",
        "differentiable once",
        {"side": 64, "gradients": False},
        {"batch": 64, "side": 64, "dtype": "bfloat16", "gradients": False},
        "{batch} × 64 × {side}²",
    ),
)


def embedding_sizes(cuda: bool, quick: bool) -> Sizes:
    """One token of each sequence, then the paper's training batch, then a larger model."""
    if quick:
        return [{"batch": 2, "time": 17, "dim": 32, "gradients": gradients} for gradients in (False, True)]
    found: Sizes = [{"batch": 64, "time": 340, "gradients": gradients} for gradients in (False, True)]
    if cuda:
        found = [{"batch": batch, "dtype": BF16} for batch in (64, 1024)] + found
        found.append({"batch": 16, "time": 1024, "dim": 1024, "dtype": BF16})
    else:
        found = [{"batch": 64}, *found]
    return [size | {"compile_it": True} for size in found]


def ours_with_actions(tokens: Tensor, table: Tensor, positions: Tensor, actions: Tensor) -> Tensor:
    return token_embedding(tokens, table, positions, more_table=actions)


def plain_with_actions(tokens: Tensor, table: Tensor, positions: Tensor, actions: Tensor) -> Tensor:
    """What is written without a kernel: one gather from each table, chosen between, and the positions added."""
    return token_embedding_reference(tokens, table, positions, more_table=actions)


def embedding(
    device: torch.device,
    batch: int,
    time: int = 1,
    dim: int = 256,
    dtype: torch.dtype = FLOAT32,
    gradients: bool = False,
    compile_it: bool = False,
) -> Problem:
    """`batch` sequences of `time` tokens of width `dim`, with tables of tokens, positions and actions."""
    generator = torch.Generator(device).manual_seed(0)
    tokens = torch.randint(VOCAB + ACTIONS, (batch, time), generator=generator, device=device)
    tables = [
        torch.randn(n, dim, generator=generator, device=device).to(dtype) for n in (VOCAB, POSITIONS, ACTIONS)
    ]
    grad = torch.randn((batch, time, dim), device=device).to(dtype)

    def bind(function: Any, tables: list[Tensor] = tables) -> Function:
        if not gradients:
            return lambda: function(tokens, *tables)
        return with_gradients(lambda *leaves: function(tokens, *leaves), tables, grad.to(tables[0].dtype))

    count = batch * time
    rows = min(count, VOCAB + ACTIONS) + min(time, POSITIONS)
    written = (count + (rows + count if gradients else 0)) * dim
    return Problem(
        {"batch": batch, "time": time, "dim": dim, "dtype": dtype_name(dtype), "gradients": gradients},
        Work(count * dim * (3 if gradients else 1), 8 * count + dtype.itemsize * (rows * dim + written)),
        {"ours": bind(ours_with_actions)},
        plain_with_actions,
        bind,
        compile_it,
        expected=lambda: bind(plain_with_actions, [table.double() for table in tables])(),
        tolerance=1e-4 if dtype == FLOAT32 else 2e-2,
    )


TOKEN_EMBEDDING = Operation(
    "token_embedding",
    "Token + position embedding by batch and length, also with gradients: ours, PyTorch, torch.compile.",
    0.15,
    embedding_sizes,
    embedding,
    {"batch": 64},
    Row(
        "(…, time), (vocab, dim), (positions, dim) → (…, time, dim)",
        "int64 or int32 tokens",
        {"batch": 64, "time": 340, "gradients": False},
        {"batch": 64, "time": 340, "gradients": False},
        "{batch} × {time} × {dim}",
    ),
)
