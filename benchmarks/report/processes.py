"""Tables of one agent on several processes: measured on a CPU, calculated for links between GPUs, memory of each."""

from __future__ import annotations

import torch

from iris_fast.agent import PARTS, Agent
from iris_fast.config import preset_config, resolve

from ..cases.memory import peaks
from ..cases.processes import ALONE, TOGETHER
from ..record import Size
from . import measured
from .tables import duration, markdown

NUM_ACTIONS = 6  # Pong's
# Bytes a second in one direction, and assumed seconds of a collective however small, several times what NCCL takes
# within a machine. NVLink: of 450 GB/s NCCL reaches 370, https://github.com/NVIDIA/nccl-tests/issues/212.
LINKS = {
    "NVLink of an H100 or H200": (370e9, 50e-6),
    "PCIe 4.0 × 16": (31.5e9, 50e-6),
    "Ethernet, 10 Gbit/s": (1.25e9, 200e-6),
}
GPUS = 4
SHARE = 0.05  # of a step, above which communication begins to matter
CARD, SPARE = 24e9, 2e9  # bytes of a card, and of them for CUDA's context, libraries and fragments
# Uses of memory in proportion to the rows of a process.
BY_ROW = (
    *("tokenizer_step", "world_model_step", "actor_critic_step"),
    *("kv_cache", "rollout_frames", "burn_in_features"),
)
FLAT = 3 * 4 / 16  # copies of the gradient, beside the float32 weights, gradients and Adam's moments


def processes_table() -> str:
    """Steps on two processes beside one, and the share of them that communication takes."""
    if not (measured.RESULTS / "processes.json").is_file():
        return measured.NOT_YET.format("processes --device cpu")
    found = measured.record("processes")
    rows = [_row(size) for size in found.result.sizes]
    head = ["step, batch", ALONE, TOGETHER, "communication", "waiting", "at the preset's batch"]
    memory = "; ".join(
        f"{preset}: {sides[TOGETHER]:.1f} GB each of two, {sides[ALONE]:.1f} GB alone"
        for preset, sides in found.result.facts["peak_gigabytes"].items()
    )
    made = found.circumstances
    note = (
        "Median seconds. Communication: the time in collectives of whoever came last to them, and its share of the "
        "step; waiting: of whoever came first. Last column: the share of communication if the rest grows with the "
        f"batch. Peak memory: {memory}. {made.machine}, commit {made.commit}."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def _row(size: Size) -> list[str]:
    label = f"{size.what['preset']} {str(size.what['part']).replace('_', ' ')}, {size.number('batch')}"
    if not size.seconds:
        return [label, size.missing, "", "", "", ""]
    alone, together = size.seconds[ALONE].median, size.seconds[TOGETHER].median
    sent = size.more["communication"]
    config = resolve(preset_config(str(size.what["preset"]), "Pong"))
    usual = getattr(config.training, str(size.what["part"])).batch_num_samples
    grown = (together - sent) * usual / size.number("batch")
    return [
        label,
        duration(alone),
        f"{duration(together)} ({alone / together:.2f}×)",
        f"{duration(sent)} ({sent / together:.1%})",
        duration(size.more["waiting"]),
        f"{sent / (sent + grown):.1%}",
    ]


def collective_seconds(count: float, bandwidth: float, latency: float, processes: int) -> float:
    """Of a sum of `count` bytes over processes: each sends and receives 2 (n - 1) / n of them in a ring."""
    return latency + 2 * (processes - 1) / processes * count / bandwidth


def gradient_bytes(preset: str) -> dict[str, int]:
    """Bytes of each part's gradient, which is what a step sums."""
    with torch.device("meta"):
        agent = Agent(resolve(preset_config(preset, "Pong")).agent, NUM_ACTIONS)
    return {
        part: 4 * sum(p.numel() for p in agent.get_submodule(part).trained_parameters())  # type: ignore[operator]
        for part in PARTS
    }


def links_table() -> str:
    """Calculated time of a step's sum over four GPUs by link, and the step from which on it takes little."""
    rows = []
    for preset in ("small", "paper"):
        for part, count in gradient_bytes(preset).items():
            times = [collective_seconds(count, *link, GPUS) for link in LINKS.values()]
            least = GPUS * times[0] * (1 - SHARE) / SHARE
            name = f"{preset} {part.replace('_', ' ')}"
            rows.append([name, f"{count / 1e6:.1f} MB", *map(duration, times), duration(least)])
    links = [
        f"{name}, {bandwidth / 1e9:g} GB/s + {latency * 1e6:g} µs"
        for name, (bandwidth, latency) in LINKS.items()
    ]
    head = ["sum of", "size", *links, f"step of one GPU, for a share of {SHARE:.0%} by NVLink"]
    return markdown(head, rows)


def bytes_of_each(parts: dict[str, float], processes: int, growth: float = 1.0) -> dict[str, float]:
    """Uses of memory of each of several processes, from those of one; `growth`: of all batches."""
    found = {name: count * growth / processes if name in BY_ROW else count for name, count in parts.items()}
    if processes > 1:
        found["weights_gradients_adam"] *= 1 + FLAT
    return found


def process_memory_table() -> str:
    """Peak memory of each process by their number, and the batches that fit a card of 24 GB."""
    found = measured.facts("memory")
    limit = found["reconstruction_cache_limit"]

    def peak(precision: str, processes: int, growth: float = 1.0) -> float:
        parts = bytes_of_each(found[precision]["bytes"], processes, growth)
        return max(peaks(parts, limit).values())

    rows = []
    for processes in (1, 2, 4, 8):
        row = [str(processes)]
        for precision in ("float32", "bf16"):
            growth = 1
            while peak(precision, processes, growth + 1) <= CARD - SPARE:
                growth += 1
            row += [f"{peak(precision, processes) / 1e9:.1f} GB", f"{growth} ×"]
        rows.append(row)
    return markdown(
        ["processes", "float32", "batches in 24 GB, float32", "bf16", "batches in 24 GB, bf16"], rows
    )
