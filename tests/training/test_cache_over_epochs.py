"""While the tokenizer does not train, a frame is encoded once, not once an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from iris_fast.replay.cache import FrameCache
from iris_fast.train import main
from tests.support.micro import MICRO

FROZEN = ["training.tokenizer.stop_after_epochs=1", "common.epochs=4", "evaluation.should=false"]


def encoded_and_held(run: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[int, int]:
    """Frames that the training cache encoded in all, and frames (with padding) that it knew in the end."""
    caches: list[FrameCache] = []
    make = FrameCache.__init__

    def remember(self: FrameCache, *args: object, **kwargs: object) -> None:
        make(self, *args, **kwargs)  # type: ignore[arg-type]
        caches.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(FrameCache, "__init__", remember)
        assert main(["--game", "Catch", "--run-dir", str(run), *MICRO, *overrides]) == 0
    cache = caches[0]
    return cache.frames_encoded, int(cache._has_tokens.sum())


def test_frames_are_encoded_once_while_the_tokenizer_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch_one, _ = encoded_and_held(tmp_path / "one", monkeypatch, *FROZEN, "common.epochs=1")
    frozen, known = encoded_and_held(tmp_path / "frozen", monkeypatch, *FROZEN)
    assert frozen == known  # the tokenizer's last epoch left an empty cache, and nothing was asked for twice
    assert frozen >= epoch_one
    training, known = encoded_and_held(
        tmp_path / "training", monkeypatch, *FROZEN, "training.tokenizer.stop_after_epochs=4"
    )
    assert training > known
