"""The permutation tests detect differences and rarely report false ones."""

from __future__ import annotations

import numpy as np

from benchmarks.paired_samples import p_of_counts, p_of_means, p_of_wholes

ROLLOUTS, LENGTH, KINDS = 96, 20, 5


def sequences(generator: np.random.Generator, odds: list[float]) -> np.ndarray:
    """Values of a rollout depend on each other: each is the one before it half of the time."""
    fresh = generator.choice(KINDS, (ROLLOUTS, LENGTH), p=odds)
    for place in range(1, LENGTH):
        kept = generator.random(ROLLOUTS) < 0.5
        fresh[kept, place] = fresh[kept, place - 1]
    return fresh


def p_values(first: np.ndarray, second: np.ndarray, seed: int) -> list[float]:
    first_counts, second_counts = (
        np.stack([np.bincount(row, minlength=KINDS) for row in rows]) for rows in (first, second)
    )
    return [
        p_of_counts(first_counts, second_counts, seed),
        p_of_means(first.mean(1), second.mean(1), seed),
        p_of_wholes(first, second, seed),
    ]


EVEN, UNEVEN = [0.2] * 5, [0.1, 0.15, 0.2, 0.25, 0.3]


def test_a_difference_is_told() -> None:
    generator = np.random.default_rng(0)
    assert max(p_values(sequences(generator, EVEN), sequences(generator, UNEVEN), 0)) < 0.01


def test_no_difference_is_told_as_often_as_promised() -> None:
    """p is at most 0.2 in a fifth of the cases: within four standard errors over 60 of them, for each test."""
    generator = np.random.default_rng(1)
    found = np.array(
        [p_values(sequences(generator, EVEN), sequences(generator, EVEN), seed) for seed in range(60)]
    )
    assert np.all(np.abs((found <= 0.2).mean(0) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 60))


def test_equal_samples_give_one() -> None:
    same = sequences(np.random.default_rng(2), EVEN)
    assert p_values(same, same, 0) == [1.0, 1.0, 1.0]
