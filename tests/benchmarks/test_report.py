"""Tables, plots and the README's speed table from result files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.record import Circumstances, Machine, Ratio, Record, Result, Size
from benchmarks.registry import CASES
from benchmarks.report import page as report
from benchmarks.report.plots import PLOTS, step_parts
from benchmarks.report.projection import project
from benchmarks.report.tables import duration, ratio, text_of
from benchmarks.timing import ratio_of
from iris_fast.errors import UserError
from tests.support.commands import Say

from .made_up import CEILINGS, SIDES, compared, made_up_results, spread, spreads

CIRCUMSTANCES = Circumstances(
    "abc123", "", Machine("a processor", 2, None, "Linux"), 2, "3.11", {"torch": "2"}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Result files of every case above, with a projection and a scaling."""
    results = made_up_results()
    results["projection"] = Result(facts=project(results))
    growth = [
        Size({"batch": batch, "steps": 3}, "by_batch", spreads(tokens=0.1 * batch)) for batch in (1, 8, 64)
    ]
    results["scaling"] = Result(growth, CEILINGS, facts={"powers": {"by_batch": {"tokens": 1.0}}})
    for name, result in results.items():
        Record(name, result, CIRCUMSTANCES).write(tmp_path)
    return tmp_path


def test_the_report_has_tables_and_plots_of_what_is_there(folder: Path, capsys: Say, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert report.main([str(folder), "--out", str(out)]) == 0
    names = ["speed_by_batch", "rollout_parts", "run_by_phase", "cost_growth"]
    assert capsys.readouterr().out.split() == [
        str(out / "report.md"),
        *(str(out / f"{n}.png") for n in names),
    ]
    for name in names:
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 400 and picture.height > 200
            assert len(picture.convert("RGB").getcolors(2**20) or []) > 20  # something is drawn on it
    text = (out / "report.md").read_text()
    assert "a processor, 2 cores, torch 2, Python 3.11, commit abc123" in text
    assert "left out: it would take 90 s" in text and "by 0.5 of the largest: not timed" in text
    assert "| tokenizer step, batch 4 | 1 s | 3 s (3×) | 2.5 s (2.5×) |" in report.speed_table(folder)
    everything = report.all_speeds_table(folder)
    words = "| imagined step, batch 64 (of 2); 3 rounds | 32 s | – | 25.6 s (0.8×) "
    assert f"{words}| 64 s (2×) | 96 s (3×) | 80 s (2.5×) |" in everything
    assert "| tokenizer step, batch 4; 3 rounds | 1 s | – | – | – | 3 s (3×) | 2.5 s (2.5×) |" in everything


def test_the_readme_shows_six_rows_at_most() -> None:
    rows = [line for line in report.speed_table().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(report.README_ROWS) <= 6


def test_no_results_are_said_to_be_none(tmp_path: Path) -> None:
    assert report.speed_table(tmp_path) == report.NOT_YET
    with pytest.raises(UserError, match="holds no results"):
        report.main([str(tmp_path)])


def test_a_side_that_disagreed_is_in_no_row() -> None:
    text = text_of("rollout", made_up_results()["rollout"])
    rows = [line for line in text.splitlines() if "Simulusion" in line]
    assert rows == ["  Simulusion: its features differ from the oracle's by 0.5 of the largest: not timed"]


def test_a_size_with_an_error_prints_no_time() -> None:
    text = text_of("rollout", compared(Size({"batch": 3}, missing="outputs differ: not timed")))
    assert "batch 3  outputs differ: not timed" in text and " s " not in text.splitlines()[-1]


def test_the_parts_of_a_step_sum_to_it() -> None:
    results = made_up_results()
    sizes = [
        results[case].sizes[-2 if case == "rollout" else -1]
        for case in ("rollout", "token_generation", "frame_decoding")
    ]
    parts = step_parts(*sizes)
    assert list(parts) == list(SIDES)
    for side, found in parts.items():
        assert sum(found.values()) == pytest.approx(64 * SIDES[side] / 2)
        assert found["tokens"] == pytest.approx(SIDES[side] / 10 / 2)  # of two steps one generates a frame


def test_parts_that_take_longer_than_the_whole_are_marked() -> None:
    results = made_up_results()
    results["rollout"].sizes[2].seconds["public"] = spread(0.3 * 64 * SIDES["public"])
    results["frame_decoding"].sizes[-1].seconds["public"] = spread(0.5 * 64 * SIDES["public"])
    figure = PLOTS["rollout_parts"](results)
    axis = figure.axes[0]
    step = 0.3 * 64 * SIDES["public"] / 2
    labels = [text.get_text() for text in axis.texts]
    assert f" {step:.3g} s (line)" in labels and sum("(line)" in label for label in labels) == 1
    assert axis.lines[0].get_xdata()[0] == pytest.approx(step)
    assert "timed apart" in axis.get_xlabel()
    assert "timed apart" not in PLOTS["rollout_parts"](made_up_results()).axes[0].get_xlabel()


def test_another_model_has_no_operations_a_second() -> None:
    one = replace(made_up_results()["rollout"].sizes[0], uncounted=["public"])
    lines = text_of("rollout", Result([one], CEILINGS)).splitlines()
    ours, public = (next(line for line in lines if f"{side}  " in line) for side in ("2  ours", "  public"))
    assert ours.split()[-4:] == ["1", "1%", "0.1", "1%"]  # GFLOP/s and GB/s with their shares
    assert "%" not in public and public.endswith("3× (0.9 to 4 in 3 rounds)")


def test_growth_is_a_table_of_what_was_measured(folder: Path, tmp_path: Path) -> None:
    table = report.growth_table(folder)
    assert "| batch | tokens | 1: 100 ms, 8: 800 ms, 64: 6.4 s | 1.00 |" in table
    assert table.endswith(
        "a processor, 2 cores, commit abc123 (cpu, copy 10 GB/s, float32 products 100 GFLOP/s)."
    )
    assert "--only scaling" in report.growth_table(tmp_path / "nowhere")


def test_the_projection_is_printed_as_a_table() -> None:
    result = project(made_up_results())
    table = report.projection_table(result)
    assert table.startswith("| hours | ours | public | public, glibc tuned |")
    assert "plain PyTorch is left out: no encoding of its own" in table
    assert report.projection_table({"left_out": "needs more"}) == ""


def test_durations_have_units_that_suit() -> None:
    assert [duration(s) for s in (12.34, 0.01234, 1.5e-6, 2e-8)] == ["12.3 s", "12.3 ms", "1.5 µs", "0.02 µs"]


def test_the_default_cases_are_those_of_ten_minutes() -> None:
    default = [entry for entry in CASES.values() if entry.default]
    assert {"rollout", "token_generation", "frame_decoding", "gradient_steps", "environments"} <= {
        entry.name for entry in default
    }
    assert sum(entry.minutes for entry in default) <= 10
    assert all(0 < entry.least <= entry.minutes for entry in default)
    assert sum(entry.least for entry in default) <= 7, "what a machine half as slow again still ends in time"
    assert not CASES["scaling"].default and not CASES["rollout_whole"].default


def test_a_ratio_of_few_rounds_has_no_interval_of_confidence() -> None:
    few = ratio_of([3.0, 4.0, 6.0], [1.0, 2.0, 2.0])
    assert few == Ratio(2.0, 3, 2.0, 3.0)
    assert ratio(few) == "2× (2 to 3 in 3 rounds)"
    assert ratio(ratio_of([3.0], [1.0])) == "3× (1 round)"
    many = ratio_of([4.0] * 8, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0])
    assert many.low and many.high and many.low < many.ratio < many.high and ratio(many).startswith("2× [")


def test_operations_of_decoded_frames_are_said_to_be_equivalents() -> None:
    made_up = made_up_results()
    assert "direct convolutions" in text_of("rollout", made_up["rollout"])
    assert "direct convolutions" not in text_of("token_generation", made_up["token_generation"])


def test_tables_reasons_fewer_rounds_and_the_best_other_are_printed() -> None:
    half = Ratio(0.5, 9, 0.4, 0.6)
    draws = Size(
        {"rows": 64},
        seconds=spreads(**{"ours": 1.5, "torch.multinomial": 0.75}),
        ratios={"torch.multinomial": half},
        absent={"flashinfer": "runs on GPUs alone"},
        not_timed={"another": "draws another distribution"},
        usual_rounds=7,
    )
    lines = text_of("kernel_sample_categorical", Result([draws])).splitlines()
    (row,) = [line for line in lines if "torch.multinomial" in line]
    assert "750 ms" in row and row.endswith("0.5× [0.4, 0.6]")
    assert any("another: draws another distribution" in line for line in lines)
    assert any("3 of the usual 7 rounds, for want of time" in line for line in lines)
    again = replace(draws, what={"rows": 128}, not_timed={})
    lines = text_of("kernel_sample_categorical", Result([draws, again])).splitlines()
    assert sum("flashinfer:" in line for line in lines) == sum("another:" in line for line in lines) == 1
    lookup = Size(
        {"size": [16, 512, 512]},
        seconds=spreads(**{"ours ieee": 1.0, "pytorch": 0.5}),
        ratios={"ours ieee": replace(half, than="pytorch")},
    )
    assert "0.5× [0.4, 0.6] than plain PyTorch" in text_of("kernel_vq_lookup", Result([lookup]))
    tables = [Size({"batch": 1}, table, spreads(tokens=1.0)) for table in ("by_batch", "by_threads")]
    text = text_of("scaling", Result(tables, facts={"powers": {"by_batch": {"tokens": 0.87}}}))
    assert "batch tokens 0.87" in text and "\nby_batch\nsize" in text and "\nby_threads\nsize" in text
