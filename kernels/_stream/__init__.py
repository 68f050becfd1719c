"""Layers on a residual stream in parts: arguments and device code."""
