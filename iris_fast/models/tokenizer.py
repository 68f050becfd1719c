"""The discrete autoencoder: frames to 16 tokens of a codebook and back (docs/iris.md, part 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iris_fast.kernels import vq_lookup
from iris_fast.kernels.common.arithmetic import exact_on_cpu

from .autoencoder import AutoencoderConfig, Decoder, Encoder, EncoderConfig, channels_last
from .perceptual import LPIPS, WholeBatch, foreground_loss, objects_loss
from .versioned import Versioned

PerceptualKind = Literal["lpips", "foreground", "objects", "none"]

RestartKind = Literal["any", "far"]

# Frames per piece: on a CPU larger pieces overflow the processor's cache; on a GPU 64 take 0.3 GB in float32.
PIECE = {"cpu": 8, "cuda": 64}


def in_pieces(function: Callable[[Tensor], Tensor], rows: Tensor, pad: bool = False) -> Tensor:
    """Applies `function` to `rows` `(count, …)`, a piece at a time.

    With `pad` the last piece is padded with copies, so all have one size. Convolutions round differently
    at another batch size; with one size, a row's result does not depend on other rows, and a run resumed in the
    middle of a phase computes the same numbers."""
    piece = PIECE[rows.device.type]
    short = -len(rows) % piece if pad else 0
    filled = torch.cat([rows, rows[-1:].expand(short, *rows.shape[1:])]) if short else rows
    return torch.cat([function(part) for part in filled.split(piece)])[: len(rows)]


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of the tokenizer and the choice of its perceptual loss."""

    vocab_size: int = 512
    embed_dim: int = 512
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    perceptual: PerceptualKind = "lpips"
    perceptual_weight: float = 1.0  # weight of the perceptual loss relative to the others; 1 in the paper
    restart_codes_every: int = 0  # steps between restarts of unused codes; 0: never, as in the paper
    restart_codes_at: RestartKind = "any"  # latent of the batch, or one far from every code
    background: bool = False  # models frames less their median over the first frames; not in the paper

    @property
    def autoencoder(self) -> AutoencoderConfig:
        return self.encoder.config

    @property
    def tokens_per_frame(self) -> int:
        return self.autoencoder.latent_resolution**2


@dataclass
class Encoding:
    """`z`, `z_quantized`: `(batch, embed_dim, 4, 4)`; `tokens`: `(batch, 16)` int64.

    The gradient of `z_quantized` goes straight through to `z`; that of `commitment_loss`, a scalar where it was asked
    for, to `z` and the codebook.
    """

    z: Tensor
    z_quantized: Tensor
    tokens: Tensor
    commitment_loss: Tensor | None = None


@dataclass
class Reconstruction:
    """Frames `(batch, 3, 64, 64)` in [-1, 1], what their tokens decode to, its absolute error, and their encoding."""

    target: Tensor
    prediction: Tensor
    error: Tensor
    encoding: Encoding


def nearest_codeword(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the codeword nearest to each vector in squared Euclidean distance, the lowest on ties.

    `vectors`: `(count, dim)`; `codebook`: `(num_codes, dim)`; returns `(count,)` int64. Always in float32, even under
    autocast, because a lower precision would change tokens."""
    return vq_lookup(vectors.detach().float(), codebook.detach().float()).indices


def far_vectors(vectors: Tensor, codes: Tensor, count: int) -> Tensor:
    """Indices of at most `count` of `vectors` `(rows, dim)`, drawn in proportion to squared distance.

    The distance is to the nearest of `codes` `(num_codes, dim)` and of the vectors drawn before (k-means++, Arthur
    and Vassilvitskii 2007), so that rare things such as a ball get codes too. Fewer than `count` where no vector is
    left that lies apart; none of those that are not finite.
    """
    finite = vectors.isfinite().all(dim=1)
    vectors = torch.where(finite[:, None], vectors, 0).double()  # whose squares have room
    mode = "donot_use_mm_for_euclid_dist"  # products would lose what lies near, far from the origin
    distance = (
        torch.cdist(vectors, codes.nan_to_num().double(), compute_mode=mode).square().amin(dim=1) * finite
    )
    chosen: list[int] = []
    while len(chosen) < min(count, len(vectors)) and float(distance.sum()) > 1e-9:
        index = int(torch.multinomial((distance / distance.max()).float().cpu(), 1))
        chosen.append(index)
        distance = torch.minimum(distance, (vectors - vectors[index]).square().sum(dim=1))
    return torch.tensor(chosen, dtype=torch.int64, device=vectors.device)


class Tokenizer(Versioned):
    """VQ-VAE with an optional perceptual network. Frames are in [0, 1] at its boundary.

    With `config.background`, the autoencoder works on the difference to a fixed picture. It then need not learn the
    static part of the screen, which is many times stronger than the moving part (see `set_background`)."""

    background: Tensor  # (3, height, width) in [0, 1]
    background_known: Tensor  # scalar bool

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        z_channels = config.autoencoder.z_channels
        self.encoder = Encoder(config.autoencoder)
        self.pre_quant_conv = nn.Conv2d(z_channels, config.embed_dim, 1)
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, z_channels, 1)
        self.decoder = Decoder(config.autoencoder)
        width = 1.0 / config.vocab_size
        nn.init.uniform_(self.embedding.weight, -width, width)
        if config.background:
            size = config.autoencoder.resolution
            self.register_buffer("background", torch.full((3, size, size), 0.5))
            self.register_buffer("background_known", torch.tensor(False))
        self._has_background: bool | None = (
            False  # None: weights were loaded since it was read from the device
        )
        self.lpips: LPIPS | None = None
        channels_last(self)

    def attach_lpips(self, lpips: LPIPS) -> None:
        """Sets the frozen perceptual network of the loss."""
        channels_last(lpips)
        self.lpips = lpips

    def trained_parameters(self) -> list[nn.Parameter]:
        """Every parameter except the frozen ones of the perceptual network."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("lpips.")]

    def encode(self, frames: Tensor, commitment: bool = False) -> Encoding:
        """Latents, their codewords and tokens of frames `(batch, 3, 64, 64)` in [0, 1]; the loss with `commitment`.

        The codewords are those nearest in float32 always, whatever autocast and PyTorch's switches say.
        """
        if self.config.background:
            frames = frames - self.background + 0.5
        frames = (frames * 2 - 1).contiguous(memory_format=torch.channels_last)
        z = self.pre_quant_conv(self.encoder(frames)).float()
        batch, dim, height, width = z.shape
        vectors = z.permute(0, 2, 3, 1).reshape(-1, dim)
        found = vq_lookup(vectors, self.embedding.weight.float(), commitment=commitment)
        z_quantized = found.quantized.view(batch, height, width, dim).permute(0, 3, 1, 2)
        encoding = Encoding(z, z_quantized, found.indices.view(batch, height * width))
        if found.commitment_loss is not None and found.codebook_loss is not None:
            encoding.commitment_loss = found.codebook_loss + found.commitment_loss
        return encoding

    def decode(self, z_quantized: Tensor) -> Tensor:
        """Frames `(batch, 3, 64, 64)`, about [0, 1], unclamped, of latents `(batch, embed_dim, 4, 4)`."""
        frames = (self.decoder(self.post_quant_conv(z_quantized)).float() + 1) / 2
        return frames - 0.5 + self.background if self.config.background else frames

    @property
    def has_background(self) -> bool:
        """Whether the background is set. Reads the device once after weights were loaded, and not at each step."""
        if self._has_background is None:
            self._has_background = bool(self.background_known)
        return self._has_background

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._has_background = None if self.config.background else False

    @torch.no_grad()
    def set_background(self, frames: Tensor) -> None:
        """Fixes the background, for good, as the per-pixel median of `frames` `(count, 3, 64, 64)` in [0, 1].

        Call it before the first gradient step. It scales the decoder's last layer down, so that at first every frame
        decodes to about the background. Raises ValueError if the background is already set, because the weights were
        learned with it."""
        if self.has_background:
            raise ValueError(
                "the background is already set, and the weights were learned with it: build a new tokenizer"
            )
        self.background.copy_(frames.median(dim=0).values)
        self.background_known.fill_(True)
        self._has_background = True
        self.decoder.conv_out.weight.mul_(0.1)
        if self.decoder.conv_out.bias is not None:
            self.decoder.conv_out.bias.zero_()
        self.weights_changed(in_place=True)

    @torch.no_grad()
    def tokens_of(self, frames: Tensor) -> Tensor:
        """Tokens `(batch, 16)` int64 of frames `(batch, 3, 64, 64)` in [0, 1].

        On a CPU, here and in `frames_of`, neither autocast nor PyTorch's precision switches have an effect.
        """
        with exact_on_cpu(self.embedding.weight.device):
            return self.encode(frames).tokens

    @torch.no_grad()
    def frames_of(self, tokens: Tensor) -> Tensor:
        """Decoded frames `(batch, 3, 64, 64)` clamped to [0, 1] of tokens `(batch, 16)`."""
        side = self.config.autoencoder.latent_resolution
        with exact_on_cpu(self.embedding.weight.device):
            z_quantized = self.embedding(tokens).unflatten(1, (side, side)).permute(0, 3, 1, 2)
            return self.decode(z_quantized).clamp(0, 1)

    @torch.no_grad()
    def restart_unused_codes(self, frames: Tensor) -> int:
        """Moves the codes unused by `frames` `(batch, 3, 64, 64)` to latents of these frames; returns the number
        moved.

        Without it, small tokenizers settle on a handful of codes and all frames look alike. The method is Jukebox's
        (Dhariwal et al. 2020, section 3). Draws come from PyTorch's default generator."""
        encoding = self.encode(frames)
        vectors = encoding.z.permute(0, 2, 3, 1).flatten(0, 2)
        unused = torch.ones(self.config.vocab_size, dtype=torch.bool, device=frames.device)
        unused[encoding.tokens.flatten()] = False
        rows = torch.nonzero(unused).squeeze(1)
        if self.config.restart_codes_at == "far":
            chosen = far_vectors(vectors, self.embedding.weight[~unused], len(rows))
            rows = rows[: len(chosen)]
            self.embedding.weight[rows] = vectors[chosen]
        else:
            chosen = torch.randint(len(vectors), (len(rows),)).to(vectors.device)
            spread = 0.01 * vectors.std(dim=0, keepdim=True)
            noise = torch.randn(len(rows), vectors.shape[1]).to(vectors.device)
            self.embedding.weight[rows] = vectors[chosen] + spread * noise
        self.weights_changed(in_place=True)
        return len(rows)

    def losses(self, frames: Tensor, whole: WholeBatch | None = None) -> dict[str, Tensor]:
        """The tokenizer's losses on frames `(batch, 3, 64, 64)` in [0, 1]; their sum is minimised.

        `whole`: the batch in [-1, 1] of which the frames are a part, if they are.
        """
        return self.losses_of(self.reconstruction(frames), whole)

    def reconstruction(self, frames: Tensor) -> Reconstruction:
        """What `losses_of` compares, of frames `(batch, 3, 64, 64)` in [0, 1]."""
        encoding = self.encode(frames, commitment=True)
        target = frames * 2 - 1
        prediction = self.decode(encoding.z_quantized) * 2 - 1
        return Reconstruction(target, prediction, (target - prediction).abs(), encoding)

    def losses_of(self, found: Reconstruction, whole: WholeBatch | None = None) -> dict[str, Tensor]:
        """The losses of a reconstruction; `whole` as in `losses`."""
        assert found.encoding.commitment_loss is not None
        losses = {
            "reconstruction_loss": found.error.mean(),
            "commitment_loss": found.encoding.commitment_loss,
        }
        perceptual = self._perceptual_loss(found.prediction, found.target, whole)
        if perceptual is not None:
            losses["perceptual_loss"] = self.config.perceptual_weight * perceptual
        return losses

    def _perceptual_loss(self, prediction: Tensor, target: Tensor, whole: WholeBatch | None) -> Tensor | None:
        """The perceptual loss of frames in [-1, 1] as a scalar; None if the configuration has none."""
        match self.config.perceptual:
            case "lpips":
                return self.lpips(prediction, target).float().mean() if self.lpips is not None else None
            case "foreground":
                return foreground_loss(prediction, target, whole)
            case "objects":
                return objects_loss(prediction, target, whole)
            case _:
                return None
