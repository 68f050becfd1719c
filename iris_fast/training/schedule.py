"""The phases of an epoch, and their units of work."""

from __future__ import annotations

from iris_fast.agent import PARTS
from iris_fast.config import Config

PHASES = ("collection", *PARTS, "evaluation")


def epoch_phases(config: Config, epoch: int) -> dict[str, int]:
    """Phases of an epoch (counted from 1) in order: agent steps, gradient steps, test episodes.

    A part trains in the epochs after `start_after_epochs`; in the paper, to the end.
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
