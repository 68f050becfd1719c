from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

iris_fast: bool  # by which it is told from an extension of another package

Floats = NDArray[np.float32] | NDArray[np.uint16]  # bfloat16 as its bits

def keep_large_blocks() -> bool: ...
def multiplies_bfloat16() -> bool: ...
def sample_categorical(
    logits: NDArray[np.float32],
    seed: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    purpose: int,
    temperature: float = 1.0,
) -> NDArray[np.int64]: ...
def simd_levels() -> list[str]: ...

class ThreadPool:
    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...
    def __reduce__(self) -> tuple[type[ThreadPool], tuple[int]]: ...

def causal_attention(
    pool: ThreadPool,
    heads: int,
    scale: float,
    probability: float,
    seed: int,
    first_row: int,
    query: Floats,
    key: Floats,
    value: Floats,
    largest: NDArray[np.float32],
    shares: NDArray[np.float32],
    out: Floats,
) -> None: ...
def causal_attention_backward(
    pool: ThreadPool,
    heads: int,
    scale: float,
    probability: float,
    seed: int,
    first_row: int,
    grad: Floats,
    query: Floats,
    key: Floats,
    value: Floats,
    largest: NDArray[np.float32],
    shares: NDArray[np.float32],
    grad_query: Floats,
    grad_key: Floats,
    grad_value: Floats,
) -> None: ...
def dropout(
    pool: ThreadPool, probability: float, seed: int, first_row: int, x: Floats, out: Floats
) -> None: ...
def group_norm(
    pool: ThreadPool,
    x: Floats,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    epsilon: float,
    swish: bool,
    means: NDArray[np.float32],
    scales: NDArray[np.float32],
    out: Floats,
) -> None: ...
def group_norm_backward(
    pool: ThreadPool,
    grad: Floats,
    x: Floats,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    swish: bool,
    means: NDArray[np.float32],
    scales: NDArray[np.float32],
    grad_x: Floats,
    grad_weight: NDArray[np.float32],
    grad_bias: NDArray[np.float32],
) -> None: ...

class FrameModel:
    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        resolution: int,
        widths: Sequence[int],
        residual_blocks: int,
        attention_resolutions: Sequence[int],
        norm_groups: int,
        norm_epsilon: float,
        simd: str = "auto",
        decoder_dtype: str = "float32",
    ) -> None: ...
    @property
    def simd(self) -> str: ...

class FrameCodec:
    def __init__(
        self, model: FrameModel, pool: ThreadPool, *, group_size: int = 0, memo_bytes: int = 536870912
    ) -> None: ...
    def decode(self, tokens: NDArray[np.int64], *, remember: bool = False) -> NDArray[np.float32]: ...
    def encode(self, frames: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def tokenize(self, frames: NDArray[np.float32]) -> NDArray[np.int64]: ...
    @property
    def remembered(self) -> int: ...

class PolicyFeatures:
    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        pool: ThreadPool,
        *,
        resolution: int,
        convolutions: int = 4,
        group_size: int = 0,
        simd: str = "auto",
    ) -> None: ...
    def compute(self, frames: NDArray[np.float32]) -> NDArray[np.float32]: ...

class PolicyRecurrence:
    def __init__(
        self, weights: Mapping[str, NDArray[np.float32]], pool: ThreadPool, *, simd: str = "auto"
    ) -> None: ...
    def step(
        self, features: NDArray[np.float32], hidden: NDArray[np.float32], cells: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...

class TokenModel:
    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        num_layers: int,
        num_heads: int,
        tokens_per_block: int,
        max_blocks: int,
        block_causal: bool,
        layer_norm_epsilon: float,
        simd: str = "auto",
        weights_dtype: str = "float32",
    ) -> None: ...
    @property
    def simd(self) -> str: ...

class TokenDream:
    def __init__(
        self,
        model: TokenModel,
        pool: ThreadPool,
        first_tokens: NDArray[np.int64],
        *,
        seed: int,
        first_row: int = 0,
        purpose_reward: int,
        purpose_end: int,
        purpose_token: int,
        kv_dtype: str = "float32",
        group_size: int = 0,
    ) -> None: ...
    def restart(self, first_tokens: NDArray[np.int64], *, seed: int, first_row: int = 0) -> None: ...
    def replace(self, tokens: NDArray[np.int64]) -> None: ...
    def step(
        self,
        actions: NDArray[np.int64],
        *,
        generate_frame: bool = True,
        want_logits: bool = False,
        next_tokens: NDArray[np.int64] | None = None,
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64] | None,
        NDArray[np.float32] | None,
        NDArray[np.float32] | None,
        NDArray[np.float32] | None,
    ]: ...
    @property
    def steps(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def group_size(self) -> int: ...

def roll_out(
    dream: TokenDream,
    codec: FrameCodec,
    features: PolicyFeatures,
    recurrence: PolicyRecurrence,
    first_tokens: NDArray[np.int64],
    burn_in_frames: NDArray[np.float32],
    burn_in_mask: NDArray[np.bool_],
    *,
    horizon: int,
    seed: int,
    first_row: int = 0,
    purpose_action: int,
) -> tuple[
    NDArray[np.float32],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.bool_],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    int,
]: ...
