from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from .harness import FOLDER, load_example

library = pytest.importorskip("vector_quantize_pytorch")
example = load_example("vector_quantize")


def test_the_script_finds_the_same_results() -> None:
    """Run as a script, whose folder is where Python looks for packages first."""
    script = FOLDER / "vector_quantize.py"
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, str(script), "--steps", "4"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("different tokens 0,") == 2
    assert "the same as the library's own" in result.stdout


def layer(**keywords: Any) -> Any:
    torch.manual_seed(0)
    return library.VectorQuantize(12, 40, **keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"heads": 3, "separate_codebook_per_head": True, "codebook_dim": 8},
        {"kmeans_init": True},
        {"threshold_ema_dead_code": 2, "use_cosine_sim": True},
        {"learnable_codebook": True, "ema_update": False},
        {"manual_ema_update": True},
        {"freeze_codebook": True},
    ],
    ids=lambda keywords: next(iter(keywords)),
)
def test_every_kind_of_codebook_that_it_takes(keywords: dict[str, Any]) -> None:
    theirs = layer(**keywords)
    ours = example.use_our_lookup(copy.deepcopy(theirs))
    assert set(ours.state_dict()) == set(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        vectors = torch.randn(2, 30, 12, generator=generator)
        results = []
        for one in (theirs, ours):
            torch.manual_seed(2)  # dead codes are replaced by random vectors
            quantized, tokens, loss = one(vectors)
            (quantized.square().sum() + loss.sum()).backward()
            results.append((quantized, tokens, loss))
        (quantized, tokens, loss), (our_quantized, our_tokens, our_loss) = results
        assert torch.equal(tokens, our_tokens)
        torch.testing.assert_close(quantized, our_quantized)
        torch.testing.assert_close(loss, our_loss)
    torch.testing.assert_close(dict(theirs.state_dict()), dict(ours.state_dict()))
    gradients = [[parameter.grad for parameter in one.parameters()] for one in (theirs, ours)]
    torch.testing.assert_close(*gradients)


def test_our_lookup_is_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def recorded(vectors: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        shapes.append(tuple(vectors.shape))
        return original(vectors, *arguments, **keywords)

    original = example.vq_lookup
    monkeypatch.setattr(sys.modules[example.__name__], "vq_lookup", recorded)
    example.use_our_lookup(layer())(torch.randn(2, 30, 12))
    assert shapes == [(60, 12)]


def test_what_needs_distances_is_refused() -> None:
    with pytest.raises(ValueError, match="stochastic_sample_codes"):
        example.use_our_lookup(layer(stochastic_sample_codes=True))
    with pytest.raises(ValueError, match="codebook_diversity_loss_weight"):
        example.use_our_lookup(layer(codebook_diversity_loss_weight=0.1))
    ours = example.use_our_lookup(layer())
    vectors = torch.randn(2, 30, 12)
    refused: dict[str, dict[str, Any]] = {
        "topk": {"topk": 2},
        "mask": {"mask": torch.ones(2, 30, dtype=torch.bool)},
        "ema_update_weight": {"ema_update_weight": torch.rand(1, 40)},
        "codebook_transform_fn": {"codebook_transform_fn": torch.nn.Linear(12, 12)},
    }
    for name, keywords in refused.items():
        with pytest.raises(ValueError, match=f"does not take {name}"):
            ours(vectors, **keywords)
    with pytest.raises(ValueError, match="does not take mask"):
        ours(vectors[:1, :1], mask=torch.zeros(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="does not take mask"):
        ours(vectors, lens=torch.tensor([10, 30]))
