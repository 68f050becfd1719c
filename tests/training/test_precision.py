"""The precision of a run: what `auto` chooses, and that only differentiated passes run in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from iris_fast.agent import PARTS
from iris_fast.config import apply_overrides, preset_config, resolve
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.train import main
from iris_fast.training import announcements, device, parts
from iris_fast.training.parts import make_parts
from iris_fast.training.trainer import Trainer
from tests.support.agents import micro_agent
from tests.support.episodes import noise_store
from tests.support.micro import MICRO, micro_config
from tests.support.parts import micro_parts


@pytest.mark.parametrize(
    ("multiplies", "preset", "asked", "expected"),
    [
        (True, "small", "auto", "bf16"),
        (True, "paper", "auto", "bf16"),
        (True, "tiny", "auto", "float32"),
        (False, "small", "auto", "float32"),
        (True, "small", "float32", "float32"),
        (False, "tiny", "bf16", "bf16"),
    ],
)
def test_auto_is_bf16_where_it_is_faster(
    multiplies: bool, preset: str, asked: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: multiplies)
    overrides = [f"common.precision={asked}", "common.device=cpu"]
    config, _ = device.prepare(apply_overrides(preset_config(preset, "Pong"), overrides))
    assert config.common.precision == expected


def test_without_the_extension_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_extension", lambda: None)
    assert not device.multiplies_bfloat16()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_resumed_run_keeps_its_precision(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever `auto` would choose on this machine."""
    monkeypatch.setattr(device, "LEAST_WIDTH", 1)
    run, few = tmp_path / "run", [*MICRO, "training.should=false", "evaluation.should=false"]
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: precision == "bf16")
    assert main(["--game", "Catch", "--run-dir", str(run), *few, "common.epochs=1"]) == 0
    assert f"precision: {precision}, " in capsys.readouterr().err
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: precision != "bf16")
    monkeypatch.setattr(announcements, "multiplies_bfloat16", lambda: precision != "bf16")
    assert main(["--resume", str(run), "common.epochs=2"]) == 0
    said = capsys.readouterr().err
    assert f"precision: {precision}, " in said
    assert ("does not multiply itself" in said) == (precision == "bf16")


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


@pytest.fixture
def attention_switch() -> Iterator[None]:
    """PyTorch's switches for cuDNN are afterwards as before."""
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.backends.cuda.enable_cudnn_sdp(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.parametrize("use", ["lstm", "all", "none"])
def test_what_a_gpu_does_by_cudnn_is_one_setting(use: str, attention_switch: None) -> None:
    """Attention and the search for convolutions by switches of PyTorch, the recurrence by the policy's own."""
    overrides = (f"common.cudnn={use}", "common.device=cpu")
    config, _ = device.prepare(micro_config(*overrides))
    assert torch.backends.cuda.cudnn_sdp_enabled() == torch.backends.cudnn.benchmark == (use == "all")
    agent = micro_agent()
    make_parts(agent, config, FrameCache(agent.coder, noise_store(3)), OracleEngine(agent))
    policy = agent.actor_critic
    features = torch.rand(2, 5, policy.lstm.weight_ih.shape[1], generator=torch.Generator().manual_seed(0))
    state = policy.initial_state(2)
    expected, _ = policy._recurrence(features, state, None)
    with mock.patch.object(torch, "lstm", wraps=torch.lstm) as whole:
        found, _ = policy._recurrence_on_gpu(features, state, None)
    assert whole.called == (use != "none")
    torch.testing.assert_close(found, expected)


class Casts(TorchDispatchMode):
    """Counts casts of convolutions' weights."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.weights = {parameter.data_ptr() for parameter in parameters if parameter.dim() == 4}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.weights:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_once_for_all_pieces_with_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(pieces: int) -> tuple[int, list[Tensor]]:
        agent = micro_agent()
        batches = ("training.tokenizer.batch_num_samples=4", f"training.tokenizer.pieces={pieces}")
        cache = FrameCache(agent.coder, noise_store(12))
        part = micro_parts(agent, cache, *batches, "common.precision=bf16")["tokenizer"]
        agent.tokenizer.train()
        with Casts(part.parameters) as casts:
            for losses in part.losses(part.inputs(0)):
                assert not torch.is_autocast_enabled("cpu")
                torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        return casts.count, [parameter.grad for parameter in part.parameters if parameter.grad is not None]

    whole, _ = step(1)
    once, gradients = step(4)
    assert once == whole > 10
    monkeypatch.setattr(parts, "cast_once", lambda *_: nullcontext())
    anew, expected = step(4)
    assert anew == 4 * whole and gradients
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.parametrize(
    ("gigabytes", "asked", "pieces"),
    [(12, (), 4), (25.7, (), 2), (51.5, (), 1), (141, (), 1), (141, ("training.tokenizer.pieces=8",), 8)],
)
def test_a_batch_of_frames_has_as_few_pieces_as_a_gpu_has_memory_for(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, asked: tuple[str, ...], pieces: int
) -> None:
    monkeypatch.setattr(device, "choose_device", lambda _: torch.device("cuda"))
    properties = SimpleNamespace(total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    config = apply_overrides(preset_config("paper", "Pong"), list(asked))
    assert resolve(device.fitted(config)).training.tokenizer.pieces == pieces
    assert resolve(config).training.tokenizer.pieces == (8 if asked else 4), "on a CPU"
    by_piece = apply_overrides(config, ["tokenizer.perceptual=foreground"])
    assert device.fitted(by_piece).training.tokenizer.pieces == config.training.tokenizer.pieces
    few = apply_overrides(config, ["training.tokenizer.batch_num_samples=6", *asked])
    if not asked:
        assert resolve(few).training.tokenizer.pieces == 2, "a number that divides the batch"
