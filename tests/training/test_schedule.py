"""The phases of an epoch: docs/iris.md, part 7."""

from __future__ import annotations

import pytest

from iris_fast.agent import PARTS
from iris_fast.config import PRESETS, apply_overrides, preset_config
from iris_fast.training.announcements import announced_schedule
from iris_fast.training.schedule import PHASES, epoch_phases

PAPER = preset_config("paper", "Pong")
COLLECTION, EVALUATION = {"collection": 200}, {"evaluation": 16}
TOKENIZER, WORLD_MODEL, ACTOR_CRITIC = ({part: 200} for part in PARTS)


@pytest.mark.parametrize(
    ("epoch", "phases"),
    [
        (1, COLLECTION),
        (4, COLLECTION),
        (5, COLLECTION | EVALUATION),
        (6, COLLECTION | TOKENIZER),
        (10, COLLECTION | TOKENIZER | EVALUATION),
        (25, COLLECTION | TOKENIZER | EVALUATION),
        (26, COLLECTION | TOKENIZER | WORLD_MODEL),
        (50, COLLECTION | TOKENIZER | WORLD_MODEL | EVALUATION),
        (51, COLLECTION | TOKENIZER | WORLD_MODEL | ACTOR_CRITIC),
        (500, COLLECTION | TOKENIZER | WORLD_MODEL | ACTOR_CRITIC | EVALUATION),
        (501, TOKENIZER | WORLD_MODEL | ACTOR_CRITIC),
        (600, TOKENIZER | WORLD_MODEL | ACTOR_CRITIC | EVALUATION),
    ],
)
def test_the_papers_epochs(epoch: int, phases: dict[str, int]) -> None:
    assert epoch_phases(PAPER, epoch) == phases


def test_the_papers_run() -> None:
    epochs = [epoch_phases(PAPER, epoch) for epoch in range(1, PAPER.common.epochs + 1)]
    totals = {name: sum(phases.get(name, 0) for phases in epochs) for name in PHASES}
    assert totals == {
        "collection": 100_000,
        "tokenizer": 595 * 200,
        "world_model": 575 * 200,
        "actor_critic": 550 * 200,
        "evaluation": 120 * 16,
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_phases_come_in_order(preset: str) -> None:
    config = preset_config(preset, "Pong")
    for epoch in range(1, config.common.epochs + 1):
        names = list(epoch_phases(config, epoch))
        assert names == [name for name in PHASES if name in names]


def test_phases_can_be_left_out() -> None:
    config = apply_overrides(
        PAPER, ["training.should=false", "evaluation.should=false", "collection.train.stop_after_epochs=0"]
    )
    assert epoch_phases(config, 100) == {}
    assert epoch_phases(apply_overrides(PAPER, ["evaluation.every=1"]), 1) == COLLECTION | EVALUATION


def test_a_part_that_stops_early() -> None:
    config = apply_overrides(PAPER, ["training.tokenizer.stop_after_epochs=7"])
    trained = [epoch for epoch in range(1, 12) if "tokenizer" in epoch_phases(config, epoch)]
    assert trained == [6, 7]


@pytest.mark.parametrize("preset", ["small", "tiny"])
def test_a_small_preset_that_is_made_longer_goes_on_collecting(preset: str) -> None:
    config = preset_config(preset, "Catch")
    for epochs in (config.common.epochs, 2 * config.common.epochs):
        longer = apply_overrides(config, [f"common.epochs={epochs}"])
        assert "collection" in epoch_phases(longer, epochs)
    stopped = apply_overrides(config, ["collection.train.stop_after_epochs=3"])
    assert "collection" in epoch_phases(stopped, 3) and "collection" not in epoch_phases(stopped, 4)


def test_a_run_says_which_parts_train_and_when() -> None:
    assert announced_schedule(preset_config("tiny", "Catch")) == [
        "schedule, in epochs: collection 1 to 44, tokenizer 1 to 12, world model 9 to 44, actor-critic 21 to 44, "
        "evaluation 6 to 42 (every 6)"
    ]
    assert announced_schedule(apply_overrides(PAPER, ["training.should=false"]))[1:] == [
        "nothing trains: training.should=false"
    ]


def test_what_would_never_be_trained_or_evaluated_is_said_with_what_to_set() -> None:
    config = apply_overrides(preset_config("tiny", "Catch"), ["common.epochs=3"])
    plan, evaluation, world_model, actor_critic = announced_schedule(config)
    assert plan == "schedule, in epochs: collection 1 to 3, tokenizer 1 to 3"
    assert "the run ends with epoch 3 (set evaluation.every=3 or less)" in evaluation
    assert world_model == (
        "the world model will not train: it begins after epoch 8 and the run ends with epoch 3 "
        "(set common.epochs above 8, or training.world_model.start_after_epochs below 3)"
    )
    assert "set common.epochs above 20" in actor_critic
    once = apply_overrides(config, ["common.epochs=1", "evaluation.every=1"])
    assert announced_schedule(once)[0] == (
        "schedule, in epochs: collection 1, tokenizer 1, evaluation 1 (every 1)"
    )
    for mended in (
        ["common.epochs=21"],
        [
            "evaluation.every=3",
            "training.world_model.start_after_epochs=2",
            "training.actor_critic.start_after_epochs=2",
        ],
    ):
        assert len(announced_schedule(apply_overrides(config, mended))) == 1
    stopped = apply_overrides(PAPER, ["training.tokenizer.stop_after_epochs=5"])
    (_, why) = announced_schedule(stopped)
    assert "stop_after_epochs=5 is no later than training.tokenizer.start_after_epochs=5" in why
