"""Operations and bytes at the least of what is measured, counted on the models."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iris_fast.agent import Agent, AgentConfig
from iris_fast.models.world_model import WorldModel


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


def decode_flops(agent: Agent) -> float:
    """Operations of one frame decoded (a multiply-add is two)."""
    return _flops(agent.config, "decode")


def encode_flops(agent: Agent) -> float:
    """Operations of one frame encoded, less the search for codewords."""
    return _flops(agent.config, "encode")


def policy_flops(agent: Agent) -> float:
    """Operations of the policy for one frame."""
    return _flops(agent.config, "policy")
