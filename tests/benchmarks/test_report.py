"""Tables, plots and the README's speed table from result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.registry import CASES
from benchmarks.report import page as report
from benchmarks.report.plots import PLOTS, step_parts
from benchmarks.report.projection import project
from benchmarks.report.tables import duration, ratio, text_of
from benchmarks.timing import ratio_interval
from iris_fast.errors import UserError
from tests.support.commands import Say

SIDES = {"ours": 1.0, "ours_float16_cache": 0.8, "pytorch": 2.0, "public": 3.0, "public_tuned": 2.5}
HEADER = {
    "device": "cpu",
    "copy_bandwidth": 1e10,
    "matrix_rates": {"float32": 1e11},
    "agreement": {},
    "not_timed": {"simulusion": "its features differ from the oracle's by 0.5 of the largest: not timed"},
}


def timing(seconds: float) -> dict[str, float]:
    return {"median": seconds, "quartile_1": 0.9 * seconds, "quartile_3": 1.1 * seconds, "rounds": 3}


def size(sides: dict[str, float], unit: str, **facts: Any) -> dict[str, Any]:
    """A made-up size whose seconds are given by side."""
    return facts | {
        "flops": 1e9,
        "seconds": {side: timing(seconds) for side, seconds in sides.items()},
        "rates": {
            side: {
                f"{unit}_a_second": 10 / seconds,
                "flops_a_second": 1e9 / seconds,
                "share_of_matrix_rate": 1e9 / seconds / 1e11,
                "bytes_a_second": 1e8 / seconds,
                "share_of_copy_bandwidth": 1e8 / seconds / 1e10,
            }
            for side, seconds in sides.items()
        },
        "speedup_over": {
            side: {"ratio": seconds / sides["ours"], "low": 0.9, "high": 4.0}
            for side, seconds in sides.items()
            if side != "ours"
        },
    }


def scaled(sides: dict[str, float], factor: float) -> dict[str, float]:
    return {side: factor * seconds for side, seconds in sides.items()}


def made_up_results() -> dict[str, dict[str, Any]]:
    decoding = {side: seconds for side, seconds in SIDES.items() if side != "ours_float16_cache"}
    trained = {side: SIDES[side] for side in ("ours", "public", "public_tuned")}
    cached = {"ours": 1.5, "ours_cached": 1.0} | {side: SIDES[side] for side in ("public", "public_tuned")}
    tokens = {"step_seconds": {side: [seconds / 10] * 19 for side, seconds in SIDES.items()}, "steps": 19}
    rollouts = [size(scaled(SIDES, batch), "imagined_steps", batch=batch, horizon=2) for batch in (1, 16, 64)]
    actor_critic = size(cached, "imagined_steps", part="actor_critic", batch=2, horizon=20)
    actor_critic["rollout_seconds"] = scaled(trained, 0.5)
    actor_critic["imagine_seconds"] = {"ours": 0.8, "ours_cached": 0.8}
    gradients = [
        size(trained, "frames", part="tokenizer", batch=4),
        size(cached, "frames", part="world_model", batch=2),
        actor_critic,
    ]
    for each in gradients:
        each["update_seconds"] = scaled(trained | {"ours_cached": 1.0}, 0.1)
    decoded = [
        size(scaled(decoding, share), "frames", batch=batch) for share, batch in ((0.05, 16), (0.2, 64))
    ]
    return {
        "rollout": HEADER | {"sizes": [*rollouts, {"batch": 256, "left_out": "it would take 90 s"}]},
        "token_generation": HEADER | {"sizes": [size(SIDES, "tokens", batch=64, **tokens)]},
        "frame_decoding": HEADER | {"sizes": decoded},
        "gradient_steps": HEADER | {"sizes": gradients},
        "playing": HEADER
        | {
            "sizes": [
                size(trained, "frames", what="act", batch=1),
                size(trained, "frames", what="act", batch=8),
                size(trained, "frames", what="encode and decode", batch=16),
                size(scaled(trained, 30), "frames", what="policy alone", batch=64),
            ]
        },
        "environments": {
            "device": "cpu",
            "sizes": [
                size({"ours": 1.0, "ale": 2.0}, "agent_steps", environments=1, steps=1000),
                size({"ours": 4.0, "ale": 8.0}, "agent_steps", environments=8, steps=1000),
                size({"ours": 16.0, "ale": 16.0}, "agent_steps", environments=16, steps=1000),
            ],
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Result files of every case above, with a projection and a scaling."""
    results = made_up_results()
    results["projection"] = project(results)
    growth = [
        {"batch": batch, "steps": 3, "seconds": {"tokens": timing(0.1 * batch)}} for batch in (1, 8, 64)
    ]
    results["scaling"] = {"device": "cpu", "powers": {}, "by_batch": growth}
    machine = {"processor": "a processor", "cores": 2, "gpu": None, "system": "Linux"}
    facts = {
        "quick": False,
        "commit": "abc123",
        "machine": machine,
        "python": "3.11",
        "versions": {"torch": "2"},
    }
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"case": name, **facts, "result": result}))
    return tmp_path


def test_the_report_has_tables_and_plots_of_what_is_there(folder: Path, capsys: Say, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}old\n{report.END}\nafter\n")
    out = tmp_path / "out"
    assert report.main([str(folder), "--out", str(out), "--readme", str(readme)]) == 0
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
    table = readme.read_text()
    assert table.startswith("before\n") and table.endswith(f"{report.END}\nafter\n") and "old" not in table
    words = "| imagined step, batch 64 (of 2); 3 rounds | 32 s | – | 25.6 s (0.8×) "
    assert f"{words}| 64 s (2×) | 96 s (3×) | 80 s (2.5×) |" in table
    assert "| tokenizer step, batch 4; 3 rounds | 1 s | – | – | – | 3 s (3×) | 2.5 s (2.5×) |" in table


def test_no_results_are_said_to_be_none(tmp_path: Path) -> None:
    assert report.speed_table(tmp_path) == report.NOT_YET
    with pytest.raises(UserError, match="holds no results"):
        report.main([str(tmp_path)])
    with pytest.raises(UserError, match="table:speed"):
        report.with_speed_table("no marks", tmp_path)


def test_a_side_that_disagreed_is_in_no_row() -> None:
    text = text_of("rollout", made_up_results()["rollout"])
    rows = [line for line in text.splitlines() if "Simulusion" in line]
    assert rows == ["  Simulusion: its features differ from the oracle's by 0.5 of the largest: not timed"]


def test_a_size_with_an_error_prints_no_time() -> None:
    text = text_of("rollout", HEADER | {"sizes": [{"batch": 3, "error": "outputs differ: not timed"}]})
    assert "batch 3  outputs differ: not timed" in text and " s " not in text.splitlines()[-1]


def test_the_parts_of_a_step_sum_to_it() -> None:
    results = made_up_results()
    sizes = [
        results[case]["sizes"][-2 if case == "rollout" else -1]
        for case in ("rollout", "token_generation", "frame_decoding")
    ]
    parts = step_parts(*sizes)
    assert list(parts) == list(SIDES)
    for side, found in parts.items():
        assert sum(found.values()) == pytest.approx(64 * SIDES[side] / 2)
        assert found["tokens"] == pytest.approx(SIDES[side] / 10 / 2)  # of two steps one generates a frame


def test_parts_that_take_longer_than_the_whole_are_marked() -> None:
    results = made_up_results()
    whole = results["rollout"]["sizes"][2]
    whole["seconds"]["public"] = timing(0.3 * whole["seconds"]["public"]["median"])
    results["frame_decoding"]["sizes"][-1]["seconds"]["public"] = timing(0.5 * 64 * SIDES["public"])
    figure = PLOTS["rollout_parts"](results)
    axis = figure.axes[0]
    step = 0.3 * 64 * SIDES["public"] / 2
    labels = [text.get_text() for text in axis.texts]
    assert f" {step:.3g} s (line)" in labels and sum("(line)" in label for label in labels) == 1
    assert axis.lines[0].get_xdata()[0] == pytest.approx(step)
    assert "timed apart" in axis.get_xlabel()
    assert "timed apart" not in PLOTS["rollout_parts"](made_up_results()).axes[0].get_xlabel()


def test_another_model_has_no_operations_a_second() -> None:
    result = made_up_results()["rollout"]
    rates = result["sizes"][0]["rates"]["public"]
    for name in ("flops_a_second", "share_of_matrix_rate", "bytes_a_second", "share_of_copy_bandwidth"):
        del rates[name]
    lines = text_of("rollout", {"sizes": result["sizes"][:1]}).splitlines()
    ours, public = (next(line for line in lines if f"{side}  " in line) for side in ("2  ours", "  public"))
    assert ours.split()[-4:] == ["1", "1%", "0.1", "1%"]  # GFLOP/s and GB/s with their shares
    assert "%" not in public and public.endswith("3× (3 rounds)")


def test_growth_is_a_table_of_what_was_measured(folder: Path, tmp_path: Path) -> None:
    path = folder / "scaling.json"
    record = json.loads(path.read_text())
    record["result"] |= {"powers": {"by_batch": {"tokens": 1.0}}, "copy_bandwidth": 1e10}
    path.write_text(json.dumps(record))
    table = report.growth_table(folder)
    assert "| batch | tokens | 1: 100 ms, 8: 800 ms, 64: 6.4 s | 1.00 |" in table
    assert table.endswith("a processor, 2 cores, commit abc123 (cpu, copy 10 GB/s).")
    assert "--only scaling" in report.growth_table(tmp_path / "nowhere")


def test_the_projection_is_printed_as_a_table() -> None:
    result = project(made_up_results())
    table = report.projection_table(result)
    assert table.startswith("| hours | ours | public | public, glibc tuned |")
    assert "plain PyTorch is left out: no encoding of its own" in table
    assert report.projection_table({"left_out": "needs more"}) == ""
    assert report.projection_table(made_up_results()["rollout"]) == ""


def test_durations_have_units_that_suit() -> None:
    assert [duration(s) for s in (12.34, 0.01234, 1.5e-6, 2e-8)] == ["12.3 s", "12.3 ms", "1.5 µs", "0.02 µs"]


def test_the_default_cases_are_those_of_ten_minutes() -> None:
    default = [entry for entry in CASES.values() if entry.default]
    assert {"rollout", "token_generation", "frame_decoding", "gradient_steps", "environments"} <= {
        entry.name for entry in default
    }
    assert sum(entry.minutes for entry in default) <= 10
    assert not CASES["scaling"].default and not CASES["rollout_whole"].default


def test_a_ratio_of_few_rounds_has_no_interval_of_confidence() -> None:
    few = ratio_interval([3.0, 4.0, 6.0], [1.0, 2.0, 2.0])
    assert few == {"ratio": 2.0, "rounds": 3, "low": 2.0, "high": 3.0}
    assert ratio(few) == "2× (2 to 3 in 3 rounds)"
    assert ratio(ratio_interval([3.0], [1.0])) == "3× (1 round)"
    many = ratio_interval([4.0] * 8, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0])
    assert many["low"] < many["ratio"] < many["high"] and ratio(many).startswith("2× [")


def test_few_rounds_of_an_old_file_have_no_interval() -> None:
    old = {"ratio": 2.0, "low": 1.9, "high": 2.1}
    assert (
        ratio(old, 3) == "2× (3 rounds)"
        and ratio(old, 1) == "2× (1 round)"
        and ratio(old, 9).endswith("2.1]")
    )


def test_operations_of_decoded_frames_are_said_to_be_equivalents() -> None:
    made_up = made_up_results()
    assert "direct convolutions" in text_of("rollout", made_up["rollout"])
    assert "direct convolutions" not in text_of("token_generation", made_up["token_generation"])


def test_times_without_graphs_reasons_and_the_best_other_are_printed() -> None:
    interval = {"ratio": 0.5, "low": 0.4, "high": 0.6, "rounds": 9}
    draws = {
        "rows": 64,
        "seconds": {"ours": timing(1.0)},
        "seconds_without_graphs": {"ours": timing(1.5), "torch.multinomial": timing(0.75)},
        "speedup_over_without_graphs": {"torch.multinomial": interval},
        "absent": {"flashinfer": "runs on GPUs alone"},
        "not_timed": {"another": "draws another distribution"},
    }
    lines = text_of("kernel_sampling", {"draws": [draws]}).splitlines()
    (row,) = [line for line in lines if "torch.multinomial" in line]
    assert "750 ms" in row and row.endswith("0.5× [0.4, 0.6]")
    assert any("ours (without graphs)" in line and "1.5 s" in line for line in lines)
    assert any("another: draws another distribution" in line for line in lines)
    again = draws | {"rows": 128, "not_timed": {}}
    lines = text_of("kernel_sampling", {"draws": [draws, again]}).splitlines()
    assert sum("flashinfer:" in line for line in lines) == sum("another:" in line for line in lines) == 1
    lookup = {
        "size": [16, 512, 512],
        "seconds": {"ours ieee": timing(1.0), "pytorch": timing(0.5)},
        "speedup_over_the_best_other": {"ours ieee": {"other": "pytorch"} | interval},
    }
    assert "0.5× [0.4, 0.6] than plain PyTorch" in text_of("kernel_vq_lookup", {"sizes": [lookup]})
    growth = [{"batch": 1, "seconds": {"tokens": timing(1.0)}}]
    grown = {"powers": {"by_batch": {"tokens": 0.87}}, "by_batch": growth}
    assert "batch tokens 0.87" in text_of("scaling", grown)
