from __future__ import annotations

import json
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iris_fast.errors import UserError
from iris_fast.training.loggers import METRICS_FILE, TENSORBOARD_FOLDER, MetricLogger, read_metrics


def make_logger(run_dir: Path, **settings: Any) -> MetricLogger:
    arguments: dict[str, Any] = {"tensorboard": False, "run_config": {"seed": 1}}
    return MetricLogger(run_dir, **(arguments | settings))


def log_epochs(logger: MetricLogger, first: int, last: int, offset: float = 0.0) -> None:
    for epoch in range(first, last + 1):
        logger.log({"tokenizer/train/total_loss": epoch + offset}, epoch=epoch, env_steps=200 * epoch)


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_a_line_per_call_that_any_json_reader_accepts(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    values = {"a/nan": math.nan, "a/inf": math.inf, "a/minus": -math.inf, "a/int": 3, "a/third": 1 / 3}
    logger.log(values, epoch=1, env_steps=200)
    logger.log({"a/tensor": torch.tensor(0.5), "a/numpy": np.float32(0.25)}, epoch=2, env_steps=400)
    # Before close: a killed process loses nothing that was logged.
    lines = [json.loads(line, parse_constant=no_constants) for line in (tmp_path / METRICS_FILE).open()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert list(lines[0])[:3] == ["time", "epoch", "env_steps"]
    assert lines[0]["a/nan"] == "nan"

    first, second = read_metrics(tmp_path)
    assert math.isnan(first["a/nan"])
    assert (first["a/inf"], first["a/minus"]) == (math.inf, -math.inf)
    assert (first["a/int"], first["a/third"], first["env_steps"]) == (3, 1 / 3, 200)
    assert (second["a/tensor"], second["a/numpy"]) == (0.5, 0.25)
    assert second["time"] >= first["time"] > 1.6e9
    logger.close()
    logger.close()


def test_a_metric_cannot_take_the_name_of_a_field(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'epoch'"):
        make_logger(tmp_path).log({"epoch": 1.0}, epoch=1, env_steps=0)
    assert read_metrics(tmp_path) == []


def test_truncation_drops_later_epochs_and_keeps_the_others_byte_for_byte(tmp_path: Path) -> None:
    log_epochs(make_logger(tmp_path), 1, 6)
    lines = (tmp_path / METRICS_FILE).read_bytes().splitlines(keepends=True)
    resumed = make_logger(tmp_path)
    resumed.truncate_after(4)
    assert (tmp_path / METRICS_FILE).read_bytes() == b"".join(lines[:4])
    log_epochs(resumed, 5, 6, offset=0.5)
    losses = [record["tokenizer/train/total_loss"] for record in read_metrics(tmp_path)]
    assert losses == [1, 2, 3, 4, 5.5, 6.5]


def test_a_torn_last_line_is_forgiven(tmp_path: Path) -> None:
    log_epochs(make_logger(tmp_path), 1, 3)
    path = tmp_path / METRICS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time": 1.0, "epo')
    assert [record["epoch"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    log_epochs(make_logger(tmp_path), 4, 4)
    assert path.read_bytes().startswith(whole)
    assert [record["epoch"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    log_epochs(make_logger(tmp_path), 1, 2)
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    log_epochs(make_logger(tmp_path), 3, 3)
    assert [record["epoch"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_broken_line_within_the_file_is_named(tmp_path: Path) -> None:
    log_epochs(make_logger(tmp_path), 1, 3)
    path = tmp_path / METRICS_FILE
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "rubbish", lines[2]]) + "\n")
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl"):
        read_metrics(tmp_path)


def test_nothing_logged_reads_as_nothing(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    make_logger(tmp_path).truncate_after(0)
    assert read_metrics(tmp_path) == []


# A limit on the size of files stands for a full disk: the line that crosses it is written in part.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from iris_fast.training.loggers import METRICS_FILE, MetricLogger, read_metrics
run, tensorboard, limit = Path(sys.argv[1]), sys.argv[2] == "tensorboard", int(sys.argv[3])
logger = MetricLogger(run, tensorboard=tensorboard, run_config={})
logger.log({"a": 1.0}, epoch=1, env_steps=0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    logger.log({f"a/{i}": float(i) for i in range(9)}, epoch=2, env_steps=0)
except OSError as error:
    print("OSError", error.errno, len(read_metrics(run)), (run / METRICS_FILE).read_bytes()[-1:])
"""


@pytest.mark.parametrize(("kind", "limit", "lines"), [("json", 100, 1), ("tensorboard", 400, 2)])
def test_a_full_disk_raises_and_leaves_no_torn_line(
    tmp_path: Path, kind: str, limit: int, lines: int
) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), kind, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("OSError 27"), done.stderr
    assert done.stdout.split() == ["OSError", "27", str(lines), "b'\\n'"]


def test_tensorboard_hides_the_epochs_done_again(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = make_logger(tmp_path, tensorboard=True)
    log_epochs(logger, 1, 6)
    logger.close()
    resumed = make_logger(tmp_path, tensorboard=True)
    resumed.truncate_after(4)
    log_epochs(resumed, 5, 5, offset=0.5)
    resumed.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER)).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("tokenizer/train/total_loss")]
    assert scalars == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5.5)]
    assert [event.value for event in events.Scalars("env_steps")] == [200, 400, 600, 800, 1000]


class FakeWandb(types.ModuleType):
    """Stands for the wandb package: remembers what it is told."""

    class Error(Exception):
        pass

    def __init__(self, failure: str | None = None):
        super().__init__("wandb")
        self.failure = failure
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> FakeWandb:
        if self.failure is not None:
            raise self.Error(self.failure)
        self.inits.append(arguments)
        self.id = arguments.get("id", "abc123")
        return self

    def define_metric(self, *names: str, **settings: str) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_the_metrics_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for epoch in (1, 2):
        logger = make_logger(tmp_path, wandb={"project": "iris", "entity": None})
        logger.log({"a": 0.5}, epoch=epoch, env_steps=7)
        logger.close()
        logger.close()
    assert wandb.logged == [{"epoch": epoch, "env_steps": 7, "a": 0.5} for epoch in (1, 2)]
    assert wandb.finished == 2
    assert wandb.inits[0]["config"] == {"seed": 1}
    assert wandb.inits[0]["project"] == "iris"
    assert "entity" not in wandb.inits[0]
    assert "id" not in wandb.inits[0]
    assert wandb.inits[1]["id"] == "abc123"


def test_wandb_missing_or_refusing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'iris_fast\[wandb\]'"):
        make_logger(tmp_path, wandb={})
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(failure="api_key not configured\nmore"))
    with pytest.raises(UserError, match=r"\(api_key not configured\): run `wandb login`"):
        make_logger(tmp_path, wandb={})
