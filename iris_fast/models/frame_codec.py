"""The tokenizer's two directions in C++ (`csrc/`): frames to tokens and tokens to frames, on a CPU."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iris_fast.kernels._extension import find_extension

from .group_norm import EPS
from .tokenizer import Tokenizer, nearest_codeword

if TYPE_CHECKING:
    from iris_fast._C import FrameModel, ThreadPool


def require_extension() -> ModuleType:
    """The C++ extension; RuntimeError where it was not built."""
    extension = find_extension()
    if extension is None:
        raise RuntimeError("the CPU engine needs the C++ extension: build it with `pip install -e .`")
    return extension


def weight_arrays(module: nn.Module, skip: str | None = None) -> dict[str, NDArray[Any]]:
    """The state dict's tensors, but those whose names start with `skip`, as arrays that share their memory.

    Raises ValueError for one that is not float32 on the CPU.
    """
    weights = {}
    for name, tensor in module.state_dict().items():
        if skip is not None and name.startswith(skip):
            continue
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(
                f"the CPU engine needs float32 weights on the CPU; {name} is {tensor.dtype} on {tensor.device}"
            )
        weights[name] = tensor.detach().contiguous().numpy()
    return weights


def pack_tokenizer(tokenizer: Tokenizer, simd: str = "auto") -> FrameModel:
    """A copy of the weights as the C++ codec wants them; later changes of `tokenizer` do not reach it.

    Raises RuntimeError without the C++ extension, ValueError for weights that are not float32 on the CPU.
    """
    config = tokenizer.config.autoencoder
    return require_extension().FrameModel(
        weight_arrays(tokenizer, skip="lpips."),
        resolution=config.resolution,
        widths=[config.ch * multiple for multiple in config.ch_mult],
        residual_blocks=config.num_res_blocks,
        attention_resolutions=list(config.attn_resolutions),
        norm_groups=config.norm_groups,
        norm_epsilon=EPS,
        simd=simd,
    )


class FrameCodec:
    """`Tokenizer.frames_of` and `Tokenizer.tokens_of` in C++, with the weights as they were when it was made.

    Results are those of the PyTorch modules to float32 rounding; equal bits for any number of threads, any other
    frames in the batch, and any SIMD level. KeyboardInterrupt ends a call within some milliseconds.
    """

    def __init__(
        self, tokenizer: Tokenizer, pool: ThreadPool, *, group_size: int = 0, simd: str = "auto"
    ):
        """`group_size`: frames that one thread takes at a time; 0 for an even share of the batch, at most 4."""
        self._codebook = tokenizer.embedding.weight.detach().clone()
        self._codec = require_extension().FrameCodec(
            pack_tokenizer(tokenizer, simd), pool, group_size=group_size
        )

    def frames_of(self, tokens: Tensor) -> Tensor:
        """Decoded frames `(batch, 3, 64, 64)` clamped to [0, 1] of tokens `(batch, 16)` int64."""
        return torch.from_numpy(self._codec.decode(tokens.contiguous().numpy()))

    def latents_of(self, frames: Tensor) -> Tensor:
        """Latents `(batch, 16, embed_dim)`, before quantization, of frames `(batch, 3, 64, 64)` in [0, 1]."""
        return torch.from_numpy(self._codec.encode(frames.detach().contiguous().numpy()))

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Tokens `(batch, 16)` int64 of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        latents = self.latents_of(frames)
        return nearest_codeword(latents.flatten(0, 1), self._codebook).view(latents.shape[:2])
