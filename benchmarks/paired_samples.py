"""Whether two samples of rollouts from the same starts are of one distribution: permutation tests.

Were they of one distribution, which of a start's two rollouts is whose would be chance: the statistic is compared
with what it is after exchanging them at random, start by start. Draws within a rollout may depend on each other.
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
    """The share of exchanges that give as much as the first, which is none."""
    return float(np.mean(statistics >= statistics[0] - 1e-9 * abs(statistics[0])))


def p_of_counts(first: NDArray[np.integer], second: NDArray[np.integer], seed: int) -> float:
    """Of how often each value came, by cell: `(rollouts, cells)` counts; the statistic is that of a χ² test."""
    differences, total = (first - second).astype(np.float64), (first + second).sum(0)
    told = total > 0
    sums = _signs(len(first), seed) @ differences[:, told]
    return _p_value((sums**2 / total[told]).sum(1))


def p_of_means(first: Floats, second: Floats, seed: int) -> float:
    """Of a number of each rollout, `(rollouts,)`; the statistic is the distance of the means."""
    return _p_value(np.abs(_signs(len(first), seed) @ (first - second)))


def p_of_wholes(first: NDArray[np.integer], second: NDArray[np.integer], seed: int) -> float:
    """Of whole sequences, `(rollouts, length)`: the maximum mean discrepancy (Gretton et al., JMLR 13, 2012).

    The kernel is exp(-distance / median distance), of the number of places that differ.
    """
    both = np.concatenate([first, second])
    distances = np.stack([(both != row).sum(1) for row in both]).astype(np.float64)
    kernel = np.exp(-distances / max(1.0, float(np.median(distances))))
    np.fill_diagonal(kernel, 0)
    labels = _signs(len(first), seed)
    labels = np.concatenate([labels, -labels], axis=1)
    return _p_value(((labels @ kernel) * labels).sum(1))
