"""GroupNorm by our kernel or by PyTorch, independent of the device's default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels import group_norm_swish
from iris_fast.models.group_norm import EPS, GroupNorm


@contextmanager
def group_norm_of(fused: bool) -> Iterator[None]:
    """GroupNorm as on a GPU: our kernel, or PyTorch's and a SiLU (on a CPU it takes a way of its own)."""

    def forward(self: GroupNorm, x: Tensor) -> Tensor:
        if fused:
            return group_norm_swish(x, self.num_groups, self.weight, self.bias, EPS, swish=self.swish)
        normed = F.group_norm(x, self.num_groups, self.weight, self.bias, EPS)
        return F.silu(normed) if self.swish else normed

    with mock.patch.object(GroupNorm, "forward", forward):
        yield
