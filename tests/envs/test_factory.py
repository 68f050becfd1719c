from __future__ import annotations

import builtins
from typing import Any

import pytest

from iris_fast.envs import EnvConfig, choose_backend, factory, make_vector_env
from iris_fast.envs.ale import AleEmulators
from iris_fast.envs.envpool_backend import EnvpoolEmulators
from iris_fast.errors import UserError
from tests.envs.conftest import TRAIN, needs_envpool


def only_installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(factory, "is_installed", lambda package: package in packages)


def test_auto_takes_envpool_then_ale(monkeypatch: pytest.MonkeyPatch) -> None:
    only_installed(monkeypatch, "envpool", "ale_py")
    assert choose_backend("Pong") == "envpool"
    assert choose_backend("Pong", "ale") == "ale"
    only_installed(monkeypatch, "ale_py")
    assert choose_backend("Pong") == "ale"


def test_auto_takes_catch_for_catch_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    only_installed(monkeypatch)
    assert choose_backend("catch") == choose_backend("Catch", "catch") == "catch"


@pytest.mark.parametrize("game", ["Pooyan", "Backgammon"])
def test_auto_leaves_to_ale_what_envpool_cannot_show(monkeypatch: pytest.MonkeyPatch, game: str) -> None:
    monkeypatch.setattr(factory, "resolve_game", lambda name: name)
    only_installed(monkeypatch, "envpool", "ale_py")
    assert choose_backend(game) == "ale"


@pytest.mark.parametrize(
    ("game", "backend", "sentence"),
    [
        ("Pong", "gym", "env.backend=gym is unknown: choose auto, envpool, ale, catch"),
        ("Pong", "catch", "env.backend=catch does not have Pong: choose auto or envpool or ale"),
        ("Catch", "envpool", "env.backend=envpool does not have Catch: choose auto or catch"),
        ("Pnog", "auto", r"unknown game 'Pnog' \(nearest: Pong"),
        ("Pong", "envpool", r"Pong needs envpool for env.backend=envpool: pip install 'iris_fast\[atari\]'"),
        ("Pong", "auto", r"Pong needs ale_py for env.backend=ale: pip install 'iris_fast\[atari\]'"),
    ],
)
def test_bad_choices(monkeypatch: pytest.MonkeyPatch, game: str, backend: str, sentence: str) -> None:
    only_installed(monkeypatch)
    with pytest.raises(UserError, match=f"^{sentence}"):
        make_vector_env(game, TRAIN, num_envs=1, seed=0, backend=backend)


@pytest.mark.parametrize("emulators", [AleEmulators, EnvpoolEmulators])
def test_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, emulators: Any) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name in ("envpool", "ale_py"):
            raise ImportError(f"no {name} here")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"cannot be imported.*pip install 'iris_fast\[atari\]'"):
        emulators("Pong", num_envs=1, seed=0)


@needs_envpool
def test_envpool_refuses_games_it_would_cut() -> None:
    with pytest.raises(
        UserError, match=r"envpool does not fit Pooyan \(.*210 rows\): choose env.backend=ale"
    ):
        EnvpoolEmulators("Pooyan", num_envs=1, seed=0)


@pytest.mark.parametrize(("num_envs", "seed"), [(0, 0), (1, -1)])
def test_impossible_numbers(num_envs: int, seed: int) -> None:
    with pytest.raises(UserError, match="is not possible"):
        make_vector_env("Catch", TRAIN, num_envs=num_envs, seed=seed)


@pytest.mark.parametrize("name", ["size", "max_episode_steps", "noop_max", "frame_skip"])
def test_settings_below_one(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(UserError, match=f"^{name}=0 is not possible"):
        EnvConfig(**settings)


def test_limit_within_the_noops() -> None:
    with pytest.raises(UserError, match=r"max_episode_steps=30 .* noop_max=30"):
        EnvConfig(max_episode_steps=30, noop_max=30)
