"""An accelerated agent is copied, pickled, changed and refused like the public implementation's."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

from iris_fast.errors import UserError
from iris_fast.interop.accelerate import accelerate
from tests.interop.stand_in import ActorCritic, PublicAgent, dream, segments


@pytest.fixture
def agent() -> Any:
    return accelerate(PublicAgent())


def by_torch_save(agent: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(agent, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda agent: pickle.loads(pickle.dumps(agent)),
    "cloudpickle": lambda agent: pickle.loads(cloudpickle.dumps(agent)),
    "torch.save": by_torch_save,
    "accelerated again": lambda agent: accelerate(copy.deepcopy(agent)),
}


@torch.no_grad()
def flip_policy(actor_critic: nn.Module) -> None:
    for parameter in actor_critic.get_submodule("actor_linear").parameters():
        parameter.neg_()


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("imagined_before", [True, False])
def test_a_copy_dreams_the_same_and_then_by_its_own_weights(
    agent: Any, way: str, imagined_before: bool
) -> None:
    if imagined_before:
        dream(agent)
    other = COPIES[way](agent)
    assert isinstance(other.actor_critic, ActorCritic)
    expected = dream(agent)
    assert torch.equal(dream(other), expected)
    flip_policy(other.actor_critic)
    torch.testing.assert_close(dream(other), -expected)
    assert torch.equal(dream(agent), expected)


def test_a_copy_of_the_policy_alone_dreams_in_the_same_world_by_its_own_weights(agent: Any) -> None:
    expected = dream(agent)
    target = copy.deepcopy(agent.actor_critic)
    flip_policy(target)
    torch.testing.assert_close(dream(agent, target), -expected)
    assert torch.equal(dream(agent), expected)


def test_gradients_reach_the_copys_own_parameters(agent: Any) -> None:
    other = copy.deepcopy(agent)
    dream(other).sum().backward()
    assert other.actor_critic.actor_linear.weight.grad is not None
    assert agent.actor_critic.actor_linear.weight.grad is None


def test_a_pickle_is_the_accelerated_agent_in_another_process(agent: Any, tmp_path: Path) -> None:
    (tmp_path / "agent.pkl").write_bytes(pickle.dumps(agent))
    program = (
        "import pickle, sys, torch; from tests.interop.stand_in import dream; torch.set_num_threads(1); "
        "torch.save(dream(pickle.load(open('agent.pkl', 'rb'))).detach(), 'logits.pt')"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {program}"],
        cwd=tmp_path,
        check=True,
    )
    assert torch.equal(torch.load(tmp_path / "logits.pt"), dream(agent).detach())


def test_a_part_that_was_replaced_is_the_one_imagined_with(agent: Any) -> None:
    dream(agent)
    other = accelerate(PublicAgent(seed=1))
    agent.world_model, agent.tokenizer = other.world_model, other.tokenizer
    expected = dream(other, copy.deepcopy(agent.actor_critic))
    assert torch.equal(dream(agent), expected)
    agent.actor_critic = PublicAgent(seed=1).actor_critic  # not accelerated, until this agent is again
    with pytest.raises(AssertionError, match="own imagination was called"):
        dream(agent)
    assert torch.equal(dream(accelerate(agent)), dream(other))


def test_calling_it_again_chooses_the_engine_anew(agent: Any) -> None:
    assert accelerate(agent, "oracle") is agent
    assert agent.actor_critic._following.engine.name == "oracle"
    other = copy.deepcopy(agent)
    dream(other)
    assert other.actor_critic._following.engine.name == "oracle"


def test_a_parameter_of_another_shape_is_refused_until_it_is_called_again(agent: Any) -> None:
    agent.actor_critic.actor_linear = nn.Linear(8, 5)
    with pytest.raises(
        UserError, match=r"actor_linear.weight was \(3, 8\) and is now \(5, 8\): call accelerate"
    ):
        dream(agent)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"engine": "nonsense"}, "engine=nonsense is unknown: choose auto"),
        ({"precision": "x"}, "precision=x is unknown: choose float32"),
        ({"precision": "bf16"}, "precision=bf16 is the CUDA-graph engine's"),
        ({"engine": "oracle", "precision": "tf32"}, "precision=tf32 is the CUDA-graph engine's"),
    ],
)
def test_engines_and_precisions_that_there_are_not_are_refused(choice: dict[str, Any], message: str) -> None:
    agent = PublicAgent()
    with pytest.raises(UserError, match=message):
        accelerate(agent, **choice)
    assert type(agent.actor_critic) is ActorCritic  # left as it was


def padded_at_the_end() -> Tensor:
    mask = segments()["mask_padding"].clone()
    mask[1, -1] = False
    return mask


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask_padding": padded_at_the_end()}, r"ends padded in rows \[1\]"),
        ({"mask_padding": torch.ones(2, 3)}, r"bool mask_padding .* torch.float32 \(2, 3\)"),
        (
            {"mask_padding": torch.ones(2, 2, dtype=torch.bool)},
            r"not \(2, 3, 3, 64, 64\) and torch.bool \(2, 2\)",
        ),
        ({"observations": torch.zeros(2, 3, 64, 64)}, r"not \(2, 3, 64, 64\) and"),
        ({"observations": torch.full((2, 3, 3, 64, 64), 255.0)}, "from 255 to 255: scale them"),
        (
            {"observations": torch.zeros(2, 3, 3, 64, 64, dtype=torch.uint8)},
            "floats in .0, 1., not torch.uint8",
        ),
    ],
)
def test_segments_that_cannot_be_imagined_from_are_refused(
    agent: Any, changed: dict[str, Tensor], message: str
) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        dream(agent, **changed)


def test_a_policy_of_original_frames_is_refused(agent: Any) -> None:
    agent.actor_critic.use_original_obs = True
    with pytest.raises(UserError, match="use_original_obs=False"):
        dream(agent)
