from __future__ import annotations

import pytest
import torch

from benchmarks.kernels.quantizer import peers
from benchmarks.peers import Peer, Unavailable, available
from iris_fast.kernels import vq_lookup


def test_an_absent_peer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Peer("math", "nothing").load().pi > 3
    with pytest.raises(Unavailable, match="not installed: pip install some-package"):
        Peer("some_module_that_is_nowhere", "some-package").load()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="runs on GPUs alone"):
        Peer("math", "nothing", gpu=True).load()


def test_a_peer_that_fails_ends_nothing() -> None:
    def refused() -> int:
        raise Unavailable("takes no such size")

    def broken() -> int:
        raise RuntimeError("x" * 500)

    made, absent = available({"one": lambda: 1, "two": refused, "three": broken})
    assert made == {"one": 1} and absent["two"] == "takes no such size"
    assert absent["three"].startswith("failed: RuntimeError: xxx") and len(absent["three"]) < 250


def test_the_peers_of_the_lookup_find_the_same_codewords() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(50, 8, generator=generator), torch.randn(20, 8, generator=generator)
    made, absent = available(peers(vectors, codebook))
    assert "vector-quantize-pytorch" in made
    assert set(made) | set(absent) == {"vector-quantize-pytorch", "flash-kmeans"}
    with torch.no_grad():
        found = made["vector-quantize-pytorch"]()
    assert torch.equal(found, vq_lookup(vectors, codebook).indices)
