"""Which engine imagines: by name, or the fastest that the agent's device has."""

from __future__ import annotations

from iris_fast.agent import Agent
from iris_fast.errors import UserError
from iris_fast.kernels._extension import find_extension

from .cpu_engine import CpuEngine
from .engine import EngineName, ImaginationEngine
from .oracle import OracleEngine


def make_engine(agent: Agent, name: EngineName = "auto") -> ImaginationEngine:
    """The engine of that name for `agent`; `auto` takes the C++ one on a CPU, else the oracle.

    Raises UserError where the agent's device, or this installation, does not have the engine that was asked for.
    """
    on_cpu = agent.device.type == "cpu"
    built = find_extension() is not None
    if name == "cpu" and not on_cpu:
        raise UserError(f"common.engine=cpu runs on a CPU, not on {agent.device}: use common.engine=auto")
    if name == "cpu" and not built:
        raise UserError("common.engine=cpu needs the C++ extension: build it with `pip install -e .`")
    if name == "cpu" or (name == "auto" and on_cpu and built):
        return CpuEngine(agent)
    return OracleEngine(agent)
