"""A run that will not learn says so, once, and names the first of its faults."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from iris_fast.config import resolve
from iris_fast.config.overrides import apply_overrides
from iris_fast.train import main
from iris_fast.training import diagnosis as module
from iris_fast.training.diagnosis import AT_BASE_RATE, ENOUGH_STEPS, REPEATED_AFTER, Diagnosis, steps_taken
from iris_fast.training.metrics_file import read_metrics
from tests.support.micro import MICRO, micro_config

# Each part has taken enough steps at the end of epoch 2, the actor-critic, which starts later, at that of epoch 3.
CONFIG = resolve(
    micro_config(
        *(f"training.{part}.steps_per_epoch={steps // 2 + 1}" for part, steps in ENOUGH_STEPS.items())
    )
)
LATE = 5
LEARNING = {
    "tokenizer/train/tokens_entropy": 6.0,
    "tokenizer/train/codes_used": 9.0,
    "tokenizer/train/moving_vs_previous_frame": 0.2,
    "world_model/train/rewarded_steps": 0.03,
    "world_model/train/rewards_vs_base_rate": 0.4,
    "world_model/train/rewards_recall": 0.6,
    "actor_critic/train/entropy": 0.8,
    "actor_critic/train/entropy_vs_maximum": 0.8 / math.log(3),
    "actor_critic/train/explained_variance": 0.7,
}
# What is at fault, in order, and how its sentence begins and what it tells to try.
FAULTS = {
    "tokens": (
        {"tokenizer/train/tokens_entropy": 0.1, "tokenizer/train/codes_used": 16.0},
        (
            "tokenizer: nearly all frames get the same tokens (16 of 16 codes",
            "tokenizer.restart_codes_every=10",
        ),
    ),
    "moving": (
        {"tokenizer/train/moving_vs_previous_frame": 0.5},
        ("tokenizer: reconstructions leave out what moves", "tokenizer.perceptual=objects"),
    ),
    "no reward": (
        {"world_model/train/rewarded_steps": 0.0},
        ("world model: no step of its batches has a reward", "collection.train.config.num_steps above 24"),
    ),
    "base rate": (
        {"world_model/train/rewards_vs_base_rate": 0.97, "world_model/train/rewards_recall": 0.02},
        ("world model: rewards are predicted hardly better", "training.world_model.steps_per_epoch"),
    ),
    "uniform": (
        {"actor_critic/train/entropy": 1.0984, "actor_critic/train/entropy_vs_maximum": 0.9998},
        (
            "actor critic: the policy prefers no action (entropy 1.098, 100.0%",
            "try training.actor_critic.entropy_weight below 0.0",
        ),
    ),
    "values": (
        {"actor_critic/train/explained_variance": -0.2},
        ("actor critic: values explain nothing of the returns (explained variance -0.20)", "learning_rate"),
    ),
}


def test_a_run_that_learns_says_nothing() -> None:
    diagnosis = Diagnosis(CONFIG)
    assert not any(diagnosis.sentences(epoch, LEARNING) for epoch in range(1, 100))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_with_what_to_try(fault: str) -> None:
    metrics, words = FAULTS[fault]
    (sentence,) = Diagnosis(CONFIG).sentences(LATE, LEARNING | metrics)
    assert sentence.startswith("not learning, after ") and "\n" not in sentence
    assert all(word in sentence for word in words)


@pytest.mark.parametrize("fault", FAULTS)
def test_not_before_the_part_has_taken_enough_steps(fault: str) -> None:
    metrics, (words, _) = FAULTS[fault]
    first = 3 if words.startswith("actor") else 2
    assert not Diagnosis(CONFIG).sentences(first - 1, LEARNING | metrics)
    assert Diagnosis(CONFIG).sentences(first, LEARNING | metrics)


def test_of_several_faults_the_first_on_the_way_is_said() -> None:
    every = LEARNING.copy()
    for metrics, (words, _) in reversed(FAULTS.values()):
        every |= metrics
        if "hardly better" not in words:  # which is not said where no reward was seen
            assert words in Diagnosis(CONFIG).sentences(LATE, every)[0]


def test_a_fault_that_lasts_is_said_again_after_some_epochs() -> None:
    diagnosis, metrics = Diagnosis(CONFIG), LEARNING | FAULTS["base rate"][0]
    said = [epoch for epoch in range(1, 2 * REPEATED_AFTER + LATE) if diagnosis.sentences(epoch, metrics)]
    assert said == [2, 2 + REPEATED_AFTER, 2 + 2 * REPEATED_AFTER]


def test_another_fault_is_said_at_once() -> None:
    diagnosis = Diagnosis(CONFIG)
    assert diagnosis.sentences(LATE, LEARNING | FAULTS["base rate"][0])
    assert diagnosis.sentences(LATE + 1, LEARNING | FAULTS["values"][0])


def test_lines_without_these_metrics_say_nothing() -> None:
    """Of epochs in which a part did not train."""
    for part in ENOUGH_STEPS:
        left = {name: value for name, value in LEARNING.items() if not name.startswith(part)}
        assert not Diagnosis(CONFIG).sentences(LATE, left)
    assert not Diagnosis(CONFIG).sentences(LATE, {})


def test_at_the_threshold() -> None:
    name = "world_model/train/rewards_vs_base_rate"
    assert Diagnosis(CONFIG).sentences(LATE, LEARNING | {name: AT_BASE_RATE})
    assert not Diagnosis(CONFIG).sentences(LATE, LEARNING | {name: AT_BASE_RATE - 1e-6})


def test_the_tokenizers_faults_wait_for_the_world_model() -> None:
    late = apply_overrides(CONFIG, ["training.world_model.start_after_epochs=30"])
    for fault in ("tokens", "moving"):
        diagnosis, metrics = Diagnosis(late), LEARNING | FAULTS[fault][0]
        assert [epoch for epoch in range(1, 40) if diagnosis.sentences(epoch, metrics)] == [31]


def test_steps_are_those_of_the_schedule() -> None:
    config = apply_overrides(
        CONFIG,
        [
            "training.world_model.steps_per_epoch=7",
            "training.world_model.start_after_epochs=2",
            "training.world_model.stop_after_epochs=5",
        ],
    )
    assert [steps_taken(config, "world_model", epoch) for epoch in range(1, 8)] == [0, 0, 7, 14, 21, 21, 21]


def test_a_run_says_it_after_the_line_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The micro agent's rewards are worse than the base rate's from its first step to its last."""
    monkeypatch.setattr(module, "ENOUGH_STEPS", dict.fromkeys(ENOUGH_STEPS, 4))
    monkeypatch.setattr(module, "MOVING_LEFT_OUT", 9.0)
    assert main(["--game", "Catch", "--run-dir", str(tmp_path / "run"), *MICRO]) == 0
    lines = capsys.readouterr().err.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("not learning"))
    assert "after 6 gradient steps of the world model: rewards are predicted hardly better" in lines[place]
    assert lines[place - 1].startswith("epoch 2/3")
    for record in read_metrics(tmp_path / "run"):
        for part, names in {
            "tokenizer": (
                "codes_used",
                "codebook_perplexity",
                "tokens_entropy",
                "reconstruction_loss_moving",
            ),
            "world_model": (
                "rewards_vs_base_rate",
                "rewards_recall",
                "obs_vs_marginal",
                "loss_obs_position/15",
            ),
            "actor_critic": ("explained_variance", "entropy_vs_maximum", "imagined_rewarded_steps"),
        }.items():
            trains = f"{part}/train/total_loss" in record
            assert all((f"{part}/train/{name}" in record) == trains for name in names), part
