"""The benchmark description of an operation: relevant sizes, sides, floor, and its row in the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.harness import Function, Machine, Output, Work, largest_error, time_right_ones
from benchmarks.peers import COMPILED, available, compiled
from benchmarks.record import Label, Ratio, Result, Size
from benchmarks.timing import Timing

Sizes = list[dict[str, Any]]
Check = Callable[[Function], str | None]
WITHOUT_GRAPHS = " without CUDA graphs"


@dataclass(frozen=True)
class Problem:
    """One operation at one size, with its inputs.

    what, work: its label, and the bytes and operations that it takes at the least.
    ours: our sides; the first is what the operation does by itself.
    plain: a function of PyTorch alone, and `bind`, which gives it the inputs; timed as `plain_name`, and compiled
        too where `compile_it`.
    others: what makes the sides of other packages, which may be absent; those of `uncaptured` ask the host for
        decisions, so they are timed beside ours in a table without CUDA graphs.
    expected, tolerance: makes what outputs are compared with, and how far off they may be, as a share of its largest
        number. `compared`: what of an output is compared. `checks` stands for all that in other ways.
    ratios: how sides are compared, where not each with the first.
    """

    what: dict[str, Label]
    work: Work
    ours: dict[str, Function]
    plain: Callable[..., Any] | None = None
    bind: Callable[[Callable[..., Any]], Function] = lambda function: function
    compile_it: bool = False
    plain_name: str = "pytorch"
    others: dict[str, Callable[[], Function]] = field(default_factory=dict)
    uncaptured: dict[str, Callable[[], Function]] = field(default_factory=dict)
    expected: Callable[[], Output] | None = None
    tolerance: float = 0.0
    compared: Callable[[Any], Output] = lambda found: found
    checks: Callable[[str], Check] | None = None
    ratios: Callable[[Mapping[str, Timing]], dict[str, Ratio]] | None = None

    def check(self) -> Callable[[str], Check]:
        """For each side a check of its outputs, which returns the error or None."""
        if self.checks is not None:
            return self.checks
        assert self.expected is not None
        expected = self.expected()

        def compare(function: Function) -> str | None:
            error = largest_error(self.compared(function()), expected)
            return None if error <= self.tolerance else f"its output is off by {error:.2g}: not timed"

        return lambda _: compare

    def sides(self, device: torch.device) -> tuple[dict[str, Function], dict[str, str]]:
        """The sides that a CUDA graph can capture, by name, and why others are absent."""
        sides = dict(self.ours)
        makers = dict(self.others)
        if self.plain is not None:
            plain = self.plain
            sides[self.plain_name] = self.bind(plain)
            if self.compile_it:
                name = COMPILED if self.plain_name == "pytorch" else f"{self.plain_name}, {COMPILED}"
                makers = {name: lambda: self.bind(compiled(plain, device))} | makers
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
        return time_right_ones(
            machine, self.what, self.work, sides, checks, graphs, self.ratios, table=table, absent=absent
        )


@dataclass(frozen=True)
class Row:
    """An operation's row in `kernels/README.md`; see `benchmarks.report.kernels`.

    cpu, gpu: the label of the size whose time is shown. words: how that size is written, from its label.
    ours: the side that is shown, the first of these that was timed.
    """

    shapes: str
    limits: str
    cpu: dict[str, Label]
    gpu: dict[str, Label]
    words: str
    ours: tuple[str, ...] = ("ours",)


@dataclass(frozen=True)
class Operation:
    """One operation of `iris_fast.kernels`.

    sizes: from `(cuda, quick)` the arguments of `problem` at the sizes that matter.
    problem: makes a problem on a device.
    typical: the arguments at a size of an imagined step of the paper's agent at batch 64, for micro-benchmarks.
    minutes: what its case takes on two CPU cores. about: what its case compares, in a line.
    own_on_cpu: whether it has code of its own on a CPU; elsewhere it is its plain PyTorch there.
    """

    name: str
    about: str
    minutes: float
    sizes: Callable[[bool, bool], Sizes]
    problem: Callable[..., Problem]
    typical: dict[str, Any]
    row: Row
    own_on_cpu: bool = False
    sweep: Callable[[Machine], list[Size]] | None = None

    @property
    def case(self) -> str:
        return f"kernel_{self.name}"

    def measure(self, machine: Machine, quick: bool) -> Result:
        """Compares and times every size. With `quick` nothing is compiled."""
        return measured(machine, quick, self.sizes(machine.cuda, quick), self.problem, self.sweep)


def measured(
    machine: Machine,
    quick: bool,
    sizes: Sizes,
    problem: Callable[..., Problem],
    sweep: Callable[[Machine], list[Size]] | None = None,
) -> Result:
    """A result with each size of a problem and, on a GPU, of a sweep."""
    found: list[Size] = []
    for size in sizes:
        made = problem(machine.device, **size)
        found += (replace(made, compile_it=False) if quick else made).measured(machine, "sizes")
    if sweep is not None and machine.cuda and not quick:
        found += sweep(machine)
    return Result(found, machine.ceilings())


def with_gradients(function: Callable[..., Any], leaves: list[torch.Tensor], grad: torch.Tensor) -> Function:
    """A side that returns the result of `function(*leaves)` and its gradients with respect to the leaves."""
    leaves = [leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_() for leaf in leaves]

    def side() -> list[torch.Tensor]:
        with torch.enable_grad():
            y = function(*leaves)
            return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return side
