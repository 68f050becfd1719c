from __future__ import annotations

import pytest
import torch

from iris_fast.kernels import sample_categorical
from iris_fast.randomness import PhiloxDraws, Purpose, derive_seed


def test_draws_of_a_part_of_the_rows_are_those_of_the_whole() -> None:
    logits, seed = torch.randn(50, 9), derive_seed(3, "rollout")
    whole = PhiloxDraws(seed).sample(logits, 5, Purpose.TOKEN)
    parts = [
        PhiloxDraws(seed).sample(logits[:20], 5, Purpose.TOKEN),
        PhiloxDraws(seed, 20).sample(logits[20:], 5, Purpose.TOKEN),
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, 2**63, 2**64 - 1])
def test_the_seed_on_a_device_is_made_once_and_draws_the_same(seed: int) -> None:
    draws, logits = PhiloxDraws(seed), torch.randn(40, 9)
    there = draws._seed_on(torch.device("cpu"))
    assert there is draws._seed_on(torch.device("cpu"))
    found = sample_categorical(logits, seed=there, position=2, purpose=int(Purpose.REWARD))
    assert torch.equal(found, draws.sample(logits, 2, Purpose.REWARD))
