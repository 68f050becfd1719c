"""The table of sizes where ours is slower: only sides with equal work, whatever a case calls ours."""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import Ceilings, Circumstances, Record, Result, Size
from benchmarks.report import page as report
from benchmarks.report.slower import slower_rows

from .made_up import spreads


def rows(name: str, *sizes: Size, device: str = "cpu", other_model: str = "") -> list[list[str]]:
    sides = {side: {"same_model": side != other_model} for size in sizes for side in size.seconds}
    record = Record(name, Result([*sizes], Ceilings(device), sides=sides), Circumstances.here())
    return slower_rows({name: record})


def test_sides_that_are_other_models_or_ours_are_left_out_and_so_is_noise() -> None:
    seconds = spreads(ours=2.0, ours_float16_cache=0.5, pytorch=1.0, public=1.95, simulusion=0.1)
    sizes = Size({"batch": 4}, seconds=seconds, flops=7), Size({"batch": 8}, missing="no time")
    assert rows("frame_decoding", *sizes, other_model="simulusion") == [
        ["`frame_decoding`", "batch 4", "2 s", "plain PyTorch, 1 s", "2×"]
    ]


def test_kernels_that_are_the_reference_on_a_cpu_are_marked() -> None:
    size = Size({"size": [16, 512]}, seconds=spreads(**{"ours ieee": 3.0, "ours bf16": 1.0, "pytorch": 1.0}))
    (row,) = rows("kernel_vq_lookup", size)
    assert row == ["`kernel_vq_lookup` `*`", "size [16, 512]", "3 s", "plain PyTorch, 1 s", "3×"]
    (row,) = rows("kernel_vq_lookup", size, device="cuda")
    assert row[0] == "`kernel_vq_lookup`"


def test_every_table_counts_and_the_worst_is_first() -> None:
    draws = Size({"rows": 1}, seconds=spreads(ours=1.0, race=0.5))
    waiting = Size({"rows": 1}, "without graphs", spreads(ours=1.0, multinomial=0.25))
    found = rows("kernel_sample_categorical", draws, waiting)
    assert [(row[0], row[3], row[4]) for row in found] == [
        ("`kernel_sample_categorical`", "multinomial, 250 ms", "4×"),
        ("`kernel_sample_categorical`", "race, 500 ms", "2×"),
    ]
    layers = Size({"rows": 2}, seconds=spreads(**{"ours": 1.0, "linear, then our draw": 0.1, "race": 0.8}))
    (row,) = rows("kernel_linear_sample", layers)
    assert (row[0], row[3], row[4]) == ("`kernel_linear_sample` `*`", "race, 800 ms", "1.2×")


def test_what_is_ours_in_int8_is_no_other_side() -> None:
    size = Size({"work": "decode", "batch": 1}, seconds=spreads(cpp=2.0, pytorch=1.0, cpp_int8=0.5))
    (row,) = rows("cpu_frame_codec", size)
    assert row[1:4] == ["work decode, batch 1", "2 s", "plain PyTorch, 1 s"]


def test_the_report_and_the_documentation_have_the_list(tmp_path: Path) -> None:
    assert report.slower_table(tmp_path).startswith("Nowhere")
    result = Result([Size({"batch": 4}, seconds=spreads(ours=2.0, pytorch=1.0))], Ceilings("cpu"))
    record = Record("frame_decoding", result, Circumstances.here())
    record.write(tmp_path)
    row = "| `frame_decoding` | batch 4 | 2 s | plain PyTorch, 1 s | 2× |"
    assert row in report.slower_table(tmp_path)
    text = report.report_text({"frame_decoding": record}, [])
    assert row in text.partition("## Where ours is slower")[2].partition("## frame_decoding")[0]
