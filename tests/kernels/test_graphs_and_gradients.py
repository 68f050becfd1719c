"""Every public operation in one graph for all numbers of rows, exported, and where it has no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from iris_fast.kernels import (
    SPECS,
    lambda_returns,
    linear_sample,
    sample_categorical,
    vq_lookup,
    vq_statistics,
)

from .harness import calls, flat

NAMES = list(calls("cpu"))


def with_rows(name: str, rows: int) -> tuple[Tensor, ...]:
    """The tensors of a call for another number of rows, at least 1."""

    def resized(tensor: Tensor, dim: int) -> Tensor:
        if tensor.dtype == torch.float8_e4m3fn:  # which PyTorch cannot index
            return resized(tensor.view(torch.uint8), dim).view(torch.float8_e4m3fn)
        return tensor.index_select(dim, torch.arange(rows) % tensor.shape[dim])

    call = calls("cpu")[name]
    return tuple(
        resized(tensor, call.rows[index]) if index in call.rows else tensor
        for index, tensor in enumerate(call.tensors)
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_serves_every_number_of_rows(name: str) -> None:
    function = calls("cpu")[name].function
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for rows in (11, 2, 3, 5, 9):  # at first a size that no other has: equal ones are taken for one
            arguments = with_rows(name, rows)
            for one, other in zip(flat(compiled(*arguments)), flat(function(*arguments)), strict=True):
                torch.testing.assert_close(one, other)
    assert len(graphs) == 1


class Called(torch.nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return flat(self.function(*arguments))


@pytest.mark.parametrize(
    "strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["default", "strict"]
)
@pytest.mark.parametrize("name", NAMES)
def test_is_exported_for_every_number_of_rows(name: str, strict: bool) -> None:
    function = calls("cpu")[name].function
    rows = torch.export.Dim("rows", min=2, max=64)
    arguments = with_rows(name, 5)
    of_rows = calls("cpu")[name].rows
    shapes = [{of_rows[index]: rows} if index in of_rows else None for index in range(len(arguments))]
    exported = torch.export.export(
        Called(function), arguments, dynamic_shapes=(tuple(shapes),), strict=strict
    ).module()
    others = with_rows(name, 7)
    with torch.no_grad():
        for one, other in zip(exported(*others), flat(function(*others)), strict=True):
            torch.testing.assert_close(one, other)


def differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float8_e4m3fn


WITH_FLOATS = [name for name, call in calls("cpu").items() if any(map(differentiable, call.tensors))]


@pytest.mark.parametrize("name", [name for name in WITH_FLOATS if name != "ema_update"])
def test_forward_mode_is_refused(name: str) -> None:
    function, arguments = calls("cpu")[name].function, calls("cpu")[name].tensors
    tried = 0
    for index, argument in enumerate(arguments):
        if not differentiable(argument):
            continue
        given = list(arguments)
        with torch.no_grad(), forward_ad.dual_level():
            given[index] = forward_ad.make_dual(argument, torch.ones_like(argument))
            with pytest.raises(NotImplementedError, match="no forward-mode gradient"):
                function(*given)
        tried += 1
    assert tried
    rewards, values, ends = calls("cpu")["lambda_returns"].tensors
    with pytest.raises(NotImplementedError, match="lambda_returns has no forward-mode gradient"):
        torch.func.jvp(
            lambda rewards: lambda_returns(rewards, values, ends, 0.9, 0.9), (rewards,), (rewards,)
        )


@pytest.mark.parametrize("file", [file for file, spec in SPECS.items() if spec.derivatives is None])
def test_what_has_no_gradient_claims_none_or_refuses_to_be_asked_for_it(file: str) -> None:
    for name, call in SPECS[file].calls("cpu").items():
        given = [one.clone().requires_grad_() if differentiable(one) else one for one in call.tensors]
        try:
            found = flat(call.function(*given))
        except RuntimeError as refusal:
            assert "no gradient" in str(refusal)
        else:
            assert name == "ema_update" or not any(one.requires_grad for one in found)


def test_no_output_claims_a_gradient_that_it_does_not_have() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    weight = torch.randn(7, 5, requires_grad=True)
    address: dict[str, Any] = {"seed": 1, "position": 2, "purpose": 3, "return_info": True}
    drawn = [*sample_categorical(x, **address), *linear_sample(x, weight, **address)]
    drawn += vq_statistics(x, torch.arange(4), 5)
    assert not any(one.requires_grad for one in drawn)
    ends = torch.zeros(4, 5, requires_grad=True)
    assert not lambda_returns(x.detach(), x.detach(), ends, 0.9, 0.9).requires_grad
    of_vectors = vq_lookup(x, weight.detach(), commitment=True)
    of_codebook = vq_lookup(x.detach(), weight, commitment=True)
    claims = [
        [
            part.requires_grad
            for part in (one.quantized, one.commitment_loss, one.codebook_loss)
            if part is not None
        ]
        for one in (of_vectors, of_codebook)
    ]
    assert claims == [[True, True, False], [False, False, True]]
