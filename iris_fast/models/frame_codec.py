"""The tokenizer's two directions in C++ (`csrc/`): frames to tokens and tokens to frames, on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from iris_fast.kernels.common.extension import find_extension

from .cpu_weights import require_extension, weight_arrays
from .group_norm import EPS
from .tokenizer import Tokenizer, in_pieces
from .versioned import Version

if TYPE_CHECKING:
    from iris_fast import _C

MEMO_BYTES = 512 * 2**20
DecoderDtype = Literal["float32", "int8"]
NOT_NEEDED = ("lpips.", "background_known")


class FrameCoder(Protocol):
    """Both directions of a tokenizer, for a batch of any size."""

    tokenizer: Tokenizer

    def frames_of(self, tokens: Tensor) -> Tensor:
        """Decoded frames `(batch, 3, 64, 64)` clamped to [0, 1] of tokens `(batch, 16)` int64."""
        ...

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Tokens `(batch, 16)` int64 of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        ...


class TokenizerPieces:
    """The tokenizer's PyTorch modules on batches of one size, so that no row's result depends on other rows."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def frames_of(self, tokens: Tensor) -> Tensor:
        return in_pieces(self.tokenizer.frames_of, tokens, pad=True)

    def tokens_of(self, frames: Tensor) -> Tensor:
        return in_pieces(self.tokenizer.tokens_of, frames, pad=True)


def has_codec(tokenizer: Tokenizer) -> bool:
    """Whether `FrameCodec` can stand in for the tokenizer: float32 on a CPU, the extension built."""
    weight = tokenizer.embedding.weight
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and find_extension() is not None


def pack_tokenizer(
    tokenizer: Tokenizer, simd: str = "auto", decoder_dtype: DecoderDtype = "float32"
) -> _C.FrameModel:
    """A copy of the weights in the C++ codec's layout; later changes of `tokenizer` do not reach it.

    Raises RuntimeError without the C++ extension, ValueError for weights that are not float32 on the CPU, or, with
    `decoder_dtype="int8"`, not finite.
    """
    config = tokenizer.config.autoencoder
    model: _C.FrameModel = require_extension().FrameModel(
        weight_arrays(tokenizer, skip=NOT_NEEDED),
        resolution=config.resolution,
        widths=[config.ch * multiple for multiple in config.ch_mult],
        residual_blocks=config.num_res_blocks,
        attention_resolutions=list(config.attn_resolutions),
        norm_groups=config.norm_groups,
        norm_epsilon=EPS,
        simd=simd,
        decoder_dtype=decoder_dtype,
    )
    return model


class FrameCodec:
    """`Tokenizer.frames_of` and `Tokenizer.tokens_of` in C++, for whole batches. Dropout is never applied.

    Results equal those of the PyTorch modules to float32 rounding. A frame's bits are the same for any number of
    threads, any batch and any SIMD level. Weights are packed at the first call, and again at the first call after a
    change. KeyboardInterrupt ends a call within some 100 milliseconds. Calls from several threads are safe: a call
    that overlaps another works in memory of its own, and the pool's threads serve one after the other. Copies and
    pickles leave out the packed weights."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        pool: _C.ThreadPool,
        *,
        group_size: int = 0,
        simd: str = "auto",
        decoder_dtype: DecoderDtype = "float32",
        memo_bytes: int = MEMO_BYTES,
    ):
        """`group_size`: frames that one thread takes at a time; 0 for an even share of the batch, at most 4. A
        frame that is alone is shared by all threads.

        `decoder_dtype`: "int8" rounds both factors of the 3 × 3 convolutions in the decoder's residual blocks and
        upsamplings to integers from -127 to 127, with one scale for each frame's map and one for each output.

        `memo_bytes`: memory for decoded frames, kept by their tokens until the weights change.

        Raises as `pack_tokenizer`.
        """
        weight_arrays(tokenizer, skip=NOT_NEEDED)  # raises here, before packing would raise it later
        self.tokenizer = tokenizer
        self.pool = pool
        self._group_size = group_size
        self._simd = simd
        self._decoder_dtype: DecoderDtype = decoder_dtype
        self._memo_bytes = memo_bytes
        self._model: _C.FrameModel | None = None
        self._codec: _C.FrameCodec | None = None
        self._version: Version | None = None  # of what is packed
        if decoder_dtype != "float32":
            self.packed()  # it refuses weights that it cannot hold

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_model": None, "_codec": None, "_version": None}

    def frames_of(self, tokens: Tensor, remember: bool = False) -> Tensor:
        """Decoded frames `(batch, 3, 64, 64)` clamped to [0, 1] of tokens `(batch, 16)` int64.

        `remember`: decode each distinct row once, as rollouts do, because a game with few states shows the same
        frames again and again."""
        return torch.from_numpy(self.packed().decode(tokens.contiguous().numpy(), remember=remember))

    def latents_of(self, frames: Tensor) -> Tensor:
        """Latents `(batch, 16, embed_dim)`, before quantization, of frames `(batch, 3, 64, 64)` in [0, 1]."""
        return torch.from_numpy(self.packed().encode(frames.detach().contiguous().numpy()))

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Tokens `(batch, 16)` int64 of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        return torch.from_numpy(self.packed().tokenize(frames.detach().contiguous().numpy()))

    def packed(self) -> _C.FrameCodec:
        """The codec, packed from the current weights, with the frames it remembers."""
        version = self.tokenizer.version
        if self._model is None or version != self._version:
            model = pack_tokenizer(self.tokenizer, self._simd, self._decoder_dtype)
            self._model, self._codec, self._version = model, None, version
        codec = self._codec
        if codec is None:
            codec = self._codec = require_extension().FrameCodec(
                self._model, self.pool, group_size=self._group_size, memo_bytes=self._memo_bytes
            )
        return codec

    def forget_frames(self) -> None:
        """Forgets all remembered frames, for measurements."""
        self._codec = None


class AgentCoder:
    """The one encoder and decoder that an agent, its replay cache, its engine and its evaluation share.

    If `has_codec` is true it runs in C++: the tokenizer is packed once after each change of its weights, with one
    pool of threads. Otherwise it runs the tokenizer's modules on batches of one size, so that a frame's result does
    not depend on its batch (on a CPU a single frame then costs as much as eight)."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._codec: FrameCodec | None = None

    def __getstate__(self) -> dict[str, object]:
        """A copy or an unpickled coder packs its weights again, with another pool of threads."""
        return {"tokenizer": self.tokenizer, "_codec": None}

    def codec(self) -> FrameCodec:
        """The C++ codec, with PyTorch's number of threads at the first call. Raises as `pack_tokenizer`."""
        if self._codec is None:
            pool = require_extension().ThreadPool(torch.get_num_threads())
            self._codec = FrameCodec(self.tokenizer, pool)
        return self._codec

    def frames_of(self, tokens: Tensor) -> Tensor:
        """Decoded frames `(batch, 3, 64, 64)` clamped to [0, 1] of tokens `(batch, 16)` int64."""
        return self._fastest().frames_of(tokens)

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Tokens `(batch, 16)` int64 of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        return self._fastest().tokens_of(frames)

    def _fastest(self) -> FrameCoder:
        return self.codec() if has_codec(self.tokenizer) else TokenizerPieces(self.tokenizer)
