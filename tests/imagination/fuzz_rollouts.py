"""Random calls of the C++ engine's rollout, each held to the same steps taken one call at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.imagination.fuzz_frames import (
    WEIGHT_SCALE,
    Codec,
    FrameSizes,
    Policy,
    frame_shapes,
    policy_shapes,
)
from tests.imagination.fuzz_inputs import Array, attempt, has_form
from tests.imagination.fuzz_recurrence import Recurrence, recurrence_shapes
from tests.imagination.fuzz_tokens import TokenCalls

MOST_STEPS = 4


@dataclass(frozen=True)
class Parts:
    """Who works on a rollout; `sizes` are the world model's."""

    dream: Any
    sizes: dict[str, int]
    codec: Codec
    policy: Policy
    recurrence: Recurrence

    def fit(self) -> bool | None:
        """Whether a rollout takes them: None where a token that is drawn may have no codeword."""
        sizes, frame = self.codec.sizes, self.policy.frame
        if self.sizes["block"] - 1 != sizes.side**2 or frame != sizes.frame:
            return False
        if self.policy.count != self.recurrence.count:
            return False
        same_tokens = self.sizes["vocabulary"] == sizes.vocabulary
        return True if same_tokens and self.recurrence.actions == self.sizes["actions"] else None


@dataclass(frozen=True)
class Start:
    """What a rollout starts from, and the address of its draws."""

    tokens: Any
    frames: Any
    mask: Any
    horizon: int  # at most MOST_STEPS, or one that is refused
    seed: int
    first_row: int
    purpose: int

    def fit(self, parts: Parts) -> bool:
        batch, slots, frame = parts.dream.batch, parts.sizes["block"] - 1, parts.codec.sizes.frame
        burn_in = np.shape(self.mask)[1] if np.ndim(self.mask) == 2 else 0
        fits = has_form(self.tokens, np.int64, (batch, slots), parts.sizes["vocabulary"])
        fits = fits and has_form(self.mask, np.bool_, (batch, burn_in))
        return (
            fits
            and has_form(self.frames, np.float32, (batch, burn_in, *frame))
            and 0 < self.horizon <= MOST_STEPS
        )


def in_one_call(extension: Any, parts: Parts, start: Start) -> tuple[Array, ...]:
    """Frames, tokens, actions, rewards, ends, logits, values, hidden and cell state."""
    *results, remembered = extension.roll_out(
        parts.dream,
        parts.codec.codec,
        parts.policy.features,
        parts.recurrence.recurrence,
        start.tokens,
        start.frames,
        start.mask,
        horizon=start.horizon,
        seed=start.seed,
        first_row=start.first_row,
        purpose_action=start.purpose,
    )
    assert 0 <= remembered <= parts.dream.batch * start.horizon
    return tuple(results)


def step_by_step(extension: Any, parts: Parts, start: Start) -> tuple[Array, ...]:
    """The same from a call for each part of each step."""
    dream, recurrence = parts.dream, parts.recurrence.recurrence
    batch, block = dream.batch, parts.sizes["block"]
    dream.restart(start.tokens, seed=start.seed, first_row=start.first_row)
    hidden, cells = (np.zeros((batch, parts.recurrence.width), np.float32) for _ in range(2))
    for step in range(start.mask.shape[1]):
        features = parts.policy.features.compute(start.frames[:, step].copy())
        seen = start.mask[:, step, None]
        after = recurrence.step(features, hidden, cells)[:2]
        hidden, cells = np.where(seen, after[0], hidden), np.where(seen, after[1], cells)
    state, tokens, steps = (hidden, cells), start.tokens, []
    rows = start.first_row + np.arange(batch, dtype=np.int64)
    for step in range(start.horizon):
        frames = parts.codec.codec.decode(tokens)
        features = parts.policy.features.compute(frames)
        hidden, cells, logits, values = recurrence.step(features, hidden, cells)
        positions = np.full(batch, step * block + block - 1, np.int64)
        actions = extension.sample_categorical(logits, start.seed, rows, positions, start.purpose)
        rewards, ends, after, *_ = dream.step(actions, generate_frame=step + 1 < start.horizon)
        steps.append(
            (frames, tokens, actions, rewards.astype(np.float32) - 1, ends.astype(bool), logits, values)
        )
        tokens = after
    return *(np.stack(series, 1) for series in zip(*steps, strict=True)), *state


class RolloutCalls(TokenCalls):
    """Makes parts that fit each other, and sometimes not, and rolls out."""

    def roll_out(self) -> None:
        parts = self.parts()
        slots, batch, burn_in = parts.sizes["block"] - 1, parts.dream.batch, self.whole(0, 3)
        frames = self.random.random((batch, burn_in, *parts.codec.sizes.frame), np.float32)
        start = Start(
            tokens=self.spoiled(self.random.integers(0, parts.sizes["vocabulary"], (batch, slots)), 0.05),
            frames=self.spoiled(frames, 0.05),
            mask=self.spoiled(self.random.random((batch, burn_in)) < 0.7, 0.05),
            horizon=self.whole(1, MOST_STEPS) if self.chance(0.95) else self.pick((0, -1, 2**50, 2**64)),
            seed=int(self.random.integers(2**63)),
            first_row=int(self.random.integers(2**32)),
            purpose=int(self.random.integers(2**32)),
        )
        found = attempt(
            lambda: in_one_call(self.extension, parts, start),
            fits=parts.fit() if start.fit(parts) else False,
        )
        for array, expected in zip(found, step_by_step(self.extension, parts, start), strict=True):
            assert array.dtype == expected.dtype and np.array_equal(array, expected, equal_nan=True)

    def parts(self) -> Parts:
        """Parts that fit each other; every third time one of them was made by another call."""
        parts = self.fitting_parts()
        others: list[dict[str, Any]] = [
            *({"dream": dream, "sizes": sizes} for dream, sizes in self.dreams),
            *({"codec": codec} for codec in self.codecs),
            *({"policy": policy} for policy in self.policies),
            *({"recurrence": recurrence} for recurrence in self.recurrences),
        ]
        return replace(parts, **self.pick(others)) if others and self.chance(0.33) else parts

    def fitting_parts(self) -> Parts:
        pool, frames = self.extension.ThreadPool(self.whole(1, 4)), self.small_frames()
        sizes = self.sizes() | {"block": frames.side**2 + 1, "vocabulary": frames.vocabulary}
        policy = self.fitting_policy(frames, pool)
        return Parts(
            self.fitting_dream(sizes, pool),
            sizes,
            self.fitting_codec(frames, pool),
            policy,
            self.fitting_recurrence(policy.count, sizes["actions"], pool),
        )

    def small_frames(self) -> FrameSizes:
        sizes = self.frame_sizes()
        return replace(sizes, side=self.whole(1, 3), widths=sizes.widths[:1] * 2, attention_resolutions=())

    def fitting_dream(self, sizes: dict[str, int], pool: Any) -> Any:
        model = self.extension.TokenModel(
            self.filled(self.shapes(sizes)),
            num_layers=sizes["layers"],
            num_heads=sizes["heads"],
            tokens_per_block=sizes["block"],
            max_blocks=sizes["blocks"],
            block_causal=self.chance(0.3),
            layer_norm_epsilon=1e-5,
            simd=self.simd(),
        )
        first = np.zeros((self.whole(1, 9), sizes["block"] - 1), np.int64)
        purposes = {"purpose_reward": 1, "purpose_end": 2, "purpose_token": 3}
        return self.extension.TokenDream(model, pool, first, seed=0, **purposes)

    def fitting_codec(self, sizes: FrameSizes, pool: Any) -> Codec:
        model = self.extension.FrameModel(
            self.filled(frame_shapes(sizes), WEIGHT_SCALE),
            resolution=sizes.resolution,
            widths=list(sizes.widths),
            residual_blocks=sizes.residual_blocks,
            attention_resolutions=list(sizes.attention_resolutions),
            norm_groups=sizes.groups,
            norm_epsilon=1e-6,
            simd=self.simd(),
        )
        room = self.pick((0, 2000, 2**29))  # bytes for remembered frames
        return Codec(self.extension.FrameCodec(model, pool, memo_bytes=room), sizes, calm=True)

    def fitting_policy(self, sizes: FrameSizes, pool: Any) -> Policy:
        width = self.whole(1, 20)
        weights = self.filled(policy_shapes((sizes.channels, width)), WEIGHT_SCALE)
        features = self.extension.PolicyFeatures(
            weights, pool, resolution=sizes.resolution, convolutions=1, simd=self.simd()
        )
        return Policy(features, sizes.frame, width * (sizes.resolution // 2) ** 2, calm=True)

    def fitting_recurrence(self, count: int, actions: int, pool: Any) -> Recurrence:
        width = self.whole(1, 30)
        weights = self.filled(recurrence_shapes(count, width, actions))
        made = self.extension.PolicyRecurrence(weights, pool, simd=self.simd())
        probe = self._inputs(1, count, width)
        return Recurrence(made, count, width, actions, True, probe, made.step(*probe))
