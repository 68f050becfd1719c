"""Messages: their form on the way in, their bytes on the way out."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from iris_fast.play.interface import MessageError, Update
from iris_fast.play.messages import LARGEST, as_json, pack_frame, parse_message


@pytest.mark.parametrize(
    "text",
    [
        b"\x00",
        "",
        "[1]",
        "{}",
        '{"type": []}',
        '{"type": "fly"}',
        '{"type": "action"}',
        '{"type": "action", "action": true}',
        '{"type": "set", "fps": 61}',
        '{"type": "set", "temperature": NaN}',
        '{"type": "set", "colour": 1}',
        '{"type": "token", "index": -1, "code": 0}',
        '{"type": "set", "temperature": -1}',
        "[" * (LARGEST - 1),
        "x" * (LARGEST + 1),
    ],
)
def test_a_bad_message_is_refused_in_a_sentence(text: str | bytes) -> None:
    with pytest.raises(MessageError, match=r"\.$"):
        parse_message(text)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("fps", 61, "fps is a whole number from 1 to 60, not 61."),
        ("seed", -5, "seed is a whole number from 0 to 2147483647, not -5."),
        ("temperature", 0, "temperature is a number above 0, not 0."),
        ("mode", "sleep", 'mode is one of real, dream, fork, episodes, not "sleep".'),
        ("panels", None, "panels is true or false, not null."),
    ],
)
def test_a_field_that_is_refused_says_what_it_may_be(field: str, value: object, sentence: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse_message(json.dumps({"type": "set", field: value}))
    assert str(caught.value) == sentence


def test_good_messages_are_taken_as_they_are() -> None:
    for message in ({"type": "set", "fps": 60, "temperature": 0.5}, {"type": "open", "side": 1, "id": "a/b"}):
        assert parse_message(json.dumps(message)) == message


def unpacked(frame: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A frame's header and images, read as the page reads them."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    end = 4 + int.from_bytes(frame[:4], "little")
    header, images = json.loads(frame[4:end], parse_constant=refuse), []
    for image in header["images"]:
        images.append(np.asarray(Image.open(io.BytesIO(frame[end : end + image["bytes"]]))))
        end += image["bytes"]
    assert end == len(frame)
    return header, images


def test_a_frame_has_its_numbers_and_its_images() -> None:
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        for name, size in {"observation": (64, 64), "screen": (210, 160)}.items()
    }
    header, found = unpacked(pack_frame(7, Update({"step": 3}, images)))
    assert (header["type"], header["n"], header["step"]) == ("frame", 7, 3)
    for image, (name, expected), drawn in zip(header["images"], images.items(), found, strict=True):
        assert (image["name"], image["height"], image["width"]) == (name, *expected.shape[:2])
        assert np.array_equal(drawn, expected)


def test_numbers_that_json_lacks_are_null() -> None:
    """As of an agent whose weights have NaN."""
    thoughts = {"value": math.nan, "reward": [0.5, math.inf, -math.inf], "tokens": (1, 2)}
    header, _ = unpacked(pack_frame(1, Update({"step": 3, "thoughts": thoughts}, {})))
    assert header["thoughts"] == {"value": None, "reward": [0.5, None, None], "tokens": [1, 2]}
    assert json.loads(as_json({"return": math.nan, "steps": 3})) == {"return": None, "steps": 3}
