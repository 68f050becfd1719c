"""The projection of a whole run equals a calculation by hand, and is left out if a measurement is missing."""

from __future__ import annotations

import pytest

from benchmarks.record import Result, Size
from benchmarks.report.page import projection_table
from benchmarks.report.plots import PLOTS
from benchmarks.report.projection import PHASES, paper_units, project

from .made_up import SIDES, compared, made_up_results, scaled, size, spread

PUBLIC = SIDES["public"]
# 20 decodings and policy steps, 19 steps of tokens and a pass of the last one, and 64 frames encoded.
PARTS_ROLLOUT = 20 * (0.2 + 30) + 19 / 10 + 1 / 10 / 17 + (1 - 0.05) * 64 / 16


def test_the_schedule_is_the_papers() -> None:
    _, units = paper_units()
    assert units.agent_steps == 100_000
    assert units.steps == {"tokenizer": 595 * 200, "world_model": 575 * 200, "actor_critic": 550 * 200}
    assert units.test_vector_steps == 120 * 16 * 1000 // 8
    assert units.final_vector_steps == 100 * 1000 // 8
    # From epoch 26 on the replay's frames (200 more an epoch, 100,000 from epoch 500) are fewer than are drawn.
    assert units.frames_cached == sum(min(200 * epoch, 100_000) for epoch in range(26, 601))


def test_the_projection_adds_up_by_hand() -> None:
    found = project(made_up_results())
    assert found["left_out_sides"].keys() == {"ours_float16_cache", "pytorch"}
    _, units = paper_units()
    public, ours = found["seconds"]["public"], found["seconds"]["ours"]
    assert public["collection"] == pytest.approx(100_000 * (0.001 + PUBLIC))
    # Of each step a tenth is clipping and optimizer, which take the same at any batch size.
    assert public["tokenizer"] == pytest.approx(119_000 * PUBLIC * (0.1 + 0.9 * 256 / 4))
    assert public["world_model"] == pytest.approx(115_000 * PUBLIC * (0.1 + 0.9 * 64 / 2))
    step = 0.1 + (1 - 0.1 - 0.5) * 64 / 2 + PARTS_ROLLOUT
    assert public["actor_critic"] == pytest.approx(110_000 * PUBLIC * step)
    vector_steps = units.test_vector_steps + units.final_vector_steps
    assert public["evaluation"] == pytest.approx(vector_steps * (0.004 + PUBLIC))
    assert ours["world_model"] == pytest.approx(115_000 * (0.1 + 0.9 * 64 / 2))  # the cached step, not 1.5 s
    # Of the cached step of 1 s 0.8 s are its rollout and burn-in; the paper's burn-in is 20 policy steps of 30 s.
    step = 0.1 + (1 - 0.1 - 0.8) * 64 / 2 + PARTS_ROLLOUT + 20 * 30
    assert ours["actor_critic"] == pytest.approx(110_000 * step)
    assert public["cache"] == 0.0 and ours["cache"] == pytest.approx(units.frames_cached / 16)
    assert list(ours) == list(PHASES)


def test_a_whole_rollout_is_taken_where_it_was_measured() -> None:
    results = made_up_results()
    parts = project(results)["seconds"]["public"]["actor_critic"]
    whole = size(scaled(SIDES, 7), "imagined_steps", batch=64, horizon=20)
    results["rollout_whole"] = compared(whole)
    found = project(results)
    difference = 110_000 * PUBLIC * (PARTS_ROLLOUT - 7)
    assert found["seconds"]["public"]["actor_critic"] == pytest.approx(parts - difference)
    assert "measured whole by rollout_whole" in " ".join(found["notes"])


def test_what_is_assumed_is_said() -> None:
    notes = " ".join(project(made_up_results())["notes"])
    assert "1000 agent steps" in notes and "100 episodes are played, 8 side by side" in notes
    assert "tokenizer 4 to 256, world model 2 to 64, actor critic 2 to 64" in notes
    assert "rollouts of ours, public, public, glibc tuned are the sum of their parts" in notes
    assert "rollout of 2 steps are, as a share of what it took: ours 100%, public 100%" in notes


def test_a_projection_without_measurements_says_what_it_needs() -> None:
    results = made_up_results()
    del results["playing"]
    assert project(results) == {"left_out": "needs the cases playing in the same run"}


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([Size({"environments": 1}, missing="envpool is not installed")], "envpool is not installed"),
        (
            [
                size({"ours": 1.0}, "agent_steps", environments=1, steps=10),
                Size(
                    {"environments": 8, "steps": 10},
                    missing="the backends' frames or rewards differ: not timed",
                ),
            ],
            "environments was not measured with environments 8 (the backends' frames or rewards differ",
        ),
    ],
)
def test_environments_that_were_not_measured_leave_it_out(sizes: list[Size], reason: str) -> None:
    results = made_up_results()
    results["environments"] = Result(sizes)
    found = project(results)
    assert list(found) == ["left_out"] and reason in found["left_out"]


@pytest.mark.parametrize("case", ["token_generation", "frame_decoding"])
def test_another_batch_does_not_stand_in_for_the_papers(case: str) -> None:
    results = made_up_results()
    results[case].sizes[-1] = Size({"batch": 64}, missing="left out: it would take 90 s")
    found = project(results)
    assert found["left_out"] == "no side has every step measured" and "seconds" not in found
    assert found["left_out_sides"]["ours"] == f"{case} was not measured with batch 64 (it would take 90 s)"


def test_a_sum_of_parts_that_is_not_the_rollout_leaves_its_side_out() -> None:
    results = made_up_results()
    results["rollout"].sizes[2].seconds["public"] = spread(64 * PUBLIC * 1.5)
    found = project(results)
    assert "public" not in found["seconds"] and "ours" in found["seconds"]
    assert "rollout of 2 steps sum to 67% of what it takes" in found["left_out_sides"]["public"]


def test_a_negative_remainder_leaves_its_side_out() -> None:
    results = made_up_results()
    results["gradient_steps"].sizes[2].more["rollout_seconds"]["public"] = 0.95 * PUBLIC
    found = project(results)
    assert "public" not in found["seconds"] and "ours" in found["seconds"]
    assert "less time than what it is made of" in found["left_out_sides"]["public"]


def with_another_model() -> dict[str, Result]:
    """The made-up results with a side that is another model, whose rollouts go on to the frame after the last."""
    results = made_up_results()
    for case, result in results.items():
        if case == "environments":
            continue
        for each in result.sizes:
            numbers = [each.seconds, *each.more.values()]
            for by_side in (found for found in numbers if "public" in found):
                by_side["simulusion_tuned"] = by_side["public"]
    actor_critic = results["gradient_steps"].sizes[2]
    actor_critic.more["imagine_seconds"]["simulusion_tuned"] = 0.6 * PUBLIC
    difference = {
        "same_model": False,
        "difference": "its decoder is its own",
        "goes_on": True,
        "agrees": True,
    }
    results["gradient_steps"].sides["simulusion_tuned"] = difference
    return results


def test_another_model_is_projected_and_said_to_be_one() -> None:
    found = project(with_another_model())
    another, public = found["seconds"]["simulusion_tuned"], found["seconds"]["public"]
    assert another["tokenizer"] == public["tokenizer"] and found["other_models"] == ["simulusion_tuned"]
    # Its rollout is timed in its step, the burn-in included, and it generates and decodes a frame more.
    rollout = PARTS_ROLLOUT + 20 * 30 + 1 / 10 + 0.2
    step = 0.1 + (1 - 0.1 - 0.6) * 64 / 2 + rollout
    assert another["actor_critic"] == pytest.approx(110_000 * PUBLIC * step)
    assert "Simulusion, glibc tuned trains another model in these hours: its decoder" in found["notes"][-1]
    assert "| Simulusion, glibc tuned (another model) |" in projection_table(found)
    figure = PLOTS["run_by_phase"]({"projection": Result(facts=found)})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "Simulusion, glibc tuned\n(another model)" and "public" in labels


def test_a_frame_after_the_last_needs_its_passes() -> None:
    results = with_another_model()
    del results["token_generation"].sizes[0].more["step_seconds"]["simulusion_tuned"]
    found = project(results)
    assert "of its token passes 0 steps were timed" in found["left_out_sides"]["simulusion_tuned"]
