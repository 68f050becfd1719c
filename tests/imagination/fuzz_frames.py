"""Random calls of the C++ frame codec and of the policy's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from iris_fast.models.cpu_weights import require_extension
from tests.imagination.fuzz_inputs import VALUES, Array, Inputs, are_weights, attempt, has_form, is_calm

Shapes = dict[str, tuple[int, ...]]
WEIGHT_SCALE = 0.3  # ten unnormalised convolutions stay far from the largest float32
SPOILED = 0.25  # of the inputs; fewer calls are made than of the token engine, since they take longer
MODEL_REFUSALS = (KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class FrameSizes:
    """Of one tokenizer, as docs/iris.md's part 3 names its parts."""

    side: int
    channels: int
    stem: int
    widths: tuple[int, ...]
    residual_blocks: int
    attention_resolutions: tuple[int, ...]
    latent_channels: int
    embed_dim: int
    vocabulary: int
    groups: int
    background: bool

    @property
    def resolution(self) -> int:
        return self.side << len(self.widths) - 1

    @property
    def frame(self) -> tuple[int, int, int]:
        return self.channels, self.resolution, self.resolution


def convolution(name: str, outputs: int, inputs: int, side: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def residual(name: str, outputs: int, inputs: int) -> Shapes:
    shapes = norm(f"{name}.norm1", inputs) | convolution(f"{name}.conv1", outputs, inputs, 3)
    shapes |= norm(f"{name}.norm2", outputs) | convolution(f"{name}.conv2", outputs, outputs, 3)
    return shapes if outputs == inputs else shapes | convolution(f"{name}.nin_shortcut", outputs, inputs, 1)


def attention(name: str, channels: int) -> Shapes:
    shapes = norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= convolution(f"{name}.{part}", channels, channels, 1)
    return shapes


def middle(name: str, channels: int) -> Shapes:
    blocks = residual(f"{name}.block_1", channels, channels) | residual(f"{name}.block_2", channels, channels)
    return blocks | attention(f"{name}.attn_1", channels)


def level(sizes: FrameSizes, name: str, index: int, inputs: int, blocks: int) -> Shapes:
    width = sizes.widths[index]
    shapes: Shapes = {}
    for block in range(blocks):
        shapes |= residual(f"{name}.block.{block}", width, width if block else inputs)
        if sizes.resolution >> index in sizes.attention_resolutions:
            shapes |= attention(f"{name}.attn.{block}", width)
    return shapes


def frame_shapes(sizes: FrameSizes) -> Shapes:
    """The tokenizer's state dict."""
    finest, last = sizes.widths[0], sizes.widths[-1]
    shapes: Shapes = {"embedding.weight": (sizes.vocabulary, sizes.embed_dim)}
    shapes |= convolution("encoder.conv_in", sizes.stem, sizes.channels, 3)
    shapes |= convolution("encoder.conv_out", sizes.latent_channels, last, 3)
    shapes |= convolution("pre_quant_conv", sizes.embed_dim, sizes.latent_channels, 1)
    shapes |= convolution("post_quant_conv", sizes.latent_channels, sizes.embed_dim, 1)
    shapes |= convolution("decoder.conv_in", last, sizes.latent_channels, 3)
    shapes |= convolution("decoder.conv_out", sizes.channels, finest, 3)
    shapes |= norm("encoder.norm_out", last) | norm("decoder.norm_out", finest)
    shapes |= middle("encoder.mid", last) | middle("decoder.mid", last)
    for index, width in enumerate(sizes.widths):
        down, up = f"encoder.down.{index}", f"decoder.up.{index}"
        finer = sizes.widths[index - 1] if index else sizes.stem
        coarser = sizes.widths[min(index + 1, len(sizes.widths) - 1)]
        shapes |= level(sizes, down, index, finer, sizes.residual_blocks)
        shapes |= level(sizes, up, index, coarser, sizes.residual_blocks + 1)
        if index + 1 < len(sizes.widths):
            shapes |= convolution(f"{down}.downsample.conv", width, width, 3)
        if index:
            shapes |= convolution(f"{up}.upsample.conv", width, width, 3)
    return shapes | ({"background": sizes.frame} if sizes.background else {})


def policy_shapes(widths: Sequence[int]) -> Shapes:
    """The convolutional part of the actor-critic's state dict; `widths`: a frame's channels, and after each one."""
    shapes: Shapes = {}
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= convolution(f"conv{index + 1}", outputs, inputs, 3)
    return shapes


@dataclass(frozen=True)
class Codec:
    codec: Any
    sizes: FrameSizes
    calm: bool


@dataclass(frozen=True)
class Policy:
    features: Any
    frame: tuple[int, int, int]
    count: int
    calm: bool


class FrameCalls(Inputs):
    """Makes codecs and policies of random sizes, and calls them."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.extension = require_extension()
        self.codecs: list[Codec] = []
        self.policies: list[Policy] = []

    def pool(self) -> Any:
        """A pool of threads; Refused for a number that cannot be."""
        fits = self.chance(0.9)
        threads = self.whole(1, 4) if fits else self.pick((0, -1, 2**40, None, 1.5))
        return attempt(lambda: self.extension.ThreadPool(threads), fits=fits)

    def group(self) -> tuple[int, bool]:
        """A group size, and whether it can be."""
        group = self.whole(0, 9) if self.chance(0.95) else self.pick((1024, 1025, 2**40))
        return group, group <= 1024

    def simd(self) -> str:
        return str(self.pick([*self.extension.simd_levels(), "auto"]))

    def frame_sizes(self) -> FrameSizes:
        levels = self.pick((1, 1, 2, 2, 3, 4))
        groups = self.whole(1, 6)
        side = self.whole(1, 24 >> levels - 1)
        resolutions = [side << index for index in range(levels)]
        attending = [size for size in (*resolutions, 5, 1000) if self.chance(0.4)]
        return FrameSizes(
            side=side,
            channels=self.pick((1, 2, 3, 3, 5, 16)),
            stem=groups * self.whole(1, 6),
            widths=tuple(groups * self.whole(1, 6) for _ in range(levels)),
            residual_blocks=self.whole(1, 2),
            attention_resolutions=tuple(attending),
            latent_channels=self.whole(1, 20),
            embed_dim=self.whole(1, 40),
            vocabulary=self.whole(1, 30),
            groups=groups,
            background=self.chance(0.3),
        )

    def frame_model(self) -> None:
        sizes = self.frame_sizes()
        shapes = frame_shapes(sizes)
        weights = self.spoiled_weights(self.filled(shapes, WEIGHT_SCALE))
        options: dict[str, Any] = {
            "resolution": sizes.resolution,
            "widths": list(sizes.widths),
            "residual_blocks": sizes.residual_blocks,
            "attention_resolutions": list(sizes.attention_resolutions),
            "norm_groups": sizes.groups,
            "norm_epsilon": self.pick((1e-6, 1e-3)),
            "simd": self.simd(),
            "decoder_dtype": self.pick(("float32", "int8")),
        }
        # The number of codewords is read from the weights: any but none fits. So does a background left out.
        embedding = weights.get("embedding.weight")
        if isinstance(embedding, np.ndarray) and embedding.ndim == 2 and len(embedding) > 0:
            shapes["embedding.weight"] = (len(embedding), sizes.embed_dim)
        if "background" not in weights:
            shapes.pop("background", None)
        fits: bool | None = are_weights(weights, shapes)
        if fits and options["decoder_dtype"] == "int8" and not is_calm(*weights.values()):
            fits = None  # which cannot hold every number
        if self.chance(0.1):
            options[self.pick(sorted(options))] = self.pick(
                (*VALUES, "", None, self.size(), [], [2**62], [8, 0])
            )
            fits = None
        model = attempt(
            lambda: self.extension.FrameModel(weights, **options), fits=fits, refusals=MODEL_REFUSALS
        )
        if fits:  # an option that happened to work may have changed the sizes
            pool, (group, group_fits) = self.pool(), self.group()
            codec = attempt(lambda: self.extension.FrameCodec(model, pool, group_size=group), fits=group_fits)
            sizes = FrameSizes(**{**vars(sizes), "vocabulary": len(weights["embedding.weight"])})
            self.codecs = [*self.codecs[-5:], Codec(codec, sizes, is_calm(*weights.values()))]

    def decode(self) -> None:
        if not self.codecs:
            return
        made: Codec = self.pick(self.codecs)
        sizes, batch = made.sizes, self.whole(0, 9)
        slots = sizes.side**2
        tokens = self.spoiled(self.random.integers(0, sizes.vocabulary, (batch, slots)), SPOILED)
        fits = has_form(tokens, np.int64, (len(tokens) if np.ndim(tokens) else 0, slots), sizes.vocabulary)
        frames = attempt(lambda: made.codec.decode(tokens), fits=fits)
        self.check(frames, (len(tokens), *sizes.frame), made.calm)
        if made.calm:
            assert ((frames >= 0) & (frames <= 1)).all()
        if len(tokens):
            row = self.whole(0, len(tokens) - 1)
            assert np.array_equal(
                made.codec.decode(tokens[row : row + 1]), frames[row : row + 1], equal_nan=True
            )

    def encode(self) -> None:
        if not self.codecs:
            return
        made: Codec = self.pick(self.codecs)
        sizes = made.sizes
        frames = self.spoiled_frames(sizes.frame)
        latents = self.of_frames(made.codec.encode, frames, sizes.frame)
        self.check(latents, (len(frames), sizes.side**2, sizes.embed_dim), made.calm and is_calm(frames))
        tokens = self.of_frames(made.codec.tokenize, frames, sizes.frame)
        assert tokens.shape == latents.shape[:2] and tokens.dtype == np.int64
        assert ((tokens >= 0) & (tokens < sizes.vocabulary)).all()

    def policy(self) -> None:
        convolutions = self.whole(1, 5)
        resolution = self.whole(1 << convolutions, (1 << convolutions) + 20)
        channels = self.pick((1, 2, 3, 3, 5, 16))
        widths = [channels, *(self.whole(1, 40) for _ in range(convolutions))]
        shapes = policy_shapes(widths)
        weights = self.spoiled_weights(self.filled(shapes, WEIGHT_SCALE))
        group, group_fits = self.group()
        options: dict[str, Any] = {
            "resolution": resolution,
            "convolutions": convolutions,
            "group_size": group,
            "simd": self.simd(),
        }
        fits: bool | None = are_weights(weights, shapes) and group_fits
        if self.chance(0.1):
            options[self.pick(sorted(options))] = self.pick((*VALUES, "", None, self.size(), []))
            fits = None
        pool = self.pool()
        features = attempt(
            lambda: self.extension.PolicyFeatures(weights, pool, **options),
            fits=fits,
            refusals=MODEL_REFUSALS,
        )
        if fits:
            count = widths[-1] * (resolution >> convolutions) ** 2
            made = Policy(features, (channels, resolution, resolution), count, is_calm(*weights.values()))
            self.policies = [*self.policies[-5:], made]

    def features(self) -> None:
        if not self.policies:
            return
        made: Policy = self.pick(self.policies)
        frames = self.spoiled_frames(made.frame)
        found = self.of_frames(made.features.compute, frames, made.frame)
        self.check(found, (len(frames), made.count), made.calm and is_calm(frames))

    def spoiled_frames(self, frame: tuple[int, int, int]) -> Any:
        return self.spoiled(self.random.random((self.whole(0, 9), *frame), np.float32), SPOILED)

    def of_frames(self, call: Any, frames: Any, frame: tuple[int, int, int]) -> Array:
        """What `call` gives for a batch of frames, and, to the bit, for one of them alone."""
        fits = has_form(frames, np.float32, (len(frames) if np.ndim(frames) else 0, *frame))
        found: Array = attempt(lambda: call(frames), fits=fits)
        if len(frames):
            row = self.whole(0, len(frames) - 1)
            assert np.array_equal(call(frames[row : row + 1]), found[row : row + 1], equal_nan=True)
        return found

    def check(self, found: Array, shape: tuple[int, ...], finite: bool) -> None:
        """That a result has its form, and is finite where what it came from is."""
        assert found.dtype == np.float32 and found.shape == shape
        assert not finite or np.isfinite(found).all()
