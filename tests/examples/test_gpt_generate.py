from __future__ import annotations

import pytest
import torch

from .harness import load_example

example = load_example("gpt_generate")


def tiny() -> torch.nn.Module:
    torch.manual_seed(1)
    config = example.GPTConfig(vocabulary=32, max_tokens=24, num_layers=2, embed_dim=32)
    model = example.GPT(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that what was read before decides the token
    return model


def test_logits_with_a_cache_are_those_without() -> None:
    model = tiny()
    tokens = torch.randint(32, (3, 20))
    cache = example.Cache(model.config, 3, torch.empty(0))
    with torch.no_grad():
        parts = [model(part, cache) for part in tokens.split([5, 1, 1, 13], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-4, atol=1e-4)
    assert cache.lengths.tolist() == [20, 20, 20]


def test_generates_the_same_tokens_with_a_cache_and_without() -> None:
    model, prompt = tiny(), torch.randint(32, (2, 4))
    found = example.generate(model, prompt, 20, seed=3, use_cache=True)
    assert found.shape == (2, 20) and len(found.unique()) > 5
    assert torch.equal(found, example.generate(model, prompt, 20, seed=3, use_cache=False))
    assert not torch.equal(found, example.generate(model, prompt, 20, seed=4, use_cache=True))


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="24 positions"):
        example.generate(tiny(), torch.zeros(1, 4, dtype=torch.int64), 21, seed=0, use_cache=True)


def test_runs_as_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--tokens", "3", "--batch", "2"]) == 0
    assert "the same tokens" in capsys.readouterr().out
