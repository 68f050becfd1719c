"""After every kind of weight change in this project, all holders of copies compute with the new weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iris_fast import _C
from iris_fast.acting import Policy
from iris_fast.agent import Agent
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.cpu_engine import CpuEngine, CpuOptions
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.models.versioned import Versioned
from iris_fast.replay.cache import FrameCache
from iris_fast.train import main
from iris_fast.training.graphed_step import make_part_trainer
from iris_fast.training.optimization import PartTrainer
from tests.imagination.test_oracle import make_start, tensors
from tests.support.agents import micro_agent
from tests.support.episodes import noise_store
from tests.support.micro import MICRO
from tests.support.parts import GivenPart

CPU = torch.device("cpu")
Way = Callable[[Agent, str], object]


class Replayed(Uncaptured):
    """As on a GPU, where a replay changes weights and runs none of the code that was captured."""

    def capture(
        self, function: Callable[[], dict[str, Tensor]]
    ) -> tuple[Callable[[], None], dict[str, Tensor]]:
        repeat, outputs = super().capture(function)

        def replay() -> None:
            with mock.patch.object(Versioned, "weights_changed", lambda *_, **__: None):
                repeat()

        return replay, outputs


def trainer_of(agent: Agent, part: str, captured: bool) -> PartTrainer:
    """With PyTorch's fused optimizers, which count no versions."""
    module: Any = agent.get_submodule(part)
    sums = lambda inputs: [{"a": sum(p.sum() for p in module.parameters())}]  # noqa: E731
    given = GivenPart(module, sums, lambda seed: {"x": torch.zeros(1)}, learning_rate=0.05)
    return make_part_trainer(given, Replayed(CPU) if captured else None)


def stepped(captured: bool) -> Way:
    return lambda agent, part: trainer_of(agent, part, captured).step(0, 1, 0)


def other_weights(part: str) -> dict[str, Tensor]:
    own = micro_agent(seed=1).state_dict().items()
    return {name: value for name, value in own if name.startswith(f"{part}.")}


def by_hand(agent: Agent, part: str) -> None:
    with torch.no_grad():
        for parameter in agent.get_submodule(part).parameters():
            parameter.mul_(-1.1)
    agent.weights_changed(part, in_place=True)


def replaced(agent: Agent, part: str) -> None:
    for module in agent.get_submodule(part).modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach() * -1.1))
    agent.weights_changed(part)


WAYS: dict[str, Way] = {
    "eager step": stepped(captured=False),
    "captured step": stepped(captured=True),
    "load_parts": lambda agent, part: agent.load_parts(micro_agent(seed=1).state_dict(), [part]),
    "load_state_dict": lambda agent, part: agent.load_state_dict(other_weights(part), strict=False),
    "loading the part": lambda agent, part: agent.get_submodule(part).load_state_dict(
        micro_agent(seed=1).get_submodule(part).state_dict()
    ),
    "assigning": lambda agent, part: agent.load_state_dict(other_weights(part), strict=False, assign=True),
    "moving": lambda agent, part: agent.get_submodule(part)._apply(
        lambda t: -t if t.is_floating_point() else t
    ),
    "by hand": by_hand,
    "replacing": replaced,
}


def restarted(agent: Agent, _: str) -> None:
    assert agent.tokenizer.restart_unused_codes(torch.rand(4, 3, 64, 64)) > 0


ENGINES: dict[str, Callable[[Agent], ImaginationEngine]] = {
    "cpu": CpuEngine,
    "cpu of int8": lambda agent: CpuEngine(agent, CpuOptions(decoder_dtype="int8", weights_dtype="int8")),
    "graph": lambda agent: CudaGraphEngine(agent, GraphOptions("bfloat16"), Uncaptured(CPU)),
}


class Users:
    """Everything that computes with copies of an agent's weights, asked once."""

    def __init__(self, agent: Agent):
        self.agent = agent
        self.engines = {name: make(agent) for name, make in ENGINES.items()}
        self.policies = {"plain": Policy(agent), "captured": Policy(agent, Uncaptured(CPU))}
        self.cache = FrameCache(agent.coder, noise_store(3), max_bytes=10**8)

    def results(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, engine in self.engines.items():
            rollout = engine.imagine(make_start(batch=2), 1, seed=0)
            found |= {f"{name}: {field}": value for field, value in tensors(rollout).items()}
        frames = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
        for name, policy in self.policies.items():
            output = policy(frames, self.agent.actor_critic.initial_state(2))
            found[f"{name} policy"] = output.logits_actions
        slots = self.cache.store.episodes[0].held
        found["tokens of the cache"] = self.cache.tokens(slots)
        found["frames of the cache"] = self.cache.reconstructions(slots)
        found["reconstructions"] = self.agent.reconstruct(torch.from_numpy(frames))
        return found


def assert_seen(agent: Agent, change: Callable[[], object]) -> None:
    """What was asked before a change answers after it as what was made after it."""
    users = Users(agent)
    before = users.results()
    change()
    agent.eval()
    after, expected = users.results(), Users(copy.deepcopy(agent)).results()
    for name, value in expected.items():
        assert torch.equal(after[name], value), name
    for name in (*(f"{engine}: logits_actions" for engine in ENGINES), "plain policy", "captured policy"):
        assert not torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("way", WAYS)
def test_new_weights_are_those_that_compute(way: str) -> None:
    for part in ("tokenizer", "actor_critic"):
        agent = micro_agent()
        assert_seen(agent, lambda part=part, agent=agent: WAYS[way](agent, part))  # type: ignore[misc]


@pytest.mark.parametrize("way", WAYS)
def test_new_weights_of_the_world_model_are_those_that_dream(way: str) -> None:
    agent = micro_agent()
    engines = {name: make(agent) for name, make in ENGINES.items()}
    before = {name: engine.imagine(make_start(batch=2), 2, 0) for name, engine in engines.items()}
    WAYS[way](agent, "world_model")
    agent.eval()
    for name, engine in engines.items():
        found, fresh = engine.imagine(make_start(batch=2), 2, 0), ENGINES[name](copy.deepcopy(agent))
        assert not torch.equal(found.tokens, before[name].tokens), name
        expected = tensors(fresh.imagine(make_start(batch=2), 2, 0))
        assert all(torch.equal(value, expected[field]) for field, value in tensors(found).items()), name


def test_a_replay_of_what_was_captured_long_before_is_seen() -> None:
    agent = micro_agent()
    trainer = trainer_of(agent, "actor_critic", captured=True)
    trainer.step(0, 1, 0)
    assert_seen(agent, lambda: trainer.step(0, 1, 1))


def test_restarted_codes_and_a_background_are_seen() -> None:
    agent = micro_agent("tokenizer.background=true")
    assert_seen(agent, lambda: agent.tokenizer.set_background(torch.rand(5, 3, 64, 64)))
    for parameter in agent.tokenizer.encoder.parameters():
        parameter.requires_grad_(False)
    assert_seen(agent, lambda: restarted(agent, ""))


def test_a_part_is_named() -> None:
    with pytest.raises(
        ValueError, match="policy is not a part of the agent: choose from tokenizer, world_model"
    ):
        micro_agent().weights_changed("policy")


def test_a_run_packs_the_tokenizer_once_for_each_change(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two epochs: for what comes before its first steps, and after those of each epoch; on one pool of threads."""
    made = {"FrameModel": 0, "ThreadPool": 0}
    for name in made:
        make = getattr(_C, name)

        def counted(*args: object, name: str = name, make: Any = make, **options: object) -> Any:
            made[name] += 1
            return make(*args, **options)

        monkeypatch.setattr(_C, name, counted)
    settings = ["common.epochs=2", "training.actor_critic.start_after_epochs=0", "evaluation.every=1"]
    assert main(["--game", "Catch", "--run-dir", str(tmp_path / "run"), *MICRO, *settings]) == 0
    assert made == {"FrameModel": 3, "ThreadPool": 1}
