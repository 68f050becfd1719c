"""The metrics that say which part is the bottleneck, on tensors whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.agent import PARTS
from iris_fast.models.world_model import IGNORED, Prediction
from iris_fast.replay.cache import FrameCache
from iris_fast.training.measures import (
    Sums,
    actor_critic_metrics,
    add_sums,
    measure_imagined,
    measure_moving,
    measure_predictions,
    measure_tokens,
    tokenizer_metrics,
    totals_of,
    world_model_metrics,
)
from tests.support.agents import make_world_model, micro_agent, small_transformer
from tests.support.episodes import noise_store
from tests.support.parts import micro_parts

POSITIONS, CODES = 4, 5


def certain(labels: Tensor, classes: int) -> Tensor:
    """Log-probabilities that give each label all of the probability."""
    return torch.where(F.one_hot(labels.clamp_min(0), classes) == 1, 0.0, -1e4)


def base_rate(labels: Tensor, classes: int) -> Tensor:
    """Log-probabilities of the labels' own frequencies, the same in every row."""
    counts = torch.bincount(labels[labels != IGNORED], minlength=classes)
    return (counts / counts.sum()).clamp_min(1e-30).log().expand(len(labels), classes)


def predictions_of(segments: int = 6, time: int = 7, seed: int = 0) -> dict[str, Prediction]:
    """Random labels of segments, some of them padded, with log-probabilities that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    classes = {"obs": CODES, "rewards": 3, "ends": 2}
    lengths = torch.randint(1, time + 1, (segments, 1), generator=generator)
    padded = torch.arange(time) >= lengths
    found = {}
    for name, count in classes.items():
        shape = (segments, time, POSITIONS) if name == "obs" else (segments, time)
        labels = torch.randint(count, shape, generator=generator)
        labels = labels.masked_fill(padded[..., None] if name == "obs" else padded, IGNORED).flatten(1)
        flat = (labels[:, 1:] if name == "obs" else labels).flatten()
        found[name] = Prediction(torch.full((len(flat), count), -math.log(count)), flat, segments)
    return found


def metrics_of(predictions: Mapping[str, Prediction]) -> dict[str, float]:
    return world_model_metrics(totals_of(measure_predictions(predictions, POSITIONS)))


def test_perfect_predictions_have_share_0_and_recall_1() -> None:
    perfect = {
        name: p._replace(log_probabilities=certain(p.labels, p.log_probabilities.shape[1]))
        for name, p in predictions_of().items()
    }
    found = metrics_of(perfect)
    assert found["rewards_vs_base_rate"] == found["ends_vs_base_rate"] == found["obs_vs_marginal"] == 0
    assert found["rewards_recall"] == 1


def test_the_base_rate_has_share_1_and_recall_0() -> None:
    labels = torch.tensor([1] * 90 + [2] * 6 + [0] * 4 + [IGNORED] * 20)
    given = predictions_of() | {"rewards": Prediction(base_rate(labels, 3), labels, 1)}
    found = metrics_of(given)
    assert found["rewards_vs_base_rate"] == pytest.approx(1, abs=1e-6)
    assert found["rewards_recall"] == 0
    assert found["rewarded_steps"] == pytest.approx(0.1)


def test_recall_counts_the_sign() -> None:
    """Of three rewards one is found, one has the other sign, one is taken for none; a zero is taken for a reward."""
    labels = torch.tensor([0, 2, 2, 1, IGNORED])
    guessed = torch.tensor([0, 0, 1, 2, 2])
    given = predictions_of() | {"rewards": Prediction(certain(guessed, 3), labels, 1)}
    assert metrics_of(given)["rewards_recall"] == pytest.approx(1 / 3)


def test_without_a_reward_there_is_nothing_to_compare_with() -> None:
    labels = torch.ones(30, dtype=torch.int64)
    given = predictions_of() | {"rewards": Prediction(base_rate(labels, 3), labels, 1)}
    found = metrics_of(given)
    assert "rewards_vs_base_rate" not in found and "rewards_recall" not in found
    assert found["rewarded_steps"] == 0


def test_observations_by_position() -> None:
    """Position 1 is predicted, position 2 never changes, the others have the loss of a uniform guess."""
    given = predictions_of(segments=8, time=200)["obs"]
    places = (torch.arange(len(given.labels) // 8) + 1).repeat(8) % POSITIONS
    labels = torch.where((places == 2) & (given.labels != IGNORED), 3, given.labels)
    guesses = given.log_probabilities.clone()
    guesses[places == 1] = certain(labels, CODES)[places == 1]
    found = metrics_of(predictions_of() | {"obs": Prediction(guesses, labels, 8)})
    losses = [found[f"loss_obs_position/{position:02}"] for position in range(POSITIONS)]
    assert losses == pytest.approx([math.log(CODES), 0, math.log(CODES), math.log(CODES)])
    assert found["obs_vs_marginal_position/00"] == pytest.approx(1, abs=0.02)
    assert found["obs_vs_marginal_position/01"] == 0
    assert "obs_vs_marginal_position/02" not in found, "its marginal has no entropy"


def test_the_mean_over_positions_is_the_loss() -> None:
    given = predictions_of()["obs"]
    guesses = torch.randn(given.log_probabilities.shape, generator=torch.Generator().manual_seed(1))
    given = given._replace(log_probabilities=guesses.log_softmax(1))
    sums = measure_predictions(predictions_of() | {"obs": given}, POSITIONS)
    torch.testing.assert_close(sums["obs_nats"].sum() / sums["obs_counts"].sum(), given.loss())


def test_sums_of_parts_are_those_of_the_whole() -> None:
    one, other = predictions_of(seed=1), predictions_of(seed=2)
    both = {
        name: Prediction(torch.cat([p[0], other[name][0]]), torch.cat([p[1], other[name][1]]), 12)
        for name, p in one.items()
    }
    sums: Sums = {}
    for part in (one, other):
        add_sums(sums, measure_predictions(part, POSITIONS))
    assert world_model_metrics(totals_of(sums)) == pytest.approx(metrics_of(both), rel=1e-6)


def test_losses_are_pytorchs_cross_entropy_bit_by_bit() -> None:
    model = make_world_model(small_transformer())
    torch.manual_seed(0)
    logits = torch.randn(300, 7, requires_grad=True)
    labels = torch.randint(7, (300,)).masked_fill(torch.rand(300) < 0.2, IGNORED)
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(expected, logits)
    prediction = Prediction(logits.log_softmax(1), labels, 1)
    found = model.losses_of({"obs": prediction})["loss_obs"]
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, logits)[0], gradient)


@pytest.mark.parametrize("name", PARTS)
def test_asking_for_the_sums_changes_no_loss_and_no_gradient(name: str) -> None:
    found = []
    given: tuple[Sums | None, ...] = ({}, None)
    for sums in given:
        agent = micro_agent()
        part = micro_parts(agent, FrameCache(agent.coder, noise_store(1, 2, 12)))[name]
        inputs = part.inputs(0, 4)
        torch.manual_seed(0)
        for losses in part.losses(inputs, sums):
            torch.stack(list(losses.values())).sum().backward()
        found.append([*losses.values(), *(p.grad for p in part.parameters), torch.get_rng_state()])
    assert sums is None
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_codes_in_use() -> None:
    every = torch.arange(16).repeat(50, 1)  # each position has a code of its own, always
    found = tokenizer_metrics(totals_of(measure_tokens(every, 512)))
    assert found["codes_used"] == 16
    assert found["codebook_perplexity"] == pytest.approx(16)
    assert found["tokens_entropy"] == 0, "all frames have the same tokens"
    one = tokenizer_metrics(totals_of(measure_tokens(torch.full((50, 16), 7), 512)))
    assert one["codes_used"] == one["codebook_perplexity"] == 1
    told_apart = every.clone()
    told_apart[::2, 3] = 100
    found = tokenizer_metrics(totals_of(measure_tokens(told_apart, 512)))
    assert found["codes_used"] == 17
    assert found["tokens_entropy"] == pytest.approx(math.log(2))


def imagined(values: Tensor, returns: Tensor, probabilities: Tensor | None = None) -> dict[str, float]:
    shape = (len(returns), returns.shape[1] + 1)
    uniform = torch.full((*returns.shape, 6), 1 / 6) if probabilities is None else probabilities
    entropies = -(uniform * uniform.log()).nan_to_num().sum(2)
    sums = measure_imagined(
        torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), returns, values, entropies
    )
    return actor_critic_metrics(totals_of(sums), 6)


def test_explained_variance_of_values() -> None:
    returns = torch.randn(64, 19, generator=torch.Generator().manual_seed(0)) * 3 + 2
    exact, off, mean, reversed_ = (
        imagined(values, returns)["explained_variance"]
        for values in (returns, returns + 5, torch.full_like(returns, 2), -returns)
    )
    assert exact == pytest.approx(1)
    assert off == pytest.approx(1, abs=1e-5), "a constant error is no variance"
    assert mean == pytest.approx(0, abs=1e-5)
    assert reversed_ == pytest.approx(-3, abs=1e-4)
    assert "explained_variance" not in imagined(torch.zeros(4, 3), torch.zeros(4, 3))


def test_entropy_of_the_policy() -> None:
    zeros = torch.zeros(8, 5)
    assert imagined(zeros, zeros)["entropy"] == pytest.approx(math.log(6))
    assert imagined(zeros, zeros)["entropy_vs_maximum"] == pytest.approx(1)
    one_action = F.one_hot(torch.zeros(8, 5, dtype=torch.int64), 6).float()
    assert imagined(zeros, zeros, one_action)["entropy"] == 0


def test_imagined_steps_after_an_end_do_not_count() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.0, -1.0], [0.0, 0.0, -1.0, 1.0]])
    ends = torch.tensor([[False, True, False, False], [False, False, False, False]])
    zeros = torch.zeros(2, 3)
    sums = measure_imagined(rewards, ends, zeros, zeros, zeros)
    assert actor_critic_metrics(totals_of(sums), 6)["imagined_rewarded_steps"] == pytest.approx(3 / 6)


def test_error_of_moving_pixels() -> None:
    """A ball of 2 pixels, brighter than the background by 102 levels of 255, moves by 2 pixels."""
    before, after = torch.full((1, 3, 8, 8), 51.0), torch.full((1, 3, 8, 8), 51.0)
    before[..., 4, 0:2] += 102
    after[..., 4, 2:4] += 102
    change = (after - before).abs().to(torch.uint8)
    background = torch.full((1, 3, 8, 8), 51.0)
    found = {}
    for name, drawn in {"exact": after, "without": background, "as before": before}.items():
        error = (after - drawn).abs() * 2 / 255
        found[name] = tokenizer_metrics(
            totals_of(measure_moving(error, change) | measure_tokens(torch.zeros(1, 16).long(), 4))
        )
    assert found["exact"]["moving_pixels"] == pytest.approx(4 / 64)
    losses = {name: metrics["reconstruction_loss_moving"] for name, metrics in found.items()}
    assert losses == {"exact": 0, "without": pytest.approx(0.4), "as before": pytest.approx(0.8)}
    shares = {name: metrics["moving_vs_previous_frame"] for name, metrics in found.items()}
    assert shares == {"exact": 0, "without": pytest.approx(0.5), "as before": pytest.approx(1)}


def test_what_the_tokenizers_batch_says_is_of_its_frames_and_those_before() -> None:
    """Noise moves in nearly all pixels, and in none of an episode's first frame."""
    agent, store = micro_agent(), noise_store(2, 12)
    part = micro_parts(agent, FrameCache(agent.coder, store), "training.tokenizer.pieces=2")["tokenizer"]
    inputs, sums = part.inputs(0, 8), Sums()
    assert len(list(part.losses(inputs, sums))) == 2
    first = [store.frames[int(episode.held[0])] for episode in store.episodes.values()]
    frames = inputs["frames"]
    moving = [not any(torch.equal((frame * 255).round(), one.float()) for one in first) for frame in frames]
    assert 0 < sum(moving) < 8
    assert float(sums["pixels"]) == 8 * 3 * 64 * 64 and float(sums["codes"].sum()) == 8 * 16
    metrics = part.metrics(totals_of(sums), "tokenizer/train")
    assert metrics["tokenizer/train/moving_pixels"] == pytest.approx(sum(moving) / 8, rel=1e-3)
    found = agent.tokenizer.reconstruction(frames[torch.tensor(moving)])
    error = found.error.mean().item()
    assert metrics["tokenizer/train/reconstruction_loss_moving"] == pytest.approx(error, rel=1e-3)
