"""Compares the project's results with every array of a golden file.

Floating-point outputs may differ by float32 rounding: `ROUNDINGS` times 2**-23 of the largest magnitude in
the array. The roundings were measured: for four sets of weights and inputs, how far our float32 results, and
those of the file, lie from the same computation in float64. The number here is the power of two next above
three times the largest seen, and at least 16. Gradient norms of the tokenizer and the actor-critic need the
most: rounding decides the sign of an absolute error or the winner of a max-pool, and so switches whole terms.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.errors import UserError

from . import outputs
from .recipe import golden_agent

INPUTS = (
    *("seed", "observations", "actions", "rewards", "ends", "mask_padding"),
    *("lambda_rewards", "lambda_values", "lambda_ends"),
    *("imagine_actions", "imagine_rewards", "imagine_ends", "imagine_tokens"),
)
ROUNDINGS = {
    "z": 128,
    "reconstruction_frame0": 256,
    "tokens_margin": 512,
    "tokenizer_reconstruction_loss": 16,
    "tokenizer_commitment_loss": 16,
    "tokenizer_perceptual_loss": 16,
    "tokenizer_grad_norm": 1024,
    "codebook_grad_rows": 16,
    "logits_observations_sample": 32,
    "logits_rewards": 32,
    "logits_ends": 64,
    "transformer_output_sample": 32,
    "world_model_loss_obs": 16,
    "world_model_loss_rewards": 16,
    "world_model_loss_ends": 16,
    "world_model_grad_norm": 16,
    "actor_logits": 32,
    "critic_values": 32,
    "actor_logits_after_burn_in": 32,
    "critic_values_after_burn_in": 32,
    "lambda_returns": 16,
    "imagine_logits_actions": 128,
    "imagine_values": 256,
    "imagine_frame_mean": 128,
    "actor_critic_loss_actions": 256,
    "actor_critic_loss_values": 16,
    "actor_critic_loss_entropy": 16,
    "actor_critic_grad_norm": 2048,
}
EXACT = ("play_cache_sizes", "world_model_decayed_tensors", "world_model_undecayed_tensors")
# Tokens, and which frames of `tokens_margin` they are of; a smaller gap than TIE lets rounding decide.
TOKENS: dict[str, slice | int] = {
    "tokens": slice(None),
    "tokens_frame0": 0,
    "imagine_first_tokens": outputs.BURN_IN.stop,
}
TIE = 1e-2

Group = Callable[[Mapping[str, Tensor], Agent], dict[str, Tensor]]
GROUPS: dict[Group, tuple[str, ...]] = {
    outputs.encoding: ("z", "tokens_frame0", "reconstruction_frame0", "tokens", "tokens_margin"),
    outputs.tokenizer_losses: ("tokenizer_", "codebook_grad_rows"),
    outputs.world_model: ("logits_", "transformer_output_sample"),
    outputs.world_model_losses: ("world_model_",),
    outputs.actor_critic: ("actor_logits", "critic_values"),
    outputs.returns: ("lambda_",),
    outputs.imagination: ("imagine_", "actor_critic_"),
    outputs.playing_on: ("play_cache_sizes",),
}


@dataclass(frozen=True)
class Row:
    """One array's verdict: its largest `error` (for tokens and counts: how many differ) and its `tolerance`.

    `note` says how the tolerance came about, or why there is no error to show.
    """

    name: str
    shape: tuple[int, ...]
    error: float
    tolerance: float
    note: str
    is_input: bool = False

    @property
    def ok(self) -> bool:
        return self.is_input or self.error <= self.tolerance  # False for NaN


def read_golden(path: Path) -> dict[str, Tensor]:
    """The arrays of a golden file; UserError when it is not one."""
    try:
        with np.load(path) as file:
            golden = {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a golden file: give an .npz like tests/golden/data's") from error
    for name in ("seed", "actor_logits"):  # without these there is no agent to compare with
        if name not in golden:
            raise UserError(f"{path} lacks the array {name}: give an .npz like tests/golden/data's")
    return golden


def check_golden(golden: Mapping[str, Tensor]) -> list[Row]:
    """A row for each array of the file, in the file's order."""
    return compare(golden, *compute(golden))


def compute(golden: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the project computes for the file's arrays; and for those that it cannot compute, the reason."""
    agent = golden_agent(int(golden["seed"]), golden["actor_logits"].shape[-1])
    computed: dict[str, Tensor] = {}
    troubles: dict[str, str] = {}
    with torch.no_grad():
        for group, prefixes in GROUPS.items():
            wanted = [name for name in golden if name.startswith(prefixes) and name not in INPUTS]
            if not wanted:
                continue
            try:
                computed |= group(golden, agent)
            except (KeyError, IndexError, ValueError, RuntimeError) as error:
                problem = (
                    f"the file lacks {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
                )
                troubles |= dict.fromkeys(wanted, problem)
    return {name: value.detach() for name, value in computed.items()}, troubles


def compare(
    golden: Mapping[str, Tensor], computed: Mapping[str, Tensor], troubles: Mapping[str, str]
) -> list[Row]:
    """A row for each array of the file; one that is neither an input nor computed falls short."""
    return [_row(name, golden, computed.get(name), troubles.get(name)) for name in golden]


def _decided(name: str, golden: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Which tokens rounding cannot change; all of them, where the file has no margins of that shape."""
    margin = golden.get("tokens_margin")
    if margin is None or margin.ndim != 3 or margin[:, TOKENS[name]].shape != shape:
        return torch.ones(shape, dtype=torch.bool)
    return margin[:, TOKENS[name]] > TIE


def _row(name: str, golden: Mapping[str, Tensor], result: Tensor | None, trouble: str | None) -> Row:
    expected = golden[name]
    shape = tuple(expected.shape)
    if name in INPUTS:
        return Row(name, shape, 0.0, 0.0, "input", is_input=True)
    if result is None:
        return Row(name, shape, float("nan"), 0.0, trouble or "no such array is known")
    if result.shape != expected.shape:
        return Row(name, shape, float("nan"), 0.0, f"computed with shape {tuple(result.shape)}")
    if name in TOKENS:
        differing = (result != expected) & _decided(name, golden, shape)
        return Row(
            name, shape, float(differing.sum()), 0.0, f"tokens that differ where the gap exceeds {TIE}"
        )
    if name in EXACT:
        return Row(name, shape, float((result != expected).sum()), 0.0, "entries that differ")
    error = float((result.double() - expected.double()).abs().amax())
    scale = float(expected.double().abs().amax())
    tolerance = ROUNDINGS[name] * 2.0**-23 * scale
    return Row(name, shape, error, tolerance, f"{ROUNDINGS[name]} roundings of {scale:.3g}")
