"""The C++ engine's dreams in half precision and int8 round as documented, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from iris_fast.imagination.cpu_engine import pack_world_model
from iris_fast.models.world_model import WorldModel
from tests.imagination.test_cpu_engine import CONFIGS, VOCABULARY, assert_bit_equal, inputs, make_dream, play
from tests.support.agents import make_world_model


def test_half_precision_keys_and_values_round_and_no_more() -> None:
    model = make_world_model(CONFIGS["paper_blocks"], VOCABULARY)
    first, actions = inputs(model, 4, 1)
    (_, exact), (_, rounded) = (
        play(make_dream(model, first, kv_dtype=dtype), actions)[0] for dtype in ("float32", "float16")
    )
    difference = float((exact.rewards - rounded.rewards).abs().amax())
    assert 0 < difference < 30 * 2.0**-11 * float(exact.rewards.abs().amax())


def linear_weights(model: WorldModel) -> list[Tensor]:
    """The matrices that `weights_dtype` is about."""
    return [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_weights_are_the_rounded_weights_bit_for_bit(name: str) -> None:
    model = make_world_model(CONFIGS[name], VOCABULARY)
    first, actions = inputs(model, 3, 3)
    halved = play(make_dream(model, first, weights_dtype="float16"), actions)
    exact = play(make_dream(model, first), actions)
    assert any(not torch.equal(a.rewards, b.rewards) for (_, a), (_, b) in zip(halved, exact, strict=True))
    with torch.no_grad():
        for weight in linear_weights(model):
            weight.copy_(weight.half().float())
    assert_bit_equal(halved, play(make_dream(model, first), actions))


def test_half_precision_weights_move_the_logits_by_their_rounding() -> None:
    """Beside float32's, after one action: the same context, so the same question."""
    model = make_world_model(CONFIGS["paper_blocks"], VOCABULARY)
    first, actions = inputs(model, 16, 1)
    (_, exact), (_, rounded) = (
        play(make_dream(model, first, weights_dtype=dtype), actions)[0] for dtype in ("float32", "float16")
    )
    difference = float((exact.rewards - rounded.rewards).abs().amax())
    assert 0 < difference < 30 * 2.0**-11 * float(exact.rewards.abs().amax())


def test_weights_beyond_half_precision_are_refused() -> None:
    model = make_world_model(CONFIGS["micro"], VOCABULARY)
    with torch.no_grad():
        linear_weights(model)[0].view(-1)[5] = -7e4
    pack_world_model(model)
    with pytest.raises(ValueError, match=r"holds -70000.*float32"):
        pack_world_model(model, weights_dtype="float16")
    pack_world_model(model, weights_dtype="int8")
    with pytest.raises(ValueError, match="weights_dtype"):
        pack_world_model(model, weights_dtype="int4")  # type: ignore[arg-type]


def in_integers(x: Tensor) -> Tensor:
    """Each row as an integer from -127 to 127 times the row's scale."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round() * scale


@contextmanager
def products_of_integers(model: WorldModel) -> Iterator[None]:
    """The blocks' linear layers as `weights_dtype="int8"` has them, for PyTorch's modules."""
    hooks = []
    for module in model.transformer.blocks.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = in_integers(module.weight.data)
            hooks.append(module.register_forward_pre_hook(lambda _, args: (in_integers(args[0]),)))
    yield
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def reward_logits(model: WorldModel, first: Tensor, actions: Tensor) -> Tensor:
    """PyTorch's, after the frames `first` `(batch, slots)` and `actions` `(batch,)`."""
    cache = model.new_cache(len(first))
    model.step(model.embedder.tokens(first), cache)
    return model.head_rewards(model.step(model.embedder.actions(actions).unsqueeze(1), cache).squeeze(1))


@pytest.mark.parametrize("name", CONFIGS)
def test_int8_weights_are_products_of_integers(name: str) -> None:
    """Of the same context: the tokens of a frame and an action. Float32 rounding turns a few integers over."""
    model = make_world_model(CONFIGS[name], VOCABULARY)
    first, actions = inputs(model, 16, 1)
    found = play(make_dream(model, first, weights_dtype="int8"), actions)[0][1].rewards
    exact = reward_logits(model, first, actions[:, 0])
    with products_of_integers(model):
        expected = reward_logits(model, first, actions[:, 0])
    rounding = (expected - exact).abs()
    assert float(rounding.mean()) > 1e-5
    assert float((found - expected).abs().mean()) < 0.1 * float(rounding.mean())


def test_int8_weights_must_be_finite() -> None:
    model = make_world_model(CONFIGS["micro"], VOCABULARY)
    with torch.no_grad():
        linear_weights(model)[0].view(-1)[5] = float("inf")
    with pytest.raises(ValueError, match=r"holds inf.*int8.*float32"):
        pack_world_model(model, weights_dtype="int8")


def test_int8_shows_what_is_no_number() -> None:
    """A token's embedding that is NaN: its row's logits are, other rows' are as before."""
    model = make_world_model(CONFIGS["micro"], VOCABULARY)
    first, actions = inputs(model, 3, 1)
    first[first == 7] = 6
    first[1, 2] = 7
    plain = play(make_dream(model, first, weights_dtype="int8"), actions)[0][1].rewards
    with torch.no_grad():
        model.embedder.embedding_tables[1].weight[7] = float("nan")  # type: ignore[index, operator]
    spoiled = play(make_dream(model, first, weights_dtype="int8"), actions)[0][1].rewards
    assert spoiled[1].isnan().all()
    assert torch.equal(spoiled[[0, 2]], plain[[0, 2]])
