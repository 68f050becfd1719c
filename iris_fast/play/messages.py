"""The messages between a page and the server: their form on the way in, their bytes on the way out."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from iris_fast.play.interface import Message, MessageError, Update

LARGEST = 4096
"""Characters of the longest message that a page may send."""

MODES = ("real", "dream", "fork", "episodes")
CONTROLS = ("agent", "person")
SAVE = ("off", "ask", "all")


class Check(NamedTuple):
    """What a field may be: whether a value is that, and how a sentence says it."""

    accepts: Callable[[object], bool]
    wanted: str


def _whole(low: int, high: int) -> Check:
    return Check(
        lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}"
    )


def _positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def _one_of(*words: str) -> Check:
    return Check(lambda value: type(value) is str and value in words, f"one of {', '.join(words)}")


FLAG = Check(lambda value: type(value) is bool, "true or false")
POSITIVE = Check(_positive, "a number above 0")
NAME = Check(lambda value: type(value) is str and 0 < len(value) <= 512, "a name of at most 512 characters")
ANY = 2**31 - 1
REQUIRED: dict[str, dict[str, Check]] = {
    "set": {},
    "action": {"action": _whole(0, 255)},
    "step": {},
    "reset": {},
    "handover": {},
    "record": {},
    "keep": {"keep": FLAG},
    "token": {"index": _whole(0, ANY), "code": _whole(0, ANY)},
    "fork": {},
    "list": {},
    "open": {"side": _whole(0, 1), "id": NAME},
    "seek": {"index": _whole(0, ANY)},
    "seen": {"n": _whole(0, ANY)},
}
SETTINGS: dict[str, Check] = {
    "mode": _one_of(*MODES),
    "controls": _one_of(*CONTROLS),
    "paused": FLAG,
    "fps": _whole(1, 60),
    "temperature": POSITIVE,
    "seed": _whole(0, ANY),
    "panels": FLAG,
    "thoughts": FLAG,
    "save": _one_of(*SAVE),
}


def parse_message(text: str | bytes | None) -> Message:
    """The message in a text that a page sent, its fields checked."""
    if not isinstance(text, str):
        raise MessageError("A message is text, not bytes.")
    if len(text) > LARGEST:
        raise MessageError(f"A message has at most {LARGEST} characters; this one has {len(text)}.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("A message is a JSON object; this one is not.") from None
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise MessageError(f"A message's type is one of {', '.join(REQUIRED)}.")
    fields = {name: value for name, value in message.items() if name != "type"}
    checks = SETTINGS if kind == "set" else REQUIRED[kind]
    if kind != "set" and (missing := [name for name in checks if name not in fields]):
        raise MessageError(f"A message of type {kind} needs {missing[0]}.")
    for name, value in fields.items():
        if name not in checks:
            raise MessageError(f"A message of type {kind} has no such field: {name[:40]!r}.")
        if not checks[name].accepts(value):
            raise MessageError(f"{name} is {checks[name].wanted}, not {_shown(value)}.")
    return message


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def png(image: np.ndarray) -> bytes:
    """An image as a quickly compressed PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "png", compress_level=1)
    return file.getvalue()


def as_json(message: object) -> str:
    """A message's text. Numbers that JSON does not have (NaN, infinities) are null."""
    try:
        return json.dumps(message, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(message), allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pack_frame(number: int, update: Update) -> bytes:
    """A frame's bytes: the header's length as uint32 (little-endian), the header as JSON, the images as PNG."""
    pictures = {name: png(image) for name, image in update.images.items()}
    sizes = [
        {"name": name, "height": image.shape[0], "width": image.shape[1], "bytes": len(pictures[name])}
        for name, image in update.images.items()
    ]
    info = {**update.info, "type": "frame", "n": number, "images": sizes}
    header = as_json(info).encode()
    return struct.pack("<I", len(header)) + header + b"".join(pictures.values())
