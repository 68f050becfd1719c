"""`python -m benchmarks.report.pictures FILE…`: pictures and videos as small as they may be beside results."""

from __future__ import annotations

import sys
from pathlib import Path

COLOURS = 64  # of a picture: its lines and their shades
QUALITY = "30"  # of x264: a video looks the same at its size on a page


def shrink(path: Path) -> None:
    """Writes a PNG with few colours, or an MP4 with stronger compression, in place of the file."""
    if path.suffix == ".mp4":
        _shrink_video(path)
        return
    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


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
