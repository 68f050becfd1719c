"""Only differentiated passes run in the configured precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from iris_fast.agent import PARTS
from iris_fast.train import main
from iris_fast.training import device as devices
from iris_fast.training.trainer import Trainer
from tests.support.micro import MICRO


def output_dtypes(module: nn.Module, run: Callable[[], object]) -> set[tuple[torch.dtype, bool]]:
    """(dtype, whether a gradient is kept) of what the module's Linear layers and convolutions give out."""
    seen: set[tuple[torch.dtype, bool]] = set()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.add((output.dtype, torch.is_grad_enabled()))

    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def test_bf16_is_for_the_differentiated_pass_of_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, which a user may not ask for it: autocast to bfloat16 is the same mechanism as on a GPU."""
    monkeypatch.setattr(devices, "check_precision", lambda precision, device: None)
    found: dict[str, set[tuple[torch.dtype, bool]]] = {}

    def look(self: Trainer) -> None:
        rng = torch.from_numpy(self.env.reset(seed=0)[0])  # some frames to train on
        frames = rng.repeat(6, 1, 1, 1).numpy()
        zeros = [0] * len(frames)
        self.store.extend(0, frames, zeros, zeros, [False] * len(frames), closed=True)  # type: ignore[arg-type]
        for name in PARTS:
            self.agent.eval()
            part = self.parts[name]
            found[name] = output_dtypes(self.agent.get_submodule(name), lambda p=part: p.step(0, 1, 0))  # type: ignore[misc]

    monkeypatch.setattr(Trainer, "run", look)
    assert main(["--game", "Catch", "--run-dir", str(tmp_path / "run"), *MICRO, "common.precision=bf16"]) == 0
    for name in PARTS:
        assert (torch.bfloat16, True) in found[name], name
        assert (torch.float32, True) not in found[name], name
        assert (torch.bfloat16, False) not in found[name], name
