"""Ours: the default engine of the device, others of our engines, and plain PyTorch, also compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from iris_fast.agent import PARTS, Agent
from iris_fast.graphs import Uncaptured, graphs_of
from iris_fast.imagination.cpu_engine import CpuDream, CpuEngine, CpuOptions
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.engine import ImaginationEngine, ImaginationStart
from iris_fast.imagination.factory import make_engine, options_of
from iris_fast.imagination.graph_engine import CudaGraphEngine
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.kernels.common.extension import find_extension
from iris_fast.models.frame_codec import FrameCoder
from iris_fast.models.tokenizer import Tokenizer, in_pieces
from iris_fast.models.transformer import KVCache
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws
from iris_fast.training.device import apply_precision, autocast

from .interface import Arrays, seconds_of
from .training import OurLosses, Steps, loss_and_gradient
from .weights import agent_from_file, load_agent_file


class PlainFrames:
    """Both directions of a tokenizer by its PyTorch modules, in pieces that fit a processor's cache.

    The oracle pads its last piece, so that a row's result does not depend on the others. In a comparison that would
    be extra work, so here a single frame is a batch of one.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def frames_of(self, tokens: Tensor) -> Tensor:
        return in_pieces(self.tokenizer.frames_of, tokens)

    def tokens_of(self, frames: Tensor) -> Tensor:
        return in_pieces(self.tokenizer.tokens_of, frames)


class PlainEngine(OracleEngine):
    """The oracle without its extra work for reproducibility."""

    def frames_of(self, tokens: Tensor) -> Tensor:
        return PlainFrames(self.agent.tokenizer).frames_of(tokens)


def compile_parts(agent: Agent) -> None:
    """Compiles the agent's decoder and one-token passes with `torch.compile`, for any batch size.

    Compiling for one size would repeat it for every other size, and did not make the decoder faster.
    """
    model, tokenizer = agent.world_model, agent.tokenizer
    eager, compiled = model.step, torch.compile(model.step, dynamic=True)

    def step(embeddings: Tensor, cache: KVCache) -> Tensor:
        return (compiled if embeddings.shape[1] == 1 else eager)(embeddings, cache)

    model.step = step  # type: ignore[method-assign]
    tokenizer.decode = torch.compile(tokenizer.decode, dynamic=True)  # type: ignore[method-assign]


def replayed(
    model: WorldModel, first: Tensor, actions: Tensor, tokens: Tensor, one_by_one: bool = False
) -> Arrays:
    """The oracle's logits and features on given frames, the reference for every side.

    `one_by_one`: one pass per frame token, as in generation.
    """
    cache = model.new_cache(len(first))
    model.step(model.embedder.tokens(first), cache)
    found: dict[str, list[Tensor]] = {"features": [], "rewards": [], "ends": [], "observations": []}
    for step in range(actions.shape[1]):
        features = model.step(model.embedder.actions(actions[:, step]).unsqueeze(1), cache)
        found["features"].append(features[:, 0])
        found["rewards"].append(model.head_rewards(features[:, 0]))
        found["ends"].append(model.head_ends(features[:, 0]))
        parts = tokens[:, step].split(1 if one_by_one else tokens.shape[2], dim=1)
        after = torch.cat([model.step(model.embedder.tokens(part), cache) for part in parts], dim=1)
        found["observations"].append(model.head_observations(torch.cat([features, after[:, :-1]], dim=1)))
    return {name: torch.stack(values, dim=1) for name, values in found.items()}


class OurSystem:
    """`kind`: "engine" for the device's default, "float16" for the C++ engine with that cache, "bf16" for the
    CUDA-graph engine and gradient steps in that precision, "plain" PyTorch, "compiled" the same with `torch.compile`.
    """

    KINDS = ("engine", "float16", "bf16", "plain", "compiled")
    same_model = True
    difference = ""
    goes_on = False

    def __init__(self, kind: str, device: torch.device):
        self.kind, self.device = kind, device
        self.agent: Agent
        self.engine: ImaginationEngine
        self._dream: CpuDream | None = None
        self._compiled: Agent | None = None
        extension = find_extension()
        if device.type == "cpu" and extension is not None:
            extension.keep_large_blocks()  # as every command of ours does when it starts

    def load(self, weights: Path) -> None:
        self.agent = self._agent_of(weights)
        if self.kind == "engine":
            self.engine = make_engine(self.agent)
        elif self.kind == "float16":
            self.engine = CpuEngine(self.agent, CpuOptions(kv_dtype="float16"))
        elif self.kind == "bf16":
            apply_precision("bf16")
            graphs = graphs_of(self.device) or Uncaptured(self.device)
            self.engine = CudaGraphEngine(self.agent, options_of("bf16"), graphs)
        else:
            self.engine = PlainEngine(self.agent)
        self._dream = None
        # Frames of the replay go through what training and acting take: in C++ where that is built.
        plain = isinstance(self.engine, PlainEngine)
        self._coder: FrameCoder = PlainFrames(self.agent.tokenizer) if plain else self.agent.coder
        self._losses = OurLosses(self.agent, self.engine, self._coder)
        self._steps = Steps({part: self.agent.get_submodule(part) for part in PARTS}, self.device)

    def _agent_of(self, weights: Path) -> Agent:
        """The agent of a file; one that is compiled takes other weights, so that it is compiled once."""
        if self.kind != "compiled":
            return agent_from_file(weights, self.device)
        config, own, _ = load_agent_file(weights)
        if self._compiled is None or self._compiled.config != config:
            self._compiled = agent_from_file(weights, self.device)
            compile_parts(self._compiled)
        self._compiled.load_state_dict(own)
        return self._compiled

    def _forget_frames(self) -> None:
        """Forgets decoded frames, which only the C++ engine remembers."""
        if isinstance(self.engine, CpuEngine):
            self.engine.codec.forget_frames()

    def _frames_remembered(self) -> int:
        """Number of frames since `load` that the engine remembered instead of decoding."""
        return self.engine.frames_remembered if isinstance(self.engine, CpuEngine) else 0

    def has_parts(self) -> bool:
        return isinstance(self.engine, (OracleEngine, CpuEngine))

    @torch.no_grad()
    def dream(self, first: Tensor, actions: Tensor, tokens: Tensor | None) -> Arrays:
        first, actions = first.to(self.device), actions.to(self.device)
        if not isinstance(self.engine, CpuEngine):
            if tokens is None:
                tokens = self._sampled(first, actions)
            model, singly = self.agent.world_model, self.kind == "compiled"
            return replayed(model, first, actions, tokens.to(self.device), singly) | {"tokens": tokens}
        dream = self.engine.dream(first, PhiloxDraws(0))
        steps = [dream.step_with_logits(actions[:, step]) for step in range(actions.shape[1])]
        found = {
            name: torch.stack([getattr(logits, name) for _, logits in steps], dim=1)
            for name in ("rewards", "ends", "observations")
        }
        return found | {"tokens": torch.stack([outcome.tokens for outcome, _ in steps], dim=1)}  # type: ignore[misc]

    def _sampled(self, first: Tensor, actions: Tensor) -> Tensor:
        dream = Dream(self.agent.world_model, first, PhiloxDraws(0))
        return torch.stack([dream.step(a).tokens for a in actions.unbind(1)], dim=1)  # type: ignore[misc]

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> tuple[float, Tensor]:
        tokens = tokens.to(self.device)
        engine = self.engine
        if isinstance(engine, CpuEngine):
            return seconds_of(lambda: engine.codec.frames_of(tokens), self.device)
        if isinstance(engine, OracleEngine):
            return seconds_of(lambda: engine.frames_of(tokens), self.device)
        raise TypeError(f"the engine {engine.name} decodes no frames apart from a rollout")

    @torch.no_grad()
    def act(self, frames: Tensor) -> tuple[float, Arrays]:
        frames, engine = frames.to(self.device).unsqueeze(1), self.engine
        state = self.agent.actor_critic.initial_state(len(frames))
        # The one of rollouts, which on a CPU is C++.
        policy = engine.policy if isinstance(engine, CpuEngine) else self.agent.actor_critic
        seconds, output = seconds_of(lambda: policy(frames, state), self.device)
        return seconds, {"logits": output.logits_actions[:, 0], "values": output.values[:, 0]}

    @torch.no_grad()
    def generate(self, first: Tensor, actions: Tensor) -> list[float]:
        first, actions = first.to(self.device), actions.to(self.device)
        draws = PhiloxDraws(0)
        dream: Dream | CpuDream | None
        if not isinstance(self.engine, CpuEngine):
            dream = None  # it takes the first frame when it is made, which the first step of all others does
        elif self._dream is not None and self._dream.tokens.shape == first.shape:
            self._dream.restart(first, draws)  # in the memory that there is, as rollouts do
            dream = self._dream
        else:
            dream = self._dream = self.engine.dream(first, draws)

        def step(action: Tensor) -> None:
            nonlocal dream
            dream = dream or Dream(self.agent.world_model, first, draws)
            dream.step(action)

        return [seconds_of(lambda a=a: step(a), self.device)[0] for a in actions.unbind(1)]  # type: ignore[misc]

    @torch.no_grad()
    def rollout(self, frames: Tensor, horizon: int, seed: int) -> tuple[float, Arrays]:
        frames = frames.to(self.device)
        self._forget_frames()
        no_frames = frames.new_zeros(len(frames), 0, *frames.shape[1:])
        no_mask = torch.ones(len(frames), 0, dtype=torch.bool, device=self.device)

        def imagine() -> Arrays:
            tokens = self._coder.tokens_of(frames)
            rollout = self.engine.imagine(ImaginationStart(no_frames, no_mask, tokens), horizon, seed)
            return {
                name: getattr(rollout, name)
                for name in ("actions", "rewards", "ends", "observations", "tokens")
            }

        return seconds_of(imagine, self.device)

    def play(self, frames: Tensor) -> float:
        raw, state = (
            (frames * 255).to(self.device, torch.uint8),
            self.agent.actor_critic.initial_state(len(frames)),
        )

        def act() -> None:
            Categorical(logits=self.agent.policy(raw, state).logits_actions[:, 0]).sample()

        return seconds_of(act, self.device)[0]

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> tuple[float, Tensor]:
        frames, coder = frames.to(self.device), self._coder
        return seconds_of(lambda: coder.frames_of(coder.tokens_of(frames)), self.device)

    def losses(self, part: str, batch: Arrays, horizon: int) -> dict[str, float]:
        moved = {name: value.to(self.device) for name, value in batch.items()}
        module = self.agent.get_submodule(part)
        return loss_and_gradient(part, module, lambda: self._total(part, moved, horizon, 0))

    def _total(self, part: str, batch: Arrays, horizon: int, seed: int, cached: Any = None) -> Tensor:
        """The loss; of "bf16" its products and convolutions in that precision."""
        with autocast("bf16" if self.kind == "bf16" else "float32", self.device):
            return self._losses.total(part, batch, horizon, seed, cached)

    def train(self, part: str, batch: Arrays, horizon: int, cached: bool, seed: int) -> dict[str, float]:
        moved = {name: value.to(self.device) for name, value in batch.items()}
        held = self._losses.cached(part, moved) if cached else None
        module = self.agent.get_submodule(part)
        # The actor-critic has no dropout, and imagination wants it in evaluation mode.
        training = [] if part == "actor_critic" else [module]
        torch.manual_seed(seed)  # of dropout
        self._forget_frames()
        before = self._frames_remembered()
        found = self._steps.seconds(part, lambda: self._total(part, moved, horizon, seed, held), training)
        if part == "actor_critic":
            found["imagine_seconds"] = self._losses.imagine_seconds
        found["frames_remembered"] = float(self._frames_remembered() - before)
        self.agent.weights_changed(part, in_place=True)  # so that the next rollout has them
        return found
