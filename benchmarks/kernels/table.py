"""Problems of the operations' specifications, timed beside plain PyTorch and other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.harness import Function, Machine, Work, dtype_name, largest_error, time_right_ones
from benchmarks.peers import COMPILED, available, compiled
from benchmarks.record import Ratio, Result, Size
from benchmarks.timing import Timing
from iris_fast.kernels.common.spec import OpSpec, Problem

Check = Callable[[Function], str | None]
WITHOUT_GRAPHS = " without CUDA graphs"


@dataclass(frozen=True)
class Comparison:
    """The sides of a problem: ours, plain PyTorch, and others.

    compile_it: whether plain PyTorch is timed compiled too. plain_name: what it is called in results.
    others: what makes the sides of other packages, which may be absent; those of `uncaptured` ask the host for
        decisions, so they are timed beside ours in a table without CUDA graphs.
    checks: by side what its outputs are held to, where that is not what the problem expects.
    ratios: how sides are compared, where not each with the first.
    """

    problem: Problem
    compile_it: bool = False
    plain_name: str = "pytorch"
    others: dict[str, Callable[[], Function]] = field(default_factory=dict)
    uncaptured: dict[str, Callable[[], Function]] = field(default_factory=dict)
    checks: Callable[[str], Check] | None = None
    ratios: Callable[[Mapping[str, Timing]], dict[str, Ratio]] | None = None

    def check(self) -> Callable[[str], Check]:
        """For each side a check of its outputs, which returns the error or None."""
        if self.checks is not None:
            return self.checks
        assert self.problem.expected is not None
        expected = self.problem.expected()

        def compare(function: Function) -> str | None:
            error = largest_error(self.problem.compared(function()), expected)
            return None if error <= self.problem.tolerance else f"its output is off by {error:.2g}: not timed"

        return lambda _: compare

    def sides(self, device: torch.device) -> tuple[dict[str, Function], dict[str, str]]:
        """Those that a CUDA graph can hold, by name, and why others are absent."""
        sides = dict(self.problem.ours)
        makers = dict(self.others)
        if self.problem.plain is not None:
            plain, bind = self.problem.plain, self.problem.bind
            sides[self.plain_name] = bind(plain)
            if self.compile_it:
                name = COMPILED if self.plain_name == "pytorch" else f"{self.plain_name}, {COMPILED}"
                makers = {name: lambda: bind(compiled(plain, device))} | makers
        found, absent = available(makers)
        return sides | found, absent

    def measured(self, machine: Machine, table: str) -> list[Size]:
        """Its sizes: one, or two if some sides cannot be captured."""
        check = self.check()
        sides, absent = self.sides(machine.device)
        checks = {side: check(side) for side in sides}
        captured = self._timed(machine, table, sides, checks, absent, graphs=True)
        if not self.uncaptured or captured.missing:
            return [captured]
        found, absent = available(self.uncaptured)
        first = next(iter(sides))
        checks = {side: check(side) for side in found}
        beside = {first: sides[first]} | found
        return [captured, self._timed(machine, table + WITHOUT_GRAPHS, beside, checks, absent, graphs=False)]

    def _timed(
        self,
        machine: Machine,
        table: str,
        sides: dict[str, Function],
        checks: dict[str, Check],
        absent: dict[str, str],
        graphs: bool,
    ) -> Size:
        one = self.problem
        work = Work(one.flops, one.bytes, dtype_name(one.dtype))
        return time_right_ones(
            machine, one.what, work, sides, checks, graphs, self.ratios, table=table, absent=absent
        )


Beside = Callable[[Problem, bool], Comparison]
"""Gives a problem, and whether plain PyTorch is compiled, its peers."""


def measured(
    machine: Machine,
    quick: bool,
    sizes: list[dict[str, Any]],
    compare: Callable[..., Comparison],
    sweep: Callable[[Machine], list[Size]] | None = None,
) -> Result:
    """A result with each size of a comparison, and on a GPU of a sweep; nothing is compiled with `quick`."""
    found: list[Size] = []
    for size in sizes:
        made = compare(machine.device, **size)
        found += (replace(made, compile_it=False) if quick else made).measured(machine, "sizes")
    if sweep is not None and machine.cuda and not quick:
        found += sweep(machine)
    return Result(found, machine.ceilings())


def compared(spec: OpSpec, beside: Beside = Comparison) -> Callable[..., Comparison]:
    """From a device and a size of its benchmark the comparison of an operation."""
    benchmark = spec.benchmark
    assert benchmark is not None

    def compare(device: torch.device, compile_it: bool = False, **size: Any) -> Comparison:
        return beside(benchmark.problem(device, **size), compile_it)

    return compare
