"""The nearest codeword in plain PyTorch: products find the candidates, differences in float64 decide.

A squared distance from products, ‖c‖² / 2 - x·c, is off by the rounding of ‖x‖ ‖c‖, which may be far more than the
distance: where vectors lie far from the origin, or close to their codeword. So products only leave out what is
farther for certain. They are of vectors and codewords less the codebook's mean, which leaves few candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.triton import jit, tl

_PAIRS = 2**21  # numbers of the pairs' differences that are held at a time: 16 MiB in float64


def product_error(dim: int, eps: float) -> float:
    """The largest error of a score by products of `dim` numbers, relative to its terms' magnitude.

    Proven for few numbers, beyond all likelihood for many. `eps` is the distance from 1 to the next number.
    """
    return 0.5 * eps * (8 + min(dim, 8 * math.sqrt(dim)))


def score_limit(norm: Tensor, best: Tensor, longest: Tensor, dim: int) -> Tensor:
    """The score (rows,) up to which a codeword may be as near as the one of the least score, `best` (rows,).

    `norm` (rows,) is that of the vectors, `longest` () is the norm of the longest codeword; but none as
    near is longer than the vector and its distance. Not finite where a square may have overflowed.
    """
    kind = torch.finfo(best.dtype)
    reach = 1.01 * torch.minimum(norm + (norm * norm + 2 * best).clamp_min(0).sqrt(), longest)
    magnitude = reach * (reach + norm)
    slack = 2 * product_error(dim, kind.eps) * magnitude + dim * kind.tiny
    return best + torch.where(8 * magnitude <= kind.max, slack, torch.inf)


@jit
def score_limit_device(best, squared_norm, longest_square, error, COSINE: tl.constexpr):
    """Device function: `score_limit` of a launch, whose error is twice `product_error`; a cosine's has no terms."""
    norm = tl.sqrt(squared_norm)
    magnitude = norm
    if not COSINE:
        reach = 1.01 * tl.minimum(
            norm + tl.sqrt(tl.maximum(squared_norm + 2.0 * best, 0.0)), tl.sqrt(longest_square)
        )
        magnitude = reach * (reach + norm)
    slack = error * magnitude + 1e-34
    return best + tl.where(8.0 * magnitude <= 3.4e38, slack, float("inf"))


def nearest_in_float64(
    rows: Tensor, codes: Tensor, vectors: Tensor, codebook: Tensor, cosine: bool
) -> tuple[Tensor, Tensor]:
    """The rows among the pairs `rows` and `codes`, both (pairs,), and the nearest codeword of each.

    Rows are in order. The lowest of codewords that are equally near; 0 where no distance is finite.
    """
    distances = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), piece := max(1, _PAIRS // max(1, vectors.shape[1]))):
        part = slice(start, start + piece)
        x, c = vectors[rows[part]].double(), codebook[codes[part]].double()
        if cosine:
            distances[part] = -(x * c).sum(dim=1) / c.square().sum(dim=1).sqrt().clamp_min(1e-12)
        else:
            distances[part] = (x - c).square_().sum(dim=1)
    distances = torch.where(distances.isfinite(), distances, torch.inf)
    found, place = rows.unique_consecutive(return_inverse=True)
    least = distances.new_full((len(found),), torch.inf).scatter_reduce_(0, place, distances, "amin")
    nearest = torch.where((distances == least[place]) & least[place].isfinite(), codes, len(codebook))
    chosen = codes.new_full((len(found),), len(codebook)).scatter_reduce_(0, place, nearest, "amin")
    return found, torch.where(least.isfinite(), chosen, 0)


def nearest_by_products(
    vectors: Tensor,  # (rows, dim) float32 or float64
    codebook: Tensor,  # (num_codes, dim) of the same type
    cosine: bool,
    piece_rows: int,
) -> Tensor:  # (rows,) int64
    """The nearest codeword as `nearest_in_float64` finds it among all, `piece_rows` rows at a time."""
    codes, terms, centre, longest = _centred(codebook, cosine)
    kind = torch.finfo(codes.dtype)
    found = []
    for piece in vectors.split(piece_rows):
        shifted = piece if cosine else piece - centre
        scores = torch.addmm(terms, shifted, codes.t(), alpha=-1)
        best, index = scores.min(dim=1)
        norm = torch.linalg.vector_norm(shifted, dim=1)
        if cosine:
            error = 2 * product_error(codes.shape[1], kind.eps) * longest * norm
            limit = best + error + codes.shape[1] * kind.tiny
        else:
            limit = score_limit(norm, best, longest, codes.shape[1])
        near = scores <= limit[:, None]
        doubtful = (near.view(torch.uint8).sum(dim=1, dtype=torch.int32) != 1).nonzero().squeeze(1)
        if len(doubtful):
            finite = piece[doubtful].isfinite().all(dim=1)
            index[doubtful[~finite]] = 0
            doubtful = doubtful[finite]
            # Where squares overflow the limit may be no number: then every codeword is a candidate.
            candidates = near[doubtful].logical_or_(~limit[doubtful, None].isfinite())
            place, code = candidates.nonzero(as_tuple=True)
            rows, nearest = nearest_in_float64(doubtful[place], code, piece, codebook, cosine)
            index[rows] = nearest
        found.append(index)
    return torch.cat(found)


def nearest_directly(vectors: Tensor, codebook: Tensor, cosine: bool, piece_rows: int) -> Tensor:
    """The same without products and without looking at a result: slower, and nothing waits for the host."""
    x, codes = vectors.double(), codebook.double()
    if cosine:  # between unit vectors the nearest is the same
        x, codes = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (x, codes))
    found = []
    for piece in x.split(piece_rows):
        distances = torch.cdist(piece, codes, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.where(distances.isfinite(), distances, torch.inf)
        found.append(distances.argmin(dim=1))
    return torch.cat(found)


def _centred(codebook: Tensor, cosine: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What products are formed of, (num_codes, dim), terms beside them, (num_codes,), centre (dim,), longest norm ().

    Codewords whose squares are not finite get an infinite term. For cosines, which are not between shifted vectors,
    unit codewords are less their mean: that takes the same from all scores of a vector.
    """
    norms = torch.linalg.vector_norm(codebook, dim=1)
    usable = norms.square().isfinite()
    codes = torch.where(usable[:, None], codebook, 0)
    if cosine:  # in float64: unit codewords may differ by little more than the rounding of float32
        codes = codes.double()
        codes = codes / torch.linalg.vector_norm(codes, dim=1, keepdim=True).clamp_min(1e-12)
    centre = codes.sum(dim=0) / usable.sum().clamp_min(1)
    codes = torch.where(usable[:, None], codes - centre, 0).to(codebook.dtype)
    lengths = torch.linalg.vector_norm(codes, dim=1)
    terms = torch.zeros_like(lengths) if cosine else 0.5 * lengths.square()
    longest = torch.where(usable, lengths, torch.where(norms.isnan(), 0, torch.inf)).max()
    return codes, torch.where(usable, terms, torch.inf), centre, longest
