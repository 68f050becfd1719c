"""How well the tokenizer keeps Pong's ball with each choice of perceptual loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Result
from benchmarks.registry import Run, case
from iris_fast.config import preset_config, resolve
from iris_fast.config.schema import PartConfig
from iris_fast.envs import EnvConfig, make_vector_env
from iris_fast.models.tokenizer import Tokenizer, TokenizerConfig, in_pieces
from iris_fast.randomness import derive_seed, numpy_generator
from iris_fast.training.measures import Sums
from iris_fast.training.media import save_reconstructions
from iris_fast.training.optimization import PartTrainer
from iris_fast.training.parts import BACKGROUND_FRAMES, Losses, Part

FIELD = (slice(11, 59), slice(9, 55))  # rows and columns of the playing field, clear of walls and paddles
STEPS = 700  # of a run of the small preset before its world model begins to train
BALL_CONTRAST = 20  # levels by which a pixel of the ball is brighter than the background


def pong_frames(count: int, seed: int) -> np.ndarray:
    """`(count, 3, 64, 64)` uint8: frames of random play."""
    config = EnvConfig(max_episode_steps=108_000, noop_max=30, done_on_life_loss=False)
    env = make_vector_env("Pong", config, num_envs=1, seed=seed, backend="ale")
    rng = np.random.default_rng(seed)
    frames = [env.reset()[0][0]]
    while len(frames) < count:
        observation, _, ended, truncated, _ = env.step(rng.integers(0, 6, 1))
        frames.append(observation[0])
        if (ended | truncated)[0]:
            env.reset(options={"reset_mask": ended | truncated})
    env.close()
    return np.stack(frames)


def ball_mask(frames: np.ndarray) -> np.ndarray:
    """`(count, 64, 64)` bool: pixels of the ball, found by their brightness."""
    grey = frames.astype(np.int64).mean(1)
    field = np.zeros(grey.shape, bool)
    inside = grey[:, FIELD[0], FIELD[1]]
    field[:, FIELD[0], FIELD[1]] = inside > np.median(inside) + BALL_CONTRAST
    return field


class BallPart(Part[torch.Tensor]):
    """The tokenizer on given frames; as in a run, unused codes are restarted until the world model begins."""

    name = "tokenizer"

    def __init__(self, tokenizer: Tokenizer, frames: np.ndarray, config: PartConfig, restarting: int):
        """`restarting`: number of steps with restarts."""
        super().__init__(tokenizer, config, "float32")
        self.tokenizer, self.frames, self.restarting = tokenizer, frames, restarting

    def inputs(self, seed: int, batch: int | None = None) -> torch.Tensor:
        chosen = numpy_generator(seed).integers(0, len(self.frames), batch or self.config.batch_num_samples)
        return torch.from_numpy(self.frames[chosen]).float() / 255

    def training_inputs(self, seed: int, epoch: int, step: int) -> torch.Tensor:
        frames, every = self.inputs(seed), self.tokenizer.config.restart_codes_every
        if every and step < self.restarting and step % every == 0:
            self.tokenizer.restart_unused_codes(frames)
        return frames

    def _losses(self, piece: torch.Tensor, sums: Sums | None) -> Losses:
        return self.tokenizer.losses(piece)


def train_tokenizer(config: TokenizerConfig, frames: np.ndarray, steps: int, seed: int) -> Tokenizer:
    """A tokenizer after `steps` gradient steps of the small preset, as if its world model began after half."""
    preset = resolve(preset_config("small", "Pong")).training.tokenizer
    torch.manual_seed(seed)
    tokenizer = Tokenizer(config)
    if config.background:
        tokenizer.set_background(torch.from_numpy(frames[:BACKGROUND_FRAMES]).float() / 255)

    trainer = PartTrainer(BallPart(tokenizer, frames, preset, (steps + 1) // 2))
    for step in range(steps):
        trainer.step(derive_seed(seed, "ball"), 1, step)
    return tokenizer.eval()


def ball_errors(tokenizer: Tokenizer, frames: np.ndarray) -> dict[str, float]:
    """Mean absolute errors in levels (0 to 255): of the ball's pixels, of all; and how often the ball is kept.

    A ball is kept when its brightest pixel is reconstructed at more than half its contrast.
    """
    tensor = torch.from_numpy(frames).float() / 255
    seen = in_pieces(lambda part: tokenizer.frames_of(tokenizer.tokens_of(part)), tensor)
    error = ((seen - tensor).abs() * 255).mean(1).numpy()
    mask = ball_mask(frames)
    with_ball = mask.any((1, 2))
    background = np.median(frames, axis=0).mean(0)
    true = np.where(mask, frames.mean(1) - background, 0).max((1, 2))[with_ball]
    kept = np.where(mask, seen.numpy().mean(1) * 255 - background, 0).max((1, 2))[with_ball]
    return {
        "ball_error": float(error[mask].mean()),
        "all_error": float(error.mean()),
        "balls_kept": float((kept > true / 2).mean()),
        "frames_with_ball": int(with_ball.sum()),
        "tokens_used": len(np.unique(tokenizer.tokens_of(tensor[:256]).numpy())),
    }


def measure(steps: int, pictures: Path | None = None) -> dict[str, Any]:
    """Errors on held-out frames for the small preset's tokenizer and for variants that change one thing each."""
    train, held_out = pong_frames(3000, seed=0), pong_frames(600, seed=1)
    base = preset_config("small", "Pong").tokenizer
    variants = {
        "objects": base,
        "objects_without_background": replace(base, background=False),
        "foreground": replace(base, perceptual="foreground"),
        "none": replace(base, perceptual="none"),
    }
    found: dict[str, Any] = {"steps": steps, "train_frames": len(train), "held_out_frames": len(held_out)}
    for kind, config in variants.items():
        tokenizer = train_tokenizer(config, train, steps, seed=0)
        found[kind] = ball_errors(tokenizer, held_out)
        if pictures is not None:
            shown = torch.from_numpy(held_out[ball_mask(held_out).any((1, 2))][::40][:16]).float() / 255
            save_reconstructions(
                pictures / f"ball_{kind}.png", shown, tokenizer.frames_of(tokenizer.tokens_of(shown))
            )
    return found


@case("ball", minutes=15)
def ball(run: Run) -> Result:
    """Error on the pixels of Pong's ball after training the small tokenizer with each perceptual loss."""
    pictures = Path(__file__).parents[1] / "results" / "pictures"
    return Result(facts=measure(*(20, None) if run.quick else (STEPS, pictures)))
