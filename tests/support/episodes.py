"""Episodes of noise for tests of storage, caching and training."""

from __future__ import annotations

import numpy as np
import torch

from iris_fast.replay.store import EpisodeStore

CPU = torch.device("cpu")
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def noise(rng: np.random.Generator, length: int, size: int = 64) -> Columns:
    """Frames, actions, rewards and ends of `length` steps; no frame is all zeros."""
    return (
        rng.integers(1, 256, (length, 3, size, size), dtype=np.uint8),
        rng.integers(0, 3, length),
        rng.normal(size=length).astype(np.float32),
        rng.random(length) < 0.1,
    )


def noise_store(*lengths: int, size: int = 64, capacity: int | None = None, seed: int = 0) -> EpisodeStore:
    """A store with a closed episode of each length, numbered from 0."""
    store = EpisodeStore(capacity or sum(lengths), size, CPU)
    rng = np.random.default_rng(seed)
    for key, length in enumerate(lengths):
        store.extend(key, *noise(rng, length, size), closed=True)
    return store


def assert_uniform(counts: np.ndarray) -> None:
    """By chi-square: at most four standard deviations above what uniform draws give on average."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    assert expected > 10, "too few draws to say anything"
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < freedom + 4 * np.sqrt(2 * freedom), counts
