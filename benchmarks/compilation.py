"""Launches kernels as far as a machine without a GPU can: everything but the run.

`python -m benchmarks.compilation ARCHITECTURE [OPERATION …]` makes the launches of the operations' specifications in
a process without the interpreter, for a GPU of that architecture that is not there. Triton then does what it does at
a real launch: it derives types, turns numbers that are 1 into constants (which the interpreter does not), marks
multiples of 16, and compiles for the sizes that the launcher chose for that GPU. Prints JSON: what each kernel uses.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import iris_fast.kernels
from iris_fast.kernels import SPECS

ARCHITECTURES = (80, 90, 100)
SMALL_SHARED_MEMORY = (89, 120)
MULTIPROCESSORS = {80: 108, 89: 128, 90: 132, 100: 148, 120: 170}
SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
"""Shared memory that one block may have, in bytes (CUDA C++ Programming Guide, "Technical Specifications")."""


@dataclass(frozen=True)
class Compiled:
    """A kernel as a launch chose it: registers a thread, bytes of shared memory, bytes spilled and of the stack.

    A `hot` one is for a size that matters, and spills at most `allowed` bytes.
    """

    kernel: str
    launch: str
    architecture: int
    hot: bool
    allowed: int
    registers: int
    shared: int
    spilled: int
    stack: int


def compiled_operations() -> list[str]:
    """The operations that have launchers."""
    return [name for name, spec in SPECS.items() if spec.launches is not None]


@contextmanager
def absent_gpu(architecture: int, compiled: list[Any]) -> Iterator[None]:
    """CPU tensors say that they are on a GPU of this architecture; launches compile, and run nothing.

    `compiled` gets Triton's kernels, each once.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    class AbsentDriver:
        get_current_device = staticmethod(lambda: architecture)  # by which Triton keeps what it has compiled
        get_current_stream = staticmethod(lambda device=0: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", architecture, 32))

    def launch(kernel: Any, grid: Any) -> Callable[..., None]:
        def compile_alone(*arguments: Any, **options: Any) -> None:
            found = kernel.run(*arguments, grid=grid, warmup=True, **options)
            if not any(found is one for one in compiled):
                compiled.append(found)

        return compile_alone

    modules = [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(iris_fast.kernels.__path__, "iris_fast.kernels.")
    ]
    properties = {
        "num_multiprocessors": MULTIPROCESSORS[architecture],
        "large_shared_memory": architecture not in SMALL_SHARED_MEMORY,
    }
    with ExitStack() as stack:
        for module in modules:
            for name, value in properties.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, lambda _, value=value: value))
        for place, there in (("is_cuda", True), ("is_cpu", False)):
            stack.enter_context(mock.patch.object(torch.Tensor, place, there))
        capability = divmod(architecture, 10)
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", lambda _=None: capability))
        stack.enter_context(mock.patch.object(JITFunction, "__getitem__", launch))
        driver.set_active(AbsentDriver())  # type: ignore[arg-type]
        yield


def compile_operation(operation: str, architecture: int, hot: bool) -> list[Compiled]:
    """What the operation's launches compile to, with `hot` those of sizes that matter alone."""
    launches = SPECS[operation].launches
    if launches is None:
        raise ValueError(
            f"{operation} has no launches: operations that have are {', '.join(compiled_operations())}"
        )
    kernels: list[Any] = []
    found: list[Compiled] = []
    with absent_gpu(architecture, kernels):
        for launch in launches(architecture):
            if hot and not launch.hot:
                continue
            try:
                launch.call()
                for kernel in kernels[len(found) :]:
                    usage = _usage(kernel.asm["ptx"], architecture)
                    own = {"kernel": kernel.metadata.name, "shared": kernel.metadata.shared}
                    of_launch = {"launch": launch.what, "hot": launch.hot, "allowed": launch.spills}
                    found.append(Compiled(architecture=architecture, **(own | of_launch | usage)))
            except Exception as error:
                raise RuntimeError(f"{operation}, launch {launch.what}: {str(error)[-1500:]}") from error
    return found


def _usage(ptx: str, architecture: int) -> dict[str, int]:
    """Registers, stack and spills as ptxas reports them."""
    found = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    target = found.group(1) if found else f"sm_{architecture}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        for assembler in _assemblers():
            command = [str(assembler), "-v", f"--gpu-name={target}", "-o", f"{path}.cubin", str(path)]
            result = subprocess.run(command, capture_output=True, text=True)
            if "Unsupported .version" not in result.stderr:
                break
    if result.returncode:
        raise RuntimeError(f"ptxas failed: {result.stderr}")
    spills = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr
    )
    registers = re.search(r"Used (\d+) registers", result.stderr)
    if spills is None or registers is None:
        raise RuntimeError(f"ptxas reported no usage: {result.stderr}")
    stack, stores, loads = (int(number) for number in spills.groups())
    return {"registers": int(registers.group(1)), "stack": stack, "spilled": stores + loads}


def _assemblers() -> list[Path]:
    """Triton's assemblers, the newest first; Triton versions differ in which one they use."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return [path for path in (folder / "ptxas-blackwell", folder / "ptxas") if path.exists()]


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def compile_in_process(operation: str, architecture: int, hot: bool = False) -> list[Compiled]:
    """`compile_operation` in a process without the interpreter: Triton decides at import whether it interprets.

    One process serves all calls: it imports PyTorch and Triton once.
    """
    with mock.patch.dict(os.environ):
        os.environ.pop("TRITON_INTERPRET", None)
        return _process().submit(compile_operation, operation, architecture, hot).result()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compilation", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "architecture", type=int, choices=list(MULTIPROCESSORS), help="90 for an H100 or H200"
    )
    parser.add_argument("operations", nargs="*", default=compiled_operations(), help="all without names")
    parser.add_argument("--hot", action="store_true", help="launches at sizes that matter alone")
    given = parser.parse_args(argv)
    found = [
        asdict(compiled)
        for operation in given.operations
        for compiled in compile_operation(operation, given.architecture, given.hot)
    ]
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
