"""Gradient steps: weight decay, accumulation, clipping, and divergence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iris_fast.errors import RunStopped, UserError
from iris_fast.models.tokenizer import Tokenizer
from iris_fast.models.versioned import Versioned
from iris_fast.training.device import check_precision, prepare
from iris_fast.training.optimization import MetricMeans, PartTrainer
from iris_fast.training.parts import Losses, adamw, weight_decay_groups
from tests.support.agents import (
    Line,
    assert_same_gradients,
    gradients,
    make_world_model,
    micro_agent,
    small_transformer,
)
from tests.support.micro import micro_config
from tests.support.parts import GivenPart

CPU = torch.device("cpu")


def make_part(
    module: Versioned, losses: Callable[[int], Iterable[Losses]], pieces: int = 1, **settings: Any
) -> PartTrainer:
    settings = {"max_grad_norm": 1e9} | settings
    return PartTrainer(GivenPart(module, losses, pieces=pieces, **settings))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def quadratic() -> tuple[Line, Callable[[int], list[Losses]]]:
    """A model and losses whose gradient is known: 3 w and 1 at w = weight, b = bias."""
    model = Line(4, 1)
    return model, lambda seed: [{"a": 1.5 * model.weight.square().sum(), "b": model.bias.sum()}]


def test_weight_decay_is_for_the_weights_of_linear_layers_alone() -> None:
    model = make_world_model(small_transformer())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others = ([names[id(p)] for p in group] for group in weight_decay_groups(model))
    layers = ["attn.key", "attn.query", "attn.value", "attn.proj", "mlp.0", "mlp.2"]
    blocks = {f"transformer.blocks.{block}.{layer}.weight" for block in (0, 1) for layer in layers}
    heads = {
        f"head_{head}.head_module.{layer}.weight"
        for head in ("observations", "rewards", "ends")
        for layer in (0, 2)
    }
    assert set(decayed) == blocks | heads
    assert set(decayed) | set(others) == set(names.values())
    assert len(decayed) + len(others) == len(names)
    for name in ("pos_emb.weight", "embedder.embedding_tables.0.weight", "transformer.ln_f.weight"):
        assert name in others
    assert all(name in others for name in names.values() if name.endswith("bias"))


def test_decay_shrinks_them_where_there_is_no_gradient() -> None:
    model = make_world_model(small_transformer())
    before = weights(model)
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {id(parameter) for parameter in weight_decay_groups(model)[0]}
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if id(parameter) in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def tokenizer_part(tokenizer: Tokenizer, frames: Tensor, pieces: int) -> PartTrainer:
    return make_part(
        tokenizer, lambda seed: (tokenizer.losses(piece) for piece in frames.chunk(pieces)), pieces=pieces
    )


@pytest.mark.parametrize("pieces", [2, 4])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(pieces: int) -> None:
    frames = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, metrics = {}, {}
    for count in (1, pieces):
        tokenizer = micro_agent("tokenizer.perceptual=none").tokenizer.train()
        metrics[count] = tokenizer_part(tokenizer, frames, count).step(0, 1, 0)
        found[count] = gradients(tokenizer.named_parameters())
    assert_same_gradients(found[pieces], found[1])
    assert set(metrics[1]) == {"reconstruction_loss", "commitment_loss", "total_loss", "grad_norm"}
    for name, value in metrics[1].items():
        torch.testing.assert_close(metrics[pieces][name], value, rtol=1e-4, atol=1e-5)


def test_accumulation_is_the_mean_over_its_batches() -> None:
    """Each batch is drawn from a seed of its own, and weighs the same."""
    model = Line(4, 1)
    before, seeds = copy.deepcopy(model), []

    def loss(of: nn.Linear, seed: int) -> Tensor:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        return of(x).square().mean()

    def losses(seed: int) -> list[Losses]:
        seeds.append(seed)
        return [{"loss": loss(model, seed)}]

    metrics = make_part(model, losses, grad_acc_steps=3).step(7, 2, 4)
    assert len(set(seeds)) == 3
    mean = torch.stack([loss(before, seed) for seed in seeds]).mean()
    mean.backward()
    expected = gradients(before.named_parameters())
    assert_same_gradients(gradients(model.named_parameters()), expected, tolerance=1e-5)
    torch.testing.assert_close(metrics["loss"], mean.detach())


def test_another_address_is_another_batch() -> None:
    model, seeds = Line(4, 1), set()

    def losses(seed: int) -> list[Losses]:
        seeds.add(seed)
        return [{"loss": model.weight.sum()}]

    part = make_part(model, losses)
    for address in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)):
        part.step(*address)
    assert len(seeds) == 4


def test_dropout_is_drawn_from_the_address() -> None:
    noise = []
    model, _ = quadratic()

    def losses(seed: int) -> list[Losses]:
        noise.append(torch.rand(()).item())
        return [{"loss": model.weight.sum()}]

    part = make_part(model, losses)
    for turn, step in enumerate((0, 1, 0)):
        torch.manual_seed(turn)
        part.step(0, 1, step)
    assert noise[0] == noise[2] != noise[1]


@pytest.mark.parametrize("limit", [0.1, 1e9])
def test_clipping(limit: float) -> None:
    model, losses = quadratic()
    norm = torch.cat([3 * model.weight.detach().flatten(), torch.ones(1)]).norm()
    metrics = make_part(model, losses, max_grad_norm=limit).step(0, 1, 0)
    torch.testing.assert_close(metrics["grad_norm"], norm)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(after, torch.minimum(norm, torch.tensor(limit)), rtol=1e-4, atol=1e-6)


def test_a_step_is_adams() -> None:
    torch.manual_seed(0)
    model, losses = quadratic()
    before = weights(model)
    make_part(model, losses).step(0, 1, 0)
    for name, parameter in model.named_parameters():
        gradient = 3 * before["weight"] if name == "weight" else torch.ones(1)
        # Its first step moves by the learning rate against the sign of the gradient.
        torch.testing.assert_close(
            parameter.detach(), before[name] - 1e-3 * gradient.sign(), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("bad", ["nan", "inf", "gradient"])
def test_divergence_stops_the_run_before_a_weight_changes(bad: str) -> None:
    model, _ = quadratic()
    before = weights(model)

    def losses(seed: int) -> list[Losses]:
        if bad == "gradient":  # finite where its gradient is not
            return [{"loss": (model.weight.sum() * 0).sqrt()}]
        return [{"fine": model.weight.sum(), "loss": model.weight.sum() * float(bad)}]

    with pytest.raises(RunStopped) as stopped:
        make_part(model, losses).step(0, 12, 3)
    assert stopped.value.exit_code == 3
    message = str(stopped.value)
    assert message.startswith(
        "tokenizer grad_norm became" if bad == "gradient" else "tokenizer total_loss became"
    )
    assert "in epoch 12, step 3" in message
    assert "training.tokenizer.learning_rate" in message
    assert "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_means_of_a_phase_go_on_after_a_stop() -> None:
    values = [0.1, 0.7, -2.5, 1e-3]
    whole, first = MetricMeans(), MetricMeans()
    for value in values:
        whole.add({"loss": torch.tensor(value), "norm": torch.tensor(2 * value)})
    for value in values[:2]:
        first.add({"loss": torch.tensor(value), "norm": torch.tensor(2 * value)})
    resumed = MetricMeans()
    resumed.load_state_dict(first.state_dict(), CPU)
    for value in values[2:]:
        resumed.add({"loss": torch.tensor(value), "norm": torch.tensor(2 * value)})
    assert resumed.means("part/train") == whole.means("part/train")
    assert whole.means("part/train")["part/train/loss"] == pytest.approx(sum(values) / 4)


def test_the_optimizer_goes_on_after_a_stop() -> None:
    torch.manual_seed(0)
    model, losses = quadratic()
    part = make_part(model, losses)
    part.step(0, 1, 0)
    saved, state = weights(model), copy.deepcopy(part.state_dict())
    other, other_losses = quadratic()
    other.load_state_dict(saved)
    resumed = make_part(other, other_losses)
    resumed.load_state_dict(state)
    part.step(0, 1, 1)
    resumed.step(0, 1, 1)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(model).items())


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_gpus_precision_is_refused_on_a_cpu(precision: str) -> None:
    with pytest.raises(UserError, match=f"common.precision={precision} needs a GPU: on a CPU use"):
        check_precision(precision, CPU)
    with pytest.raises(UserError, match=f"common.precision={precision} needs a GPU"):
        prepare(micro_config(f"common.precision={precision}", "common.device=cpu"))
    check_precision(precision, torch.device("cuda"))
    check_precision("float32", CPU)
