"""Episodes in contiguous uint8 storage, gathered by slot.

Every frame has a slot; an episode is a list of slots. Slot 0 is an all-zero frame: padding points at it, so a
padded batch is one gather and no multiplication by a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iris_fast.errors import UserError
from iris_fast.kernels.common.arguments import with_checked_types

PADDING_SLOT = 0


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies `array` to the device; the host does not wait for the device's pending work."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass
class Episode:
    """One episode: the slots of its frames in order (the slot array may have room to grow) and its state."""

    slots: np.ndarray = field(default_factory=lambda: np.zeros(64, np.int64))
    length: int = 0
    closed: bool = False
    episode_return: float = 0.0

    def extend(self, slots: np.ndarray) -> None:
        needed = self.length + len(slots)
        if needed > len(self.slots):
            grown = np.zeros(max(needed, 2 * len(self.slots)), np.int64)
            grown[: self.length] = self.slots[: self.length]
            self.slots = grown
        self.slots[self.length : needed] = slots
        self.length = needed

    @property
    def held(self) -> np.ndarray:
        return self.slots[: self.length]


@dataclass
class Segments:
    """Frames of a batch of segments by slot; `slots` int64 and `mask` bool, both `(batch, time)` on the host."""

    slots: np.ndarray
    mask: np.ndarray


@dataclass
class SegmentBatch:
    """Actions, rewards, ends and mask of a batch of segments, `(batch, time)` each, on the models' device; padding is
    zeros."""

    actions: Tensor
    rewards: Tensor
    ends: Tensor
    mask_padding: Tensor


class EpisodeStore:
    """Frames `(slots, 3, size, size)` uint8 with action, reward and end of each, and the episodes they form."""

    @with_checked_types
    def __init__(
        self, capacity: int, size: int, device: torch.device, model_device: torch.device | None = None
    ):
        """Room for `capacity` frames of `size`×`size` on `device`; batches are given on `model_device`."""
        if capacity < 1:
            raise UserError(
                "the replay's memory limit does not hold one frame: raise datasets.train.max_ram_usage"
            )
        self.capacity = capacity
        self.model_device = model_device or device
        rows = capacity + 1
        try:
            self.frames = torch.zeros((rows, 3, size, size), dtype=torch.uint8, device=device)
        except RuntimeError as error:  # a CPU's has no class of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            elsewhere = "" if torch.device(device).type == "cpu" else "datasets.train.device=cpu, or "
            raise UserError(
                f"the replay's {capacity} frames ({capacity * self.frame_bytes(size) / 1e9:.1f} GB) do not fit on "
                f"{device}: use {elsewhere}a lower datasets.train.max_ram_usage"
            ) from None
        self.actions = torch.zeros(rows, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(rows, dtype=torch.float32, device=device)
        self.ends = torch.zeros(rows, dtype=torch.bool, device=device)
        self.episodes: dict[int, Episode] = {}
        self._before = np.arange(rows)  # the slot of the frame before; a first frame's own
        self.num_frames = 0
        self._unused = 1  # slots from here on have never held a frame
        self._freed: list[np.ndarray] = []
        self.evicted: list[int] = []

    @staticmethod
    def frame_bytes(size: int) -> int:
        """Bytes of one frame with its action, reward and end."""
        return 3 * size * size + 8 + 4 + 1

    def extend(
        self,
        episode_id: int,
        frames: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        ends: np.ndarray,
        closed: bool,
    ) -> np.ndarray:
        """Adds steps at the end of an episode (a new one if needed); returns their slots.

        `frames`: `(time, 3, size, size)` uint8, the others `(time,)`. When full, the oldest episodes are dropped
        whole."""
        count = len(frames)
        episode = self.episodes.setdefault(episode_id, Episode())
        slots = self._allocate(count, episode_id)
        index = torch.from_numpy(slots).to(self.frames.device)
        for storage, values in (
            (self.frames, frames),
            (self.actions, actions),
            (self.rewards, rewards),
            (self.ends, ends),
        ):
            storage[index] = torch.as_tensor(values, dtype=storage.dtype).to(storage.device)
        last = episode.held[-1:] if episode.length else slots[:1]
        self._before[slots] = np.concatenate([last, slots[:-1]])
        episode.extend(slots)
        episode.closed = closed
        episode.episode_return += float(np.sum(rewards))
        self.num_frames += count
        return slots

    def close(self, episode_id: int) -> None:
        """Marks an episode as over: it grows no more."""
        self.episodes[episode_id].closed = True

    @with_checked_types
    def sample(self, rng: np.random.Generator, batch: int, length: int, from_start: bool) -> Segments:
        """Picks episodes uniformly, then a segment of `length` in each (docs/iris.md, part 2).

        From start: the first index is uniform in [0, len - 1] and the end is padded; to end: the end index is
        uniform in [1, len] and the beginning is padded. UserError if the store is empty.
        """
        episodes = [episode for episode in self.episodes.values() if episode.length]
        if not episodes:
            raise UserError("the replay is empty: collect before training (collection.train.num_steps)")
        slots = np.full((batch, length), PADDING_SLOT, np.int64)
        mask = np.zeros((batch, length), bool)
        chosen = rng.integers(len(episodes), size=batch)
        fractions = rng.random(batch)
        for row, (which, fraction) in enumerate(zip(chosen, fractions, strict=True)):
            held = episodes[which].held
            point = int(fraction * len(held))  # uniform in [0, len - 1]
            piece = (
                held[point : point + length] if from_start else held[max(0, point + 1 - length) : point + 1]
            )
            place = slice(0, len(piece)) if from_start else slice(length - len(piece), length)
            slots[row, place] = piece
            mask[row, place] = True
        return Segments(slots, mask)

    def batch(self, segments: Segments) -> SegmentBatch:
        """Actions, rewards, ends and mask of the segments, on the models' device."""
        index = on_device(segments.slots, self.frames.device)
        actions, rewards, ends = (
            storage[index].to(self.model_device) for storage in (self.actions, self.rewards, self.ends)
        )
        return SegmentBatch(actions, rewards, ends, on_device(segments.mask, self.model_device))

    def gather_frames(self, slots: np.ndarray | Tensor) -> Tensor:
        """Frames `(*slots.shape, 3, size, size)` float32 in [0, 1] on the models' device."""
        device = self.frames.device
        index = slots.to(device) if isinstance(slots, Tensor) else on_device(slots, device)
        return self.frames[index].to(self.model_device).float().div_(255)

    def gather_with_change(self, slots: np.ndarray) -> tuple[Tensor, Tensor]:
        """`gather_frames`, and uint8 of the same shape: the absolute difference to the frame before.

        The difference is zero for an episode's first frame.
        """
        device = self.frames.device
        frames, before = (self.frames[on_device(index, device)] for index in (slots, self._before[slots]))
        change = torch.maximum(frames, before) - torch.minimum(frames, before)
        return frames.to(self.model_device).float().div_(255), change.to(self.model_device)

    def _allocate(self, count: int, growing: int) -> np.ndarray:
        """Free slots; evicts the oldest episodes whole until there are enough."""
        while self._free_count() < count:
            others = [key for key in self.episodes if key != growing]
            closed = [key for key in others if self.episodes[key].closed]
            if not others:
                raise UserError(
                    f"the replay's {self.capacity} frames do not hold one episode: raise datasets.train.max_ram_usage"
                )
            self.evict((closed or others)[0])
        slots = np.empty(0, np.int64)
        while self._freed and len(slots) < count:
            piece = self._freed.pop()
            taken = count - len(slots)
            slots = np.concatenate([slots, piece[:taken]])
            if len(piece) > taken:
                self._freed.append(piece[taken:])
        fresh = count - len(slots)
        slots = np.concatenate([slots, np.arange(self._unused, self._unused + fresh)])
        self._unused += fresh
        return slots

    def _free_count(self) -> int:
        return self.capacity + 1 - self._unused + sum(len(piece) for piece in self._freed)

    def evict(self, episode_id: int) -> None:
        """Drops an episode and frees its slots."""
        episode = self.episodes.pop(episode_id)
        self._freed.append(episode.held.copy())
        self.num_frames -= episode.length
        self.evicted.append(episode_id)
