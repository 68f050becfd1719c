"""Tests of reading and writing checkpoints."""
