"""Captured gradient steps: without capture they equal the eager steps, and they never read a number back."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from benchmarks.group_norms import as_on_a_gpu, group_norm_of
from iris_fast.agent import PARTS, Agent
from iris_fast.config import PRESETS, apply_overrides, preset_config, resolve
from iris_fast.errors import RunStopped
from iris_fast.graphs import CudaGraphs, Graphs, Uncaptured, leaves, with_leaves
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.announcements import steps_announcement
from iris_fast.training.graphed_step import GraphedPartTrainer, make_part_trainer, preserved
from iris_fast.training.optimization import MetricMeans, PartTrainer
from iris_fast.training.parts import adam, make_parts
from tests.support.agents import Line, micro_agent
from tests.support.episodes import noise_store
from tests.support.fake_device import without_data
from tests.support.micro import micro_config
from tests.support.parts import GivenPart, micro_parts

CPU = torch.device("cpu")
# The batches of these tests.
BATCHES = (
    *("training.tokenizer.batch_num_samples=4", "training.tokenizer.pieces=2"),
    *("training.world_model.batch_num_samples=3", "training.actor_critic.batch_num_samples=3"),
    *("training.learning_rate=1e-2", "training.world_model.weight_decay=0.1"),
)


def trained(part: str, graphs: Graphs | None, **settings: object) -> tuple[Agent, PartTrainer]:
    """An agent whose `part` is in training mode, and its trainer: eager, or with steps that `graphs` capture."""
    agent = micro_agent()
    agent.get_submodule(part).train()
    cache = FrameCache(agent.coder, noise_store(1, 2, 12))
    own = (f"training.{part}.{name}={value}" for name, value in settings.items())
    return agent, make_part_trainer(micro_parts(agent, cache, *BATCHES, *own)[part], graphs)


@pytest.mark.parametrize("part", PARTS)
def test_captured_steps_are_the_eager_ones_bit_by_bit(part: str) -> None:
    """Weights, losses and gradient norms of three steps, dropout and clipping included."""
    agent, captured = trained(part, Uncaptured(CPU), max_grad_norm=0.05)
    reference, eager = trained(part, None, max_grad_norm=0.05)
    assert type(captured) is GraphedPartTrainer and type(eager) is PartTrainer
    for step in range(3):
        found, expected = captured.step(0, 1, step), eager.step(0, 1, step)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (step, name)
    assert expected["grad_norm"] > 0.05
    for (name, ours), theirs in zip(agent.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    started = micro_agent().get_submodule(part)
    trained_part = agent.get_submodule(part)
    assert not all(map(torch.equal, trained_part.parameters(), started.parameters()))


@pytest.mark.parametrize("part", ["tokenizer", "actor_critic"])  # without dropout
def test_accumulated_gradients_too(part: str) -> None:
    agent, captured = trained(part, Uncaptured(CPU), grad_acc_steps=2)
    reference, eager = trained(part, None, grad_acc_steps=2)
    for step in range(2):
        found, expected = captured.step(0, 1, step), eager.step(0, 1, step)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(map(torch.equal, agent.parameters(), reference.parameters()))


def test_a_step_after_loading_is_that_of_a_run_that_went_on() -> None:
    agent, captured = trained("world_model", Uncaptured(CPU))
    captured.step(0, 1, 0)
    weights = {name: value.clone() for name, value in agent.state_dict().items()}
    state = copy.deepcopy(captured.state_dict())
    other, resumed = trained("world_model", Uncaptured(CPU))
    resumed.step(0, 1, 7)  # captured before the checkpoint is loaded
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    expected, found = captured.step(0, 1, 1), resumed.step(0, 1, 1)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(map(torch.equal, agent.parameters(), other.parameters()))


def test_preserved_undoes_steps_and_leaves_the_generator_alone() -> None:
    _, trainer = trained("actor_critic", None)
    before = [p.detach().clone() for p in trainer.parameters]
    generator = torch.get_rng_state()
    with preserved(trainer.part.module, trainer.optimizer):
        trainer.step(0, 1, 0)
        assert not all(map(torch.equal, before, trainer.parameters))
    assert all(map(torch.equal, before, trainer.parameters))
    assert torch.equal(torch.get_rng_state(), generator)
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert states and not any(value.any() for value in states)


def test_losses_that_are_not_finite_stop_the_run() -> None:
    agent, trainer = trained("actor_critic", Uncaptured(CPU))
    with torch.no_grad():
        agent.actor_critic.critic_linear.bias.fill_(math.nan)
    with pytest.raises(RunStopped, match="actor critic total_loss became nan"):
        trainer.step(0, 1, 0)


def test_fp16_is_not_captured() -> None:
    model = Line(2, 2)
    part = GivenPart(model, lambda inputs: [{"a": model.weight.sum()}], precision="fp16")
    assert type(make_part_trainer(part, Uncaptured(CPU))) is PartTrainer
    with pytest.raises(ValueError, match="fp16 are not captured"):
        GraphedPartTrainer(part, Uncaptured(CPU))


def test_a_run_says_whether_its_steps_are_captured() -> None:
    said = {
        overrides: steps_announcement(micro_config(*overrides))
        for overrides in ((), ("common.precision=fp16",), ("training.cuda_graphs=false",))
    }
    assert [text.split(" ")[0] for text in said.values()] == ["captured", "launched", "launched"]
    assert "fp16" in said["common.precision=fp16",]


@pytest.mark.parametrize("part", PARTS)
def test_what_is_captured_never_looks_at_a_number(part: str) -> None:
    """Losses, gradients, clipping and the optimizer, on tensors without data, with GroupNorm's kernel as on a GPU.

    (On a CPU's: PyTorch cannot differentiate on a device that is not there.)
    """
    agent, trainer = trained(part, Uncaptured(CPU))
    assert isinstance(trainer, GraphedPartTrainer)
    inputs = trainer.part.inputs(0)
    with FakeTensorMode(), group_norm_of(fused=True):
        without_data(agent, CPU)
        trainer.parameters = list(agent.get_submodule(part).parameters())
        trainer.optimizer = adam(trainer.parameters, 1e-3)
        values = [value for value in leaves(inputs).values() if isinstance(value, Tensor)]
        example = [torch.empty(value.shape, dtype=value.dtype) for value in values]
        metrics = trainer._body({"0": with_leaves(inputs, iter(example))})
        assert metrics and all(isinstance(value, FakeTensor) for value in metrics.values())
        assert len(trainer.optimizer.state) > 1


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_no_presets_step_looks_at_a_number(preset: str, part: str) -> None:
    """As above in bf16, with the sizes and losses of a preset, LPIPS and the background included."""
    of_data, micro = trained(part, Uncaptured(CPU))
    inputs, cache = micro.part.inputs(0), FrameCache(of_data.coder, noise_store(3))
    overrides = [*BATCHES[:4], "common.precision=bf16"]
    config = resolve(apply_overrides(preset_config(preset, "Pong"), overrides))
    with torch.device("meta"):
        agent = Agent(config.agent, of_data.num_actions).eval()
        if config.tokenizer.perceptual == "lpips":
            agent.tokenizer.attach_lpips(LPIPS())
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu():
        without_data(agent, CPU)
        made = make_parts(agent, config, cache, OracleEngine(agent))[part]
        trainer = GraphedPartTrainer(made, Uncaptured(CPU))
        agent.get_submodule(part).train()
        example = []
        for name, value in leaves(inputs).items():
            assert isinstance(value, Tensor)
            state = name.endswith((".hx", ".cx"))
            shape = (len(value), config.actor_critic.lstm_dim) if state else value.shape
            example.append(torch.empty(shape, dtype=value.dtype))
        metrics = trainer._body({"0": with_leaves(inputs, iter(example))})
        assert all(isinstance(value, FakeTensor) for value in metrics.values()) and "grad_norm" in metrics


def test_the_check_finds_a_look() -> None:
    _, trainer = trained("world_model", Uncaptured(CPU))
    assert isinstance(trainer, GraphedPartTrainer)
    look = lambda inputs: [{"a": trainer.parameters[0].sum() * float(inputs["x"])}]  # noqa: E731
    trainer.part = GivenPart(trainer.part.module, look)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(DataDependentOutputException):
        trainer._body({"0": {"x": torch.ones(())}})


# On a CPU uncaptured, so that the tests themselves are tested where there is no GPU.
DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_on_any_device_captured_steps_are_the_eager_ones(part: str, device: torch.device) -> None:
    """Losses, and how far three steps move the weights.

    All weights together: Adam moves one whose gradient is rounding alone (a bias before a GroupNorm) as far as any
    other, in a direction that two runs on a GPU need not share.
    """
    losses: list[list[float]] = []
    moved: list[Tensor] = []
    for graphed in (True, False):
        trainer = trained_on(device, part, graphed)
        before = flat(trainer.parameters)
        losses.append([float(trainer.step(0, 1, step)["total_loss"]) for step in range(3)])
        moved.append(flat(trainer.parameters) - before)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert (moved[0] - moved[1]).norm() < 0.1 * moved[1].norm()


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_steps_between_two_checks_do_not_wait_for_the_device(part: str, device: torch.device) -> None:
    trainer = trained_on(device, part, graphed=True)
    trainer.step(0, 1, 0)  # captures, encodes, and checks its losses
    means = MetricMeans()
    with unwaiting(device):
        for step in range(1, 4):
            means.add(trainer.step(0, 1, step))
    assert math.isfinite(means.means("a")["a/total_loss"])


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_a_rehearsal_leaves_nothing_behind_but_the_capture(part: str, device: torch.device) -> None:
    rehearsed, other = (trained_on(device, part, graphed=True) for _ in range(2))
    assert isinstance(rehearsed, GraphedPartTrainer)
    before = flat(rehearsed.parameters)
    assert rehearsed.rehearse(rehearsed.part, lambda step: float(step()["total_loss"])) > -math.inf  # type: ignore[index]
    assert torch.equal(flat(rehearsed.parameters), before)
    captured = rehearsed._call._replay
    found, expected = (trainer.step(0, 1, 0)["total_loss"] for trainer in (rehearsed, other))
    assert rehearsed._call._replay is captured
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def flat(parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).clone()


@contextmanager
def unwaiting(device: torch.device) -> Iterator[None]:
    """Inside, an operation that would wait for the GPU raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trained_on(device: torch.device, part: str, graphed: bool) -> PartTrainer:
    """A trainer of the micro agent's part, its data where a run has it: on the device."""
    agent = micro_agent().to(device)
    agent.get_submodule(part).train()
    store = on(device, noise_store(1, 2, 12))
    cache = FrameCache(agent.coder, store, max_bytes=10**8)
    everything = np.arange(1, store.num_frames + 1)
    cache.reconstructions(everything)  # so that no step has anything to encode
    graphs = (CudaGraphs(device) if device.type == "cuda" else Uncaptured(device)) if graphed else None
    overrides = (*BATCHES, "training.learning_rate=1e-3")
    return make_part_trainer(micro_parts(agent, cache, *overrides)[part], graphs)


def on(device: torch.device, store: EpisodeStore) -> EpisodeStore:
    """The store with everything in it on the device."""
    store.model_device = device
    for name in ("frames", "actions", "rewards", "ends"):
        setattr(store, name, getattr(store, name).to(device))
    return store
