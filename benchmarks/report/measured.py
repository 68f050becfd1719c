"""Tables of measurements in the documentation, from the files in benchmarks/results/cpu."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..record import Record, Size
from .tables import markdown

RESULTS = Path(__file__).parents[1] / "results" / "cpu"
NOT_YET = "Not recorded yet: `python -m benchmarks --only {} --json benchmarks/results/cpu`."


def record(name: str) -> Record:
    return Record.read(RESULTS / f"{name}.json")


def facts(name: str) -> dict[str, Any]:
    return record(name).result.facts


def steps_table() -> str:
    """Median seconds of the `small` preset's gradient steps, and of data with the token cache and without."""
    steps, cache = record("training_steps"), facts("token_cache")["seconds"]
    found = steps.result.facts

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
    return markdown([f"preset `small`, {steps.circumstances.threads} threads", "seconds"], rows)


def learning_table() -> str:
    """Results of recorded runs: Catch by seed, and an hour or more of Pong with the `small` preset."""
    rows = []
    for path in sorted(RESULTS.glob("catch*/run_*.json")):  # in float32, then with int8
        run = Record.read(path).result.facts
        evaluation = run["evaluation"]
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
    lines = (RESULTS / "pong_small" / "run_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    last = metrics[-1]
    tested = [line["collection/test/return"] for line in metrics if "collection/test/return" in line]
    steady = [line["duration/epoch"] for line in metrics if "actor_critic/train/total_loss" in line]
    return [
        "`--game Pong --preset small`",
        _minutes(facts("pong_small/run")["seconds"]),
        f"{last['epoch']} epochs, steady ones {statistics.median(steady) / 60:.1f} min (median); peak memory "
        f"{last['memory/host_peak_gigabytes']:.1f} GB; world-model loss "
        f"{_first(metrics, 'world_model/train/total_loss'):.2f} → {last['world_model/train/total_loss']:.2f}; "
        f"test returns {', '.join(f'{value:g}' for value in tested)}",
    ]


def ball_table() -> str:
    """Errors on Pong's ball after the same steps with each choice of perceptual loss."""
    found = facts("ball")
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


def sweep_table() -> str:
    """Seconds of runs as tasks of a sweep, beside their plain commands and beside each other."""
    if not (RESULTS / "sweep.json").is_file():
        return NOT_YET.format("sweep --minutes 60")
    found = record("sweep")
    rows = []
    for size in found.result.sizes:
        for side, spread in size.seconds.items():
            median = f"{spread.median:.1f} ({spread.quartile_1:.1f} to {spread.quartile_3:.1f})"
            rows.append([SWEEP_WHAT[size.table], side, median, str(spread.rounds)])
    made, more = found.circumstances, found.result.facts
    note = (
        f"Ray's start, once a sweep: {more['ray_start_seconds']:.1f} s. {made.machine}, commit {made.commit}."
    )
    return f"{markdown(['what', 'how', 'seconds: median (quartiles)', 'rounds'], rows)}\n\n{note}"


SWEEP_WHAT = {"overhead": "a run that does next to nothing", "two_runs": "two Catch runs of 2 epochs"}


def _first(metrics: Sequence[dict[str, float]], key: str) -> float:
    return next(line[key] for line in metrics if key in line)


def _seconds(value: float) -> str:
    return f"{value:.2g}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def low_precision_table() -> str:
    """Times of half precision and int8 in the C++ engine relative to float32: rollouts, tokens, decoded frames."""
    found = record("cpu_low_precision").result
    rows = [
        row
        for size in found.timed("rollouts")
        for row in _beside_float32(size, f"rollout of {size.what['batch']} × {size.what['horizon']}, {{}}")
    ]
    rows += [
        row
        for size in found.timed()
        for row in _beside_float32(
            size,
            f"{size.what['steps']} steps of tokens, batch {size.what['batch']}; keys and values / weights: {{}}",
        )
    ]
    for size in record("cpu_frame_codec").result.timed():
        if "cpp_int8" in size.seconds:
            frames = f"{size.what['batch']} frame{'s' if size.what['batch'] != 1 else ''} decoded"
            plain, int8 = size.seconds["cpp"].median, size.seconds["cpp_int8"].median
            rows.append([f"{frames}, float32", _seconds(plain), ""])
            rows.append([f"{frames}, int8", _seconds(int8), f"{plain / int8:.2g}×"])
    return markdown(["paper's agent", "seconds", "float32 takes"], rows)


def _beside_float32(size: Size, words: str) -> list[list[str]]:
    """A row for each side; how many times as long the first one takes."""
    first = next(iter(size.seconds.values())).median
    return [
        [
            words.format(name),
            _seconds(spread.median),
            "" if number == 0 else f"{first / spread.median:.2g}×",
        ]
        for number, (name, spread) in enumerate(size.seconds.items())
    ]


def int8_rollouts_table() -> str:
    """Rollouts of a trained agent beside float32's: the least p of the tests, and how far single draws are moved."""
    found = facts("int8_rollouts")
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


def play_table() -> str:
    """Frames a second of the page of play by mode, and milliseconds from a key to the frame that shows its action."""
    if not (RESULTS / "play.json").is_file():
        return NOT_YET.format("play --device cpu")
    found = record("play")
    rows = [
        [mode, shown, f"{rate:.0f}", *_key_cells(found.result.facts["key_seconds"].get(mode, {}).get(shown))]
        for mode, sides in found.result.facts["frames_a_second"].items()
        for shown, rate in sides.items()
    ]
    made = found.circumstances
    head = ["mode", "page", "frames a second (60 asked)", "key to frame, ms: median", "p95"]
    return f"{markdown(head, rows)}\n\n{made.machine}, commit {made.commit}."


def _key_cells(times: dict[str, float] | None) -> list[str]:
    return ["", ""] if times is None else [f"{1000 * times[name]:.0f}" for name in ("median", "p95")]
