from __future__ import annotations

import pytest
import torch

from .harness import load_example

pytest.importorskip("transformers")
example = load_example("hugging_face_gpt2")


def test_generates_the_same_tokens_as_the_library_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--tokens", "24"]) == 0
    assert "the same tokens as with its own cache" in capsys.readouterr().out


def test_our_attention_is_what_computes() -> None:
    model = example.tiny_gpt2(0)
    prompt = torch.arange(10)[None]
    with torch.no_grad():
        expected = model(prompt).logits
        cache = example.kernel_cache(model, max_tokens=16)
        found = [
            model(part, **{example.CACHE_ARGUMENT: cache}).logits for part in prompt.split([6, 1, 3], dim=1)
        ]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-4)
    for layer in cache.layers:
        assert layer.get_seq_length() == 10 and layer.keys.shape == (1, 4, 16, 24)
        assert layer.keys[:, :, :10].abs().min(dim=-1).values.min() > 0
        assert not layer.keys[:, :, 10:].any()


def test_a_prompt_past_the_cache_and_a_mask_are_refused() -> None:
    model = example.tiny_gpt2(0)
    cache = example.kernel_cache(model, max_tokens=4)
    with torch.no_grad():
        with pytest.raises(ValueError, match="room for 4 tokens"):
            model(torch.arange(5)[None], **{example.CACHE_ARGUMENT: cache})
        with pytest.raises(ValueError, match="causal masks alone"):
            example.attention(torch.nn.Identity(), *torch.zeros(3, 1, 1, 1, 16), attention_mask=torch.ones(1))
