"""Frames decoded and encoded per second on the CPU: the C++ codec and the tokenizer's PyTorch modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Work, measured_machine, timed_size
from benchmarks.record import Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.timing import Side, time_sides
from iris_fast.config import preset_config, resolve
from iris_fast.models.frame_codec import FrameCodec
from iris_fast.models.tokenizer import Tokenizer, in_pieces

CPU = torch.device("cpu")
COMPARED = 2  # frames also computed in float64, to measure the error of both sides


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


@dataclass(frozen=True)
class Direction:
    """One direction of the tokenizer: by its PyTorch modules, by the C++ codec, and by the codec in int8."""

    work: str
    modules: Callable[[Tokenizer, Tensor], Tensor]
    compiled: Callable[[Tensor], Tensor]
    int8: Callable[[Tensor], Tensor] | None = None


def measure(tokenizer: Tokenizer, way: Direction, inputs: Tensor, rounds: int) -> Size:
    """Seconds of each side for one batch, after a comparison of results; int8 rounds on purpose."""
    some = inputs[:COMPARED]
    exact = way.modules(
        copy.deepcopy(tokenizer).double(), some if some.dtype == torch.int64 else some.double()
    )
    sides: dict[str, Side] = {
        "cpp": lambda: way.compiled(inputs),
        "pytorch": lambda: in_pieces(lambda part: way.modules(tokenizer, part), inputs),
    }
    errors = {
        "cpp": inexactness(way.compiled(some), exact),
        "pytorch": inexactness(way.modules(tokenizer, some), exact),
    }
    if (int8 := way.int8) is not None:
        sides["cpp_int8"] = lambda: int8(inputs)
        errors["cpp_int8"] = inexactness(int8(some), exact)
    what: dict[str, Label] = {"work": way.work, "batch": len(inputs)}
    more = {"error_against_float64": errors}
    if errors["cpp"] > 2 * errors["pytorch"]:
        return Size(
            what, missing="the C++ side's results are further off than PyTorch's: not timed", more=more
        )
    flops = flops_of(tokenizer, lambda: way.modules(tokenizer, some)) * len(inputs) / len(some)
    work = Work(flops, units={"frames": len(inputs)})
    return timed_size(what, time_sides(sides, CPU, rounds=rounds), work, more=more)


@case("cpu_frame_codec", minutes=4)
def cpu_frame_codec(run: Run) -> Result:
    """Frames a second of the C++ codec, of int8 too, and of PyTorch's modules, both ways, at batch 64, 16 and 1."""
    preset = "tiny" if run.quick else "paper"
    torch.manual_seed(0)
    tokenizer = Tokenizer(resolve(preset_config(preset, "Pong")).tokenizer).eval()
    from iris_fast._C import ThreadPool, keep_large_blocks

    pool = ThreadPool(torch.get_num_threads())
    codec, of_int8 = FrameCodec(tokenizer, pool), FrameCodec(tokenizer, pool, decoder_dtype="int8")
    keeps = keep_large_blocks()  # as in training: otherwise PyTorch's time is mostly page faults
    decode = Direction("decode", Tokenizer.frames_of, codec.frames_of, of_int8.frames_of)
    encode = Direction("encode", latents_of, codec.latents_of)
    generator = torch.Generator().manual_seed(0)
    resolution, vocabulary = tokenizer.config.autoencoder.resolution, tokenizer.config.vocab_size
    sizes = []
    for batch in (4, 1) if run.quick else (64, 16, 1):
        tokens = torch.randint(vocabulary, (batch, tokenizer.config.tokens_per_frame), generator=generator)
        frames = torch.rand(batch, 3, resolution, resolution, generator=generator)
        rounds = 3 if run.quick else 5 if batch == 64 else 9
        sizes += [
            measure(tokenizer, decode, tokens, rounds),
            measure(tokenizer, encode, frames, rounds),
        ]
    return Result(
        sizes,
        measured_machine(run.quick, CPU).ceilings(),
        torch.get_num_threads(),
        facts={"preset": preset, "large_blocks_kept": keeps},
    )
