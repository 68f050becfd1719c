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


@pytest.mark.parametrize("padded", [0, 1], ids=["on the left", "on the right"])
def test_padding_is_refused_and_a_mask_of_ones_is_not(padded: int) -> None:
    model = example.tiny_gpt2(0)
    prompts = torch.arange(12).view(2, 6) + 1
    mask = torch.ones(2, 6, dtype=torch.int64)
    expected = model(prompts).logits
    cache = example.kernel_cache(model, max_tokens=8)
    with torch.no_grad():
        found = model(prompts, attention_mask=mask, **{example.CACHE_ARGUMENT: cache}).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        mask[1, -padded] = 0
        for cached in ({example.CACHE_ARGUMENT: example.kernel_cache(model, max_tokens=8)}, {}):
            with pytest.raises(ValueError, match="without padding"):
                model(prompts, attention_mask=mask, **cached)


def test_a_pass_without_our_cache_is_the_library_s() -> None:
    model = example.tiny_gpt2(0)
    prompt = torch.arange(10)[None]
    with torch.no_grad():
        expected = model(prompt).logits
        first = example.kernel_cache(model, max_tokens=16)
        example.kernel_cache(model, max_tokens=16)  # of another user of the model
        for found in (
            model(prompt, use_cache=False).logits,
            model(prompt).logits,
            model(prompt, **{example.CACHE_ARGUMENT: first}).logits,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        own = getattr(model(prompt[:, :6], use_cache=True), example.CACHE_ARGUMENT)
        rest = model(prompt[:, 6:], **{example.CACHE_ARGUMENT: own}).logits
        torch.testing.assert_close(rest, expected[:, 6:], rtol=1e-4, atol=1e-4)


def test_a_prompt_past_the_cache_and_a_mask_are_refused() -> None:
    model = example.tiny_gpt2(0)
    cache = example.kernel_cache(model, max_tokens=4)
    with torch.no_grad():
        with pytest.raises(ValueError, match="room for 4 tokens"):
            model(torch.arange(5)[None], **{example.CACHE_ARGUMENT: cache})
        with pytest.raises(ValueError, match="only causal masks"):
            example.attention(
                torch.nn.Identity(), *torch.zeros(3, 1, 1, 1, 16), attention_mask=torch.zeros(1)
            )
