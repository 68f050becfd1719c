"""The benchmark table of the operations of `iris_fast.kernels`, from which all kernel cases are made."""

from .attention import CACHED_ATTENTION, LAYER_NORM_ATTENTION
from .layers import GROUP_NORM_SWISH, LAYER_NORM_LINEAR, LAYER_NORM_MLP, TOKEN_EMBEDDING
from .quantizer import VQ_LOOKUP, VQ_STATISTICS
from .returns import LAMBDA_RETURNS
from .sampling import LINEAR_SAMPLE, SAMPLE_CATEGORICAL
from .table import Operation

# In the order of the table in kernels/README.md.
OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        VQ_LOOKUP,
        VQ_STATISTICS,
        CACHED_ATTENTION,
        SAMPLE_CATEGORICAL,
        LINEAR_SAMPLE,
        LAYER_NORM_LINEAR,
        LAYER_NORM_ATTENTION,
        LAYER_NORM_MLP,
        GROUP_NORM_SWISH,
        TOKEN_EMBEDDING,
        LAMBDA_RETURNS,
    )
}

__all__ = ["OPERATIONS", "Operation"]
