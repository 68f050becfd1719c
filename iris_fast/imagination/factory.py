"""Which engine imagines: by name, or the fastest that the agent's device has."""

from __future__ import annotations

from iris_fast.agent import Agent
from iris_fast.errors import UserError
from iris_fast.kernels._extension import find_extension
from iris_fast.kernels._triton import triton

from .cpu_engine import CpuEngine
from .engine import EngineName, ImaginationEngine
from .graph_engine import CudaGraphEngine, GraphOptions
from .oracle import OracleEngine

OF_PRECISION = {
    "float32": GraphOptions(),
    "tf32": GraphOptions(precision="tf32"),
    "bf16": GraphOptions(dtype="bfloat16"),
    "fp16": GraphOptions(dtype="bfloat16"),
}
"""The CUDA-graph engine's arithmetic for each `common.precision`."""


def make_engine(agent: Agent, name: EngineName = "auto", precision: str = "float32") -> ImaginationEngine:
    """The engine of that name for `agent`; `auto` takes the C++ one on a CPU, CUDA graphs on a GPU, else the oracle.

    Raises UserError where the agent's device, or this installation, does not have the engine that was asked for.
    """
    device = agent.device.type
    built = find_extension() is not None
    if name == "cpu" and device != "cpu":
        raise UserError(f"common.engine=cpu runs on a CPU, not on {agent.device}: use common.engine=auto")
    if name == "cpu" and not built:
        raise UserError("common.engine=cpu needs the C++ extension: build it with `pip install -e .`")
    if name == "cuda_graph" and device != "cuda":
        raise UserError(
            f"common.engine=cuda_graph runs on a GPU, not on {agent.device}: use common.engine=auto"
        )
    if name == "cuda_graph" and triton is None:
        raise UserError("common.engine=cuda_graph needs Triton: pip install triton")
    if name == "cpu" or (name == "auto" and device == "cpu" and built):
        return CpuEngine(agent)
    if name == "cuda_graph" or (name == "auto" and device == "cuda" and triton is not None):
        return CudaGraphEngine(agent, OF_PRECISION[precision])
    return OracleEngine(agent)
