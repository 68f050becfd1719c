"""The public implementation's checkpoint: one flat state dict of the whole agent.

Its parameter names are those of `Agent`. It also holds constants: the attention mask of each block, and
the positions at which each head predicts. They are added on export and, once seen to be the expected ones,
dropped on import.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..agent import Agent, AgentConfig
from ..errors import UserError
from ..models.actor_critic import POOLINGS, ActorCriticConfig
from ..models.autoencoder import AutoencoderConfig, EncoderConfig
from ..models.perceptual import LPIPS
from ..models.tokenizer import TokenizerConfig
from ..models.transformer import TransformerConfig, attention_mask

UNKNOWN_KEYS = frozenset({"world_model.num_heads"})  # settings that no shape in a public file shows
HEADS = ("head_observations", "head_rewards", "head_ends")
TOKENIZER_KEYS = ("vocab_size", "embed_dim")
AUTOENCODER_KEYS = (
    "ch",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "z_channels",
    "dropout",
)
CONSTANT = re.compile(r"world_model\.(transformer\.blocks\.\d+\.attn\.mask|head_\w+\.indices)")


@cache
def perceptual_names() -> frozenset[str]:
    """Names of the perceptual network's state dict."""
    with torch.device("meta"):
        return frozenset(LPIPS().state_dict())


def public_constants(config: TransformerConfig) -> dict[str, Tensor]:
    """The constants of the public state dict, by name.

    Masks are float32 `(max_tokens, max_tokens)`; indices int64: `(max_blocks * (tokens_per_block - 1),)` for
    observations, `(max_blocks,)` for rewards and ends.
    """
    mask = attention_mask(config).float()
    constants = {f"world_model.transformer.blocks.{i}.attn.mask": mask for i in range(config.num_layers)}
    position = torch.arange(config.max_tokens)
    within_block = position % config.tokens_per_block
    at_action = position[within_block == config.tokens_per_block - 1]
    predicts_frame = position[within_block != config.tokens_per_block - 2]
    for head in HEADS:
        indices = predicts_frame if head == "head_observations" else at_action
        constants[f"world_model.{head}.indices"] = indices
    return constants


def to_public(
    state_dict: Mapping[str, Tensor], config: AgentConfig, lpips: Mapping[str, Tensor] | None = None
) -> OrderedDict[str, Tensor]:
    """The public state dict of an agent's weights: every name, shape and dtype, in the public order.

    `lpips`: the perceptual network by the names of `LPIPS`, if `state_dict` lacks it. Without either, the result
    suits only a public tokenizer built with `with_lpips=False`.

    Raises UserError for sizes without a setting in the public implementation.
    """
    require_expressible(config)
    own = dict(state_dict) | {f"tokenizer.lpips.{name}": value for name, value in (lpips or {}).items()}
    with_lpips = any(name.startswith("tokenizer.lpips.") for name in own)
    num_actions = state_dict["actor_critic.actor_linear.weight"].shape[0]
    expected = _expected(config, num_actions, with_lpips)
    _require_same(own, expected)
    constants = public_constants(config.world_model)
    result: OrderedDict[str, Tensor] = OrderedDict()
    for name in expected:
        # A constant precedes the other entries of its module.
        for constant in list(constants):
            if name.startswith(constant.rpartition(".")[0] + "."):
                result[constant] = constants.pop(constant)
        result[name] = own[name].detach().cpu().clone(memory_format=torch.contiguous_format)
    return result


def from_public(state_dict: Mapping[str, Tensor], config: AgentConfig | None = None) -> dict[str, Tensor]:
    """An agent's state dict from the public one: the same tensors without the constants.

    Raises UserError if names, shapes or constants are not those of an IRIS agent.
    """
    config = infer_config(state_dict) if config is None else config
    own = {name: value.detach() for name, value in state_dict.items() if not CONSTANT.fullmatch(name)}
    num_actions = state_dict["actor_critic.actor_linear.weight"].shape[0]
    with_lpips = any(name.startswith("tokenizer.lpips.") for name in own)
    _require_same(own, _expected(config, num_actions, with_lpips))
    for name, expected in public_constants(config.world_model).items():
        if name in state_dict and not torch.equal(state_dict[name].to(expected.dtype), expected):
            raise UserError(f"the constant {name} is not that of an IRIS agent: give a checkpoint of one")
    return own


def infer_config(state_dict: Mapping[str, Tensor], num_heads: int | None = None) -> AgentConfig:
    """The agent sizes of a public state dict, inferred from names and shapes.

    Two settings have no shape: dropout has the paper's value, and so has `num_heads` unless it is given.
    Raises UserError if the state dict is not that of an IRIS agent.
    """
    try:
        config = _infer(state_dict, num_heads)
        heads, width = config.world_model.num_heads, config.world_model.embed_dim
    except (KeyError, IndexError, ValueError, ZeroDivisionError, UserError) as error:
        lacking = f" (it lacks {error.args[0]})" if isinstance(error, KeyError) else ""
        raise UserError(f"the state dict is not of an IRIS agent{lacking}: give a whole agent's") from None
    if heads < 1 or width % heads:
        raise UserError(f"--num-heads {heads}: it must divide the world model's width, {width}")
    return config


def public_overrides(config: AgentConfig) -> list[str]:
    """The settings, `key=value`, with which the public implementation builds an agent of these sizes."""
    tokenizer, world_model = dataclasses.asdict(config.tokenizer), dataclasses.asdict(config.world_model)
    reference = AgentConfig()
    pairs = [
        (f"tokenizer.{key}", tokenizer[key], getattr(reference.tokenizer, key)) for key in TOKENIZER_KEYS
    ]
    autoencoder = reference.tokenizer.autoencoder
    pairs += [
        (f"tokenizer.encoder.config.{key}", tokenizer["encoder"]["config"][key], getattr(autoencoder, key))
        for key in AUTOENCODER_KEYS
    ]
    pairs += [
        (f"world_model.{key}", value, getattr(reference.world_model, key))
        for key, value in world_model.items()
    ]
    return [f"{key}={_hydra(own)}" for key, own, default in pairs if own != default]


def _hydra(value: Any) -> str:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, (tuple, list)) else str(value)


def _infer(state_dict: Mapping[str, Tensor], num_heads: int | None) -> AgentConfig:
    def shape(name: str) -> torch.Size:
        return state_dict[name].shape

    def count(prefix: str) -> int:
        """The number of numbered entries after `prefix`."""
        numbers = {name[len(prefix) :].split(".")[0] for name in state_dict if name.startswith(prefix)}
        return len(numbers)

    encoder = "tokenizer.encoder"
    channels = tuple(shape(f"actor_critic.conv{index + 1}.weight")[0] for index in range(POOLINGS))
    side = math.isqrt(shape("actor_critic.lstm.weight_ih")[1] // channels[-1])
    resolution = side * 2**POOLINGS
    levels, ch = count(f"{encoder}.down."), shape(f"{encoder}.conv_in.weight")[0]
    attended = [level for level in range(levels) if count(f"{encoder}.down.{level}.attn.")]
    autoencoder = AutoencoderConfig(
        resolution=resolution,
        ch=ch,
        ch_mult=tuple(shape(f"{encoder}.down.{n}.block.0.conv1.weight")[0] // ch for n in range(levels)),
        num_res_blocks=count(f"{encoder}.down.0.block."),
        attn_resolutions=tuple(sorted(resolution // 2**level for level in attended)),
        z_channels=shape(f"{encoder}.conv_out.weight")[0],
    )
    vocab_size, embed_dim = shape("tokenizer.embedding.weight")
    max_tokens, width = shape("world_model.pos_emb.weight")
    tokens_per_block = autoencoder.latent_resolution**2 + 1
    max_blocks, remainder = divmod(max_tokens, tokens_per_block)
    if remainder:
        raise ValueError("positions are not whole blocks")
    mask = state_dict.get("world_model.transformer.blocks.0.attn.mask")
    sees_ahead = mask is not None and mask.ndim == 2 and bool(mask.triu(1).any())
    world_model = TransformerConfig(
        tokens_per_block=tokens_per_block,
        max_blocks=max_blocks,
        attention="block_causal" if sees_ahead else "causal",
        num_layers=count("world_model.transformer.blocks."),
        num_heads=TransformerConfig.num_heads if num_heads is None else num_heads,
        embed_dim=width,
    )
    return AgentConfig(
        TokenizerConfig(vocab_size, embed_dim, EncoderConfig(autoencoder)),
        world_model,
        ActorCriticConfig(
            (channels[0], channels[1], channels[2], channels[3]), shape("actor_critic.lstm.weight_hh")[1]
        ),
    )


def _expected(config: AgentConfig, num_actions: int, with_lpips: bool) -> dict[str, Tensor]:
    """The agent's state dict without storage: names in order, and shapes."""
    with torch.device("meta"):
        agent = Agent(config, num_actions)
        if with_lpips:
            agent.tokenizer.attach_lpips(LPIPS())
    return agent.state_dict()


def _require_same(own: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name in expected:
        if name not in own:
            raise UserError(f"the state dict is not of an IRIS agent (it lacks {name}): give a whole agent's")
        if own[name].shape != expected[name].shape or not own[name].is_floating_point():
            raise UserError(
                "the state dict is not of an IRIS agent "
                f"({name} is {own[name].dtype} {tuple(own[name].shape)}, "
                f"its other sizes need {tuple(expected[name].shape)}): use another copy"
            )
    unknown = own.keys() - expected.keys()
    if unknown:
        raise UserError(f"the state dict is not of an IRIS agent (it has {min(unknown)}): give one that is")


def require_expressible(config: AgentConfig) -> None:
    """UserError for sizes that the public code fixes at other values: it could never load such a file."""
    fixed = {
        "actor_critic.channels": (tuple(config.actor_critic.channels), ActorCriticConfig.channels),
        "actor_critic.lstm_dim": (config.actor_critic.lstm_dim, ActorCriticConfig.lstm_dim),
        "tokenizer.background": (config.tokenizer.background, TokenizerConfig.background),
        "tokenizer.encoder.config.norm_groups": (
            config.tokenizer.autoencoder.norm_groups,
            AutoencoderConfig.norm_groups,
        ),
        "tokenizer.encoder.config.resolution": (
            config.tokenizer.autoencoder.resolution,
            AutoencoderConfig.resolution,
        ),
    }
    for key, (own, only) in fixed.items():
        if own != only:
            raise UserError(
                f"{key} is {own} in this checkpoint and always {only} in the public implementation: "
                "only an agent of that size can be exported"
            )
