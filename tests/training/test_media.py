from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from iris_fast.training import media
from iris_fast.training.media import (
    GAP,
    LABEL_WIDTH,
    PAIR_GAP,
    episode_captions,
    save_episode_video,
    save_reconstructions,
)


def moving_square(time: int, side: int = 64) -> torch.Tensor:
    """(time, 3, side, side) uint8: a red square that moves right on blue."""
    frames = torch.zeros(time, 3, side, side, dtype=torch.uint8)
    frames[:, 2] = 120
    for step in range(time):
        frames[step, 0, 20:28, 2 * step : 2 * step + 8] = 250
    return frames


def decode(path: Path) -> tuple[list[NDArray[np.uint8]], av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(stream)
        ], stream


def test_a_sheet_has_originals_over_reconstructions(tmp_path: Path) -> None:
    originals = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    save_reconstructions(tmp_path / "media" / "sheet.png", originals, originals.float() / 255, scale=2)
    labelled = np.asarray(Image.open(tmp_path / "media" / "sheet.png"))
    labels, sheet = np.split(labelled, [LABEL_WIDTH], axis=1)
    assert sheet.shape == (2 * 128 + GAP, 3 * 128 + 2 * GAP, 3)
    upper, lower = sheet[:128], sheet[128 + GAP :]
    np.testing.assert_array_equal(upper, lower)
    second = upper[::2, 128 + GAP : 256 + GAP : 2]
    np.testing.assert_array_equal(second, originals[1].permute(1, 2, 0).numpy())
    above, below = labels[:128], labels[128 + GAP :]
    assert above.min() < 60 and below.min() < 60  # a word beside each row,
    assert (below < 128).sum() > 1.5 * (above < 128).sum()  # of which the lower is the longer
    for label in (above, below):
        assert (label[[0, -1]] == 255).all() and (label[:, [0, -1]] == 255).all()  # whole


def test_a_sheet_wraps_to_several_pairs_of_rows(tmp_path: Path) -> None:
    originals = np.zeros((5, 3, 8, 8), np.uint8)
    save_reconstructions(tmp_path / "sheet.png", originals, originals + 100, columns=3, scale=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))[:, LABEL_WIDTH:]
    assert sheet.shape == (4 * 8 + 2 * GAP + PAIR_GAP, 3 * 8 + 2 * GAP, 3)
    rows = np.cumsum([0, 8 + GAP, 8 + PAIR_GAP, 8 + GAP])
    assert [int(sheet[row, 0, 0]) for row in rows] == [0, 100, 0, 100]
    assert (sheet[rows[2] :, -8:] == 255).all()  # the sixth place stays white


def test_floats_are_clamped_and_nan_is_black(tmp_path: Path) -> None:
    reconstruction = torch.full((1, 3, 8, 8), 1.5)
    reconstruction[0, :, 0, 0] = torch.nan
    reconstruction[0, :, 0, 1] = -3.0
    save_reconstructions(tmp_path / "sheet.png", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), reconstruction)
    lower = np.asarray(Image.open(tmp_path / "sheet.png"))[8 * 3 + GAP :: 3, LABEL_WIDTH::3]
    assert (lower[0, :2] == 0).all()
    assert (lower[1:] == 255).all()


@pytest.mark.parametrize(
    ("originals", "reconstructions", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros((1, 3, 8, 8), np.uint8), "differ in shape"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), r"not \(8, 8, 3\)"),
        (np.zeros((0, 3, 8, 8), np.uint8), np.zeros((0, 3, 8, 8), np.uint8), "n of at least 1"),
        (np.zeros((1, 3, 8, 8), np.int64), np.zeros((1, 3, 8, 8), np.uint8), "not int64"),
    ],
)
def test_bad_sheets_are_refused(
    tmp_path: Path, originals: NDArray[np.uint8], reconstructions: NDArray[np.uint8], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_reconstructions(tmp_path / "sheet.png", originals, reconstructions)
    assert os.listdir(tmp_path) == []


def test_a_video_plays_back_as_it_was(tmp_path: Path) -> None:
    frames = moving_square(20)
    path = tmp_path / "test" / "episode.mp4"
    save_episode_video(path, frames, fps=15, scale=4)
    decoded, stream = decode(path)
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert stream.average_rate == 15
    assert [image.shape for image in decoded] == [(256, 256, 3)] * 20
    seen = np.stack(decoded)[:, 2::4, 2::4].astype(int)
    assert np.abs(seen - frames.permute(0, 2, 3, 1).numpy()).mean() < 4
    assert os.listdir(path.parent) == ["episode.mp4"]


def test_captions_are_drawn_above_the_frames(tmp_path: Path) -> None:
    frames = moving_square(4)
    captions = episode_captions([0, 1, 1, 0], [0, 1, 0, -0.5], ["NOOP", "RIGHTFIRE"])
    save_episode_video(tmp_path / "plain.mp4", frames)
    save_episode_video(tmp_path / "captioned.mp4", frames, captions=captions)
    plain, captioned = decode(tmp_path / "plain.mp4")[0], decode(tmp_path / "captioned.mp4")[0]
    strip = captioned[1].shape[0] - plain[1].shape[0]
    assert strip > 10
    assert np.abs(captioned[1][strip:].astype(int) - plain[1]).mean() < 4
    headers = [image[:strip].astype(int) for image in captioned]
    assert headers[0].max() > 180  # there is text
    assert headers[0].min() < 60  # on a dark ground
    assert np.abs(headers[0] - headers[1]).mean() > 2  # and it is each frame's own


def test_odd_sizes_are_padded_to_even_ones(tmp_path: Path) -> None:
    save_episode_video(tmp_path / "odd.mp4", np.full((3, 3, 21, 35), 90, np.uint8), scale=1)
    decoded, _ = decode(tmp_path / "odd.mp4")
    assert decoded[0].shape == (22, 36, 3)
    assert np.abs(decoded[0].astype(int) - 90).max() < 6


def test_a_video_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_episode_video(tmp_path / "episode.mp4", moving_square(3), scale=1)
    assert os.listdir(tmp_path) == []


def test_bad_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(0, 3, 64, 64\)"):
        save_episode_video(tmp_path / "episode.mp4", moving_square(0))
    with pytest.raises(ValueError, match="1 captions for 2 frames"):
        save_episode_video(tmp_path / "episode.mp4", moving_square(2), captions=["one"])


def test_captions_sum_the_rewards() -> None:
    captions = episode_captions([2, 0, 1], [1.0, 0.0, -0.5], ["NOOP", "LEFT", "RIGHT"])
    assert captions == [
        "RIGHT\treward +1\treturn 1",
        "NOOP\treward 0\treturn 1",
        "LEFT\treward -0.5\treturn 0.5",
    ]
    with pytest.raises(ValueError, match="2 actions but 1 rewards"):
        episode_captions([0, 0], [0.0], ["NOOP"])
    with pytest.raises(ValueError, match="action 3 has no name"):
        episode_captions([3], [0.0], ["NOOP"])


def test_long_captions_shrink_to_their_column() -> None:
    short = media._Header(["UP\treward 0\treturn 0"], width=384)
    long = media._Header(["DOWNRIGHTFIRE\treward +1000\treturn 123456"], width=384)
    assert long.height < short.height
    font, _ = long._largest_font()
    assert font.getlength("DOWNRIGHTFIRE") < 384 / 3
