"""The convolutional encoder and decoder around the quantizer.

The layers are those of VQGAN (Esser et al. 2021) as IRIS uses them: GroupNorm + swish + 3x3 convolution
residual blocks, single-head attention at low resolutions, stride-2 convolutions down, nearest upsampling up.
Parameter names are those of published IRIS checkpoints, so that a state dict is portable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .group_norm import GroupNorm, GroupNormSwish

FRAME_CHANNELS = 3  # red, green, blue


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the encoder and of the decoder that mirrors it."""

    resolution: int = 64
    ch: int = 64
    ch_mult: tuple[int, ...] = (1, 1, 1, 1, 1)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (8, 16)
    z_channels: int = 512
    dropout: float = 0.0
    norm_groups: int = 32

    @property
    def latent_resolution(self) -> int:
        """Height and width of the token grid."""
        return self.resolution // 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class EncoderConfig:
    """Holds the sizes under the key the public implementation uses: `tokenizer.encoder.config`."""

    config: AutoencoderConfig = field(default_factory=AutoencoderConfig)


class ResnetBlock(nn.Module):
    """Two GroupNorm-swish-convolution stages plus the input (projected when the width changes)."""

    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = GroupNormSwish(config.norm_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNormSwish(config.norm_groups, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.norm1(x))
        hidden = self.conv2(self.dropout(self.norm2(hidden)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return x + hidden


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of `(batch, 1, positions, channels)`, scaled by channels ** -0.5.

    On a CPU in float32 also under autocast: PyTorch's gradient in bfloat16 takes six times as long.
    """
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)


class AttentionBlock(nn.Module):
    """Single-head attention over all positions of the feature map, plus the input."""

    def __init__(self, config: AutoencoderConfig, channels: int):
        super().__init__()
        self.norm = GroupNorm(config.norm_groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        normed = self.norm(x)
        query, key, value = (
            conv(normed).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v)
        )  # each (batch, 1, height*width, channels)
        attended = _attention(query, key, value)
        attended = attended.squeeze(1).transpose(1, 2).reshape(batch, channels, height, width)
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    """3x3 stride-2 convolution on input zero-padded by one on the right and bottom only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest x2 upsampling and a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Residual, attention, residual at the latent resolution."""

    def __init__(self, config: AutoencoderConfig, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(config, channels, channels)
        self.attn_1 = AttentionBlock(config, channels)
        self.block_2 = ResnetBlock(config, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the configuration asks for it."""

    def __init__(self, config: AutoencoderConfig, level: int, in_channels: int, blocks: int):
        """`level` 0 is the finest; its width comes from `ch_mult`, its attention from `attn_resolutions`."""
        super().__init__()
        self.out_channels = config.ch * config.ch_mult[level]
        widths = [in_channels] + [self.out_channels] * (blocks - 1)
        self.block = nn.ModuleList(ResnetBlock(config, width, self.out_channels) for width in widths)
        attends = config.resolution // 2**level in config.attn_resolutions
        self.attn = nn.ModuleList(
            AttentionBlock(config, self.out_channels) for _ in range(blocks if attends else 0)
        )

    def blocks(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x


class DownLevel(Level):
    """A level of the encoder; halves the resolution at its end unless it is the last."""

    def __init__(self, config: AutoencoderConfig, level: int, in_channels: int, blocks: int):
        super().__init__(config, level, in_channels, blocks)
        if level < len(config.ch_mult) - 1:
            self.downsample = Downsample(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class UpLevel(Level):
    """A level of the decoder; doubles the resolution at its end unless it is the last."""

    def __init__(self, config: AutoencoderConfig, level: int, in_channels: int, blocks: int):
        super().__init__(config, level, in_channels, blocks)
        if level > 0:
            self.upsample = Upsample(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class Encoder(nn.Module):
    """Frames `(batch, 3, 64, 64)` in [-1, 1] to latents `(batch, z_channels, 4, 4)`."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.ch * multiple for multiple in config.ch_mult]
        self.conv_in = nn.Conv2d(FRAME_CHANNELS, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(config, level, in_channels, config.num_res_blocks)
            for level, in_channels in enumerate([config.ch, *widths[:-1]])
        )
        self.mid = Middle(config, widths[-1])
        self.norm_out = GroupNormSwish(config.norm_groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    """Latents `(batch, z_channels, 4, 4)` to frames `(batch, 3, 64, 64)` in about [-1, 1]."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.ch * multiple for multiple in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        self.up = nn.ModuleList(  # up.0 is the finest level, as in published checkpoints
            UpLevel(config, level, in_channels, config.num_res_blocks + 1)
            for level, in_channels in enumerate([*widths[1:], widths[-1]])
        )
        self.norm_out = GroupNormSwish(config.norm_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], FRAME_CHANNELS, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(list(self.up)):
            x = level(x)
        return self.conv_out(self.norm_out(x))


def channels_last(module: nn.Module) -> None:
    """Puts the convolutions' weights in channels-last layout, the faster one on CPU and GPU."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
