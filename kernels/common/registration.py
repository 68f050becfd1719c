"""Registers the operators of this folder in `torch.library`, with their common rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .arithmetic import exact_float32

# Named after the package, so that a copy of this folder in another package can be loaded beside this one.
NAMESPACE = __name__.rsplit(".", 2)[0].replace(".", "_")


class Operator:
    """An operator of `torch.library`, made by `operator` below; kernels and a gradient are added as usual.

    Outside a GPU it and its gradient compute in `exact_float32`. It refuses inputs with a forward-mode tangent, which
    PyTorch would drop without a word.
    """

    def __init__(self, name: str, function: Callable[..., Any], mutates_args: tuple[str, ...]):
        self._name = name
        self._operator = torch.library.custom_op(
            f"{NAMESPACE}::{name}",
            _exact(function),
            mutates_args=mutates_args,
            schema=torch.library.infer_schema(function, mutates_args=mutates_args),
        )
        self.register_kernel = self._operator.register_kernel
        self.register_fake = self._operator.register_fake

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """As of `torch.library.custom_op`: `backward(ctx, *gradients)`."""

        @functools.wraps(backward)
        def exact_backward(ctx: Any, *gradients: Tensor | None) -> Any:
            device = next((grad.device for grad in gradients if grad is not None), None)
            if device is None:
                return backward(ctx, *gradients)
            with exact_float32(device):
                return backward(ctx, *gradients)

        self._operator.register_autograd(exact_backward, setup_context=setup_context)

    def __call__(self, *arguments: Any) -> Any:
        refuse_forward_mode(self._name, arguments)
        return self._operator(*arguments)

    def detached(self, *arguments: Any) -> Any:
        """The results for inputs without their gradients, where there is none: no result claims to have one."""
        refuse_forward_mode(self._name, arguments)
        return self._operator(*(one.detach() if isinstance(one, Tensor) else one for one in arguments))


def operator(name: str, mutates_args: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Operator]:
    """Registers a function, which is to run on every device that gets no kernel of its own, as an operator."""
    return lambda function: Operator(name, function, mutates_args)


def refuse_forward_mode(operation: str, arguments: Iterable[object]) -> None:
    """Raises NotImplementedError if a tensor carries a tangent of forward-mode differentiation."""
    if forward_ad._current_level < 0:
        return
    for one in arguments:
        if isinstance(one, Tensor) and forward_ad.unpack_dual(one).tangent is not None:
            raise NotImplementedError(
                f"{operation} has no forward-mode gradient (jvp, jacfwd): detach its inputs, or call its reference"
            )


def _exact(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def exact(first: Tensor, *others: Any) -> Any:
        with exact_float32(first.device):
            return function(first, *others)

    return exact
