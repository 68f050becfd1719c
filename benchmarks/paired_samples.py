"""Permutation tests of whether two samples of rollouts from the same starts have one distribution.

If they have, exchanging the two rollouts of a start changes nothing, so the statistic is compared with its values
after random exchanges, start by start. Draws within a rollout may depend on each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PERMUTATIONS = 4999


def _signs(rollouts: int, seed: int) -> Floats:
    """Exchanges, `(1 + PERMUTATIONS, rollouts)`: 1 for kept, -1 for exchanged; nothing is exchanged in the first."""
    signs = np.random.default_rng(seed).integers(0, 2, (1 + PERMUTATIONS, rollouts)) * 2.0 - 1
    signs[0] = 1
    return signs.astype(np.float64)


def _p_value(statistics: Floats) -> float:
    """The share of exchanges with a statistic at least as large as the first, which exchanges nothing."""
    return float(np.mean(statistics >= statistics[0] - 1e-9 * abs(statistics[0])))


def p_of_counts(first: NDArray[np.integer], second: NDArray[np.integer], seed: int) -> float:
    """p-value for counts `(rollouts, cells)` of values, with the statistic of a χ² test."""
    differences, total = (first - second).astype(np.float64), (first + second).sum(0)
    told = total > 0
    sums = _signs(len(first), seed) @ differences[:, told]
    return _p_value((sums**2 / total[told]).sum(1))


def p_of_means(first: Floats, second: Floats, seed: int) -> float:
    """p-value for one number per rollout, `(rollouts,)`; the statistic is the distance of the means."""
    return _p_value(np.abs(_signs(len(first), seed) @ (first - second)))


def p_of_wholes(first: NDArray[np.integer], second: NDArray[np.integer], seed: int) -> float:
    """p-value for whole sequences, `(rollouts, length)`, by the maximum mean discrepancy (Gretton et al., JMLR 13,
    2012).

    The kernel is exp(-distance / median distance); the distance is the number of differing places.
    """
    both = np.concatenate([first, second])
    distances = np.stack([(both != row).sum(1) for row in both]).astype(np.float64)
    kernel = np.exp(-distances / max(1.0, float(np.median(distances))))
    np.fill_diagonal(kernel, 0)
    labels = _signs(len(first), seed)
    labels = np.concatenate([labels, -labels], axis=1)
    return _p_value(((labels @ kernel) * labels).sum(1))
