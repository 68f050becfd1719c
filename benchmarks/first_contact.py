"""`python -m benchmarks.first_contact FOLDER SECTION …`: what a GPU tells first, with PyTorch and Triton alone.

Every fact is a line of output, and is in `FOLDER/SECTION.json` as soon as it is known. A section that fails says so
and leaves the others alone. Without a GPU all runs in small and uncaptured, to test itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.layer_launches import start_of
from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.cases.training_steps import timed
from benchmarks.chip import facts as chip_facts
from benchmarks.profiling import operations_of
from benchmarks.systems.weights import random_lpips
from iris_fast.agent import PARTS, Agent
from iris_fast.config import apply_overrides, preset_config, resolve
from iris_fast.files import write_atomically
from iris_fast.graphs import CudaGraphs, Graphs, Uncaptured
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.frame_decoder import FrameDecoder
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.imagination.randomness import Purpose
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.kernels import SPECS
from iris_fast.kernels.common.spec import Problem
from iris_fast.models.world_model import WorldModel
from iris_fast.replay.cache import FrameCache
from iris_fast.training.device import engine_of, prepare
from iris_fast.training.graphed_step import GraphedPartTrainer, preserved
from iris_fast.training.parts import make_parts

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
PRESET = "paper" if CUDA else "tiny"
BATCH, HORIZON = (64, 20) if CUDA else (2, 2)
REPEATS = 5 if CUDA else 1
BFLOAT16 = "bfloat16" if CUDA else "float32"
PACKAGES = (
    "gymnasium",
    "av",
    "ale_py",
    "envpool",
    "hypothesis",
    "xdist",
    "yaml",
    "PIL",
    "matplotlib",
    "tensorboard",
)
LAUNCHES: tuple[Any, ...] = (5, 2)
FORMS_OF = {
    "5 launches": (5, 1),
    "2 launches": (2, 1),
    "2 launches, halves side by side": (2, 2),
    "5 launches, halves side by side": (5, 2),
}
"""Launches a layer and streams of the CUDA-graph engine."""
FORMS = tuple(FORMS_OF)

Facts = Iterator[tuple[str, Any]]


def chip() -> Facts:
    """The machine and what is installed."""
    yield "python", platform.python_version()
    yield "torch", torch.__version__
    yield "triton", getattr(sys.modules.get("triton"), "__version__", None)
    yield "cudnn", torch.backends.cudnn.version()
    yield "cores", os.cpu_count()
    yield "lacking", [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if CUDA:
        found = torch.cuda.get_device_properties(DEVICE)
        yield (
            "gpu",
            f"{found.name}, {found.multi_processor_count} multiprocessors, {found.total_memory / 1e9:.0f} GB",
        )
    numbers = torch.empty(2**28 if CUDA else 2**20, device=DEVICE)
    other = torch.empty_like(numbers)
    seconds = timed(lambda _: other.copy_(numbers), REPEATS, DEVICE)["median"]
    yield "copy, GB/s read and written", round(2 * numbers.nbytes / seconds / 1e9, 1)
    body = lambda: [numbers[:1024].add_(1) for _ in range(200)]  # noqa: E731
    seconds = replayed(lambda: {"last": body()[-1]})
    yield "a small launch in a graph, us", round(1e6 * seconds / 200, 2)
    if CUDA:
        yield from chip_facts()


def exact() -> Facts:
    """Every operation: small calls against the CPU's, its typical size against float64; the same bits twice."""
    for spec in SPECS.values():
        for name, call in spec.calls(DEVICE.type).items():
            other = spec.calls("cpu")[name]
            ours, expected = partial(call.function, *call.tensors), partial(other.function, *other.tensors)
            yield attempt(f"error of {name}", ours, expected)
    for name, spec in SPECS.items():
        if spec.benchmark is None:
            continue
        problem = spec.benchmark.problem(DEVICE, **spec.benchmark.typical)
        if problem.expected is not None:
            yield attempt(f"error of {name}, typical", partial(own, problem), problem.expected)


def own(problem: Problem) -> Any:
    return problem.compared(next(iter(problem.ours.values()))())


def attempt(name: str, call: Callable[[], Any], expected: Callable[[], Any]) -> tuple[str, Any]:
    """The norm of the error over the norm, of the worst output; and whether the second call gave the same bits."""
    try:
        with torch.no_grad():
            first, again, right = tensors(call()), tensors(call()), tensors(expected())
        errors = [
            float(
                (one.double().cpu() - other.double().cpu()).norm()
                / other.double().norm().cpu().clamp(min=1e-30)
            )
            for one, other in zip(first, right, strict=True)
        ]
        alike = all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
        return name, f"{max(errors):.1e}" + ("" if alike else ", OTHER BITS THE SECOND TIME")
    except Exception as error:  # the others may work
        return name, failure(error)


def tensors(result: Any) -> list[Tensor]:
    parts = [result] if isinstance(result, Tensor) else list(result)
    return [part.clone() for part in parts if part is not None]


def tokens() -> Facts:
    """Two captured steps beside the oracle's, in every form; this also compiles what `rollouts` times."""
    agent = random_paper_agent()
    start = start_of(agent, BATCH)
    expected = OracleEngine(agent).imagine(start, 2, 7)
    for dtype in dict.fromkeys(("float32", BFLOAT16)):
        for form in FORMS:
            yield (
                f"share of the oracle's tokens, {dtype}, {form}",
                agreement(agent, start, dtype, form, expected),
            )


def agreement(agent: Agent, start: ImaginationStart, dtype: str, form: str, expected: Rollout) -> Any:
    try:
        found = engine_of_form(agent, dtype, form).imagine(start, 2, 7)
        return round(float((found.tokens == expected.tokens).float().mean()), 4)
    except Exception as error:  # the other forms may work
        traceback.print_exc()
        return failure(error)


def rollouts() -> Facts:
    """Milliseconds of whole rollouts, by batch and form."""
    agent = random_paper_agent()
    for batch in (64, 32, 1) if CUDA else (2,):
        start = start_of(agent, batch)
        for form in FORMS if batch > 1 else FORMS[:2]:
            yield f"rollout {batch} × {HORIZON}, {form}, ms", rollout_times(agent, start, form)


def rollout_times(agent: Agent, start: ImaginationStart, form: str) -> Any:
    try:
        seconds = timed(partial(rolled, engine_of_form(agent, BFLOAT16, form), start), REPEATS, DEVICE)
        return {name: round(1e3 * value, 2) for name, value in seconds.items()}
    except Exception as error:  # the other forms may work
        traceback.print_exc()
        return failure(error)


def engine_of_form(agent: Agent, dtype: str, form: str) -> CudaGraphEngine:
    launches, streams = FORMS_OF[form]
    options = GraphOptions(dtype=dtype, launches_per_layer=launches, streams=streams)  # type: ignore[arg-type]
    return CudaGraphEngine(agent, options, graphs())


def rolled(engine: CudaGraphEngine, start: ImaginationStart, seed: int) -> Rollout:
    return engine.imagine(start, HORIZON, seed)


@torch.no_grad()
def parts() -> Facts:
    """A token pass, a draw, the decoder and the policy, each captured alone."""
    agent = random_paper_agent()
    model = agent.world_model
    tokens = torch.randint(agent.config.tokenizer.vocab_size, (BATCH, 16), device=DEVICE)
    last = model.config.max_tokens - 20
    for launches in LAUNCHES:
        passes = TokenPasses(InferenceWeights(model, getattr(torch, BFLOAT16)), BATCH, "ieee", launches)
        passes.feed(tokens, 0)
        for held in (16, last // 2, last):
            seconds = replayed(partial(sixteen, passes, tokens, held))
            yield f"token pass, {launches} launches, {held} held, us", round(1e6 * seconds / 16, 2)
        seconds = replayed_halves(model, tokens, launches, last)
        yield f"the same in halves side by side, {last} held, us", round(1e6 * seconds / 16, 2)
    x = passes.feed(tokens[:, :1], 16)[:, 0]
    seed = torch.zeros((), dtype=torch.int64, device=DEVICE)
    head = passes.weights.observations

    def draws() -> dict[str, Tensor]:
        return {str(i): passes.draw(head, x, seed, passes.places[i], Purpose.TOKEN) for i in range(16)}

    seconds = replayed(draws)
    yield "draw of a token, us", round(1e6 * seconds / 16, 2)
    decoder = FrameDecoder(agent.tokenizer, getattr(torch, BFLOAT16))
    for tried in (False, True):
        torch.backends.cudnn.benchmark = tried
        seconds = replayed(lambda: {"x": decoder.frames_of(tokens)})
        yield f"decode {BATCH} frames, cudnn.benchmark={tried}, ms", round(1e3 * seconds, 3)
    torch.backends.cudnn.benchmark = False
    frames, state = decoder.frames_of(tokens)[:, None].float(), agent.actor_critic.initial_state(BATCH)
    seconds = replayed(lambda: {"x": agent.actor_critic(frames, state).values})
    yield "policy step, ms", round(1e3 * seconds, 3)


def sixteen(passes: TokenPasses, tokens: Tensor, held: int) -> dict[str, Tensor]:
    """Passes of a frame's tokens, one after the other."""
    return {str(i): passes.feed(tokens[:, i : i + 1], held + i) for i in range(16)}


def replayed_halves(model: WorldModel, tokens: Tensor, launches: Any, held: int) -> float:
    weights, both = InferenceWeights(model, getattr(torch, BFLOAT16)), graphs()
    halves = [
        (TokenPasses(weights, len(half), "ieee", launches), half) for half in tokens.split(len(tokens) // 2)
    ]

    def side_by_side() -> dict[str, Tensor]:
        found = both.side_by_side([partial(sixteen, passes, half, held) for passes, half in halves])
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    return replayed(side_by_side, both)


def training() -> Facts:
    """Each part's step captured: its loss beside the eager one, milliseconds, peak memory."""
    precision = ("common.precision=bf16",) if CUDA else ()
    for part, pieces in ((PARTS[0], 4), (PARTS[0], 1), (PARTS[1], 1), (PARTS[2], 1)):
        name = f"{part} step in {pieces} pieces" if part == PARTS[0] else f"{part} step"
        try:
            yield name, captured_step(part, (*precision, f"training.tokenizer.pieces={pieces}"))
        except Exception as error:  # the others may work
            traceback.print_exc()
            yield name, failure(error)


def captured_step(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    config, device = prepare(apply_overrides(preset_config(PRESET, "Pong"), list(overrides)))
    torch.manual_seed(0)
    agent = Agent(config.agent, ACTIONS).to(device).eval()
    if config.tokenizer.perceptual == "lpips":
        agent.tokenizer.attach_lpips(random_lpips().to(device))
    cache = FrameCache(agent.coder, filled_store(200, config.env.train.size, 0, device), max_bytes=10**9)
    part = make_parts(agent, config, cache, engine_of(agent, config.common))[name]
    part.module.train()
    inputs = part.inputs(0)
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = GraphedPartTrainer(part, graphs())
    with preserved(part.module, trainer.optimizer):
        torch.manual_seed(0)
        losses = [
            torch.stack([loss.float() for loss in piece.values()]).sum() for piece in part.losses(inputs)
        ]
        eager = float(torch.stack(losses).mean().detach())
        del losses
        captured = float(trainer.replay([0], lambda seed: inputs)["total_loss"])
        seconds = timed(lambda _: trainer.replay([0], lambda seed: inputs), REPEATS, device)
    return {
        "ms": round(1e3 * seconds["median"], 2),
        "loss": round(captured, 6),
        "eager loss": round(eager, 6),
        "reserved GB": round(torch.cuda.max_memory_reserved() / 1e9, 2) if CUDA else None,
    }


def profiled() -> Facts:
    """Kernel by kernel, a rollout of two steps."""
    agent = random_paper_agent()
    start = start_of(agent, BATCH)
    for form in FORMS[:2]:
        engine = engine_of_form(agent, BFLOAT16, form)
        engine.imagine(start, 2, 1)
        found = operations_of(partial(engine.imagine, start, 2, 2), DEVICE)
        yield f"{form}: kernels of two steps", {name: found.get(name) for name in ("seconds", "calls")}
        for one in found.get("largest", []):
            each = f"{1e6 * one['seconds'] / one['calls']:.2f} us each"
            yield (
                f"{form}: {one['name'][:80]}",
                f"{1e6 * one['seconds']:.0f} us, {one['calls']} calls, {each}",
            )
        if "error" in found:
            yield form, f"FAILED {found['error']}"


SECTIONS: dict[str, Callable[[], Facts]] = {
    section.__name__: section for section in (chip, exact, tokens, rollouts, parts, training, profiled)
}


def graphs() -> Graphs:
    return CudaGraphs(DEVICE) if CUDA else Uncaptured(DEVICE)


def replayed(body: Callable[[], dict[str, Tensor]], by: Graphs | None = None) -> float:
    """Seconds of a replay of `body`."""
    replay, _ = (by or graphs()).capture(body)
    return float(timed(lambda _: replay(), REPEATS, DEVICE)["median"])


def random_paper_agent() -> Agent:
    torch.manual_seed(0)
    return Agent(resolve(preset_config(PRESET, "Pong")).agent, ACTIONS).to(DEVICE).eval()


def failure(error: Exception) -> str:
    return f"FAILED {type(error).__name__}: {str(error)[:300]}"


def run(name: str, folder: Path) -> bool:
    """Runs a section; whether all of it worked."""
    began, facts = time.monotonic(), dict[str, Any]()

    def say(fact: str, value: Any) -> None:
        facts[fact] = value
        print(f"[{time.monotonic() - began:6.1f} s] {name}: {fact}: {value}", flush=True)
        try:
            write_atomically(folder / f"{name}.json", json.dumps(facts, indent=1, default=str).encode())
        except OSError as error:  # a full disk: what is printed can still be read
            print(f"{name}.json was not written: {error}", flush=True)

    try:
        for fact, value in SECTIONS[name]():
            say(fact, value)
    except Exception as error:  # the other sections may work
        traceback.print_exc()
        say("the rest", failure(error))
    except KeyboardInterrupt:
        say("the rest", "FAILED there was no time left")
    return not any("FAILED" in str(value) for value in facts.values())


def main(arguments: list[str]) -> int:
    unknown = set(arguments[1:]) - set(SECTIONS)
    if not arguments or unknown:
        print(f"usage: python -m benchmarks.first_contact FOLDER [{' | '.join(SECTIONS)}] …", file=sys.stderr)
        return 2
    worked = [run(name, Path(arguments[0])) for name in arguments[1:] or SECTIONS]
    return 0 if all(worked) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
