"""`python -m benchmarks.report.pictures FILE…`: pictures and films as small as they may be in documentation."""

from __future__ import annotations

import sys
from pathlib import Path

COLOURS = 64  # of a picture: its lines and their shades
FILM_COLOURS = 32
QUALITY = "30"  # of x264: a video looks the same at its size on a page


def shrink(path: Path, colours: int = COLOURS) -> None:
    """Writes a PNG with few colours, a GIF of half the size, or an MP4 with stronger compression, in place of the
    file."""
    if path.suffix == ".mp4":
        _shrink_video(path)
        return
    if path.suffix == ".gif":
        _shrink_film(path)
        return
    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def _shrink_film(path: Path) -> None:
    """Halves a GIF and gives all its frames the same few colours, so that most pixels stay as they were."""
    import numpy as np
    from PIL import Image, ImageSequence

    with Image.open(path) as film:
        wait, half = film.info["duration"], (film.width // 2, film.height // 2)
        frames = [
            frame.convert("RGB").resize(half, Image.Resampling.NEAREST)
            for frame in ImageSequence.Iterator(film)
        ]
    pixels = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    palette = pixels.quantize(FILM_COLOURS, dither=Image.Dither.NONE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=wait, loop=0, optimize=False)


def _shrink_video(path: Path) -> None:
    import av

    written = path.with_suffix(".small.mp4")
    with av.open(str(path)) as source, av.open(str(written), "w") as target:
        frames = source.streams.video[0]
        video = target.add_stream("libx264", rate=frames.average_rate)
        video.width, video.height, video.pix_fmt = frames.width, frames.height, "yuv420p"
        video.options = {"crf": QUALITY, "preset": "veryslow"}
        for frame in source.decode(frames):
            target.mux(video.encode(frame))
        target.mux(video.encode())
    if written.stat().st_size < path.stat().st_size:
        written.replace(path)
    else:
        written.unlink()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        shrink(Path(name))
