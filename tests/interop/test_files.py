"""Weights files: both kinds are read, anything else is refused in one sentence, and writing is atomic."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_fast.agent import Agent, AgentConfig, config_from_dict, config_to_dict
from iris_fast.config.overrides import config_keys
from iris_fast.errors import UserError
from iris_fast.interop.files import (
    FREE_KEYS,
    Weights,
    check_fits,
    lpips_weights,
    read_payload,
    read_weights,
    save_atomically,
    write_weights,
)
from iris_fast.interop.public import to_public
from iris_fast.models.perceptual import LPIPS
from tests.golden.recipe import golden_agent

from .conftest import small_config


class RunsCode:
    """Its pickle touches a file when it is loaded."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.witness}",))


@pytest.fixture
def ours(tmp_path: Path, small_agent: Agent) -> Path:
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    write_weights(path, small_agent.state_dict(), small_agent.config, 5, {"epoch": 7})
    return path


@pytest.fixture
def public(tmp_path: Path, small_agent: Agent) -> Path:
    path = tmp_path / "public.pt"
    torch.save(to_public(small_agent.state_dict(), small_agent.config), path)
    return path


def refusal(path: Path) -> str:
    """The sentence that reading `path` ends with."""
    with pytest.raises(UserError) as caught:
        read_weights(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.count(". ") == 0
    return sentence


def test_both_forms_give_the_same_agent(ours: Path, public: Path, small_agent: Agent) -> None:
    for path, kind in ((ours, "iris_fast"), (ours.parents[1], "iris_fast"), (public, "public")):
        weights = read_weights(path)
        assert (weights.kind, weights.num_actions) == (kind, 5)
        assert config_from_dict(weights.agent_config) == small_agent.config
        other = Agent(small_agent.config, 5)
        check_fits(weights, other)
        other.load_parts(weights.state_dict)
        for name, value in small_agent.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


def test_the_trainers_keys_come_back(ours: Path) -> None:
    assert read_payload(ours.parents[1])["epoch"] == 7


def test_no_code_of_a_file_runs(tmp_path: Path, ours: Path) -> None:
    witness = tmp_path / "ran"
    payload = read_payload(ours)
    for path, content in (
        (tmp_path / "a.pt", RunsCode(witness)),
        (tmp_path / "b.pt", payload | {"extra": RunsCode(witness)}),
    ):
        torch.save(content, path)
        assert "holds Python objects besides weights" in refusal(path)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(RunsCode(witness)))
    assert str(tmp_path / "c.pt") in refusal(tmp_path / "c.pt")
    assert not witness.exists()


def test_truncated_at_any_length_is_refused(ours: Path, tmp_path: Path) -> None:
    whole, path = ours.read_bytes(), tmp_path / "cut.pt"
    for length in (0, 1, 64, 4096, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "not a checkpoint" in refusal(path), length


def test_a_flipped_bit_is_noticed(ours: Path, tmp_path: Path) -> None:
    content = bytearray(ours.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "flipped.pt"
    path.write_bytes(content)
    assert "is corrupt (the checksum of" in refusal(path)


def test_foreign_files_are_refused(tmp_path: Path, ours: Path) -> None:
    path = tmp_path / "foreign.pt"
    path.write_text("a text file")
    assert "not a checkpoint" in refusal(path)
    contents: list[Any] = [{"weight": torch.ones(3)}, [1, 2], {"state": {}, "param_groups": []}, {}]
    for content in contents:
        torch.save(content, path)
        assert "not a checkpoint of an IRIS agent" in refusal(path)
    torch.save(read_payload(ours) | {"version": 2}, path)
    assert "upgrade iris_fast" in refusal(path)
    torch.save({"format": "iris_fast", "version": 1, "num_actions": 4}, path)
    assert "lacks 'config'" in refusal(path)


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path, public: Path) -> None:
    assert "nearest: public.pt" in refusal(tmp_path / "publik.pt")
    assert "without checkpoints/last.pt" in refusal(tmp_path)
    assert "there is no checkpoint" in refusal(tmp_path / "no" / "such" / "file.pt")


def misfit(weights: Weights, agent: Agent, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        check_fits(weights, agent, parts or ("tokenizer", "world_model", "actor_critic"))
    return str(caught.value)


def test_another_number_of_actions_is_said_so(ours: Path) -> None:
    weights, agent = read_weights(ours), Agent(small_config(), 6)
    assert "was trained with 5 actions and this game has 6" in misfit(weights, agent)
    assert "5 actions" in misfit(weights, agent, "actor_critic")
    check_fits(weights, agent, ["tokenizer"])


@pytest.mark.parametrize("kind", ["ours", "public"])
def test_another_architecture_is_said_in_the_users_terms(kind: str, request: pytest.FixtureRequest) -> None:
    weights = read_weights(request.getfixturevalue(kind))
    deeper = Agent(small_config(num_layers=3, attention="block_causal"), 5)
    sentence = misfit(weights, deeper)
    assert "world_model.num_layers is 2 there and 3 here" in sentence
    assert "world_model.attention is causal there and block_causal here" in sentence
    check_fits(weights, deeper, ["tokenizer", "actor_critic"])
    paper = Agent(AgentConfig(), 5)
    assert "tokenizer.vocab_size is 48 there and 512 here" in misfit(weights, paper, "world_model")


def test_number_of_heads_matters_where_it_is_known(ours: Path, public: Path) -> None:
    agent = Agent(small_config(num_heads=8), 5)  # the same names and shapes
    assert "world_model.num_heads is 4 there and 8 here" in misfit(read_weights(ours), agent)
    check_fits(read_weights(public), agent)


def test_dropout_and_choice_of_loss_do_not_matter(ours: Path) -> None:
    check_fits(read_weights(ours), Agent(small_config(attn_pdrop=0.5), 5))


def test_a_configuration_that_lies_about_its_weights_is_caught(ours: Path, small_agent: Agent) -> None:
    payload = read_payload(ours)
    payload["agent"]["world_model.pos_emb.weight"] = torch.zeros(3, 32)
    torch.save(payload, ours)
    assert "world_model.pos_emb.weight of shape (3, 32)" in misfit(read_weights(ours), small_agent)
    del payload["agent"]["world_model.pos_emb.weight"]
    torch.save(payload, ours)
    assert "lacks the parameter world_model.pos_emb.weight" in misfit(read_weights(ours), small_agent)


def test_perceptual_network_is_found_and_does_not_disturb(
    small_agent: Agent, lpips: LPIPS, tmp_path: Path
) -> None:
    assert lpips_weights(small_agent.state_dict()) is None
    carried = {f"tokenizer.lpips.{name}": value for name, value in lpips.state_dict().items()}
    path = tmp_path / "with.pt"
    write_weights(path, small_agent.state_dict() | carried, small_agent.config, 5)
    weights = read_weights(path)
    found = lpips_weights(weights.state_dict)
    assert found is not None and found.keys() == lpips.state_dict().keys()
    check_fits(weights, small_agent)
    del weights.state_dict["tokenizer.lpips.lin0.model.1.weight"]
    with pytest.raises(UserError, match=r"lacks lin0\.model\.1\.weight"):
        lpips_weights(weights.state_dict)


def test_configuration_survives_as_plain_data() -> None:
    config = small_config()
    assert config_from_dict(config_to_dict(config)) == config
    assert config_from_dict({}) == AgentConfig()
    with pytest.raises(UserError, match="unknown key 'rotary'"):
        config_from_dict({"world_model": {"rotary": True}})


def test_a_full_disk_leaves_the_old_file(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ours.read_bytes()
    real_open = builtins.open

    def open_full(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real_open(
            "/dev/full" if mode == "xb" else path, "wb" if mode == "xb" else mode, *args, **kwargs
        )

    monkeypatch.setattr(builtins, "open", open_full)
    with pytest.raises(OSError, match="No space left"):
        save_atomically({"agent": torch.zeros(100_000)}, ours)
    assert ours.read_bytes() == before and os.listdir(ours.parent) == ["last.pt"]


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, small_agent: Agent) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(TypeError, match=r"optimizer\.lr holds a \w*Path"):
        write_weights(path, small_agent.state_dict(), small_agent.config, 5, {"optimizer": {"lr": path}})
    with pytest.raises(ValueError, match="agent"):
        write_weights(path, small_agent.state_dict(), small_agent.config, 5, {"agent": {}})
    assert not path.exists()


def test_extra_plain_data_survives(tmp_path: Path) -> None:
    agent = golden_agent(2, 4, small_config(), with_lpips=False)
    optimizer = torch.optim.Adam(agent.actor_critic.parameters(), lr=1e-3)
    agent.actor_critic.actor_linear.weight.sum().backward()
    optimizer.step()
    extra = {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state(), "steps": [1, (2.5, None)]}
    write_weights(tmp_path / "x.pt", agent.state_dict(), agent.config, 4, extra)
    payload = read_payload(tmp_path / "x.pt")
    assert payload["steps"] == [1, (2.5, None)] and torch.equal(payload["random"], extra["random"])  # type: ignore[arg-type]
    optimizer.load_state_dict(payload["optimizer"])


def test_every_setting_that_is_not_a_size_is_free() -> None:
    """A new field must be put on one side or the other: weights depend on it, or a run may change it."""
    autoencoder = "resolution ch ch_mult num_res_blocks attn_resolutions z_channels norm_groups"
    sizes = {f"tokenizer.encoder.config.{name}" for name in autoencoder.split()}
    sizes |= {f"tokenizer.{name}" for name in ("vocab_size", "embed_dim", "background")}
    transformer = "tokens_per_block max_blocks attention num_layers num_heads embed_dim"
    sizes |= {f"world_model.{name}" for name in transformer.split()}
    sizes |= {"actor_critic.channels", "actor_critic.lstm_dim"}
    keys = set(config_keys(AgentConfig))
    assert sizes <= keys
    assert keys - sizes == FREE_KEYS


def test_settings_of_a_former_version_are_left_out() -> None:
    content = config_to_dict(AgentConfig())
    content["tokenizer"]["codebook_init"] = None
    content["tokenizer"]["encoder"]["config"] |= {"in_channels": 3, "out_ch": 3}
    assert config_from_dict(content) == AgentConfig()
