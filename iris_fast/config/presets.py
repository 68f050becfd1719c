"""Named presets: the paper's agent, and two smaller ones for machines without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from iris_fast.models.actor_critic import ActorCriticConfig
from iris_fast.models.autoencoder import AutoencoderConfig, EncoderConfig
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig

from .schema import (
    ActorCriticPartConfig,
    CollectionConfig,
    CommonConfig,
    Config,
    EvaluationConfig,
    TestCollection,
    TestCollectionConfig,
    TokenizerPartConfig,
    TrainCollection,
    TrainCollectionConfig,
    TrainingConfig,
    WorldModelPartConfig,
)


def paper() -> Config:
    """The agent of the paper, unchanged."""
    return Config(preset="paper")


def small() -> Config:
    """A smaller agent that trains Atari games on a CPU: narrower models, fewer and smaller gradient steps."""
    return Config(
        preset="small",
        common=CommonConfig(epochs=200),
        tokenizer=TokenizerConfig(
            vocab_size=512,
            embed_dim=64,
            encoder=EncoderConfig(
                AutoencoderConfig(
                    ch=16,
                    ch_mult=(1, 1, 2, 4, 4),
                    num_res_blocks=1,
                    attn_resolutions=(8,),
                    z_channels=64,
                    norm_groups=8,
                )
            ),
            perceptual="objects",
            perceptual_weight=15.0,
            background=True,
            restart_codes_every=10,
            restart_codes_at="far",
        ),
        world_model=TransformerConfig(num_layers=4, num_heads=4, embed_dim=128),
        actor_critic=ActorCriticConfig(channels=(16, 32, 32, 32), lstm_dim=256),
        collection=CollectionConfig(
            train=TrainCollection(stop_after_epochs=None),
            test=TestCollection(num_envs=2, config=TestCollectionConfig(num_episodes=2)),
        ),
        training=TrainingConfig(
            learning_rate=3e-4,
            tokenizer=TokenizerPartConfig(
                batch_num_samples=16, start_after_epochs=3, steps_per_epoch=140, pieces=1, learning_rate=2e-3
            ),
            world_model=WorldModelPartConfig(batch_num_samples=12, start_after_epochs=8, steps_per_epoch=40),
            actor_critic=ActorCriticPartConfig(
                batch_num_samples=32, start_after_epochs=14, steps_per_epoch=12, entropy_weight=0.003
            ),
        ),
        evaluation=EvaluationConfig(every=10),
    )


def tiny() -> Config:
    """The smallest agent that learns, for Catch on two CPU cores and for experiments."""
    return Config(
        preset="tiny",
        common=CommonConfig(epochs=44),
        tokenizer=TokenizerConfig(
            vocab_size=32,
            embed_dim=32,
            encoder=EncoderConfig(
                AutoencoderConfig(
                    ch=8,
                    ch_mult=(1, 1, 2, 4, 4),
                    num_res_blocks=1,
                    attn_resolutions=(),
                    z_channels=32,
                    norm_groups=8,
                )
            ),
            perceptual="foreground",
            restart_codes_every=10,
        ),
        world_model=TransformerConfig(
            max_blocks=10,
            num_layers=1,
            num_heads=2,
            embed_dim=96,
            embed_pdrop=0.0,
            resid_pdrop=0.0,
            attn_pdrop=0.0,
        ),
        actor_critic=ActorCriticConfig(channels=(8, 16, 16, 32), lstm_dim=128),
        collection=CollectionConfig(
            train=TrainCollection(
                num_envs=4, stop_after_epochs=None, config=TrainCollectionConfig(num_steps=300)
            ),
            test=TestCollection(num_envs=8, config=TestCollectionConfig(num_episodes=32)),
        ),
        training=TrainingConfig(
            learning_rate=1e-3,
            tokenizer=TokenizerPartConfig(
                batch_num_samples=32,
                start_after_epochs=0,
                stop_after_epochs=12,
                steps_per_epoch=25,
                pieces=1,
                learning_rate=2e-3,
            ),
            world_model=WorldModelPartConfig(batch_num_samples=32, start_after_epochs=8, steps_per_epoch=80),
            actor_critic=ActorCriticPartConfig(
                batch_num_samples=32,
                start_after_epochs=20,
                steps_per_epoch=35,
                learning_rate=1e-3,
                imagine_horizon=8,
                burn_in=4,
                entropy_weight=0.05,
            ),
        ),
        evaluation=EvaluationConfig(every=6),
    )


PRESETS: dict[str, Callable[[], Config]] = {"paper": paper, "small": small, "tiny": tiny}


def preset_config(preset: str, game: str) -> Config:
    """The preset's configuration for a game (its plain name)."""
    return replace(PRESETS[preset](), game=game)
