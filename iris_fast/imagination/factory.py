"""Chooses the engine of imagination: by name, or the fastest on the agent's device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from iris_fast.agent import Agent
from iris_fast.errors import UserError, nearest
from iris_fast.kernels.common.extension import find_extension
from iris_fast.kernels.common.triton import triton
from iris_fast.models.frame_codec import DecoderDtype, has_codec

from .cpu_engine import CpuEngine, CpuOptions
from .engine import EngineName, HalfOrFloat, ImaginationEngine, LayerLaunches, WeightsDtype
from .graph_engine import CudaGraphEngine, GraphOptions
from .oracle import OracleEngine

OF_PRECISION = {
    "float32": GraphOptions(),
    "tf32": GraphOptions(precision="tf32"),
    "bf16": GraphOptions(dtype="bfloat16"),
    "fp16": GraphOptions(dtype="bfloat16"),
}
"""The CUDA-graph engine's arithmetic for each `common.precision`."""


def make_engine(
    agent: Agent,
    name: EngineName = "auto",
    precision: str = "float32",
    *,
    kv_dtype: HalfOrFloat = "float32",
    weights_dtype: WeightsDtype = "float32",
    decoder_dtype: DecoderDtype = "float32",
    layer_launches: LayerLaunches = "auto",
) -> ImaginationEngine:
    """The named engine for `agent`; `auto` takes C++ on a CPU, CUDA graphs on a GPU, else the oracle.

    `precision` and `layer_launches` are options of the CUDA-graph engine (`GraphOptions`), the dtypes of the C++
    engine (`CpuOptions`). If the C++ engine cannot run an agent, such as one in float64, `auto` takes the oracle.

    Raises UserError for an unknown name, or if the agent's device or this installation does not support the engine
    that was asked for.
    """
    _require_known("engine", name, get_args(EngineName))
    _require_known("precision", precision, tuple(OF_PRECISION))
    _require_known("kv_dtype", kv_dtype, get_args(HalfOrFloat))
    _require_known("weights_dtype", weights_dtype, get_args(WeightsDtype))
    _require_known("decoder_dtype", decoder_dtype, get_args(DecoderDtype))
    _require_known("layer_launches", layer_launches, get_args(LayerLaunches))
    device = agent.device.type
    options = CpuOptions(kv_dtype=kv_dtype, weights_dtype=weights_dtype, decoder_dtype=decoder_dtype)
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
    graphed = name == "cuda_graph" or (name == "auto" and device == "cuda" and triton is not None)
    if layer_launches != "auto" and not graphed:
        raise UserError(
            "common.layer_launches is a setting of the CUDA-graph engine on a GPU: leave it out, or set "
            "common.engine=cuda_graph"
        )
    if name == "cpu" or (name == "auto" and built and has_codec(agent.tokenizer)):
        try:
            return CpuEngine(agent, options)
        except ValueError as error:  # unsupported sizes, or weights that the dtype cannot hold
            if name == "cpu" or options != CpuOptions():
                raise UserError(f"common.engine=cpu cannot run this agent: {error}") from error
    if options != CpuOptions():
        raise UserError(
            "common.kv_dtype, common.weights_dtype and common.decoder_dtype are settings of the C++ engine on a CPU: "
            "leave them out, or set common.engine=cpu"
        )
    if graphed:
        return CudaGraphEngine(agent, options_of(precision, layer_launches))
    return OracleEngine(agent)


def _require_known(setting: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        hint = nearest(str(value), known)
        raise UserError(f"common.{setting}={value} is unknown: choose {', '.join(known)}{hint}")


def options_of(precision: str, layer_launches: LayerLaunches = "auto") -> GraphOptions:
    """The CUDA-graph engine's options for a run's settings; `auto` takes their defaults."""
    options = OF_PRECISION[precision]
    if layer_launches == "auto":
        return options
    return replace(options, launches_per_layer=2 if layer_launches == "2" else 5)
