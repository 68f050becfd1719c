"""The device of a run: its choice, arithmetic (float32, TF32, bfloat16 or float16), threads, memory and engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch

from iris_fast.agent import Agent
from iris_fast.config import Config, resolve, validate
from iris_fast.config.schema import CommonConfig, CudnnUse
from iris_fast.errors import UserError
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.factory import make_engine
from iris_fast.kernels.common.extension import find_extension

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_WIDTH = (
    128  # of a world model; with a narrower one, bf16 saves next to nothing on a CPU (benchmarks/LOG.md)
)

# A frame of 64 × 64 saves so many bytes for the paper's tokenizer's gradient, LPIPS included, in float32
# (benchmarks/results/cpu/memory.json); a step may have so much of a GPU's memory.
TOKENIZER_BYTES, TOKENIZER_SHARE = 48e6, 0.25


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Makes new tensors float32, and on the CPU by default, whatever defaults the process has set.

    For whole commands, because all threads share the default dtype. Parts used from Python build their models in the
    default dtype, as PyTorch's modules do.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        # Only if it changes something, because it slows every call of PyTorch.
        with torch.device("cpu") if device.type != "cpu" else nullcontext():
            yield
    finally:
        torch.set_default_dtype(dtype)


def check_precision(precision: str, device: torch.device) -> None:
    """UserError for a precision that the device does not support."""
    if device.type == "cpu" and precision not in ("float32", "bf16"):
        raise UserError(f"common.precision={precision} needs a GPU: on a CPU use float32 or bf16")


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor does, and the C++ extension is there for what lies between the products."""
    extension = find_extension()
    return extension is not None and extension.multiplies_bfloat16()


def with_precision(config: Config) -> Config:
    """The configuration with what `common.precision=auto` means on this machine."""
    if config.common.precision != "auto":
        return config
    on_cpu = choose_device(config.common.device).type == "cpu"
    gains = on_cpu and config.world_model.embed_dim >= LEAST_WIDTH and multiplies_bfloat16()
    return replace(config, common=replace(config.common, precision="bf16" if gains else "float32"))


def with_pieces(config: Config) -> Config:
    """The configuration with the fewest pieces of the tokenizer's batch that a GPU's memory has room for.

    A loss that is computed piece by piece is not left to the machine.
    """
    part = config.training.tokenizer
    if part.pieces is not None or config.tokenizer.perceptual in ("foreground", "objects"):
        return config
    device = choose_device(config.common.device)
    if device.type != "cuda":
        return config
    frame = TOKENIZER_BYTES * (config.tokenizer.autoencoder.resolution / 64) ** 2
    rows = TOKENIZER_SHARE * torch.cuda.get_device_properties(device).total_memory / frame
    fitting = (count for count in (1, 2) if part.batch_num_samples % count == 0)
    pieces = next((count for count in fitting if part.batch_num_samples / count <= rows), None)
    tokenizer = replace(part, pieces=pieces)
    return replace(config, training=replace(config.training, tokenizer=tokenizer))


def fitted(config: Config) -> Config:
    """The configuration with what it leaves to this machine: precision and pieces."""
    return with_pieces(with_precision(config))


def apply_precision(precision: str) -> None:
    """Sets PyTorch's float32 products and convolutions on a GPU to exact or to TF32."""
    tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def apply_cudnn(use: CudnnUse) -> None:
    """Sets what a GPU does by cuDNN besides convolutions, for `common.cudnn`.

    `lstm`: the policy's recurrence over a sequence of frames, of which a captured gradient step is many launches
    shorter. `all`: attention too, which newer PyTorch takes on Hopper of its own accord (other rounding than flash
    attention's, and tens of milliseconds for each new shape), and a search for the fastest convolution at each new
    shape, so that two runs may round differently. `none`: what to set where a capture fails in cuDNN; then the
    recurrence is a loop of PyTorch's fused cell, and attention is flash. Nothing of it has run on a GPU yet.
    """
    torch.backends.cuda.enable_cudnn_sdp(use == "all")
    torch.backends.cudnn.benchmark = use == "all"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast context of forward passes."""
    if precision not in AUTOCAST_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[precision])


def cast_once(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which each weight is cast for the first `autocast` block in it, and not again for the others.

    Between such blocks nothing is cast, so a gradient is computed there as outside.
    """
    if precision not in AUTOCAST_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)  # PyTorch forgets its casts where the outermost ends


def choose_device(requested: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`; UserError if it does not exist."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise UserError(f"--device {requested}: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {requested}: iris_fast runs on cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {requested}: this machine, or this build of PyTorch, has no CUDA; use --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"--device {requested}: this machine has cuda:0 to cuda:{last}")
    return device


def prepare(config: Config) -> tuple[Config, torch.device]:
    """The checked and completed configuration, and the device, set to its precision and threads."""
    validate(config)
    device = choose_device(config.common.device)
    config = fitted(config)
    check_precision(config.common.precision, device)
    apply_precision(config.common.precision)
    apply_cudnn(config.common.cudnn)
    if config.common.threads:
        torch.set_num_threads(config.common.threads)
    extension = find_extension()
    if device.type == "cpu" and extension is not None:
        extension.keep_large_blocks()  # otherwise PyTorch spends up to half its time in page faults
    return resolve(config), device


def engine_of(agent: Agent, common: CommonConfig) -> ImaginationEngine:
    """The engine that a run's configuration asks for. Raises as `make_engine`."""
    return make_engine(
        agent,
        common.engine,
        "float32" if common.precision == "auto" else common.precision,  # of gradient steps alone
        kv_dtype=common.kv_dtype,
        weights_dtype=common.weights_dtype,
        decoder_dtype=common.decoder_dtype,
        layer_launches=common.layer_launches,
    )


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far, in gigabytes, on the host and on a GPU.

    On a GPU: memory of tensors, and memory reserved by PyTorch; the memory of graph replays counts only in the
    second.
    """
    found = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        found["memory/host_peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    if device.type == "cuda":
        found["memory/device_peak_gigabytes"] = torch.cuda.max_memory_allocated(device) / 1e9
        found["memory/device_reserved_peak_gigabytes"] = torch.cuda.max_memory_reserved(device) / 1e9
    return found
