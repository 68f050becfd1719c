"""A Hugging Face GPT-2 whose attention and cache are `cached_attention`: `generate` works as before.

`python examples/hugging_face_gpt2.py` builds a small GPT-2 with random weights (nothing is downloaded), generates
with the library's cache and attention, then with ours, and compares the tokens. It needs `transformers`.

Two supported places are used: an attention function registered by name in `AttentionInterface`, and a cache layer
given to a `Cache`. The layer's `update` hands the new keys and values on instead of writing them, with itself as an
attribute of the keys; the attention function finds it there, writes them and attends in one operation. A pass with
another cache, or with none, is PyTorch's attention. Padding is refused in a mask function registered under the same
name.
"""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import CacheLayerMixin

from iris_fast.kernels import cached_attention

NAME = "iris_fast"
_PARAMETERS = inspect.signature(GPT2LMHeadModel.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _PARAMETERS else "past_key_values"
"""What the model and `generate` call the cache, which differs between versions of the library."""


class KernelLayer(CacheLayerMixin):
    """One layer's keys and values, `(batch, kv_heads, max_tokens, head_dim)`, written by the attention function.

    The number of tokens held is kept on the host too, because `generate` asks for it at every step.
    """

    is_compileable = False

    def __init__(self, max_tokens: int):
        super().__init__()
        self.max_tokens = max_tokens
        self.held = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, head_dim = key_states.shape
        shape = (batch, heads, self.max_tokens, head_dim)
        self.keys = torch.zeros(shape, dtype=key_states.dtype, device=key_states.device)
        self.values = torch.zeros_like(self.keys)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Returns the new keys and values unchanged: `attend` writes them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        key_states.kernel_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Writes the new tokens and attends to all: `(batch, heads, new, head_dim)`."""
        attended = cached_attention(query, key, value, self.keys, self.values, self.held, scale=scale)
        self.held += query.shape[2]
        return attended

    def get_seq_length(self) -> int:
        return self.held

    def get_max_length(self) -> int:
        return self.max_tokens

    get_max_cache_shape = get_max_length  # its name in earlier versions

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        return self.held + query_length, 0

    def reset(self) -> None:
        super().reset()
        self.held = 0


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention function: (batch, heads, new, head_dim) in, (batch, new, heads, head_dim) out."""
    refuse_padding(attention_mask=attention_mask)
    if dropout:
        raise ValueError("cached_attention has no dropout: call model.eval()")
    layer = getattr(key, "kernel_layer", None)
    if isinstance(layer, KernelLayer):
        return layer.attend(query, key, value, scaling).transpose(1, 2), None
    new, total = query.shape[2], key.shape[2]
    causal = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=causal, scale=scaling)
    return attended.transpose(1, 2), None


def refuse_padding(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The mask function: no mask, where every token of `attention_mask` `(batch, tokens)` counts."""
    if attention_mask is not None and not attention_mask.all():
        raise ValueError(
            "cached_attention supports only causal masks: give prompts of one length, without padding"
        )


def kernel_cache(model: GPT2LMHeadModel, max_tokens: int) -> Cache:
    """A cache of `max_tokens` tokens for `model`, which uses it from now on; give it to `generate`."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, refuse_padding)
    model.set_attn_implementation(NAME)
    return Cache(layers=[KernelLayer(max_tokens) for _ in model.transformer.h])


def tiny_gpt2(seed: int) -> GPT2LMHeadModel:
    """A GPT-2 with random weights."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=256, n_positions=128, n_embd=96, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=None
    )
    return GPT2LMHeadModel(config).eval()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=48, help="tokens to generate")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompt and draws")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = tiny_gpt2(arguments.seed).to(device)
    prompt = torch.randint(1, 256, (2, 12), device=device)  # 0 is the token of padding
    generated = []
    for ours in (False, True):
        torch.manual_seed(arguments.seed)
        cache = {CACHE_ARGUMENT: kernel_cache(model, max_tokens=128)} if ours else {}
        found = model.generate(
            prompt, max_new_tokens=arguments.tokens, do_sample=True, pad_token_id=0, **cache
        )
        generated.append(found.cpu())
    same = torch.equal(*generated)
    print(generated[1][0].tolist())
    print("the same tokens as with its own cache" if same else "the tokens differ")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
