"""Tests whether a trained agent's rollouts keep float32's distribution when the C++ engine rounds more."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.paired_samples import p_of_counts, p_of_means, p_of_wholes
from benchmarks.record import Result
from benchmarks.registry import Run, case
from iris_fast.agent import Agent
from iris_fast.config.schema import Config
from iris_fast.errors import UserError
from iris_fast.imagination.cpu_engine import CpuDream, CpuEngine, CpuOptions, StepLogits, pack_world_model
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.frame_codec import FrameCodec
from iris_fast.randomness import PhiloxDraws, derive_seed
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.checkpoint import DatasetLog, load_checkpoint
from iris_fast.training.parts import imagination_start
from iris_fast.training.run_folder import RunFolder

ROLLOUTS, BATCH = 1024, 64
CANDIDATES = {
    "float32": CpuOptions(),
    "float16 weights": CpuOptions(weights_dtype="float16"),
    "int8 weights": CpuOptions(weights_dtype="int8"),
    "int8 decoder": CpuOptions(decoder_dtype="int8"),
    "int8 weights and decoder, float16 keys and values": CpuOptions(
        weights_dtype="int8", decoder_dtype="int8", kv_dtype="float16"
    ),
}
CONTROL = "4-bit weights, which the tests must tell"


class Trained(NamedTuple):
    """The trained agent of a run and its replay."""

    config: Config
    agent: Agent
    cache: FrameCache
    epoch: int


def load_run(folder: Path) -> Trained:
    """The agent and the replay of a run's last checkpoint."""
    run = RunFolder(folder)
    content = load_checkpoint(run)
    config = run.read_config()
    agent = Agent(config.agent, content["num_actions"])
    agent.load_parts(content["agent"])
    agent.eval()
    frames = sum(content["dataset"]["written"].values())
    store = EpisodeStore(frames, config.env.train.size, torch.device("cpu"))
    DatasetLog(**content["dataset"]).load(run.dataset, store)
    return Trained(config, agent, FrameCache(agent.coder, store), content["position"]["epoch"] - 1)


def with_coarse_weights(agent: Agent) -> Agent:
    """A copy whose world-model matrices are rounded to integers from -7 to 7 with one scale per output."""
    coarse = copy.deepcopy(agent)
    with torch.no_grad():
        for module in coarse.world_model.transformer.blocks.modules():
            if isinstance(module, nn.Linear):
                scale = module.weight.abs().amax(1, keepdim=True) / 7
                module.weight.copy_((module.weight / scale).round() * scale)
    return coarse


class Sample(NamedTuple):
    """Rollouts as arrays: `tokens` `(rollouts, horizon, 16)`, the others `(rollouts, horizon)`."""

    tokens: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, rollouts: list[Rollout]) -> Sample:
        return cls(
            *(torch.cat([getattr(rollout, name) for rollout in rollouts]).numpy() for name in cls._fields)
        )


def sample(
    agent: Agent, options: CpuOptions, starts: list[ImaginationStart], horizon: int, seed: int
) -> Sample:
    """One rollout from each start."""
    engine = CpuEngine(agent, options)
    return Sample.of(
        [engine.imagine(start, horizon, derive_seed(seed, part)) for part, start in enumerate(starts)]
    )


def counts_of(values: np.ndarray, kinds: int) -> np.ndarray:
    """Counts of each of `kinds` values at each place: `(rollouts, places · kinds)` of `(rollouts, places)`."""
    return np.eye(kinds, dtype=np.int8)[values].reshape(len(values), -1).astype(np.int32)


def p_values(one: Sample, other: Sample, vocabulary: int, actions: int, seed: int) -> dict[str, float]:
    """p-values for everything a rollout draws. The first frame's tokens belong to the start and are left out."""

    def drawn(sample: Sample) -> np.ndarray:
        return sample.tokens[:, 1:]

    def by_slot(sample: Sample) -> np.ndarray:
        of_slots = [
            counts_of(drawn(sample)[:, :, slot], vocabulary)
            .reshape(len(sample.tokens), -1, vocabulary)
            .sum(1)
            for slot in range(sample.tokens.shape[2])
        ]
        return np.concatenate(of_slots, axis=1)

    def changes(sample: Sample) -> np.ndarray:
        return counts_of((sample.tokens[:, 1:] != sample.tokens[:, :-1]).sum(2), sample.tokens.shape[2] + 1)

    def rewards(sample: Sample) -> np.ndarray:
        return counts_of(sample.rewards.astype(np.int64) + 1, 3)

    return {
        "tokens by slot": p_of_counts(by_slot(one), by_slot(other), seed),
        "tokens changed a step": p_of_counts(changes(one), changes(other), seed),
        "actions by step": p_of_counts(
            counts_of(one.actions, actions), counts_of(other.actions, actions), seed
        ),
        "rewards by step": p_of_counts(rewards(one), rewards(other), seed),
        "ends by step": p_of_counts(one.ends.astype(np.int32), other.ends.astype(np.int32), seed),
        "mean value": p_of_means(
            one.values.mean(1, dtype=np.float64), other.values.mean(1, dtype=np.float64), seed
        ),
        "last frame as a whole": p_of_wholes(one.tokens[:, -1], other.tokens[:, -1], seed),
        "all frames as a whole": p_of_wholes(
            drawn(one).reshape(len(one.tokens), -1), drawn(other).reshape(len(other.tokens), -1), seed
        ),
    }


def divergences(
    agent: Agent, options: CpuOptions, coarse: bool, starts: list[ImaginationStart]
) -> dict[str, float]:
    """Kullback-Leibler divergence of a frame's draws, in nats a draw, while all earlier tokens are equal."""
    pool = require_extension().ThreadPool(torch.get_num_threads())
    other = with_coarse_weights(agent).world_model if coarse else agent.world_model
    kl, entropy, same, draws = 0.0, 0.0, 0, 0
    for part, start in enumerate(starts):
        address = PhiloxDraws(derive_seed(7, part))
        actions = torch.zeros(len(start.first_tokens), dtype=torch.int64)
        steps = [
            CpuDream(
                model,
                pack_world_model(model, weights_dtype=chosen.weights_dtype),
                pool,
                start.first_tokens,
                address,
                kv_dtype=chosen.kv_dtype,
            ).step_with_logits(actions)
            for model, chosen in ((agent.world_model, CpuOptions()), (other, options))
        ]
        tokens = [outcome.tokens for outcome, _ in steps]
        assert tokens[0] is not None and tokens[1] is not None
        agree = tokens[0] == tokens[1]
        asked_the_same = torch.cat([torch.ones_like(agree[:, :1]), agree.cumprod(1).bool()[:, :-1]], dim=1)
        exact, rounded = (_observations(logits).double().log_softmax(-1) for _, logits in steps)
        terms = (exact.exp() * (exact - rounded)).sum(-1)
        kl += float(terms[asked_the_same].sum())
        entropy += float(-(exact.exp() * exact).sum(-1)[asked_the_same].sum())
        same += int((agree & asked_the_same).sum())
        draws += int(asked_the_same.sum())
    return {
        "draws": draws,
        "kl_nats": kl / draws,
        "entropy_nats": entropy / draws,
        "draws_that_differ": 1 - same / draws,
    }


@torch.no_grad()
def seen_difference(agent: Agent, options: CpuOptions, starts: list[ImaginationStart]) -> dict[str, float]:
    """Differences of the first frame (root mean square of pixels in [0, 1]) and of the policy there (nats)."""
    pool = require_extension().ThreadPool(torch.get_num_threads())
    codecs = [
        FrameCodec(agent.tokenizer, pool, decoder_dtype=dtype) for dtype in ("float32", options.decoder_dtype)
    ]
    squares, kl = 0.0, 0.0
    for start in starts:
        state = agent.actor_critic.burn_in(start.burn_in_frames, start.burn_in_mask)
        exact, rounded = (codec.frames_of(start.first_tokens) for codec in codecs)
        squares += float((exact - rounded).double().square().mean())
        policies = [
            agent.actor_critic(frames.unsqueeze(1), state).logits_actions for frames in (exact, rounded)
        ]
        first, second = (logits.double().log_softmax(-1) for logits in policies)
        kl += float((first.exp() * (first - second)).sum(-1).mean())
    return {"pixels_rms": (squares / len(starts)) ** 0.5, "policy_kl_nats": kl / len(starts)}


def _observations(logits: StepLogits) -> Tensor:
    assert logits.observations is not None
    return logits.observations


@case("int8_rollouts", minutes=10)
def int8_rollouts(run: Run) -> Result:
    """Rollouts of a trained agent (--run) with int8 and half-precision weights: as float32's, but for noise?"""
    if run.trained is None:
        raise UserError("int8_rollouts needs a trained agent: give the folder of its run with --run")
    trained = load_run(run.trained)
    config, agent = trained.config, trained.agent
    part = config.training.actor_critic
    horizon = part.imagine_horizon or 1
    starts = [
        imagination_start(trained.cache, BATCH, part.burn_in, derive_seed(3, number))
        for number in range(2 if run.quick else ROLLOUTS // BATCH)
    ]
    plain = sample(agent, CpuOptions(), starts, horizon, 1)
    found: dict[str, Any] = {}
    candidates = CANDIDATES | {CONTROL: CpuOptions()}
    for number, (name, options) in enumerate(candidates.items()):
        coarse = name == CONTROL
        other = sample(with_coarse_weights(agent) if coarse else agent, options, starts, horizon, 2 + number)
        found[name] = {
            "p": p_values(plain, other, config.tokenizer.vocab_size, agent.num_actions, number),
            **divergences(agent, options, coarse, starts),
            **seen_difference(agent, options, starts),
            "mean_reward": float(other.rewards.mean()),
            "ends": float(other.ends.mean()),
            "mean_value": float(other.values.mean()),
        }
    facts = {
        "game": config.game,
        "preset": config.preset,
        "epoch": trained.epoch,
        "rollouts": len(plain.tokens),
        "horizon": horizon,
        "tests": len(candidates) * len(found[CONTROL]["p"]),
        "beside_float32": found,
    }
    return Result(facts=facts)
