"""GroupNorm with swish on a CPU."""
