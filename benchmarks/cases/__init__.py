"""Every case, registered by being imported here."""

from . import ball, compiled_kernels, memory, token_cache, training_steps

__all__ = ["ball", "compiled_kernels", "memory", "token_cache", "training_steps"]
