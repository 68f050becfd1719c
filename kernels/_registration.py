"""Where the operators of this folder are registered in `torch.library`."""

from __future__ import annotations

# Named after the package, so that a copy of this folder in another package can be loaded beside this one.
NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")
