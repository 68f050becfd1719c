"""Compiles Triton kernels ahead of time, without a GPU, and reads their use of registers and memory.

`python -m benchmarks.compilation MODULE ARCHITECTURE` prints JSON for the list `VARIANTS` of a module of
`benchmarks.variants`. It runs in a new process because Triton decides at import whether it interprets.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Shared memory that one block may have, in bytes (CUDA C++ Programming Guide, "Technical Specifications")."""


@dataclass(frozen=True)
class Variant:
    """One kernel with one choice of types and constants.

    `signature` gives the type of each argument by name, as Triton writes them (`*fp32`, `i32`, `constexpr`);
    `divisible` names pointers and integers that are multiples of 16, which Triton finds out at a launch.
    A `hot` variant must not spill. `minimum_architecture` is the first that has the types it needs.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    divisible: tuple[str, ...] = ()
    hot: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    minimum_architecture: int = ARCHITECTURES[0]


@dataclass(frozen=True)
class Compiled:
    """What a variant uses on one architecture: registers a thread, bytes of shared memory, bytes spilled."""

    name: str
    architecture: int
    hot: bool
    registers: int
    shared: int
    spilled: int
    stack: int


def compile_variant(variant: Variant, architecture: int) -> Compiled:
    """Compiles for `sm_<architecture>`; raises what Triton or ptxas raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    missing = [name for name in names if name not in variant.signature and name not in variant.constants]
    if missing:
        raise ValueError(f"variant {variant.name} gives no type for {', '.join(missing)}")
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    signature |= dict.fromkeys(variant.constants, "constexpr")
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible}
    source = ASTSource(variant.kernel, signature, constexprs=dict(variant.constants), attrs=attributes)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, **variant.options}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return Compiled(
        variant.name,
        architecture,
        variant.hot,
        shared=compiled.metadata.shared,
        **_usage(compiled.asm["ptx"], architecture),
    )


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


def variant_modules() -> list[str]:
    """The operations that have variants: the modules of `benchmarks.variants`."""
    return sorted(path.stem for path in (Path(__file__).parent / "variants").glob("[a-z]*.py"))


def compile_in_process(operation: str, architecture: int) -> list[Compiled]:
    """Compiles all variants of an operation in a new process without the interpreter.

    Raises RuntimeError with what that process printed when it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "benchmarks.compilation", operation, str(architecture)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    if result.returncode:
        raise RuntimeError(f"{operation} does not compile for sm_{architecture}:\n{result.stderr[-4000:]}")
    return [Compiled(**entry) for entry in json.loads(result.stdout)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compilation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("operation", choices=variant_modules(), help="whose kernels to compile")
    parser.add_argument("architecture", type=int, help="80, 90 or 100")
    arguments = parser.parse_args(argv)
    variants = importlib.import_module(f"benchmarks.variants.{arguments.operation}").VARIANTS
    found = [
        asdict(compile_variant(variant, arguments.architecture))
        for variant in variants
        if variant.minimum_architecture <= arguments.architecture
    ]
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
