"""Frames decoded and encoded a second on the CPU: the C++ codec beside the tokenizer's PyTorch modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.registry import case
from benchmarks.timing import Side, copy_bandwidth, matrix_rate, ratio_interval, time_sides
from iris_fast._C import ThreadPool, keep_large_blocks
from iris_fast.config import preset_config, resolve
from iris_fast.models.frame_codec import FrameCodec
from iris_fast.models.tokenizer import Tokenizer, in_pieces

CPU = torch.device("cpu")
COMPARED = 2  # frames whose result in float64 says how exact either side is


@torch.no_grad()
def latents_of(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    """Latents `(batch, 16, embed_dim)` before quantization, by the modules."""
    return tokenizer.pre_quant_conv(tokenizer.encoder(frames * 2 - 1)).flatten(2).transpose(1, 2)


def flops_of(part: nn.Module, run: Callable[[], object]) -> float:
    """FLOPs of the convolutions and of attention's products in `run`, as the modules define them."""
    with FlopCounterMode(part, display=False) as counter:
        run()
    return float(counter.get_total_flops())


def inexactness(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the differences."""
    return float((found.double() - exact).square().mean().sqrt())


def measure(
    tokenizer: Tokenizer,
    work: str,
    inputs: Tensor,
    modules: Callable[[Tokenizer, Tensor], Tensor],
    compiled: Callable[[Tensor], Tensor],
    compiled_int8: Callable[[Tensor], Tensor] | None,
    rounds: int,
    ceilings: dict[str, float],
) -> dict[str, Any]:
    """Seconds of either side for one batch, after a look at their results."""
    some = inputs[:COMPARED]
    exact = modules(copy.deepcopy(tokenizer).double(), some if some.dtype == torch.int64 else some.double())
    errors = {
        "pytorch": inexactness(modules(tokenizer, some), exact),
        "cpp": inexactness(compiled(some), exact),
    }
    found: dict[str, Any] = {"work": work, "batch": len(inputs), "error_against_float64": errors}
    if errors["cpp"] > 2 * errors["pytorch"]:
        return found | {"not_timed": "the C++ side's results are further from the exact ones than PyTorch's"}
    sides: dict[str, Side] = {
        "pytorch": lambda: in_pieces(lambda part: modules(tokenizer, part), inputs),
        "cpp": lambda: compiled(inputs),
    }
    if compiled_int8 is not None:  # rounded on purpose, so not held to PyTorch's exactness
        errors["cpp_int8"] = inexactness(compiled_int8(some), exact)
        sides["cpp_int8"] = lambda: compiled_int8(inputs)
    timings = time_sides(sides, CPU, rounds=rounds)
    flops = flops_of(tokenizer, lambda: modules(tokenizer, some)) * len(inputs) / len(some)
    for name, timing in timings.items():
        found[name] = timing.summary() | {
            "frames_a_second": len(inputs) / timing.median,
            "direct_flops_share_of_matrix_rate": flops / ceilings["flops_a_second"] / timing.median,
        }
    found["times_pytorch"] = ratio_interval(timings["pytorch"].seconds, timings["cpp"].seconds)
    if compiled_int8 is not None:
        found["times_cpp"] = ratio_interval(timings["cpp"].seconds, timings["cpp_int8"].seconds)
    return found


@case("cpu_frame_codec", minutes=4)
def cpu_frame_codec(quick: bool) -> dict[str, Any]:
    """Frames a second of the C++ codec, of int8 too, and of PyTorch's modules, both ways, at batch 64, 16 and 1."""
    preset = "tiny" if quick else "paper"
    torch.manual_seed(0)
    tokenizer = Tokenizer(resolve(preset_config(preset, "Pong")).tokenizer).eval()
    pool = ThreadPool(torch.get_num_threads())
    codec, of_int8 = FrameCodec(tokenizer, pool), FrameCodec(tokenizer, pool, decoder_dtype="int8")
    keeps = keep_large_blocks()  # as training does: otherwise PyTorch's side is mostly page faults
    ceilings = {
        "flops_a_second": matrix_rate(CPU, torch.float32, 512 if quick else None),
        "bytes_a_second": copy_bandwidth(CPU, 32 if quick else 512),
    }
    generator = torch.Generator().manual_seed(0)
    size, vocabulary = tokenizer.config.autoencoder.resolution, tokenizer.config.vocab_size
    results = []
    for batch in (4, 1) if quick else (64, 16, 1):
        tokens = torch.randint(vocabulary, (batch, tokenizer.config.tokens_per_frame), generator=generator)
        frames = torch.rand(batch, 3, size, size, generator=generator)
        rounds = 3 if quick else 5 if batch == 64 else 9
        results += [
            measure(
                tokenizer,
                "decode",
                tokens,
                Tokenizer.frames_of,
                codec.frames_of,
                of_int8.frames_of,
                rounds,
                ceilings,
            ),
            measure(tokenizer, "encode", frames, latents_of, codec.latents_of, None, rounds, ceilings),
        ]
    return {
        "preset": preset,
        "threads": torch.get_num_threads(),
        "large_blocks_kept": keeps,
        "ceilings": ceilings,
        "results": results,
    }
