"""Aggregates over games with stratified bootstrap intervals, by `rliable`; profiles; probability of improvement.

Every game weighs the same. `rliable` needs the same number of runs for every game. Where a game has fewer, each of
its runs stands several times in the matrix (up to the least common multiple of the numbers), which changes no
aggregate. A resample still draws only as many runs of a game as there are. Resampling a single run would always
give that run, so there is no interval where a game has one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iris_fast.errors import UserError

from .scores import Method

Floats: TypeAlias = NDArray[np.float64]
Tick: TypeAlias = Callable[[], object]

CONFIDENCE = 0.95
AGGREGATES = ("mean", "median", "IQM", "optimality gap")
TAUS = np.linspace(0.0, 4.0, 161)
LARGEST_MULTIPLE = 2520  # of 1 to 10 runs


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, which is None where a game has one run."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Profile:
    """The share of runs whose score is above each of `TAUS`, with a pointwise band."""

    shares: Floats
    band: Floats | None


def rliable() -> Any:
    """The modules of rliable that are needed; UserError where the extra is not installed."""
    try:
        from rliable import library, metrics
    except Exception as error:  # its dependency `arch` raises other errors than ImportError beside pandas 3
        raise UserError(
            "results need rliable beside pandas 2 "
            f"({type(error).__name__}: {error}): run `pip install 'iris_fast[results]'`"
        ) from None
    return library, metrics


def statistics(
    method: Method, reps: int, seed: int, tick: Tick = lambda: None
) -> tuple[dict[str, Estimate], Profile]:
    """Mean and median over games of the mean over runs; IQM and optimality gap over all runs; the profile.

    `tick` is called for each of the `reps` resamples.
    """
    _, metrics = rliable()
    functions = (
        metrics.aggregate_mean,
        metrics.aggregate_median,
        metrics.aggregate_iqm,
        metrics.aggregate_optimality_gap,
    )

    def compute(scores: Floats) -> Floats:
        tick()
        above = 1 - np.searchsorted(np.sort(scores, axis=None), TAUS, side="right") / scores.size
        return np.array([*(function(scores) for function in functions), *above])

    values, ends = _estimate(method, compute, reps, seed)
    found = {
        name: Estimate(float(values[i]), None if ends is None else (float(ends[0, i]), float(ends[1, i])))
        for i, name in enumerate(AGGREGATES)
    }
    count = len(AGGREGATES)
    return found, Profile(values[count:], None if ends is None else ends[:, count:])


def superhuman(method: Method) -> int:
    """The number of games with a mean score of at least the human's, up to rounding of the sum."""
    return sum(bool(np.mean(method.normalized(game)) >= 1 - 1e-9) for game in method.scores)


def improvement(x: Method, y: Method, reps: int, seed: int) -> Estimate:
    """The probability that a run of `x` beats one of `y` on a game of both; a tie counts half.

    The same as rliable's, which takes minutes because it tests each game of each resample by itself. Here a resample
    is the number of times that each run was drawn.
    """
    games = [game for game in x.scores if game in y.scores]
    if not games:
        raise UserError(f"{x.name} and {y.name} have no game in common: name methods that have one")
    values, resampled = [], np.zeros(reps)
    rng = np.random.default_rng(seed)
    for game in games:
        ours, theirs = (np.array(method.scores[game])[:, None] for method in (x, y))
        wins = (ours > theirs.T) + 0.5 * (ours == theirs.T)
        values.append(wins.mean())
        drawn = [rng.multinomial(n, np.full(n, 1 / n), size=reps) / n for n in wins.shape]
        resampled += ((drawn[0] @ wins) * drawn[1]).sum(axis=1) / len(games)
    if min(x.on(games).fewest_runs, y.on(games).fewest_runs) < 2:
        return Estimate(float(np.mean(values)), None)
    low, high = np.quantile(resampled, _quantiles())
    return Estimate(float(np.mean(values)), (float(low), float(high)))


def _quantiles() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def score_matrix(method: Method) -> Floats:
    """Normalised scores, a row a run and a column a game, runs of games that have fewer repeated."""
    scores = [method.normalized(game) for game in method.scores]
    rows = math.lcm(*(len(runs) for runs in scores))
    if rows > max(LARGEST_MULTIPLE, method.fewest_runs):
        counts = sorted({len(runs) for runs in scores})
        raise UserError(
            f"{method.name}: games have {', '.join(map(str, counts))} runs, too different to weigh every "
            "game alike: give the same number of runs of each game"
        )
    return np.array([np.tile(runs, rows // len(runs)) for runs in scores]).T


def _estimate(
    method: Method, compute: Callable[[Floats], Floats], reps: int, seed: int
) -> tuple[Floats, Floats | None]:
    """`compute` of the scores, and the ends of its percentile interval (None where a game has one run)."""
    library, _ = rliable()
    matrix = score_matrix(method)
    if method.fewest_runs < 2:
        return compute(matrix), None
    counts = [len(runs) for runs in method.scores.values()]
    bootstrap = _bootstrap(library, matrix, counts, np.random.default_rng(seed))
    return compute(matrix), np.asarray(
        bootstrap.conf_int(compute, reps=reps, method="percentile", size=CONFIDENCE)
    )


def _bootstrap(library: Any, matrix: Floats, counts: Sequence[int], rng: np.random.Generator) -> Any:
    class Bootstrap(library.StratifiedBootstrap):  # type: ignore[misc, name-defined]
        """rliable's, with draws of our own: its own come from NumPy's global generator, whatever seed it is given,
        and take all rows of a game for runs."""

        def update_indices(self) -> tuple[Any, ...]:
            rows = len(matrix)
            drawn = [np.tile(rng.integers(n, size=n), rows // n) for n in counts]
            return (np.array(drawn).T, *self._strata_indices)

    return Bootstrap(matrix)
