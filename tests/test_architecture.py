"""The rooms of the package: every module has one, and imports between them go down."""

from __future__ import annotations

import pytest

from benchmarks.report.architecture import ROOMS, arrows, modules, room_of

ORDER = [room.name for room in ROOMS]
ARROWS = arrows()


def test_every_module_has_a_room() -> None:
    homeless = [name for name, _ in modules() if room_of(name) is None and name != "iris_fast.__init__"]
    assert not homeless, "name their room in benchmarks/report/architecture.py"


@pytest.mark.parametrize("arrow", sorted(ARROWS), ids="-".join)
def test_imports_go_down(arrow: tuple[str, str]) -> None:
    here, there = (ORDER.index(room) for room in arrow)
    assert here < there, f"{arrow[0]} imports {arrow[1]}, which lies above it: {sorted(set(ARROWS[arrow]))}"


def test_the_arrows_that_must_be_there_are_read() -> None:
    assert {("commands", "training"), ("training", "imagination"), ("models", "kernels")} <= set(ARROWS)
