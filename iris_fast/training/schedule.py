"""Which phases an epoch has, and how many units of work each."""

from __future__ import annotations

from iris_fast.agent import PARTS
from iris_fast.config import Config

PHASES = ("collection", *PARTS, "evaluation")


def epoch_phases(config: Config, epoch: int) -> dict[str, int]:
    """Phases of an epoch (counted from 1) in order: agent steps, gradient steps, test episodes.

    A part trains once the epoch is past the one it starts after, in the paper to the end.
    """
    phases: dict[str, int] = {}
    last = config.collection.train.stop_after_epochs
    if last is None or epoch <= last:
        phases["collection"] = config.collection.train.config.num_steps
    if config.training.should:
        for name in PARTS:
            part = getattr(config.training, name)
            stopped = part.stop_after_epochs is not None and epoch > part.stop_after_epochs
            if epoch > part.start_after_epochs and not stopped:
                phases[name] = part.steps_per_epoch
    if config.evaluation.should and epoch % config.evaluation.every == 0:
        phases["evaluation"] = config.collection.test.config.num_episodes
    return phases


def announced_schedule(config: Config) -> list[str]:
    """What a run says at its start: the epochs of each phase, then a sentence for each that it will never have."""
    epochs = config.common.epochs
    having: dict[str, list[int]] = {name: [] for name in PHASES}
    for epoch in range(1, epochs + 1):
        for name in epoch_phases(config, epoch):
            having[name].append(epoch)
    spans = [
        f"{_plain(name)} {found[0]}" + f" to {found[-1]}" * (len(found) > 1)
        for name, found in having.items()
        if found
    ]
    lines = [f"schedule, in epochs: {', '.join(spans)}"] if spans else []
    if having["evaluation"]:
        lines[0] += f" (every {config.evaluation.every})"
    elif config.evaluation.should:
        lines.append(
            f"no evaluation: evaluation.every={config.evaluation.every} and the run ends with epoch {epochs} "
            f"(set evaluation.every={epochs} or less)"
        )
    if not config.training.should:
        return [*lines, "nothing trains: training.should=false"]
    return [*lines, *(_why_idle(config, name) for name in PARTS if not having[name])]


def _plain(phase: str) -> str:
    return {"world_model": "world model", "actor_critic": "actor-critic"}.get(phase, phase)


def _why_idle(config: Config, name: str) -> str:
    """Why a part trains in no epoch of the run, and what to set for it to."""
    part, epochs, key = getattr(config.training, name), config.common.epochs, f"training.{name}"
    start, stop = part.start_after_epochs, part.stop_after_epochs
    if stop is not None and stop <= start:
        return (
            f"the {_plain(name)} will not train: {key}.stop_after_epochs={stop} is no later than "
            f"{key}.start_after_epochs={start} (set the first above the second)"
        )
    return (
        f"the {_plain(name)} will not train: it begins after epoch {start} and the run ends with epoch {epochs} "
        f"(set common.epochs above {start}, or {key}.start_after_epochs below {epochs})"
    )
