"""Launches kernels as far as a machine without a GPU can: everything but the run.

`python -m tests.kernels.dry_launches ARCHITECTURE [OPERATION …]` calls the launchers in a process without the
interpreter, for a GPU of that architecture that is not there. Triton then does what it does at a real launch: it
derives types, turns numbers that are 1 into constants (which the interpreter does not), marks multiples of 16, and
compiles for the sizes that the launcher chose for that GPU. Prints JSON: a line of facts for every kernel compiled.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, get_args
from unittest import mock

import torch
from torch import Tensor

import iris_fast.kernels
from iris_fast.kernels._vq.tiles import Precision
from iris_fast.kernels.cached_attention import launch_cached_attention
from iris_fast.kernels.group_norm_swish import launch_group_norm_swish, launch_group_norm_swish_backward
from iris_fast.kernels.lambda_returns import launch_lambda_returns, launch_lambda_returns_backward
from iris_fast.kernels.layer_norm_attention import launch_layer_norm_attention
from iris_fast.kernels.layer_norm_linear import launch_layer_norm_linear
from iris_fast.kernels.layer_norm_mlp import launch_layer_norm_mlp
from iris_fast.kernels.linear_sample import launch_linear_sample
from iris_fast.kernels.sample_categorical import launch_sample_categorical
from iris_fast.kernels.token_embedding import launch_token_embedding
from iris_fast.kernels.vq_lookup import launch_vq_lookup
from iris_fast.kernels.vq_statistics import launch_vq_statistics

MULTIPROCESSORS = {80: 108, 89: 128, 90: 132, 100: 148, 120: 170}
SMALL_SHARED_MEMORY = (89, 120)
FP8 = torch.float8_e4m3fn
BF16, FP32, FP16 = torch.bfloat16, torch.float32, torch.float16
Call = Callable[[], Any]
KINDS = [(FP32, "ieee"), (FP32, "tf32x3"), (FP32, "tf32"), (BF16, "ieee"), (FP16, "ieee")]


def attention_call(
    batch: int,
    heads: int,
    group: int,
    new: int,
    head_dim: int,
    room: int,
    dtype: torch.dtype = BF16,
    *,
    fp8: bool = False,
    tokens_per_block: int = 1,
) -> Call:
    query = torch.zeros(batch, heads * group, new, head_dim, dtype=dtype)
    key = torch.zeros(batch, heads, new, head_dim, dtype=dtype)
    cache = torch.zeros(batch, heads, room, head_dim, dtype=FP8 if fp8 else dtype)
    scale = torch.ones(heads) if fp8 else None
    lengths = torch.zeros(batch, dtype=torch.int32)
    tensors = (query, key, key, cache, cache, lengths)
    return partial(launch_cached_attention, *tensors, tokens_per_block, 0.1, scale, scale)


def attention_calls(architecture: int) -> Iterator[Call]:
    yield attention_call(64, 4, 1, 1, 64, 340)
    yield attention_call(1, 1, 1, 1, 1, 1)
    yield attention_call(1, 1, 1, 1, 16, 4096, FP32)
    yield attention_call(1, 4, 1, 1, 64, 2048)
    yield attention_call(64, 4, 1, 17, 64, 340, tokens_per_block=17)
    yield attention_call(1, 1, 8, 1, 128, 4096)
    yield attention_call(2, 1, 1, 340, 256, 340)
    yield attention_call(1, 1, 1, 2, 24, 100, FP32)
    yield attention_call(3, 2, 2, 5, 96, 77, FP16)
    yield attention_call(2, 2, 1, 17, 256, 340, FP32)
    if architecture >= 89:
        yield attention_call(64, 4, 1, 1, 64, 340, fp8=True)
        yield attention_call(1, 1, 1, 1, 128, 4096, fp8=True)
        yield attention_call(2, 1, 4, 17, 128, 340, FP16, fp8=True)
        yield attention_call(2, 1, 4, 17, 80, 340, FP32, fp8=True)


def lookup_calls(_: int) -> Iterator[Call]:
    sizes = [(1, 1, 1), (1, 8, 16), (1, 512, 1), (16, 512, 512), (1024, 512, 512), (5000, 512, 8192)]
    for rows, dim, num_codes in [*sizes, (4096, 33, 70)]:
        vectors, codebook = torch.zeros(rows, dim), torch.zeros(num_codes, dim)
        for precision in get_args(Precision):
            yield partial(launch_vq_lookup, vectors, codebook, "euclidean", precision, True)
    million = torch.empty(2**20, 512, dtype=BF16)  # memory that nothing writes to is not taken
    yield partial(launch_vq_lookup, million, torch.zeros(8192, 512, dtype=BF16))
    half = torch.zeros(70, 40, dtype=FP16)
    yield partial(launch_vq_lookup, half, half, "cosine")
    yield partial(launch_vq_lookup, half.bfloat16(), half.bfloat16(), "euclidean", "ieee", True)
    yield partial(launch_vq_lookup, half, half.float(), "cosine", "tf32")


def statistics_calls(_: int) -> Iterator[Call]:
    for rows, dim, num_codes in [(1, 1, 1), (1, 33, 7), (2000, 512, 512), (3, 1, 1)]:
        vectors, indices = torch.zeros(rows, dim), torch.zeros(rows, dtype=torch.int64)
        yield partial(launch_vq_statistics, vectors, indices, num_codes)
        weighting = (torch.zeros(rows), torch.zeros(num_codes, dim))
        yield partial(launch_vq_statistics, vectors, indices, num_codes, *weighting)
    wide, index = torch.zeros(5, 8, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    yield partial(launch_vq_statistics, wide, index, 4)
    yield partial(launch_vq_statistics, wide.bfloat16(), index, 4)


def address(rows: int) -> tuple[Tensor, Tensor]:
    """Seed and position."""
    return torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64).expand(rows)


def sampling_calls(_: int) -> Iterator[Call]:
    truncations = [(1.0, 0, 1.0), (0.5, 1, 1.0), (1.0, 0, 0.9), (0.7, 50, 0.9)]
    for rows, classes in [(1, 1), (1, 3), (64, 512), (1, 8192), (1, 8193), (64, 50257), (3, 9000)]:
        seed, position = address(rows)
        logits, row = torch.zeros(rows, classes), torch.arange(rows)
        for truncation in truncations:
            yield partial(launch_sample_categorical, logits, seed, None, position, 1, *truncation)
            arguments = (logits.bfloat16(), seed, row, position, 2**32 - 1, *truncation)
            yield partial(launch_sample_categorical, *arguments, with_info=True)
    half = torch.zeros(5, 20, dtype=FP16)
    yield partial(launch_sample_categorical, half, address(5)[0], None, address(5)[1], 0, 1.0, 3, 0.5)


def linear_sample_calls(_: int) -> Iterator[Call]:
    sizes = [
        (1, 1, 1),
        (1, 2, 0),
        (64, 512, 256),
        (20000, 512, 256),
        (1, 513, 1),
        (64, 8192, 256),
        (3, 3, 40),
    ]
    for rows, classes, dim in sizes:
        seed, position = address(rows)
        for dtype, precision in ((FP32, "ieee"), (FP32, "tf32x3"), (FP32, "bf16"), (BF16, "ieee")):
            x, weight = torch.zeros(rows, dim, dtype=dtype), torch.zeros(classes, dim, dtype=dtype)
            place = (seed, None, position, 1)
            yield partial(launch_linear_sample, x, weight, None, *place, 1.0, precision=precision)
            bias = weight.new_zeros(classes)
            yield partial(
                launch_linear_sample, x, weight, bias, *place, 0.5, precision=precision, with_info=True
            )
            if 1 < classes <= 512:
                yield partial(launch_linear_sample, x, weight, None, *place, 1.0, 1, 0.9, precision)


def layer_calls(_: int) -> Iterator[Call]:
    sizes = [(1, 1, 1), (1, 256, 1024), (64, 256, 768), (64, 1024, 256), (8192, 256, 1024), (5, 40, 33)]
    for rows, dim, out in sizes:
        for dtype, precision in KINDS:
            x, weight = torch.zeros(rows, dim, dtype=dtype), torch.zeros(out, dim, dtype=dtype)
            optional = (x.new_zeros(out), x.new_zeros(dim), x.new_zeros(dim), x.new_zeros(rows, out))
            yield partial(launch_layer_norm_linear, x, weight, *optional, 1e-5, "gelu", precision)
            if rows in (1, 64):
                yield partial(launch_layer_norm_linear, x, weight, activation="relu", precision=precision)
    half, weight, ones = torch.zeros(4, 8, dtype=BF16), torch.zeros(6, 8), torch.ones(8)
    yield partial(launch_layer_norm_linear, half, weight, None, ones, None, half[:, :6])
    yield partial(launch_layer_norm_linear, half.float(), weight.bfloat16(), norm_weight=ones)


def whole_attention_calls(_: int) -> Iterator[Call]:
    """Of (parts, batch, dim, heads, head_dim, room)."""
    sizes = [
        (17, 64, 256, 4, 64, 340),
        (1, 1, 1, 1, 1, 1),
        (1, 1, 256, 4, 64, 340),
        (9, 256, 256, 4, 64, 340),
        (3, 5, 40, 2, 24, 77),
        (9, 64, 1024, 8, 128, 340),
        (2, 3, 512, 2, 256, 20),
    ]
    for parts, batch, dim, heads, head_dim, room in sizes:
        for dtype, precision in KINDS if parts in (1, 17) else (KINDS[0], KINDS[3]):
            width = heads * head_dim
            stream, ones = torch.zeros(parts, batch, dim), torch.ones(dim)
            qkv, proj = torch.zeros(3 * width, dim, dtype=dtype), torch.zeros(dim, width, dtype=dtype)
            cache = torch.zeros(batch, heads, room, head_dim, dtype=dtype)
            lengths = torch.zeros(batch, dtype=torch.int32)
            layers = (qkv, qkv.new_zeros(3 * width), proj, proj.new_zeros(dim))
            given = (stream, ones, ones, *layers, cache, cache, lengths, 1e-5, 0.1, precision)
            yield partial(launch_layer_norm_attention, *given)
    half = (stream.bfloat16(), ones.bfloat16(), None, qkv, None, proj, None, cache, cache, lengths.long())
    yield partial(launch_layer_norm_attention, *half)


def mlp_calls(_: int) -> Iterator[Call]:
    """Of (parts, rows, dim, width, slice_width)."""
    sizes = [
        (5, 64, 256, 1024, 64),
        (1, 1, 1, 1, 16),
        (5, 1, 256, 1024, 64),
        (5, 256, 256, 1024, 128),
        (3, 5, 40, 33, 32),
        (9, 64, 1024, 4096, 128),
    ]
    for parts, rows, dim, width, slice_width in sizes:
        for dtype, precision in KINDS if rows in (1, 64) and dim <= 256 else (KINDS[0], KINDS[3]):
            stream, ones = torch.zeros(parts, rows, dim), torch.ones(dim)
            first, last = torch.zeros(width, dim, dtype=dtype), torch.zeros(dim, width, dtype=dtype)
            layers = (first, first.new_zeros(width), last, last.new_zeros(dim))
            rest = (1e-5, "gelu", precision, slice_width)
            yield partial(launch_layer_norm_mlp, stream, ones, ones, *layers, *rest)
    half = ones.bfloat16()
    yield partial(launch_layer_norm_mlp, stream.bfloat16(), half, None, first, None, last, None, 1e-5, "relu")


def group_norm_calls(_: int) -> Iterator[Call]:
    sizes = [
        (1, 1, 1, 1),
        (64, 64, 4096, 32),
        (64, 64, 16, 32),
        (2, 6, 1, 2),
        (1, 5, 33, 5),
        (1, 64, 1024, 32),
    ]
    for batch, channels, area, groups in [*sizes, (3, 3, 9, 1)]:
        weight, statistics = torch.ones(channels), torch.zeros(batch, groups)
        for dtype in (FP32, BF16):
            first = torch.zeros(batch, channels, area, dtype=dtype)
            for x, swish in ((first, False), (first.transpose(1, 2).contiguous().transpose(1, 2), True)):
                yield partial(launch_group_norm_swish, x, weight, weight, groups, 1e-6, swish)
                saved = (x, x, statistics, statistics, weight, weight, groups, swish)
                yield partial(launch_group_norm_swish_backward, *saved)


def embedding_calls(_: int) -> Iterator[Call]:
    for rows, time, dim, vocab in [(1, 1, 1, 1), (64, 1, 256, 512), (64, 340, 256, 512), (1, 7, 33, 5)]:
        tokens = torch.zeros(rows, time, dtype=torch.int64)
        small, same = tokens.int(), tokens[:1, :1].expand_as(tokens)
        for dtype in (FP32, BF16):
            table, places = torch.zeros(vocab, dim, dtype=dtype), torch.zeros(max(time, 2), dim, dtype=dtype)
            yield partial(launch_token_embedding, tokens, table, places, None, places[:1], dtype)
            yield partial(launch_token_embedding, small, table, places, same, None, dtype)


def returns_calls(_: int) -> Iterator[Call]:
    for shape in [(1, 1), (64, 20), (1, 2), (5, 300), (4096, 100)]:
        zeros = torch.zeros(shape)
        yield partial(launch_lambda_returns, zeros, zeros, zeros, 0.995, 0.95)
        yield partial(launch_lambda_returns_backward, zeros, zeros, 0.995, 0.95)


CALLS: dict[str, Callable[[int], Iterator[Call]]] = {
    "cached_attention": attention_calls,
    "vq_lookup": lookup_calls,
    "vq_statistics": statistics_calls,
    "sample_categorical": sampling_calls,
    "linear_sample": linear_sample_calls,
    "layer_norm_linear": layer_calls,
    "layer_norm_attention": whole_attention_calls,
    "layer_norm_mlp": mlp_calls,
    "group_norm_swish": group_norm_calls,
    "token_embedding": embedding_calls,
    "lambda_returns": returns_calls,
}


@contextmanager
def absent_gpu(architecture: int, compiled: list[dict[str, Any]]) -> Iterator[None]:
    """CPU tensors say that they are on a GPU of this architecture; launches compile, and run nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    class AbsentDriver:
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device=0: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", architecture, 32))

    seen: set[int] = set()

    def launch(kernel: Any, grid: Any) -> Callable[..., None]:
        def compile_alone(*arguments: Any, **options: Any) -> None:
            found = kernel.run(*arguments, grid=grid, warmup=True, **options)
            if id(found) not in seen:
                seen.add(id(found))
                compiled.append(
                    {"kernel": found.metadata.name, "shared": found.metadata.shared, "keep": found}
                )

        return compile_alone

    modules = [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(iris_fast.kernels.__path__, "iris_fast.kernels.")
    ]
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "num_multiprocessors"):
                count = MULTIPROCESSORS[architecture]
                stack.enter_context(mock.patch.object(module, "num_multiprocessors", lambda _, n=count: n))
            if hasattr(module, "large_shared_memory"):
                large = architecture not in SMALL_SHARED_MEMORY
                stack.enter_context(mock.patch.object(module, "large_shared_memory", lambda _, x=large: x))
        stack.enter_context(mock.patch.object(torch.Tensor, "is_cuda", True))
        capability = divmod(architecture, 10)
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", lambda _=None: capability))
        stack.enter_context(mock.patch.object(JITFunction, "__getitem__", launch))
        driver.set_active(AbsentDriver())  # type: ignore[arg-type]
        yield


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.dry_launches", description=__doc__.splitlines()[0]
    )
    parser.add_argument("architecture", type=int, choices=list(MULTIPROCESSORS))
    parser.add_argument("operations", nargs="*", default=list(CALLS))
    arguments = parser.parse_args(argv)
    failures = []
    for operation in arguments.operations:
        compiled: list[dict[str, Any]] = []
        with absent_gpu(arguments.architecture, compiled):
            for index, call in enumerate(CALLS[operation](arguments.architecture)):
                try:
                    call()
                except Exception as error:
                    failures.append(f"{operation} call {index}: {type(error).__name__}: {str(error)[-1500:]}")
        facts = [{name: value for name, value in one.items() if name != "keep"} for one in compiled]
        print(json.dumps({"operation": operation, "compiled": facts}), flush=True)
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
