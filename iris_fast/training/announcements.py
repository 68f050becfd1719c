"""The announcements of a run at its start: its settings, and where they differ from expectations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iris_fast.agent import PARTS
from iris_fast.config import Config

from .checks import initial_parts
from .device import multiplies_bfloat16
from .schedule import PHASES, epoch_phases

if TYPE_CHECKING:
    from .trainer import Trainer


def announced_start(
    trainer: Trainer, asked: Config, started_from: Path | None, begins_anew: bool, backend_before: str | None
) -> list[str]:
    """The announcements of a run that is about to start or resume.

    `asked`: the configuration before the search for perceptual weights; `started_from`: the file of initial weights;
    `begins_anew`: whether a resumed run had no checkpoint; `backend_before`: the old backend, if its environments
    could not be restored.
    """
    config, run, device = trainer.config, trainer.run_folder, trainer.agent.device
    lines = []
    if run.lock_missing:
        lines.append(
            f"lock: the file system of {run.path} has none ({run.lock_missing}), so take care that no other "
            "process trains there"
        )
    lines.append(
        f"game: {config.game} ({trainer.env.backend}, {trainer.agent.num_actions} actions), "
        f"preset: {config.preset}, device: {device}, precision: {config.common.precision}, "
        f"imagination: {trainer.engine.name}, seed: {config.common.seed}"
    )
    if device.type == "cpu" and config.common.precision == "bf16":
        lines.append(f"precision: {bf16_announcement(multiplies_bfloat16())}")
    if (processes := trainer.group.size) > 1:
        lines.append(f"processes: {processes}, each with 1/{processes} of the rows of every batch")
    if device.type == "cuda":
        lines.append(f"gradient steps: {steps_announcement(config)}")
    if config.training.should:
        used = config.tokenizer.perceptual
        lines.append(f"perceptual loss: {perceptual_announcement(asked.tokenizer.perceptual, used)}")
        if config.tokenizer.background:
            lines.append(
                "tokenizer: works on the difference to the median of the first frames, unlike the paper's "
                "(which is tokenizer.background=false)"
            )
    if started_from is not None:
        lines.append(f"weights: {', '.join(initial_parts(config))} from {started_from}")
    if begins_anew:
        lines.append(f"checkpoint: {run.path} has none yet, so the run starts from the beginning")
    if backend_before is not None:
        lines.append(_cut_announcement(backend_before, trainer.env.backend))
    return lines


def perceptual_announcement(wanted: str, used: str) -> str:
    """The announcement of a run's perceptual loss, including any difference from the paper's."""
    if used == "lpips":
        return "lpips, the paper's"
    if used == "foreground":
        return (
            "foreground, a substitute for the paper's LPIPS that needs no download and gives moving things "
            "more weight (the paper's: tokenizer.perceptual=lpips)"
        )
    if used == "objects":
        return (
            "objects, a substitute for the paper's LPIPS that needs no download and gives each thing that moves "
            "the same weight, however small (the paper's: tokenizer.perceptual=lpips)"
        )
    if wanted == "none":
        return "none, where the paper has LPIPS (tokenizer.perceptual=lpips)"
    return (
        "none, since the weights of the paper's (VGG-16 and LPIPS) are not on this machine: small moving "
        "objects may vanish from reconstructions (give the weights by initialization.lpips_weights=FILE, or "
        "choose what the preset small has, which needs none: tokenizer.perceptual=objects "
        "tokenizer.perceptual_weight=15 tokenizer.background=true tokenizer.restart_codes_every=10 "
        "tokenizer.restart_codes_at=far)"
    )


def bf16_announcement(multiplies: bool) -> str:
    """The announcement of bf16 on a CPU; `multiplies`: whether its processor multiplies such numbers itself."""
    if multiplies:
        return (
            "products of gradient steps in bf16, which this processor multiplies faster; weights, sums and losses in "
            "float32 (common.precision=float32: all of it)"
        )
    return (
        "gradient steps in bf16, which this processor does not multiply itself, so they take longer than in float32 "
        "(common.precision=float32)"
    )


def steps_announcement(config: Config) -> str:
    """The announcement, on a GPU, of how gradient steps are launched."""
    if config.training.cuda_graphs and config.common.precision != "fp16":
        return (
            "captured as CUDA graphs before the first epoch, once their kernels are compiled "
            "(training.cuda_graphs=false: one by one)"
        )
    if config.training.cuda_graphs:
        return "launched one by one, since fp16's are not captured (common.precision=bf16 has its steps captured)"
    return "launched one by one (training.cuda_graphs=false)"


def _cut_announcement(saved: str, backend: str) -> str:
    """The announcement of a resumed run whose environments restart."""
    why = (
        f"{saved} cannot be restored"
        if backend == saved
        else f"{backend} cannot restore {saved}'s, which the run used"
    )
    return f"environments: {why}, so the unfinished episodes were cut"


def announced_schedule(config: Config) -> list[str]:
    """The announcement of the epochs of each phase, then one sentence for each phase that never happens."""
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
    """Why a part never trains in the run, and the settings to change."""
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
