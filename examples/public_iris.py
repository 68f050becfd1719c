"""The public implementation of IRIS with our operations in it: `python examples/public_iris.py CHECKOUT`.

Builds an agent from a checkout of eloialonso/iris (its classes and initial weights), makes it use our operations with
one call, and times an imagined rollout of each. In your own script it is two lines:

    from iris_fast.interop.accelerate import accelerate
    agent = accelerate(agent)
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import torch

from iris_fast.imagination.engine import EngineName
from iris_fast.interop.accelerate import accelerate
from iris_fast.interop.checkout import public_agent


def seconds_of_a_rollout(agent: Any, batch: dict[str, torch.Tensor], horizon: int) -> float:
    """One imagined rollout without gradients, as fast as its device allows."""
    cuda = batch["observations"].is_cuda
    began = time.perf_counter()
    with torch.no_grad():
        agent.actor_critic.imagine(batch, agent.tokenizer, agent.world_model, horizon)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a checkout of eloialonso/iris")
    parser.add_argument("--batch", type=int, default=4, help="imagined episodes at a time (default 4)")
    parser.add_argument("--horizon", type=int, default=3, help="imagined steps (default 3; the paper's: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="rollouts of each, in turn (default 3)")
    parser.add_argument(
        "--engine",
        default="auto",
        choices=get_args(EngineName),
        help="of imagination (default: the device's fastest)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    theirs = public_agent(arguments.checkout).eval().to(arguments.device)
    ours = accelerate(copy.deepcopy(theirs), arguments.engine)
    frames = torch.rand(arguments.batch, 3, 3, 64, 64, device=arguments.device)
    batch = {
        "observations": frames,
        "mask_padding": torch.ones(frames.shape[:2], dtype=torch.bool, device=arguments.device),
    }
    agents = {"public implementation": theirs, "accelerated": ours}
    seconds: dict[str, list[float]] = {name: [] for name in agents}
    for repeat in range(arguments.repeats + 1):
        for name, agent in agents.items():
            found = seconds_of_a_rollout(agent, batch, arguments.horizon)
            if repeat:  # the first round warms up
                seconds[name].append(found)
    for name, found_all in seconds.items():
        print(f"{name:24}{statistics.median(found_all):8.2f} s a rollout")


if __name__ == "__main__":
    main()
