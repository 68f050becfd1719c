"""Drop-in kernels for token world models: one file an operation, needing torch (and triton) alone.

Import it as `iris_fast.kernels`, or copy this folder into a package of your own.
"""

from .lambda_returns import lambda_returns, lambda_returns_reference
from .philox import philox_4x32, philox_uniform
from .sample_categorical import sample_categorical, sample_categorical_reference

__all__ = [
    "lambda_returns",
    "lambda_returns_reference",
    "philox_4x32",
    "philox_uniform",
    "sample_categorical",
    "sample_categorical_reference",
]
