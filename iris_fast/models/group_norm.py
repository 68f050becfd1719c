"""GroupNorm in channels-last layout: one Triton kernel on a GPU, a fast backward pass on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_fast.kernels import group_norm_swish
from iris_fast.kernels.group_norm_swish import channels_last_gradients, fused_on_cpu

EPS = 1e-6


class _ChannelsLast(torch.autograd.Function):
    """PyTorch's GroupNorm with a backward pass for channels-last memory, the fast layout of CPU convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        batch, channels = x.shape[:2]
        area = x[0, 0].numel()
        y, mean, rstd = torch.ops.aten.native_group_norm(x, weight, bias, batch, channels, area, groups, EPS)
        ctx.save_for_backward(x, mean, rstd, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, mean, rstd, weight = ctx.saved_tensors
        return *channels_last_gradients(gradients[0], x, mean, rstd, weight), None


class GroupNorm(nn.GroupNorm):
    """GroupNorm, eps 1e-6, of `(batch, channels, height, width)`."""

    swish = False

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda" or self._in_one_operation(x):
            return group_norm_swish(x, self.num_groups, self.weight, self.bias, EPS, swish=self.swish)
        values = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16's gradient would be rounding
        exact = values.dtype == self.weight.dtype
        if x.device.type == "cpu" and exact and torch.is_grad_enabled() and len(x):
            normed = _ChannelsLast.apply(values, self.weight, self.bias, self.num_groups)
        else:
            normed = super().forward(x)
        return (F.silu(normed) if self.swish else normed).to(x.dtype)

    def _in_one_operation(self, x: Tensor) -> bool:
        """Whether the C++ extension does all of a training step's GroupNorm of x."""
        training = torch.is_grad_enabled() and x.dim() == 4
        return training and fused_on_cpu(x.flatten(2))


class GroupNormSwish(GroupNorm):
    """GroupNorm followed by swish, the input of every convolution in a residual block."""

    swish = True
