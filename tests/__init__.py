"""Tests of iris_fast; the tree mirrors the package."""
