"""The engine of each name."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from iris_fast.config.schema import CommonConfig, Precision
from iris_fast.errors import UserError
from iris_fast.imagination import factory
from iris_fast.imagination.cpu_engine import CpuEngine
from iris_fast.imagination.factory import make_engine
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.kernels.common.extension import find_extension
from iris_fast.training.device import engine_of
from tests.support.agents import micro_agent

needs_extension = pytest.mark.skipif(find_extension() is None, reason="the C++ extension is not built")


@needs_extension
def test_a_configuration_says_in_what_precision_the_extension_computes() -> None:
    common = CommonConfig(kv_dtype="float16", weights_dtype="int8", decoder_dtype="int8")
    engine = engine_of(micro_agent(), common)
    assert isinstance(engine, CpuEngine)
    options = engine.options
    assert (options.kv_dtype, options.weights_dtype, options.decoder_dtype) == ("float16", "int8", "int8")
    with pytest.raises(UserError, match=r"common\.decoder_dtype are settings of the C\+\+ engine"):
        engine_of(micro_agent(), replace(common, engine="oracle"))


def test_a_float64_agent_gets_the_oracle() -> None:
    assert type(make_engine(micro_agent().double())) is OracleEngine


@needs_extension
def test_a_cpu_takes_the_extension() -> None:
    agent = micro_agent()
    assert type(make_engine(agent)) is CpuEngine
    assert type(make_engine(agent, "cpu")) is CpuEngine
    assert type(make_engine(agent, "oracle")) is OracleEngine


def test_without_the_extension_auto_is_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "find_extension", lambda: None)
    agent = micro_agent()
    assert type(make_engine(agent)) is OracleEngine
    with pytest.raises(UserError, match=r"needs the C\+\+ extension"):
        make_engine(agent, "cpu")


def test_the_cpu_engine_is_refused_elsewhere() -> None:
    agent = micro_agent().to("meta")
    with pytest.raises(UserError, match="not on meta"):
        make_engine(agent, "cpu")
    assert type(make_engine(agent)) is OracleEngine


def test_the_graph_engine_is_refused_without_a_gpu_and_knows_every_precision() -> None:
    with pytest.raises(UserError, match=r"common\.engine=cuda_graph runs on a GPU, not on cpu"):
        make_engine(micro_agent(), "cuda_graph")
    assert {*factory.OF_PRECISION, "auto"} == set(get_args(Precision))


def test_launches_of_a_layer_are_the_graph_engines_alone() -> None:
    assert factory.options_of("bf16", "2") == GraphOptions(dtype="bfloat16", launches_per_layer=2)
    assert factory.options_of("float32", "5") == factory.options_of("float32") == GraphOptions()
    for engine in ("auto", "cpu", "oracle"):
        with pytest.raises(UserError, match=r"common\.layer_launches is a setting of the CUDA-graph engine"):
            engine_of(micro_agent(), CommonConfig(engine=engine, layer_launches="2"))


@pytest.mark.gpu
def test_a_gpu_takes_graphs() -> None:
    agent = micro_agent().to("cuda")
    assert type(make_engine(agent)) is CudaGraphEngine
    assert type(make_engine(agent, "oracle")) is OracleEngine
