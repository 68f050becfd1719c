"""The run: epochs of phases, checkpoints between them, and stops at any step without loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from iris_fast.acting import ActingConfig, Policy
from iris_fast.agent import PARTS, Agent
from iris_fast.config import Config, to_dict
from iris_fast.config.schema import memory_bytes
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.errors import RunStopped, quoted
from iris_fast.graphs import graphs_of
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.randomness import derive_seed
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore

from .checkpoint import DatasetLog, explained_disk_errors, play_back, save_checkpoint
from .collector import Collector
from .device import peak_memory
from .diagnosis import Diagnosis
from .distributed import ALONE, Group
from .evaluation import Evaluator, save_steps
from .graphed_step import make_part_trainer
from .interrupts import StopRequest
from .loggers import MetricLogger, SilentLogger
from .optimization import MetricMeans
from .parts import make_parts
from .progress import RunProgress
from .run_folder import RunFolder
from .schedule import PHASES, epoch_phases
from .tester import StopPlaying


@dataclass
class Position:
    """The position of a run: epoch, phase and steps done, and the metrics of the epoch so far."""

    epoch: int = 1
    phase: str = PHASES[0]
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    means: dict[str, Any] | None = None  # of the current phase
    finished: dict[str, list[float]] | None = None  # episodes that ended in the current collection


class Trainer:
    """Trains an agent in a run folder. `run()` continues from the trainer's position.

    Cannot be copied or pickled (TypeError), since two would write to one folder: the checkpoint is what moves, and
    `--resume` makes a trainer of it.
    """

    def __init__(
        self,
        config: Config,
        agent: Agent,
        env: FrameVectorEnv,
        engine: ImaginationEngine,
        run: RunFolder,
        frames_saved: int = 0,
        group: Group = ALONE,
    ):
        """`config` must be resolved; `frames_saved`: of a checkpoint to come, for which the replay has room; `group`:
        the processes that train the agent, each with a trainer, of which the first one's plays and writes."""
        self.config = config
        self.agent = agent
        self.env = env
        self.run_folder = run
        self.group = group
        self.logger = self._make_logger() if group.first else SilentLogger()
        self.priors: dict[str, float] = {}  # expected seconds per unit of each phase, for the time left
        self.seed = config.common.seed
        self.store = self._make_store(frames_saved)
        cache_bytes = memory_bytes(
            config.datasets.train.cache_max_ram_usage, "datasets.train.cache_max_ram_usage"
        )
        self.cache = FrameCache(agent.coder, self.store, max_bytes=cache_bytes)
        self.graphs = graphs_of(agent.device) if config.training.cuda_graphs else None
        policy = Policy(agent, self.graphs)
        self.collector = Collector(
            env,
            agent,
            self.store,
            self._acting(),
            derive_seed(self.seed, "collection"),
            policy,
            keep_last=config.collection.train.num_episodes_to_save,
        )
        self.engine = engine
        parts = make_parts(agent, config, self.cache, engine, group=group)
        self.parts = {name: make_part_trainer(part, self.graphs) for name, part in parts.items()}
        self.evaluator = Evaluator(config, agent, engine, run, env.backend, policy)
        self.diagnosis = Diagnosis(config)
        self.dataset_log = DatasetLog()
        self.shared = DatasetLog()  # what the other processes have of the store
        self.position = Position()
        self.env_steps = 0
        self.stop = StopRequest(quiet=not group.first)
        self._clocks: dict[str, float] = {}  # start times of the epoch and the current phase

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"a Trainer cannot be copied or pickled: go on from its checkpoint with "
            f"{quoted('--resume', self.run_folder.path)}, or copy its agent"
        )

    def _make_logger(self) -> MetricLogger:
        config = self.config
        return MetricLogger(
            self.run_folder.path,
            tensorboard=config.logging.tensorboard,
            wandb=to_dict(config.wandb) if config.wandb.mode != "disabled" else None,
            run_config=to_dict(config),
        )

    def _make_store(self, frames_saved: int) -> EpisodeStore:
        """A store for all frames the run will play, or as many as the memory limit allows."""
        train = self.config.collection.train
        size = self.config.env.train.size
        limit = memory_bytes(self.config.datasets.train.max_ram_usage, "datasets.train.max_ram_usage")
        epochs = self.config.common.epochs
        last = epochs if train.stop_after_epochs is None else min(train.stop_after_epochs, epochs)
        wanted = (train.config.num_steps + train.num_envs) * max(1, last)
        wanted = max(wanted, frames_saved + train.config.num_steps + train.num_envs)
        capacity = min(wanted, limit // EpisodeStore.frame_bytes(size))
        on_host = self.config.datasets.train.device == "cpu"
        device = torch.device("cpu") if on_host else self.agent.device
        return EpisodeStore(capacity, size, device, self.agent.device)

    def _acting(self) -> ActingConfig:
        settings = self.config.collection.train.config
        return ActingConfig(
            settings.epsilon, settings.should_sample, settings.temperature, settings.burn_in or 0
        )

    def progress(self) -> RunProgress:
        """The progress of the rest of the run, nothing of which is measured yet."""
        return RunProgress(
            self.config.common.epochs,
            schedule=lambda epoch: epoch_phases(self.config, epoch),
            start_epoch=self.position.epoch,
            priors=self.priors,
            enabled=self.group.first,
        )

    def run(self) -> None:
        """Trains to the last epoch. Raises RunStopped if something ends it early."""
        progress = self.progress()
        with self.stop, explained_disk_errors(self.run_folder):
            while self.position.epoch <= self.config.common.epochs:
                self._epoch(progress)

    def _epoch(self, progress: RunProgress) -> None:
        position, epoch = self.position, self.position.epoch
        progress.begin_epoch(epoch)
        self._clocks = {"epoch": time.perf_counter()}
        phases = epoch_phases(self.config, epoch)
        for name in PHASES[PHASES.index(position.phase) :]:
            position.phase = name
            if name in phases:
                self._phase(name, phases[name], progress)
            position.step, position.means, position.finished = 0, None, None
            if name != PHASES[-1] and self._stopping():
                position.phase = PHASES[PHASES.index(name) + 1]
                self._save_and_stop()
        metrics = position.metrics
        metrics |= peak_memory(self.agent.device)
        metrics["replay/frames"], metrics["replay/episodes"] = self.store.num_frames, len(self.store.episodes)
        self._stop_clock("epoch")
        self.position = Position(epoch=epoch + 1)
        if self._stopping() or self.config.common.do_checkpoint or epoch == self.config.common.epochs:
            began = time.perf_counter()

            def log_first() -> None:
                metrics["duration/checkpoint"] = time.perf_counter() - began
                self.logger.log(metrics, epoch=epoch, env_steps=self.env_steps)

            self.save(log_first)  # so that an epoch's line is never missing where its checkpoint is there
        else:
            self.logger.log(metrics, epoch=epoch, env_steps=self.env_steps)
        progress.epoch_summary(epoch, metrics)
        for sentence in self.diagnosis.sentences(epoch, metrics):
            progress.say(sentence)
        if epoch < self.config.common.epochs and self._stopping():
            raise self._stopped()

    def _stopping(self) -> bool:
        """Whether a signal asked this process or another to stop; all ask at the same places and get one answer."""
        found = self.group.largest(self.stop.signal or 0)
        if found:
            self.stop.signal = self.stop.signal or found
        return bool(found)

    def _phase(self, name: str, total: int, progress: RunProgress) -> None:
        self._clocks[name] = time.perf_counter()
        units = {"collection": "step", "evaluation": "episode"}.get(name, "step")
        with progress.phase(name, total - self.position.step, units) as phase:
            if name == "collection":
                self._collect(total, phase)
            elif name == "evaluation":
                self._evaluate(phase)
            else:
                self._train_part(name, total, phase)
        seconds = self._stop_clock(name)
        metrics, done = self.position.metrics, phase.done
        metrics[f"rates/{name}_{units}s_per_second"] = done / seconds if seconds > 0 else 0.0

    def _stop_clock(self, name: str) -> float:
        """Adds the seconds since the start or resume of an epoch or phase to its duration; returns them."""
        seconds = time.perf_counter() - self._clocks.pop(name)
        metrics, key = self.position.metrics, f"duration/{name}"
        metrics[key] = metrics.get(key, 0.0) + seconds
        return seconds

    def _collect(self, total: int, phase: Any) -> None:
        position, evictions = self.position, len(self.store.evicted)
        self.agent.eval()
        if position.finished is None:
            position.finished = {"return": [], "length": []}
        if self.group.first:
            self._play(total, phase)
        stopping = self._share_played()
        if len(self.store.evicted) > evictions:  # slots were reused
            self.cache.invalidate()
        if stopping and position.step < total:
            self._save_and_stop()
        returns, lengths = position.finished["return"], position.finished["length"]
        position.metrics["collection/train/episodes"] = len(returns)
        if returns:
            position.metrics["collection/train/return"] = sum(returns) / len(returns)
            position.metrics["collection/train/length"] = sum(lengths) / len(lengths)

    def _play(self, total: int, phase: Any) -> None:
        position = self.position

        def on_step(steps: int) -> bool:
            position.step += steps
            self.env_steps += steps
            phase.update(steps)
            return self.stop.requested

        assert position.finished is not None
        resumed = position.step > 0
        ended = self.collector.collect(total - position.step, on_step, resumed=resumed)
        for key, values in ended.items():
            position.finished[key] += values

    def _share_played(self) -> bool:
        """Gives the other processes the new frames and the position after them; returns whether to stop there."""
        if self.group.size == 1:
            return self.stop.requested
        position = self.position
        news, position.step, position.finished, self.env_steps, stopping = self.group.from_first(
            lambda: (
                self.shared.news(self.store),
                position.step,
                position.finished,
                self.env_steps,
                self.stop.requested,
            )
        )
        if self.group.first:
            self.shared.has_recorded(self.store)
        elif news is not None:
            play_back(news, self.store)
        return stopping

    def _train_part(self, name: str, total: int, phase: Any) -> None:
        trainer, position = self.parts[name], self.position
        if self.group.size > 1:  # the same already, but for processors that round differently
            module = trainer.part.module
            self.group.copy_from_first([*module.parameters(), *module.buffers()])
            module.weights_changed(in_place=True)
        self.agent.eval()
        trainer.part.module.train()
        if name == "tokenizer":
            self.cache.invalidate()  # from the last epoch; frees its memory for the tokenizer step
        means = MetricMeans()
        if position.means is not None:
            means.load_state_dict(position.means, self.agent.device)
        metrics: dict[str, torch.Tensor] = {}
        while position.step < total:
            metrics = trainer.step(self.seed, position.epoch, position.step)
            means.add(metrics)
            position.step += 1
            phase.set(loss=metrics["total_loss"])
            phase.update(1)
            if position.step < total and self._stopping():
                trainer.check_finite(means.sums, position.epoch, position.step)
                position.means = means.state_dict()
                self._save_and_stop()
        trainer.check_finite(means.sums, position.epoch, total)
        self.agent.eval()
        position.metrics |= means.means(f"{name}/train")
        position.metrics |= trainer.part.metrics(means.totals(), f"{name}/train")

    def _evaluate(self, phase: Any) -> None:
        metrics = self.group.from_first(lambda: self._metrics_of_evaluation(phase))
        if metrics is None:
            self._save_and_stop()
        else:
            self.position.metrics |= metrics

    def _metrics_of_evaluation(self, phase: Any) -> dict[str, float] | None:
        """The metrics of test episodes, whose media it saves; None after a request to stop."""
        trained = {
            name
            for name in PARTS
            if self.position.epoch > getattr(self.config.training, name).start_after_epochs
        }
        if not self.config.training.should:
            trained = set(PARTS)
        played = 0

        def on_step(steps: int) -> bool:
            nonlocal played
            played += steps
            phase.note(f"{played} steps")
            return self.stop.requested

        try:
            metrics = self.evaluator.evaluate(
                self.position.epoch, lambda episode: phase.update(1), on_step, trained, phase.note
            )
        except StopPlaying:
            return None
        self._save_train_episode()
        return metrics

    def _save_train_episode(self) -> None:
        """Saves videos of the last ended training episodes."""
        closed = sorted(key for key, episode in self.store.episodes.items() if episode.closed)
        count = self.config.collection.train.num_episodes_to_save
        for number, key in enumerate(closed[-count:] if count else []):
            index = torch.from_numpy(self.store.episodes[key].held).to(self.store.frames.device)
            last = self.collector.last_frames.get(key)  # None for an episode that was cut
            with self.evaluator.showing():
                save_steps(
                    self.run_folder.episodes("train") / f"epoch_{self.position.epoch:04d}_{number}.mp4",
                    [*self.store.frames[index].cpu().numpy(), *([] if last is None else [last])],
                    self.store.actions[index].tolist(),
                    self.store.rewards[index].tolist(),
                    self.env.action_meanings,
                )

    def save(self, before_replacing: Callable[[], None] | None = None) -> None:
        """Writes a checkpoint with everything needed to continue from this position, in the first process.

        `before_replacing` is called when it is written, right before it replaces the one before.
        """
        if not self.group.first:
            return
        between_epochs = self.position.phase == PHASES[0] and self.position.step == 0
        played = self.position.epoch - between_epochs  # the epoch of the new frames
        with explained_disk_errors(self.run_folder):
            self.dataset_log.save(self.run_folder.dataset, self.store, played)
        extra = {
            "position": asdict(self.position),
            "env_steps": self.env_steps,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "collector": self.collector.state_dict(),
            "dataset": self.dataset_log.state_dict(),
            "run_config": to_dict(self.config),
        }
        save_checkpoint(self.run_folder, self.agent, extra, before_replacing)

    def load(self, content: dict[str, Any]) -> bool:
        """Restores a checkpoint's content; returns False if the environments had to be restarted.

        Only the first of several processes reads files; the others get their frames from it.
        """
        self.agent.load_parts(content["agent"])
        for name, part in self.parts.items():
            part.load_state_dict(content["parts"][name])
        self.position = Position(**content["position"])
        self.env_steps = content["env_steps"]
        restored = True
        if self.group.first:
            self.dataset_log = DatasetLog(**content["dataset"])
            self.dataset_log.load(self.run_folder.dataset, self.store)
            restored = self.collector.load_state_dict(content["collector"])
        self._share_played()
        self.logger.truncate_after(self.position.epoch - 1)
        return restored

    def _save_and_stop(self) -> None:
        for name in list(self._clocks):
            self._stop_clock(name)
        self.save()
        raise self._stopped()

    def _stopped(self) -> RunStopped:
        self._stopping()  # so that all processes have the signal
        self.group.from_first(lambda: None)  # has saved
        position = self.position
        return RunStopped(
            f"saved at epoch {position.epoch}, {position.phase}, step {position.step}; go on with "
            f"{quoted('--resume', self.run_folder.path)}",
            exit_code=self.stop.exit_code,
        )
