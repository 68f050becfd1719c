"""Python as on a machine that lacks some packages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_SITE = """\
import sys
from importlib.machinery import PathFinder

LACKING = {lacking!r}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in LACKING):
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def lacking(packages: Iterable[str], folder: Path) -> dict[str, str]:
    """The environment of a process in which `packages` are not installed; `folder` is for a file of this."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.format(lacking=tuple(packages)))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}
