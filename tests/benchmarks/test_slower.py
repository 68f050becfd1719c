"""Where ours is slower: sides of equal work alone, whatever a case calls ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import page as report
from benchmarks.report.slower import slower_rows


def medians(**sides: float) -> dict[str, dict[str, float]]:
    return {side: {"median": seconds, "rounds": 3} for side, seconds in sides.items()}


def rows(name: str, **result: Any) -> list[list[str]]:
    return slower_rows({name: {"result": result}})


def test_sides_that_are_other_models_or_ours_are_left_out_and_so_is_noise() -> None:
    seconds = medians(ours=2.0, ours_float16_cache=0.5, pytorch=1.0, public=1.95, simulusion=0.1)
    agreement = {side: {"same_model": side != "simulusion"} for side in seconds}
    sizes = [{"batch": 4, "flops": 7, "seconds": seconds}, {"batch": 8, "left_out": "no time"}]
    assert rows("frame_decoding", device="cpu", agreement=agreement, sizes=sizes) == [
        ["`frame_decoding`", "batch 4", "2 s", "plain PyTorch, 1 s", "2×"]
    ]


def test_kernels_that_are_the_reference_on_a_cpu_are_marked() -> None:
    sizes = [{"size": [16, 512], "seconds": medians(**{"ours ieee": 3.0, "ours bf16": 1.0, "pytorch": 1.0})}]
    (row,) = rows("kernel_vq_lookup", device="cpu", sizes=sizes)
    assert row == ["`kernel_vq_lookup` `*`", "size [16, 512]", "3 s", "plain PyTorch, 1 s", "3×"]
    (row,) = rows("kernel_vq_lookup", device="cuda", sizes=sizes)
    assert row[0] == "`kernel_vq_lookup`"


def test_times_without_graphs_count_and_the_worst_is_first() -> None:
    draws = [
        {
            "rows": 1,
            "seconds": medians(ours=1.0, race=0.5),
            "seconds_without_graphs": medians(ours=1.0, multinomial=0.25),
        }
    ]
    layers = [{"rows": 2, "seconds": medians(**{"ours": 1.0, "linear, then our draw": 0.1, "race": 0.8})}]
    found = rows("kernel_sampling", device="cpu", draws=draws, layers=layers)
    assert [(row[0], row[3], row[4]) for row in found] == [
        ("`kernel_sampling`", "multinomial, 250 ms", "4×"),
        ("`kernel_sampling`", "race, 500 ms", "2×"),
        ("`kernel_sampling` `*`", "race, 800 ms", "1.2×"),
    ]


def test_the_codec_has_its_sides_beside_its_facts() -> None:
    results = [{"work": "decode", "batch": 1, **medians(cpp=2.0, pytorch=1.0)}]
    assert rows("cpu_frame_codec", results=results)[0][1:4] == [
        "work decode, batch 1",
        "2 s",
        "plain PyTorch, 1 s",
    ]


def test_the_report_and_the_documentation_have_the_list(tmp_path: Path) -> None:
    assert report.slower_table(tmp_path).startswith("Nowhere")
    sizes = [{"batch": 4, "seconds": medians(ours=2.0, pytorch=1.0)}]
    facts: dict[str, Any] = {
        "quick": False,
        "commit": "abc123",
        "machine": {"processor": "a processor", "cores": 2, "gpu": None},
        "python": "3.11",
        "versions": {"torch": "2"},
    }
    for side in sizes[0]["seconds"].values():  # type: ignore[attr-defined]
        side |= {"quartile_1": 1.0, "quartile_3": 2.0}
    record = facts | {"result": {"device": "cpu", "sizes": sizes}}
    (tmp_path / "frame_decoding.json").write_text(json.dumps(record))
    row = "| `frame_decoding` | batch 4 | 2 s | plain PyTorch, 1 s | 2× |"
    assert row in report.slower_table(tmp_path)
    text = report.report_text({"frame_decoding": record}, [])
    assert row in text.partition("## Where ours is slower")[2].partition("## frame_decoding")[0]
