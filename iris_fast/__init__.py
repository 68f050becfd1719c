"""The IRIS world-model agent (Micheli et al., ICLR 2023) on Atari, on one GPU or none.

From Python:

    import iris_fast

    run = iris_fast.train("Catch", run_dir="outputs/catch")
    result = iris_fast.evaluate(run, episodes=20)
    agent = iris_fast.load_agent(run)

The names in `__all__` are the package's front. Each is imported at its first use, so `import iris_fast` is quick.
`iris_fast.kernels` has operations for other models. The commands are `python -m iris_fast` and `iris-fast`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .agent import Agent, AgentConfig
    from .config import Config, preset_config
    from .envs import make_vector_env
    from .errors import RunStopped, UserError
    from .front import evaluate, imagine, load_agent, train
    from .imagination.engine import Rollout
    from .imagination.factory import make_engine
    from .results import summarize

__all__ = [
    "Agent",
    "AgentConfig",
    "Config",
    "Rollout",
    "RunStopped",
    "UserError",
    "evaluate",
    "imagine",
    "load_agent",
    "make_engine",
    "make_vector_env",
    "preset_config",
    "summarize",
    "train",
]

# `train` and `evaluate` are modules too, the commands; as attributes they are those modules, which can be called.
_PLACES = {
    "Agent": "agent",
    "AgentConfig": "agent",
    "Config": "config",
    "Rollout": "imagination.engine",
    "RunStopped": "errors",
    "UserError": "errors",
    "imagine": "front",
    "load_agent": "front",
    "make_engine": "imagination.factory",
    "make_vector_env": "envs",
    "preset_config": "config",
    "summarize": "results",
}


def __getattr__(name: str) -> Any:
    if name in ("train", "evaluate", "kernels"):
        return import_module(f"{__name__}.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "kernels"})
