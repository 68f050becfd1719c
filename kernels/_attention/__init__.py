"""Attention over a KV cache: arguments, sizes of a launch, device code, and the same on a CPU."""
