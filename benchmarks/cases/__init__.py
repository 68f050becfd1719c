"""Every case, registered by being imported here."""

from . import (
    ball,
    compiled_kernels,
    kernel_cached_attention,
    kernel_group_norm_swish,
    kernel_lambda_returns,
    kernel_layer_norm_linear,
    kernel_sampling,
    kernel_token_embedding,
    kernel_torch_limits,
    kernel_vq_lookup,
    launch_count,
    memory,
    rollout,
    token_cache,
    token_generation,
    training_steps,
)

__all__ = [
    "ball",
    "compiled_kernels",
    "kernel_cached_attention",
    "kernel_group_norm_swish",
    "kernel_lambda_returns",
    "kernel_layer_norm_linear",
    "kernel_sampling",
    "kernel_token_embedding",
    "kernel_torch_limits",
    "kernel_vq_lookup",
    "launch_count",
    "memory",
    "rollout",
    "token_cache",
    "token_generation",
    "training_steps",
]
