"""A `vector_quantize_pytorch.VectorQuantize` layer with our codebook search and statistics.

`python examples/vector_quantize.py` trains a layer of the library and a copy of it with our lookup on the
same vectors, Euclidean and cosine, with the moving-average codebook, and compares tokens, outputs, losses and
codebooks. It needs `vector-quantize-pytorch`; nothing is downloaded.

The layer keeps its projections, straight-through gradient and losses. Only its codebook's forward pass is replaced:
the library forms every distance and a one-hot matrix of the same size; ours forms neither.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from iris_fast.kernels import ema_update, vq_lookup, vq_statistics

REFUSED = ("mask", "codebook_transform_fn", "ema_update_weight", "accum_ema_update", "topk")
"""Arguments of the library's codebook that ours does not support."""


class LookupCodebook(Codebook):
    """The library's codebook with our search: the same state, so that an existing one can become it."""

    precision = "ieee"

    def forward(
        self,
        x: Tensor,
        freeze_codebook: bool = False,
        ema_update: bool | None = None,
        update_usage: bool = True,
        sample_codebook_temp: float | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor, None]:
        """Codewords and tokens of `x`, (…, dim) or (heads, …, dim); None stands for the distances."""
        # By identity: what is given may be a tensor, of which nothing follows from its truth.
        if used := [name for name in REFUSED if others.get(name) is not None and others[name] is not False]:
            raise ValueError(f"our lookup does not take {', '.join(used)}")
        heads = x.float() if x.dim() >= 4 else x.float().unsqueeze(0)
        rows = heads.flatten(1, -2)  # (heads, count, dim)
        self.init_embed_(rows)
        found = [self._look_up(vectors, codes) for vectors, codes in zip(rows, self.embed, strict=True)]
        if self.training and update_usage and not freeze_codebook:
            self._update(
                rows, [tokens for _, tokens in found], self.ema_update if ema_update is None else ema_update
            )
        quantized = torch.stack([codewords for codewords, _ in found]).view_as(heads)
        tokens = torch.stack([tokens for _, tokens in found]).view(heads.shape[:-1])
        return (quantized, tokens, None) if x.dim() >= 4 else (quantized[0], tokens[0], None)

    def _look_up(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codewords (count, dim) and tokens (count,) of one head; gradients reach a learned codebook alone."""
        distance = "cosine" if self.use_cosine_sim else "euclidean"
        found = vq_lookup(vectors.detach(), codes.detach(), distance=distance, precision=self.precision)
        quantized = embedding(found.indices, codes) if self.learnable_codebook else found.quantized
        return quantized, found.indices

    @torch.no_grad()
    def _update(self, rows: Tensor, tokens: list[Tensor], moves: bool) -> None:
        """The moving averages of every head, from the codewords that were looked up before."""
        if not moves and not self.has_dead_code_replacement:
            return
        for head, (vectors, chosen) in enumerate(zip(rows, tokens, strict=True)):
            counts, sums = vq_statistics(vectors, chosen, self.codebook_size)
            self.all_reduce_fn(counts)
            self.all_reduce_fn(sums)
            keeps = not moves or self.manual_ema_update
            codes = self.embed[head].clone() if keeps else self.embed[head]
            averages = self.cluster_size[head], self.embed_avg[head]
            ema_update(codes, *averages, counts, sums, decay=self.decay, eps=self.eps)
            if self.use_cosine_sim and not keeps:
                codes.copy_(normalize(codes, dim=-1, eps=1e-6))
        self.expire_codes_(rows)


def use_our_lookup(layer: VectorQuantize, precision: str = "ieee") -> VectorQuantize:
    """Makes `layer` find its codes by `vq_lookup` at `precision`, in place, and returns it.

    Any number of heads, Euclidean or cosine distance, codebooks of moving averages or learned ones. Parameters,
    buffers and state dictionaries stay unchanged.

    Raises ValueError for a layer that needs more than the nearest code, and names the need.
    """
    codebook = layer._codebook
    sampling = codebook.gumbel_sample.keywords
    needs_distances = {
        "stochastic_sample_codes": sampling["stochastic"],
        "straight_through": sampling["straight_through"],
        "affine_param": codebook.affine_param,
        "vq_bridge": codebook.vq_bridge is not None,
        "commitment_use_cross_entropy_loss": layer.commitment_use_cross_entropy_loss,
        "codebook_diversity_loss_weight": layer.codebook_diversity_loss_weight > 0,
    }
    if used := [name for name, value in needs_distances.items() if value]:
        raise ValueError(f"our lookup finds the nearest code alone, and this layer has {', '.join(used)}")
    codebook.__class__ = LookupCodebook
    codebook.precision = precision
    return layer


def compare(cosine: bool, steps: int, seed: int, device: torch.device) -> dict[str, float]:
    """Largest differences between the library's layer and ours over `steps` of training and one of evaluation."""
    torch.manual_seed(seed)
    theirs = VectorQuantize(32, 256, use_cosine_sim=cosine, kmeans_init=False, decay=0.9).to(device)
    ours = use_our_lookup(copy.deepcopy(theirs))
    found = {"different tokens": 0.0, "outputs": 0.0, "loss": 0.0, "gradients": 0.0}
    for step in range(steps + 1):
        theirs.train(step < steps)
        ours.train(step < steps)
        vectors = torch.randn(4, 100, 32, device=device)
        inputs = [vectors.clone().requires_grad_() for _ in range(2)]
        results = [layer(x) for layer, x in zip((theirs, ours), inputs, strict=True)]
        (quantized, tokens, loss), (our_quantized, our_tokens, our_loss) = results
        found["different tokens"] += float((tokens != our_tokens).sum())
        found["outputs"] = max(found["outputs"], float((quantized - our_quantized).detach().abs().max()))
        found["loss"] = max(found["loss"], float((loss - our_loss).detach().abs().max()))
        if step < steps:
            gradients = [
                torch.autograd.grad(result[0].square().sum() + result[2].sum(), x)[0]
                for result, x in zip(results, inputs, strict=True)
            ]
            found["gradients"] = max(found["gradients"], float((gradients[0] - gradients[1]).abs().max()))
    found["codebook"] = float((theirs.codebook - ours.codebook).abs().max())
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="training steps before the step of evaluation")
    parser.add_argument("--seed", type=int, default=0, help="of codebooks and vectors")
    arguments = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    same = True
    for name, cosine in (("euclidean", False), ("cosine", True)):
        found = compare(cosine, arguments.steps, arguments.seed, device)
        print(f"{name}: " + ", ".join(f"{key} {value:.2g}" for key, value in found.items()))
        same &= found["different tokens"] == 0 and max(found.values()) < 1e-3
    print("the same as the library's own" if same else "the results differ")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
