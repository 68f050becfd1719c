"""One agent trained by several processes: the rows of a batch that each has, and what they tell each other.

`torchrun --nproc-per-node N -m iris_fast.train …` starts N processes. Each has the whole replay and all weights,
draws the whole batch, and computes its share of the rows: of frames, of segments, of rollouts. The mean of the
processes' losses is the loss of the whole batch, and the mean of their gradients that batch's gradient. The first
process alone plays, evaluates, writes and speaks.

A gradient step has one collective, on one flat tensor of gradients and losses. On a GPU it runs between two captured
graphs, one up to the gradients and one from clipping on: a collective inside a capture could neither end when a
process is lost nor be left out while steps are timed. This has not run on a GPU.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from iris_fast.command_line import last_words
from iris_fast.errors import RunStopped, UserError
from iris_fast.models.cpu_training import rows_of
from iris_fast.randomness import derive_seed

JOIN_LIMIT = timedelta(minutes=10)  # for all processes to start
STEP_LIMIT = timedelta(minutes=10)  # for the others to come to the same collective of a gradient step
NO_LIMIT = timedelta(days=30)  # while the first process plays, evaluates or saves; its end is noticed at once
LAST_WORDS = timedelta(seconds=20)  # for the first process to say why the run ends

Made = TypeVar("Made")


class LostProcess(RunStopped):
    """Another process of the run ended, or did not answer in time."""


class Group:
    """The processes that train one agent, as one of them sees them; this class is a process that trains alone.

    Alone, every method is the identity. `rank` counts from 0, the first process; `size` is their number.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process plays, writes and speaks."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This process's rows of `count`, which the number of processes divides."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process where the run is to use `chosen`."""
        return chosen

    def dropout(self, seed: int, device: torch.device) -> AbstractContextManager[object]:
        """A block of forward passes, whose dropout belongs to this process's rows."""
        return nullcontext()

    def add_up(self, flat: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place."""
        return flat

    def mean(self, number: Tensor) -> Tensor:
        """The mean of a number over all processes; no gradient flows through it."""
        return number

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return number

    def from_first(self, make: Callable[[], Made]) -> Made:
        """What `make` gives in the first process, for all of them, which wait for it as long as it takes.

        If it refuses or stops there, every process raises that error.
        """
        return make()

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Gives `tensors` the values that they have in the first process."""


ALONE = Group()


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """The numbers of all tensors, in order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def laid_out(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `flattened`: new tensors of the shapes and memory formats of `like`."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [torch.empty_like(to).copy_(part.view_as(to)) for part, to in zip(parts, like, strict=True)]


class Joined(Group):
    """A process among several. A collective that another process does not come to raises LostProcess."""

    def __init__(self, rank: int, size: int, store: dist.Store):
        self.rank, self.size = rank, size
        self._store = store
        with _lost():
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
            self._waiting = dist.new_group(backend="gloo", timeout=NO_LIMIT)
            self._steps = dist.new_group(backend="gloo", timeout=STEP_LIMIT)
            self._gradients = self._steps

    def device(self, chosen: torch.device) -> torch.device:
        """A GPU for each process of this machine; UserError if there are too few, or if one was named."""
        if chosen.type != "cuda":
            return chosen
        here, started = int(os.environ.get("LOCAL_RANK", self.rank)), os.environ.get("LOCAL_WORLD_SIZE")
        started_here, present = int(started or self.size), torch.cuda.device_count()
        if chosen.index is not None:
            raise UserError(
                f"--device {chosen} is one GPU, and {started_here} processes want one each: use --device cuda, and "
                "choose GPUs by the variable CUDA_VISIBLE_DEVICES"
            )
        if started_here > present:
            raise UserError(
                f"{started_here} processes were started on a machine with {_counted(present, 'GPU')}: use "
                f"--nproc-per-node {present}, or --device cpu"
            )
        device = torch.device("cuda", here)
        torch.cuda.set_device(device)
        self._gradients = dist.new_group(backend="nccl", timeout=STEP_LIMIT)
        return device

    def dropout(self, seed: int, device: torch.device) -> AbstractContextManager[object]:
        """On a CPU the masks are those of the whole batch, so they do not depend on the number of processes.

        On a GPU, whose fused attention draws in its kernel, each process draws its own from `seed` and its rank: the
        distribution is the same, the draws are not.
        """
        if device.type == "cpu":
            return _whole_batch_draws(self)
        torch.manual_seed(derive_seed(seed, "dropout", self.rank))
        return nullcontext()

    def add_up(self, flat: Tensor) -> Tensor:
        with _lost():
            dist.all_reduce(flat, group=self._gradients)
        return flat

    def mean(self, number: Tensor) -> Tensor:
        total = number.detach().clone()
        with _lost():
            dist.all_reduce(total, group=self._gradients)
        return total / self.size

    def largest(self, number: int) -> int:
        # On the host, so that the processes agree without waiting for their GPUs.
        found = torch.tensor(number)
        with _lost():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._steps)
        return int(found)

    def from_first(self, make: Callable[[], Made]) -> Made:
        sent: list[Any] = [None, None]
        if self.first:
            try:
                sent[0] = make()
            except (UserError, RunStopped, OSError) as error:
                sent[1] = error
        with _lost():
            dist.broadcast_object_list(sent, src=0, group=self._waiting)
        if sent[1] is not None:
            raise sent[1]
        made: Made = sent[0]
        return made

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        there = self.from_first(lambda: [tensor.detach().cpu() for tensor in tensors])
        if not self.first:
            for tensor, value in zip(tensors, there, strict=True):
                tensor.detach().copy_(value)

    def last_words(self) -> bool:
        """Whether this process is the one to say why the run ends; the others first wait for the first one's end."""
        if not self.first:
            for number in (signal.SIGINT, signal.SIGTERM):  # torchrun's, as soon as one process has ended
                signal.signal(number, signal.SIG_IGN)
            with suppress(RuntimeError):  # the connection, which ends with that process
                dist.irecv(torch.zeros(1), src=0, group=self._waiting).wait(LAST_WORDS)  # type: ignore[union-attr]
        try:
            return self._store.add("iris_fast/said", 1) == 1
        except RuntimeError:  # the store was the first process's
            return True


@contextmanager
def _whole_batch_draws(group: Group) -> Iterator[None]:
    """A block whose masks of dropout are those of this process's rows in the whole batch."""
    with _WholeBatchDraws(group), rows_of(group.rank):
        yield


class _WholeBatchDraws(TorchDispatchMode):
    """Each mask of dropout is drawn for the rows of all processes, of which this process keeps its own.

    PyTorch draws a mask in row-major order, so these are the masks that one process would draw. Only the innermost
    operation, `bernoulli_`, is replaced, so every kind of dropout on a CPU is covered, that of attention too.
    """

    def __init__(self, group: Group):
        super().__init__()
        self.group = group

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten.bernoulli_.float:
            return func(*args, **kwargs)
        own: Tensor = args[0]
        count = self.group.size * own.shape[0]
        whole = torch.empty_strided((count, *own.shape[1:]), own.stride(), dtype=own.dtype)
        func(whole, *args[1:], **kwargs)
        return own.copy_(whole[self.group.rows(count)])


@contextmanager
def _lost() -> Iterator[None]:
    """Turns a collective's error into LostProcess."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess("another process of this run ended or does not answer") from error


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


@contextmanager
def joined_processes() -> Iterator[Group]:
    """The processes that torchrun, or another launcher that sets its variables, has started with this one.

    When the block ends with an error, one process says why, and the others end silently.
    """
    announced = os.environ.get("WORLD_SIZE") or "1"
    if announced == "1":
        yield ALONE
        return
    group = _joined(announced)
    try:
        yield group
    except (Exception, KeyboardInterrupt) as error:
        if group.last_words():
            raise
        sys.exit(last_words(error)[1])
    dist.destroy_process_group()


def _joined(announced: str) -> Joined:
    """This process among the `announced` number; UserError if it cannot be one of them, or if not all come."""
    if not dist.is_available():
        raise UserError("this build of PyTorch has no torch.distributed: start one process, without torchrun")
    start = "start them with torchrun, or unset WORLD_SIZE"
    try:
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=JOIN_LIMIT)))
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"WORLD_SIZE={announced} announces several processes, but {reason}: {start}"
        ) from None
    except RuntimeError:
        raise UserError(
            f"WORLD_SIZE={announced} announces several processes, but not all came to {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {JOIN_LIMIT.total_seconds():g} s: {start}"
        ) from None
    return Joined(rank, size, store)
