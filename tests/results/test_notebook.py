"""The notebook of results runs, with few resamples, and shows the values that are committed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "results" / "atari_100k.ipynb"
PICTURES = ROOT / "docs" / "results"


def shown(notebook: Any) -> list[str]:
    """The Markdown that the cells show, without the intervals, and the columns that they widen."""
    texts = [
        output["data"]["text/markdown"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
    return [re.sub(r" \(-?[\d.]+–-?[\d.]+\)|[ -]+", " ", text) for text in texts]


def test_the_notebook_shows_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULTS_REPS", "5")
    monkeypatch.setenv("RESULTS_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    committed = nbformat.read(NOTEBOOK, as_version=4)
    executed = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(executed, timeout=120, kernel_name="python3", resources=place).execute()
    assert len(shown(committed)) == 5 and shown(executed) == shown(committed)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 6 and names == {path.name for path in PICTURES.iterdir()}
    assert all(path.stat().st_size < 100_000 for path in PICTURES.iterdir())
    assert NOTEBOOK.stat().st_size < 300_000


def test_the_page_shows_every_figure() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    assert set(re.findall(r"\(results/(\w+\.png)\)", page)) == {path.name for path in PICTURES.iterdir()}
