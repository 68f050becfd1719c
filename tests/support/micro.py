"""The smallest agent that runs, which tests of training train in seconds."""

from __future__ import annotations

from iris_fast.config import Config, apply_overrides, preset_config

MICRO = [
    "common.threads=1",
    "common.epochs=3",
    "tokenizer.vocab_size=16",
    "tokenizer.embed_dim=8",
    "tokenizer.encoder.config.ch=4",
    "tokenizer.encoder.config.ch_mult=[1,1,1,1,1]",
    "tokenizer.encoder.config.z_channels=8",
    "tokenizer.encoder.config.norm_groups=2",
    "world_model.max_blocks=4",
    "world_model.num_layers=1",
    "world_model.num_heads=2",
    "world_model.embed_dim=16",
    "world_model.embed_pdrop=0.1",
    "world_model.attn_pdrop=0.1",
    "actor_critic.channels=[4,4,4,4]",
    "actor_critic.lstm_dim=8",
    "collection.train.num_envs=2",
    "collection.train.config.num_steps=24",
    "collection.test.num_envs=2",
    "collection.test.config.num_episodes=3",
    "training.tokenizer.batch_num_samples=4",
    "training.tokenizer.steps_per_epoch=3",
    "training.tokenizer.start_after_epochs=0",
    "training.world_model.batch_num_samples=3",
    "training.world_model.steps_per_epoch=3",
    "training.world_model.start_after_epochs=0",
    "training.actor_critic.batch_num_samples=3",
    "training.actor_critic.steps_per_epoch=3",
    "training.actor_critic.start_after_epochs=1",
    "training.actor_critic.burn_in=2",
    "evaluation.every=2",
    "evaluation.imagined_frames=6",
    "logging.tensorboard=false",
]


def micro_config(*overrides: str, game: str = "Catch") -> Config:
    """The micro configuration with further overrides."""
    return apply_overrides(preset_config("tiny", game), [*MICRO, *overrides])
