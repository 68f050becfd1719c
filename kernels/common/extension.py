"""The C++ extension, if it was built."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def find_extension() -> ModuleType | None:
    """The module `_C` beside the folder of kernels (`iris_fast._C` for `iris_fast.kernels`), or None if there is
    none.

    Without it, for example where that folder was copied into another package, CPU tensors take the PyTorch
    references. A module of that name that is not ours is left alone. One of ours that cannot be loaded raises its
    ImportError.
    """
    folder = __name__.rsplit(".", 2)[0]
    parent = folder.rpartition(".")[0]
    if not parent:
        return None
    try:
        found = importlib.import_module(f"{parent}._C")
    except ModuleNotFoundError:
        return None
    return found if getattr(found, "iris_fast", False) else None
