"""What `sample_categorical` and `linear_sample` are timed beside, and how draws are held to their distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Function
from benchmarks.peers import FLASHINFER
from iris_fast.kernels import philox_uniform, sample_categorical
from iris_fast.kernels.common.spec import Problem
from iris_fast.kernels.sample_categorical import TRUNCATION

from .table import Check, Comparison

DRAWS = 512  # of a peer, whose distribution is looked at
STRAY = 2.8  # of Kolmogorov's statistic times the root of the draws: 3 of 10 million right ways of drawing exceed it
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


def beside_draws(problem: Problem, compile_it: bool) -> Comparison:
    """With other ways of drawing; ours is held to float64's distribution, the others' draws to it as a whole."""
    logits, seed = problem.inputs["logits"], problem.inputs["seed"]
    ours = problem.ours["ours"]

    def check(side: str) -> Check:
        if side == "ours":
            return lambda _: wrong_draws(ours, logits, seed)
        return (lambda _: None) if side.startswith("ours") else lambda draw: strays(draw, logits)

    raced = replace(problem, plain=exponential_race, bind=lambda function: partial(function, logits))
    return Comparison(raced, compile_it, "exponential race", uncaptured=peers(logits), checks=check)


def beside_layer(problem: Problem, compile_it: bool) -> Comparison:
    """With an exponential race after the layer; ours is held to the draw from float32 logits."""
    names = ("x", "weight", "bias", "seed", "position", "purpose")
    x, weight, bias, *place = (problem.inputs[name] for name in names)
    linear = torch.nn.functional.linear
    exact = linear(x.float(), weight.float(), bias.float())

    def unequal(side: Function) -> str | None:
        expected = sample_categorical(exact, **dict(zip(names[3:], place, strict=True)))
        share = (side() != expected).double().mean().item()
        if share <= max(0.01, 1.5 / len(x)):
            return None
        return f"{share:.2%} of the tokens differ from those of float32 logits: not timed"

    return Comparison(
        problem,
        others={"linear, then exponential race": lambda: lambda: exponential_race(linear(x, weight, bias))},
        checks=lambda side: unequal if side == "ours" else lambda draw: strays(draw, exact),
    )
