"""The common weights of all systems, and their conversion to other implementations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from iris_fast.agent import Agent, AgentConfig, config_from_dict, config_to_dict
from iris_fast.models.perceptual import LPIPS
from iris_fast.models.tokenizer import Tokenizer
from iris_fast.models.transformer import TransformerConfig

ACTIONS = 6
STEEP = 1e4  # factor on the last layers' weights, so steep that every draw is the likeliest class


def random_agent(config: AgentConfig, steep: bool = False, seed: int = 0) -> Agent:
    """An agent whose tokens and samples vary; with `steep` heads all its draws are the likeliest classes.

    Two implementations with different generators then imagine the same trajectory.
    """
    torch.manual_seed(seed)
    agent = Agent(config, ACTIONS).eval()
    model = agent.world_model
    with torch.no_grad():
        _place_codes(agent.tokenizer)
        for table in (model.pos_emb, *model.embedder.embedding_tables):
            table.weight.normal_()  # type: ignore[operator, union-attr]
        if steep:
            heads = (model.head_observations, model.head_rewards, model.head_ends)
            for linear in (*(head.head_module[-1] for head in heads), agent.actor_critic.actor_linear):
                linear.weight.normal_(std=STEEP)  # type: ignore[operator, union-attr]
    return agent


def noise_frames(batch: int, seed: int) -> Tensor:
    """`(batch, 3, 64, 64)` in [0, 1]: coarse noise, of which no two frames look alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 8, 8, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)


def _place_codes(tokenizer: Tokenizer) -> None:
    """Places codewords at latents of noise, so that frames of noise have distinct tokens."""
    codebook = tokenizer.embedding.weight
    frames = noise_frames(len(codebook) // tokenizer.config.tokens_per_frame + 1, seed=1)
    latents = tokenizer.encode(frames).z.permute(0, 2, 3, 1).flatten(0, 2)
    codebook.copy_(latents[torch.randperm(len(latents))[: len(codebook)]])


def random_lpips(seed: int = 0) -> LPIPS:
    """The perceptual network with random weights, its linear layers' positive as the real ones are."""
    torch.manual_seed(seed)
    lpips = LPIPS()
    with torch.no_grad():
        for name, parameter in lpips.named_parameters():
            if name.startswith("lin"):
                parameter.abs_()
    return lpips.eval()


def save_agent(agent: Agent, file: Path, lpips: LPIPS | None = None) -> None:
    """Writes configuration and weights, with the perceptual network's where one is given."""
    own = {
        name: value for name, value in agent.state_dict().items() if not name.startswith("tokenizer.lpips.")
    }
    perceptual = None if lpips is None else lpips.state_dict()
    torch.save({"config": config_to_dict(agent.config), "agent": own, "lpips": perceptual}, file)


def load_agent_file(file: Path) -> tuple[AgentConfig, dict[str, Tensor], dict[str, Tensor] | None]:
    """Configuration, state dict and the perceptual network's state dict, None where there is none."""
    content = torch.load(file, weights_only=True)
    return config_from_dict(content["config"]), content["agent"], content["lpips"]


def agent_from_file(file: Path, device: torch.device) -> Agent:
    """Our agent with those weights, in evaluation mode."""
    config, weights, perceptual = load_agent_file(file)
    agent = Agent(config, ACTIONS)
    agent.load_state_dict(weights)
    if perceptual is not None:
        lpips = LPIPS()
        lpips.load_state_dict(perceptual)
        agent.tokenizer.attach_lpips(lpips.requires_grad_(False))
    return agent.to(device).eval()


def simulusion_trunk(weights: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Our Transformer's weights by Simulusion's names: embeddings, blocks and the last LayerNorm.

    Its heads are single linear layers where the paper's code has two, so they have no counterpart. Its position
    table is longer than the context; only the rows of the context are filled by the caller.
    """
    ours = {name.removeprefix("world_model."): value for name, value in weights.items()}
    found = {
        "action_embedding.weight": ours["embedder.embedding_tables.0.weight"],
        "token_embedding.weight": ours["embedder.embedding_tables.1.weight"],
        "layer_norm.weight": ours["transformer.ln_f.weight"],
        "layer_norm.bias": ours["transformer.ln_f.bias"],
    }
    for layer in range(config.num_layers):
        block, there = f"transformer.blocks.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            qkv = [ours[f"{block}.attn.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"{there}.attn.qkv.{kind}"] = torch.cat(qkv)
            found[f"{there}.attn.proj.{kind}"] = ours[f"{block}.attn.proj.{kind}"]
            for index in (1, 2):
                found[f"{there}.ln_{index}.{kind}"] = ours[f"{block}.ln{index}.{kind}"]
            for index in (0, 2):
                found[f"{there}.mlp.{index}.{kind}"] = ours[f"{block}.mlp.{index}.{kind}"]
    return found
