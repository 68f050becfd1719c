"""What is computed of methods together, once, for tables and figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iris_fast.errors import UserError
from iris_fast.training.progress import Bar

from .runs import read_runs
from .scores import NEWER_METHODS, PAPER_METHODS, Method, choose_methods, in_order
from .statistics import Estimate, Profile, improvement, rliable, statistics, superhuman

DEFAULT_METHODS = tuple(dict.fromkeys((*PAPER_METHODS, *NEWER_METHODS)))
DEFAULT_REPS, DEFAULT_SEED, DEFAULT_NAME = 2000, 0, "these runs"


@dataclass(frozen=True)
class Summary:
    """Methods on the same games, with their statistics, each by the method's name.

    `subject`: the method compared with each other one; `improvements`: the probability that it is better.
    """

    methods: list[Method]
    games: list[str]
    subject: str
    aggregates: dict[str, dict[str, Estimate]]
    superhuman: dict[str, int]
    profiles: dict[str, Profile]
    improvements: dict[str, Estimate]
    notes: list[str]


def summarize(
    run_folders: Sequence[Path | str] = (),
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    name: str = DEFAULT_NAME,
    reps: int = DEFAULT_REPS,
    seed: int = DEFAULT_SEED,
    show: bool = True,
) -> Summary:
    """Computes and, with `show`, prints the aggregates of published methods and of the user's runs.

    All methods are taken on the games that the runs have (all 26 without runs). The same seed gives the same
    intervals.

    Raises:
        UserError: the extra `results` is not installed; a folder has no whole evaluation, or was given twice; a
        method is unknown.
    """
    rliable()
    if reps < 1 or seed < 0:
        raise UserError(f"--reps {reps} --seed {seed}: give one resample or more, and a seed from 0 on")
    own, notes = read_runs([Path(folder) for folder in run_folders], name)
    compared = choose_methods(methods)
    if own is not None:
        if name in (method.name for method in compared):
            raise UserError(f"--name {name} is a published method: give another name for your runs")
        compared = [method.on(own.scores) for method in compared] + [own]
    if not compared:
        raise UserError("there is nothing to compare: give runs, or --methods")
    alone = [method.name for method in compared if method.fewest_runs == 1]
    if alone:
        notes.append(f"no interval of {', '.join(alone)}: a game with one run does not show how runs differ")
    names = [method.name for method in compared]
    subject = own.name if own is not None else "IRIS" if "IRIS" in names else names[0]
    result = _compute(compared, subject, reps, seed, notes)
    if show:
        from .tables import aggregates_table

        print("\n".join([*notes, "", aggregates_table(result, "markdown")]), flush=True)
    return result


def _compute(methods: list[Method], subject: str, reps: int, seed: int, notes: list[str]) -> Summary:
    by_name = {method.name: method for method in methods}
    total = sum(reps for method in methods if method.fewest_runs > 1)
    title = ("bootstrap", "bootstrap")
    bar = Bar(sys.stderr, title, total, "resample", lambda: []) if sys.stderr.isatty() else None

    def tick() -> None:
        if bar is not None:
            bar.update(1)

    try:
        found = {method.name: statistics(method, reps, seed, tick) for method in methods}
    finally:
        if bar is not None:
            bar.close()
    return Summary(
        methods,
        in_order(game for method in methods for game in method.scores),
        subject,
        {name: estimates for name, (estimates, _) in found.items()},
        {method.name: superhuman(method) for method in methods},
        {name: profile for name, (_, profile) in found.items()},
        {
            name: improvement(by_name[subject], method, reps, seed)
            for name, method in by_name.items()
            if name != subject
        },
        notes,
    )
