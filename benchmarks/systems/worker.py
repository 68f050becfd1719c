"""The process of one system: reads calls from its standard input, answers on its standard output."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .interface import System


def make_system(kind: str, device: torch.device, checkout: Path | None) -> System:
    """The system of a kind: one of `OurSystem.KINDS`, `public`, `simulusion` or `processes`."""
    if kind == "public":
        from .public import PublicSystem

        assert checkout is not None
        return PublicSystem(checkout, device)
    if kind == "simulusion":
        from .simulusion import SimulusionSystem

        return SimulusionSystem(device)  # type: ignore[return-value]  # of another model no losses are asked
    if kind == "processes":
        from .processes import ProcessSteps

        return ProcessSteps()  # type: ignore[return-value]  # it is compared with itself
    from .ours import OurSystem

    if kind not in OurSystem.KINDS:
        raise ValueError(f"there is no system '{kind}'")
    return OurSystem(kind, device)


def to_cpu(value: Any) -> Any:
    """The same with every tensor in it on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_cpu(item) for item in value)
    return value


def exactly(on: bool) -> bool:
    """Convolutions of float32 on a GPU exact, or in TF32 as PyTorch comes; returns whether they were in TF32."""
    before: bool = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = not on
    return before


def serve(system: System, calls: BinaryIO, answers: BinaryIO) -> None:
    """Answers calls (method, arguments) until the input ends: ("ok", result) or ("error", text)."""
    while True:
        try:
            method, arguments = pickle.load(calls)
        except EOFError:
            return
        try:
            target = exactly if method == "exactly" else getattr(system, method)
            answer = ("ok", to_cpu(target(*arguments) if callable(target) else target))
        except Exception:  # the whole error goes to the caller
            answer = ("error", traceback.format_exc())
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems.worker")
    parser.add_argument("kind")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--reference", type=Path)
    arguments = parser.parse_args()
    # Output of other code must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(arguments.threads)
    system = make_system(arguments.kind, torch.device(arguments.device), arguments.reference)
    pickle.dump(("ok", None), answers)
    answers.flush()
    serve(system, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
