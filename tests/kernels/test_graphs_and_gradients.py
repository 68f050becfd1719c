"""Every public operation in one graph for all numbers of rows, exported, and where it has no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from iris_fast.kernels import lambda_returns, linear_sample, sample_categorical, vq_lookup, vq_statistics

from .public_calls import flat, make_calls

ROWS_OF = {
    "vq_lookup": (0,),
    "vq_lookup_cosine": (0,),
    "vq_statistics": (0, 1),
    "ema_update": (0,),
    "cached_attention": (0, 1, 2, 3, 4),
    "cached_attention_blocks": (0, 1, 2, 3, 4),
    "cached_attention_fp8": (0, 1, 2, 3, 4),
    "sample_categorical": (0,),
    "sample_categorical_truncated": (0, 2),
    "linear_sample": (0,),
    "linear_sample_info": (0,),
    "philox_uniform": (1,),
    "layer_norm_linear": (0, 3),
    "layer_norm_attention": (4, 5, 6),  # and the second dimension of the first
    "layer_norm_mlp": (),  # likewise
    "group_norm_swish": (0,),
    "token_embedding": (0,),
    "lambda_returns": (0, 1, 2),
}
"""Of a call's tensors, those whose first dimension is its number of rows."""
SECOND_OF = {"layer_norm_attention": (0,), "layer_norm_mlp": (0,)}
"""And those whose second is."""


def with_rows(name: str, rows: int) -> tuple[Tensor, ...]:
    """The arguments of a call for another number of rows, at least 1."""

    def resized(tensor: Tensor, dim: int) -> Tensor:
        return tensor.index_select(dim, torch.arange(rows) % tensor.shape[dim])

    arguments = list(make_calls("cpu")[name][1])
    for index in ROWS_OF[name]:
        as_bytes = arguments[index].dtype == torch.float8_e4m3fn
        given = arguments[index].view(torch.uint8) if as_bytes else arguments[index]
        found = resized(given, 0)
        arguments[index] = found.view(torch.float8_e4m3fn) if as_bytes else found
    for index in SECOND_OF.get(name, ()):
        arguments[index] = resized(arguments[index], 1)
    return tuple(arguments)


@pytest.mark.parametrize("name", list(make_calls("cpu")))
def test_one_graph_serves_every_number_of_rows(name: str) -> None:
    function = make_calls("cpu")[name][0]
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
@pytest.mark.parametrize("name", list(make_calls("cpu")))
def test_is_exported_for_every_number_of_rows(name: str, strict: bool) -> None:
    function = make_calls("cpu")[name][0]
    rows = torch.export.Dim("rows", min=2, max=64)
    arguments = with_rows(name, 5)
    shapes: list[dict[int, Any] | None] = [None] * len(arguments)
    for index in ROWS_OF[name]:
        shapes[index] = {0: rows}
    for index in SECOND_OF.get(name, ()):
        shapes[index] = {1: rows}
    exported = torch.export.export(
        Called(function), arguments, dynamic_shapes=(tuple(shapes),), strict=strict
    ).module()
    others = with_rows(name, 7)
    with torch.no_grad():
        for one, other in zip(exported(*others), flat(function(*others)), strict=True):
            torch.testing.assert_close(one, other)


NO_FLOATS = {"philox_uniform"}


@pytest.mark.parametrize("name", [name for name in make_calls("cpu") if name not in NO_FLOATS])
def test_forward_mode_is_refused(name: str) -> None:
    function, arguments = make_calls("cpu")[name]
    tried = 0
    for index, argument in enumerate(arguments):
        if not argument.is_floating_point() or argument.dtype == torch.float8_e4m3fn:
            continue
        given = list(arguments)
        with torch.no_grad(), forward_ad.dual_level():
            given[index] = forward_ad.make_dual(argument, torch.ones_like(argument))
            with pytest.raises(NotImplementedError, match="no forward-mode gradient"):
                function(*given)
        tried += 1
    assert tried
    rewards, values, ends = make_calls("cpu")["lambda_returns"][1]
    with pytest.raises(NotImplementedError, match="lambda_returns has no forward-mode gradient"):
        torch.func.jvp(
            lambda rewards: lambda_returns(rewards, values, ends, 0.9, 0.9), (rewards,), (rewards,)
        )


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
