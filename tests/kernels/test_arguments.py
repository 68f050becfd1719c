"""Numbers of any library, and what is no number: of every argument of every public operation."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import iris_fast.kernels as kernels
from iris_fast.kernels import philox_4x32
from iris_fast.kernels.common.arguments import _kinds, as_float, as_int

PUBLIC = sorted(name for name in kernels.__all__ if name.islower() and name != "philox_4x32")


def valid_calls() -> dict[str, dict[str, Any]]:
    """Keyword arguments of a call of each operation that gives a number to every argument that takes one."""
    x, square = torch.linspace(-1, 1, 10).view(2, 5), torch.eye(5)
    address: dict[str, Any] = {"seed": 1, "position": 2, "purpose": 3}
    draw = {**address, "temperature": 1.5, "top_k": 3, "top_p": 0.5}
    query, caches = torch.ones(3, 1, 2, 1, 8), torch.zeros(2, 1, 2, 9, 8)
    attention = {"query": query[0], "key": query[1], "value": query[2], "lengths": 3, "scale": 0.5}
    stream = {"parts": torch.linspace(0, 1, 32).view(1, 2, 16), "norm_weight": torch.ones(16), "eps": 1e-5}
    layer = {
        **stream,
        "qkv_weight": torch.eye(48, 16),
        "qkv_bias": None,
        "proj_weight": torch.eye(16),
        "proj_bias": None,
        "lengths": 3,
        "scale": 0.5,
    }
    cached = {"key_cache": caches[0], "value_cache": caches[1]}
    mlp = {"in_weight": torch.eye(32, 16), "in_bias": None, "out_weight": torch.eye(16, 32), "out_bias": None}
    norm = {"weight": torch.ones(4), "bias": torch.ones(4), "num_groups": 2, "eps": 1e-6, "swish": True}
    calls: dict[str, dict[str, Any]] = {
        "cached_attention": {
            **attention,
            **cached,
            "causal": "block_causal",
            "tokens_per_block": 2,
            "num_splits": 1,
        },
        "group_norm_swish": {"x": torch.arange(24.0).view(2, 4, 3), **norm},
        "lambda_returns": {"rewards": x, "values": x, "ends": x > 0, "gamma": 0.5, "lambda_": 0.25},
        "layer_norm_attention": {**layer, **{name: torch.zeros(2, 2, 9, 8) for name in cached}},
        "layer_norm_linear": {"x": x, "weight": square, "norm_weight": torch.ones(5), "eps": 1e-5},
        "layer_norm_mlp": {**stream, **mlp, "slice_width": 16},
        "linear_sample": {"x": x, "weight": square, **draw, "return_info": True},
        "philox_uniform": {**address, "row": 4},
        "sample_categorical": {"logits": x, **draw, "return_info": True},
        "token_embedding": {
            "tokens": torch.zeros(2, 3, dtype=torch.long),
            "table": square,
            "position_table": square,
        },
        "vq_lookup": {"vectors": x, "codebook": square, "commitment": True, "statistics": True},
        "vq_statistics": {"vectors": x, "indices": torch.tensor([0, 1]), "num_codes": 3},
        "ema_update": {
            **{name: torch.ones(5, 5) for name in ("codebook", "embed_avg", "sums")},
            **{name: torch.ones(5) for name in ("cluster_size", "counts")},
            "decay": 0.5,
            "eps": 1e-5,
        },
    }
    for name in list(calls):
        reference = getattr(kernels, f"{name}_reference", None)
        if reference is not None:
            taken = inspect.signature(reference).parameters
            calls[f"{name}_reference"] = {key: value for key, value in calls[name].items() if key in taken}
    return calls


def arguments_of(kinds: set[Any]) -> Iterator[tuple[str, str]]:
    """Operation and argument, of those whose annotation allows one of `kinds` and that `valid_calls` gives."""
    for name in PUBLIC:
        hints = typing.get_type_hints(getattr(kernels, name))
        for argument in valid_calls()[name]:
            if set(_kinds(hints[argument])) & kinds:
                yield name, argument


def flat(result: Any) -> list[Tensor]:
    return [one for one in ([result] if isinstance(result, Tensor) else result or []) if one is not None]


def test_every_public_function_has_a_call() -> None:
    assert set(valid_calls()) == set(PUBLIC)


@pytest.mark.parametrize(("name", "argument"), list(arguments_of({int, float, bool})))
def test_numpy_numbers_give_what_python_s_give(name: str, argument: str) -> None:
    function, given = getattr(kernels, name), valid_calls()[name]
    value = given[argument]
    kinds: dict[type, list[Callable[[Any], Any]]] = {
        bool: [np.bool_],
        int: [np.int64, np.uint8, np.array],
        float: [np.float32, np.float64, np.array],
    }
    for kind in kinds[type(value)]:
        expected = flat(function(**(valid_calls()[name] | {argument: type(value)(kind(value))})))
        found = flat(function(**(valid_calls()[name] | {argument: kind(value)})))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "argument"), list(arguments_of({int, float, bool, str, Tensor})))
def test_what_is_no_such_value_is_refused_by_name(name: str, argument: str) -> None:
    function, given = getattr(kernels, name), valid_calls()[name]
    kinds = set(_kinds(typing.get_type_hints(function)[argument]))
    wrong: list[Any] = [[1], b"1", 1j, object(), np.ones(2)]
    wrong += [] if str in kinds else ["1"]
    wrong += [] if bool in kinds else [True, np.True_]
    wrong += [] if None in kinds else [None]
    wrong += [] if Tensor in kinds else [torch.ones(()), torch.ones(2)]
    wrong += [] if float in kinds else [1.0, np.float32(1)]
    for value in wrong:
        with pytest.raises(TypeError, match=rf"^{argument} must be "):
            function(**(given | {argument: value}))
    for value in (float("nan"), np.float32("nan")) if float in kinds else ():
        with pytest.raises(ValueError, match=argument):
            function(**(given | {argument: value}))


OUT_OF_RANGE = {"scale": float("inf"), "gamma": float("inf"), "lambda_": float("-inf"), "num_groups": -1}


@pytest.mark.parametrize(
    ("name", "argument"),
    [pair for pair in arguments_of({int, float}) if pair != ("vq_statistics_reference", "num_codes")],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, argument: str) -> None:
    value = OUT_OF_RANGE.get(argument, -1)
    with pytest.raises(ValueError, match=argument if argument != "lengths" else "lengths -1"):
        getattr(kernels, name)(**(valid_calls()[name] | {argument: value}))


def test_philox_takes_the_words_of_numpy_and_refuses_what_is_no_word() -> None:
    expected = philox_4x32((1, 2, 3, 4), (5, 6))
    for kind in (np.int64, np.uint32, np.uint64):
        counter = (kind(1), kind(2), kind(3), kind(4))
        assert philox_4x32(counter, (kind(5), kind(6))) == expected  # type: ignore[arg-type]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=r"counter\[0\] must be"):
            philox_4x32((wrong, 2, 3, 4), (5, 6))
    with pytest.raises(TypeError, match=r"key\[1\] must be"):
        philox_4x32((1, 2, 3, 4), (5, 6.0))  # type: ignore[arg-type]


def test_numbers_alone() -> None:
    assert as_int("n", np.int16(3)) == 3 and type(as_int("n", np.int16(3))) is int
    assert type(as_float("x", np.float64(0.5))) is float and as_float("x", 2) == 2.0
