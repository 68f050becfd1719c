"""The evaluation every few epochs: test returns, losses on test episodes, pictures and videos."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from iris_fast.acting import ActingConfig, Policy
from iris_fast.agent import Agent
from iris_fast.config import Config
from iris_fast.config.schema import memory_bytes
from iris_fast.envs import make_vector_env
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.files import is_disk_full
from iris_fast.imagination.engine import ImaginationEngine, ImaginationStart
from iris_fast.randomness import derive_seed
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .measures import Sums, totals_of
from .media import NoFilmError, episode_captions, return_comment, save_episode_video, save_reconstructions
from .parts import imagination_start, make_parts
from .run_folder import RunFolder
from .tester import PlayedEpisode, play_episodes, return_statistics

MAX_VIDEO_FRAMES = 3000
FILM_FPS, SLOWEST_FPS, SHORTEST_FILM_SECONDS = 15, 3, 4
RECONSTRUCTED_FRAMES = 16
EVALUATED_PARTS = ("tokenizer", "world_model")


class Evaluator:
    """Evaluates the agent without changing anything that training depends on."""

    def __init__(
        self,
        config: Config,
        agent: Agent,
        engine: ImaginationEngine,
        run: RunFolder,
        backend: str,
        policy: Policy | None = None,
    ):
        self.config = config
        self.agent = agent
        self.engine = engine
        self.run = run
        self.backend = backend
        self.policy = policy or Policy(agent)
        self._lacking: set[str] = set()  # messages already printed about media that cannot be made

    @contextmanager
    def showing(self) -> Iterator[None]:
        """A block that makes a video or a picture: if it cannot be made, the run says so once and continues.

        A full disk is different: the run could not be saved either.
        """
        try:
            yield
        except (NoFilmError, OSError) as error:
            if is_disk_full(error):
                raise
            film = isinstance(error, NoFilmError)
            lacking = "films" if film else "pictures or films"
            if lacking not in self._lacking:
                self._lacking.add(lacking)
                print(f"\nno {lacking}, and the run goes on: {error}", file=sys.stderr, flush=True)

    def evaluate(
        self,
        epoch: int,
        on_episode: Callable[[PlayedEpisode], None],
        on_step: Callable[[int], bool],
        trained: set[str],
        note: Callable[[str], None] = lambda text: None,
    ) -> dict[str, float]:
        """Metrics of an epoch's evaluation; `trained` names the parts that have been trained so far.

        `on_step` gets the number of steps played and returns whether to stop; `note` gets the name of the later work.
        """
        self.agent.eval()
        seed = derive_seed(self.config.common.seed, "evaluation", epoch)
        env = self._make_env(seed)
        try:
            episodes = self._play(env, seed, on_episode, on_step)
            metrics = {f"collection/test/{key}": value for key, value in return_statistics(episodes).items()}
            note("films and losses")
            self._save_played(episodes, env, epoch)
            store = self._store(episodes)
            metrics |= self._losses(store, seed, trained)
            self._save_imagined(store, env, epoch, seed, trained)
        finally:
            env.close()
        return metrics

    def _make_env(self, seed: int) -> FrameVectorEnv:
        test = self.config.collection.test
        num_envs = min(test.num_envs, test.config.num_episodes)
        return make_vector_env(
            self.config.game, self.config.env.test, num_envs=num_envs, seed=seed % 2**31, backend=self.backend
        )

    def _play(
        self,
        env: FrameVectorEnv,
        seed: int,
        on_episode: Callable[[PlayedEpisode], None],
        on_step: Callable[[int], bool],
    ) -> list[PlayedEpisode]:
        settings = self.config.collection.test.config
        acting = ActingConfig(
            settings.epsilon, settings.should_sample, settings.temperature, settings.burn_in or 0
        )
        return play_episodes(
            self.agent,
            env,
            acting,
            settings.num_episodes,
            seed,
            keep_frames=self._capacity(),
            on_episode=on_episode,
            on_step=on_step,
            policy=self.policy,
        )

    def _capacity(self) -> int:
        limit = memory_bytes(self.config.datasets.test.max_ram_usage, "datasets.test.max_ram_usage")
        return max(1, limit // EpisodeStore.frame_bytes(self.config.env.test.size))

    def _store(self, episodes: list[PlayedEpisode]) -> EpisodeStore:
        """A store of the kept frames of test episodes, to draw segments from."""
        kept = sum(len(episode.steps.frames) for episode in episodes)
        store = EpisodeStore(kept, self.config.env.test.size, torch.device("cpu"), self.agent.device)
        for number, episode in enumerate(episodes):
            steps = episode.steps
            if steps.frames:
                store.extend(
                    number,
                    np.stack(steps.frames),
                    np.array(steps.actions),
                    np.array(steps.rewards, np.float32),
                    np.array(steps.ends),
                    closed=True,
                )
        return store

    @torch.no_grad()
    def _losses(self, store: EpisodeStore, seed: int, trained: set[str]) -> dict[str, float]:
        """Mean losses and other metrics of the trained parts on `num_batches` batches of test data."""
        cache = FrameCache(self.agent.coder, store)
        parts = make_parts(self.agent, self.config, cache, self.engine, precision="float32")
        batches, metrics = self.config.evaluation.num_batches, dict[str, float]()
        sums: dict[str, Sums] = {name: {} for name in EVALUATED_PARTS if name in trained}
        for batch in range(batches):
            batch_seed = derive_seed(seed, "batch", batch)
            for name, of_part in sums.items():
                part = parts[name]
                pieces = list(part.losses(part.inputs(batch_seed), of_part))
                losses = {key: torch.stack([piece[key] for piece in pieces]).mean() for key in pieces[0]}
                losses["total_loss"] = torch.stack(list(losses.values())).sum()
                for key, loss in losses.items():
                    metric = f"{name}/eval/{key}"
                    metrics[metric] = metrics.get(metric, 0.0) + float(loss) / batches
        for name, of_part in sums.items():
            if of_part:
                metrics |= parts[name].metrics(totals_of(of_part), f"{name}/eval")
        return metrics

    def _save_played(self, episodes: list[PlayedEpisode], env: FrameVectorEnv, epoch: int) -> None:
        with_frames = [episode for episode in episodes if episode.steps.frames]
        for number, episode in enumerate(with_frames[: self.config.collection.test.num_episodes_to_save]):
            path = self.run.episodes("test") / f"epoch_{epoch:04d}_{number}.mp4"
            with self.showing():
                save_steps(
                    path,
                    episode.steps.film,
                    episode.steps.actions,
                    episode.steps.rewards,
                    env.action_meanings,
                )

    def _save_imagined(
        self, store: EpisodeStore, env: FrameVectorEnv, epoch: int, seed: int, trained: set[str]
    ) -> None:
        """Reconstructions of test frames, and episodes that the agent plays in its own dream.

        The video of a dream stops at its first end. The frame there is a guess: the replay has no frame after an end,
        so the world model has learned none.
        """
        if "tokenizer" not in trained:
            return
        slots = store.sample(
            np.random.default_rng(seed % 2**32), RECONSTRUCTED_FRAMES, 1, from_start=True
        ).slots[:, 0]
        frames = store.gather_frames(slots)
        seen = self.agent.reconstruct((frames * 255).round().to(torch.uint8))
        with self.showing():
            save_reconstructions(
                self.run.reconstructions / f"epoch_{epoch:04d}.png", frames.cpu(), seen.cpu()
            )
        count, length = self.config.evaluation.num_imagined_episodes, self.config.evaluation.imagined_frames
        if "world_model" not in trained or not count or not length:
            return
        cache = FrameCache(self.agent.coder, store)
        start: ImaginationStart = imagination_start(
            cache, count, self.config.training.actor_critic.burn_in, seed
        )
        # Beyond the context too, plus one step for the result of the last action.
        dream = self.engine.imagine(start, length + 1, derive_seed(seed, "dream"))
        for row in range(count):
            path = self.run.episodes("imagination") / f"epoch_{epoch:04d}_{row}.mp4"
            ends = dream.ends[row, :length].nonzero().flatten().tolist()
            steps = ends[0] + 1 if ends else length
            with self.showing():
                save_steps(
                    path,
                    (dream.observations[row, : steps + 1] * 255).round().to(torch.uint8).cpu().numpy(),
                    dream.actions[row, :steps].tolist(),
                    dream.rewards[row, :steps].tolist(),
                    env.action_meanings,
                    ended=bool(ends),
                )


def save_steps(
    path: Path,
    frames: Sequence[np.ndarray] | np.ndarray,
    actions: Sequence[int],
    rewards: Sequence[float],
    action_meanings: tuple[str, ...],
    ended: bool = True,
) -> None:
    """Saves played or imagined steps as a video with captions, cut at `MAX_VIDEO_FRAMES` steps.

    `frames`: one for each action and, if there is one, the frame after the last action. It is labelled END, or CUT if
    the episode continues. Short episodes are slowed down to about four seconds.
    """
    stop = min(len(actions), MAX_VIDEO_FRAMES)
    shown = np.asarray(frames[: stop + 1])
    captions = episode_captions(actions[:stop], rewards[:stop], action_meanings)
    if len(shown) > stop:
        last = "END" if ended and stop == len(actions) else "CUT"
        captions.append("\t".join([last, "", captions[-1].split("\t")[-1]]))
    fps = min(FILM_FPS, max(SLOWEST_FPS, round(len(shown) / SHORTEST_FILM_SECONDS)))
    save_episode_video(path, shown, fps=fps, captions=captions, comment=return_comment(sum(rewards[:stop])))
