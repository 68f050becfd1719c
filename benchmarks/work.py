"""Operations and minimum bytes of the measured work, counted on the models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from iris_fast.agent import Agent, AgentConfig
from iris_fast.imagination.engine import Rollout
from iris_fast.models.perceptual import LPIPS
from iris_fast.models.world_model import WorldModel
from iris_fast.training.parts import actor_critic_losses


class TokenWork(NamedTuple):
    """Operations of the products; numbers read, to be multiplied by the size of one.

    `kv_numbers`: keys and values. `weight_numbers`: the matrices, once a pass for the whole batch.
    """

    flops: float
    kv_numbers: float
    weight_numbers: float


def token_work(model: WorldModel, batch: int, steps: int, last_action: bool = False) -> TokenWork:
    """`steps` imagined steps of token passes after the first frame; with `last_action` one more action pass."""
    config = model.config
    linears = [module for module in model.transformer.modules() if isinstance(module, nn.Linear)]
    head = [module for module in model.head_observations.modules() if isinstance(module, nn.Linear)]
    layers, heads = (sum(module.weight.numel() for module in found) for found in (linears, head))
    # The first frame's tokens have no head, nor has the last token of a generated one.
    tokens = model.frame_tokens + steps * config.tokens_per_block + int(last_action)
    positions = range(model.frame_tokens, tokens)
    read = 2 * config.num_layers * config.embed_dim * sum(position + 1 for position in positions)
    products = layers * tokens + heads * model.frame_tokens * steps
    attention = 2 * config.num_layers * config.embed_dim * sum(position + 1 for position in range(tokens))
    passes = len(positions)
    weights = float(layers * passes + heads * model.frame_tokens * steps)
    return TokenWork(2.0 * batch * (products + attention), float(batch * read), weights)


@lru_cache
def _flops(config: AgentConfig, part: str) -> float:
    """Operations for one frame, counted by PyTorch on tensors without data."""
    with torch.device("meta"):
        agent = Agent(config, 6).eval()
        frame = torch.zeros(
            1, 3, config.tokenizer.autoencoder.resolution, config.tokenizer.autoencoder.resolution
        )
        side = config.tokenizer.autoencoder.latent_resolution
        functions: dict[str, Callable[[], Any]] = {
            "decode": lambda: agent.tokenizer.decode(torch.zeros(1, config.tokenizer.embed_dim, side, side)),
            "encode": lambda: agent.tokenizer.encoder(frame),
            "policy": lambda: agent.actor_critic(frame.unsqueeze(1), agent.actor_critic.initial_state(1)),
        }
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functions[part]()
    return float(counter.get_total_flops())


def frame_flops(agent: Agent, part: str) -> float:
    """Operations for one frame (a multiply-add is two): "decode", "encode" (without the search), "policy"."""
    return _flops(agent.config, part)


def frame_bytes(agent: Agent, parts: Iterable[str], batch: int) -> float:
    """Bytes at the least of parts of `batch` frames: weights, and what goes in and comes out, in float32.

    What a network writes between its layers is more, where it does not stay in a cache.
    """
    tokenizer, resolution = agent.tokenizer, agent.config.tokenizer.autoencoder.resolution
    modules = {"encode": tokenizer.encoder, "decode": tokenizer.decoder, "policy": agent.actor_critic}
    weights = sum(p.numel() for part in parts for p in modules[part].parameters())
    return 4.0 * (weights + 2 * batch * 3 * resolution**2)


def losses_of(agent: Agent, part: str, rows: int, frames: int) -> dict[str, Tensor]:
    """A part's losses on a made-up batch of so many rows, each of so many frames, on the default device."""
    size = agent.config.tokenizer.autoencoder.resolution
    seen, steps = torch.rand(rows, frames, 3, size, size), torch.zeros(rows, frames)
    if part == "tokenizer":
        return agent.tokenizer.losses(seen.flatten(0, 1))
    if part == "world_model":
        tokens = torch.zeros(rows, frames, agent.world_model.frame_tokens, dtype=torch.int64)
        return agent.world_model.losses(tokens, steps.long(), steps, steps, steps.bool().logical_not())
    state = agent.actor_critic.initial_state(rows)
    rollout = Rollout(seen, steps.long(), steps.long(), steps, steps.bool(), steps, steps, state)
    return actor_critic_losses(agent.actor_critic, rollout)


@lru_cache
def _loss_flops(config: AgentConfig, part: str, frames: int) -> float:
    """Operations of loss and gradient for one row of a batch, of so many frames, on tensors without data."""
    with torch.device("meta"):
        agent = Agent(config, 6).eval()
        agent.tokenizer.attach_lpips(LPIPS())
        with FlopCounterMode(display=False) as counter:
            torch.stack(list(losses_of(agent, part, 1, frames).values())).sum().backward()
    return float(counter.get_total_flops())


def step_flops(agent: Agent, part: str, batch: int, frames: int, horizon: int) -> float:
    """Operations of a part's gradient step on segments of so many frames, whose frames it encodes itself.

    Of the actor-critic: the rollout with its burn-in (frames but the last, encoded and decoded) and the gradient.
    Clipping and optimizer are left out, which are no products.
    """
    if part == "tokenizer":
        return batch * _loss_flops(agent.config, part, frames)
    encoded = batch * frames * frame_flops(agent, "encode")
    if part == "world_model":
        return encoded + batch * _loss_flops(agent.config, part, frames)
    decoded, acted = frame_flops(agent, "decode"), frame_flops(agent, "policy")
    burned = batch * (frames - 1) * (decoded + acted)
    imagined = batch * horizon * (decoded + acted)
    tokens = token_work(agent.world_model, batch, horizon - 1, last_action=True).flops
    return encoded + burned + imagined + tokens + batch * _loss_flops(agent.config, part, horizon)


def step_bytes(agent: Agent, part: str) -> float:
    """Bytes at the least of a gradient step in float32: a part's weights forward and backward, gradient, Adam.

    Adam reads weights, gradients and both moments and writes all but the gradients: seven, besides two readings of
    the weights and one writing of the gradient.
    """
    trained = sum(
        parameter.numel()
        for name, parameter in agent.get_submodule(part).named_parameters()
        if not name.startswith("lpips.")
    )
    return 4.0 * 10 * trained


def without_data(module: nn.Module, device: torch.device) -> nn.Module:
    """Puts tensors without data in place of a module's own; inside a FakeTensorMode."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_fake(parameter, device), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _fake(buffer, device)
    return module


def _fake(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
