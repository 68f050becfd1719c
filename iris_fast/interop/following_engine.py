"""An engine for an agent that foreign code trains and moves: it detects changed weights by itself.

Only this module compares weights: our own agents count the changes (`Versioned`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from iris_fast.agent import PARTS, Agent, AgentConfig
from iris_fast.errors import UserError
from iris_fast.imagination.engine import EngineName, ImaginationStart, Rollout
from iris_fast.imagination.factory import make_engine

from .public import infer_config


class FollowingEngine:
    """Imagines with parts whose weights change unannounced, by any optimizer, by loading or by replacement.

    Engines keep copies of weights and decoded frames until a part's version rises. So before each rollout this class
    adopts replaced parameters, and on a CPU it compares every weight bit by bit with a copy from the previous
    rollout. This takes the memory of the weights once more and, for the 16 million of the paper's size, 20 ms of one
    core: an eighth of the time of a rollout of one row over four steps after one frame, below 0.5 % of that of 16
    rows after 20 frames. It raises the version of each part that differs. On a GPU it raises all versions, because a
    comparison would wait for the device and a copy costs almost nothing.
    """

    def __init__(
        self,
        agent: Agent,
        parts: Mapping[str, nn.Module],
        name: EngineName = "auto",
        precision: str = "float32",
    ):
        """`agent`: from `sharing_agent(parts)`, or of the same sizes; it now gets the parameters of `parts`. `name`,
        `precision`: as in `make_engine`, which is called again after the parts have moved. UserError for a
        `precision` that the engine does not support; otherwise raises as `make_engine`.
        """
        self.agent = agent
        self.parts = dict(parts)
        self._name: EngineName = name
        self._precision = precision
        self._make()

    def is_of(self, parts: Mapping[str, nn.Module]) -> bool:
        """Whether it imagines with exactly these modules."""
        return all(self.parts[part] is parts[part] for part in PARTS)

    def start(self, observations: Tensor, mask: Tensor) -> ImaginationStart:
        """The start of rollouts from segments `(batch, burn_in + 1, 3, 64, 64)` in [0, 1] that end unpadded.

        `mask`: `(batch, burn_in + 1)` bool, False where left-padded.
        """
        self._follow()
        before = observations[:, :-1]
        with torch.no_grad():
            coder = self.agent.coder
            seen = coder.frames_of(coder.tokens_of(before.flatten(0, 1)))
            first_tokens = coder.tokens_of(observations[:, -1])
        return ImaginationStart(seen.view(before.shape), mask[:, :-1], first_tokens)

    def imagine(self, start: ImaginationStart, horizon: int, seed: int) -> Rollout:
        """As in every engine, with the weights at the time of `start`."""
        return self.engine.imagine(start, horizon, seed)

    def _make(self) -> None:
        self._place = self._place_now()
        self.engine = make_engine(self.agent, self._name, self._precision)
        if self._precision != "float32" and self.engine.name != "cuda_graph":
            raise UserError(
                f"precision={self._precision} is the CUDA-graph engine's, and on {self.agent.device} the engine is "
                f"{self.engine.name}: leave it out"
            )
        self._copies: dict[str, Tensor] = {}
        self._changed_parts()
        self._addresses = self._addresses_now()

    def _follow(self) -> None:
        share_parameters(self.agent, self.parts)
        if self._place_now() != self._place:
            self.agent.weights_changed()
            self._make()
            return
        addresses = self._addresses_now()
        for part in self._changed_parts():
            self.agent.weights_changed(part, in_place=addresses == self._addresses)
        self._addresses = addresses

    def _place_now(self) -> tuple[torch.device, torch.dtype]:
        return self.agent.device, self.agent.actor_critic.actor_linear.weight.dtype

    def _addresses_now(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.agent.parameters()]

    def _changed_parts(self) -> list[str]:
        """Parts whose weights changed since the last call; all parts if comparing costs more than copying."""
        if self.agent.device.type != "cpu":
            return list(PARTS)
        changed = []
        for part in PARTS:
            weights = self.agent.get_submodule(part).state_dict(prefix=f"{part}.")
            different = [name for name, weight in weights.items() if not self._is_held(name, weight)]
            self._copies.update({name: weights[name].detach().clone() for name in different})
            changed += [part] if different else []
        return changed

    def _is_held(self, name: str, weight: Tensor) -> bool:
        copy = self._copies.get(name)
        if copy is None or (copy.dtype, copy.shape, copy.stride()) != (
            weight.dtype,
            weight.shape,
            weight.stride(),
        ):
            return False
        return torch.equal(bits(copy), bits(weight))


def bits(tensor: Tensor) -> Tensor:
    """The same memory, in its order, as integers, so that a NaN equals itself and the sign of zero counts.

    The widest that fit, since PyTorch compares number by number.
    """
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.int64 if flat.numel() * flat.element_size() % 8 == 0 else torch.uint8)


def sharing_agent(parts: Mapping[str, nn.Module]) -> Agent:
    """Our agent in evaluation mode, sharing the parameter objects of the public agent's parts.

    Raises UserError for unsupported sizes.
    """
    weights = {
        f"{part}.{name}": weight for part in PARTS for name, weight in parts[part].state_dict().items()
    }
    there: nn.Module = parts["world_model"]
    config = infer_config(weights, num_heads=there.config.num_heads)  # type: ignore[union-attr, arg-type]
    num_actions = weights["actor_critic.actor_linear.weight"].shape[0]
    with torch.device("meta"):
        ours = Agent(AgentConfig(config.tokenizer, config.world_model, config.actor_critic), num_actions)
    share_parameters(ours, parts)
    return ours.eval()


def share_parameters(ours: Agent, parts: Mapping[str, nn.Module]) -> None:
    """Gives `ours` the current parameters of `parts`.

    Raises UserError if one is missing or has another shape.
    """
    for part in PARTS:
        theirs = dict(parts[part].named_parameters())
        own = ours.get_submodule(part)
        for name, held in list(own.named_parameters()):
            parameter = theirs.get(name)
            if parameter is held:
                continue
            if parameter is None or parameter.shape != held.shape:
                found = "missing" if parameter is None else f"now {tuple(parameter.shape)}"
                raise UserError(
                    f"{part}.{name} was {tuple(held.shape)} and is {found}: call accelerate(agent) again"
                )
            if parameter.dim() == 4:
                # Our convolutions use channels last; the values and the object stay the same.
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            module_name, _, leaf = name.rpartition(".")
            own.get_submodule(module_name)._parameters[leaf] = parameter
