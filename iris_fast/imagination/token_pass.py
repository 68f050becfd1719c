"""The world model's decoding pass with our kernels: five or two launches a layer, over a static key-value cache.

A pass is a token embedding, in each layer LayerNorm + query, key and value; append + attention; output projection +
residual; LayerNorm + first layer of the MLP + GELU; second layer + residual; and for a draw the last LayerNorm +
first layer of a head + ReLU, and its last layer with the draw: 53 launches a token at 10 layers. A pass of one token
can take two launches a layer instead, one for attention and one for the MLP, which leave the residual stream as
partial sums for the next launch; one more launch adds up the last ones: 24 launches a token. They read the weights
and the stream more often (`layer_norm_attention.py`, `layer_norm_mlp.py`), so the faster choice depends on the device
and the batch. The position of a pass in the cache is fixed at capture: it is a Python number, and for the kernels a
row of a table on the device, so no counter has to be raised between launches.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from iris_fast.kernels import (
    cached_attention,
    layer_norm_attention,
    layer_norm_linear,
    layer_norm_mlp,
    linear_sample,
    token_embedding,
)
from iris_fast.models.world_model import Head, WorldModel
from iris_fast.randomness import Purpose


class Affine(NamedTuple):
    """A linear layer: `weight` `(out, dim)` and `bias` `(out,)`."""

    weight: Tensor
    bias: Tensor


class Norm(NamedTuple):
    """A LayerNorm, with the argument names of `layer_norm_linear`."""

    norm_weight: Tensor
    norm_bias: Tensor
    eps: float


class Layer(NamedTuple):
    """The weights of one Transformer block; `qkv` stacks query, key and value."""

    ln1: Norm
    qkv: Affine
    proj: Affine
    ln2: Norm
    mlp_in: Affine
    mlp_out: Affine


class HeadWeights(NamedTuple):
    """A head: Linear, ReLU, Linear."""

    first: Affine
    last: Affine


class InferenceWeights:
    """A world model's weights for the passes, packed and in `dtype`; weights already in that form are shared with the
    model.

    LayerNorms are unchanged. `refresh` copies the model's current weights into the copies, in place.
    """

    def __init__(self, model: WorldModel, dtype: torch.dtype):
        self.model = model
        self.dtype = dtype
        self._copies: list[tuple[Tensor, Tensor]] = []  # (ours, the model's)
        blocks: Any = model.transformer.blocks
        self.layers = [self._layer(block) for block in blocks]
        self.ln_f = _norm(model.transformer.ln_f)
        actions, tokens = (table.weight for table in model.embedder.embedding_tables)
        self.actions, self.tokens = self._of(actions), self._of(tokens)  # type: ignore[arg-type]
        self.positions = self._of(model.pos_emb.weight)
        self.observations, self.rewards, self.ends = (
            self._head(head) for head in (model.head_observations, model.head_rewards, model.head_ends)
        )
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Call it when the model's weights have changed."""
        for ours, theirs in self._copies:
            ours.copy_(theirs)

    def _layer(self, block: Any) -> Layer:
        attention, mlp = block.attn, block.mlp
        return Layer(
            _norm(block.ln1),
            self._affine(attention.query, attention.key, attention.value),
            self._affine(attention.proj),
            _norm(block.ln2),
            self._affine(mlp[0]),
            self._affine(mlp[2]),
        )

    def _head(self, head: Head) -> HeadWeights:
        first, last = head.head_module[0], head.head_module[2]
        return HeadWeights(self._affine(first), self._affine(last))

    def _affine(self, *layers: Any) -> Affine:
        return Affine(self._of(*(x.weight for x in layers)), self._of(*(x.bias for x in layers)))

    def _of(self, *parameters: Tensor) -> Tensor:
        """Parameters stacked in our dtype; a single one that already has it is shared."""
        first = parameters[0].detach()
        if len(parameters) == 1 and first.dtype == self.dtype:
            return first
        rows = sum(len(parameter) for parameter in parameters)
        ours = torch.empty((rows, *first.shape[1:]), dtype=self.dtype, device=first.device)
        for part, theirs in zip(ours.split([len(p) for p in parameters]), parameters, strict=True):
            self._copies.append((part, theirs.detach()))
        return ours


def _norm(layer: nn.LayerNorm) -> Norm:
    return Norm(layer.weight.detach(), layer.bias.detach(), layer.eps)


class TokenPasses:
    """Passes of a batch of sequences of equal length. All memory is allocated once.

    `precision`: of float32 products in the kernels, "ieee", "tf32x3" or "tf32"; `launches_per_layer`: for passes of
    one token (longer ones take five). The residual stream is always float32; keys and values have the weights' dtype.
    """

    def __init__(
        self,
        weights: InferenceWeights,
        batch: int,
        precision: str = "ieee",
        launches_per_layer: Literal[2, 5] = 5,
    ):
        config = weights.model.config
        device = weights.positions.device
        self.weights = weights
        self.config = config
        self.precision = precision
        self.launches_per_layer = launches_per_layer
        head_dim = config.embed_dim // config.num_heads
        shape = (config.num_layers, 2, batch, config.num_heads, config.max_tokens, head_dim)
        self.cache = torch.zeros(shape, dtype=weights.dtype, device=device)
        self.places = torch.arange(config.max_tokens, device=device)
        self.lengths = self.places.to(torch.int32)[:, None].repeat(
            1, batch
        )  # row i: a batch that holds i tokens

    def feed(self, tokens: Tensor, held: int) -> Tensor:
        """Features before the last LayerNorm, `(batch, new, embed_dim)` float32, of new tokens after `held` ones.

        `tokens`: `(batch, new)` int64, where vocab_size + i is action i.
        """
        weights, new = self.weights, tokens.shape[1]
        if held + new > self.config.max_tokens:
            raise ValueError(
                f"the cache holds {self.config.max_tokens} tokens; {held + new} were asked of it"
            )
        x = token_embedding(
            tokens,
            weights.tokens,
            weights.positions,
            self.places[held : held + new],
            more_table=weights.actions,
            dtype=torch.float32,
        )
        if new == 1 and self.launches_per_layer == 2:
            return self._two_launches_a_layer(x, held)
        for index, layer in enumerate(weights.layers):
            x = self._attend(x, layer, index, held)
            hidden = self._linear(x, layer.mlp_in, layer.ln2, activation="gelu")
            x = self._linear(hidden, layer.mlp_out, residual=x)
        return x

    def _two_launches_a_layer(self, x: Tensor, held: int) -> Tensor:
        """The layers on one token's embeddings `(batch, 1, embed_dim)`."""
        parts = x.transpose(0, 1)  # the stream, in one part
        room = self.cache[:, :, :, :, : held + 1]
        for layer, cache in zip(self.weights.layers, room, strict=True):
            parts = layer_norm_attention(
                parts,
                *layer.qkv,
                *layer.proj,
                cache[0],
                cache[1],
                self.lengths[held],
                **layer.ln1._asdict(),
                precision=self.precision,
            )
            parts = layer_norm_mlp(
                parts, *layer.mlp_in, *layer.mlp_out, **layer.ln2._asdict(), precision=self.precision
            )
        return parts.sum(0)[:, None]

    def _attend(self, x: Tensor, layer: Layer, index: int, held: int) -> Tensor:
        packed = self._linear(x, layer.qkv, layer.ln1).unflatten(2, (3, self.config.num_heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, new, head_dim), views
        # The cache length of this pass, from which the kernel chooses the number of splits.
        keys, values = self.cache[index, :, :, :, : held + x.shape[1]].unbind(0)
        attended = cached_attention(
            query,
            key,
            value,
            keys,
            values,
            self.lengths[held],
            causal=self.config.attention,
            tokens_per_block=self.config.tokens_per_block,
        )
        return self._linear(attended.transpose(1, 2).flatten(2), layer.proj, residual=x)

    def _linear(self, x: Tensor, affine: Affine, norm: Norm | None = None, **options: Any) -> Tensor:
        around: dict[str, Any] = {} if norm is None else norm._asdict()
        around |= {"precision": self.precision, **options}
        return layer_norm_linear(x, affine.weight, affine.bias, **around)

    def draw(
        self,
        head: HeadWeights,
        x: Tensor,
        seed: Tensor,
        position: Tensor,
        purpose: Purpose,
        rows: Tensor | None = None,
    ) -> Tensor:
        """One class `(batch,)` int64 of a head for each row of `x` `(batch, embed_dim)`.

        `seed`, `position`: () int64 on the device; `rows`: `(batch,)` int64, by default 0, 1, …; the draw equals the
        oracle's at that address.
        """
        return linear_sample(
            self._hidden(head, x),
            *head.last,
            seed=seed,
            position=position,
            purpose=int(purpose),
            row=rows,
            precision=self.precision,
        )

    def logits(self, head: HeadWeights, x: Tensor) -> Tensor:
        """The logits `(batch, classes)` float32 that `draw` samples from."""
        return self._linear(self._hidden(head, x), head.last).float()

    def _hidden(self, head: HeadWeights, x: Tensor) -> Tensor:
        return self._linear(x, head.first, self.weights.ln_f, activation="relu")
