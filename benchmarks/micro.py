"""Micro-benchmarks of the kernels for pytest-benchmark: `python -m pytest benchmarks/micro.py`.

One size each, that of an imagined step of the paper's agent at batch 64; sizes and peers are in the cases `kernel_…`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast import kernels

pytest.importorskip("pytest_benchmark")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, WIDTH, VOCABULARY = 64, 256, 512
Call = Callable[[], Any]


def random(*shape: int) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(0)
    return torch.randn(shape, device=DEVICE, generator=generator)


def sampling() -> Call:
    logits = random(BATCH, VOCABULARY)
    return lambda: kernels.sample_categorical(logits, seed=1, position=2, purpose=3)


def linear_sampling() -> Call:
    x, weight, bias = random(BATCH, WIDTH), random(VOCABULARY, WIDTH), random(VOCABULARY)
    return lambda: kernels.linear_sample(x, weight, bias, seed=1, position=2, purpose=3)


def returns() -> Call:
    rewards, values, ends = random(BATCH, 20), random(BATCH, 20), torch.zeros(BATCH, 20, device=DEVICE)
    return lambda: kernels.lambda_returns(rewards, values, ends, 0.995, 0.95)


def lookup() -> Call:
    vectors, codebook = random(BATCH * 16, 512), random(VOCABULARY, 512)
    return lambda: kernels.vq_lookup(vectors, codebook)


def statistics() -> Call:
    vectors = random(BATCH * 16, 512)
    tokens = torch.arange(BATCH * 16, device=DEVICE) % VOCABULARY
    return lambda: kernels.vq_statistics(vectors, tokens, VOCABULARY)


def attention() -> Call:
    query, key, value = (random(BATCH, 4, 1, 64) for _ in range(3))
    cache = random(BATCH, 4, 340, 64), random(BATCH, 4, 340, 64)
    lengths = torch.full((BATCH,), 170, dtype=torch.int32, device=DEVICE)
    return lambda: kernels.cached_attention(query, key, value, *cache, lengths)


def norm_and_linear() -> Call:
    x, weight, bias = random(BATCH, WIDTH), random(4 * WIDTH, WIDTH), random(4 * WIDTH)
    norm = torch.ones(WIDTH, device=DEVICE), torch.zeros(WIDTH, device=DEVICE)
    return lambda: kernels.layer_norm_linear(x, weight, bias, norm_weight=norm[0], norm_bias=norm[1])


def whole_mlp() -> Call:
    parts, norm = random(5, BATCH, WIDTH), torch.ones(WIDTH, device=DEVICE)
    weights = random(4 * WIDTH, WIDTH), random(4 * WIDTH), random(WIDTH, 4 * WIDTH), random(WIDTH)
    return lambda: kernels.layer_norm_mlp(parts, *weights, norm_weight=norm)


def whole_attention() -> Call:
    parts, norm = random(17, BATCH, WIDTH), torch.ones(WIDTH, device=DEVICE)
    weights = random(3 * WIDTH, WIDTH), random(3 * WIDTH), random(WIDTH, WIDTH), random(WIDTH)
    cache = random(BATCH, 4, 340, 64), random(BATCH, 4, 340, 64)
    lengths = torch.full((BATCH,), 170, dtype=torch.int32, device=DEVICE)
    return lambda: kernels.layer_norm_attention(parts, *weights, *cache, lengths, norm_weight=norm)


def norm_and_swish() -> Call:
    maps = random(8, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    weight, bias = random(64), random(64)
    return lambda: kernels.group_norm_swish(maps, 32, weight, bias)


def embedding() -> Call:
    tokens = torch.arange(BATCH, device=DEVICE).view(BATCH, 1) % VOCABULARY
    table, positions = random(VOCABULARY, WIDTH), random(340, WIDTH)
    return lambda: kernels.token_embedding(tokens, table, positions)


OPERATIONS: dict[str, Callable[[], Call]] = {
    "sample_categorical": sampling,
    "linear_sample": linear_sampling,
    "lambda_returns": returns,
    "vq_lookup": lookup,
    "vq_statistics": statistics,
    "cached_attention": attention,
    "layer_norm_linear": norm_and_linear,
    "layer_norm_attention": whole_attention,
    "layer_norm_mlp": whole_mlp,
    "group_norm_swish": norm_and_swish,
    "token_embedding": embedding,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernel(benchmark: Any, operation: str) -> None:
    call = OPERATIONS[operation]()

    def finished() -> None:
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info["device"] = DEVICE.type
    with torch.no_grad():
        benchmark(finished)
