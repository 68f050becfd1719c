"""A GPU's ways on tensors of a CPU: GroupNorm by our kernel or by PyTorch's, and what only a CPU does left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels import group_norm_swish
from iris_fast.models import cpu_training
from iris_fast.models.actor_critic import ActorCritic
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


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """The operations that a GPU would run: our GroupNorm, the fused recurrence, none that are C++ on a CPU."""
    with (
        group_norm_of(fused=True),
        mock.patch.object(ActorCritic, "_recurrence", ActorCritic._fused_recurrence),
        mock.patch.object(cpu_training, "in_bfloat16", lambda _: False),
    ):
        yield
