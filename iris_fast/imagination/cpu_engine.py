"""The CPU engine: the oracle's rollouts, a batch at a time, in C++ (`csrc/`)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.kernels.common.arguments import with_checked_types
from iris_fast.models.actor_critic import LSTMState
from iris_fast.models.cpu_policy import CpuPolicy
from iris_fast.models.cpu_weights import require_extension, weight_arrays
from iris_fast.models.frame_codec import DecoderDtype, FrameCodec
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws, Purpose

from .dream import DreamStep, StepLogits
from .engine import HalfOrFloat, ImaginationStart, Rollout, WeightsDtype, check_rollout

if TYPE_CHECKING:
    from iris_fast._C import ThreadPool, TokenDream, TokenModel


@dataclass(frozen=True)
class CpuOptions:
    """Options of the engine; only the dtypes change results.

    `threads`: None for PyTorch's number at construction. `group_size`: sequences that go through a step together, at
    most 1024; 0 for even shares of the batch, of at most 32. If there are more threads than groups, up to 8 threads
    share the passes of a group. `kv_dtype`: "float16" halves the memory and traffic of keys and values and rounds
    them (values from 65520 on become infinite). `weights_dtype`: "float16" does the same to the matrices of linear
    layers, which helps small batches, where reading weights takes most of the time; values from 65520 on are refused.
    "int8" rounds the matrices of the Transformer's blocks to integers from -127 to 127 with one scale per output, and
    their inputs likewise with one scale per token (the heads stay float32). It is the fastest and rounds the most
    (see the benchmark `int8_rollouts`). `decoder_dtype`: "int8" does the same to the 3 × 3 convolutions of imagined
    frames, with one scale for each frame's map. Both int8 options are slower than float32 on processors without
    AVX-512 VNNI or Arm's dot products. `simd`: "auto" for the fastest of `iris_fast._C.simd_levels()`, or one of
    them; all give the same bits.
    """

    threads: int | None = None
    group_size: int = 0
    kv_dtype: HalfOrFloat = "float32"
    weights_dtype: WeightsDtype = "float32"
    decoder_dtype: DecoderDtype = "float32"
    simd: str = "auto"


def pack_world_model(
    world_model: WorldModel, simd: str = "auto", weights_dtype: WeightsDtype = "float32"
) -> TokenModel:
    """A copy of the weights in the C++ engine's layout; later changes of `world_model` do not reach it.

    Raises RuntimeError without the C++ extension, ValueError for weights that are not float32 on the CPU, or
    that `weights_dtype` cannot hold.
    """
    config = world_model.config
    return require_extension().TokenModel(
        weight_arrays(world_model),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        tokens_per_block=config.tokens_per_block,
        max_blocks=config.max_blocks,
        block_causal=config.attention == "block_causal",
        layer_norm_epsilon=world_model.transformer.ln_f.eps,
        simd=simd,
        weights_dtype=weights_dtype,
    )


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _address(draws: PhiloxDraws) -> dict[str, int]:
    """The parts of a draw's address that are constant within a dream."""
    if not 0 <= draws.seed < 2**64:
        raise ValueError(f"the seed must be in [0, 2**64), not {draws.seed}")
    return {"seed": draws.seed, "first_row": draws.first_row}


class CpuDream:
    """A batch of imagined episodes in C++: `Dream` with the same addresses and so the same draws.

    One thread at a time may step it, and it cannot be copied or pickled. KeyboardInterrupt ends a step within one
    pass; then call `restart` before the next step.
    """

    def __init__(
        self,
        world_model: WorldModel,
        model: TokenModel,
        pool: ThreadPool,
        first_tokens: Tensor,
        draws: PhiloxDraws,
        *,
        group_size: int = 0,
        kv_dtype: HalfOrFloat = "float32",
    ):
        """`first_tokens`: `(batch, 16)` int64; `model`: from `pack_world_model`; the rest as in `CpuOptions`."""
        self.world_model = world_model
        self.tokens = first_tokens
        self.cpp: TokenDream = require_extension().TokenDream(
            model,
            pool,
            _array(first_tokens),
            **_address(draws),
            purpose_reward=int(Purpose.REWARD),
            purpose_end=int(Purpose.END),
            purpose_token=int(Purpose.TOKEN),
            kv_dtype=kv_dtype,
            group_size=group_size,
        )

    @property
    def steps(self) -> int:
        """Number of steps since the start."""
        return self.cpp.steps

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self.cpp.length

    def restart(self, first_tokens: Tensor, draws: PhiloxDraws) -> None:
        """Restarts from `first_tokens` of the same batch size, in the existing memory."""
        self.cpp.restart(_array(first_tokens), **_address(draws))
        self.tokens = first_tokens

    def replace(self, tokens: Tensor) -> None:
        """Exchanges the current frame for `tokens` `(batch, 16)`; what came before it stays in the context."""
        self.cpp.replace(_array(tokens))
        self.tokens = tokens

    def step(
        self, actions: Tensor, generate_frame: bool = True, next_tokens: Tensor | None = None
    ) -> DreamStep:
        """Takes `actions` `(batch,)` int64; samples reward, end and, unless told not to, the next frame.

        `next_tokens` `(batch, 16)` int64: the next frame, in place of a sampled one.
        """
        return self._step(actions, generate_frame, next_tokens, want_logits=False)[0]

    def step_with_logits(
        self, actions: Tensor, generate_frame: bool = True, next_tokens: Tensor | None = None
    ) -> tuple[DreamStep, StepLogits]:
        """As `step`, with the logits of the draws."""
        outcome, logits = self._step(actions, generate_frame, next_tokens, want_logits=True)
        assert logits is not None
        return outcome, logits

    def _step(
        self, actions: Tensor, generate_frame: bool, next_tokens: Tensor | None, want_logits: bool
    ) -> tuple[DreamStep, StepLogits | None]:
        rewards, ends, tokens, logits_rewards, logits_ends, logits_observations = self.cpp.step(
            _array(actions),
            generate_frame=generate_frame,
            want_logits=want_logits,
            next_tokens=None if next_tokens is None else _array(next_tokens),
        )
        if tokens is not None:
            self.tokens = torch.from_numpy(tokens)
        outcome = DreamStep(
            torch.from_numpy(rewards).float() - 1,
            torch.from_numpy(ends).bool(),
            None if tokens is None else self.tokens,
        )
        if logits_rewards is None or logits_ends is None:
            return outcome, None
        observations = None if logits_observations is None else torch.from_numpy(logits_observations)
        return outcome, StepLogits(
            torch.from_numpy(logits_rewards), torch.from_numpy(logits_ends), observations
        )


class CpuEngine:
    """The oracle's rollouts, each one call of the C++ extension: burn-in, then dream, decoder, policy and draws.

    The agent must be in evaluation mode, in float32 on the CPU. The world model is packed at construction, and again
    at the first rollout after its weights change. Rollouts from several threads take turns. The same seed gives the
    oracle's rollout, unless two choices differ by less than float32 rounding. The bits are the same for any number of
    threads (the engine's and PyTorch's), batch split (with the draws' `first_row`), group size and SIMD level. A copy
    or pickle holds the agent and options, and packs again.
    """

    name = "cpu"

    def __init__(self, agent: Agent, options: CpuOptions = CpuOptions()):
        """Uses the threads and packed tokenizer of the agent (`Agent.coder`) unless `options` ask for others.

        Raises RuntimeError without the C++ extension, ValueError for an agent that it cannot run.
        """
        self.agent = agent
        self.options = options
        self.codec = self._codec()
        resolution = agent.config.tokenizer.autoencoder.resolution
        self.policy = CpuPolicy(agent.actor_critic, self.codec.pool, resolution, simd=options.simd)
        self.frames_remembered = 0  # in all rollouts, instead of decoding
        self._turn = threading.Lock()  # for rollouts, which share a dream
        self._dream: CpuDream | None = None  # kept for its memory
        # Packed now, so that errors come at once and not hours into a run.
        self._model, self._version = self._pack(), agent.world_model.version

    def __reduce__(self) -> tuple[type[CpuEngine], tuple[Agent, CpuOptions]]:
        return CpuEngine, (self.agent, self.options)

    def _codec(self) -> FrameCodec:
        options, coder = self.options, self.agent.coder
        if (options.threads, options.simd, options.decoder_dtype) == (None, "auto", "float32"):
            return coder.codec()
        pool = require_extension().ThreadPool(options.threads) if options.threads else coder.codec().pool
        return FrameCodec(self.agent.tokenizer, pool, simd=options.simd, decoder_dtype=options.decoder_dtype)

    @with_checked_types
    def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
        return self.imagine_with(start, horizon, PhiloxDraws(seed, start.first_row))

    @torch.no_grad()
    @with_checked_types
    def imagine_with(self, start: ImaginationStart, horizon: int, draws: PhiloxDraws) -> Rollout:
        """As `imagine`, for the rows of `draws`; TypeError for another kind of draws (the oracle takes any)."""
        check_rollout(self.agent, horizon)
        if type(draws) is not PhiloxDraws:
            raise TypeError(
                f"the C++ engine draws by Philox, not by {type(draws).__name__}: use OracleEngine"
            )
        with self._turn:
            return self._imagine(start, horizon, draws)

    def _imagine(self, start: ImaginationStart, horizon: int, draws: PhiloxDraws) -> Rollout:
        features, recurrence = self.policy.packed()
        *steps, hidden, cells, remembered = require_extension().roll_out(
            self._dream_for_rollout(start.first_tokens, draws).cpp,
            self.codec.packed(),
            features,
            recurrence,
            _array(start.first_tokens),
            _array(start.burn_in_frames),
            _array(start.burn_in_mask),
            horizon=horizon,
            **_address(draws),
            purpose_action=int(Purpose.ACTION),
        )
        self.frames_remembered += remembered
        state = LSTMState(torch.from_numpy(hidden), torch.from_numpy(cells))
        fields = zip(Rollout._fields[:-1], map(torch.from_numpy, steps), strict=True)
        return Rollout(**dict(fields), start_state=state)

    def _dream_for_rollout(self, first_tokens: Tensor, draws: PhiloxDraws) -> CpuDream:
        """A dream of the batch's size, in any state."""
        model = self._packed_model()
        if self._dream is None or self._dream.tokens.shape != first_tokens.shape:
            self._dream = None  # frees its memory before more is taken
            self._dream = self._new_dream(model, first_tokens, draws)
        return self._dream

    def _packed_model(self) -> TokenModel:
        version = self.agent.world_model.version
        if version != self._version:
            self._dream = None  # it has the old weights
            self._model, self._version = self._pack(), version
        return self._model

    def _pack(self) -> TokenModel:
        return pack_world_model(self.agent.world_model, self.options.simd, self.options.weights_dtype)

    def frames_of(self, tokens: Tensor) -> Tensor:
        """The policy's frames `(batch, 3, 64, 64)` in [0, 1] for tokens `(batch, 16)`."""
        return self.codec.frames_of(tokens, remember=True)

    def dream(self, first_tokens: Tensor, draws: PhiloxDraws) -> CpuDream:
        """A new dream from `first_tokens` `(batch, 16)` int64, with the current weights."""
        return self._new_dream(self._packed_model(), first_tokens, draws)

    def _new_dream(self, model: TokenModel, first_tokens: Tensor, draws: PhiloxDraws) -> CpuDream:
        return CpuDream(
            self.agent.world_model,
            model,
            self.codec.pool,
            first_tokens,
            draws,
            group_size=self.options.group_size,
            kv_dtype=self.options.kv_dtype,
        )
