"""The Transformer against its definition written plainly, its masks and its key-value cache."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.models.transformer import Block, KVCache, Transformer, TransformerConfig, attention_mask
from tests.support.agents import redrawn, small_transformer

KINDS = ["causal", "block_causal"]
BATCH = 2
SIZES: dict[str, object] = {"tokens_per_block": 3, "max_blocks": 4}


def make_transformer(kind: str) -> Transformer:
    return redrawn(Transformer(small_transformer(attention=kind, **SIZES))).double().eval()


def some_embeddings(time: int) -> Tensor:
    return torch.randn(BATCH, time, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def may_see(config: TransformerConfig, row: int, column: int) -> bool:
    same_block = row // config.tokens_per_block == column // config.tokens_per_block
    return column <= row or (config.attention == "block_causal" and same_block)


def plain_block(block: Block, x: Tensor, config: TransformerConfig) -> Tensor:
    """One pre-LayerNorm block, position by position and head by head."""
    normed, width = block.ln1(x), config.embed_dim // config.num_heads
    attn, outputs = block.attn, torch.zeros_like(x)
    for row in range(x.shape[1]):
        seen = [column for column in range(x.shape[1]) if may_see(config, row, column)]
        for head in range(config.num_heads):
            part = slice(head * width, (head + 1) * width)
            query = attn.query(normed)[:, row, part]
            key, value = (linear(normed)[:, seen, part] for linear in (attn.key, attn.value))
            weights = torch.einsum("bd,btd->bt", query, key).div(math.sqrt(width)).softmax(dim=1)
            outputs[:, row, part] = torch.einsum("bt,btd->bd", weights, value)
    x = x + attn.proj(outputs)
    return x + block.mlp[2](F.gelu(block.mlp[0](block.ln2(x)), approximate="none"))


@pytest.mark.parametrize("time", [1, 6, 12])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_definition(kind: str, time: int) -> None:
    model = make_transformer(kind)
    x = some_embeddings(time)
    found = model(x)
    for block in model.blocks:
        assert isinstance(block, Block)
        x = plain_block(block, x, model.config)
    torch.testing.assert_close(found, model.ln_f(x))


@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind: str) -> None:
    config = small_transformer(attention=kind, **SIZES)
    mask = attention_mask(config)
    assert mask.shape == (12, 12)
    for row in range(12):
        for column in range(12):
            assert bool(mask[row, column]) == may_see(config, row, column)


@torch.no_grad()
def test_a_block_sees_itself_whole_and_not_what_follows() -> None:
    x = some_embeddings(9)
    changed = x.clone()
    changed[:, 5] += 1  # the last token of the second block
    for kind, first_changed in (("causal", 5), ("block_causal", 3)):
        model = make_transformer(kind)
        different = (model(x) != model(changed)).any(dim=2).any(dim=0)
        assert different.tolist() == [position >= first_changed for position in range(9)]


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("causal", (12,)),
        ("causal", (1,) * 12),
        ("causal", (2, 1, 1, 4, 3, 1)),
        ("block_causal", (3, 3, 3, 3)),
        ("block_causal", (6, 3, 3)),
    ],
)
@torch.no_grad()
def test_cached_passes_are_the_full_pass(kind: str, pieces: tuple[int, ...]) -> None:
    model = make_transformer(kind)
    x = some_embeddings(12)
    cache = KVCache(model.config, BATCH, torch.device("cpu"), torch.float64)
    for _ in range(2):  # the second time over what the first has left
        found = [model(part, cache) for part in x.split(list(pieces), dim=1)]
        assert cache.length == cache.max_tokens == 12
        torch.testing.assert_close(torch.cat(found, dim=1), model(x))
        cache.reset()


def test_a_full_cache_says_so() -> None:
    model = make_transformer("causal")
    cache = KVCache(model.config, BATCH, torch.device("cpu"), torch.float64)
    model(some_embeddings(12), cache)
    with pytest.raises(ValueError, match="the cache holds 12 tokens; 13 were asked of it"):
        model(some_embeddings(1), cache)


@pytest.mark.parametrize("name", ["embed_pdrop", "attn_pdrop", "resid_pdrop"])
def test_each_dropout_works_in_training_alone(name: str) -> None:
    rates = {"embed_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    still = redrawn(Transformer(small_transformer(**SIZES, **rates))).double()
    model = redrawn(Transformer(small_transformer(**SIZES, **rates | {name: 0.5}))).double()
    x = some_embeddings(6)
    torch.testing.assert_close(model.eval()(x), still(x))
    model.train()
    assert not torch.allclose(model(x), model(x))
    assert not torch.allclose(model(x), still(x))
