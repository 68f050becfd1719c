"""The calculated and recorded memory of the paper preset fits on the GPUs it should fit on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import Record
from iris_fast.config import preset_config
from iris_fast.config.schema import memory_bytes

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu" / "memory.json"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_paper_preset_needs_at_most_12_gigabytes(precision: str) -> None:
    found = Record.read(RECORD).result.facts
    data = preset_config("paper", "Pong").datasets.train
    assert found["reconstruction_cache_limit"] == memory_bytes(
        data.cache_max_ram_usage, "cache_max_ram_usage"
    )
    peaks = found[precision]["peaks"]
    assert set(peaks) == {"capturing", "tokenizer", "world_model", "actor_critic", "evaluating"}
    assert max(peaks.values()) <= 12e9
