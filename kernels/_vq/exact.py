"""The nearest codeword in plain PyTorch: products find the candidates, differences in float64 decide.

A squared distance from products, ‖c‖² / 2 - x·c, is off by the rounding of ‖x‖ ‖c‖, which may be far more than the
distance: where vectors lie far from the origin, or close to their codeword. So products only exclude codewords that
are certainly farther. If the codebook's mean is long, it is subtracted from both sides, which leaves few candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.triton import jit, tl

_PAIRS = 2**21  # numbers of the pairs' differences that are held at a time: 16 MiB in float64
_SCORES_TOGETHER = 2**19  # that stay in a processor's cache until their least is found
_ROWS_TOGETHER = 256  # at least, since fewer make products slow


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
    """The nearest codeword as `nearest_in_float64` finds it among all, at most `piece_rows` rows at a time.

    Only rows whose second least score is within rounding of the least are looked at again.
    """
    if len(codebook) == 1:
        return torch.zeros(len(vectors), dtype=torch.int64)
    codes, terms, centre, longest = _factors(codebook, cosine)
    num_codes, dim = codes.shape
    cached = _SCORES_TOGETHER // num_codes
    piece_rows = min(piece_rows, max(_ROWS_TOGETHER, cached) * torch.get_num_threads())
    kind = torch.finfo(codes.dtype)
    relative = 2.02 * product_error(dim, kind.eps)
    scores = codes.new_empty((min(piece_rows, len(vectors)), num_codes))
    found = []
    for piece in vectors.split(piece_rows):
        shifted = piece if centre is None else piece - centre
        score = torch.addmm(terms, shifted, codes.t(), alpha=-1, out=scores[: len(piece)])
        best, index = score.min(dim=1)
        second = score.scatter_(1, index[:, None], torch.inf).amin(dim=1)
        norm = torch.linalg.vector_norm(shifted, dim=1)
        # At least twice a score's error, and infinite where a score may have overflowed on its way.
        magnitude = (norm if cosine else norm + longest) * (8.1 * longest)
        gap = second.sub_(best)
        clear = (gap > magnitude * (relative / 8.1) + dim * kind.tiny).logical_and_(gap < torch.inf)
        doubtful = clear.logical_not_().nonzero().squeeze(1)
        if len(doubtful):
            found_there = best[doubtful], index[doubtful], score[doubtful], norm[doubtful]
            index[doubtful] = _decided(piece[doubtful], codebook, cosine, longest, *found_there)
        found.append(index)
    return torch.cat(found)


def _decided(
    vectors: Tensor,  # (rows, dim)
    codebook: Tensor,  # (num_codes, dim)
    cosine: bool,
    longest: Tensor,  # () of the factors
    best: Tensor,  # (rows,): the least score
    index: Tensor,  # (rows,): its codeword
    scores: Tensor,  # (rows, num_codes): the others
    norm: Tensor,  # (rows,) of the factors
) -> Tensor:  # (rows,)
    """The nearest codeword of vectors for which another may be as near as the one of the least score."""
    dim, kind = vectors.shape[1], torch.finfo(scores.dtype)
    if cosine:
        limit = best + 2 * product_error(dim, kind.eps) * longest * norm + dim * kind.tiny
    else:
        limit = score_limit(norm, best, longest, dim)
    # Where squares overflow the limit may be no number: then every codeword is a candidate.
    near = (
        (scores <= limit[:, None]).scatter_(1, index[:, None], True).logical_or_(~limit.isfinite()[:, None])
    )
    finite = vectors.isfinite().all(dim=1)
    several = near.view(torch.uint8).sum(dim=1, dtype=torch.int32) > 1
    place, code = (near & (finite & several)[:, None]).nonzero(as_tuple=True)
    rows, nearest = nearest_in_float64(place, code, vectors, codebook, cosine)
    index = torch.where(finite, index, 0)
    index[rows] = nearest
    return index


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


def _factors(codebook: Tensor, cosine: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """What products are formed of, (num_codes, dim), terms beside them, (num_codes,), centre (dim,), longest norm ().

    Codewords whose squares are not finite get an infinite term. The mean of all codewords is taken from them only
    where it is longer than what they differ by, since that takes time; then it is the centre of the vectors too. For
    cosines, which are not between shifted vectors, it is taken from unit codewords alone: all scores of a vector then
    differ from what they were by the same.
    """
    norms = torch.linalg.vector_norm(codebook, dim=1)
    squares = norms.square()
    usable = squares.isfinite() if not math.isfinite(squares.sum()) else None
    codes = codebook if usable is None else codebook.where(usable[:, None], 0)
    count = len(codes) if usable is None else max(1, int(usable.sum()))
    factors = _units(codes) if cosine else codes
    mean = factors.sum(dim=0).div_(count)
    lengths = norms if factors is codebook else torch.linalg.vector_norm(factors, dim=1)
    centre = None
    if 2 * mean.square().sum().item() > lengths.square().sum().item() / count:
        if cosine:  # in float64: unit codewords may differ by little more than the rounding of float32
            factors = _units(codes.double())
            mean = factors.sum(dim=0).div_(count)
        factors, centre = (factors - mean).to(codebook.dtype), None if cosine else mean
        factors = factors if usable is None else factors.where(usable[:, None], 0)
        lengths = torch.linalg.vector_norm(factors, dim=1)
    terms = torch.zeros_like(lengths) if cosine else 0.5 * lengths.square()
    longest = lengths.max()
    if usable is not None:
        terms = terms.where(usable, torch.inf)
        longest = lengths.where(usable, torch.where(norms.isnan(), 0, torch.inf)).max()
    return factors, terms, centre, longest


def _units(codes: Tensor) -> Tensor:
    return codes / torch.linalg.vector_norm(codes, dim=1, keepdim=True).clamp_min(1e-12)
