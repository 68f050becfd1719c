"""Logs of a run's metrics: JSON lines always, TensorBoard by default, Weights & Biases on request."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsFloat

from iris_fast.errors import UserError
from iris_fast.files import write_atomically
from iris_fast.kernels.common.arguments import with_checked_types

from .metrics_file import METRICS_FILE, parse_lines, read_metrics

__all__ = ["METRICS_FILE", "MetricLogger", "read_metrics"]

TENSORBOARD_FOLDER = Path("logs") / "tensorboard"
WANDB_ID_FILE = Path("logs") / "wandb_id.txt"
RESERVED = ("time", "epoch", "env_steps")


class MetricLogger:
    """Writes the metrics of a run, epoch by epoch.

    Each call of `log` adds a line to `RUN/logs/metrics.jsonl` and the same numbers to `RUN/logs/tensorboard/`, with
    the epoch as step; with `wandb` they also go to Weights & Biases. Cannot be copied or pickled (TypeError), since
    two would write to one file.

    Args:
        run_dir: the run folder; `logs/` is made in it.
        tensorboard: whether to write TensorBoard events.
        wandb: arguments of `wandb.init` (`project`, `entity`, `name`, `mode`, ...; those that are None are
            left out), or None for no Weights & Biases. A run resumed here is resumed there.
        run_config: the run's configuration as plain data, shown by Weights & Biases.

    Raises:
        UserError: Weights & Biases was requested and is not installed, or does not start.
        OSError: the disk is full, for example; metrics.jsonl keeps no partial line.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        run_config: Mapping[str, Any],
    ):
        self.run_dir = Path(run_dir)
        self._path = self.run_dir / METRICS_FILE
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._wandb_run = None if wandb is None else _start_wandb(self.run_dir, wandb, run_config)
        self._with_tensorboard = tensorboard
        self._tensorboard: Any = None
        self._purge_step: int | None = None
        _drop_torn_line(self._path)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"the logs of {self.run_dir} have one writer: a MetricLogger cannot be copied or pickled"
        )

    @with_checked_types
    def log(self, metrics: Mapping[str, SupportsFloat], *, epoch: int, env_steps: int) -> None:
        """Records `metrics` (flat names such as `tokenizer/train/total_loss`) at the end of `epoch`.

        Values are Python or NumPy numbers or tensors of one element; `env_steps` counts the steps
        taken so far in the training environment. Raises ValueError for the name of a fixed field (`time`, `epoch`,
        `env_steps`), and OSError when the disk is full.
        """
        clash = [name for name in metrics if name in RESERVED]
        if clash:
            raise ValueError(f"a metric cannot be called {clash[0]!r}: every line already has that field")
        values = {name: _plain_number(value) for name, value in metrics.items()}
        self._append({"time": time.time(), "epoch": epoch, "env_steps": env_steps} | values)
        if self._with_tensorboard:
            writer = self._tensorboard_writer()
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)
            writer.add_scalar("env_steps", env_steps, epoch)
            writer.flush()  # the writer works in a thread: only a flush brings its errors here
        if self._wandb_run is not None:
            self._wandb_run.log({"epoch": epoch, "env_steps": env_steps} | values)

    @with_checked_types
    def truncate_after(self, epoch: int) -> None:
        """Drops everything logged after `epoch`, for a run that resumes from that epoch's checkpoint.

        The lines after it are dropped (the file is replaced atomically) and TensorBoard hides its points
        from `epoch + 1` on. Weights & Biases cannot drop points; there the repeated epochs appear twice.
        """
        kept = [line for line, record in parse_lines(self._path) if record["epoch"] <= epoch]
        write_atomically(self._path, b"".join(line + b"\n" for line in kept))
        self._close_tensorboard()
        self._purge_step = epoch + 1

    def close(self) -> None:
        """Closes every log; safe to call twice."""
        self._close_tensorboard()
        wandb_run, self._wandb_run = self._wandb_run, None
        if wandb_run is not None:
            with suppress(OSError):
                wandb_run.finish()

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps({name: _json_value(value) for name, value in record.items()}, allow_nan=False)
        rest = line.encode() + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            size_before = os.fstat(file.fileno()).st_size
            try:
                while rest:  # a nearly full disk accepts part of the line before it refuses the rest
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(size_before)
                raise

    def _tensorboard_writer(self) -> Any:
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.run_dir / TENSORBOARD_FOLDER
            self._tensorboard = SummaryWriter(str(folder), purge_step=self._purge_step)
        return self._tensorboard

    def _close_tensorboard(self) -> None:
        writer, self._tensorboard = self._tensorboard, None
        if writer is not None:
            with suppress(OSError):  # closing writes the rest; `log` has already reported a full disk
                writer.close()


class SilentLogger(MetricLogger):
    """Writes nothing: the logger of all but the first of several processes."""

    def __init__(self) -> None:
        pass

    def log(self, metrics: Mapping[str, SupportsFloat], *, epoch: int, env_steps: int) -> None:
        pass

    def truncate_after(self, epoch: int) -> None:
        pass

    def close(self) -> None:
        pass


def _drop_torn_line(path: Path) -> None:
    """Removes a killed run's partial last line, to which a resumed run would append its first line."""
    data = path.read_bytes() if path.is_file() else b""
    if data and not data.endswith(b"\n"):
        write_atomically(path, b"".join(line + b"\n" for line, _ in parse_lines(path)))


def _plain_number(value: SupportsFloat) -> float | int:
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else float(number)


def _json_value(value: float | int) -> float | int | str:
    return value if math.isfinite(value) else str(float(value))


def _start_wandb(run_dir: Path, settings: Mapping[str, Any], run_config: Mapping[str, Any]) -> Any:
    """Starts (or resumes: the run's id is kept in the run folder) a run of Weights & Biases."""
    try:
        import wandb
    except ImportError:
        raise UserError(
            "wandb is not installed: pip install 'iris_fast[wandb]', or run without --wandb"
        ) from None
    id_file = run_dir / WANDB_ID_FILE
    arguments = {name: value for name, value in settings.items() if value is not None}
    if id_file.is_file():
        arguments["id"] = id_file.read_text().strip()
    try:
        run = wandb.init(dir=str(run_dir), config=dict(run_config), resume="allow", **arguments)
    except wandb.Error as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"Weights & Biases did not start ({reason}): run `wandb login`, or train without --wandb"
        ) from None
    write_atomically(id_file, f"{run.id}\n".encode())
    # Epochs are the horizontal axis there too; the library's own step counter would not survive a resume.
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run
