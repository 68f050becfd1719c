"""The public implementation, imported from a checkout and run as a black box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from iris_fast.agent import PARTS
from iris_fast.config.schema import ActorCriticPartConfig
from iris_fast.interop.checkout import public_agent
from iris_fast.interop.public import to_public

from .interface import Arrays, seconds_of
from .training import Steps, loss_and_gradient
from .weights import ACTIONS, load_agent_file


class PublicSystem:
    """Its agent with our weights, loaded by name; its `imagine` is the rollout, its models the parts."""

    same_model = True
    difference = ""
    goes_on = False

    def __init__(self, checkout: Path, device: torch.device):
        self.checkout, self.device = checkout, device
        self.agent: Any = None
        self._with_lpips = False

    def load(self, weights: Path) -> None:
        config, own, perceptual = load_agent_file(weights)
        with_lpips = perceptual is not None
        if self.agent is None or self._with_lpips != with_lpips:
            self.agent = public_agent(self.checkout, config, ACTIONS, with_lpips=with_lpips)
            self._with_lpips = with_lpips
        self.agent.load_state_dict(to_public(own, config, perceptual))
        self.agent.to(self.device).eval()
        self._steps = Steps({part: getattr(self.agent, part) for part in PARTS}, self.device)

    def _new_cache(self, batch: int) -> Any:
        model = self.agent.world_model
        return model.transformer.generate_empty_keys_values(n=batch, max_tokens=model.config.max_tokens)

    def has_parts(self) -> bool:
        return True

    @torch.no_grad()
    def dream(self, first: Tensor, actions: Tensor, tokens: Tensor | None) -> Arrays:
        assert tokens is not None, "the public implementation replays the frames of another side"
        model, cache = self.agent.world_model, self._new_cache(len(first))
        first, actions, tokens = (tensor.to(self.device) for tensor in (first, actions, tokens))
        model(first, past_keys_values=cache)
        found: dict[str, list[Tensor]] = {"rewards": [], "ends": [], "observations": []}
        for step in range(actions.shape[1]):
            output = model(actions[:, step, None], past_keys_values=cache)
            found["rewards"].append(output.logits_rewards[:, 0])
            found["ends"].append(output.logits_ends[:, 0])
            logits = [output.logits_observations]
            for slot in range(tokens.shape[2]):
                output = model(tokens[:, step, slot, None], past_keys_values=cache)
                logits.append(output.logits_observations)  # none after the last token
            found["observations"].append(torch.cat(logits, dim=1))
        return {name: torch.stack(values, dim=1) for name, values in found.items()}

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> tuple[float, Tensor]:
        tokens, tokenizer = tokens.to(self.device), self.agent.tokenizer
        side = int(tokens.shape[1] ** 0.5)

        def decode() -> Tensor:
            z_q = tokenizer.embedding(tokens).unflatten(1, (side, side)).permute(0, 3, 1, 2).contiguous()
            return tokenizer.decode(z_q, should_postprocess=True).clamp(0, 1)

        return seconds_of(decode, self.device)

    @torch.no_grad()
    def act(self, frames: Tensor) -> tuple[float, Arrays]:
        frames, actor_critic = frames.to(self.device), self.agent.actor_critic
        actor_critic.reset(len(frames))
        seconds, output = seconds_of(lambda: actor_critic(frames), self.device)
        return seconds, {"logits": output.logits_actions[:, 0], "values": output.means_values[:, 0, 0]}

    @torch.no_grad()
    def generate(self, first: Tensor, actions: Tensor) -> list[float]:
        model, cache = self.agent.world_model, self._new_cache(len(first))
        first, actions = first.to(self.device), actions.to(self.device)

        def step(action: Tensor) -> None:
            if cache.size == 0:
                model(first, past_keys_values=cache)
            output = model(action[:, None], past_keys_values=cache)
            for logits in (output.logits_rewards, output.logits_ends):
                Categorical(logits=logits).sample()
            for _ in range(first.shape[1]):
                token = Categorical(logits=output.logits_observations).sample()
                output = model(token, past_keys_values=cache)

        return [seconds_of(lambda a=a: step(a), self.device)[0] for a in actions.unbind(1)]  # type: ignore[misc]

    @torch.no_grad()
    def rollout(self, frames: Tensor, horizon: int, seed: int) -> tuple[float, Arrays]:
        torch.manual_seed(seed)
        observations = frames.to(self.device).unsqueeze(1)  # one frame: nothing before it burns in
        mask = torch.ones(len(frames), 1, dtype=torch.bool, device=self.device)
        batch = {"observations": observations, "mask_padding": mask}
        agent = self.agent
        seconds, output = seconds_of(
            lambda: agent.actor_critic.imagine(batch, agent.tokenizer, agent.world_model, horizon=horizon),
            self.device,
        )
        return seconds, {
            "actions": output.actions,
            "rewards": output.rewards,
            "ends": output.ends.bool(),
            "observations": output.observations.float() / 255,
        }

    @torch.no_grad()
    def play(self, frames: Tensor) -> float:
        frames, agent = frames.to(self.device), self.agent
        agent.actor_critic.reset(len(frames))
        return seconds_of(lambda: agent.act(frames), self.device)[0]

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> tuple[float, Tensor]:
        frames, tokenizer = frames.to(self.device), self.agent.tokenizer
        return seconds_of(
            lambda: tokenizer.encode_decode(frames, should_preprocess=True, should_postprocess=True),
            self.device,
        )

    def _total(self, part: str, batch: Arrays, horizon: int) -> Tensor:
        agent = self.agent
        if part == "tokenizer":
            loss = agent.tokenizer.compute_loss(batch)
        elif part == "world_model":
            loss = agent.world_model.compute_loss(batch, agent.tokenizer)
        else:
            returns = ActorCriticPartConfig()
            loss = agent.actor_critic.compute_loss(
                batch,
                agent.tokenizer,
                agent.world_model,
                imagine_horizon=horizon,
                gamma=returns.gamma,
                lambda_=returns.lambda_,
                entropy_weight=returns.entropy_weight,
            )
        total: Tensor = loss.loss_total
        return total

    def losses(self, part: str, batch: Arrays, horizon: int) -> dict[str, float]:
        moved = {name: value.to(self.device) for name, value in batch.items()}
        module = getattr(self.agent, part)
        return loss_and_gradient(part, module, lambda: self._total(part, moved, horizon))

    def train(self, part: str, batch: Arrays, horizon: int, cached: bool, seed: int) -> dict[str, float]:
        assert not cached, "the public implementation has no cache of tokens"
        torch.manual_seed(seed)
        moved = {name: value.to(self.device) for name, value in batch.items()}
        module = getattr(self.agent, part)
        return self._steps.seconds(part, lambda: self._total(part, moved, horizon), [module])
