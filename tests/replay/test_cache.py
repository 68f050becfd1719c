"""The per-epoch cache changes no number, and lets no frame be encoded twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.models.frame_codec import TokenizerPieces
from iris_fast.models.tokenizer import PIECE
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from tests.support.agents import micro_agent
from tests.support.episodes import noise, noise_store
from tests.support.parts import losses_on, micro_parts

FRAME_BYTES = 3 * 64 * 64 * 4
Caches = tuple[FrameCache, FrameCache]
ROOMS = {"no reconstruction": 0, "five reconstructions": 5 * FRAME_BYTES + 7, "all": 10**9}


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


@pytest.fixture
def store() -> EpisodeStore:
    return noise_store(3, 12, 7)


@pytest.fixture(params=list(ROOMS))
def caches(agent: Agent, store: EpisodeStore, request: pytest.FixtureRequest) -> Caches:
    """With the cache, of some room, and without."""
    enabled = FrameCache(agent.coder, store, max_bytes=ROOMS[request.param])
    return enabled, FrameCache(agent.coder, store, enabled=False)


def drawn_slots(store: EpisodeStore, seed: int, from_start: bool) -> np.ndarray:
    return store.sample(np.random.default_rng(seed), 5, 6, from_start).slots


def test_tokens_and_reconstructions_are_the_same_bit_for_bit(caches: Caches, store: EpisodeStore) -> None:
    cached, plain = caches
    for seed in range(4):
        slots = drawn_slots(store, seed, seed % 2 == 0)
        tokens = cached.tokens(slots)
        assert tokens.shape == (5, 6, 16)
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens, plain.tokens(slots))
        seen = cached.reconstructions(slots)
        assert seen.shape == (5, 6, 3, 64, 64)
        assert seen.dtype == torch.float32
        assert torch.equal(seen, plain.reconstructions(slots))


def test_they_are_what_the_tokenizer_says(agent: Agent, store: EpisodeStore) -> None:
    slots = drawn_slots(store, 0, True)
    cache = FrameCache(agent.coder, store, max_bytes=10**9)
    encoding = agent.tokenizer.encode(store.gather_frames(slots.reshape(-1)))
    assert torch.equal(cache.tokens(slots).flatten(0, 1), encoding.tokens)
    assert len(encoding.tokens.unique()) > 4, "a test of many tokens"
    decoded = agent.tokenizer.decode(encoding.z_quantized).clamp(0, 1)
    torch.testing.assert_close(cache.reconstructions(slots).flatten(0, 1), decoded)


def test_losses_are_the_same_bit_for_bit(caches: Caches, agent: Agent) -> None:
    def losses(cache: FrameCache) -> list[dict[str, Tensor]]:
        agent.eval()
        parts = micro_parts(agent, cache)
        return [
            losses_on(parts[name], seed, batch)
            for name, batch in (("world_model", 4), ("actor_critic", 3))
            for seed in range(3)
        ]

    for with_cache, without in zip(*map(losses, caches), strict=True):
        assert with_cache.keys() == without.keys()
        for name, loss in with_cache.items():
            assert torch.equal(loss, without[name]), name


def test_frames_go_through_the_tokenizer_in_batches_of_one_size(
    agent: Agent, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions round differently at another batch size: on larger models than this one it would show."""
    sizes: list[int] = []
    for name in ("tokens_of", "frames_of"):
        function = getattr(agent.tokenizer, name)

        def watched(rows: Tensor, function: Callable[[Tensor], Tensor] = function) -> Tensor:
            sizes.append(len(rows))
            return function(rows)

        monkeypatch.setattr(agent.tokenizer, name, watched)
    for cache in (
        FrameCache(TokenizerPieces(agent.tokenizer), store, max_bytes=5 * FRAME_BYTES),
        FrameCache(TokenizerPieces(agent.tokenizer), store, enabled=False),
    ):
        for rows in (1, 3, 5):
            cache.reconstructions(drawn_slots(store, rows, True)[:rows])
    assert len(sizes) > 10
    assert set(sizes) == {PIECE["cpu"]}


def test_each_frame_is_encoded_at_most_once(caches: Caches, store: EpisodeStore) -> None:
    cached, plain = caches
    slots = [drawn_slots(store, seed, True) for seed in range(6)]
    for some in slots:
        cached.tokens(some)
        cached.reconstructions(some)
        plain.tokens(some)
    distinct = len(np.unique(np.concatenate(slots)))
    assert cached.frames_encoded == distinct <= store.num_frames + 1
    assert plain.frames_encoded == sum(some.size for some in slots)


def test_each_frame_is_decoded_at_most_once_where_there_is_room(agent: Agent, store: EpisodeStore) -> None:
    cache = FrameCache(agent.coder, store, max_bytes=10**9)
    slots = [drawn_slots(store, seed, False) for seed in range(6)]
    for some in slots:
        cache.reconstructions(some)
    assert cache.frames_decoded == len(np.unique(np.concatenate(slots)))


def test_a_full_cache_goes_on_with_what_it_has(agent: Agent, store: EpisodeStore) -> None:
    cache = FrameCache(agent.coder, store, max_bytes=5 * FRAME_BYTES)
    first = store.episodes[1].held[:5]
    cache.reconstructions(first)
    decoded = cache.frames_decoded
    cache.reconstructions(first)
    assert cache.frames_decoded == decoded == 5
    both = store.episodes[1].held[3:7][None]  # two that are kept, two for which there is no room
    cache.reconstructions(both)
    assert cache.frames_decoded == decoded + 2


@pytest.mark.parametrize("change", ["weights", "frames"])
def test_new_weights_and_new_frames_are_seen(store: EpisodeStore, change: str) -> None:
    agent = micro_agent()
    cache = FrameCache(agent.coder, store, max_bytes=10**9)
    slots = store.episodes[1].held
    old_tokens, old_frames = cache.tokens(slots), cache.reconstructions(slots)
    if change == "weights":
        with torch.no_grad():
            agent.tokenizer.pre_quant_conv.weight.neg_()
            agent.tokenizer.decoder.conv_out.weight.neg_()
    else:
        frames = noise(np.random.default_rng(9), len(slots))[0]
        store.frames[torch.from_numpy(slots)] = torch.from_numpy(frames)
    assert torch.equal(cache.tokens(slots), old_tokens)
    assert torch.equal(cache.reconstructions(slots), old_frames)
    if change == "weights":
        agent.weights_changed("tokenizer")
    else:
        cache.invalidate()
    new = FrameCache(agent.coder, store, enabled=False)
    assert not torch.equal(cache.tokens(slots), old_tokens)
    assert torch.equal(cache.tokens(slots), new.tokens(slots))
    assert torch.equal(cache.reconstructions(slots), new.reconstructions(slots))


def test_no_frames_at_all(caches: Caches) -> None:
    """As a burn-in of no frames asks for."""
    slots = np.zeros((2, 0), np.int64)
    for cache in caches:
        assert cache.tokens(slots).shape == (2, 0, 16)
        assert cache.reconstructions(slots).shape == (2, 0, 3, 64, 64)
