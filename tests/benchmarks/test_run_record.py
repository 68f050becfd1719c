"""The scripts that record training runs keep a record, the drawn columns, and small pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import run_record
from benchmarks.record import Record
from benchmarks.report.pictures import shrink

LINES = [
    {"epoch": 1, "env_steps": 300, "tokenizer/train/total_loss": 0.123456789, "replay/frames": 300},
    {"epoch": 2, "collection/train/return": 1.0, "duration/epoch": 6.5, "time": 1795607750.3},
]


def test_a_run_is_kept_with_what_is_drawn_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    metrics = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "run" / "logs" / "metrics.jsonl").write_text(metrics)
    (tmp_path / "evaluation.json").write_text(json.dumps({"statistics": {"return": 1.0}, "returns": [1.0]}))
    options = {"--name": "run_3", "--command": "train", "--seconds": "9.5", "--seed": "3", "--commit": "abc"}
    options |= {"--run": str(tmp_path / "run"), "--evaluation": str(tmp_path / "evaluation.json")}
    arguments = [str(tmp_path), *(word for option in options.items() for word in option)]
    monkeypatch.setattr(sys, "argv", ["run_record", *arguments])
    run_record.main()
    record = Record.read(tmp_path / "run_3.json")
    assert record.circumstances.commit == "abc"
    assert record.result.facts == {
        "command": "train",
        "seed": 3,
        "seconds": 9.5,
        "evaluation": {"return": 1.0},
    }
    kept = [json.loads(line) for line in (tmp_path / "run_3_metrics.jsonl").read_text().splitlines()]
    assert kept == [
        {"epoch": 1, "env_steps": 300, "tokenizer/train/total_loss": 0.12346},
        {"epoch": 2, "collection/train/return": 1.0, "duration/epoch": 6.5},
    ]


def test_a_picture_becomes_smaller_and_stays_what_it_was(tmp_path: Path) -> None:
    rows = np.linspace(0, 255, 200).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 8, (200, 200, 3), dtype=np.uint8)
    before = (rows[:, None, None] // 2 + noise).astype(np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(before).save(path)
    size = path.stat().st_size
    shrink(path)
    with Image.open(path) as picture:
        after = np.asarray(picture.convert("RGB"))
    assert path.stat().st_size < size / 2 and after.shape == before.shape
    assert np.abs(after.astype(int) - before.astype(int)).mean() < 8
