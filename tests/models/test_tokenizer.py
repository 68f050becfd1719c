"""The quantizer's gradients, its ties, its restarts, and the losses that make it learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iris_fast.config import resolve
from iris_fast.models.tokenizer import PIECE, Tokenizer, far_vectors, in_pieces, nearest_codeword
from tests.golden.recipe import golden_lpips
from tests.support.agents import assert_same_gradients, gradients, micro_agent
from tests.support.micro import micro_config

BATCH = 5


def make_tokenizer(*overrides: str) -> Tokenizer:
    return micro_agent("tokenizer.perceptual=none", *overrides).tokenizer


def some_frames(batch: int = BATCH, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_the_encoder_gets_the_decoders_gradient() -> None:
    tokenizer, frames = make_tokenizer(), some_frames()
    tokenizer.losses(frames)["reconstruction_loss"].backward()
    found = gradients(tokenizer.named_parameters())
    assert "embedding.weight" not in found, "nothing of the reconstruction reaches the codebook"

    tokenizer.zero_grad()
    encoding = tokenizer.encode(frames)
    z_quantized = encoding.z_quantized.detach().requires_grad_()
    loss = ((frames * 2 - 1) - (tokenizer.decode(z_quantized) * 2 - 1)).abs().mean()
    loss.backward()
    assert z_quantized.grad is not None
    encoding.z.backward(z_quantized.grad)
    expected = gradients(tokenizer.named_parameters())
    assert any(name.startswith("encoder.") for name in found)
    assert_same_gradients(found, expected)


def test_the_codebook_moves_towards_its_latents_and_they_towards_it() -> None:
    tokenizer, frames = make_tokenizer(), some_frames()
    tokenizer.losses(frames)["commitment_loss"].backward()
    found = gradients(tokenizer.named_parameters())
    assert not any(name.startswith(("decoder.", "post_quant_conv.")) for name in found)

    tokenizer.zero_grad()
    encoding = tokenizer.encode(frames)
    difference = (encoding.z - encoding.z_quantized).detach()
    encoding.z.backward(2 * difference / difference.numel())  # the second term's, with beta = 1
    expected = gradients(tokenizer.named_parameters())
    vectors = difference.permute(0, 2, 3, 1).flatten(0, 2)
    rows = torch.zeros_like(tokenizer.embedding.weight)
    rows.index_add_(0, encoding.tokens.flatten(), -2 * vectors / difference.numel())  # the first term's
    expected["embedding.weight"] = rows
    assert_same_gradients(found, expected)
    unused = torch.ones(16, dtype=torch.bool)
    unused[encoding.tokens.flatten()] = False
    assert unused.any()
    assert (found["embedding.weight"][unused] == 0).all()


def test_the_losses_by_their_formulas() -> None:
    tokenizer, frames = make_tokenizer(), some_frames()
    losses = tokenizer.losses(frames)
    encoding = tokenizer.encode(frames)
    seen = tokenizer.decode(encoding.z_quantized)
    torch.testing.assert_close(losses["reconstruction_loss"], 2 * (frames - seen).abs().mean())
    squared = (encoding.z - encoding.z_quantized).square().mean()
    torch.testing.assert_close(losses["commitment_loss"], 2 * squared)
    assert set(losses) == {"reconstruction_loss", "commitment_loss"}


def test_nearest_codeword_is_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = (torch.randn(n, 24, generator=generator) for n in (200, 60))
    expected = torch.cdist(vectors.double(), codebook.double()).argmin(dim=1)
    assert torch.equal(nearest_codeword(vectors, codebook), expected)


@pytest.mark.parametrize("copies", [(0, 1), (3, 17, 300), (255, 256, 511)])
def test_ties_go_to_the_lowest_index(copies: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    codebook = torch.randn(512, 32, generator=generator)
    codebook[list(copies)] = torch.randn(32, generator=generator)
    vectors = codebook[copies[0]] + 0.1 * torch.randn(37, 32, generator=generator)
    assert nearest_codeword(vectors, codebook).tolist() == [copies[0]] * 37


def test_opposite_codewords_tie_at_zero() -> None:
    codebook = torch.randn(6, 8, generator=torch.Generator().manual_seed(2)) + 3
    codebook[4] = torch.full((8,), 0.25)
    codebook[2] = -codebook[4]
    assert nearest_codeword(torch.zeros(1, 8), codebook).item() == 2


def test_a_lower_precision_does_not_change_tokens() -> None:
    generator = torch.Generator().manual_seed(3)
    vectors, codebook = (torch.randn(n, 24, generator=generator) for n in (400, 60))
    expected = nearest_codeword(vectors, codebook)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_codeword(vectors, codebook), expected)


def test_frames_and_tokens_there_and_back() -> None:
    tokenizer, frames = make_tokenizer(), some_frames()
    tokens = tokenizer.tokens_of(frames)
    assert tokens.shape == (BATCH, tokenizer.config.tokens_per_frame)
    assert tokens.dtype == torch.int64
    encoding = tokenizer.encode(frames)
    assert torch.equal(tokens, encoding.tokens)
    seen = tokenizer.frames_of(tokens)
    torch.testing.assert_close(seen, tokenizer.decode(encoding.z_quantized).clamp(0, 1).detach())
    assert not seen.requires_grad
    assert seen.shape == frames.shape


def test_frames_are_clamped() -> None:
    tokenizer = make_tokenizer()
    with torch.no_grad():
        bias = tokenizer.decoder.conv_out.bias
        assert bias is not None
        bias.copy_(torch.tensor([9.0, -9.0, 0.0]))
    seen = tokenizer.frames_of(tokenizer.tokens_of(some_frames()))
    assert (seen[:, 0] == 1).all()
    assert (seen[:, 1] == 0).all()


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_in_pieces_of_one_size(count: int) -> None:
    sizes: list[int] = []

    def double(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows * 2

    rows = torch.arange(count * 2).view(count, 2)
    assert torch.equal(in_pieces(double, rows, pad=True), rows * 2)
    assert set(sizes) == {8}
    sizes.clear()
    assert torch.equal(in_pieces(double, rows), rows * 2)
    assert sum(sizes) == count


def test_pieces_have_one_size_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIECE, "meta", PIECE["cuda"])
    sizes: list[int] = []

    def same(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows

    rows = torch.empty(70, 2, device="meta")
    assert in_pieces(same, rows, pad=True).shape == rows.shape and sizes == [64, 64]


def test_a_frame_in_pieces_does_not_depend_on_its_company() -> None:
    tokenizer, frames = make_tokenizer(), some_frames(11)

    def latents(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return tokenizer.encode(rows).z

    together = in_pieces(latents, frames, pad=True)
    alone = torch.cat([in_pieces(latents, frame[None], pad=True) for frame in frames])
    assert torch.equal(together, alone)


def test_unused_codes_move_to_latents() -> None:
    tokenizer, frames = make_tokenizer("tokenizer.vocab_size=64"), some_frames()
    encoding = tokenizer.encode(frames)
    used = encoding.tokens.unique()
    before = tokenizer.embedding.weight.detach().clone()
    state = torch.get_rng_state()
    assert tokenizer.restart_unused_codes(frames) == 64 - len(used) > 0
    after = tokenizer.embedding.weight.detach().clone()
    moved = (after != before).any(dim=1)
    assert int(moved.sum()) == 64 - len(used)
    assert not moved[used].any()
    vectors = encoding.z.detach().permute(0, 2, 3, 1).flatten(0, 2)
    nearest = torch.cdist(after[moved], vectors).amin(dim=1)
    assert (nearest < 0.1 * vectors.std(dim=0).norm()).all()
    assert len(tokenizer.tokens_of(frames).unique()) > 1.5 * len(used)
    assert tokenizer.embedding.weight.requires_grad

    with torch.no_grad():
        tokenizer.embedding.weight.copy_(before)
    torch.set_rng_state(state)
    tokenizer.restart_unused_codes(frames)
    assert torch.equal(tokenizer.embedding.weight, after), "drawn from PyTorch's generator alone"


def test_no_code_moves_when_all_are_used() -> None:
    tokenizer, frames = make_tokenizer("tokenizer.vocab_size=2"), some_frames()
    vectors = tokenizer.encode(frames).z.detach().permute(0, 2, 3, 1).flatten(0, 2)
    with torch.no_grad():
        tokenizer.embedding.weight.copy_(vectors[:2])
    before = tokenizer.embedding.weight.detach().clone()
    assert tokenizer.restart_unused_codes(frames) == 0
    assert torch.equal(tokenizer.embedding.weight, before)


def test_codebook_initialisation() -> None:
    codebook = Tokenizer(resolve(micro_config("tokenizer.vocab_size=64")).tokenizer).embedding.weight
    assert 0.95 / 64 < float(codebook.detach().abs().max()) <= 1 / 64


def test_the_perceptual_network_is_frozen_and_the_decoder_learns_from_it() -> None:
    tokenizer = make_tokenizer("tokenizer.perceptual=lpips")
    assert "perceptual_loss" not in tokenizer.losses(some_frames()), "no weights, no loss"
    tokenizer.attach_lpips(golden_lpips(0))
    losses = tokenizer.losses(some_frames(2))
    losses["perceptual_loss"].backward()
    found = gradients(tokenizer.named_parameters())
    assert not any(name.startswith("lpips.") for name in found)
    assert found["decoder.conv_out.weight"].abs().sum() > 0
    assert found["encoder.conv_in.weight"].abs().sum() > 0
    trained = {id(parameter) for parameter in tokenizer.trained_parameters()}
    assert tokenizer.lpips is not None
    assert not trained & {id(parameter) for parameter in tokenizer.lpips.parameters()}
    assert len(trained) == sum(1 for name, _ in tokenizer.named_parameters() if not name.startswith("lpips."))


def test_the_substitute_of_the_perceptual_loss() -> None:
    tokenizer = make_tokenizer("tokenizer.perceptual=foreground")
    losses = tokenizer.losses(some_frames())
    assert losses["perceptual_loss"].dim() == 0
    assert losses["perceptual_loss"] > 0


def test_the_background_is_the_median_and_what_is_decoded_at_first() -> None:
    tokenizer = make_tokenizer("tokenizer.background=true")
    still = torch.rand(3, 64, 64)
    frames = still.repeat(9, 1, 1, 1)
    frames[:4, :, 20:24, 20:24] = 1 - frames[:4, :, 20:24, 20:24]
    tokenizer.set_background(frames)
    assert torch.equal(tokenizer.background, still)
    assert tokenizer.background_known
    seen = tokenizer.frames_of(tokenizer.tokens_of(frames))
    unmade = make_tokenizer().frames_of(make_tokenizer().tokens_of(frames))
    assert (seen - still).abs().mean() < 0.2 * (unmade - still).abs().mean()


def test_only_the_difference_to_the_background_is_encoded() -> None:
    tokenizer, frames = make_tokenizer("tokenizer.background=true"), some_frames()
    before = tokenizer.encode(frames).z
    assert torch.equal(before, make_tokenizer().encode(frames).z), "0.5 until it is known: no difference"
    shift = 0.25 * torch.rand(3, 64, 64)
    tokenizer.background += shift
    assert torch.allclose(tokenizer.encode(frames + shift).z, before, atol=1e-5)
    z_quantized = tokenizer.encode(frames + shift).z_quantized
    moved = tokenizer.decode(z_quantized)
    tokenizer.background -= shift
    assert torch.allclose(moved, tokenizer.decode(z_quantized) + shift, atol=1e-6)


def test_the_background_is_taken_once_and_kept_with_the_weights() -> None:
    tokenizer, frames = make_tokenizer("tokenizer.background=true"), some_frames()
    tokenizer.set_background(frames)
    with pytest.raises(ValueError, match="already set"):
        tokenizer.set_background(frames)
    other = make_tokenizer("tokenizer.background=true")
    other.load_state_dict(tokenizer.state_dict())
    assert other.background_known
    assert torch.equal(other.background, tokenizer.background)
    assert not any("background" in name for name in make_tokenizer().state_dict())


def test_whether_there_is_a_background_is_read_from_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that reads it waits for the device."""
    reads = 0
    plain = Tensor.__bool__

    def counted(tensor: Tensor) -> bool:
        nonlocal reads
        reads += 1
        return plain(tensor)

    weights = make_tokenizer("tokenizer.background=true").state_dict()
    tokenizer, frames = make_tokenizer("tokenizer.background=true"), some_frames()
    tokenizer.set_background(frames)
    monkeypatch.setattr(Tensor, "__bool__", counted)
    assert all(tokenizer.has_background for _ in range(3)) and reads == 0
    tokenizer.load_state_dict(weights)
    assert not any(tokenizer.has_background for _ in range(3)) and reads == 1
    assert not make_tokenizer().has_background


def test_far_vectors_are_those_apart_from_codes_and_each_other() -> None:
    vectors = torch.zeros(1000, 4)
    vectors[700], vectors[701], vectors[30] = 5.0, 5.0, -5.0
    chosen = far_vectors(vectors, torch.zeros(2, 4), 10)
    assert len(chosen) == 2, "the zeros are a code already, and the two equal vectors need but one"
    assert vectors[chosen].unique(dim=0).tolist() == [[-5.0] * 4, [5.0] * 4]
    assert len(far_vectors(torch.rand(50, 4), torch.zeros(1, 4), 7).unique()) == 7


def test_codes_restarted_far_away_are_latents() -> None:
    tokenizer, frames = (
        make_tokenizer("tokenizer.vocab_size=64", "tokenizer.restart_codes_at=far"),
        some_frames(),
    )
    used = tokenizer.encode(frames).tokens.unique()
    before = tokenizer.embedding.weight.detach().clone()
    moved = tokenizer.restart_unused_codes(frames)
    after = tokenizer.embedding.weight.detach()
    assert moved == int((after != before).any(dim=1).sum()) > 0
    assert torch.equal(after[used], before[used])
    encoding = tokenizer.encode(frames)
    exact = (encoding.z - encoding.z_quantized).abs().amax(dim=1) == 0
    assert int(exact.sum()) >= moved


def test_the_perceptual_loss_is_weighted() -> None:
    frames = some_frames()
    plain, weighted = (
        make_tokenizer("tokenizer.perceptual=objects", f"tokenizer.perceptual_weight={w}").losses(frames)
        for w in (1.0, 3.0)
    )
    assert weighted["perceptual_loss"].item() == pytest.approx(3 * plain["perceptual_loss"].item())
    assert torch.equal(weighted["reconstruction_loss"], plain["reconstruction_loss"])


@pytest.mark.parametrize("odd", [1e20, float("inf"), float("nan")])
def test_far_vectors_of_latents_that_explode(odd: float) -> None:
    """The loss says that they did; here what is finite is drawn from."""
    torch.manual_seed(0)
    vectors, codes = torch.randn(40, 8), torch.randn(4, 8)
    vectors[7] = odd
    drawn = far_vectors(vectors, codes, 5).tolist()
    assert len(set(drawn)) == 5
    assert (drawn[0] == 7) == (odd == 1e20), "nothing is as far as that"
    assert far_vectors(torch.full((40, 8), odd), codes, 5).numel() == (1 if odd == 1e20 else 0)


@pytest.mark.parametrize("mean", [0.0, 100.0, 1000.0])
def test_far_vectors_are_never_those_that_lie_on_codes(mean: float) -> None:
    torch.manual_seed(0)
    codes = mean + 0.05 * torch.randn(64, 8)
    apart = mean + 0.05 * torch.randn(10, 8)
    assert set(far_vectors(torch.cat([codes, apart]), codes, 74).tolist()) == set(range(64, 74))
