"""LPIPS as a frozen distance, and the substitute that keeps small objects."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iris_fast.models.perceptual import LPIPS, foreground_loss, objects_loss
from tests.golden.recipe import golden_lpips


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    return golden_lpips(0)


def pair(batch: int = 2, size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(batch, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return first, second


def test_lpips_is_a_distance(lpips: LPIPS) -> None:
    first, second = pair()
    distance = lpips(first, second)
    assert distance.shape == (2, 1, 1, 1)
    assert (distance > 0).all()
    torch.testing.assert_close(distance, lpips(second, first))
    assert (lpips(first, first) == 0).all()
    torch.testing.assert_close(distance[1:], lpips(first[1:], second[1:]), rtol=1e-4, atol=1e-6)
    nearer = lpips(first, first + 0.1 * (second - first))
    assert (nearer < distance).all()


def test_lpips_by_its_formula(lpips: LPIPS) -> None:
    """Unit features, squared difference, weights, spatial mean; summed over the five layers."""
    first, second = pair(1)
    features = [lpips.net(lpips.scaling_layer(x)) for x in (first, second)]
    expected = torch.zeros(())
    for index, (a, b) in enumerate(zip(*features, strict=True)):
        weights = lpips.get_submodule(f"lin{index}.model.1").weight.flatten()  # type: ignore[union-attr,operator]
        difference = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square()
        expected = expected + (difference * weights[None, :, None, None]).sum(dim=1).mean()
    torch.testing.assert_close(lpips(first, second).squeeze(), expected, rtol=1e-4, atol=1e-6)
    assert [tuple(feature.shape[1:]) for feature in features[0]] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]


def test_lpips_has_a_gradient_by_either_frame_asked_for(lpips: LPIPS) -> None:
    """The target's features are taken apart, without a graph where nobody asks for their gradient."""
    prediction, target = (frames.requires_grad_() for frames in pair())
    both = torch.autograd.grad(lpips(prediction, target).sum(), (prediction, target))
    (alone,) = torch.autograd.grad(lpips(prediction, target.detach()).sum(), prediction)
    assert torch.equal(alone, both[0])
    assert both[1].abs().max() > 0
    with torch.no_grad():
        assert not lpips(prediction, target).requires_grad


def test_lpips_is_frozen_and_tells_the_prediction_what_to_do(lpips: LPIPS) -> None:
    assert all(not parameter.requires_grad for parameter in lpips.parameters())
    prediction, target = pair()
    prediction.requires_grad_()
    lpips(prediction, target).mean().backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None
    assert all(parameter.grad is None for parameter in lpips.parameters())


def test_lpips_has_dropout_while_the_tokenizer_trains() -> None:
    lpips = golden_lpips(0)
    first, second = pair(1)
    still = lpips(first, second)
    assert torch.equal(lpips(first, second), still)
    lpips.train()
    assert not torch.equal(lpips(first, second), lpips(first, second))


def ball_frames(positions: list[int], size: int = 64) -> Tensor:
    """A plain background with a ball of two pixels in each frame."""
    frames = torch.full((len(positions), 3, size, size), -0.5)
    for row, position in enumerate(positions):
        frames[row, :, position, position : position + 2] = 0.9
    return frames


def test_foreground_loss_is_zero_for_equal_frames() -> None:
    frames = ball_frames([3, 9, 20, 40, 50])
    prediction = frames.clone().requires_grad_()
    loss = foreground_loss(prediction, frames)
    assert loss.item() == 0
    loss.backward()
    assert prediction.grad is not None
    assert (prediction.grad == 0).all()


def test_foreground_loss_sees_a_missing_ball() -> None:
    frames = ball_frames([3, 9, 20, 40, 50])
    background = torch.full_like(frames, -0.5)
    missing = foreground_loss(background, frames)
    plain = (background - frames).square().mean()
    assert missing == pytest.approx(1.4**2, rel=1e-4)
    assert missing > 1000 * plain
    # A faint error everywhere of the same plain mean matters far less.
    everywhere = foreground_loss(frames + plain.sqrt(), frames)
    assert missing > 10 * everywhere


def test_foreground_loss_sees_a_ball_left_behind() -> None:
    frames = ball_frames([3, 9, 20, 40, 50])
    empty = torch.full_like(frames, -0.5)
    assert foreground_loss(frames, empty) == pytest.approx(float(foreground_loss(empty, frames)))


def test_foreground_loss_gives_an_area_its_share() -> None:
    """The same error on a foreground of any area is the same loss."""
    small, large = torch.zeros(5, 3, 16, 16), torch.zeros(5, 3, 16, 16)
    small[0, :, 2, 2] = 1
    large[0, :, 2:10, 2:10] = 1
    nothing = torch.zeros_like(small)
    assert float(foreground_loss(nothing, small)) == pytest.approx(float(foreground_loss(nothing, large)))


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_foreground_loss_of_constant_frames(batch: int) -> None:
    """Where nothing stands out (a batch of one frame, or of equal ones) loss and gradient are finite."""
    target = torch.full((batch, 3, 8, 8), 0.25)
    for offset in (0.0, 1e-8, 0.5):
        prediction = (target + offset).requires_grad_()
        loss = foreground_loss(prediction, target)
        assert torch.isfinite(loss)
        assert loss.item() == pytest.approx(offset**2, abs=1e-6)
        loss.backward()
        assert prediction.grad is not None
        assert torch.isfinite(prediction.grad).all()


def test_objects_loss_gives_a_small_object_the_say_of_a_large_one() -> None:
    still = torch.full((9, 3, 64, 64), -0.5)
    frames = still.clone()
    frames[0, :, 12:14, 12:14] = 0.5  # a ball
    frames[0, :, 45:55, 45:55] = 0.5  # a large thing, in another neighbourhood
    without_ball, without_large = frames.clone(), frames.clone()
    without_ball[0, :, 12:14, 12:14] = -0.5
    without_large[0, :, 45:55, 45:55] = -0.5
    plain = float(foreground_loss(without_ball, frames) / foreground_loss(without_large, frames))
    equal = float(objects_loss(without_ball, frames) / objects_loss(without_large, frames))
    assert plain == pytest.approx(0.04, rel=0.01)
    assert equal > 10 * plain
    both = float(objects_loss(without_ball, frames) + objects_loss(without_large, frames))
    assert float(objects_loss(still, frames)) == pytest.approx(both, rel=1e-4), "all that is to be seen"
    assert float(objects_loss(still, frames)) == pytest.approx(1.0, rel=1e-4)


def test_objects_loss_takes_faint_errors_for_noise() -> None:
    frames = ball_frames([3, 9, 20, 40, 50])
    missing = torch.full_like(frames, -0.5)
    noisy = missing + 0.05
    assert float(objects_loss(noisy, frames)) == pytest.approx(1.35**2, rel=1e-3)
    left_behind = objects_loss(frames, missing)
    assert float(left_behind) == pytest.approx(float(objects_loss(missing, frames)))
    assert float(objects_loss(frames, frames)) == 0
