"""Drop-in kernels for token world models: one file per operation, depending only on torch (and triton).

Import it as `iris_fast.kernels`, or copy this folder into a package of your own.

Results depend only on the arguments. Autocast, PyTorch's precision switches and its default device and dtype change
no output and no gradient. There are two exceptions: in a graph of `torch.compile` PyTorch computes the gradient of
`layer_norm_linear` and follows the switches, and `philox_uniform` with only ints returns a tensor on the default
device. Ints and floats may be NumPy's; other values raise TypeError or ValueError with the argument's name.
Forward-mode differentiation (jvp, jacfwd) raises NotImplementedError, except in `ema_update` and in the references,
which are plain PyTorch.
"""

from importlib import import_module

from .cached_attention import cached_attention, cached_attention_reference
from .common.spec import OpSpec
from .group_norm_swish import group_norm_swish, group_norm_swish_reference
from .lambda_returns import lambda_returns, lambda_returns_reference
from .layer_norm_attention import layer_norm_attention, layer_norm_attention_reference
from .layer_norm_linear import layer_norm_linear, layer_norm_linear_reference
from .layer_norm_mlp import layer_norm_mlp, layer_norm_mlp_reference
from .linear_sample import linear_sample, linear_sample_reference
from .philox import philox_4x32, philox_uniform
from .sample_categorical import Sample, sample_categorical, sample_categorical_reference
from .token_embedding import token_embedding, token_embedding_reference
from .vq_lookup import VQLookup, vq_lookup, vq_lookup_reference
from .vq_statistics import ema_update, vq_statistics, vq_statistics_reference

# The files of operations, in the order of the README.
_FILES = (
    *("vq_lookup", "vq_statistics", "cached_attention", "sample_categorical", "philox", "linear_sample"),
    *("layer_norm_linear", "layer_norm_attention", "layer_norm_mlp", "group_norm_swish", "token_embedding"),
    "lambda_returns",
)
SPECS: dict[str, OpSpec] = {name: import_module(f".{name}", __name__).SPEC for name in _FILES}
"""The specification of each operation by the name of its file: what tests, benchmarks and the README are made of."""

__all__ = [
    "Sample",
    "VQLookup",
    "cached_attention",
    "cached_attention_reference",
    "ema_update",
    "group_norm_swish",
    "group_norm_swish_reference",
    "lambda_returns",
    "lambda_returns_reference",
    "layer_norm_attention",
    "layer_norm_attention_reference",
    "layer_norm_linear",
    "layer_norm_linear_reference",
    "layer_norm_mlp",
    "layer_norm_mlp_reference",
    "linear_sample",
    "linear_sample_reference",
    "philox_4x32",
    "philox_uniform",
    "sample_categorical",
    "sample_categorical_reference",
    "token_embedding",
    "token_embedding_reference",
    "vq_lookup",
    "vq_lookup_reference",
    "vq_statistics",
    "vq_statistics_reference",
]
