"""The C++ codec's int8 decoder convolves integers, and rounds only as much as that implies."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.test_frame_codec import CONFIGS, decoded, error, inputs, make_codec, make_tokenizer


def in_integers(x: Tensor) -> Tensor:
    """Each row, all but the first dimension, as integers from -127 to 127 times the row's scale."""
    scale = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True) / 127
    return (x / scale).round() * scale


def convolved_in_integers(module: nn.Conv2d, args: tuple[Tensor], _: Tensor) -> Tensor:
    return F.conv2d(in_integers(args[0]), in_integers(module.weight), module.bias, padding=1)


def enlarged_in_integers(module: nn.Conv2d, args: tuple[Tensor], _: Tensor) -> Tensor:
    """Of a map enlarged twice: each position sees 2 × 2 different ones, by sums of the filter's weights."""
    small = F.pad(in_integers(args[0][:, :, ::2, ::2]), (1, 1, 1, 1))
    lines = {0: ((0,), (1, 2)), 1: ((0, 1), (2,))}  # the filter's lines that fall on one line of the input
    out = torch.empty(len(small), module.out_channels, *args[0].shape[2:])
    for down, right in itertools.product((0, 1), (0, 1)):
        weight = torch.stack(
            [
                torch.stack([module.weight[:, :, y][..., x].sum((2, 3)) for x in lines[right]], dim=-1)
                for y in lines[down]
            ],
            dim=-2,
        )
        part = F.conv2d(small, in_integers(weight), module.bias)
        size = out.shape[2] // 2
        out[:, :, down::2, right::2] = part[:, :, down : down + size, right : right + size]
    return out


@torch.no_grad()
def int8_errors(name: str, seed: int = 0) -> tuple[float, float, float]:
    """Of the codec's frames against PyTorch's modules of such integers; of either against float32's."""
    tokenizer = make_tokenizer(name, seed)
    tokens, frames = inputs(tokenizer, 3)
    codec = make_codec(tokenizer, decoder_dtype="int8")
    exact, found = decoded(tokenizer, tokens), codec.frames_of(tokens)
    assert torch.equal(codec.latents_of(frames), make_codec(tokenizer).latents_of(frames))
    for module_name, module in tokenizer.decoder.named_modules():
        if isinstance(module, nn.Conv2d) and module_name.endswith(("conv1", "conv2")):
            module.register_forward_hook(convolved_in_integers)
        elif isinstance(module, nn.Conv2d) and module_name.endswith("upsample.conv"):
            module.register_forward_hook(enlarged_in_integers)
    expected = decoded(tokenizer, tokens)
    return error(found, expected.double()), error(found, exact.double()), error(expected, exact.double())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["one_level", "two_small_levels"])
def test_the_int8_decoder_convolves_integers(name: str, seed: int) -> None:
    """Of so few numbers that float32 rounding turns none of them into its neighbour."""
    difference, rounding, _ = int8_errors(name, seed)
    assert rounding > 1e-4 and difference < 1e-2 * rounding


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_int8_decoder_rounds_as_much_as_its_definition(name: str) -> None:
    """Of more numbers some are turned, and then others: the frames are others, but no further off."""
    _, rounding, expected = int8_errors(name)
    assert 0.5 * expected < rounding < 2 * expected < 0.2


def test_an_int8_decoder_of_weights_that_are_not_finite() -> None:
    tokenizer = make_tokenizer("tiny")
    with torch.no_grad():
        tokenizer.decoder.mid.block_1.conv1.weight[0, 0, 1, 1] = float("nan")  # type: ignore[union-attr, operator]
    tokens, _ = inputs(tokenizer, 1)
    with pytest.raises(ValueError, match=r"conv1\.weight holds nan.*int8.*float32"):
        make_codec(tokenizer, decoder_dtype="int8").frames_of(tokens)
