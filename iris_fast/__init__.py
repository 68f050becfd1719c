"""The IRIS world-model agent (Micheli et al., ICLR 2023) on Atari, trained fast on one GPU or none."""

__version__ = "0.1.0"
