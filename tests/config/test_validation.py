"""The rules for configurations, and the promises of presets."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from iris_fast.config import PRESETS, Config, apply_overrides, config_keys, preset_config, resolve, validate
from iris_fast.config.schema import memory_bytes
from iris_fast.config.validation import RANGES, _leaves
from iris_fast.errors import UserError


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset: str) -> None:
    config = preset_config(preset, "Pong")
    assert (config.preset, config.game) == (preset, "Pong")
    validate(config)
    validate(resolve(config))


def test_an_unknown_preset_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    from iris_fast.command_line import run_command
    from iris_fast.train import main

    assert run_command(main, ["--game", "Catch", "--preset", "papr"]) == 2
    message = capsys.readouterr().err
    assert message == "error: there is no preset 'papr' (nearest: paper): choose paper, small, tiny\n"


def all_sizes(size: int) -> list[str]:
    keys = ("tokenizer.encoder.config.resolution", "env.train.size", "env.test.size")
    return [f"{key}={size}" for key in keys]


BATCHES = [f"training.{part}.batch_num_samples" for part in ("tokenizer", "world_model", "actor_critic")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *[(f"{key}=0", f"{key}=0: it must be at least 1") for key in BATCHES],
        ("common.epochs=0", "common.epochs=0: it must be at least 1"),
        ("common.sequence_length=0", "common.sequence_length=0: it must be at least 1"),
        ("collection.train.num_envs=-1", "collection.train.num_envs=-1: it must be at least 1"),
        ("collection.test.config.num_episodes=0", "it must be at least 1"),
        ("training.tokenizer.pieces=0", "training.tokenizer.pieces=0: it must be at least 1"),
        ("evaluation.every=0", "evaluation.every=0: it must be at least 1"),
        ("training.learning_rate=0", "training.learning_rate=0.0: it must be above 0"),
        ("training.world_model.max_grad_norm=-1", "max_grad_norm=-1.0: it must be above 0"),
        ("collection.test.config.temperature=0", "temperature=0.0: it must be above 0"),
        ("collection.train.config.epsilon=1.5", "epsilon=1.5: it must lie between 0 and 1"),
        ("training.actor_critic.gamma=-0.1", "gamma=-0.1: it must lie between 0 and 1"),
        ("world_model.attn_pdrop=2", "attn_pdrop=2.0: it must lie between 0 and 1"),
        ("training.actor_critic.burn_in=-1", "burn_in=-1: it must not be negative"),
        ("training.world_model.weight_decay=-1", "weight_decay=-1.0: it must not be negative"),
        ("common.seed=-1", "common.seed=-1: it must not be negative"),
        ("world_model.tokens_per_block=16", "makes 16 tokens a frame, so it must be 17"),
        ("world_model.num_heads=3", "embed_dim=256: it must be a multiple of world_model.num_heads=3"),
        ("tokenizer.perceptual_weight=0", "tokenizer.perceptual_weight=0"),
        ("tokenizer.encoder.config.ch=48", "must be a multiple of norm_groups=32"),
        ("tokenizer.encoder.config.ch_mult=[1,1,1,1,0]", r"ch_mult=\[1, 1, 1, 1, 0\]: it must be at least 1"),
        ("tokenizer.encoder.config.ch_mult=[]", r"ch_mult=\[\]: give a number for each level"),
        ("env.test.size=84", "env.test.size=84: it must equal"),
        ("common.sequence_length=21", "the context holds world_model.max_blocks=20 blocks"),
        ("env.train.size=84", "it must equal tokenizer.encoder.config.resolution=64"),
        ("training.tokenizer.pieces=3", "it must divide training.tokenizer.batch_num_samples=256"),
        ("datasets.train.max_ram_usage=lots", "max_ram_usage=lots: give a size such as 30G"),
        ("datasets.test.max_ram_usage=1X", "max_ram_usage=1X: give a size such as 30G"),
        ("datasets.train.cache_max_ram_usage=-1G", "cache_max_ram_usage=-1G: give a size such as 30G"),
        ("training.actor_critic.imagine_horizon=1", "imagine_horizon=1: it must be at least 2"),
        ("actor_critic.channels=[8,0,8,8]", r"actor_critic.channels=\[8, 0, 8, 8\]: it must be at least 1"),
    ],
)
def test_what_could_not_work_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        validate(apply_overrides(Config(), [override]))
    assert "\n" not in str(raised.value)
    assert override.partition("=")[0].split(".")[0] in str(raised.value), "it names the key"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # A rollout's last step gives no term, so one of a single step would teach nothing.
        (["common.sequence_length=1"], "imagine_horizon=1: it must be at least 2"),
        (["world_model.max_blocks=1"], "world_model.max_blocks=1: it must be at least 2"),
        (
            [*all_sizes(60), "world_model.tokens_per_block=10"],
            "resolution=60: it must be a multiple of 16",
        ),
        (
            [*all_sizes(8), "tokenizer.encoder.config.ch_mult=[1,1]"],
            "resolution=8: it must be at least 16",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(apply_overrides(Config(), overrides))


@pytest.mark.parametrize(
    "override",
    [
        "training.actor_critic.burn_in=0",
        "collection.train.config.epsilon=1",
        "collection.train.config.epsilon=0",
        "training.tokenizer.start_after_epochs=0",
        "common.threads=0",
        "evaluation.num_imagined_episodes=0",
        "training.tokenizer.pieces=256",
        "common.sequence_length=20",
        "training.actor_critic.imagine_horizon=50",
    ],
)
def test_what_works_at_the_edge_is_accepted(override: str) -> None:
    validate(apply_overrides(Config(), [override]))


def test_resolve_fills_what_was_left_open() -> None:
    config = resolve(apply_overrides(Config(), ["training.world_model.learning_rate=0.5"]))
    assert config.common.sequence_length == 20
    assert config.training.actor_critic.imagine_horizon == 20
    assert config.training.tokenizer.learning_rate == 1e-4
    assert config.training.actor_critic.learning_rate == 1e-4
    assert config.training.world_model.learning_rate == 0.5
    assert config.collection.train.config.burn_in == config.collection.test.config.burn_in == 20
    assert resolve(config) == config


def test_resolve_follows_the_keys_it_takes_values_from() -> None:
    overrides = ["common.sequence_length=7", "training.learning_rate=0.25", "training.actor_critic.burn_in=3"]
    config = resolve(apply_overrides(Config(), [*overrides, "collection.test.config.burn_in=0"]))
    assert config.training.actor_critic.imagine_horizon == 7
    assert config.training.tokenizer.learning_rate == 0.25
    assert config.collection.train.config.burn_in == 3
    assert config.collection.test.config.burn_in == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30G", 30 * 10**9),
        ("1.5g", 1_500_000_000),
        ("500M", 500 * 10**6),
        ("64k", 64_000),
        ("1T", 10**12),
        ("123", 123),
        ("0", 0),
    ],
)
def test_memory_sizes(text: str, expected: int) -> None:
    assert memory_bytes(text, "key") == expected


@pytest.mark.parametrize("text", ["", "G", "-1", "30GB", "1 2G", "nan", "inf", "infG", "1e999"])
def test_wrong_memory_sizes(text: str) -> None:
    with pytest.raises(
        UserError, match=f"^some.key={text}: give a size such as 30G, 500M or a number of bytes"
    ):
        memory_bytes(text, "some.key")


def test_the_paper_preset_is_the_paper() -> None:
    """docs/iris.md, parts 2 to 7: what the published scores came from."""
    config = resolve(preset_config("paper", "Pong"))
    tokenizer, model, training = config.tokenizer, config.world_model, config.training
    assert (tokenizer.vocab_size, tokenizer.embed_dim, tokenizer.tokens_per_frame) == (512, 512, 16)
    assert tokenizer.perceptual == "lpips"
    assert tokenizer.restart_codes_every == 0
    assert (model.tokens_per_block, model.max_blocks, model.max_tokens) == (17, 20, 340)
    assert (model.num_layers, model.num_heads, model.embed_dim, model.attention) == (10, 4, 256, "causal")
    assert (model.embed_pdrop, model.resid_pdrop, model.attn_pdrop) == (0.1, 0.1, 0.1)
    assert [training.tokenizer.batch_num_samples, training.world_model.batch_num_samples] == [256, 64]
    assert training.actor_critic.batch_num_samples == 64
    part = training.actor_critic
    assert (part.gamma, part.lambda_, part.entropy_weight, part.burn_in) == (0.995, 0.95, 0.001, 20)
    assert part.imagine_horizon == 20
    assert training.learning_rate == 1e-4
    assert training.world_model.weight_decay == 0.01
    train, test = config.collection.train, config.collection.test
    assert (train.num_envs, train.config.num_steps, train.config.epsilon, train.config.temperature) == (
        1,
        200,
        0.01,
        1.0,
    )
    assert (test.num_envs, test.config.num_episodes, test.config.epsilon, test.config.temperature) == (
        8,
        16,
        0.0,
        0.5,
    )
    assert (config.env.train.max_episode_steps, config.env.train.noop_max) == (20_000, 30)
    assert config.env.train.done_on_life_loss
    assert (config.env.test.max_episode_steps, config.env.test.noop_max) == (108_000, 1)
    assert not config.env.test.done_on_life_loss
    assert not config.env.train.clip_reward


def test_every_number_has_a_range() -> None:
    for preset in PRESETS:
        for key, value in _leaves(preset_config(preset, "Pong")):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    assert key.rsplit(".", 1)[-1] in RANGES, key
    for key, hint in config_keys().items():
        if {"int", "float"} & set(re.findall(r"\b(?:int|float)\b", str(hint))):
            assert key.rsplit(".", 1)[-1] in RANGES, key


NUMBERS = [key for key, hint in config_keys().items() if re.search(r"\b(?:int|float)\b", str(hint))]


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_outside_of_their_range_are_refused_by_name(key: str) -> None:
    floating = "float" in str(config_keys()[key])
    values: list[float] = [math.nan, math.inf, -math.inf, 1e39, -1.0] if floating else [-1, 10**30]
    *above, name = key.split(".")
    for value in values:
        config = preset_config("tiny", "Catch")
        holder: Any = config
        for part in above:
            holder = getattr(holder, part)
        given: Any = value
        if isinstance(getattr(holder, name), tuple):
            given = (value,) * max(1, len(getattr(holder, name)))
        # EnvConfig checks itself, and knows the last word of the key alone.
        with pytest.raises(UserError, match=f"{name}="):
            node: Any = replace(holder, **{name: given})
            for depth in range(len(above) - 1, -1, -1):  # each of the nodes above, with what changed below
                parent: Any = config
                for part in above[:depth]:
                    parent = getattr(parent, part)
                node = replace(parent, **{above[depth]: node})
            validate(node)


@pytest.mark.parametrize("value", ["1e-39", "1e-320", "1e39", "1e38"])
def test_a_temperature_that_float32_cannot_divide_by_is_refused(value: str) -> None:
    config = apply_overrides(Config(), [f"collection.test.config.temperature={value}"])
    with pytest.raises(UserError, match=r"collection.test.config.temperature=.*: it must be at (least|most)"):
        validate(config)
