"""The capture of a CUDA graph: the order of calls, on a recording stand-in for CUDA."""

from __future__ import annotations

import gc
import warnings
import weakref
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
        self.collecting: list[bool] = []
        self.pools: dict[str, weakref.WeakSet[Notes.Graph]] = {}
        self.used: set[str] = set()
        self.begins = True

        def new_stream() -> Notes.Stream:
            self.streams += 1
            return Notes.Stream(self, f"side {self.streams}")

        for name, value in {
            "Stream": new_stream,
            "current_stream": lambda: Notes.Stream(self, self.stream),
            "stream": self.on,
            "graph": self.capturing,
            "device": lambda device: self.on(None),
            "graph_pool_handle": self.new_pool,
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

    def new_pool(self) -> str:
        self.pools[f"pool {len(self.pools)}"] = weakref.WeakSet()
        return list(self.pools)[-1]

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        before, self.stream = self.stream, self.stream if stream is None else stream.name
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def capturing(self, graph: Any, *, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """As PyTorch: the stream stays current where beginning or ending fails. A pool that graphs have used and
        left takes no other, as if a tensor of each lived for ever.
        """
        self.calls.append(f"begin with {pool}, {capture_error_mode}")
        before, self.stream = self.stream, stream.name
        if not self.begins or (pool in self.used and not self.pools[pool]):
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        self.used.add(pool)
        self.pools[pool].add(graph)
        yield
        self.stream = before
        self.calls.append("end")

    def run(self) -> dict[str, Tensor]:
        self.calls.append(f"run on {self.stream}")
        self.collecting.append(gc.isenabled())
        return {"x": torch.ones(())}


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    return Notes(monkeypatch)


CAPTURE = [
    *("side 1 waits for default", "run on side 1", "run on side 1", "default waits for side 1"),
    *("empty cache", "begin with POOL, thread_local", "run on side 1", "end"),
]


def pools(notes: Notes) -> list[str]:
    """The pools that were captured into, in order."""
    return [call[len("begin with ") : call.index(",")] for call in notes.calls if call.startswith("begin")]


def test_warm_up_and_capture_have_one_stream_and_all_graphs_one_pool(notes: Notes) -> None:
    graphs = CudaGraphs(torch.device("cuda"))
    replay, outputs = graphs.capture(notes.run)
    (pool,) = pools(notes)
    expected = [call.replace("POOL", pool) for call in CAPTURE]
    assert notes.calls == expected and outputs["x"] == 1
    replay()
    assert notes.calls[-1] == "replay"
    notes.calls.clear()
    second, _ = graphs.capture(notes.run)
    assert notes.calls == expected
    del replay
    graphs.capture(notes.run)
    assert pools(notes) == [pool, pool] and second is not None


def test_where_every_graph_of_a_pool_is_gone_the_next_has_another(notes: Notes) -> None:
    """As when the trainers of one run are dropped, or one that was captured loads a checkpoint."""
    graphs = CudaGraphs(torch.device("cuda"))
    for _ in range(3):
        kept = [graphs.capture(notes.run) for _ in range(2)]
        del kept
    used = pools(notes)
    assert len(used) == 6 and len(set(used)) == 3 and used[0] == used[1]


@pytest.mark.parametrize("where", ["begin", "end"])
def test_after_a_capture_that_failed_the_stream_is_the_callers_and_the_next_capture_has_its_own(
    notes: Notes, where: str
) -> None:
    graphs = CudaGraphs(torch.device("cuda"))
    kept = graphs.capture(notes.run)
    first = pools(notes)

    def fails() -> dict[str, Tensor]:
        notes.run()
        if len(notes.collecting) % 3 == 0 and where == "end":
            raise RuntimeError("operation not permitted")
        return {}

    notes.begins = where != "begin"
    with pytest.raises(RuntimeError, match=r"common\.engine=oracle"):
        graphs.capture(fails)
    notes.begins = True
    assert notes.stream == "default" and gc.isenabled() and kept
    notes.calls.clear()
    graphs.capture(notes.run)
    assert set(pools(notes)).isdisjoint(first) and "run on side 2" in notes.calls
    notes.calls.clear()
    graphs.side_by_side([notes.run])
    assert "run on side 3" in notes.calls, "streams of a failed capture are not used again"


def test_functions_side_by_side_have_streams_of_their_own_within_the_capture(notes: Notes) -> None:
    graphs = CudaGraphs(torch.device("cuda"), warm_up=1)

    def both() -> dict[str, Tensor]:
        one, two = graphs.side_by_side([notes.run, notes.run])
        return {"x": one["x"] + two["x"]}

    _, outputs = graphs.capture(both)
    fork = [
        *("side 2 waits for side 1", "run on side 2", "side 3 waits for side 1", "run on side 3"),
        *("side 1 waits for side 2", "side 1 waits for side 3"),
    ]
    (pool,) = pools(notes)
    expected = [call.replace("POOL", pool) for call in CAPTURE if call != "run on side 1"]
    assert notes.calls == [*expected[:1], *fork, *expected[1:4], *fork, *expected[4:]]
    assert outputs["x"] == 2 and notes.stream == "default"


def test_nothing_is_collected_by_itself_within_a_capture(notes: Notes) -> None:
    CudaGraphs(torch.device("cuda")).capture(notes.run)
    assert notes.collecting == [True, True, False] and gc.isenabled()


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
