"""Several processes that train one agent: the losses, weights and files of one process, and one end for all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iris_fast.config import resolve
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.cpu_engine import CpuEngine
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.cache import FrameCache
from iris_fast.training.distributed import ALONE, Group, joined_processes
from iris_fast.training.graphed_step import GraphedPartTrainer, make_part_trainer
from iris_fast.training.parts import make_parts
from tests.support.agents import micro_agent
from tests.support.episodes import noise_store
from tests.support.micro import micro_config
from tests.support.processes import ends, start_processes

EVEN = [
    "training.tokenizer.batch_num_samples=8",
    "training.world_model.batch_num_samples=4",
    "training.actor_critic.batch_num_samples=4",
]
# What is trained how often, with what is not a plain mean over rows: dropout, steps of segments that are shorter than
# others, weights and medians over the batch, codes restarted from the batch, a gradient that is clipped. "captured":
# by the functions of CUDA graphs, before and after the collective, beside an eager process alone.
TRAINED = {
    "plain": ("tokenizer", 3, ["tokenizer.perceptual=none", "training.tokenizer.max_grad_norm=0.1"]),
    "pieces": ("tokenizer", 3, ["training.tokenizer.pieces=2", "training.tokenizer.grad_acc_steps=2"]),
    "foreground": ("tokenizer", 50, ["tokenizer.perceptual=foreground", "tokenizer.background=true"]),
    "objects": ("tokenizer", 4, ["tokenizer.perceptual=objects", "tokenizer.restart_codes_every=3"]),
    "lpips": ("tokenizer", 1, ["tokenizer.perceptual=lpips"]),
    "world_model": ("world_model", 50, ["common.sequence_length=4"]),
    "bf16": ("world_model", 3, ["common.precision=bf16", "training.world_model.grad_acc_steps=2"]),
    "actor_critic": ("actor_critic", 50, ["training.actor_critic.max_grad_norm=0.1"]),
    "captured tokenizer": ("tokenizer", 3, ["tokenizer.perceptual=none", "training.tokenizer.pieces=2"]),
    "captured world model": ("world_model", 4, ["training.world_model.max_grad_norm=0.1"]),
    "captured actor-critic": ("actor_critic", 4, ["training.actor_critic.grad_acc_steps=2"]),
}


def trained(case: str, group: Group) -> dict[str, Tensor]:
    """Every loss of every step, and the weights after the last."""
    torch.set_num_threads(1)
    name, steps, overrides = TRAINED[case]
    config = resolve(micro_config(*EVEN, *overrides))
    agent = micro_agent(*overrides)
    if agent.tokenizer.config.perceptual == "lpips":
        torch.manual_seed(0)
        agent.tokenizer.attach_lpips(LPIPS())
    cache = FrameCache(agent.coder, noise_store(1, 2, 12), max_bytes=10**9)
    graphs = Uncaptured(torch.device("cpu")) if case.startswith("captured") and group is not ALONE else None
    trainer = make_part_trainer(make_parts(agent, config, cache, CpuEngine(agent), group=group)[name], graphs)
    assert isinstance(trainer, GraphedPartTrainer) == (graphs is not None)
    agent.eval()
    trainer.part.module.train()
    every = [trainer.step(0, 1, step) for step in range(steps)]
    losses = {name: torch.stack([metrics[name] for metrics in every]) for name in every[0]}
    return losses | {
        f"weights/{name}": value.detach() for name, value in trainer.part.module.named_parameters()
    }


def main(folder: Path) -> None:
    """Trains each case as one of several processes; each writes what it found."""
    with joined_processes() as group:
        found = {case: trained(case, group) for case in TRAINED}
        torch.save(found, folder / f"{group.rank}.pt")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("two")
    for code, error in ends(start_processes(2, ["-m", "tests.training.test_distributed", folder])):
        assert code == 0, error
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", TRAINED)
def test_two_processes_have_the_losses_of_one(by_two: list[dict[str, dict[str, Tensor]]], case: str) -> None:
    """Up to rounding, which grows with the steps, in the gradient faster than in the losses."""
    alone, (first, second) = trained(case, ALONE), (found[case] for found in by_two)
    assert first.keys() == second.keys() == alone.keys()
    tolerance = 5e-3 if case == "bf16" else 1e-4
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
        if not name.startswith("weights/"):
            compared = slice(3) if name == "grad_norm" else slice(None)
            torch.testing.assert_close(
                first[name][compared], value[compared], rtol=tolerance, atol=tolerance / 10
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
