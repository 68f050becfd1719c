"""Whether a run that will not learn shows it, in a sentence with what to try.

The parts depend on each other: the world model learns the tokenizer's tokens, and the policy learns from the world
model's rewards. So only the first fault on this way is said; what lies behind it follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from iris_fast.config import Config

from .schedule import epoch_phases

Metrics = Mapping[str, float]

REPEATED_AFTER = 25
"""Epochs before a fault that lasts is said again."""

ENOUGH_STEPS = {"tokenizer": 300, "world_model": 400, "actor_critic": 300}
"""Gradient steps of a part before its faults are said: every part is at its starting point for a while. These are
two epochs of the paper, and about ten of the smaller presets' (thirty of the actor-critic of `small`). The tokenizer
has, besides, the epochs before the world model begins, which is when its tokens should mean something."""

FRAMES_TOLD_APART = 4
"""A tokenizer that tells fewer kinds of frames apart than this, on average, has collapsed: its tokens can follow not
even one object over a few places. The number is e to the entropy of a frame's tokens, added up over positions, which
is an upper bound."""

MOVING_LEFT_OUT = 0.45
"""Error of moving pixels, over that of showing the frame before, from which what moves is missing: an object left out
is wrong where it is and right where it was, and so has half of that error. Catch stayed at 0.50 while its ball was
missing, was at 0.40 when a shadow of it appeared, and at 0.12 when it was drawn."""

AT_BASE_RATE = 0.85
"""Share of the base rate's cross-entropy from which a reward head says too little. In a run of Boxing whose policy
got nowhere in 760 updates it was 0.89; in one of Catch, 0.57 after 80 gradient steps and 0.18 after 320."""

UNIFORM_ENTROPY = 0.99
"""Share of its maximum from which a policy's entropy is that of no preference. At 0.99 the probabilities of 18
actions still vary by a quarter around their mean, so a policy that has begun to learn is below."""

NOTHING_EXPLAINED = 0.05
"""Explained variance up to which values are no better than one constant; 0 is that constant."""


class Diagnosis:
    """Says what keeps a run from learning, each fault once in `REPEATED_AFTER` epochs; a resumed run says it anew."""

    def __init__(self, config: Config):
        self.config = config
        self._said: dict[str, int] = {}  # the epoch of each fault's last sentence

    def sentences(self, epoch: int, metrics: Metrics) -> list[str]:
        """What to say at the end of `epoch`, by its metrics; those that are absent say nothing."""
        begun = epoch > self.config.training.world_model.start_after_epochs
        for fault, (part, find) in FAULTS.items():
            steps = steps_taken(self.config, part, epoch)
            enough = begun and steps >= ENOUGH_STEPS[part]
            found = find(self.config, metrics) if enough else None
            if found is None:
                continue
            if epoch - self._said.get(fault, -REPEATED_AFTER) < REPEATED_AFTER:
                return []
            self._said[fault] = epoch
            return [f"not learning, after {steps} gradient steps of the {part.replace('_', ' ')}: {found}"]
        return []


def steps_taken(config: Config, part: str, epoch: int) -> int:
    """Gradient steps of a part up to the end of `epoch`."""
    return sum(epoch_phases(config, number).get(part, 0) for number in range(1, epoch + 1))


def _collapsed_codes(config: Config, metrics: Metrics) -> str | None:
    entropy = metrics.get("tokenizer/train/tokens_entropy", math.inf)
    if entropy >= math.log(FRAMES_TOLD_APART):
        return None
    codes = metrics["tokenizer/train/codes_used"]
    return (
        f"nearly all frames get the same tokens ({codes:.0f} of {config.tokenizer.vocab_size} codes in use); "
        "a new run might try tokenizer.restart_codes_every=10 tokenizer.restart_codes_at=far "
        "tokenizer.background=true, or a lower training.tokenizer.learning_rate"
    )


def _moving_left_out(config: Config, metrics: Metrics) -> str | None:
    share = metrics.get("tokenizer/train/moving_vs_previous_frame", 0.0)
    if share < MOVING_LEFT_OUT:
        return None
    return (
        f"reconstructions leave out what moves (its error is {share:.2f} of that of the frame before; 0.5 is without "
        "it), so the world model cannot predict it; try a higher training.tokenizer.steps_per_epoch, or in a new run "
        "tokenizer.perceptual=objects tokenizer.background=true"
    )


def _unpredicted_rewards(config: Config, metrics: Metrics) -> str | None:
    if metrics.get("world_model/train/rewarded_steps") == 0:
        return (
            "no step of its batches has a reward, so there is nothing to learn; try to find one by playing more: "
            f"collection.train.config.num_steps above {config.collection.train.config.num_steps}, or "
            f"collection.train.config.epsilon above {config.collection.train.config.epsilon:g}"
        )
    share = metrics.get("world_model/train/rewards_vs_base_rate", 0.0)
    if share < AT_BASE_RATE:
        return None
    recall = metrics["world_model/train/rewards_recall"]
    return (
        f"rewards are predicted hardly better than by their base rate ({share:.2f} of its loss, {recall:.0%} of "
        "rewards found), so dreams teach the policy nothing; if media/reconstructions lack what scores, try a higher "
        "training.tokenizer.steps_per_epoch, else a higher training.world_model.steps_per_epoch"
    )


def _uniform_policy(config: Config, metrics: Metrics) -> str | None:
    share = metrics.get("actor_critic/train/entropy_vs_maximum", 0.0)
    if share < UNIFORM_ENTROPY:
        return None
    weight = config.training.actor_critic.entropy_weight
    lower = f"training.actor_critic.entropy_weight below {weight:g}, or " if weight else ""
    return (
        f"the policy prefers no action (entropy {metrics['actor_critic/train/entropy']:.3f}, {share:.1%} of its "
        f"maximum); try {lower}a higher training.actor_critic.steps_per_epoch"
    )


def _values_without_use(config: Config, metrics: Metrics) -> str | None:
    explained = metrics.get("actor_critic/train/explained_variance", 1.0)
    if explained > NOTHING_EXPLAINED:
        return None
    return (
        f"values explain nothing of the returns (explained variance {explained:.2f}); try a higher "
        "training.actor_critic.steps_per_epoch or batch_num_samples, or a lower training.actor_critic.learning_rate"
    )


Finder = Callable[[Config, Metrics], str | None]
# In the order in which one depends on the other: its name, the part at fault, and how it is found.
FAULTS: dict[str, tuple[str, Finder]] = {
    "codes": ("tokenizer", _collapsed_codes),
    "moving": ("tokenizer", _moving_left_out),
    "rewards": ("world_model", _unpredicted_rewards),
    "entropy": ("actor_critic", _uniform_policy),
    "values": ("actor_critic", _values_without_use),
}
