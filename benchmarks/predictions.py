"""`python -m benchmarks.predictions [FOLDER]`: what an H200 is predicted to take for each part, beside its floor.

Without a GPU: every operation of a part is counted on tensors without data, with its bytes and products. A launch
takes `GAP`, and the longest of its bytes, its products and its waits for memory. The floor is that of bytes or
products at the rates of the data sheet, without launches. `predictions.json` keeps both; `--write` counts anew. With
FOLDER, the results of `benchmarks/gpu.sh first`, the table has what was measured too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.group_norms import as_on_a_gpu
from benchmarks.report.tables import aligned, duration
from benchmarks.work import without_data
from iris_fast.agent import Agent
from iris_fast.command_line import run_command
from iris_fast.config import Config, preset_config, resolve
from iris_fast.errors import UserError
from iris_fast.imagination.engine import Rollout
from iris_fast.imagination.frame_decoder import FrameDecoder
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.models.perceptual import LPIPS
from iris_fast.randomness import Purpose
from iris_fast.training.device import autocast, cast_once
from iris_fast.training.parts import actor_critic_losses

FILE = Path(__file__).with_suffix(".json")
ACTIONS = 6
GAP = 1.1e-6  # seconds between dependent launches of a graph
PHASE = 0.8e-6  # seconds that a block waits for memory it has just asked for
PHASES = {
    "layer_norm_linear": 3,
    "layer_norm_linear at once": 2,
    "cached_attention": 6,
    "layer_norm_attention": 12,
    "layer_norm_mlp": 4,
}
"""Waits in a row within a kernel, read from its machine code; of others 2, to read and to write."""
L2_BYTES, L2_RATE, MEMORY_RATE = 40e6, 5.5e12, 3.9e12  # what a kernel reaches, of 4.8 by the data sheet
SHEET_MEMORY, SHEET_PRODUCTS = 4.8e12, 990e12  # bfloat16, dense
# FLOP/s that convolutions reach by their fewest channels, and products of matrices.
CONVOLUTIONS, PRODUCTS = ((3, 60e12), (64, 350e12), (10**9, 500e12)), 450e12
TF32_SHARE = 0.5
NO_LAUNCH = (
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"),
    *("device", "is_same_size", "lift_fresh", "sym_size", "sym_stride"),
)


@dataclass
class Cost:
    """Of a part: launches, bytes in and out, operations of products, seconds predicted and at the least."""

    launches: float = 0
    bytes: float = 0
    flops: float = 0
    predicted: float = 0

    def launch(self, size: float, flops: float = 0, rate: float = PRODUCTS, phases: int = 2) -> None:
        """Adds a launch; `size`: its bytes."""
        self.launches += 1
        self.bytes += size
        self.flops += flops
        memory = size / (L2_RATE if size < L2_BYTES else MEMORY_RATE)
        self.predicted += GAP + max(phases * PHASE, memory, flops / rate)

    @property
    def floor(self) -> float:
        return max(self.bytes / SHEET_MEMORY, self.flops / SHEET_PRODUCTS)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(one + two for one, two in zip(asdict(self).values(), asdict(other).values(), strict=True))
        )

    def __mul__(self, times: float) -> Cost:
        return Cost(*(value * times for value in asdict(self).values()))


class Counter(TorchDispatchMode):
    """Adds up the cost of what runs within it."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in NO_LAUNCH:
            return result
        size = bytes_of((args, kwargs)) + bytes_of(result)
        if name in ("convolution", "convolution_backward"):
            self._convolution(args, result, size, backward=name.endswith("backward"))
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            one, other = args[-2:] if name in ("mm", "bmm") else args[1:3]
            rate = PRODUCTS * (1 if one.dtype == torch.bfloat16 else TF32_SHARE)
            self.cost.launch(size, 2 * one.numel() * other.shape[-1], rate)
        elif "scaled_dot_product" in name:
            backward = "backward" in name
            query, key = args[1:3] if backward else args[:2]
            self.cost.launch(size, 4 * query.numel() * key.shape[2] * (2.5 if backward else 1), 150e12)
        else:
            at_once = name == "layer_norm_linear" and args[3] is not None and args[1].dtype == torch.bfloat16
            self.cost.launch(size, phases=PHASES.get(f"{name} at once" if at_once else name, 2))
        return result

    def _convolution(self, args: Any, result: Any, size: float, backward: bool) -> None:
        """PyTorch adds the bias in a launch of its own, and takes its gradient in one."""
        out, x, weight = args[:3] if backward else (result, *args[:2])
        flops = 2 * out.numel() * weight[0].numel()
        rate = next(rate for channels, rate in CONVOLUTIONS if min(weight.shape[:2]) <= channels)
        rate *= 1 if x.dtype == torch.bfloat16 else TF32_SHARE
        if not backward:
            self.cost.launch(size, flops, rate)
            if args[2] is not None:
                self.cost.launch(2 * bytes_of(out))
            return
        each = bytes_of([out, x, weight])
        for wanted, share in zip(args[-1][:2], (1.0, 0.75), strict=True):  # of the input, of the weight
            if wanted:
                self.cost.launch(each, flops, rate * share)
        if args[-1][2]:
            self.cost.launch(bytes_of(out))


def bytes_of(values: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def cost_of(function: Callable[[], Any]) -> Cost:
    with Counter() as counter:
        function()
    return counter.cost


def predicted_costs(preset: str = "paper") -> dict[str, Cost]:
    """By the facts of `first_contact`: the preset's parts, in bf16."""
    config = resolve(preset_config(preset, "Pong"))
    # A GPU's fused attention keeps no matrix of weights; the CPU's does so only without dropout on them.
    config = replace(config, world_model=replace(config.world_model, attn_pdrop=0.0))
    with torch.device("meta"):
        agent = Agent(config.agent, ACTIONS).eval()
        agent.tokenizer.attach_lpips(LPIPS())
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu():
        without_data(agent, torch.device("cpu"))
        with torch.no_grad():
            found = _imagination(agent, config)
        return found | _training(agent.train(), config)


def _imagination(agent: Agent, config: Config) -> dict[str, Cost]:
    batch = config.training.actor_critic.batch_num_samples
    horizon = config.training.actor_critic.imagine_horizon or 1
    model = agent.world_model
    weights, slots, last = (
        InferenceWeights(model, torch.bfloat16),
        model.frame_tokens,
        model.config.max_tokens - 20,
    )
    token = torch.zeros((batch, 1), dtype=torch.int64)
    tokens, seed = token.expand(-1, slots).contiguous(), torch.zeros((), dtype=torch.int64)
    found: dict[str, Cost] = {}
    decoder = FrameDecoder(agent.tokenizer, torch.bfloat16)
    found[f"decode {batch} frames, cudnn.benchmark=False, ms"] = decode = cost_of(
        lambda: decoder.frames_of(tokens)
    )
    frames, state = torch.zeros(batch, 1, 3, 64, 64), agent.actor_critic.initial_state(batch)
    found["policy step, ms"] = policy = cost_of(lambda: agent.actor_critic(frames, state))
    for launches in (5, 2):
        passes = TokenPasses(weights, batch, "ieee", launches)  # type: ignore[arg-type]
        for held in (slots, last // 2, last):
            cost = cost_of(partial(passes.feed, token, held))
            found[f"token pass, {launches} launches, {held} held, us"] = cost
        x = passes.feed(token, slots)[:, 0]
        draw = cost_of(lambda: passes.draw(weights.observations, x, seed, passes.places[0], Purpose.TOKEN))  # noqa: B023
        # The mean pass of a rollout holds as many tokens as the middle one.
        count = (horizon - 1) * (slots + 1) + 1
        middle = cost_of(partial(passes.feed, token, slots + count // 2))
        whole = cost_of(partial(passes.feed, tokens, 0)) + middle * count + (decode + policy) * horizon
        whole += draw * ((horizon - 1) * slots + 2 * horizon)
        found[f"rollout {batch} × {horizon}, {launches} launches, ms"] = whole
    return found | {"draw of a token, us": draw}


def _training(agent: Agent, config: Config) -> dict[str, Cost]:
    training, size = config.training, config.env.train.size
    found: dict[str, Cost] = {}

    def step(part: str, losses: Callable[[], dict[str, Tensor]], pieces: int = 1) -> Cost:
        def gradient() -> None:
            with cast_once("bf16", agent.device):
                for _ in range(pieces):
                    with autocast("bf16", agent.device):
                        each = losses()
                    torch.stack([loss.float() for loss in each.values()]).sum().backward()

        module: Any = agent.get_submodule(part)
        module.zero_grad()
        cost = cost_of(gradient)
        cost.launch(
            4 * 9 * sum(p.numel() for p in module.trained_parameters())
        )  # the norm, and Adam's numbers
        return cost

    for pieces in (4, 1):
        frames = torch.zeros(training.tokenizer.batch_num_samples // pieces, 3, size, size)
        of_frames = partial(agent.tokenizer.losses, frames)
        found[f"tokenizer step in {pieces} pieces"] = step("tokenizer", of_frames, pieces)
    batch, length = training.world_model.batch_num_samples, config.common.sequence_length or 1
    tokens = torch.zeros((batch, length, agent.world_model.frame_tokens), dtype=torch.int64)
    steps = torch.zeros(batch, length)
    given = (tokens, steps.long(), steps, steps, steps.bool())
    found["world_model step"] = step("world_model", lambda: agent.world_model.losses(*given))
    rollout = _empty_rollout(
        agent, training.actor_critic.batch_num_samples, training.actor_critic.imagine_horizon or 1
    )
    found["actor_critic step"] = step(
        "actor_critic", lambda: actor_critic_losses(agent.actor_critic, rollout)
    )
    return found


def _empty_rollout(agent: Agent, batch: int, horizon: int) -> Rollout:
    steps, state = torch.zeros(batch, horizon), agent.actor_critic.initial_state(batch)
    frames, logits = torch.zeros(batch, horizon, 3, 64, 64), torch.zeros(batch, horizon, ACTIONS)
    return Rollout(frames, steps.long(), steps.long(), steps, steps.bool(), logits, steps, state)


def kept() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(FILE.read_text())
    return found


def written(costs: dict[str, Cost]) -> str:
    rows = {
        part: {name: float(f"{value:.4g}") for name, value in (asdict(cost) | {"floor": cost.floor}).items()}
        for part, cost in costs.items()
    }
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def measured(folder: Path) -> dict[str, float]:
    """Seconds by fact, of the files that `first_contact` wrote there."""
    found: dict[str, float] = {}
    for file in sorted(folder.glob("*.json")):
        facts = json.loads(file.read_text())
        for fact, value in facts.items() if isinstance(facts, dict) else ():
            number = value.get("median", value.get("ms")) if isinstance(value, dict) else value
            if isinstance(number, (int, float)):
                found[fact] = number * (1e-6 if fact.endswith(", us") else 1e-3)
    return found


def table(rows: dict[str, dict[str, float]], times: dict[str, float]) -> str:
    """A line a part: launches, floor, predicted, and where there is one, measured."""
    head = ["part", "launches", "floor", "predicted", *(["measured", "of predicted"] if times else [])]
    lines = []
    for part, row in rows.items():
        line = [part.removesuffix(", ms").removesuffix(", us"), f"{row['launches']:,.0f}"]
        line += [duration(row["floor"]), duration(row["predicted"])]
        if times:
            time = times.get(part)
            line += ["–", "–"] if time is None else [duration(time), f"{time / row['predicted']:.2f}×"]
        lines.append(line)
    return aligned(head, lines)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predictions", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="results of benchmarks/gpu.sh first, unpacked")
    parser.add_argument("--write", action="store_true", help="count anew and write predictions.json")
    given = parser.parse_args(None if arguments is None else list(arguments))
    if given.write:
        FILE.write_text(written(predicted_costs()))
    times = {} if given.folder is None else measured(given.folder)
    if given.folder is not None and not times:
        raise UserError(
            f"{given.folder} has no results of benchmarks/gpu.sh first: unpack first.tar.gz there"
        )
    print(table(kept(), times))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
