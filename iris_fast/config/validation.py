"""The rules for a configuration; each error names the key and the values it takes."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from iris_fast.errors import UserError
from iris_fast.models.actor_critic import POOLINGS

from .schema import Config, memory_bytes, resolve


@dataclass(frozen=True)
class Range:
    """The numbers a setting takes: from `lowest` (exclusive with `above`) to `highest`."""

    lowest: float
    highest: float
    above: bool = False

    def complaint(self, number: float) -> str | None:
        """The error of a number, or None."""
        if number != number:  # NaN; `math.isnan` takes no huge integers
            return "it must be a number"
        if (self.lowest, self.highest) == (0, 1) and not 0 <= number <= 1:
            return "it must lie between 0 and 1"
        if number <= 0 and (self.above or 0 < self.lowest < 1):
            return "it must be above 0"
        if number < self.lowest:
            return (
                "it must not be negative"
                if self.lowest == 0
                else f"it must be at least {_shown(self.lowest)}"
            )
        return f"it must be at most {_shown(self.highest)}" if number > self.highest else None


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _ranges(text: str, span: Range) -> dict[str, Range]:
    return dict.fromkeys(text.split(), span)


# By the last word of a key; every number of a tuple is checked. The upper bounds are far beyond useful values, and
# keep out what float32, 64-bit integers or any memory cannot hold.
RANGES: dict[str, Range] = {
    **_ranges(
        "epochs steps_per_epoch num_steps num_episodes every num_batches grad_acc_steps", Range(1, 10**9)
    ),
    **_ranges("max_episode_steps noop_max", Range(1, 2**31 - 1)),
    **_ranges("start_after_epochs stop_after_epochs restart_codes_every", Range(0, 10**9)),
    **_ranges("num_episodes_to_save num_imagined_episodes imagined_frames", Range(0, 10**6)),
    **_ranges("num_envs frame_skip sequence_length imagine_horizon max_blocks", Range(1, 10**4)),
    **_ranges("burn_in", Range(0, 10**4)),
    **_ranges("batch_num_samples pieces", Range(1, 10**6)),
    **_ranges("vocab_size", Range(1, 2**20)),
    **_ranges("embed_dim z_channels lstm_dim channels ch norm_groups tokens_per_block", Range(1, 2**16)),
    **_ranges("ch_mult num_res_blocks num_layers num_heads", Range(1, 2**10)),
    **_ranges("resolution size attn_resolutions", Range(1, 2**12)),
    **_ranges("threads", Range(0, 1024)),
    **_ranges("seed", Range(0, 2**63 - 1)),
    **_ranges("epsilon gamma lambda_ embed_pdrop resid_pdrop attn_pdrop dropout", Range(0, 1)),
    **_ranges("temperature", Range(1e-6, 1e6)),
    **_ranges("learning_rate perceptual_weight max_grad_norm", Range(0, 1e6, above=True)),
    **_ranges("weight_decay entropy_weight", Range(0, 1e6)),
}


def check_number(name: str, shown: str, number: float, instead: str = "") -> None:
    """UserError with `shown`, the reason and `instead` for a number outside the range of the settings called
    `name`."""
    if complaint := RANGES[name].complaint(number):
        raise UserError(f"{shown}: {complaint}{instead}")


def validate(config: Config) -> None:
    """Raises UserError with the key for an impossible value."""
    for key, value in _leaves(config):
        shown = f"{key}={list(value) if isinstance(value, tuple) else value}"
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                check_number(key.rsplit(".", 1)[-1], shown, number)
    _validate_tokenizer(config)
    _validate_world_model(config)
    _validate_training(config)
    for side in ("train", "test"):
        memory_bytes(getattr(config.datasets, side).max_ram_usage, f"datasets.{side}.max_ram_usage")
    memory_bytes(config.datasets.train.cache_max_ram_usage, "datasets.train.cache_max_ram_usage")


def _validate_tokenizer(config: Config) -> None:
    autoencoder, prefix = config.tokenizer.autoencoder, "tokenizer.encoder.config"
    if not autoencoder.ch_mult:
        raise UserError(f"{prefix}.ch_mult=[]: give a number for each level, as [1,1,1,1,1]")
    for multiple in autoencoder.ch_mult:
        if autoencoder.ch * multiple % autoencoder.norm_groups:
            raise UserError(
                f"{prefix}.ch={autoencoder.ch}: ch times each of ch_mult must be a multiple of "
                f"norm_groups={autoencoder.norm_groups}"
            )
    resolution, halvings = autoencoder.resolution, len(autoencoder.ch_mult) - 1
    if resolution % 2**halvings:
        raise UserError(
            f"{prefix}.resolution={resolution}: it must be a multiple of {2**halvings}, which the "
            f"{halvings + 1} levels of ch_mult divide it by"
        )
    if resolution < 2**POOLINGS:
        raise UserError(f"{prefix}.resolution={resolution}: it must be at least {2**POOLINGS}")
    levels = [resolution // 2**level for level in range(halvings + 1)]
    for attended in autoencoder.attn_resolutions:
        if attended not in levels:
            raise UserError(
                f"{prefix}.attn_resolutions={list(autoencoder.attn_resolutions)}: no level has resolution "
                f"{attended}; choose from {levels}"
            )
    for side in ("train", "test"):
        size = getattr(config.env, side).size
        if size != resolution:
            raise UserError(f"env.{side}.size={size}: it must equal {prefix}.resolution={resolution}")


def _validate_world_model(config: Config) -> None:
    world_model, length = config.world_model, config.common.sequence_length
    expected = config.tokenizer.tokens_per_frame + 1
    if world_model.tokens_per_block != expected:
        raise UserError(
            f"world_model.tokens_per_block={world_model.tokens_per_block}: the tokenizer makes "
            f"{expected - 1} tokens a frame, so it must be {expected}"
        )
    if world_model.max_blocks < 2:
        raise UserError(
            f"world_model.max_blocks={world_model.max_blocks}: it must be at least 2, to hold a frame, an "
            "action and the next frame"
        )
    if world_model.embed_dim % world_model.num_heads:
        raise UserError(
            f"world_model.embed_dim={world_model.embed_dim}: it must be a multiple of "
            f"world_model.num_heads={world_model.num_heads}"
        )
    if length and length > world_model.max_blocks:
        raise UserError(
            f"common.sequence_length={length}: the context holds world_model.max_blocks="
            f"{world_model.max_blocks} blocks"
        )


def _validate_training(config: Config) -> None:
    tokenizer = config.training.tokenizer
    if tokenizer.batch_num_samples % (tokenizer.pieces or 1):
        raise UserError(
            f"training.tokenizer.pieces={tokenizer.pieces}: it must divide "
            f"training.tokenizer.batch_num_samples={tokenizer.batch_num_samples}"
        )
    horizon = resolve(config).training.actor_critic.imagine_horizon or 0
    if horizon < 2:
        raise UserError(
            f"training.actor_critic.imagine_horizon={horizon}: it must be at least 2, since the last step of "
            "a rollout gives no term of the loss (where it is null it is common.sequence_length)"
        )


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for entry in fields(node):
        value = getattr(node, entry.name)
        if is_dataclass(value):
            leaves += _leaves(value, f"{prefix}{entry.name}.")
        else:
            leaves.append((prefix + entry.name, value))
    return leaves
