"""The documentation's tables, made from code and results: `python -m benchmarks.report.documentation` writes them.

`tests/test_readme.py` fails when one is out of date.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from iris_fast.agent import PARTS, Agent
from iris_fast.config import PRESETS, Config, preset_config, resolve
from iris_fast.models.tokenizer import PIECE

from ..record import Record
from .architecture import architecture
from .kernels import kernels_table, references, sections
from .measured import (
    ball_table,
    int8_rollouts_table,
    learning_table,
    low_precision_table,
    play_table,
    steps_table,
    sweep_table,
)
from .page import all_speeds_table, growth_table, slower_table, speed_table
from .processes import links_table, process_memory_table, processes_table
from .tables import markdown

ROOT = Path(__file__).parents[2]
MEMORY_FILE = Path("benchmarks") / "results" / "cpu" / "memory.json"
GIGABYTE = 1e9
NUM_ACTIONS = 6  # Pong's

MEMORY_PHASES = {
    "capturing": "while the steps are captured",
    "tokenizer": "while the tokenizer trains",
    "world_model": "while the world model trains",
    "actor_critic": "while the actor-critic trains",
    "evaluating": "while test frames are evaluated",
}

Row = tuple[str, Callable[[Config], str]]


def presets_table() -> str:
    """A row for each setting that the presets differ in, a column for each preset."""
    configs = [resolve(preset_config(name, "Pong")) for name in PRESETS]
    rows = [[label, *(value(config) for config in configs)] for label, value in PRESET_ROWS]
    return markdown(["", *(f"`{name}`" for name in PRESETS)], rows)


def memory_table() -> str:
    """Gigabytes of GPU memory of the paper preset by use, and by phase, for float32 and bf16."""
    found = Record.read(ROOT / MEMORY_FILE).result.facts
    columns = [found["float32"], found["bf16"]]
    training = resolve(preset_config("paper", "Pong")).training.tokenizer
    frames = training.batch_num_samples // (training.pieces or 1)
    uses = {
        "weights_gradients_adam": "weights, gradients, Adam's two moments",
        "perceptual_network": "VGG-16 and LPIPS (frozen)",
        "replay": "replay: 100,000 frames, uint8",
        "tokenizer_step": f"tokenizer step, {frames} frames at a time",
        "world_model_step": "world model step",
        "actor_critic_step": "actor-critic step",
        "kv_cache": "KV cache of the rollout",
        "engine_weights": "copies of weights for the rollout",
        "rollout_frames": "frames of the rollout",
        "burn_in_features": "features of the burn-in",
        "token_cache": "cache of tokens",
        "piece": f"encoding or decoding {PIECE['cuda']} frames",
        "evaluation": f"losses of {frames} test frames",
    }
    rows = [[label, *(_gigabytes(side["bytes"][name]) for side in columns)] for name, label in uses.items()]
    cache = [
        min(found["reconstruction_cache_limit"], side["bytes"]["reconstruction_cache_whole"])
        for side in columns
    ]
    rows.append(["cache of reconstructions, at most", *map(_gigabytes, cache)])
    for phase, peak in columns[0]["peaks"].items():
        rows.append([f"**{MEMORY_PHASES[phase]}**", _gigabytes(peak), _gigabytes(columns[1]["peaks"][phase])])
    return markdown(["", "float32 (default)", "bf16"], rows)


def _gigabytes(count: float) -> str:
    return f"{count / GIGABYTE:.2f}"


def _parts(value: Callable[[Any], object], format_spec: str = "") -> Callable[[Config], str]:
    """A cell with the setting of each part: tokenizer / world model / actor-critic."""
    return lambda config: " / ".join(
        format(value(getattr(config.training, part)), format_spec) for part in PARTS
    )


def _parameters(config: Config) -> str:
    with torch.device("meta"):
        agent = Agent(config.agent, NUM_ACTIONS)
    counts = [sum(p.numel() for p in agent.get_submodule(part).parameters()) for part in PARTS]
    return " / ".join(f"{count / 1e6:.2f}" for count in counts)


def _channels(config: Config) -> str:
    sizes = config.tokenizer.autoencoder
    return ", ".join(str(sizes.ch * multiple) for multiple in sizes.ch_mult)


PRESET_ROWS: list[Row] = [
    ("epochs", lambda c: f"{c.common.epochs}"),
    ("parameters, millions (tokenizer / world model / actor-critic)", _parameters),
    ("codebook: codes × width", lambda c: f"{c.tokenizer.vocab_size} × {c.tokenizer.embed_dim}"),
    ("tokenizer's channels, by level", _channels),
    ("perceptual loss", lambda c: c.tokenizer.perceptual),
    ("its weight", lambda c: f"{c.tokenizer.perceptual_weight:g}"),
    ("tokenizer's background", lambda c: "median" if c.tokenizer.background else "none"),
    (
        "Transformer: layers, heads, width",
        lambda c: f"{c.world_model.num_layers}, {c.world_model.num_heads}, {c.world_model.embed_dim}",
    ),
    ("context, frames", lambda c: f"{c.world_model.max_blocks}"),
    ("LSTM's width", lambda c: f"{c.actor_critic.lstm_dim}"),
    ("training environments", lambda c: f"{c.collection.train.num_envs}"),
    ("agent steps an epoch", lambda c: f"{c.collection.train.config.num_steps}"),
    ("collection ends with epoch", lambda c: f"{c.collection.train.stop_after_epochs or c.common.epochs}"),
    ("starts after epoch (tokenizer / world model / actor-critic)", _parts(lambda p: p.start_after_epochs)),
    ("stops after epoch", _parts(lambda p: "never" if p.stop_after_epochs is None else p.stop_after_epochs)),
    ("gradient steps an epoch", _parts(lambda p: p.steps_per_epoch)),
    ("batch: frames / segments / rollouts", _parts(lambda p: p.batch_num_samples)),
    ("learning rate", _parts(lambda p: p.learning_rate, "g")),
    ("imagined steps", lambda c: f"{c.training.actor_critic.imagine_horizon}"),
    ("burn-in frames", lambda c: f"{c.training.actor_critic.burn_in}"),
    ("entropy weight", lambda c: f"{c.training.actor_critic.entropy_weight:g}"),
    (
        "test: every so many epochs, episodes",
        lambda c: f"{c.evaluation.every}, {c.collection.test.config.num_episodes}",
    ),
]

TABLES: dict[str, Callable[[], str]] = {
    "architecture": architecture,
    "presets": presets_table,
    "memory": memory_table,
    "kernels": kernels_table,
    "references": references,
    "operations": sections,
    "speed": speed_table,
    "all_speeds": all_speeds_table,
    "slower": slower_table,
    "growth": growth_table,
    "steps": steps_table,
    "learning": learning_table,
    "ball": ball_table,
    "low_precision": low_precision_table,
    "int8_rollouts": int8_rollouts_table,
    "sweep": sweep_table,
    "play": play_table,
    "processes": processes_table,
    "links": links_table,
    "process_memory": process_memory_table,
}


def with_tables(text: str) -> str:
    """The text with every marked table replaced by the one made now."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table:{name} -->\n", f"<!-- end:{name} -->"
        before, found, rest = text.partition(begin)
        if found:
            _, ends, after = rest.partition(end)
            if not ends:
                raise ValueError(f"the table {name} has no end: add {end}")
            text = f"{before}{begin}{make()}\n{end}{after}"
    return text


def main() -> None:
    for path in (ROOT / "README.md", ROOT / "kernels" / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if (fresh := with_tables(text)) != text:
            path.write_text(fresh, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
