"""Compares every side with the oracle before anything of it is timed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iris_fast.agent import Agent, AgentConfig
from iris_fast.models.autoencoder import AutoencoderConfig, EncoderConfig
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig

from .registry import Run
from .systems.ours import replayed
from .systems.weights import ACTIONS, noise_frames, random_agent, random_lpips, save_agent

TOLERANCE = {"ours_float16_cache": 2e-3, "ours_bf16": 5e-2}
# Of a rollout's first imagined frame with steep heads: one draw that falls otherwise changes those after it.
LEAST_SHARE_OF_TOKENS = 0.25
# The largest allowed difference, as a share of the largest number: ten layers add in another order.
FLOAT32 = 1e-4
BATCH, STEPS, SEED = 2, 2, 5
MOST_STEPS = 19  # steps with compared logits: as many as the paper's context holds


def small_config() -> AgentConfig:
    """An agent for smoke tests, as small as the public implementation can hold."""
    autoencoder = AutoencoderConfig(
        ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(8,), z_channels=16
    )
    return AgentConfig(
        TokenizerConfig(32, 16, EncoderConfig(autoencoder)),
        TransformerConfig(num_layers=2, num_heads=4, embed_dim=64),
    )


class Weights:
    """The agent whose weights all sides use, and the files that they load.

    `file`: as it is; `steep_file`: with steep heads; `perceptual_file`: as it is, with the perceptual network.
    """

    def __init__(self, config: AgentConfig):
        self._folder = tempfile.TemporaryDirectory(prefix="iris_fast_benchmark_")
        self.agent = random_agent(config)
        self.steep = random_agent(config, steep=True)
        folder = Path(self._folder.name)
        self.file, self.steep_file = folder / "agent.pt", folder / "steep.pt"
        self._perceptual_file = folder / "perceptual.pt"
        save_agent(self.agent, self.file)
        save_agent(self.steep, self.steep_file)

    @property
    def perceptual_file(self) -> Path:
        """Made on first use."""
        if not self._perceptual_file.exists():
            save_agent(self.agent, self._perceptual_file, random_lpips())
        return self._perceptual_file


def weights_of(run: Run) -> Weights:
    """The run's weights, made once: the paper's sizes, or small ones for `--quick`."""
    found: Weights = run.once("weights", lambda run: Weights(small_config() if run.quick else AgentConfig()))
    return found


def agreement_of(run: Run) -> dict[str, dict[str, Any]]:
    """By side: the largest differences from the oracle, `agrees`, and `error` if it does not agree. Computed once a
    run."""
    found: dict[str, dict[str, Any]] = run.once("agreement", _check_all)
    return found


def refusals(agreement: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Why sides are not timed, by side."""
    return {side: facts["error"] for side, facts in agreement.items() if not facts["agrees"]}


def other_models(run: Run) -> tuple[str, ...]:
    """The sides with another model than the oracle's."""
    return tuple(side for side, facts in agreement_of(run).items() if not facts["same_model"])


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected number; NaN if either holds a NaN."""
    if found.shape != expected.shape:
        return float("inf")
    gap = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30)
    return float(gap)


@torch.no_grad()
def _check_all(run: Run) -> dict[str, dict[str, Any]]:
    weights = weights_of(run)
    generator = torch.Generator().manual_seed(SEED)
    first = torch.randint(weights.agent.config.tokenizer.vocab_size, (BATCH, 16), generator=generator)
    steps = min(MOST_STEPS, weights.agent.world_model.config.max_blocks - 1)
    actions = torch.randint(ACTIONS, (BATCH, steps), generator=generator)
    frames = noise_frames(BATCH, SEED)
    found: dict[str, dict[str, Any]] = {}
    for side in run.systems.sides():
        try:
            with run.systems.exactly(side):
                found[side] = _check(run, side, first, actions, frames)
        except RuntimeError as error:  # a system that does not run here loses only its column
            if side == "ours":
                raise
            last = str(error).strip().splitlines()[-1]
            found[side] = {"same_model": False, "agrees": False, "error": f"it failed: {last}"}
    return found


def _check(run: Run, side: str, first: Tensor, actions: Tensor, frames: Tensor) -> dict[str, Any]:
    """The result of `agreement_of` for one side."""
    weights, worker = weights_of(run), run.systems.worker(side)
    facts: dict[str, Any] = {
        "same_model": worker.call("same_model"),
        "difference": worker.call("difference"),
        "goes_on": worker.call("goes_on"),
    }
    worker.call("load", weights.steep_file)
    if facts["same_model"] and (side not in TOLERANCE or not worker.call("has_parts")):
        facts["trajectory"] = _trajectory(run, side, weights.steep, frames)
    worker.call("load", weights.file)
    facts["has_parts"] = worker.call("has_parts")
    # An engine that is one graph can be compared only by its trajectory.
    facts["differences"] = (
        _differences(run, side, weights.agent, first, actions, frames, facts) if facts["has_parts"] else {}
    )
    tolerance = TOLERANCE.get(side, FLOAT32)
    wrong = [name for name, gap in facts["differences"].items() if not gap <= tolerance]
    facts["agrees"] = not wrong and facts.get("trajectory", {}).get("equal", True)
    if wrong:
        gap = facts["differences"][wrong[0]]
        facts["error"] = f"its {wrong[0]} differ from the oracle's by {gap:.2g} of the largest: not timed"
    elif not facts["agrees"]:
        facts["error"] = f"its trajectory differs ({facts['trajectory']['what']}): not timed"
    return facts


def _differences(
    run: Run, side: str, agent: Agent, first: Tensor, actions: Tensor, frames: Tensor, facts: dict[str, Any]
) -> dict[str, float]:
    """Largest differences from the oracle: of logits on the same tokens, of decoded frames, of the policy."""
    worker = run.systems.worker(side)
    given = run.once("generated", lambda run: run.systems.worker("ours").call("dream", first, actions, None))
    outputs = worker.call("dream", first, actions, given["tokens"])
    tokens = outputs.pop("tokens", given["tokens"])
    expected = replayed(agent.world_model, first, actions, tokens)
    found = {name: difference(value, expected[name]) for name, value in outputs.items()}
    if facts["same_model"]:
        found["frames"] = difference(worker.call("decode", first)[1], agent.tokenizer.frames_of(first))
        policy = agent.actor_critic(frames.unsqueeze(1), agent.actor_critic.initial_state(len(frames)))
        outputs = worker.call("act", frames)[1]
        found["policy"] = difference(outputs["logits"], policy.logits_actions[:, 0])
        found["values"] = difference(outputs["values"], policy.values[:, 0])
    return found


def _trajectory(run: Run, side: str, steep: Agent, frames: Tensor) -> dict[str, Any]:
    """Compares a rollout by the public function with the oracle's; steep heads make every draw certain."""
    from iris_fast.imagination.engine import ImaginationStart
    from iris_fast.imagination.oracle import OracleEngine

    def imagine(run: Run) -> Any:
        nothing = ImaginationStart(
            frames.new_zeros(BATCH, 0, *frames.shape[1:]),
            torch.ones(BATCH, 0, dtype=torch.bool),
            steep.tokenizer.tokens_of(frames),
        )
        return OracleEngine(steep).imagine(nothing, STEPS + 1, SEED)

    expected = run.once("steep rollout", imagine)
    _, found = run.systems.worker(side).call("rollout", frames, STEPS + 1, SEED)
    if side in TOLERANCE:
        return _nearly(found, expected, TOLERANCE[side])
    for name in ("actions", "rewards", "ends"):
        if not torch.equal(found[name].double(), getattr(expected, name).double()):
            return {"equal": False, "what": name}
    gap = (found["observations"] - expected.observations).abs().max()
    if not gap <= 1.5 / 255:  # the public implementation rounds frames to 256 levels
        return {"equal": False, "what": f"a pixel is off by {float(gap):.2g}"}
    return {"equal": True, "steps": STEPS + 1, "rows": BATCH}


def _nearly(found: dict[str, Tensor], expected: Any, tolerance: float) -> dict[str, Any]:
    """Compares a rollout in low precision: the frames that it begins with, and the draws of the next frame."""
    first, exact = found["observations"][:, 0], expected.observations[:, 0]
    gap = float((first - exact).norm() / exact.norm())
    share = float((found["tokens"][:, 1] == expected.tokens[:, 1]).float().mean())
    if not gap <= tolerance:
        return {"equal": False, "what": f"its first frames differ by {gap:.2g}"}
    if share < LEAST_SHARE_OF_TOKENS:
        return {"equal": False, "what": f"only {share:.0%} of its first frame's tokens are the oracle's"}
    return {"equal": True, "steps": 1, "rows": BATCH, "share_of_tokens": share}
