"""Functions of static tensors, captured once as CUDA graphs and replayed with new contents.

A graph repeats the recorded launches on the same memory. So new inputs are copied into the tensors of the capture,
and weights must be updated in place. `Uncaptured` runs the same functions without a graph on any device, for tests
without a GPU. `CudaGraphs` has not yet run on a GPU (docs/design.md).
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Body = Callable[[Any], Tensors]


class Graphs(Protocol):
    """Turns a function without arguments into one that repeats it on the same memory."""

    device: torch.device

    def capture(self, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        """A callable that repeats `function`, and the outputs, which each repetition overwrites."""
        ...

    def side_by_side(self, functions: Sequence[Callable[[], Tensors]]) -> list[Tensors]:
        """What the functions give, none of which needs another's results; for use in a captured function."""
        ...


class _Place:
    """Where graphs are captured: a side stream of the current device, a pool of memory, and the graphs in it."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self._pool: Any = None
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def pool_for(self, graph: torch.cuda.CUDAGraph) -> Any:
        """The pool of the graphs that are left, or a new one where none is."""
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        self._graphs.add(graph)
        return self._pool


class CudaGraphs:
    """CUDA graphs that share one pool of memory, because no two of them run at the same time.

    So graphs overwrite each other's intermediate results, and outputs must be copied before another replay. `warm_up`
    runs come first: they compile kernels, choose algorithms and allocate library memory, which a capture forbids.
    They use the same side stream as the capture, so that cuBLAS has its workspace there, and autograd its gradient
    accumulation nodes; nodes of the default stream would end the capture.

    PyTorch lets nothing be captured into a pool whose graphs are all gone while a tensor of it lives, such as a
    parameter's gradient. So the pool is a new one where none of its graphs is left, and after a capture that failed,
    which leaves pool and stream in a state that nobody promises.
    """

    def __init__(self, device: torch.device, warm_up: int = 2):
        if device.type != "cuda":
            raise ValueError(f"a CUDA graph needs a CUDA device, not {device}")
        self.device = device
        self.warm_up = warm_up
        self._place: _Place | None = None  # none before the first capture, and after one that failed
        self._beside: list[torch.cuda.Stream] = []  # of functions side by side

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[torch.device, int]]:
        """Copies and pickles only the arguments: graphs, pools and streams are useless elsewhere."""
        return CudaGraphs, (self.device, self.warm_up)

    def capture(self, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        try:
            return self._capture(function)
        except RuntimeError as error:
            self._beside = []  # they may still be part of the capture
            raise RuntimeError(
                "a CUDA graph could not be captured: run without graphs, with common.engine=oracle "
                f"training.cuda_graphs=false ({error})"
            ) from error

    def _capture(self, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        with torch.cuda.device(self.device), _without_advice():
            # A graph of gradients that only waits for the collector would keep its nodes, and their stream, in use.
            gc.collect()
            place, self._place = self._place or _Place(), None
            stream = place.stream
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(self.warm_up):
                    function()
            torch.cuda.current_stream().wait_stream(stream)
            gc.collect()
            torch.cuda.empty_cache()  # the graph's pool cannot have what warming up took otherwise
            graph = torch.cuda.CUDAGraph()
            pool = place.pool_for(graph)
            # Only this thread is watched for calls that a capture forbids: loggers have threads of their own. The
            # stream is entered here as well: PyTorch does not leave it where the capture fails to begin or to end.
            capture = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
            with _without_collector(), torch.cuda.stream(stream), capture:
                outputs = function()
        self._place = place
        return graph.replay, outputs

    def side_by_side(self, functions: Sequence[Callable[[], Tensors]]) -> list[Tensors]:
        """Each function has a stream of its own, the same at every call, so that libraries keep their memory there.

        The streams begin where the current one is, and it goes on when all have ended. So a function may take what
        was computed before, and what it gives is ready for what follows.
        """
        here, found = torch.cuda.current_stream(), list[Tensors]()
        while len(self._beside) < len(functions):
            self._beside.append(torch.cuda.Stream())
        for stream, function in zip(self._beside, functions, strict=False):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                found.append(function())
        for stream in self._beside[: len(functions)]:
            here.wait_stream(stream)
        return found


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing is collected by itself: freeing a graph or an event calls the device, which a capture forbids."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silences PyTorch's warnings about two intended things: capturing an optimizer after warm-up, and an LSTM with
    separate weights, as in checkpoints, which are packed at each step.
    """
    with warnings.catch_warnings():
        for message in (".*constructed with capturable=True", ".*not part of single contiguous chunk"):
            warnings.filterwarnings("ignore", message)
        yield


class Uncaptured:
    """`Graphs` without graphs: each repetition runs the function and copies its outputs over the first ones."""

    def __init__(self, device: torch.device):
        self.device = device

    def capture(self, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        outputs = {name: tensor.clone() for name, tensor in function().items()}

        def repeat() -> None:
            for name, tensor in function().items():
                outputs[name].copy_(tensor)

        return repeat, outputs

    def side_by_side(self, functions: Sequence[Callable[[], Tensors]]) -> list[Tensors]:
        return [function() for function in functions]


def graphs_of(device: torch.device) -> Graphs | None:
    """CUDA graphs on a CUDA device, None on other devices."""
    return CudaGraphs(device) if device.type == "cuda" else None


class GraphedCall:
    """`body(inputs)`, captured at the first call and then replayed.

    Inputs are a mapping of tensors and ints, or of mappings and named tuples of them; `body` gets the same structure.
    `body` must work entirely on the device: the host may neither read a number nor branch on one. `preserve` is a
    context that undoes the effect of running `body`; it is entered around warm-up and capture.
    """

    def __init__(
        self,
        body: Body,
        graphs: Graphs,
        preserve: Callable[[], AbstractContextManager[object]] = nullcontext,
    ):
        self.body = body
        self.graphs = graphs
        self.preserve = preserve
        self._inputs: Tensors = {}
        self._outputs: Tensors = {}
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Mapping[str, Any]) -> Tensors:
        """Outputs of `body` for inputs of the first call's names and shapes; valid until the next call.

        Raises ValueError for another name, shape or dtype, because the capture fixes them.
        """
        named = leaves(inputs)
        if self._replay is None:
            self._capture(inputs, named)
        else:
            self._check(named)
            for name, value in named.items():
                fill(self._inputs[name], value)
        assert self._replay is not None
        self._replay()
        return self._outputs

    def _capture(self, inputs: Mapping[str, Any], named: dict[str, Tensor | int]) -> None:
        self._inputs = {name: self._static(value) for name, value in named.items()}
        static = with_leaves(inputs, iter(self._inputs.values()))
        with self.preserve():
            self._replay, self._outputs = self.graphs.capture(lambda: self.body(static))

    def _static(self, value: Tensor | int) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().to(self.graphs.device, copy=True)
        return fill(torch.zeros((), dtype=torch.int64, device=self.graphs.device), value)

    def _check(self, inputs: Mapping[str, Tensor | int]) -> None:
        if inputs.keys() != self._inputs.keys():
            raise ValueError(
                f"captured with inputs {', '.join(self._inputs)}, called with {', '.join(inputs)}"
            )
        for name, value in inputs.items():
            held = self._inputs[name]
            if isinstance(value, Tensor) and (value.shape, value.dtype) != (held.shape, held.dtype):
                raise ValueError(
                    f"{name} was captured as {held.dtype} {tuple(held.shape)}, "
                    f"called with {value.dtype} {tuple(value.shape)}"
                )


def fill(target: Tensor, value: Tensor | int) -> Tensor:
    """Copies `value` into `target` without waiting for the device: a tensor of its shape, or the 64 bits of an
    int."""
    if isinstance(value, Tensor):
        return target.copy_(value, non_blocking=True)
    return target.fill_(value - 2**64 if value >= 2**63 else value)


def leaves(inputs: Any, name: str = "") -> dict[str, Tensor | int]:
    """The leaves of nested mappings and named tuples, in order, by names such as "rollout.actions"."""
    parts = (
        inputs if isinstance(inputs, Mapping) else inputs._asdict() if hasattr(inputs, "_asdict") else None
    )
    if parts is None:
        return {name: inputs}
    prefix = name and f"{name}."
    return {leaf: v for key, part in parts.items() for leaf, v in leaves(part, f"{prefix}{key}").items()}


def with_leaves(inputs: Any, values: Iterator[Tensor]) -> Any:
    """The same structure, with `values` as leaves, in order."""
    if isinstance(inputs, Mapping):
        return {key: with_leaves(part, values) for key, part in inputs.items()}
    if hasattr(inputs, "_asdict"):
        return type(inputs)(*(with_leaves(part, values) for part in inputs))
    return next(values)
