"""`iris_fast.randomness`, under the name that it had first."""

from iris_fast.randomness import Draws, PhiloxDraws, Purpose, derive_seed, numpy_generator

__all__ = ["Draws", "PhiloxDraws", "Purpose", "derive_seed", "numpy_generator"]
