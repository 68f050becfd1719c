"""Starts the systems' processes and calls them in turn, so that only one works at a time."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from iris_fast.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# glibc told to keep large blocks instead of giving them back to the system after each operation.
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "1073741824",
}
LABELS = {
    "ours": "ours",
    "ours_float16_cache": "ours, float16 cache",
    "ours_bf16": "ours, bf16",
    "ours_cached": "ours, with the epoch's cache",
    "pytorch": "plain PyTorch",
    "pytorch_compiled": "plain PyTorch, torch.compile",
    "public": "public",
    "public_tuned": "public, glibc tuned",
    "simulusion": "Simulusion",
    "simulusion_tuned": "Simulusion, glibc tuned",
}


class Worker:
    """A system in its process. If a call fails there, raises RuntimeError with the process's output."""

    def __init__(
        self,
        kind: str,
        device: torch.device,
        threads: int,
        checkout: Path | None = None,
        environment: dict[str, str] | None = None,
    ):
        command = [sys.executable, "-m", "benchmarks.systems.worker", kind, "--threads", str(threads)]
        command += ["--device", str(device)]
        if checkout is not None:
            command += ["--reference", str(checkout.resolve())]
        clean = {name: value for name, value in os.environ.items() if name not in TUNED}
        path = os.pathsep.join(filter(None, [str(ROOT), clean.get("PYTHONPATH", "")]))
        self.kind = kind
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=clean | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)} | (environment or {}),
        )
        self.answer()

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of `method(*arguments)` there, tensors on the CPU; an attribute's value likewise."""
        self.ask(method, *arguments)
        return self.answer()

    def ask(self, method: str, *arguments: Any) -> None:
        """Begins a call, whose result is the next `answer`."""
        assert self._process.stdin is not None
        try:
            pickle.dump((method, arguments), self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the error is at the end of the answer

    def answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            status, value = pickle.load(self._process.stdout)
        except EOFError:
            self._process.wait()
            status, value = "error", f"it ended with code {self._process.returncode}:\n{self._printed()}"
        if status == "error":
            raise RuntimeError(f"the system '{self.kind}' failed: {value}")
        return value

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Systems:
    """The workers of a run by side, ours first; started on first use, ended by `close`."""

    def __init__(
        self,
        device: torch.device,
        threads: int,
        checkout: Path | None,
        peers: tuple[str, ...],
        compiled: bool = False,
    ):
        """`compiled`: whether to add plain PyTorch under `torch.compile`, which takes minutes to compile."""
        self.device, self.threads, self.checkout = device, threads, checkout
        self.peers, self.compiled = peers, compiled
        self._workers: dict[str, Worker] = {}
        if checkout is not None and not (checkout / "src" / "agent.py").is_file():
            raise UserError(
                f"--reference '{checkout}' is not a checkout of eloialonso/iris: it has no src/agent.py"
            )
        for peer in peers:
            if peer != "simulusion":
                raise UserError(f"--peer {peer}: the only peer is simulusion")
            if find_spec(peer) is None:
                raise UserError(
                    "--peer simulusion: it is not installed; pip install --no-deps simulusion einops"
                )

    def sides(self) -> list[str]:
        """The names of the sides, in the order of tables."""
        cpu = self.device.type == "cpu"
        found = ["ours", "ours_float16_cache" if cpu else "ours_bf16", "pytorch"]
        found += ["pytorch_compiled"] if self.compiled else []
        if self.checkout is not None:
            found += ["public", "public_tuned"] if cpu else ["public"]
        # glibc tuned as in our processes, for a fair comparison.
        return found + [f"{peer}_tuned" if cpu else peer for peer in self.peers]

    def worker(self, side: str) -> Worker:
        if side not in self._workers:
            kinds = {"ours": "engine", "ours_float16_cache": "float16", "pytorch": "plain"}
            kinds |= {"ours_bf16": "bf16", "pytorch_compiled": "compiled"}
            kind = kinds.get(side, side.removesuffix("_tuned"))
            checkout = self.checkout if kind == "public" else None
            environment = TUNED if side.endswith("_tuned") else None
            self._workers[side] = self.start(kind, checkout, environment)
        return self._workers[side]

    def start(self, kind: str, checkout: Path | None, environment: dict[str, str] | None) -> Worker:
        """A process with a system of this kind."""
        return Worker(kind, self.device, self.threads, checkout, environment)

    @contextlib.contextmanager
    def exactly(self, side: str) -> Iterator[None]:
        """A block in which a side's GPU convolutions are exact in float32, so that its numbers can be compared.

        Outside, other sides use TF32, PyTorch's default; ours is exact by default, but in bf16.
        """
        if self.device.type != "cuda":
            yield
            return
        worker = self.worker(side)
        worker.call("exactly", True)
        yield
        if not side.startswith(("ours", "pytorch")) or side == "ours_bf16":
            worker.call("exactly", False)

    def close(self) -> None:
        while self._workers:
            self._workers.popitem()[1].close()
