"""Draws from logits, and from a linear layer: ours beside PyTorch's and FlashInfer's ways of drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Function, Work, dtype_name
from benchmarks.peers import FLASHINFER
from iris_fast.kernels import linear_sample, philox_uniform, sample_categorical

from .table import Check, Operation, Problem, Row, Sizes

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


def draw_sizes(cuda: bool, quick: bool) -> Sizes:
    sizes = [(rows, classes) for rows in ROWS for classes in CLASSES]
    sizes = [size for size in sizes if cuda or size[0] * size[1] <= LARGEST_ON_CPU]
    sizes = [(1, 8192), (64, 512)] if quick else sizes
    return [{"rows": r, "classes": c, "compile_it": cuda or (r, c) in COMPILED_ON_CPU} for r, c in sizes]


def multinomial(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def categorical(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits, validate_args=False).sample()


def exponential_race(logits: Tensor) -> Tensor:
    """The first of exponential clocks that run at the rates p."""
    probabilities = logits.softmax(-1)
    return (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)


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
    """The error of our tokens for float32 logits (rows, classes) against float64's distribution, computed in
    pieces."""
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
    """The error of a peer's draws from softmax(logits) with its random numbers; None if there is none.

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
            return "it draws classes that do not exist: not timed"
        place = places.gather(-1, tokens[:, None])
        within = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device)
        found.append(upper.gather(-1, place) - within * probabilities.gather(-1, place))
    uniform = torch.cat(found).flatten().sort().values.cpu()
    steps = torch.arange(len(uniform) + 1, dtype=torch.float64) / len(uniform)
    statistic = torch.maximum(uniform - steps[:-1], steps[1:] - uniform).max() * len(uniform) ** 0.5
    if statistic > STRAY:
        return f"its draws stray from the distribution (Kolmogorov's statistic {float(statistic):.2g}): not timed"
    return None


def wrong_draws(draw: Callable[..., Any], logits: Tensor, seed: Tensor) -> str | None:
    """The error of one variant of ours against float64's distribution; None if there is none."""
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


def peers(logits: Tensor) -> dict[str, Callable[[], Function]]:
    """What makes ways of drawing that a CUDA graph cannot hold.

    PyTorch's wait for the device; FlashInfer's read the state of PyTorch's generator on the host.
    """

    def of(draw: Draw) -> Callable[[], Function]:
        return lambda: lambda: draw(logits)

    def from_logits() -> Function:
        draw = FLASHINFER.load().sampling.sampling_from_logits
        return lambda: draw(logits)

    def from_probabilities() -> Function:
        draw = FLASHINFER.load().sampling.sampling_from_probs
        return lambda: draw(logits.softmax(-1))

    return {
        "flashinfer, logits": from_logits,
        "flashinfer, softmax and probabilities": from_probabilities,
        "torch.multinomial": of(multinomial),
        "torch.distributions": of(categorical),
    }


def address(device: torch.device) -> dict[str, Any]:
    """Seed, position and purpose of the draws, on the device as an engine has them."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return {"seed": zero, "position": zero.clone(), "purpose": 0}


def draws(device: torch.device, rows: int, classes: int, compile_it: bool = False) -> Problem:
    """One draw a row; each of our draws is checked against float64's distribution, the others' draws as a whole."""
    logits = 3 * torch.randn(rows, classes, device=device)
    where = address(device)

    def ours(**options: Any) -> Any:
        return sample_categorical(logits, **where, **options)

    def check(side: str) -> Check:
        if side == "ours":
            return lambda _: wrong_draws(ours, logits, where["seed"])
        return (lambda _: None) if side.startswith("ours") else lambda draw: strays(draw, logits)

    return Problem(
        {"rows": rows, "classes": classes},
        Work(2 * logits.numel(), logits.nbytes),
        {
            "ours": ours,
            "ours, with info": lambda: ours(return_info=True),
            "ours, top-k 50 and top-p 0.9": lambda: ours(**TRUNCATION),
        },
        exponential_race,
        lambda function: lambda: function(logits),
        compile_it,
        "exponential race",
        uncaptured=peers(logits),
        checks=check,
    )


SAMPLE_CATEGORICAL = Operation(
    "sample_categorical",
    "One draw a row over rows and classes, beside PyTorch's and FlashInfer's ways of drawing.",
    0.3,
    draw_sizes,
    draws,
    {"rows": 64, "classes": 512},
    Row(
        "(…, classes) → (…) int64",
        "1 class at least; no gradient",
        {"rows": 64, "classes": 512},
        {"rows": 64, "classes": 512},
        "{rows} × {classes}",
    ),
    own_on_cpu=True,
)


def layer_sizes(cuda: bool, quick: bool) -> Sizes:
    return [
        {"rows": rows, "classes": classes, "dim": dim}
        for rows, classes, dim in (LAYERS[:1] if quick else LAYERS)
    ]


def layer(device: torch.device, rows: int, classes: int, dim: int, compile_it: bool = False) -> Problem:
    """A linear layer with its draw, in bfloat16 on a GPU: as one operation, and as two."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(rows, dim, device=device, dtype=dtype)
    weight = torch.randn(classes, dim, device=device, dtype=dtype) / dim**0.5
    bias = torch.zeros(classes, device=device, dtype=dtype)
    where = address(device)
    linear = torch.nn.functional.linear
    exact = linear(x.float(), weight.float(), bias.float())

    def unequal(side: Function) -> str | None:
        share = (side() != sample_categorical(exact, **where)).double().mean().item()
        if share <= max(0.01, 1.5 / rows):
            return None
        return f"{share:.2%} of the tokens differ from those of float32 logits: not timed"

    return Problem(
        {"rows": rows, "classes": classes, "dim": dim},
        Work(
            2 * rows * classes * dim,
            x.nbytes + weight.nbytes + bias.nbytes + 8 * rows,
            dtype_name(dtype),
        ),
        {
            "ours": lambda: linear_sample(x, weight, bias, **where),
            "linear, then our draw": lambda: sample_categorical(linear(x, weight, bias), **where),
        },
        others={"linear, then exponential race": lambda: lambda: exponential_race(linear(x, weight, bias))},
        checks=lambda side: unequal if side == "ours" else lambda draw: strays(draw, exact),
    )


LINEAR_SAMPLE = Operation(
    "linear_sample",
    "A linear layer with its draw, as one operation and as two.",
    0.1,
    layer_sizes,
    layer,
    {"rows": 64, "classes": 512, "dim": 256},
    Row(
        "(…, dim), (classes, dim), (classes,) → (…) int64",
        "top-k and top-p up to 512 classes; no gradient",
        {"rows": 64, "classes": 512},
        {"rows": 64, "classes": 512},
        "{rows} × {dim} → {classes}",
    ),
)
