"""Every case, registered by being imported here."""

from . import ball, memory, token_cache, training_steps

__all__ = ["ball", "memory", "token_cache", "training_steps"]
