"""From measured steps to a whole Atari-100k run: the paper's schedule, phase by phase, for each system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iris_fast.config import Config, preset_config, resolve
from iris_fast.training.estimate import ATARI_EPISODE_STEPS
from iris_fast.training.schedule import epoch_phases

PHASES = ("collection", "tokenizer", "world_model", "actor_critic", "cache", "evaluation")
NEEDED = ("rollout", "gradient_steps", "playing", "environments")


@dataclass(frozen=True)
class Units:
    """What a run is made of: agent steps, gradient steps by part, vector steps of tests, frames cached."""

    agent_steps: int
    steps: dict[str, int]
    test_vector_steps: int
    frames_cached: int
    frames_decoded: int


def paper_units() -> tuple[Config, Units]:
    """Counted over the epochs of the paper's schedule.

    Of the cache: a world-model phase draws steps x batch x length frames, so that at most all frames of the
    replay, and at most as many as it draws, are encoded; an actor-critic phase decodes at most as many of them as
    its burn-ins draw.
    """
    config = resolve(preset_config("paper", "Pong"))
    totals: dict[str, int] = {}
    replay = encoded = decoded = 0
    training, length = config.training, config.common.sequence_length or 1
    drawn = training.world_model.steps_per_epoch * training.world_model.batch_num_samples * length
    burned = training.actor_critic.steps_per_epoch * training.actor_critic.batch_num_samples
    burned *= training.actor_critic.burn_in
    for epoch in range(1, config.common.epochs + 1):
        phases = epoch_phases(config, epoch)
        for name, count in phases.items():
            totals[name] = totals.get(name, 0) + count
        replay += phases.get("collection", 0)
        if "world_model" in phases:
            encoded += min(replay, drawn)
        if "actor_critic" in phases:
            decoded += min(replay, burned)
    test = config.collection.test
    episodes = totals["evaluation"]
    vector_steps = episodes * ATARI_EPISODE_STEPS // min(test.num_envs, test.config.num_episodes)
    steps = {part: totals[part] for part in ("tokenizer", "world_model", "actor_critic")}
    return config, Units(totals["collection"], steps, vector_steps, encoded, decoded)


def project(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds by phase for each side that has every step measured; `left_out` says why others have not."""
    missing = [name for name in NEEDED if not (results.get(name) or {}).get("sizes")]
    if missing:
        return {"left_out": f"needs the cases {', '.join(missing)} in the same run"}
    config, units = paper_units()
    steps = {size["part"]: size for size in results["gradient_steps"]["sizes"] if "seconds" in size}
    rollouts = [size for size in results["rollout"]["sizes"] if "seconds" in size]
    if len(steps) < 3 or not rollouts:
        return {"left_out": "some steps were not measured"}
    wanted = config.training.actor_critic.batch_num_samples
    rollout = min(rollouts, key=lambda size: abs(size["batch"] - wanted))
    environment = _environment_seconds(results["environments"])
    found: dict[str, Any] = {
        "units": vars(units),
        "assumed": {
            "episode_steps": ATARI_EPISODE_STEPS,
            "rollout_batch": rollout["batch"],
            "batches": {part: size["batch"] for part, size in steps.items()},
        },
        "seconds": {},
        "left_out_sides": {},
    }
    for side in rollout["seconds"]:
        lacking = [part for part, size in steps.items() if side not in size["seconds"]]
        if side in ("pytorch", "ours_float16_cache") or lacking:
            found["left_out_sides"][side] = f"no step of its {lacking[0] if lacking else 'own'} was timed"
            continue
        found["seconds"][side] = _phases(side, config, units, steps, rollout, results["playing"], environment)
    return found


def _environment_seconds(environments: Mapping[str, Any]) -> dict[int, float]:
    """Seconds of a vector step by number of environments, by the faster backend."""
    return {
        size["environments"]: min(timing["median"] for timing in size["seconds"].values()) / size["steps"]
        for size in environments["sizes"]
        if "seconds" in size
    }


def _phases(
    side: str,
    config: Config,
    units: Units,
    steps: Mapping[str, Mapping[str, Any]],
    rollout: Mapping[str, Any],
    playing: Mapping[str, Any],
    environment: Mapping[int, float],
) -> dict[str, float]:
    """Seconds of each phase. Steps at small batches are scaled up in proportion to the batch."""

    def scaled(part: str) -> float:
        size = steps[part]
        return (
            size["seconds"][side]["median"] * getattr(config.training, part).batch_num_samples / size["batch"]
        )

    act = {
        size["batch"]: size["seconds"][side]["median"] for size in playing["sizes"] if size["what"] == "act"
    }
    few, many = min(act), max(act)
    horizon, wanted = config.training.actor_critic.imagine_horizon or 1, steps["actor_critic"]
    imagined = rollout["seconds"][side]["median"] / (rollout["batch"] * rollout["horizon"])
    batch = config.training.actor_critic.batch_num_samples
    besides = wanted["seconds"][side]["median"] - wanted["rollout_seconds"][side]
    actor_critic = imagined * batch * horizon + max(0.0, besides) * batch / wanted["batch"]
    found = {
        "collection": units.agent_steps * (environment[min(environment)] + act[few]),
        "tokenizer": units.steps["tokenizer"] * scaled("tokenizer"),
        "world_model": units.steps["world_model"] * scaled("world_model"),
        "actor_critic": units.steps["actor_critic"] * actor_critic,
        "cache": 0.0,
        "evaluation": units.test_vector_steps * (environment[max(environment)] + act[many]),
    }
    if "ours_uncached" in steps["world_model"]["seconds"] and side == "ours":
        (both,) = (size for size in playing["sizes"] if size["what"] == "encode and decode")
        a_frame = both["seconds"][side]["median"] / both["batch"]
        found["cache"] = max(units.frames_cached, units.frames_decoded) * a_frame
    return found
