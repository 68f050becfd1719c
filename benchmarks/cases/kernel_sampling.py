"""Draws from logits, and from a linear layer: ours beside PyTorch's and FlashInfer's ways of drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled
from benchmarks.peers import FLASHINFER, Unavailable, available, brief
from benchmarks.registry import case
from benchmarks.side_by_side import timed_facts
from benchmarks.timing import Timing, copy_bandwidth, matrix_rate, ratio_interval, time_sides
from iris_fast.kernels import linear_sample, philox_uniform, sample_categorical

ROWS, CLASSES = (1, 64, 1024, 16384), (3, 512, 8192, 50257)
LAYERS = ((64, 512, 256), (1024, 512, 256), (16384, 512, 256), (64, 8192, 256))  # rows, classes, dim
LARGEST_ON_CPU = 1024 * 512  # of classes in all; beyond, a truncated draw takes seconds there
COMPILED_ON_CPU = [(64, 512), (1024, 512)]  # each takes seconds
DRAWS = 512  # of a peer, whose distribution is looked at
STRAY = 2.8  # of Kolmogorov's statistic times the root of the draws: 3 of 10 million right ways of drawing exceed it
TRUNCATION: dict[str, Any] = {"top_k": 50, "top_p": 0.9}
ROUNDING = 3e-7  # of a running sum of probabilities in float32
UNSURE = 1e-5  # from top-p: whether float32 keeps another class is then a matter of its rounding
Draw = Callable[[Tensor], Tensor]


def multinomial(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def categorical(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits, validate_args=False).sample()


def exponential_race(logits: Tensor) -> Tensor:
    """The first of exponential clocks that run at the rates p."""
    probabilities = logits.softmax(-1)
    return (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)


def peers(device: torch.device, compile_it: bool) -> tuple[dict[str, Draw], dict[str, Draw], dict[str, str]]:
    """Ways of drawing that a CUDA graph can hold, those that it cannot, why others are absent.

    PyTorch's wait for the device; FlashInfer's read the state of PyTorch's generator on the host.
    """

    def raced() -> Draw:
        if not compile_it:
            raise Unavailable("compiled for some sizes alone")
        return compiled(exponential_race, device)

    def from_probabilities() -> Draw:
        draw = FLASHINFER.load().sampling.sampling_from_probs
        return lambda logits: draw(logits.softmax(-1))

    captured, absent = available(
        {
            "exponential race": lambda: exponential_race,
            "exponential race, torch.compile": raced,
        }
    )
    others, more_absent = available(
        {
            "flashinfer, logits": lambda: FLASHINFER.load().sampling.sampling_from_logits,
            "flashinfer, softmax and probabilities": from_probabilities,
        }
    )
    others |= {"torch.multinomial": multinomial, "torch.distributions": categorical}
    return captured, others, absent | more_absent


def whole(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (rows, classes) in float64, and which rows are sure: all."""
    return logits.double().softmax(-1), torch.ones(len(logits), dtype=torch.bool, device=logits.device)


def truncated(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (rows, classes) in float64 after `TRUNCATION`, by sorting, and which rows are sure.

    First the top-k of largest logit, then of these the most probable up to and with the one by which their mass
    reaches top-p of the whole; each with all that tie with its last one, as `sample_categorical` documents. Where a
    mass is within float32's rounding of top-p it may keep a class more or less, and the row is not sure.
    """
    x = logits.double()
    if TRUNCATION["top_k"] < x.shape[1]:
        x = x.masked_fill(x < x.topk(TRUNCATION["top_k"]).values[:, -1:], float("-inf"))
    falling = x.sort(dim=-1, descending=True).values
    before = falling.softmax(-1).cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0.0  # the mass of those that are more probable
    last = (before < TRUNCATION["top_p"]).sum(-1, keepdim=True) - 1
    kept = x.masked_fill(x < falling.gather(-1, last), float("-inf")).softmax(-1)
    return kept, (before - TRUNCATION["top_p"]).abs().amin(-1) > UNSURE


def disagreement(
    tokens: Tensor,
    logits: Tensor,
    seed: Tensor,
    distribution: Callable[[Tensor], tuple[Tensor, Tensor]] = whole,
) -> str | None:
    """What is wrong with our tokens for float32 logits (rows, classes), beside float64's distribution, in pieces."""
    uniform = philox_uniform(seed, torch.arange(len(logits), device=logits.device), 0, 0).double()[:, None]
    for start in range(0, len(logits), 1024):
        rows = slice(start, start + 1024)
        probabilities, sure = distribution(logits[rows])
        if bool((sure & (probabilities.gather(-1, tokens[rows, None])[:, 0] == 0)).any()):
            return f"a token of rows {start} and on is of a class that is left out"
        boundaries = probabilities.cumsum(-1)
        exact = torch.searchsorted(boundaries, uniform[rows], right=True).clamp(max=logits.shape[1] - 1)
        wrong = sure & (exact[:, 0] != tokens[rows])
        gap = (boundaries.gather(-1, torch.minimum(exact, tokens[rows, None])) - uniform[rows]).abs()[:, 0]
        if bool((wrong & (gap > ROUNDING)).any()):
            return f"a token of rows {start} and on differs, {float(gap[wrong].max()):.2g} from a boundary"
    return None


def strays(draw: Callable[[], Tensor], logits: Tensor) -> str | None:
    """What is wrong with a peer's draws from softmax(logits), whose random numbers are its own; None if nothing.

    With the classes of a row in the order of their probabilities, a number drawn uniformly within the share of the
    token is itself uniform in [0, 1) if tokens have their probabilities. Kolmogorov's statistic says how far it is
    from that.
    """
    logits = logits[:DRAWS]
    probabilities, classes = logits.double().softmax(-1).sort(dim=-1, descending=True)
    upper, places = probabilities.cumsum(-1), classes.argsort(-1)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(-(-DRAWS // len(logits))):
        tokens = draw()[: len(logits)].long()
        if bool(((tokens < 0) | (tokens >= logits.shape[1])).any()):
            return "it draws classes that there are not: not timed"
        place = places.gather(-1, tokens[:, None])
        within = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device)
        found.append(upper.gather(-1, place) - within * probabilities.gather(-1, place))
    uniform = torch.cat(found).flatten().sort().values.cpu()
    steps = torch.arange(len(uniform) + 1, dtype=torch.float64) / len(uniform)
    statistic = torch.maximum(uniform - steps[:-1], steps[1:] - uniform).max() * len(uniform) ** 0.5
    if statistic > STRAY:
        return f"its draws stray from the distribution (Kolmogorov's statistic {float(statistic):.2g}): not timed"
    return None


def right_ones(
    draws: dict[str, Callable[[], Tensor]], logits: Tensor
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """The ways of drawing that draw from the distribution, and why the others are not timed."""
    refused = {}
    for name, draw in draws.items():
        try:
            why = strays(draw, logits)
        except Exception as failure:  # a peer that does not run here costs its own row alone
            why = f"failed: {brief(failure)}"
        if why is not None:
            refused[name] = why
    return {name: draw for name, draw in draws.items() if name not in refused}, refused


def timed(
    sides: dict[str, Callable[[], Any]], device: torch.device, rounds: int, graphs: bool
) -> dict[str, Timing]:
    return time_sides(sides, device, rounds=rounds, seconds_a_round=0.004, graphs=graphs)


def summaries(times: dict[str, Timing]) -> dict[str, dict[str, float]]:
    return {name: timing.summary() for name, timing in times.items()}


def speedups(times: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """Of ours over each side that is not itself, or does more, in ours."""
    others = [name for name in times if not name.startswith("ours")]
    return {name: ratio_interval(times[name].seconds, times["ours"].seconds) for name in others}


def wrong_draws(draw: Callable[..., Any], logits: Tensor, seed: Tensor) -> str | None:
    """What is wrong with ours in one of its ways, each beside float64's distribution; None if nothing."""
    tokens, info = draw(), draw(return_info=True)
    if why := disagreement(tokens, logits, seed):
        return why
    if not bool((info.tokens == tokens).all()):
        return "tokens with info are others than without"
    exact = logits.double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    if not bool(((info.log_probs - exact).abs() < 1e-4).all()):
        return "log-probabilities are others than float64's"
    why = disagreement(draw(**TRUNCATION), logits, seed, truncated)
    return why and f"with top-k and top-p {why}"


def measure(
    rows: int,
    classes: int,
    device: torch.device,
    ceilings: tuple[float, float],
    rounds: int,
    compile_it: bool,
) -> dict[str, Any]:
    """Medians of one size, after our tokens were compared with the float64 distribution, and peers' draws too.

    `ceilings`: bytes and operations a second.
    """
    logits = 3 * torch.randn(rows, classes, device=device)
    seed = torch.zeros((), dtype=torch.int64, device=device)
    place = torch.zeros((), dtype=torch.int64, device=device)

    def ours(**options: Any) -> Any:
        return sample_categorical(logits, seed=seed, position=place, purpose=0, **options)

    found: dict[str, Any] = {
        "rows": rows,
        "classes": classes,
        "bytes": logits.nbytes,
        "flops": 2 * logits.numel(),
    }
    if why := wrong_draws(ours, logits, seed):
        return found | {"error": f"{why}: not timed"}
    captured, waiting, absent = peers(device, compile_it)
    sides: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "ours, with info": lambda: ours(return_info=True),
        "ours, top-k 50 and top-p 0.9": lambda: ours(**TRUNCATION),
    }
    graphed, refused = right_ones(bound(captured, logits), logits)
    plain, more_refused = right_ones(bound(waiting, logits), logits)
    times = timed(sides | graphed, device, rounds, graphs=True)
    without = timed({"ours": ours} | plain, device, rounds, graphs=False)
    found |= timed_facts(times, found, *ceilings) | {"speedup_over": speedups(times)}
    found |= {"seconds_without_graphs": summaries(without), "speedup_over_without_graphs": speedups(without)}
    found |= {"absent": absent, "not_timed": refused | more_refused}
    return found


def bound(draws: dict[str, Draw], logits: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {name: lambda draw=draw: draw(logits) for name, draw in draws.items()}


def measure_layer(
    rows: int, classes: int, dim: int, device: torch.device, bandwidth: float, rate: float, rounds: int
) -> dict[str, Any]:
    """A linear layer with its draw, in bfloat16 on a GPU: as one operation, and as two."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(rows, dim, device=device, dtype=dtype)
    weight = torch.randn(classes, dim, device=device, dtype=dtype) / dim**0.5
    bias = torch.zeros(classes, device=device, dtype=dtype)
    seed = torch.zeros((), dtype=torch.int64, device=device)
    place = torch.zeros((), dtype=torch.int64, device=device)
    address: dict[str, Any] = {"seed": seed, "position": place, "purpose": 0}
    bytes_moved, flops = x.nbytes + weight.nbytes + bias.nbytes + 8 * rows, 2 * rows * classes * dim
    found: dict[str, Any] = {
        "rows": rows,
        "classes": classes,
        "dim": dim,
        "bytes": bytes_moved,
        "flops": flops,
    }
    exact = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    tokens = linear_sample(x, weight, bias, **address)
    unequal = (tokens != sample_categorical(exact, **address)).double().mean().item()
    if unequal > max(0.01, 1.5 / rows):
        return found | {
            "error": f"{unequal:.2%} of the tokens differ from those of float32 logits: not timed"
        }
    linear = torch.nn.functional.linear
    sides, found["not_timed"] = right_ones(
        {
            "linear, then our draw": lambda: sample_categorical(linear(x, weight, bias), **address),
            "linear, then exponential race": lambda: exponential_race(linear(x, weight, bias)),
        },
        exact,
    )
    ours = {"ours": lambda: linear_sample(x, weight, bias, **address)}
    times = timed(ours | sides, device, rounds, graphs=True)
    found |= timed_facts(times, found, bandwidth, rate) | {"speedup_over": speedups(times)}
    found["share_of_floor"] = max(bytes_moved / bandwidth, flops / rate) / times["ours"].median
    return found


@case("kernel_sampling", minutes=0.35, default=True)
def kernel_sampling(quick: bool) -> dict[str, Any]:
    """One draw a row over rows and classes, and a linear layer with its draw; beside PyTorch and FlashInfer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    bandwidth = copy_bandwidth(device, 16 if quick else 512)
    rate = matrix_rate(device, torch.bfloat16 if on_gpu else torch.float32, 512 if quick else None)
    rounds = 3 if quick else 7
    sizes = [(rows, classes) for rows in ROWS for classes in CLASSES]
    sizes = [size for size in sizes if on_gpu or size[0] * size[1] <= LARGEST_ON_CPU]
    if quick:
        sizes = [(1, 8192), (64, 512)]
    compile_at = [] if quick else sizes if on_gpu else COMPILED_ON_CPU
    layers = LAYERS[:1] if quick else LAYERS
    return {
        "device": device.type,
        "copy_bandwidth": bandwidth,
        "matrix_rate": rate,
        "draws": [measure(*size, device, (bandwidth, rate), rounds, size in compile_at) for size in sizes],
        "layers": [measure_layer(*layer, device, bandwidth, rate, rounds) for layer in layers],
    }
