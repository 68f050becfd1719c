"""Compares an agent of the public implementation with a copy of it after `accelerate`, results and gradients.

`python -m tests.interop.accelerated_results CHECKOUT causal|block_causal [ENGINE]`, in a process of its own; prints a
line a comparison, and `the same` last.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from iris_fast.agent import AgentConfig
from iris_fast.interop.accelerate import accelerate
from iris_fast.interop.checkout import import_checkout, public_agent
from iris_fast.models.autoencoder import AutoencoderConfig, EncoderConfig
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig

NUM_ACTIONS = 5
LAYERS = 4  # of the policy, each a convolution, a pooling and a ReLU


def same(what: str, found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Asserts equality: exact for integers, to `tolerance` of the largest value for floats."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, (
        what,
        found.shape,
        expected.shape,
    )
    found, expected = found.detach(), expected.detach()
    if found.is_floating_point():
        error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-8))
        assert error <= tolerance, f"{what} differs by {error:.2g}"
        print(f"{what}: {error:.1g}")
    else:
        assert torch.equal(found, expected), f"{what} differs in {int((found != expected).sum())} places"
        print(f"{what}: equal")


class Decisions:
    """What the public policy's max-pooling takes and ReLU lets through, which ours does too while it is compared.

    Of numbers within rounding of one another, or of zero, either may be taken, and the whole gradient goes there:
    without this the weights' gradients differ by 1e-3 for half of all frames, and with it by 2e-6.
    """

    def __init__(self) -> None:
        self.taken: list[Tensor] = []  # by calls of the public policy: step by step, in each a call a layer
        self.passed: list[Tensor] = []
        self._calls: int | None = None  # of ours
        self._pooled: Tensor | None = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        self._calls = None
        with self._patched():
            yield
        assert self.taken

    @contextmanager
    def repeated(self) -> Iterator[None]:
        self._calls = 0
        with self._patched():
            yield
        assert self._calls == LAYERS

    @contextmanager
    def _patched(self) -> Iterator[None]:
        pool, relu = F.max_pool2d, F.relu

        def our_pool(x: Tensor, *args: Any, **settings: Any) -> Tensor:
            values = pool(x, *args, **settings)
            if not x.requires_grad:  # acting, of which there is no gradient
                return values
            if self._calls is None:
                self.taken.append(F.max_pool2d_with_indices(x.detach(), [2])[1])
                self._pooled = values
            else:
                taken = self._of_layer(self.taken)
                self._pooled = x.flatten(2).gather(2, taken.flatten(2)).view_as(values)
                assert torch.allclose(self._pooled, values, rtol=0, atol=1e-4), (
                    "max-pooling takes other numbers"
                )
            return self._pooled

        def our_relu(x: Tensor, *args: Any, **settings: Any) -> Tensor:
            if x is not self._pooled:
                return relu(x, *args, **settings)
            if self._calls is None:
                self.passed.append(x.detach() > 0)
                return relu(x, *args, **settings)
            values = x * self._of_layer(self.passed)
            assert torch.allclose(values, relu(x), rtol=0, atol=1e-4), "ReLU lets other numbers through"
            self._calls += 1
            return values

        with patch.object(F, "max_pool2d", our_pool), patch.object(F, "relu", our_relu):
            yield

    def _of_layer(self, steps: list[Tensor]) -> Tensor:
        """Of all steps at once, as our policy has them: `(batch * time, ...)`."""
        assert self._calls is not None
        return torch.stack(steps[self._calls :: LAYERS], 1).flatten(0, 1)


def same_gradients(what: str, ours: Any, theirs: Any, loss: Callable[[Any], Tensor]) -> None:
    """Compares the gradients that a loss of each agent leaves on its parameters."""
    decisions = Decisions() if what == "actor-critic" else None
    for agent, sharing in (
        (theirs, decisions.recorded if decisions else nullcontext),
        (ours, decisions.repeated if decisions else nullcontext),
    ):
        agent.zero_grad(set_to_none=True)
        with sharing():
            loss(agent).backward()
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters() if p.grad is not None)
    worst, count = 0.0, 0
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None), name
        if found.grad is not None and expected.grad is not None:
            error = float((found.grad - expected.grad).abs().max()) / largest
            assert error < 1e-5, f"gradient of {name} differs by {error:.2g}"
            worst, count = max(worst, error), count + 1
    assert count
    print(f"{what}: {count} gradients, {worst:.1g}")


def make_agents(checkout: Path, attention: Any, engine: Any) -> tuple[Any, Any]:
    """An accelerated agent and its unaccelerated twin; heads so steep that samples are the likeliest classes."""
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(
        ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(8,), z_channels=16
    )
    config = AgentConfig(
        TokenizerConfig(32, 16, EncoderConfig(autoencoder)),
        TransformerConfig(
            attention=attention,
            num_layers=2,
            num_heads=4,
            embed_dim=64,
            embed_pdrop=0.0,
            resid_pdrop=0.0,
            attn_pdrop=0.0,
        ),
    )
    theirs = public_agent(checkout, config, NUM_ACTIONS)
    with torch.no_grad():
        model = theirs.world_model
        theirs.tokenizer.embedding.weight.normal_()
        for table in (model.pos_emb, *model.embedder.embedding_tables):
            table.weight.normal_()
        for linear in (
            *(
                head.head_module[-1]
                for head in (model.head_observations, model.head_rewards, model.head_ends)
            ),
            theirs.actor_critic.actor_linear,
        ):
            linear.weight.normal_(std=1e4)
    ours = copy.deepcopy(theirs)
    return accelerate(ours.eval(), engine), theirs.eval()


def compare(checkout: Path, attention: str, engine: str) -> None:
    ours, theirs = make_agents(checkout, attention, engine)
    assert accelerate(ours) is ours
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(0)
    frames = torch.rand(3, 6, 3, 64, 64)
    found, expected = (agent.tokenizer.encode(frames, should_preprocess=True) for agent in (ours, theirs))
    for field in ("tokens", "z", "z_quantized"):
        same(f"encode {field}", getattr(found, field), getattr(expected, field))
    batch = {
        "observations": frames,
        "actions": torch.randint(NUM_ACTIONS, (3, 6)),
        "rewards": torch.randint(-1, 2, (3, 6)).float(),
        "ends": torch.zeros(3, 6, dtype=torch.int64),
        "mask_padding": torch.ones(3, 6, dtype=torch.bool),
    }
    batch["mask_padding"][1, :2] = False
    same_gradients("tokenizer", ours, theirs, lambda agent: tokenizer_loss(agent, frames))
    same_gradients(
        "world model loss",
        ours,
        theirs,
        lambda agent: agent.world_model.compute_loss(batch, agent.tokenizer).loss_total,
    )
    compare_cache(ours, theirs)
    compare_imagination(ours, theirs, batch)
    compare_playing(checkout, ours, theirs, frames)
    compare_after_changes(ours, theirs, batch)
    print("the same")


def tokenizer_loss(agent: Any, frames: Tensor) -> Tensor:
    """Reconstruction and commitment losses (its own loss function needs the perceptual network)."""
    z, z_quantized, reconstructions = agent.tokenizer(frames, should_preprocess=True, should_postprocess=True)
    commitment = (z.detach() - z_quantized).square().mean() + (z - z_quantized.detach()).square().mean()
    return (reconstructions - frames).abs().mean() + commitment


@torch.no_grad()
def compare_cache(ours: Any, theirs: Any) -> None:
    """Logits token by token, after a prefix, and after sequences were dropped."""
    tokens = torch.randint(NUM_ACTIONS, (3, 40))
    caches = [agent.world_model.transformer.generate_empty_keys_values(3, 60) for agent in (ours, theirs)]
    for start, stop in ((0, 16), (16, 17), (17, 18), (18, 34), (34, 35)):
        outputs = [
            agent.world_model(tokens[:, start:stop], past_keys_values=cache)
            for agent, cache in zip((ours, theirs), caches, strict=True)
        ]
        same(f"cached pass to {stop}", outputs[0].output_sequence, outputs[1].output_sequence)
        assert caches[0].size == caches[1].size == stop
    kept = torch.tensor([True, False, True]).numpy()
    for cache in caches:
        cache.prune(kept)
    outputs = [
        agent.world_model(tokens[:2, 35:36], past_keys_values=cache)
        for agent, cache in zip((ours, theirs), caches, strict=True)
    ]
    same("cached pass after pruning", outputs[0].output_sequence, outputs[1].output_sequence)
    for cache in caches:
        cache.reset()
        assert cache.size == 0


def compare_imagination(ours: Any, theirs: Any, batch: dict[str, Tensor]) -> None:
    rollouts = [
        agent.actor_critic.imagine(batch, agent.tokenizer, agent.world_model, horizon=4)
        for agent in (ours, theirs)
    ]
    for field in ("actions", "rewards", "ends", "logits_actions", "values"):
        same(f"imagined {field}", getattr(rollouts[0], field), getattr(rollouts[1], field))
    levels = rollouts[0].observations.int() - rollouts[1].observations.int()
    assert rollouts[0].observations.dtype == rollouts[1].observations.dtype
    assert levels.abs().max() <= 1, "frames differ by more than the rounding to a level"

    def loss(agent: Any) -> Tensor:
        rollout = agent.actor_critic.imagine(batch, agent.tokenizer, agent.world_model, horizon=4)
        weight = torch.linspace(-1e-4, 1e-4, rollout.logits_actions.numel()).view_as(rollout.logits_actions)
        return (rollout.logits_actions * weight).sum() + rollout.values.square().sum()

    same_gradients("actor-critic", ours, theirs, loss)
    settings = {"imagine_horizon": 4, "gamma": 0.995, "lambda_": 0.95, "entropy_weight": 0.001}
    losses = [
        agent.actor_critic.compute_loss(batch, agent.tokenizer, agent.world_model, **settings).loss_total
        for agent in (ours, theirs)
    ]
    same("actor-critic loss", losses[0].detach(), losses[1].detach())


@torch.no_grad()
def compare_after_changes(ours: Any, theirs: Any, batch: dict[str, Tensor]) -> None:
    """Weights changed in place without PyTorch's counting it, as fused optimizers do, are those imagined with."""
    for part in ("tokenizer", "world_model", "actor_critic"):
        for agent in (ours, theirs):
            for parameter in getattr(agent, part).parameters():
                parameter.data.mul_(1.05)
        rollouts = [
            agent.actor_critic.imagine(batch, agent.tokenizer, agent.world_model, horizon=3)
            for agent in (ours, theirs)
        ]
        for field in ("actions", "rewards", "ends", "logits_actions", "values"):
            same(
                f"imagined {field} with another {part}",
                getattr(rollouts[0], field),
                getattr(rollouts[1], field),
            )


@torch.no_grad()
def compare_playing(checkout: Path, ours: Any, theirs: Any, frames: Tensor) -> None:
    """The public implementation's dream environment, over more steps than the context holds."""
    environment = import_checkout(checkout, "envs.world_model_env").WorldModelEnv
    dreams = [environment(agent.tokenizer, agent.world_model, "cpu") for agent in (ours, theirs)]
    for dream in dreams:
        dream.reset_from_initial_observations(frames[:, 0])
    for step in range(22):
        found, expected = (dream.step(torch.full((3,), step % NUM_ACTIONS)) for dream in dreams)
        assert (torch.as_tensor(found[1]) == torch.as_tensor(expected[1])).all(), "rewards differ"
        difference = (found[0] - expected[0]).abs().max()
        assert difference < 1e-3, f"frames differ by {difference} at step {step}"
    print("playing: the same for 22 steps")


if __name__ == "__main__":
    torch.set_num_threads(1)
    compare(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "auto")
