"""The specification of an operation, read by the tests, compilation, benchmarks and documentation of all operations.

Every file of an operation ends with its `SPEC`; `kernels.SPECS` holds them by name. All but names and texts are
functions, so that a specification costs nothing until something of it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[..., Any]
Sizes = list[dict[str, Any]]


class Numbers:
    """Random tensors on a device; `alike` makes them on the CPU, so that they are the same numbers everywhere."""

    def __init__(self, device: torch.device | str, alike: bool = False):
        self._device = torch.device(device)
        self._generator = torch.Generator("cpu" if alike else self._device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.randn(shape, generator=self._generator, device=self._generator.device)
        return made.to(self._device, dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 below `high`."""
        made = torch.randint(high, shape, generator=self._generator, device=self._generator.device)
        return made.to(self._device)


@dataclass(frozen=True)
class Call:
    """A function of tensors only, and its tensors. `rows`: the dimension of independent rows by a tensor's index."""

    function: Function
    tensors: tuple[Tensor, ...]
    rows: Mapping[int, int]


@dataclass(frozen=True)
class Derivatives:
    """An operation and its usual form in PyTorch: functions of `inputs`, which have gradients, and `others`."""

    ours: Function
    plain: Function
    inputs: tuple[Tensor, ...]
    others: tuple[Tensor, ...] = ()


class Launch(NamedTuple):
    """A call of a launcher, which is to compile for every GPU.

    A `hot` launch has a size that matters: its kernels spill at most `spills` bytes of registers.
    """

    what: str
    call: Callable[[], Any]
    hot: bool = False
    spills: int = 0


@dataclass(frozen=True)
class Problem:
    """An operation at one size, on inputs of its own.

    what: its label in results. flops, bytes: what it takes at the least, products in `dtype`.
    ours: ways of ours to do it; the first is what the operation does by itself.
    plain: a function of PyTorch alone, and `bind`, which gives it the inputs.
    expected: makes what outputs are compared with; `tolerance`: how far off they may be, as a share of its largest
        number; `compared`: what of an output is compared.
    inputs: for peers, by name.
    """

    what: dict[str, Any]
    flops: float
    bytes: float
    ours: dict[str, Function]
    plain: Function | None = None
    bind: Callable[[Function], Function] = lambda function: function
    expected: Callable[[], Tensor | Sequence[Tensor]] | None = None
    tolerance: float = 0.0
    dtype: torch.dtype = torch.float32
    compared: Function = lambda found: found
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """An operation's row in the README.

    cpu, gpu: the label of the size whose time is shown. words: how that size is written, from its label.
    ours: the way of ours that is shown, the first of these that was timed.
    """

    shapes: str
    limits: str
    cpu: dict[str, Any]
    gpu: dict[str, Any]
    words: str
    ours: tuple[str, ...] = ("ours",)


@dataclass(frozen=True)
class Benchmark:
    """The timing of an operation.

    sizes: from `(cuda, quick)` the arguments of `problem` at the sizes that matter, and with `compile_it` whether
        plain PyTorch is timed compiled there too.
    problem: makes a problem on a device.
    typical: the arguments at a size of an imagined step of the paper's agent at batch 64, for micro-benchmarks.
    peers: other packages that are timed beside it. minutes: what that takes on two CPU cores.
    own_on_cpu: whether it has code of its own on a CPU; elsewhere it is its plain PyTorch there.
    """

    sizes: Callable[[bool, bool], Sizes]
    problem: Callable[..., Problem]
    typical: dict[str, Any]
    row: Row
    peers: tuple[str, ...] = ()
    minutes: float = 0.1
    own_on_cpu: bool = False


@dataclass(frozen=True)
class OpSpec:
    """One operation.

    function, reference: the public function, and the same in plain PyTorch.
    calls: small calls on a device by name, which begins with that of a public function of the file.
    arguments: by public function of the file keyword arguments that give every number it takes.
    any_sign: of those numbers the ones that may be negative.
    derivatives: of a differentiable operation.
    launches: of its launchers on an architecture (80, 90, …), all that compiles; the sizes that matter are `hot`.
    about, example: its section in the README; the example is a program.
    """

    function: Function
    calls: Callable[[str], dict[str, Call]]
    arguments: Callable[[], dict[str, dict[str, Any]]]
    reference: Function | None = None
    about: str = ""
    example: str = ""
    launches: Callable[[int], Iterator[Launch]] | None = None
    benchmark: Benchmark | None = None
    derivatives: Callable[[], Derivatives] | None = None
    any_sign: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.function.__name__)


def with_gradients(function: Function, leaves: Sequence[Tensor], grad: Tensor) -> Callable[[], list[Tensor]]:
    """A call that gives the result of `function(*leaves)` and its gradients by the leaves."""
    leaves = [leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_() for leaf in leaves]

    def call() -> list[Tensor]:
        with torch.enable_grad():
            y = function(*leaves)
            return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return call


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
