"""`python -m benchmarks.public_steps CHECKOUT FILE`: seconds of the public implementation's gradient steps.

Its agent of the paper's size, run as a black box from a checkout, on this machine's device, on batches already there:
forward and backward of each part's loss (imagination and burn-in inside the actor-critic's), without the optimizer.
On a CPU two rows and two steps of each, to see that it runs.
Its perceptual network has random weights here, which takes the same time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases.training_steps import timed
from benchmarks.registry import circumstances
from iris_fast.config import preset_config, resolve
from iris_fast.interop.checkout import public_agent

ACTIONS = 6


def batch_of(rows: int, time: int, size: int, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        "observations": torch.rand(rows, time, 3, size, size, device=device),
        "actions": torch.randint(ACTIONS, (rows, time), device=device),
        "rewards": torch.randint(-1, 2, (rows, time), device=device).float(),
        "ends": torch.zeros(rows, time, dtype=torch.int64, device=device),
        "mask_padding": torch.ones(rows, time, dtype=torch.bool, device=device),
    }


def main(checkout: Path, path: Path) -> None:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    config = resolve(preset_config("paper", "Pong"))
    training, size, length = config.training, config.env.train.size, config.common.sequence_length or 1
    agent = public_agent(checkout, config.agent, ACTIONS, with_lpips=True).to(device)
    part = training.actor_critic
    settings: dict[str, Any] = {
        "imagine_horizon": part.imagine_horizon if on_gpu else 2,
        "gamma": part.gamma,
        "lambda_": part.lambda_,
        "entropy_weight": part.entropy_weight,
    }
    # Half a batch twice, as its memory asks for on most GPUs: its step takes twice the seconds given here.
    rows = (
        training.tokenizer.batch_num_samples // 2,
        training.world_model.batch_num_samples,
        part.batch_num_samples,
    )
    times = 1, length, part.burn_in + 1
    if not on_gpu:
        rows, times = (2, 2, 2), (1, 2, 3)
    frames, segments, starts = (
        batch_of(count, time, size, device) for count, time in zip(rows, times, strict=True)
    )
    losses: dict[str, Callable[[], Any]] = {
        "world_model": lambda: agent.world_model.compute_loss(segments, agent.tokenizer),
        "actor_critic": lambda: agent.actor_critic.compute_loss(
            starts, agent.tokenizer, agent.world_model, **settings
        ),
        "tokenizer_half_batch": lambda: agent.tokenizer.compute_loss(frames),
    }

    def step(name: str) -> None:
        agent.zero_grad(set_to_none=True)
        losses[name]().loss_total.backward()

    found: dict[str, Any] = {}
    for name in losses:
        agent.eval()
        agent.get_submodule(name.removesuffix("_half_batch")).train()
        try:
            found[name] = timed(lambda _, name=name: step(name), 2 if on_gpu else 1, device)  # type: ignore[misc]
        except Exception as error:  # a black box: what one part does not do must not take the others with it
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, found[name], flush=True)
    path.write_text(json.dumps({"case": "public_steps", **circumstances(), "result": found}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
