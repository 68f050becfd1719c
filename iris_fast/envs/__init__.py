"""Games behind one vector-environment interface: Atari with envpool or ale-py, and Catch."""

from __future__ import annotations

from iris_fast.envs.factory import BACKENDS, choose_backend, make_vector_env
from iris_fast.envs.games import ATARI_100K, human_normalized_score, list_games, resolve_game
from iris_fast.envs.interface import EnvConfig, FrameVectorEnv

__all__ = [
    "ATARI_100K",
    "BACKENDS",
    "EnvConfig",
    "FrameVectorEnv",
    "choose_backend",
    "human_normalized_score",
    "list_games",
    "make_vector_env",
    "resolve_game",
]
