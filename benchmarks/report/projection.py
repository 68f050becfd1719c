"""From measured steps to a whole Atari-100k run: the paper's schedule, phase by phase, for each system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iris_fast.agent import PARTS
from iris_fast.config import Config, preset_config, resolve
from iris_fast.training.estimate import ATARI_EPISODE_STEPS
from iris_fast.training.schedule import epoch_phases

from ..record import Result, Size
from .tables import label_of

PHASES = ("collection", "tokenizer", "world_model", "actor_critic", "cache", "evaluation")
NEEDED = ("gradient_steps", "playing", "environments")
FINAL_EPISODES = 100  # episodes of the final score, played after the run
PARTS_AGREE = (
    1.25  # parts of a rollout that sum to this many times what it takes, or to a share of it, say nothing
)

Results = Mapping[str, Result]


class NotMeasured(Exception):
    """A measurement that the projection needs is missing."""


@dataclass(frozen=True)
class Units:
    """The units of a run: agent steps, gradient steps by part, vector steps of tests, cached frames."""

    agent_steps: int
    steps: dict[str, int]
    test_vector_steps: int
    final_vector_steps: int
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
    episodes = totals["evaluation"]
    vector_steps, final_steps = (
        count * ATARI_EPISODE_STEPS // environments_of(config)[1] for count in (episodes, FINAL_EPISODES)
    )
    steps = {part: totals[part] for part in PARTS}
    return config, Units(totals["collection"], steps, vector_steps, final_steps, encoded, decoded)


def environments_of(config: Config) -> tuple[int, int]:
    """The number of environments stepped together in collection and in tests."""
    test = config.collection.test
    return config.collection.train.num_envs, min(test.num_envs, test.config.num_episodes)


def project(results: Results) -> dict[str, Any]:
    """Seconds by phase for each side with every step measured; `left_out` has the reasons for the others.

    `notes` are the assumptions behind the numbers, in sentences.
    """
    missing = [name for name in NEEDED if name not in results or not results[name].sizes]
    if missing:
        return {"left_out": f"needs the cases {', '.join(missing)} in the same run"}
    config, units = paper_units()
    try:
        steps = {part: size_of(results, "gradient_steps", part=part) for part in PARTS}
        environment = {count: _environment_seconds(results, count) for count in environments_of(config)}
    except NotMeasured as reason:
        return {"left_out": str(reason)}
    seconds: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    rollouts: dict[str, Any] = {}
    for side in _sides(results):
        try:
            rollouts[side] = paper_rollout(results, config, side)
            rollouts[side]["burn_in"] = _burn_in_seconds(results, config, side, steps["actor_critic"])
            rollouts[side]["after_last"] = _after_last_seconds(results, config, side)
            seconds[side] = _phases(
                side,
                config,
                units,
                steps,
                sum(rollouts[side][name] for name in ("seconds", "burn_in", "after_last")),
                results,
                environment,
            )
        except NotMeasured as reason:
            left_out[side] = str(reason)
    if not seconds:
        return {"left_out": "no side has every step measured", "left_out_sides": left_out}
    others = {side: found for side, found in _other_models(results).items() if side in seconds}
    return {
        "units": vars(units),
        "assumed": {
            "episode_steps": ATARI_EPISODE_STEPS,
            "final_episodes": FINAL_EPISODES,
            "batches": {part: size.what["batch"] for part, size in steps.items()},
            "rollouts": {side: rollouts[side] for side in seconds},
        },
        "notes": _notes(config, steps, {side: rollouts[side] for side in seconds}) + _other_notes(others),
        "seconds": seconds,
        "other_models": list(others),
        "left_out_sides": left_out,
    }


def sizes_of(results: Results, case: str) -> list[Size]:
    """The sizes of a case; none where it is not there."""
    return results[case].sizes if case in results else []


def size_of(results: Results, case: str, **wanted: Any) -> Size:
    """The measured size of a case with this label; NotMeasured, with the case's reason, if there is none."""
    sizes = sizes_of(results, case)
    alike = [size for size in sizes if size.is_like(**wanted)]
    for size in alike:
        if size.seconds:
            return size
    said = [size.missing for size in (*alike, *sizes)]
    said += [results[case].left_out] if case in results else []
    why = next((text for text in said if text), "not in the same run")
    words = " ".join(f"{name} {value}".replace("_", " ") for name, value in wanted.items())
    raise NotMeasured(f"{case} was not measured with {words} ({why.removeprefix('left out: ')})")


def median_of(size: Size, side: str, what: str) -> float:
    """A side's seconds of a size; NotMeasured if it has none."""
    if side not in size.seconds:
        raise NotMeasured(f"no {what} of its own was timed")
    return size.seconds[side].median


def _sides(results: Results) -> list[str]:
    """All sides of imagination and of gradient steps, in their order."""
    cases = ("rollout_whole", "rollout", "token_generation", "gradient_steps")
    sizes = [size for case in cases for size in sizes_of(results, case)]
    found = dict.fromkeys(side for size in sizes for side in size.seconds)
    return [side for side in found if side != "ours_cached"]  # the training path of ours


def _environment_seconds(results: Results, count: int) -> float:
    """Seconds of a vector step of `count` environments, by the faster backend."""
    size = size_of(results, "environments", environments=count)
    return min(spread.median for spread in size.seconds.values()) / size.number("steps")


def paper_rollout(results: Results, config: Config, side: str) -> dict[str, Any]:
    """`seconds` of the paper's rollout (64 x 20) without burn-in, and `source`: the case, or "parts".

    Where it was not measured whole it is the sum of its parts, with caches as long as they then are. `check`:
    what such a sum gives for the shorter rollout that was measured, as a share of that; NotMeasured where it is
    far from 1.
    """
    part = config.training.actor_critic
    batch, horizon = part.batch_num_samples, part.imagine_horizon or 1
    for case in ("rollout_whole", "rollout"):
        for size in sizes_of(results, case):
            if size.is_like(batch=batch, horizon=horizon) and side in size.seconds:
                return {"seconds": median_of(size, side, "rollout"), "source": case}
    found: dict[str, Any] = {
        "seconds": _rollout_of_parts(results, config, side, batch, horizon),
        "source": "parts",
    }
    for size in sizes_of(results, "rollout"):
        if size.is_like(batch=batch) and side in size.seconds:
            steps = size.number("horizon")
            sum_of_parts = _rollout_of_parts(results, config, side, batch, steps)
            found["check"] = sum_of_parts / median_of(size, side, "rollout")
            found["check_steps"] = steps
            if not 1 / PARTS_AGREE <= found["check"] <= PARTS_AGREE:
                raise NotMeasured(
                    f"the parts of its rollout of {steps} steps sum to {found['check']:.0%} of what it takes"
                )
    return found


def _burn_in_seconds(results: Results, config: Config, side: str, size: Size) -> float:
    """The policy's seconds of the paper's burn-in; 0 if the rest of the step already contains them."""
    if side not in size.more.get("imagine_seconds", {}):
        return 0.0
    part = config.training.actor_critic
    policy = size_of(results, "playing", what="policy alone", batch=part.batch_num_samples)
    return part.burn_in * median_of(policy, side, "policy")


def _other_models(results: Results) -> dict[str, str]:
    """The sides with another model, and the difference, from the cases."""
    steps = results["gradient_steps"]
    return {side: steps.sides[side]["difference"] for side in steps.other_models()}


def _other_notes(others: Mapping[str, str]) -> list[str]:
    """The notes on the hours of another model."""
    return [
        f"{label_of(side)} trains another model in these hours: {difference}."
        for side, difference in others.items()
    ]


def _after_last_seconds(results: Results, config: Config, side: str) -> float:
    """Seconds of the frame after the last action, generated and decoded, where a side's training has it; else 0.

    Its token passes are taken as those of the last step that was timed.
    """
    if not results["gradient_steps"].sides.get(side, {}).get("goes_on"):
        return 0.0
    batch = config.training.actor_critic.batch_num_samples
    steps = size_of(results, "token_generation", batch=batch).more["step_seconds"].get(side, [])
    if not steps:
        raise NotMeasured("no token passes of its own were timed")
    return float(steps[-1]) + median_of(size_of(results, "frame_decoding", batch=batch), side, "decoding")


def _rollout_of_parts(results: Results, config: Config, side: str, batch: int, horizon: int) -> float:
    """One encoding; in each step a decoding, the policy and the token passes, of which the last step has one."""
    tokens = size_of(results, "token_generation", batch=batch)
    decoded = median_of(size_of(results, "frame_decoding", batch=batch), side, "decoding")
    policy = size_of(results, "playing", what="policy alone", batch=batch)
    both = size_of(results, "playing", what="encode and decode")
    decoding = median_of(size_of(results, "frame_decoding", batch=both.number("batch")), side, "decoding")
    encoding = median_of(both, side, "encoding") - decoding
    if encoding < 0:
        raise NotMeasured("its encoding and decoding took less time than its decoding alone")
    steps = tokens.more["step_seconds"].get(side, [])
    if len(steps) < horizon - 1 or horizon < 2:
        raise NotMeasured(f"of its token passes {len(steps)} steps were timed, {horizon - 1} are needed")
    generation = sum(steps[: horizon - 1]) + steps[horizon - 2] / config.agent.world_model.tokens_per_block
    a_step = decoded + median_of(policy, side, "policy")
    return float(horizon * a_step + generation + encoding * batch / both.number("batch"))


def _phases(
    side: str,
    config: Config,
    units: Units,
    steps: Mapping[str, Size],
    rollout: float,
    results: Results,
    environment: Mapping[int, float],
) -> dict[str, float]:
    """Seconds of each phase, with the paper's rollout and what goes with it in `rollout` seconds."""
    training, tests = environments_of(config)
    vector_step = {
        count: environment[count]
        + median_of(size_of(results, "playing", what="act", batch=count), side, "acting")
        for count in (training, tests)
    }
    tests_steps = units.test_vector_steps + units.final_vector_steps
    found = {
        "collection": units.agent_steps / training * vector_step[training],
        "tokenizer": units.steps["tokenizer"] * _step_seconds("tokenizer", side, config, steps),
        "world_model": units.steps["world_model"] * _step_seconds("world_model", side, config, steps),
        "actor_critic": units.steps["actor_critic"]
        * _step_seconds("actor_critic", side, config, steps, rollout),
        "cache": 0.0,
        "evaluation": tests_steps * vector_step[tests],
    }
    if side == "ours" and "ours_cached" in steps["world_model"].seconds:
        both = size_of(results, "playing", what="encode and decode")
        a_frame = median_of(both, side, "encoding") / both.number("batch")
        found["cache"] = max(units.frames_cached, units.frames_decoded) * a_frame
    return found


def _step_seconds(
    part: str, side: str, config: Config, steps: Mapping[str, Size], rollout: float | None = None
) -> float:
    """Seconds of a gradient step at the paper's batch, from a small one's.

    Clipping and optimizer take the same at any batch size; the rest grows in proportion, but for a rollout, whose
    seconds at the paper's size are given.
    """
    size = steps[part]
    taken = "ours_cached" if side == "ours" and "ours_cached" in size.seconds else side
    seconds, update = (
        median_of(size, taken, f"step of its {part}"),
        size.more.get("update_seconds", {}).get(taken),
    )
    if update is None:
        raise NotMeasured(f"no optimizer step of its {part} was timed")
    growing = seconds - update
    if rollout is not None:
        if size.what["horizon"] != config.training.actor_critic.imagine_horizon:
            raise NotMeasured(
                f"its actor-critic's step was timed with a rollout of {size.what['horizon']} steps"
            )
        growing -= size.more.get("imagine_seconds", {}).get(taken, size.more["rollout_seconds"].get(side))
    if growing < 0:
        raise NotMeasured(f"its {part} step took less time than what it is made of: too noisy a measurement")
    scale = getattr(config.training, part).batch_num_samples / size.number("batch")
    return float(update + growing * scale + (rollout or 0.0))


def _notes(config: Config, steps: Mapping[str, Size], rollouts: Mapping[str, Any]) -> list[str]:
    """The assumptions, in sentences."""
    scaled = [
        f"{part.replace('_', ' ')} {size.what['batch']} to {getattr(config.training, part).batch_num_samples}"
        for part, size in steps.items()
        if size.what["batch"] != getattr(config.training, part).batch_num_samples
    ]
    notes = [
        f"A test episode is taken as {ATARI_EPISODE_STEPS} agent steps. After the last epoch "
        f"{FINAL_EPISODES} episodes are played, {environments_of(config)[1]} side by side.",
        "Environments are stepped by the faster backend, for every side.",
    ]
    if scaled:
        notes.append(
            f"Gradient steps are scaled from the measured batch to the paper's ({', '.join(scaled)}): clipping "
            "and optimizer as they are, the rest in proportion."
        )
    if "ours_cached" in steps["world_model"].seconds:
        notes.append(
            "Ours trains with the epoch's cache; every frame of the replay is encoded and decoded once an epoch, "
            "or as many as are drawn."
        )
    for source in dict.fromkeys(found["source"] for found in rollouts.values()):
        sides = [label_of(side) for side, found in rollouts.items() if found["source"] == source]
        how = "are the sum of their parts" if source == "parts" else f"were measured whole by {source}"
        notes.append(f"The paper's rollouts of {', '.join(sides)} {how}.")
    checks = {side: found for side, found in rollouts.items() if "check" in found}
    if checks:
        shares = ", ".join(f"{label_of(side)} {found['check']:.0%}" for side, found in checks.items())
        horizon = next(iter(checks.values()))["check_steps"]
        notes.append(
            f"Such sums for the rollout of {horizon} steps are, as a share of what it took: {shares}."
        )
    return notes
