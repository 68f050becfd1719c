"""Games behind one vector-environment interface: Atari with envpool or ale-py, and Catch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iris_fast.envs.config import EnvConfig
from iris_fast.envs.factory import BACKENDS, choose_backend, make_vector_env
from iris_fast.envs.games import ATARI_100K, human_normalized_score, list_games, resolve_game

if TYPE_CHECKING:
    from iris_fast.envs.interface import FrameVectorEnv

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


def __getattr__(name: str) -> Any:
    """The interface itself at its first use, since it needs gymnasium and settings and names of games do not."""
    if name != "FrameVectorEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from iris_fast.envs import interface

    return interface.FrameVectorEnv
