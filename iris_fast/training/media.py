"""Pictures and videos of a run: sheets of reconstructions as PNG, episodes as mp4.

Videos are made with PyAV, which encodes in this process. The usual alternative (imageio-ffmpeg) starts the
ffmpeg program: one more process, whose failures (a full disk, say) arrive as a broken pipe. PyAV and Pillow are
imported where they are used, since training itself runs without them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from iris_fast.errors import UserError
from iris_fast.files import write_atomically
from iris_fast.kernels.common.arguments import with_checked_types

if TYPE_CHECKING:
    from PIL import ImageFont

Images: TypeAlias = torch.Tensor | NDArray[np.uint8] | NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.uint8]  # (height, width, 3), or (count, height, width, 3)

GAP = 2  # white pixels between neighbouring images of a sheet
PAIR_GAP = 12  # and between one pair of rows and the next
LABEL_WIDTH = 26  # of the labels left of the rows of a sheet
HEADER_COLOUR = (24, 24, 27)
TEXT_COLOUR = (235, 235, 235)


class NoFilmError(UserError):
    """PyAV cannot encode videos on this machine."""


def save_reconstructions(
    path: Path, originals: Images, reconstructions: Images, *, columns: int = 8, scale: int = 3
) -> None:
    """Saves a PNG with a labelled row of originals above a labelled row of their reconstructions.

    Args:
        path: the PNG file, replaced whole; folders are made as needed.
        originals: (n, 3, height, width), uint8, or float in [0, 1] (clamped).
        reconstructions: as `originals`.
        columns: images in a row; more images continue in further pairs of rows.
        scale: side in pixels of the square drawn for one pixel.

    Raises:
        ValueError: shapes that differ or are not (n, 3, height, width) with n of at least 1.
    """
    upper, lower = _to_pixels(originals, "originals"), _to_pixels(reconstructions, "reconstructions")
    if upper.shape != lower.shape:
        shapes = f"{tuple(originals.shape)} and {tuple(reconstructions.shape)}"
        raise ValueError(f"originals and reconstructions differ in shape: {shapes}")
    columns = min(columns, len(upper))
    rows: list[Pixels] = []
    for start in range(0, len(upper), columns):
        for name, images in (("frames", upper), ("reconstructions", lower)):
            row = _image_row(images[start : start + columns], columns, scale)
            rows.append(np.concatenate([_label(name, len(row)), row], axis=1))
    width = rows[0].shape[1]
    parts: list[Pixels] = []
    for index, row in enumerate(rows):
        if index:
            parts.append(np.full((GAP if index % 2 else PAIR_GAP, width, 3), 255, np.uint8))
        parts.append(row)
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts)).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


@with_checked_types
def save_episode_video(
    path: Path,
    frames: Images,
    *,
    fps: float = 15,
    scale: int = 6,
    captions: Sequence[str] | None = None,
    comment: str = "",
) -> None:
    """Saves an episode as an mp4 that plays everywhere (H.264, yuv420p).

    Args:
        path: the mp4 file, replaced whole; folders are made as needed.
        frames: (time, 3, height, width), uint8, or float in [0, 1] (clamped).
        fps: frames per second; Atari with a frame skip of 4 is played at its own speed by 15.
        scale: side in pixels of the square drawn for one pixel.
        captions: a text per frame for a header strip (see `episode_captions`); tabs part its columns.
        comment: a text in the file's metadata (see `return_comment`).

    Raises:
        ValueError: no frames, frames of another shape, or captions that are not one per frame.
        NoFilmError: PyAV cannot encode it.
        OSError: the file cannot be written; no partial file remains.
    """
    import av
    from av.codec.codec import UnknownCodecError

    pixels = _to_pixels(frames, "frames")
    if captions is not None and len(captions) != len(pixels):
        raise ValueError(f"{len(captions)} captions for {len(pixels)} frames: give one per frame")
    header = None if captions is None else _Header(captions, width=pixels.shape[2] * scale)
    first = _video_frame(pixels[0], scale, header, 0)

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as container:
            container.metadata["comment"] = comment
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuv420p"
            for index, frame in enumerate(pixels):
                image = first if index == 0 else _video_frame(frame, scale, header, index)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    except (av.error.FFmpegError, UnknownCodecError) as error:  # for example, a build of FFmpeg without H.264
        raise NoFilmError(
            f"{path} was not made, since PyAV cannot encode H.264 here ({error}): install PyAV's own build with "
            "pip install --force-reinstall av"
        ) from error
    write_atomically(path, buffer.getvalue())


def return_comment(episode_return: float) -> str:
    """A video's comment that says its return."""
    return f"return {episode_return:g}"


def return_of(comment: str) -> float | None:
    """The return that `return_comment` wrote; None for another text."""
    word, _, value = comment.partition(" ")
    try:
        return float(value) if word == "return" else None
    except ValueError:
        return None


def episode_captions(
    actions: Sequence[int], rewards: Sequence[float], action_meanings: Sequence[str]
) -> list[str]:
    """A caption per step: the action at this frame, its reward, and the return so far, including it.

    Args:
        actions: (time,) indices into `action_meanings`.
        rewards: (time,) rewards, one per action.
        action_meanings: the name of each action.

    Raises:
        ValueError: another number of rewards than actions, or an action without a name.
    """
    if len(actions) != len(rewards):
        raise ValueError(f"{len(actions)} actions but {len(rewards)} rewards: give one reward per action")
    captions, episode_return = [], 0.0
    for action, reward in zip((int(action) for action in actions), map(float, rewards), strict=True):
        if not 0 <= action < len(action_meanings):
            raise ValueError(f"action {action} has no name among {len(action_meanings)}")
        episode_return += reward
        reward_text = f"{reward:+g}" if reward else "0"
        captions.append(f"{action_meanings[action]}\treward {reward_text}\treturn {episode_return:g}")
    return captions


class _Header:
    """Draws captions on a dark strip, in columns that keep their places from frame to frame."""

    def __init__(self, captions: Sequence[str], width: int):
        self._columns = [caption.split("\t") for caption in captions]
        self._count = max(len(columns) for columns in self._columns)
        self._width = width
        self._margin = max(4, width // 64)
        self._pitch = (width - self._margin) / self._count
        self._font, size = self._largest_font()
        self.height = 2 * ((size + 10) // 2)

    def draw(self, index: int) -> Pixels:
        """The strip of frame `index`: (height, width, 3)."""
        from PIL import Image, ImageDraw

        strip = Image.new("RGB", (self._width, self.height), HEADER_COLOUR)
        draw = ImageDraw.Draw(strip)
        for column, text in enumerate(self._columns[index]):
            left = self._margin + column * self._pitch
            draw.text((left, self.height / 2), text, fill=TEXT_COLOUR, font=self._font, anchor="lm")
        return np.asarray(strip)

    def _largest_font(self) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
        """The largest size at which every text fits its column (no smaller than can be read)."""
        from PIL import ImageFont

        texts = {text for columns in self._columns for text in columns}
        for size in range(20, 8, -1):
            font = ImageFont.load_default(size)
            if all(font.getlength(text) <= self._pitch - self._margin for text in texts):
                break
        return font, size


def _video_frame(pixels: Pixels, scale: int, header: _Header | None, index: int) -> Pixels:
    """One frame as encoded: upscaled, under its header, padded to the even sides that yuv420p needs."""
    image = _upscale(pixels, scale)
    if header is not None:
        image = np.concatenate([header.draw(index), image])
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(image)


def _image_row(images: Pixels, columns: int, scale: int) -> Pixels:
    """The images side by side, padded with white if the last row is short: (height, row width, 3)."""
    height, width = images.shape[1] * scale, images.shape[2] * scale
    row = np.full((height, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, image in enumerate(images):
        left = index * (width + GAP)
        row[:, left : left + width] = _upscale(image, scale)
    return row


def _label(text: str, height: int) -> Pixels:
    """A vertical label for a row of that height, as large as fits: (height, LABEL_WIDTH, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    for size in range(LABEL_WIDTH - 10, 4, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= height - 4:
            break
    label = Image.new("RGB", (height, LABEL_WIDTH), "white")
    ImageDraw.Draw(label).text(
        (height / 2, LABEL_WIDTH / 2), text, fill=HEADER_COLOUR, font=font, anchor="mm"
    )
    return np.asarray(label.rotate(90, expand=True))


def _upscale(image: Pixels, scale: int) -> Pixels:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _to_pixels(images: Images, name: str) -> Pixels:
    """(n, 3, height, width) uint8, or float in [0, 1], on any device, to uint8 (n, height, width, 3)."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            f"{name} must be (n, 3, height, width) with n of at least 1, not {tuple(images.shape)}"
        )
    if isinstance(images, torch.Tensor):
        tensor = images.detach()
        array = (tensor if tensor.dtype == torch.uint8 else tensor.float()).cpu().numpy()
    else:
        array = np.asarray(images)
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name} must be uint8, or float in [0, 1], not {array.dtype}")
        # Pictures of a diverged model are useful too, so NaN is drawn black.
        array = np.rint(np.clip(np.nan_to_num(array, nan=0.0), 0, 1) * 255).astype(np.uint8)
    return array.transpose(0, 2, 3, 1)
