"""The perceptual part of the tokenizer's loss: LPIPS, and a substitute that needs no download.

LPIPS: Zhang et al., *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*, CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_fast.kernels.common.arithmetic import without_autocast

from .cpu_training import Dropout

# (slice name, index within VGG-16's `features`, in, out) of each convolution; a slice ends at a tapped ReLU.
VGG_SLICES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)
LPIPS_CHANNELS = (64, 128, 256, 512, 512)


class ScalingLayer(nn.Module):
    """Shift and scale from [-1, 1] to the statistics VGG-16 was trained on."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class VGG16Features(nn.Module):
    """VGG-16's convolutional layers, tapped after relu1_2, 2_2, 3_3, 4_3 and 5_3."""

    def __init__(self) -> None:
        super().__init__()
        for number, convolutions in enumerate(VGG_SLICES, start=1):
            layers = nn.ModuleDict(
                {
                    str(index): nn.Conv2d(fan_in, fan_out, 3, padding=1)
                    for index, fan_in, fan_out in convolutions
                }
            )
            self.add_module(f"slice{number}", layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for number in range(1, len(VGG_SLICES) + 1):
            if number > 1:
                x = F.max_pool2d(x, 2)
            for convolution in self.get_submodule(f"slice{number}").children():
                x = F.relu(convolution(x))
            features.append(x)
        return features


class LinearLayer(nn.Module):
    """Dropout (p = 0.5, as published) and a 1x1 convolution to one channel without bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(Dropout(0.5), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.model[0](x)
        with without_autocast(x.device):  # small differences, always in float32
            return self.model[1](x)


class LPIPS(nn.Module):
    """Frozen perceptual distance of two batches of frames `(batch, 3, height, width)` in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = ScalingLayer()
        self.net = VGG16Features()
        for index, channels in enumerate(LPIPS_CHANNELS):
            self.add_module(f"lin{index}", LinearLayer(channels))
        self.requires_grad_(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distance of each pair, `(batch, 1, 1, 1)`."""
        predicted = self._unit_features(prediction)
        with torch.set_grad_enabled(torch.is_grad_enabled() and target.requires_grad):
            wanted = self._unit_features(target)
        distance = prediction.new_zeros(())
        for index, (one, other) in enumerate(zip(predicted, wanted, strict=True)):
            weighted = self.get_submodule(f"lin{index}")((one - other).square())
            distance = distance + weighted.mean((2, 3), keepdim=True)
        return distance

    def _unit_features(self, x: Tensor) -> list[Tensor]:
        """Each tapped layer's features of frames, of length one at every position."""
        tapped = [f.to(torch.promote_types(f.dtype, torch.float32)) for f in self.net(self.scaling_layer(x))]
        return [features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10) for features in tapped]


@dataclass(frozen=True)
class WholeBatch:
    """What the losses of moving things need of a batch of which only a part is here.

    `background`: `(channels, height, width)`, the per-pixel median of the batch's targets; `mean`: of a number over
    the parts, all of one size. So the mean of the parts' losses is the loss of the batch.
    """

    background: Tensor
    mean: Callable[[Tensor], Tensor]


def _background(target: Tensor, whole: WholeBatch | None) -> Tensor:
    return target.median(dim=0, keepdim=True).values if whole is None else whole.background[None]


def _adding_to_one(weight: Tensor, whole: WholeBatch | None) -> Tensor:
    total = weight.sum() if whole is None else whole.mean(weight.sum())
    return weight / total.clamp_min(1e-6)


def foreground_loss(prediction: Tensor, target: Tensor, whole: WholeBatch | None = None) -> Tensor:
    """Mean squared error of the pixels that stand out from the batch's background.

    A plain mean hides a ball of a few pixels among 4,096. Here a pixel's weight is its distance from the background
    (the per-pixel median of the batch), and the weights of the batch sum to one. So foreground of any area counts as
    much as the whole frame does in the reconstruction loss. A predicted pixel that stands out wrongly (a ball left
    behind) counts in the same way. The error is squared: an absolute error is smallest with background everywhere
    until the decoder places an object to the pixel, and learns three times as slowly (`benchmarks/LOG.md`).
    `prediction`, `target`: `(batch, channels, height, width)`; returns a scalar.
    """
    with torch.no_grad():
        background = _background(target, whole)
        distance = torch.maximum((target - background).abs(), (prediction - background).abs())
        weight = _adding_to_one(distance.amax(dim=1, keepdim=True).expand_as(target), whole)
    return ((prediction - target).square() * weight).sum()


OBJECT_THRESHOLD = 0.1  # of the range from -1 to 1; smaller differences count as noise
OBJECT_WINDOW = 15  # side in pixels of the neighbourhood that shares one weight


def objects_loss(prediction: Tensor, target: Tensor, whole: WholeBatch | None = None) -> Tensor:
    """Mean squared error of the pixels that stand out, with the same total weight for every object.

    As in `foreground_loss`, a pixel's weight is its distance d from the per-pixel median of the batch, in the target
    or the prediction, whichever is larger. There, a ball of 4 pixels weighs a hundredth of a changing score, and
    faint errors of thousands of background pixels outweigh both. So here a threshold is subtracted from d, and the
    result is divided by its mean over a window of 15 x 15 pixels. An object alone in its window then has the same
    total weight, whatever its size and brightness. The weights of the batch sum to one. `prediction`, `target`:
    `(batch, channels, height, width)` in [-1, 1]; returns a scalar."""
    with torch.no_grad():
        background = _background(target, whole)
        distance = torch.maximum((target - background).abs(), (prediction - background).abs())
        distance = (distance.amax(dim=1, keepdim=True) - OBJECT_THRESHOLD).clamp_min(0)
        around = F.avg_pool2d(distance, OBJECT_WINDOW, stride=1, padding=OBJECT_WINDOW // 2)
        weight = _adding_to_one(distance / (around + 1e-3), whole)
    return ((prediction - target).square().mean(dim=1, keepdim=True) * weight).sum()
