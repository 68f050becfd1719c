"""`python -m benchmarks`: its options, the files it writes, and the limit of time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import choose_device, chosen_cases, main
from benchmarks.cases.gradient_steps import disagreement, gradient_steps, measure_part, segments
from benchmarks.cases.scaling import grown, slope, slopes
from benchmarks.plan import Cost
from benchmarks.record import Record
from benchmarks.registry import CASES, Run
from iris_fast.errors import UserError
from tests.support.commands import Say

COSTS = [Cost(2, 1.0)]


def test_a_case_prints_a_table_and_writes_its_file(
    tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which --device cpu sets
    arguments = ["--quick", "--only", "kernel_lambda_returns", "--json", str(tmp_path), "--threads", "1"]
    assert main([*arguments, "--device", "cpu"]) == 0
    record = Record.read(tmp_path / "kernel_lambda_returns.json")
    assert record.quick and record.case == "kernel_lambda_returns" and record.circumstances.machine.cores
    (size,) = record.result.sizes
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "plain PyTorch" in line)
    assert f"{size.ratios['pytorch'].ratio:.3g}×" in row and "GB/s" in text
    assert record.reference is None and set(size.seconds) == {"ours", "pytorch"} and size.bytes


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"no benchmark case 'rolout'.*rollout"):
        chosen_cases("rolout")
    with pytest.raises(UserError, match="choose cpu, cuda"):
        choose_device("tpu")
    with pytest.raises(UserError, match="only peer"):
        main(["--peer", "another", "--only", "rollout"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batches", "a"], "argument --batches: invalid sizes value: 'a'"),
        (["--batches", "1,0"], "argument --batches: 0 is not above zero"),
        (["--threads", "0"], "argument --threads: 0 is not above zero"),
        (["--rounds", "-1"], "argument --rounds: -1 is not above zero"),
        (["--minutes", "nan"], "argument --minutes: nan is not above zero"),
        (["--minutes", "x"], "argument --minutes: invalid float value: 'x'"),
    ],
)
def test_numbers_that_are_none_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        main([*arguments, "--only", "memory"])


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--json .*file: no folder"):
        main(["--only", "memory", "--json", str(tmp_path / "file"), "--threads", "1"])


def test_a_reference_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkout of eloialonso/iris"):
        main(["--only", "rollout", "--reference", str(tmp_path), "--threads", "1"])


def test_rounds_that_are_asked_for_stand_for_the_usual_ones(run: Run) -> None:
    usual = Cost(3, 1.0)
    assert Run(False, run.systems).usual(usual) == usual
    assert Run(False, run.systems, rounds=7).usual(usual) == Cost(7, 1.0)
    assert Run(True, run.systems, rounds=7).usual(usual) == Cost(2, 1.0)


def test_a_peer_whose_step_fails_costs_its_own_column(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = run.systems.worker("ours_float16_cache")
    call = worker.call

    def failing(method: str, *arguments: object) -> object:
        if method == "train":
            raise RuntimeError("the system failed:\nAttributeError: no such update")
        return call(method, *arguments)

    monkeypatch.setattr(worker, "call", failing)
    size = measure_part(run, "world_model", ["ours", "pytorch", "ours_float16_cache"], COSTS)
    assert list(size.seconds) == ["ours", "ours_cached"]
    assert size.not_timed == {"ours_float16_cache": "it failed: AttributeError: no such update"}


def test_the_list_marks_the_default_cases(capsys: Say) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CASES)
    assert {line.split()[0] for line in lines if line.split()[1] == "*"} == set(chosen_cases(None))
    assert chosen_cases(None)[0] == "rollout" and chosen_cases(None).count("projection") == 1
    kernels = chosen_cases("memory,kernel_*")
    assert kernels[0] == "memory" and "kernel_vq_lookup" in kernels and "rollout" not in kernels


def test_gradient_steps_agree_and_are_timed(run: Run) -> None:
    sizes = {size.what["part"]: size for size in gradient_steps(run).sizes}
    assert list(sizes) == ["tokenizer", "world_model", "actor_critic"]
    assert list(sizes["tokenizer"].seconds) == ["ours"]
    assert list(sizes["world_model"].seconds) == ["ours", "ours_cached"]
    assert list(sizes["actor_critic"].ratios) == ["ours_cached"]
    for size in sizes.values():
        assert size.more["update_seconds"].keys() == size.seconds.keys()
        assert min(size.more["update_seconds"].values()) > 0
    assert all(size.not_timed == {} for size in sizes.values())
    assert sizes["actor_critic"].more["rollout_seconds"]["ours"] > 0
    for side, seconds in sizes["actor_critic"].more["imagine_seconds"].items():
        assert 0 < seconds < sizes["actor_critic"].seconds[side].median


def test_another_loss_is_a_disagreement(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    call = run.systems.worker("ours").call

    def off(method: str, *arguments: object) -> object:
        found = call(method, *arguments)
        return {name: 1.01 * value for name, value in found.items()} if method == "losses" else found

    monkeypatch.setattr(run.systems.worker("ours"), "call", off)
    found = disagreement(run, "tokenizer", ["ours"], True)
    assert "differs by 0.01: not timed" in found["ours"]


def test_a_frame_that_is_remembered_is_not_timed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = run.systems.worker("ours")
    call, data = ("train", "actor_critic", segments("actor_critic", 2, True), 2, True, 3), "frames_remembered"
    assert [worker.call(*call)[data] for _ in range(2)] == [0, 0]
    monkeypatch.setattr(type(worker.system), "_forget_frames", lambda system: None)  # type: ignore[attr-defined]
    assert worker.call(*call)[data] >= 2  # at least the first frames, which the call before has decoded
    size = measure_part(run, "actor_critic", ["ours", "pytorch"], COSTS)
    assert "instead of decoding them: not timed" in size.missing and not size.seconds


def test_every_round_has_another_batch() -> None:
    first, second = (segments("world_model", 2, True, number) for number in (1, 2))
    assert not first["observations"].equal(second["observations"])
    assert first["observations"].equal(segments("world_model", 2, True, 1)["observations"])


def test_powers_of_growth() -> None:
    assert slope([1, 10, 100], [2, 20, 200]) == pytest.approx(1)
    assert slope([1, 4, 16], [3, 6, 12]) == pytest.approx(0.5)
    sizes = [grown({"batch": n}, {"tokens": [2.0 * n]}) for n in (1, 2, 8)]
    assert slopes({"by_batch": sizes, "by_threads": sizes[:1]}) == {"by_batch": {"tokens": pytest.approx(1)}}
