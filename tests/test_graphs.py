"""The capture of a CUDA graph: the order of calls, on a recording stand-in for CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.graphs import CudaGraphs, Uncaptured, fill


class Notes:
    """What was called, and on which stream the function to be captured ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[str] = []
        self.stream = "default"
        self.streams = 0

        def new_stream() -> Notes.Stream:
            self.streams += 1
            return Notes.Stream(self, f"side {self.streams}")

        for name, value in {
            "Stream": new_stream,
            "current_stream": lambda: Notes.Stream(self, self.stream),
            "stream": self.on,
            "graph": self.capturing,
            "device": lambda device: self.on(None),
            "graph_pool_handle": lambda: "pool",
            "empty_cache": lambda: self.calls.append("empty cache"),
            "CUDAGraph": lambda: Notes.Graph(self),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    class Stream:
        def __init__(self, notes: Notes, name: str):
            self.notes, self.name = notes, name

        def wait_stream(self, other: Notes.Stream) -> None:
            self.notes.calls.append(f"{self.name} waits for {other.name}")

    class Graph:
        def __init__(self, notes: Notes):
            self.notes = notes

        def replay(self) -> None:
            self.notes.calls.append("replay")

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        before, self.stream = self.stream, self.stream if stream is None else stream.name
        yield
        self.stream = before

    @contextmanager
    def capturing(self, graph: Any, *, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        self.calls.append(f"begin with {pool}, {capture_error_mode}")
        with self.on(stream):
            yield
        self.calls.append("end")

    def run(self) -> dict[str, Tensor]:
        self.calls.append(f"run on {self.stream}")
        return {"x": torch.ones(())}


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    return Notes(monkeypatch)


CAPTURE = [
    *("side 1 waits for default", "run on side 1", "run on side 1", "default waits for side 1"),
    *("empty cache", "begin with pool, thread_local", "run on side 1", "end"),
]


def test_warm_up_and_capture_have_one_stream_and_all_graphs_one_pool(notes: Notes) -> None:
    graphs = CudaGraphs(torch.device("cuda"))
    replay, outputs = graphs.capture(notes.run)
    assert notes.calls == CAPTURE and outputs["x"] == 1
    replay()
    assert notes.calls[-1] == "replay"
    notes.calls.clear()
    graphs.capture(notes.run)
    assert notes.calls == CAPTURE


def test_advice_about_what_is_meant_is_left_out_and_other_warnings_are_not(notes: Notes) -> None:
    def advised() -> dict[str, Tensor]:
        warnings.warn("This instance was constructed with capturable=True or some of all", stacklevel=1)
        warnings.warn("RNN module weights are not part of single contiguous chunk of memory", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        return {}

    with pytest.warns(UserWarning) as found:
        CudaGraphs(torch.device("cuda")).capture(advised)
    assert {str(warning.message) for warning in found} == {"something else"}


def test_a_capture_that_fails_says_what_runs_without_one(notes: Notes) -> None:
    def fails() -> dict[str, Tensor]:
        raise RuntimeError("operation not permitted")

    sentence = r"common\.engine=oracle training\.cuda_graphs=false \(operation not permitted\)"
    with pytest.raises(RuntimeError, match=sentence):
        CudaGraphs(torch.device("cuda")).capture(fails)


def test_a_device_without_graphs_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a CUDA device, not cpu"):
        CudaGraphs(torch.device("cpu"))


def test_uncaptured_repeats_into_the_same_memory() -> None:
    count = torch.zeros(())
    repeat, outputs = Uncaptured(torch.device("cpu")).capture(lambda: {"count": count.add_(1).clone()})
    held = outputs["count"]
    repeat()
    assert held == 2 and outputs["count"] is held


@pytest.mark.parametrize("value", [0, 2**63 - 1, 2**64 - 1])
def test_a_seed_keeps_its_64_bits(value: int) -> None:
    assert int(fill(torch.zeros((), dtype=torch.int64), value)) % 2**64 == value
