"""Dotted overrides: every type, one sentence for every mistake, and conversion to plain data and back."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from iris_fast.config import (
    PRESETS,
    Config,
    apply_overrides,
    config_keys,
    from_dict,
    ignored_keys,
    preset_config,
    resolve,
    to_dict,
    unresolve,
)
from iris_fast.config.overrides import REMOVED
from iris_fast.errors import UserError

# Keys of the public implementation that mean the same here, each with a value that is not its default.
PUBLIC_OVERRIDES = """
common.epochs=3 common.device=cpu common.seed=5 common.sequence_length=10 common.do_checkpoint=false
wandb.mode=offline wandb.project=p wandb.entity=e wandb.name=n wandb.group=g wandb.notes=t
initialization.path_to_checkpoint=a.pt initialization.load_tokenizer=true
initialization.load_world_model=true initialization.load_actor_critic=true
collection.train.num_envs=2 collection.train.stop_after_epochs=7 collection.train.num_episodes_to_save=3
collection.train.config.epsilon=0.5 collection.train.config.should_sample=false
collection.train.config.temperature=0.7 collection.train.config.num_steps=100
collection.train.config.burn_in=4 collection.test.num_envs=2 collection.test.num_episodes_to_save=3
collection.test.config.epsilon=0.5
collection.test.config.should_sample=false collection.test.config.temperature=0.7
collection.test.config.num_episodes=5 collection.test.config.burn_in=4
datasets.train.max_ram_usage=2G
training.should=false training.learning_rate=0.01
training.tokenizer.batch_num_samples=32 training.tokenizer.grad_acc_steps=2
training.tokenizer.max_grad_norm=1.5 training.tokenizer.start_after_epochs=9
training.tokenizer.steps_per_epoch=11
training.world_model.batch_num_samples=32 training.world_model.grad_acc_steps=2
training.world_model.max_grad_norm=1.5 training.world_model.weight_decay=0.5
training.world_model.start_after_epochs=9 training.world_model.steps_per_epoch=11
training.actor_critic.batch_num_samples=32 training.actor_critic.grad_acc_steps=2
training.actor_critic.max_grad_norm=1.5 training.actor_critic.start_after_epochs=9
training.actor_critic.steps_per_epoch=11 training.actor_critic.imagine_horizon=12
training.actor_critic.burn_in=6 training.actor_critic.gamma=0.9 training.actor_critic.lambda_=0.8
training.actor_critic.entropy_weight=0.01
evaluation.should=false evaluation.every=3
env.train.size=32 env.train.max_episode_steps=1000 env.train.noop_max=4 env.train.frame_skip=2
env.train.done_on_life_loss=false env.train.clip_reward=true
env.test.size=32 env.test.max_episode_steps=1000 env.test.noop_max=4 env.test.frame_skip=2
env.test.done_on_life_loss=true env.test.clip_reward=true
tokenizer.vocab_size=128 tokenizer.embed_dim=64 tokenizer.encoder.config.resolution=32
tokenizer.encoder.config.z_channels=16 tokenizer.encoder.config.ch=8
tokenizer.encoder.config.ch_mult=[1,2] tokenizer.encoder.config.num_res_blocks=1
tokenizer.encoder.config.attn_resolutions=[4]
tokenizer.encoder.config.dropout=0.5
world_model.tokens_per_block=5 world_model.max_blocks=3 world_model.attention=block_causal
world_model.num_layers=2 world_model.num_heads=8 world_model.embed_dim=32 world_model.embed_pdrop=0.5
world_model.resid_pdrop=0.5 world_model.attn_pdrop=0.5
"""
PUBLIC_KEYS = PUBLIC_OVERRIDES.split()


def value_at(config: Config, key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = getattr(node, name)
    return node


def overridden(key: str, text: str) -> Any:
    return value_at(apply_overrides(Config(), [f"{key}={text}"]), key)


@pytest.mark.parametrize("override", PUBLIC_KEYS)
def test_the_public_implementations_keys(override: str) -> None:
    key = override.partition("=")[0]
    changed = apply_overrides(Config(), [override])
    assert value_at(changed, key) != value_at(Config(), key)
    others = [other for other in config_keys() if other != key]
    assert all(value_at(changed, other) == value_at(Config(), other) for other in others)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("common.epochs", "100", 100),
        ("common.epochs", " +100 ", 100),
        ("common.epochs", "1e3", 1000),
        ("common.epochs", "1_000", 1000),
        ("common.epochs", "5.0", 5),
        ("common.seed", "9007199254740993", 2**53 + 1),
        ("training.learning_rate", "3e-4", 3e-4),
        ("training.learning_rate", "1", 1.0),
        ("training.learning_rate", "1_0.5", 10.5),
        ("training.should", "false", False),
        ("training.should", "YES", True),
        ("common.device", "cuda:1", "cuda:1"),
        ("common.precision", "bf16", "bf16"),
        ("world_model.attention", "block_causal", "block_causal"),
        ("common.sequence_length", "null", None),
        ("common.sequence_length", "None", None),
        ("common.sequence_length", "~", None),
        ("common.sequence_length", "7", 7),
        ("training.world_model.learning_rate", "0.5", 0.5),
        ("wandb.entity", "null", None),
        ("wandb.entity", "someone=else", "someone=else"),
        ("tokenizer.encoder.config.ch_mult", "[1, 2,4]", (1, 2, 4)),
        ("tokenizer.encoder.config.ch_mult", "(1,2)", (1, 2)),
        ("tokenizer.encoder.config.ch_mult", "3", (3,)),
        ("tokenizer.encoder.config.attn_resolutions", "[]", ()),
        ("actor_critic.channels", "8,8,16,16", (8, 8, 16, 16)),
    ],
)
def test_every_type(key: str, text: str, expected: object) -> None:
    found = overridden(key, text)
    assert found == expected
    assert type(found) is type(expected)


def test_later_overrides_win_and_a_leading_plus_is_forgiven() -> None:
    config = apply_overrides(Config(), ["common.epochs=1", "+common.epochs=2", "common.seed=3"])
    assert (config.common.epochs, config.common.seed) == (2, 3)


def test_nothing_else_changes() -> None:
    config = Config()
    apply_overrides(config, ["common.epochs=1"])
    assert config == Config()
    assert apply_overrides(config, []) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("common.epochs=ten", "common.epochs=ten: it takes a whole number"),
        ("common.epochs=", "common.epochs=: it takes a whole number"),
        ("common.epochs=1.5", "common.epochs=1.5: it takes a whole number"),
        ("common.epochs=inf", "common.epochs=inf: it takes a whole number"),
        ("common.epochs=null", "common.epochs=null: it takes a whole number"),
        ("training.learning_rate=fast", "training.learning_rate=fast: it takes a number"),
        ("training.learning_rate=nan", "training.learning_rate=nan: it takes a number"),
        ("training.learning_rate=-inf", "training.learning_rate=-inf: it takes a number"),
        ("training.should=1", "training.should=1: it takes true or false"),
        ("common.sequence_length=x", "common.sequence_length=x: it takes a whole number"),
        ("common.precision=bf17", "common.precision=bf17: choose one of auto, float32, tf32, bf16, fp16"),
        ("env.backend=gym", "env.backend=gym: choose one of auto, envpool, ale, catch"),
        ("actor_critic.channels=[8,8]", r"actor_critic.channels=\[8,8\]: it takes 4 values"),
        ("actor_critic.channels=[8,8,8,b]", "actor_critic.channels=b: it takes a whole number"),
        ("common.epochs", "override 'common.epochs': write key=value"),
        ("game=Pong", "override 'game=Pong': use --game Pong"),
        ("preset=small", "override 'preset=small': use --preset small"),
    ],
)
def test_a_wrong_value_in_one_sentence(override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as raised:
        apply_overrides(Config(), [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("common.epoch", "common.epochs"),
        ("training.worldmodel.batch_num_samples", "training.world_model.batch_num_samples"),
        ("training.world_model.batch_size", "training.world_model.batch_num_samples"),
        ("Common.Seed", "common.seed"),
        ("epochs", "common.epochs"),
        ("lambda_", "training.actor_critic.lambda_"),
        ("zzz", "--list-keys shows all"),
        ("common", "common."),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"^there is no configuration key '{key}'") as raised:
        apply_overrides(Config(), [f"{key}=1"])
    assert nearest in str(raised.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_there_and_back_through_yaml(preset: str) -> None:
    for config in (preset_config(preset, "Breakout"), resolve(preset_config(preset, "Breakout"))):
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        assert from_dict(yaml.safe_load(text), Config) == config


def test_overridden_trees_there_and_back_through_yaml() -> None:
    config = apply_overrides(Config(), PUBLIC_KEYS)
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config))), Config) == config


def test_missing_keys_take_their_defaults() -> None:
    """A run folder of an earlier version still reads."""
    assert from_dict({"common": {"epochs": 4}}, Config) == apply_overrides(Config(), ["common.epochs=4"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"comon": {}}, r"there is no configuration key 'comon' \(nearest: common"),
        ({"common": {"epoch": 3}}, r"there is no configuration key 'common.epoch' \(nearest: epochs\)"),
        ({"common": 3}, "the configuration's 'common' is not a table of keys"),
        ([1], "the configuration's '' is not a table of keys"),
        ({"common": {"epochs": "many"}}, "common.epochs=many: it takes a whole number"),
        ({"common": {"epochs": True}}, "common.epochs=True: it takes a whole number"),
        ({"training": {"should": 1}}, "training.should=1: it takes true or false"),
        ({"actor_critic": {"channels": [1, 2]}}, "actor_critic.channels=1,2: it takes 4 values"),
    ],
)
def test_damaged_data_in_one_sentence(data: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(data, Config)


def test_an_override_of_a_resolved_configuration_reaches_what_followed_its_key() -> None:
    saved = resolve(
        apply_overrides(preset_config("paper", "Pong"), ["training.world_model.learning_rate=0.5"])
    )
    assert resolve(unresolve(saved)) == saved
    changed = ["training.learning_rate=0.25", "common.sequence_length=10", "training.actor_critic.burn_in=7"]
    config = resolve(apply_overrides(unresolve(saved), changed))
    training = config.training
    rates = [part.learning_rate for part in (training.tokenizer, training.world_model, training.actor_critic)]
    assert rates == [0.25, 0.5, 0.25]
    assert training.actor_critic.imagine_horizon == 10
    assert (config.collection.train.config.burn_in, config.collection.test.config.burn_in) == (7, 7)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_a_node_checks_does_not_depend_on_the_order_of_overrides(reverse: bool) -> None:
    overrides = ["env.train.max_episode_steps=20", "env.train.noop_max=1"]
    config = apply_overrides(preset_config("tiny", "Pong"), overrides[::-1] if reverse else overrides)
    assert (config.env.train.max_episode_steps, config.env.train.noop_max) == (20, 1)
    assert apply_overrides(config, ["common.seed=1", "common.seed=2"]).common.seed == 2


@pytest.mark.parametrize("key", REMOVED)
def test_a_key_of_a_former_version_is_called_so(key: str) -> None:
    with pytest.raises(UserError, match=f"no configuration key '{key}' any more: ") as error:
        apply_overrides(Config(), [f"{key}=false"])
    assert "\n" not in str(error.value)
    assert key not in config_keys()


def test_a_configuration_of_a_former_version_is_read_without_its_keys() -> None:
    data = to_dict(Config())
    for key, (held, _) in REMOVED.items():
        *path, last = key.split(".")
        node = data
        for name in path:
            node = node[name]
        node[last] = held
    assert from_dict(data, Config) == Config()
    assert ignored_keys(data) == []
    data["datasets"]["train"]["cache"] = False
    assert from_dict(data, Config) == Config()
    (line,) = ignored_keys(data)
    assert line.startswith("ignored: datasets.train.cache=False, which is no configuration key any more: ")
    with pytest.raises(UserError, match=r"no configuration key 'datasets\.train\.cash'"):
        from_dict({"datasets": {"train": {"cash": 1}}}, Config)
