"""The losses of each part on data drawn from the replay: what a gradient step of it minimises.

One rule of precision: what is differentiated runs in the precision asked for; what is not (tokens and
reconstructions of the cache, acting) in float32, or TF32 where a GPU is told so. Rollouts too, but those of the
CUDA-graph engine: there bf16 and fp16 have the world model and the decoder in bfloat16.
"""

from __future__ import annotations

from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.config.schema import Config
from iris_fast.imagination.engine import ImaginationEngine, ImaginationStart, Rollout
from iris_fast.imagination.randomness import derive_seed, numpy_generator
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .actor_critic_step import ReturnsConfig, actor_critic_losses
from .precision import autocast

Losses = dict[str, Tensor]


def tokenizer_frames(store: EpisodeStore, batch: int, seed: int) -> Tensor:
    """`batch` single frames `(batch, 3, size, size)` in [0, 1]."""
    segments = store.sample(numpy_generator(seed, "segments"), batch, 1, from_start=True)
    return store.gather_frames(segments.slots[:, 0])


def tokenizer_losses(agent: Agent, store: EpisodeStore, batch: int, seed: int) -> Losses:
    """Losses on `batch` single frames."""
    return agent.tokenizer.losses(tokenizer_frames(store, batch, seed))


def world_model_inputs(cache: FrameCache, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """The arguments of `WorldModel.losses`: `batch` segments of `length` frames, from start."""
    store = cache.store
    segments = store.sample(numpy_generator(seed, "segments"), batch, length, from_start=True)
    data = store.batch(segments)
    return {
        "tokens": cache.tokens(segments.slots),
        "actions": data.actions,
        "rewards": data.rewards,
        "ends": data.ends,
        "mask_padding": data.mask_padding,
    }


def world_model_losses(
    agent: Agent, cache: FrameCache, batch: int, length: int, seed: int, precision: str = "float32"
) -> Losses:
    """Losses on `batch` segments of `length` frames, from start."""
    return segment_losses(agent, world_model_inputs(cache, batch, length, seed), precision)


def segment_losses(agent: Agent, inputs: dict[str, Tensor], precision: str) -> Losses:
    """The world model's losses on what `world_model_inputs` gave."""
    with autocast(precision, agent.device):
        return agent.world_model.losses(**inputs)


def imagination_start(cache: FrameCache, batch: int, burn_in: int, seed: int) -> ImaginationStart:
    """`batch` segments of `burn_in` + 1 frames, to end: all but the last burn in, the last one starts."""
    segments = cache.store.sample(numpy_generator(seed, "segments"), batch, burn_in + 1, from_start=False)
    mask = cache.store.batch(segments).mask_padding
    first_tokens = cache.tokens(segments.slots[:, -1])
    return ImaginationStart(cache.reconstructions(segments.slots[:, :-1]), mask[:, :-1], first_tokens)


def imagine(
    agent: Agent,
    cache: FrameCache,
    engine: ImaginationEngine,
    batch: int,
    burn_in: int,
    horizon: int,
    seed: int,
) -> Rollout:
    """A rollout from sampled segments, with every model in evaluation mode."""
    agent.eval()
    start = imagination_start(cache, batch, burn_in, seed)
    return engine.imagine(start, horizon, derive_seed(seed, "imagination"))


def imagined_inputs(
    agent: Agent, cache: FrameCache, engine: ImaginationEngine, config: Config, batch: int, seed: int
) -> Rollout:
    """`batch` imagined trajectories."""
    part = config.training.actor_critic
    horizon = part.imagine_horizon
    assert horizon is not None  # resolve() has filled it
    return imagine(agent, cache, engine, batch, part.burn_in, horizon, seed)


def rollout_losses(agent: Agent, config: Config, rollout: Rollout) -> Losses:
    """The actor-critic's losses on what `imagined_inputs` gave."""
    part = config.training.actor_critic
    returns = ReturnsConfig(part.gamma, part.lambda_, part.entropy_weight)
    with autocast(config.common.precision, agent.device):
        return actor_critic_losses(agent.actor_critic, rollout, returns)


def imagined_losses(
    agent: Agent, cache: FrameCache, engine: ImaginationEngine, config: Config, batch: int, seed: int
) -> Losses:
    """The actor-critic's losses on `batch` imagined trajectories."""
    return rollout_losses(agent, config, imagined_inputs(agent, cache, engine, config, batch, seed))
