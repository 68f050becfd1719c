"""The C++ frame codec computes what the tokenizer's modules compute, and refuses what it cannot read."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_fast.config.presets import small, tiny
from iris_fast.models.autoencoder import AutoencoderConfig, EncoderConfig
from iris_fast.models.cpu_weights import require_extension, weight_arrays
from iris_fast.models.frame_codec import AgentCoder, DecoderDtype, FrameCodec, pack_tokenizer
from iris_fast.models.tokenizer import Tokenizer, TokenizerConfig, in_pieces, nearest_codeword
from tests.support.agents import redrawn
from tests.support.properties import given, settings, st

EXTENSION = require_extension()

LEVELS: list[str] = EXTENSION.simd_levels()


def sizes(embed_dim: int = 24, vocab_size: int = 19, **autoencoder: Any) -> TokenizerConfig:
    config = AutoencoderConfig(**autoencoder)
    return TokenizerConfig(vocab_size, embed_dim, EncoderConfig(config), perceptual="none")


# Channels that fill whole vectors and that do not, maps of even and odd sizes, levels with and without attention.
CONFIGS = {
    "tiny": tiny().tokenizer,
    "small": small().tokenizer,
    "paper_but_smaller": sizes(512, resolution=16, ch_mult=(1, 1, 1), attn_resolutions=(8, 4)),
    "odd": sizes(
        resolution=44,
        ch=12,
        ch_mult=(1, 2, 3),
        num_res_blocks=1,
        attn_resolutions=(11,),
        z_channels=20,
        norm_groups=6,
    ),
    "one_level": sizes(resolution=5, ch=24, ch_mult=(1,), attn_resolutions=(5,), z_channels=7, norm_groups=3),
    "two_small_levels": sizes(
        resolution=4, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), norm_groups=4, z_channels=5
    ),
    "wide": sizes(resolution=8, ch=80, ch_mult=(1, 2), num_res_blocks=1, norm_groups=16, z_channels=32),
}


def make_tokenizer(name: str, seed: int = 0) -> Tokenizer:
    tokenizer = redrawn(Tokenizer(CONFIGS[name]), seed).eval()
    if tokenizer.config.background:
        tokenizer.background.uniform_(generator=torch.Generator().manual_seed(seed))
    return tokenizer


def make_codec(
    tokenizer: Tokenizer,
    threads: int = 1,
    group_size: int = 0,
    simd: str = "auto",
    decoder_dtype: DecoderDtype = "float32",
) -> FrameCodec:
    return FrameCodec(
        tokenizer,
        EXTENSION.ThreadPool(threads),
        group_size=group_size,
        simd=simd,
        decoder_dtype=decoder_dtype,
    )


def inputs(tokenizer: Tokenizer, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens `(batch, slots)` and frames in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    config = tokenizer.config
    size = config.autoencoder.resolution
    tokens = torch.randint(config.vocab_size, (batch, config.tokens_per_frame), generator=generator)
    return tokens, torch.rand(batch, 3, size, size, generator=generator)


@torch.no_grad()
def latents(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    """Latents `(batch, slots, embed_dim)` before quantization, in the modules' own dtype."""
    if tokenizer.config.background:
        frames = frames - tokenizer.background + 0.5
    z = tokenizer.pre_quant_conv(tokenizer.encoder(frames * 2 - 1))
    return z.flatten(2).transpose(1, 2)


@torch.no_grad()
def decoded(tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
    side = tokenizer.config.autoencoder.latent_resolution
    z = tokenizer.embedding(tokens).unflatten(1, (side, side)).permute(0, 3, 1, 2)
    frames = (tokenizer.decoder(tokenizer.post_quant_conv(z)) + 1) / 2
    if tokenizer.config.background:
        frames = frames - 0.5 + tokenizer.background
    return frames.clamp(0, 1)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).square().mean().sqrt())


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_further_from_the_exact_result_than_pytorch(name: str) -> None:
    tokenizer = make_tokenizer(name)
    exact = copy.deepcopy(tokenizer).double()
    tokens, frames = inputs(tokenizer, 3)
    codec = make_codec(tokenizer)
    exact_frames, exact_latents = decoded(exact, tokens), latents(exact, frames.double())
    assert float(exact_frames.std()) > 0.1 and float(exact_latents.std()) > 0.05
    assert error(codec.frames_of(tokens), exact_frames) <= 2 * error(decoded(tokenizer, tokens), exact_frames)
    ours, theirs = codec.latents_of(frames), latents(tokenizer, frames)
    assert error(ours, exact_latents) <= 2 * error(theirs, exact_latents)
    torch.testing.assert_close(codec.frames_of(tokens), tokenizer.frames_of(tokens), rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_tokens_are_the_tokenizers_but_for_near_ties(name: str) -> None:
    tokenizer = make_tokenizer(name)
    frames = inputs(tokenizer, 6)[1]
    tokens = make_codec(tokenizer).tokens_of(frames)
    exact = copy.deepcopy(tokenizer).double()
    distances = torch.cdist(latents(exact, frames.double()), exact.embedding.weight.detach())
    nearest = distances.topk(2, largest=False).values
    clear = nearest[..., 1] - nearest[..., 0] > 1e-4
    assert float(clear.double().mean()) > 0.9
    assert torch.equal(tokens[clear], tokenizer.tokens_of(frames)[clear])
    assert len(tokens.unique()) > 1


@pytest.mark.parametrize("mean", [0.0, 30.0, 300.0, 1000.0])
def test_tokens_are_the_nearest_however_far_from_the_origin(mean: float) -> None:
    tokenizer = make_tokenizer("tiny")
    with torch.no_grad():
        tokenizer.pre_quant_conv.bias.add_(mean)  # type: ignore[union-attr]
    frames = inputs(tokenizer, 6)[1]
    vectors = make_codec(tokenizer).latents_of(frames).flatten(0, 1)
    with torch.no_grad():
        some = vectors[:: len(vectors) // tokenizer.config.vocab_size][: tokenizer.config.vocab_size]
        tokenizer.embedding.weight.copy_(some + 0.01 * torch.randn(some.shape))
    tokenizer.weights_changed()
    exact = torch.cdist(vectors.double(), tokenizer.embedding.weight.detach().double()).argmin(1)
    tokens = make_codec(tokenizer).tokens_of(frames)
    assert torch.equal(tokens.flatten(), exact)
    assert torch.equal(nearest_codeword(vectors, tokenizer.embedding.weight), exact)


@given(
    name=st.sampled_from(["tiny", "odd", "one_level", "wide"]),
    batch=st.integers(0, 6),
    threads=st.integers(1, 3),
    group_size=st.integers(0, 7),
    simd=st.sampled_from(LEVELS),
    decoder_dtype=st.sampled_from(["float32", "int8"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_the_same_bits_for_any_threads_groups_and_simd_level(
    name: str,
    batch: int,
    threads: int,
    group_size: int,
    simd: str,
    decoder_dtype: DecoderDtype,
    seed: int,
) -> None:
    tokenizer = make_tokenizer(name, seed)
    tokens, frames = inputs(tokenizer, batch, seed)
    plain = make_codec(tokenizer, group_size=1, decoder_dtype=decoder_dtype)
    other = make_codec(tokenizer, threads, group_size, simd, decoder_dtype)
    found = other.frames_of(tokens)
    assert torch.equal(found, plain.frames_of(tokens))
    assert torch.equal(other.latents_of(frames), plain.latents_of(frames))
    assert torch.equal(other.tokens_of(frames), plain.tokens_of(frames))
    assert found.shape == frames.shape
    if batch:
        assert torch.equal(other.tokens_of(frames[-1:]), other.tokens_of(frames)[-1:])
        assert torch.equal(found[-1:], other.frames_of(tokens[-1:]))  # whatever else is in the batch


@pytest.mark.parametrize("fused", [False, True])  # fused optimizers do not count versions of what they change
def test_weights_are_packed_again_when_they_changed(fused: bool) -> None:
    tokenizer = make_tokenizer("tiny")
    codec, (tokens, frames) = make_codec(tokenizer), inputs(tokenizer, 2)
    before = codec.frames_of(tokens), codec.latents_of(frames)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=0.1, fused=fused)
    torch.stack(list(tokenizer.losses(frames).values())).sum().backward()
    optimizer.step()
    tokenizer.weights_changed(in_place=True)
    after = codec.frames_of(tokens), codec.latents_of(frames)
    for old, new in zip(before, after, strict=True):
        assert not torch.allclose(old, new, atol=1e-3)
    torch.testing.assert_close(after[0], tokenizer.frames_of(tokens), rtol=0, atol=1e-4)
    tokenizer.load_state_dict(make_tokenizer("tiny").state_dict())
    assert torch.equal(codec.frames_of(tokens), before[0])


def test_a_new_background_is_a_new_weight() -> None:
    tokenizer = make_tokenizer("small")
    assert tokenizer.config.background
    codec, (tokens, frames) = make_codec(tokenizer), inputs(tokenizer, 2)
    before = codec.frames_of(tokens)
    tokenizer.set_background(frames)
    after = codec.frames_of(tokens)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, tokenizer.frames_of(tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_is_of_the_copied_tokenizer(copied_by: Callable[[Any], Any]) -> None:
    tokenizer = make_tokenizer("tiny")
    coder, tokens = AgentCoder(tokenizer), inputs(tokenizer, 2)[0]
    before = coder.frames_of(tokens)
    copied_tokenizer, copied = copied_by((tokenizer, coder))
    assert copied.tokenizer is copied_tokenizer
    with torch.no_grad():
        tokenizer.embedding.weight.neg_()
    tokenizer.weights_changed()
    assert torch.equal(copied.frames_of(tokens), before)
    assert not torch.equal(coder.frames_of(tokens), before)


def test_an_agents_coder_is_the_codec_where_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer("tiny")
    coder, (tokens, frames) = AgentCoder(tokenizer), inputs(tokenizer, 9)
    assert torch.equal(coder.frames_of(tokens), make_codec(tokenizer).frames_of(tokens))
    tokenizer.double()
    assert torch.equal(coder.frames_of(tokens), in_pieces(tokenizer.frames_of, tokens, pad=True))
    tokenizer.float()
    monkeypatch.setattr("iris_fast.models.frame_codec.find_extension", lambda: None)
    assert torch.equal(coder.frames_of(tokens), in_pieces(tokenizer.frames_of, tokens, pad=True))
    assert torch.equal(coder.tokens_of(frames), in_pieces(tokenizer.tokens_of, frames, pad=True))


def test_frames_in_any_memory_layout() -> None:
    tokenizer = make_tokenizer("tiny")
    codec, frames = make_codec(tokenizer), inputs(tokenizer, 3)[1]
    other = frames.contiguous(memory_format=torch.channels_last)
    assert torch.equal(codec.latents_of(other), codec.latents_of(frames))


def test_not_a_number_stays_in_its_frame() -> None:
    tokenizer = make_tokenizer("tiny")
    codec, frames = make_codec(tokenizer), inputs(tokenizer, 3)[1]
    clean = codec.latents_of(frames)
    frames[1, 0, 3, 4] = torch.nan
    spoilt = codec.latents_of(frames)
    assert torch.isnan(spoilt[1]).any()
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])
    tokens = codec.tokens_of(frames)
    assert not tokens[1][~spoilt[1].isfinite().all(dim=1)].any()
    assert torch.equal(tokens[[0, 2]], codec.tokens_of(frames.nan_to_num(0.5))[[0, 2]])


def test_the_first_of_equal_codewords_and_none_that_is_not_finite() -> None:
    tokenizer = make_tokenizer("tiny")
    codec, frames = make_codec(tokenizer), inputs(tokenizer, 8)[1]
    codewords = tokenizer.embedding.weight.detach()
    with torch.no_grad():
        codewords[1::2] = codewords[::2]
        tokens = codec.tokens_of(frames)
        assert len(tokens.unique()) > 1 and not (tokens % 2).any()
        spoilt = int(tokens[0, 0])
        codewords[spoilt, 0] = torch.nan
        codewords[spoilt + 1] = 1e30
    tokenizer.weights_changed()
    others = codec.tokens_of(frames)
    assert torch.equal(others[tokens != spoilt], tokens[tokens != spoilt])
    assert not torch.isin(others, torch.tensor([spoilt, spoilt + 1])).any()


@pytest.mark.parametrize(
    ("tokens", "kind", "message"),
    [
        (np.full((2, 16), 32), ValueError, r"tokens must be in \[0, 32\), not 32"),
        (np.full((2, 16), -1), ValueError, "not -1"),
        (np.zeros((2, 15), np.int64), ValueError, r"\(2, 16\), got \(2, 15\)"),
        (np.zeros((2, 4, 4), np.int64), ValueError, "2 dimension"),
        (np.zeros((), np.int64), ValueError, "batch dimension"),
        (np.zeros((2, 16), np.int32), TypeError, "int64"),
        (np.zeros((16, 2), np.int64).T, ValueError, "contiguous"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: np.ndarray, kind: type[Exception], message: str) -> None:
    codec = EXTENSION.FrameCodec(pack_tokenizer(make_tokenizer("tiny")), EXTENSION.ThreadPool(1))
    with pytest.raises(kind, match=message):
        codec.decode(tokens)


@pytest.mark.parametrize(
    ("frames", "kind", "message"),
    [
        (np.zeros((2, 3, 64, 63), np.float32), ValueError, r"\(2, 3, 64, 64\)"),
        (np.zeros((2, 1, 64, 64), np.float32), ValueError, r"\(2, 3, 64, 64\)"),
        (np.zeros((3, 64, 64), np.float32), ValueError, "4 dimension"),
        (np.zeros((2, 3, 64, 64)), TypeError, "float32"),
        (np.zeros((2, 64, 64, 3), np.float32).transpose(0, 3, 1, 2), ValueError, "contiguous"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames: np.ndarray, kind: type[Exception], message: str) -> None:
    codec = EXTENSION.FrameCodec(pack_tokenizer(make_tokenizer("tiny")), EXTENSION.ThreadPool(1))
    with pytest.raises(kind, match=message):
        codec.encode(frames)


def packed_with(change: Callable[[dict[str, Any]], Any], **arguments: Any) -> object:
    weights: dict[str, Any] = dict(weight_arrays(make_tokenizer("tiny")))
    change(weights)
    fitting: dict[str, Any] = {
        "resolution": 64,
        "widths": [8, 8, 16, 32, 32],
        "residual_blocks": 1,
        "attention_resolutions": [],
        "norm_groups": 8,
        "norm_epsilon": 1e-6,
    }
    return EXTENSION.FrameModel(weights, **(fitting | arguments))


CONV = "decoder.up.3.block.0.conv1.weight"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda w: w.pop(CONV), KeyError, CONV),
        (lambda w: w.update({CONV: w[CONV][:-1]}), ValueError, r"\(32, 32, 3, 3\), got \(31, 32, 3, 3\)"),
        (lambda w: w.update({CONV: w[CONV].astype(np.float64)}), TypeError, "float64"),
        (lambda w: w.update({CONV: w[CONV][:, ::-1]}), ValueError, "contiguous"),
        (lambda w: w.update({CONV: [1.0]}), TypeError, "NumPy array"),
        (lambda w: w.update({"embedding.weight": w["embedding.weight"][0]}), ValueError, "embedding.weight"),
        (lambda w: w.update({"decoder.conv_out.bias": np.zeros(4, np.float32)}), ValueError, "conv_out.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        packed_with(change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 0}, "resolution"),
        ({"resolution": 63}, "multiple of 2"),
        ({"resolution": 2**40}, "resolution"),
        ({"widths": []}, "levels"),
        ({"widths": [8] * 11}, "levels"),
        ({"widths": [8, 8, 16, 32, 36]}, "multiple of norm_groups"),
        ({"widths": [8, 8, 16, 32, 0]}, "width"),
        ({"residual_blocks": 0}, "residual_blocks"),
        ({"norm_groups": 0}, "norm_groups"),
        ({"norm_epsilon": -1.0}, "norm_epsilon"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon"),
        ({"simd": "mmx"}, "simd"),
    ],
)
def test_sizes_that_cannot_be_are_named(arguments: dict[str, Any], message: str) -> None:
    packed_with(lambda weights: None)
    with pytest.raises(ValueError, match=message):
        packed_with(lambda weights: None, **arguments)


def test_a_codec_refuses_what_it_cannot_share() -> None:
    with pytest.raises(ValueError, match="float64"):
        make_codec(make_tokenizer("tiny").double())
    with pytest.raises(ValueError, match="group_size"):
        make_codec(make_tokenizer("tiny"), group_size=2000).frames_of(torch.zeros(1, 16, dtype=torch.int64))
    with pytest.raises(TypeError):
        EXTENSION.FrameCodec(None, EXTENSION.ThreadPool(1))


def test_calls_from_several_threads_at_once() -> None:
    tokenizer = make_tokenizer("small")
    codec = make_codec(tokenizer, threads=2)
    tokens = inputs(tokenizer, 12)[0]
    expected, found = codec.frames_of(tokens), {}

    def decode(rows: int) -> None:
        found[rows] = [codec.frames_of(tokens[:rows]) for _ in range(4)]

    threads = [threading.Thread(target=decode, args=(rows,)) for rows in (5, 9, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, results in found.items():
        assert all(torch.equal(result, expected[:rows]) for result in results)
    assert len(found) == 3


@pytest.mark.usefixtures("interruptible")
def test_interrupting_a_call() -> None:
    tokenizer = make_tokenizer("small")
    codec = make_codec(tokenizer, threads=2)
    tokens = inputs(tokenizer, 8)[0]
    expected = codec.frames_of(tokens)
    many = tokens.repeat(2000, 1)  # takes several seconds
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        codec.frames_of(many)
    assert time.monotonic() - began < 3
    assert torch.equal(codec.frames_of(tokens), expected)
