"""The typed configuration tree.

Key names are the public implementation's wherever the meaning is the same, so its dotted overrides work here
(`training.world_model.batch_num_samples=32`). The defaults are the paper's. A value of None in a field whose comment
names another key takes that key's value (`resolve`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from iris_fast.agent import AgentConfig
from iris_fast.envs.config import EnvConfig
from iris_fast.errors import UserError
from iris_fast.imagination.engine import EngineName, HalfOrFloat, LayerLaunches, WeightsDtype
from iris_fast.models.actor_critic import ActorCriticConfig
from iris_fast.models.frame_codec import DecoderDtype
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig

Precision = Literal["auto", "float32", "tf32", "bf16", "fp16"]
MOST_PIECES = 4  # of a batch of frames, unless more are asked for: with 2, float32 would exceed 12 GB
CudnnUse = Literal["lstm", "all", "none"]


@dataclass(frozen=True)
class CommonConfig:
    """Settings of the whole run."""

    epochs: int = 600
    device: str = "auto"  # auto: cuda if available, else cpu
    seed: int = 0
    sequence_length: int | None = None  # world_model.max_blocks
    precision: Precision = "auto"  # of gradient steps; auto: bf16 on a CPU that multiplies it, else float32
    engine: EngineName = "auto"  # of imagination; auto: the fastest on the device
    kv_dtype: HalfOrFloat = "float32"  # of keys and values in the C++ engine
    weights_dtype: WeightsDtype = "float32"  # of the matrices of its linear layers
    decoder_dtype: DecoderDtype = "float32"  # of its convolutions for imagined frames
    layer_launches: LayerLaunches = "auto"  # per layer in a one-token pass of the CUDA-graph engine
    cudnn: CudnnUse = "lstm"  # on a GPU, besides convolutions (training/device.py)
    threads: int = 0  # CPU threads of PyTorch; 0: PyTorch's default
    do_checkpoint: bool = True


@dataclass(frozen=True)
class InitializationConfig:
    """Weights to start from: `--init CHECKPOINT` with a choice of parts."""

    path_to_checkpoint: str | None = None
    load_tokenizer: bool = False
    load_world_model: bool = False
    load_actor_critic: bool = False
    lpips_weights: str | None = None  # a file with VGG-16 and LPIPS weights; None: search, then download


@dataclass(frozen=True)
class EnvsConfig:
    """The environments; `backend` is auto, envpool, ale or catch."""

    backend: Literal["auto", "envpool", "ale", "catch"] = "auto"
    train: EnvConfig = field(
        default_factory=lambda: EnvConfig(max_episode_steps=20_000, noop_max=30, done_on_life_loss=True)
    )
    test: EnvConfig = field(
        default_factory=lambda: EnvConfig(max_episode_steps=108_000, noop_max=1, done_on_life_loss=False)
    )


@dataclass(frozen=True)
class TrainCollectionConfig:
    """How the policy acts in collection; `num_steps`: agent steps an epoch over all environments."""

    epsilon: float = 0.01
    should_sample: bool = True
    temperature: float = 1.0
    num_steps: int = 200
    burn_in: int | None = None  # training.actor_critic.burn_in


@dataclass(frozen=True)
class TestCollectionConfig:
    """How the policy acts in tests."""

    epsilon: float = 0.0
    should_sample: bool = True
    temperature: float = 0.5
    num_episodes: int = 16
    burn_in: int | None = None  # training.actor_critic.burn_in


@dataclass(frozen=True)
class TrainCollection:
    num_envs: int = 1
    stop_after_epochs: int | None = 500  # None: collects to the end of the run
    num_episodes_to_save: int = 1
    config: TrainCollectionConfig = field(default_factory=TrainCollectionConfig)


@dataclass(frozen=True)
class TestCollection:
    num_envs: int = 8
    num_episodes_to_save: int = 1
    config: TestCollectionConfig = field(default_factory=TestCollectionConfig)


@dataclass(frozen=True)
class CollectionConfig:
    train: TrainCollection = field(default_factory=TrainCollection)
    test: TestCollection = field(default_factory=TestCollection)


@dataclass(frozen=True)
class DatasetConfig:
    """Storage of played frames."""

    max_ram_usage: str = "30G"


@dataclass(frozen=True)
class TrainDatasetConfig(DatasetConfig):
    """Also the device that holds the frames (the models', or the host) and the per-epoch cache."""

    device: Literal["model", "cpu"] = "model"
    cache_max_ram_usage: str = "3G"


@dataclass(frozen=True)
class DatasetsConfig:
    train: TrainDatasetConfig = field(default_factory=TrainDatasetConfig)
    test: DatasetConfig = field(default_factory=lambda: DatasetConfig(max_ram_usage="1G"))


@dataclass(frozen=True)
class PartConfig:
    """Gradient steps of one part, in the epochs after `start_after_epochs` and up to `stop_after_epochs`.

    A gradient is accumulated over `grad_acc_steps` batches of `batch_num_samples`.
    """

    batch_num_samples: int = 64
    grad_acc_steps: int = 1
    max_grad_norm: float = 10.0
    start_after_epochs: int = 0
    stop_after_epochs: int | None = None  # None: never, as in the paper
    steps_per_epoch: int = 200
    learning_rate: float | None = None  # training.learning_rate


@dataclass(frozen=True)
class TokenizerPartConfig(PartConfig):
    """`pieces`: number of pieces in which a batch goes through the model, to save memory; the gradient is the same.

    Except with `tokenizer.perceptual` `foreground` or `objects`, which compute background and weights per piece.
    """

    batch_num_samples: int = 256
    start_after_epochs: int = 5
    pieces: int | None = None  # what fits (training/device.py), at most 4: a captured step keeps its memory


@dataclass(frozen=True)
class WorldModelPartConfig(PartConfig):
    start_after_epochs: int = 25
    weight_decay: float = 0.01


@dataclass(frozen=True)
class ActorCriticPartConfig(PartConfig):
    start_after_epochs: int = 50
    imagine_horizon: int | None = None  # common.sequence_length
    burn_in: int = 20
    gamma: float = 0.995
    lambda_: float = 0.95
    entropy_weight: float = 0.001


@dataclass(frozen=True)
class TrainingConfig:
    should: bool = True
    learning_rate: float = 1e-4
    cuda_graphs: bool = (
        True  # on a GPU: gradient steps and acting as CUDA graphs (gradient steps not in fp16)
    )
    tokenizer: TokenizerPartConfig = field(default_factory=TokenizerPartConfig)
    world_model: WorldModelPartConfig = field(default_factory=WorldModelPartConfig)
    actor_critic: ActorCriticPartConfig = field(default_factory=ActorCriticPartConfig)


@dataclass(frozen=True)
class EvaluationConfig:
    """Every `every` epochs: test episodes, losses on `num_batches` batches of them, media."""

    should: bool = True
    every: int = 5
    num_batches: int = 4
    num_imagined_episodes: int = 1
    imagined_frames: int = 100


@dataclass(frozen=True)
class LoggingConfig:
    tensorboard: bool = True


@dataclass(frozen=True)
class WandbConfig:
    mode: Literal["disabled", "online", "offline"] = "disabled"
    project: str = "iris_fast"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    notes: str | None = None


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    game: str = "Pong"
    preset: str = "paper"
    common: CommonConfig = field(default_factory=CommonConfig)
    initialization: InitializationConfig = field(default_factory=InitializationConfig)
    env: EnvsConfig = field(default_factory=EnvsConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world_model: TransformerConfig = field(default_factory=TransformerConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    datasets: DatasetsConfig = field(default_factory=DatasetsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    @property
    def agent(self) -> AgentConfig:
        return AgentConfig(self.tokenizer, self.world_model, self.actor_critic)


def resolve(config: Config) -> Config:
    """Fills the fields that take another key's value; the result has a number everywhere."""
    length = config.common.sequence_length or config.world_model.max_blocks
    training = config.training

    def with_rate(part: Any) -> Any:
        rate = training.learning_rate if part.learning_rate is None else part.learning_rate
        return replace(part, learning_rate=rate)

    actor_critic = with_rate(training.actor_critic)
    actor_critic = replace(actor_critic, imagine_horizon=actor_critic.imagine_horizon or length)
    tokenizer = with_rate(training.tokenizer)
    if tokenizer.pieces is None:
        tokenizer = replace(tokenizer, pieces=math.gcd(MOST_PIECES, tokenizer.batch_num_samples))
    training = replace(
        training,
        tokenizer=tokenizer,
        world_model=with_rate(training.world_model),
        actor_critic=actor_critic,
    )

    def with_burn_in(side: Any) -> Any:
        burn_in = actor_critic.burn_in if side.config.burn_in is None else side.config.burn_in
        return replace(side, config=replace(side.config, burn_in=burn_in))

    collection = CollectionConfig(with_burn_in(config.collection.train), with_burn_in(config.collection.test))
    common = replace(config.common, sequence_length=length)
    return replace(config, common=common, training=training, collection=collection)


def unresolve(config: Config) -> Config:
    """The reverse of `resolve`, for overrides of a resolved configuration: a field equal to the key it takes its
    value from follows that key again."""
    training, length = config.training, config.common.sequence_length

    def without_rate(part: Any) -> Any:
        return replace(part, learning_rate=None) if part.learning_rate == training.learning_rate else part

    actor_critic = without_rate(training.actor_critic)
    if actor_critic.imagine_horizon == length:
        actor_critic = replace(actor_critic, imagine_horizon=None)

    def without_burn_in(side: Any) -> Any:
        same = side.config.burn_in == actor_critic.burn_in
        return replace(side, config=replace(side.config, burn_in=None)) if same else side

    collection, common = config.collection, config.common
    return replace(
        config,
        common=replace(common, sequence_length=None if length == config.world_model.max_blocks else length),
        training=replace(
            training,
            tokenizer=without_rate(training.tokenizer),
            world_model=without_rate(training.world_model),
            actor_critic=actor_critic,
        ),
        collection=CollectionConfig(without_burn_in(collection.train), without_burn_in(collection.test)),
    )


def memory_bytes(text: str, key: str) -> int:
    """Bytes of a size such as `30G`, `500M` or a plain number; UserError naming `key` otherwise."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in units else (text, "")
    try:
        value = float(number) * units.get(unit, 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{key}={text}: give a size such as 30G, 500M or a number of bytes")
    return int(value)
