"""The README's tables of what was measured here, from the files in benchmarks/results/cpu."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "cpu"
Markdown = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def steps_table(markdown: Markdown) -> str:
    """Median seconds of the `small` preset's gradient steps, and of data with the token cache and without."""
    steps, cache = record("training_steps"), record("token_cache")["result"]["seconds"]
    found = steps["result"]

    def pair(part: str) -> str:
        return " / ".join(_seconds(cache[f"{part}_{side}"]["median"]) for side in ("with", "without"))

    rows = [
        ["tokenizer step", _seconds(found["tokenizer"]["median"])],
        ["world-model step", _seconds(found["world_model"]["median"])],
        ["actor-critic step", _seconds(found["actor_critic"]["median"])],
        [
            f"of which the rollout (engine `{found.get('engine', 'oracle')}`)",
            _seconds(found["rollout"]["median"]),
        ],
        ["data of a world-model step with the per-epoch cache / without", pair("world_model")],
        ["start of a rollout (burn-in frames decoded) with the cache / without", pair("starts")],
    ]
    return markdown([f"preset `small`, {steps['threads']} threads", "seconds"], rows)


def learning_table(markdown: Markdown) -> str:
    """What recorded runs learned: Catch by seed, and an hour or more of Pong with the `small` preset."""
    rows = []
    for path in sorted(RESULTS.glob("catch*/run_*.json")):  # in float32, then with int8
        run = json.loads(path.read_text(encoding="utf-8"))
        evaluation = record(f"{path.parent.name}/evaluation_{run['seed']}")["statistics"]
        rows.append(
            [
                f"`{run['command'].removeprefix('python -m iris_fast.train ')}`",
                _minutes(run["seconds"]),
                f"mean return {evaluation['return']:.2f} ± {evaluation['standard_error']:.2f} "
                f"over {evaluation['episodes']:.0f} episodes",
            ]
        )
    rows.append(_pong_row())
    return markdown(["run", "time", "what it learned"], rows)


def _pong_row() -> list[str]:
    lines = (RESULTS / "pong_small" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    last = metrics[-1]
    tested = [line["collection/test/return"] for line in metrics if "collection/test/return" in line]
    steady = [line["duration/epoch"] for line in metrics if "actor_critic/train/total_loss" in line]
    return [
        "`--game Pong --preset small`",
        _minutes(record("pong_small/run")["seconds"]),
        f"{last['epoch']} epochs, steady ones {statistics.median(steady) / 60:.1f} min (median); peak memory "
        f"{last['memory/host_peak_gigabytes']:.1f} GB; world-model loss "
        f"{_first(metrics, 'world_model/train/total_loss'):.2f} → {last['world_model/train/total_loss']:.2f}; "
        f"test returns {', '.join(f'{value:g}' for value in tested)}",
    ]


def ball_table(markdown: Markdown) -> str:
    """Errors on Pong's ball after the same steps with each choice of perceptual loss."""
    if not (RESULTS / "ball.json").is_file():
        return "Not recorded yet: `python -m benchmarks --only ball --json benchmarks/results/cpu` does it."
    found = record("ball")["result"]
    names = {
        "objects": "`objects` with `tokenizer.background` (`small`)",
        "objects_without_background": "`objects` alone",
        "foreground": "`foreground` with `tokenizer.background`",
        "none": "none, with `tokenizer.background`",
    }
    rows = [
        [
            label,
            f"{found[name]['ball_error']:.0f}",
            f"{found[name]['balls_kept']:.0%}",
            f"{found[name]['all_error']:.1f}",
            str(found[name]["tokens_used"]),
        ]
        for name, label in names.items()
    ]
    head = [f"after {found['steps']} steps", "error on the ball", "balls kept", "error overall", "codes used"]
    return markdown(head, rows)


def _first(metrics: Sequence[dict[str, float]], key: str) -> float:
    return next(line[key] for line in metrics if key in line)


def _seconds(value: float) -> str:
    return f"{value:.2g}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def low_precision_table(markdown: Markdown) -> str:
    """What half precision and int8 of the C++ engine take beside float32: rollouts, tokens, decoded frames."""
    found = record("cpu_low_precision")["result"]
    rows = [
        [
            f"rollout of {size['batch']} × {size['horizon']}, {name}",
            _seconds(side["median"]),
            "" if (ratio := size["times_float32"].get(name)) is None else f"{ratio['ratio']:.2g}×",
        ]
        for size in found["rollouts"]
        for name, side in size["seconds"].items()
    ]
    rows += [
        [
            f"{size['steps']} steps of tokens, batch {size['batch']}; keys and values / weights: {name}",
            _seconds(side["median"]),
            "" if (ratio := size["times_float32"].get(name)) is None else f"{ratio['ratio']:.2g}×",
        ]
        for size in found["sizes"]
        for name, side in size["seconds"].items()
    ]
    for size in record("cpu_frame_codec")["result"]["results"]:
        if "cpp_int8" in size:
            what = f"{size['batch']} frame{'s' if size['batch'] > 1 else ''} decoded"
            rows.append([f"{what}, float32", _seconds(size["cpp"]["median"]), ""])
            rows.append(
                [f"{what}, int8", _seconds(size["cpp_int8"]["median"]), f"{size['times_cpp']['ratio']:.2g}×"]
            )
    return markdown(["paper's agent", "seconds", "float32 takes"], rows)


def int8_rollouts_table(markdown: Markdown) -> str:
    """Rollouts of a trained agent beside float32's: the least p of the tests, and how far single draws are moved."""
    found = record("int8_rollouts")["result"]
    rows = [
        [
            name,
            f"{min(side['p'].values()):.2g} ({min(side['p'], key=side['p'].get)})",
            f"{side['kl_nats']:.1e}",
            f"{255 * side['pixels_rms']:.2f}",
            f"{side['policy_kl_nats']:.1e}",
        ]
        for name, side in found["beside_float32"].items()
    ]
    head = [
        "beside float32",
        "least p of 8 tests",
        "nats a draw of a token",
        "pixels, levels of 255",
        "nats of the policy",
    ]
    what = f"{found['game']}, `{found['preset']}`, epoch {found['epoch']}"
    return (
        f"{markdown(head, rows)}\n\n{what}: {found['rollouts']:,} rollouts of {found['horizon']} steps a row."
    )
