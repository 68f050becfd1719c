"""Makes an environment from the name of a game and of a backend."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from iris_fast.envs.config import EnvConfig, checked_seed, whole_number
from iris_fast.envs.games import CATCH, INSTALL_ATARI, resolve_game
from iris_fast.errors import UserError

if TYPE_CHECKING:
    from iris_fast.envs.atari import RawEmulators
    from iris_fast.envs.interface import FrameVectorEnv

BACKENDS = ("auto", "envpool", "ale", "catch")
_PACKAGES = {"envpool": "envpool", "ale": "ale_py"}


def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    return find_spec(package) is not None


def is_available(backend: str) -> bool:
    """Whether the backend's packages are installed."""
    return backend not in _PACKAGES or is_installed(_PACKAGES[backend])


def choose_backend(game: str, backend: str = "auto") -> str:
    """The backend that `make_vector_env` will use: `"catch"`, `"envpool"` or `"ale"`.

    `"auto"` is catch for Catch; for Atari it is envpool if that is installed and fits the game, else ale.

    Raises:
        UserError: an unknown game or backend, a backend without this game, or a missing package.
    """
    game = resolve_game(game)
    if backend not in BACKENDS:
        raise UserError(f"env.backend={backend} is unknown: choose {', '.join(BACKENDS)}")
    if (game == CATCH) != (backend == "catch") and backend != "auto":
        fitting = "catch" if game == CATCH else "envpool or ale"
        raise UserError(f"env.backend={backend} does not have {game}: choose auto or {fitting}")
    if game == CATCH:
        return "catch"
    if backend == "auto":
        from iris_fast.envs.envpool_backend import envpool_obstacle

        backend = "envpool" if is_available("envpool") and envpool_obstacle(game) is None else "ale"
    if not is_available(backend):
        raise UserError(f"{game} needs {_PACKAGES[backend]} for env.backend={backend}: {INSTALL_ATARI}")
    return backend


def make_vector_env(
    game: str, config: EnvConfig, *, num_envs: int, seed: int, backend: str = "auto"
) -> FrameVectorEnv:
    """`num_envs` copies of a game behind the one interface.

    The same seed and actions give the same observations and rewards with either Atari backend.

    Args:
        game: any name that `resolve_game` understands.
        config: frame size, limits and rules (Catch reads only `size`).
        seed: one non-negative integer for all rows; `reset(seed=...)` sets another.
        backend: one of `BACKENDS`.

    Raises:
        UserError: as `choose_backend`, or a seed that is not a non-negative integer, or fewer than one environment.
    """
    game = resolve_game(game)
    backend = choose_backend(game, backend)
    num_envs = whole_number("num_envs", num_envs)
    try:
        seed = checked_seed(seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    if num_envs < 1:
        raise UserError(f"num_envs={num_envs} is not possible: at least one environment is needed")
    # Only here: a backend needs gymnasium and packages of its own.
    if backend == "catch":
        from iris_fast.envs.catch import CatchVectorEnv

        return CatchVectorEnv(num_envs=num_envs, seed=seed, size=config.size)
    from iris_fast.envs.atari import AtariVectorEnv

    emulators: RawEmulators
    if backend == "envpool":
        from iris_fast.envs.envpool_backend import EnvpoolEmulators

        emulators = EnvpoolEmulators(game, num_envs=num_envs, seed=seed)
    else:
        from iris_fast.envs.ale import AleEmulators

        emulators = AleEmulators(game, num_envs=num_envs, seed=seed)
    return AtariVectorEnv(emulators, config, seed=seed)
