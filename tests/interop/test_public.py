"""Reading and writing the public implementation's state dict."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent, AgentConfig
from iris_fast.errors import UserError
from iris_fast.interop.public import from_public, infer_config, public_constants, public_overrides, to_public
from iris_fast.models.actor_critic import ActorCriticConfig
from iris_fast.models.perceptual import LPIPS
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig
from tests.golden.recipe import STATE_DICT_FILE, golden_agent

from .conftest import small_config


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert list(left) == list(right)
    for name, value in left.items():
        assert value.dtype == right[name].dtype and torch.equal(value, right[name]), name


def test_export_has_the_published_names_shapes_and_order() -> None:
    description = json.loads(STATE_DICT_FILE.read_text())
    agent = golden_agent(1, 6)
    exported = to_public(agent.state_dict(), agent.config)
    assert list(exported) == description["state_dict_order"]
    shapes = description["parameters"] | description["buffers"]
    assert {name: list(value.shape) for name, value in exported.items()} == shapes
    assert {value.dtype for name, value in exported.items() if not name.endswith("indices")} == {
        torch.float32
    }
    assert all(value.is_contiguous() for value in exported.values())


def test_published_to_ours_to_published_changes_no_bit(published: dict[str, Tensor]) -> None:
    config = infer_config(published)
    assert config == AgentConfig()
    own = from_public(published)
    agent = Agent(config, 6)
    agent.tokenizer.attach_lpips(LPIPS())
    agent.load_state_dict(own)  # strict
    assert_identical(to_public(agent.state_dict(), config), published)


def test_perceptual_network_may_be_absent_or_come_from_elsewhere(
    published: dict[str, Tensor], lpips: LPIPS
) -> None:
    without = {name: value for name, value in published.items() if ".lpips." not in name}
    assert_identical(to_public(from_public(without), AgentConfig()), without)
    assert_identical(to_public(from_public(without), AgentConfig(), lpips.state_dict()), published)


@pytest.mark.parametrize("attention", ["causal", "block_causal"])
def test_sizes_are_read_off_the_shapes(attention: str) -> None:
    config = small_config(attention=attention)
    exported = to_public(golden_agent(3, 5, config, with_lpips=False).state_dict(), config)
    assert infer_config(exported) == config
    assert infer_config(exported, num_heads=8).world_model.num_heads == 8


def test_constants_of_block_causal_attention() -> None:
    constants = public_constants(TransformerConfig(max_blocks=2, attention="block_causal", num_layers=1))
    mask = constants["world_model.transformer.blocks.0.attn.mask"]
    blocks = torch.block_diag(torch.ones(17, 17), torch.ones(17, 17))
    assert torch.equal(mask, torch.maximum(torch.ones(34, 34).tril(), blocks))


def test_overrides_name_what_differs_from_the_papers_agent() -> None:
    assert public_overrides(AgentConfig()) == []
    overrides = public_overrides(small_config())
    assert "tokenizer.encoder.config.ch_mult=[1,2,1]" in overrides
    assert "world_model.num_layers=2" in overrides
    assert not [key for key in overrides if "num_heads" in key or "norm_groups" in key]


def test_what_the_public_implementation_cannot_hold_is_refused(small_agent: Agent) -> None:
    config = AgentConfig(actor_critic=ActorCriticConfig(lstm_dim=128))
    with pytest.raises(UserError, match=r"actor_critic\.lstm_dim is 128 .* always 512"):
        to_public(small_agent.state_dict(), config)
    config = AgentConfig(tokenizer=TokenizerConfig(background=True))
    with pytest.raises(UserError, match=r"tokenizer\.background is True .* always False"):
        to_public(small_agent.state_dict(), config)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("world_model.pos_emb.weight", None, r"lacks world_model\.pos_emb\.weight"),
        ("actor_critic.conv9.weight", torch.zeros(1), r"it has actor_critic\.conv9\.weight"),
        ("tokenizer.decoder.conv_in.bias", torch.zeros(3), r"tokenizer\.decoder\.conv_in\.bias is .* \(3,\)"),
        ("world_model.ln_f.bias", torch.zeros(3), r"it has world_model\.ln_f\.bias"),
        (
            "world_model.head_ends.indices",
            torch.zeros(2, dtype=torch.int64),
            r"constant .*head_ends\.indices",
        ),
    ],
)
def test_another_state_dict_is_refused(
    small_agent: Agent, name: str, value: Tensor | None, sentence: str
) -> None:
    exported = to_public(small_agent.state_dict(), small_agent.config)
    if value is None:
        del exported[name]
    else:
        exported[name] = value
    with pytest.raises(UserError, match=sentence):
        from_public(exported)
