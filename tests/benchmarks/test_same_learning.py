"""The case `same_learning` in small: on a CPU in bfloat16, without capture."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.cases import same_learning as case
from benchmarks.cases.same_learning import Learner, compare, compare_losses, gradient_errors
from benchmarks.played import played_store
from iris_fast.agent import PARTS
from iris_fast.config import apply_overrides, preset_config, validate
from tests.support.micro import MICRO

# Wide enough for the GroupNorm in C++, with frames enough that no single codeword decides.
WIDER = ["tokenizer.encoder.config.ch=16", "training.tokenizer.batch_num_samples=8"]
SMALL = [setting for setting in MICRO if not setting.startswith(("collection", "evaluation", "logging"))]


def test_in_small_the_fast_path_learns_the_same() -> None:
    found = compare("tiny", 8, ("common.precision=bf16",), [*SMALL, *WIDER])
    assert found["seeds"] == case.SEEDS and found["steps"] == 8
    for part in PARTS:
        losses, gradient = found[part], found[part]["gradient"]
        assert len(losses["fast"]) == case.WINDOWS and len(losses["float32"][0]) == case.SEEDS
        assert all(map(math.isfinite, losses["fast"]))
        assert losses["fast"] != [seeds[0] for seeds in losses["float32"]], "nothing ran in bfloat16"
        assert losses["spreads_from_same_draws"][0] < case.MOST_SPREADS
        assert 1e-4 < gradient["error"] < 0.3, "bfloat16's rounding, and no more"
        assert gradient["within"], gradient


def test_float32_captured_is_the_first_seed_itself() -> None:
    """Which is what makes the comparison one of precision alone."""
    fast, plain = Learner("tiny", SMALL), Learner("tiny", [*SMALL, "training.cuda_graphs=false"])
    assert fast.losses(0, 2) == plain.losses(0, 2)
    assert fast.losses(0, 2) == plain.losses(0, 2), "runs begin from the same weights"
    assert fast.losses(1, 2) != plain.losses(0, 2)


def test_runs_that_would_end_too_late_are_left_out() -> None:
    assert compare("tiny", 4, (), SMALL, seconds=0)["seeds"] == 2


def test_other_losses_are_found() -> None:
    runs = [[1.0, 0.8, 0.6, 0.4], [1.1, 0.9, 0.7, 0.5], [0.9, 0.7, 0.5, 0.3]]
    same = compare_losses(runs, [1.01, 0.79, 0.62, 0.41])
    assert same["within_the_spread_of_seeds"] and max(same["spreads_from_same_draws"]) < 0.3
    later = compare_losses(runs, [1.01, 0.79, 0.62, 0.7])
    assert not later["within_the_spread_of_seeds"] and later["spreads"][3] == pytest.approx(3)


def test_another_gradient_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = {name: torch.randn(50, generator=generator) for name in "ab"}

    def noisy(scale: float) -> dict[str, torch.Tensor]:
        return {n: g + scale * g.norm() / 7 * torch.randn(50, generator=generator) for n, g in exact.items()}

    rounding = case.ROUNDING["bf16"]
    plain = noisy(0.01)
    assert gradient_errors(noisy(0.01), plain, exact, rounding)["within"]
    for wrong in ({"a": exact["a"].flip(0)}, {"a": exact["a"] / 0}, {"a": exact["a"] * math.nan}):
        found = gradient_errors(noisy(0.01) | wrong, plain, exact, rounding)
        assert not found["within"] and found["worst_parameter"] == "a"
    assert not gradient_errors(noisy(0.1), plain, exact, rounding)["within"]


@pytest.mark.parametrize(("preset", "batches"), [("paper", case.GPU_BATCHES), ("tiny", case.CPU_BATCHES)])
def test_the_batches_are_settings_of_a_run(preset: str, batches: tuple[str, ...]) -> None:
    config = apply_overrides(preset_config(preset, "Catch"), list(batches))
    validate(config)
    assert config.training.tokenizer.batch_num_samples % (config.training.tokenizer.pieces or 1) == 0


def test_games_are_played_to_their_ends() -> None:
    store = played_store(60, 64, 0, torch.device("cpu"))
    assert 60 <= store.num_frames < 160
    for episode in store.episodes.values():
        assert store.ends[episode.held].tolist() == [False] * (episode.length - 1) + [True]
        assert abs(float(store.rewards[episode.held].sum())) == 1
