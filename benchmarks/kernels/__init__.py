"""The operations of `iris_fast.kernels`, each timed as its specification says beside the peers named here."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness import Machine
from benchmarks.record import Result, Size
from iris_fast.kernels import SPECS
from iris_fast.kernels.common.spec import Benchmark, OpSpec

from . import attention, quantizer, sampling
from .table import Beside, Comparison, compared, measured

# Where an operation has peers besides plain PyTorch.
PEERS: dict[str, Beside] = {
    "vq_lookup": quantizer.beside_lookup,
    "vq_statistics": quantizer.beside_statistics,
    "cached_attention": attention.beside_attention,
    "sample_categorical": sampling.beside_draws,
    "linear_sample": sampling.beside_layer,
}
SWEEPS: dict[str, Callable[[Machine], list[Size]]] = {"vq_lookup": quantizer.sweep}


def timed_operations() -> dict[str, tuple[OpSpec, Benchmark]]:
    """The operations that are timed, by name, in the order of the README."""
    return {name: (spec, spec.benchmark) for name, spec in SPECS.items() if spec.benchmark is not None}


def measure(name: str, machine: Machine, quick: bool) -> Result:
    """Every size of an operation, compared and timed."""
    spec, benchmark = timed_operations()[name]
    compare = compared(spec, PEERS.get(name, Comparison))
    return measured(machine, quick, benchmark.sizes(machine.cuda, quick), compare, SWEEPS.get(name))
