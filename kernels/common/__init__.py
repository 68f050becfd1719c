"""Shared by all operations and open to surrounding packages: argument checks, exact arithmetic, Triton."""
