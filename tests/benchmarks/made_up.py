"""Invented results, for tests of reports."""

from __future__ import annotations

from typing import Any

from benchmarks.record import Ceilings, Ratio, Result, Size, Spread

SIDES = {"ours": 1.0, "ours_float16_cache": 0.8, "pytorch": 2.0, "public": 3.0, "public_tuned": 2.5}
CEILINGS = Ceilings("cpu", 1e10, {"float32": 1e11})
REFUSED = {"simulusion": "its features differ from the oracle's by 0.5 of the largest: not timed"}


def spread(seconds: float) -> Spread:
    return Spread(seconds, 0.9 * seconds, 1.1 * seconds, 3)


def spreads(**sides: float) -> dict[str, Spread]:
    return {side: spread(seconds) for side, seconds in sides.items()}


def size(sides: dict[str, float], unit: str, more: dict[str, Any] | None = None, **what: Any) -> Size:
    """A made-up size whose seconds are given by side."""
    first, *others = sides
    return Size(
        what,
        seconds=spreads(**sides),
        ratios={side: Ratio(sides[side] / sides[first], 3, 0.9, 4.0) for side in others},
        flops=1e9,
        bytes=1e8,
        units={unit: 10},
        more=more or {},
    )


def scaled(sides: dict[str, float], factor: float) -> dict[str, float]:
    return {side: factor * seconds for side, seconds in sides.items()}


def compared(*sizes: Size) -> Result:
    """A comparison of systems that found these sizes."""
    return Result(list(sizes), CEILINGS, not_timed=REFUSED)


def made_up_results() -> dict[str, Result]:
    """Of every case that a projection needs."""
    decoding = {side: seconds for side, seconds in SIDES.items() if side != "ours_float16_cache"}
    trained = {side: SIDES[side] for side in ("ours", "public", "public_tuned")}
    cached = {"ours": 1.5, "ours_cached": 1.0} | {side: SIDES[side] for side in ("public", "public_tuned")}
    update = {"update_seconds": scaled(trained | {"ours_cached": 1.0}, 0.1)}
    imagined = update | {
        "rollout_seconds": scaled(trained, 0.5),
        "imagine_seconds": {"ours": 0.8, "ours_cached": 0.8},
    }
    tokens = {"step_seconds": {side: [seconds / 10] * 19 for side, seconds in SIDES.items()}}
    return {
        "rollout": compared(
            *(size(scaled(SIDES, batch), "imagined_steps", batch=batch, horizon=2) for batch in (1, 16, 64)),
            Size({"batch": 256}, missing="left out: it would take 90 s"),
        ),
        "token_generation": compared(size(SIDES, "tokens", tokens, batch=64, steps=19)),
        "frame_decoding": compared(
            *(size(scaled(decoding, share), "frames", batch=n) for share, n in ((0.05, 16), (0.2, 64)))
        ),
        "gradient_steps": compared(
            size(trained, "frames", update, part="tokenizer", batch=4),
            size(cached, "frames", update, part="world_model", batch=2),
            size(cached, "imagined_steps", imagined, part="actor_critic", batch=2, horizon=20),
        ),
        "playing": compared(
            size(trained, "frames", what="act", batch=1),
            size(trained, "frames", what="act", batch=8),
            size(trained, "frames", what="encode and decode", batch=16),
            size(scaled(trained, 30), "frames", what="policy alone", batch=64),
        ),
        "environments": Result(
            [
                size({"ours": 1.0, "ale": 2.0}, "agent_steps", environments=1, steps=1000),
                size({"ours": 4.0, "ale": 8.0}, "agent_steps", environments=8, steps=1000),
                size({"ours": 16.0, "ale": 16.0}, "agent_steps", environments=16, steps=1000),
            ],
            Ceilings("cpu"),
        ),
    }
