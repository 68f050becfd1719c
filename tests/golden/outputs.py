"""The project's result for each array of a golden file (docs/iris.md, part 9).

Each function takes the file's arrays and the agent, and returns the outputs it is named after. Computations from
tokens use the file's tokens, so that a tie between codewords counts only once.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from unittest import mock

import torch
from torch import Tensor, nn

from iris_fast.agent import Agent
from iris_fast.config.schema import ActorCriticPartConfig
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.kernels import lambda_returns
from iris_fast.randomness import PhiloxDraws, Purpose
from iris_fast.training.parts import actor_critic_losses, weight_decay_groups

OBSERVATION_STRIDE = 13  # the file holds every 13th of the observation predictions
BURN_IN = slice(10, 12)  # frames that burn in before a rollout; the frame after them starts it
PLAY_SEED = 0  # what is sampled does not change how long the cache is

Arrays = Mapping[str, Tensor]
Outputs = dict[str, Tensor]


class RecordedDraws:
    """The recorded actions, rewards, ends and tokens in place of samples."""

    def __init__(self, golden: Arrays, tokens_per_block: int):
        self.golden = golden
        self.tokens_per_block = tokens_per_block

    def sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        step, slot = divmod(position, self.tokens_per_block)
        if purpose == Purpose.TOKEN:
            return self.golden["imagine_tokens"][:, step - 1, slot]
        if purpose == Purpose.REWARD:
            return self.golden["imagine_rewards"][:, step].long() + 1
        name = {Purpose.ACTION: "imagine_actions", Purpose.END: "imagine_ends"}[purpose]
        return self.golden[name][:, step].long()


def frames_of(golden: Arrays, agent: Agent) -> Tensor:
    """The observations in [0, 1], in the agent's precision."""
    return golden["observations"].to(agent.actor_critic.actor_linear.weight.dtype) / 255


def gradient_norm(module: nn.Module) -> Tensor:
    gradients = [
        parameter.grad.double().norm() for parameter in module.parameters() if parameter.grad is not None
    ]
    return torch.stack(gradients).norm()


def codewords(agent: Agent, tokens: Tensor) -> Tensor:
    """Latents `(batch, embed_dim, 4, 4)` of `tokens` `(batch, 16)`."""
    side = agent.tokenizer.config.autoencoder.latent_resolution
    return agent.tokenizer.embedding(tokens).unflatten(1, (side, side)).permute(0, 3, 1, 2)


def encoding(golden: Arrays, agent: Agent) -> Outputs:
    frames = frames_of(golden, agent)
    first = agent.tokenizer.encode(frames[:, 0])
    everything = agent.tokenizer.encode(frames.flatten(0, 1))
    vectors = everything.z.permute(0, 2, 3, 1).flatten(0, 2).double()
    squared = torch.cdist(vectors, agent.tokenizer.embedding.weight.double()) ** 2
    nearest, second = squared.topk(2, dim=1, largest=False).values.unbind(1)
    return {
        "z": first.z,
        "tokens_frame0": first.tokens,
        "reconstruction_frame0": agent.tokenizer.decode(codewords(agent, golden["tokens_frame0"])),
        "tokens": everything.tokens.unflatten(0, frames.shape[:2]),
        "tokens_margin": (second - nearest).view(*frames.shape[:2], -1),
    }


def quantized_by(tokens: Tensor) -> AbstractContextManager[object]:
    """Within, the search for codewords gives `tokens` `(batch, 16)`: of a tie the file may have the other codeword.

    What is made of them, losses and gradients, is the tokenizer's. Its own tokens are compared in `encoding`.
    """
    lookup = importlib.import_module("iris_fast.kernels.vq_lookup")
    return mock.patch.object(lookup, "_plain_search", lambda *_: tokens.flatten())


def tokenizer_losses(golden: Arrays, agent: Agent) -> Outputs:
    tokenizer = agent.tokenizer
    tokenizer.zero_grad()
    with torch.enable_grad():
        with quantized_by(golden["tokens_frame0"]):
            losses = tokenizer.losses(frames_of(golden, agent)[:, 0])
        torch.stack(list(losses.values())).sum().backward()
    gradient = tokenizer.embedding.weight.grad
    assert gradient is not None
    norms = {"tokenizer_grad_norm": gradient_norm(tokenizer), "codebook_grad_rows": gradient.abs().sum(1)}
    return {f"tokenizer_{name}": loss for name, loss in losses.items()} | norms


def world_model(golden: Arrays, agent: Agent) -> Outputs:
    output = agent.world_model(golden["tokens"], golden["actions"])
    return {
        "logits_observations_sample": output.logits_observations[:, ::OBSERVATION_STRIDE],
        "logits_rewards": output.logits_rewards,
        "logits_ends": output.logits_ends,
        "transformer_output_sample": output.features[:, :: agent.world_model.config.tokens_per_block],
    }


def world_model_losses(golden: Arrays, agent: Agent) -> Outputs:
    model = agent.world_model
    model.zero_grad()
    with torch.enable_grad():
        losses = model.losses(
            golden["tokens"],
            golden["actions"],
            golden["rewards"],
            golden["ends"],
            golden["mask_padding"].bool(),
        )
        torch.stack(list(losses.values())).sum().backward()
    decayed, others = weight_decay_groups(model)
    return {f"world_model_{name}": loss for name, loss in losses.items()} | {
        "world_model_grad_norm": gradient_norm(model),
        "world_model_decayed_tensors": torch.tensor(len(decayed)),
        "world_model_undecayed_tensors": torch.tensor(len(others)),
    }


def actor_critic(golden: Arrays, agent: Agent) -> Outputs:
    policy, frames = agent.actor_critic, frames_of(golden, agent)
    turns = policy(frames[:, :4], policy.initial_state(len(frames)))
    state = policy.burn_in(frames[:, :6], golden["mask_padding"][:, :6].bool())
    after = policy(frames[:, 6:7], state)
    return {
        "actor_logits": turns.logits_actions,
        "critic_values": turns.values,
        "actor_logits_after_burn_in": after.logits_actions,
        "critic_values_after_burn_in": after.values,
    }


def returns(golden: Arrays, agent: Agent) -> Outputs:
    config = ActorCriticPartConfig()
    rewards, values, ends = (golden[f"lambda_{name}"] for name in ("rewards", "values", "ends"))
    return {"lambda_returns": lambda_returns(rewards, values, ends, config.gamma, config.lambda_)}


def imagination(golden: Arrays, agent: Agent) -> Outputs:
    tokens = golden["tokens"][:, BURN_IN]
    seen = agent.tokenizer.frames_of(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
    mask = golden["mask_padding"][:, BURN_IN].bool()
    start = ImaginationStart(seen, mask, golden["imagine_first_tokens"])
    draws = RecordedDraws(golden, agent.world_model.config.tokens_per_block)
    rollout = OracleEngine(agent).imagine_with(start, golden["imagine_actions"].shape[1], draws)
    agent.actor_critic.zero_grad()
    with torch.enable_grad():
        losses = actor_critic_losses(agent.actor_critic, rollout, ActorCriticPartConfig())
        torch.stack(list(losses.values())).sum().backward()
    pixels = (rollout.observations * 255).to(torch.uint8)
    return {f"actor_critic_{name}": loss for name, loss in losses.items()} | {
        "imagine_first_tokens": agent.tokenizer.tokens_of(frames_of(golden, agent)[:, BURN_IN.stop]),
        "imagine_logits_actions": rollout.logits_actions,
        "imagine_values": rollout.values,
        "imagine_frame_mean": pixels.double().mean((2, 3, 4)),
        "actor_critic_grad_norm": gradient_norm(agent.actor_critic),
    }


def playing_on(golden: Arrays, agent: Agent) -> Outputs:
    """Cache lengths after each of as many steps as the file has."""
    dream = Dream(agent.world_model, golden["imagine_first_tokens"][:1], PhiloxDraws(PLAY_SEED))
    sizes = []
    for _ in golden["play_cache_sizes"]:
        dream.step(golden["imagine_actions"][:1, 0])
        sizes.append(dream.cache.length)
    return {"play_cache_sizes": torch.tensor(sizes)}
