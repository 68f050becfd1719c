"""The table of `kernels/README.md`: the arguments of each operation, and its speed from the result files.

`python -m benchmarks.report.documentation` writes it, from `benchmarks/results/cpu/kernel_*.json` and from the same
files of another folder of results, of a machine with a GPU, where there is one.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

import iris_fast.kernels
from iris_fast.kernels.common.spec import OpSpec, Row

from ..kernels import timed_operations
from ..kernels.table import WITHOUT_GRAPHS
from ..record import Label, Record, Size
from .tables import markdown

WIDTH = 118
RESULTS = Path(__file__).parents[1] / "results"


def speed(name: str, row: Row, folder: str, wanted: dict[str, Label]) -> str:
    """Milliseconds of ours, how many times as long the fastest other took; a dash where nothing was measured."""
    path = RESULTS / folder / f"kernel_{name}.json"
    if not path.exists():
        return "–"
    result = Record.read(path).result
    sizes = [size for size in result.timed() if size.is_like(**wanted)]
    if not sizes:
        return "–"
    uncaptured = [size for size in result.timed("sizes" + WITHOUT_GRAPHS) if size.what == sizes[0].what]
    words = row.words.format(**sizes[0].what)
    return f"{words}: {side_by_side([*uncaptured, sizes[0]], row.ours)}"


def side_by_side(sizes: Sequence[Size], preferred: tuple[str, ...]) -> str:
    """Ours in milliseconds, and the fastest of the others in units of it; the last of `sizes` counts of each side."""
    seconds = {name: spread.median for size in sizes for name, spread in size.seconds.items()}
    ours = seconds[next(name for name in preferred if name in seconds)]
    others = {name: found for name, found in seconds.items() if not name.startswith("ours")}
    best = min(others, key=lambda name: others[name])
    return f"{1e3 * ours:.2g} ms; {best} {others[best] / ours:.2g}×"


def signature(name: str) -> str:
    """The function's parameters by name; those after `*` are keywords."""
    parts: list[str] = []
    for parameter in inspect.signature(getattr(iris_fast.kernels, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        optional = parameter.default is not parameter.empty
        parts.append(f"{parameter.name}={parameter.default!r}" if optional else parameter.name)
    return f"{name}({', '.join(parts)})"


def gpu_folder() -> str | None:
    """The results of a machine with a GPU, where there are some of kernels: the first by name."""
    folders = (path for path in sorted(RESULTS.iterdir()) if path.is_dir() and path.name != "cpu")
    return next((path.name for path in folders if any(path.glob("kernel_*.json"))), None)


def kernel_rows() -> list[list[str]]:
    """A row for each operation."""
    folder = gpu_folder()
    return [
        [
            f"[`{name}`]({name}.py)",
            f"`{signature(name)}`",
            benchmark.row.shapes,
            benchmark.row.limits,
            speed(name, benchmark.row, "cpu", benchmark.row.cpu),
            speed(name, benchmark.row, folder, benchmark.row.gpu) if folder else "not measured yet",
        ]
        for name, (_, benchmark) in timed_operations().items()
    ]


def references() -> str:
    """The references by name."""
    names = (spec.reference.__name__ for spec, _ in timed_operations().values() if spec.reference is not None)
    return textwrap.fill(f"References: {', '.join(f'`{name}`' for name in names)}.", WIDTH)


def sections() -> str:
    """Of each operation what it is for, and an example."""
    return "\n\n".join(
        f"### {', '.join(f'`{one}`' for one in (name, *others(spec)))}\n\n{spec.about.strip()}\n\n"
        f"```python\n{spec.example.strip()}\n```"
        for name, (spec, _) in timed_operations().items()
    )


def others(spec: OpSpec) -> list[str]:
    """The other public functions of an operation's file."""
    return [name for name in spec.arguments() if name != spec.name]


def kernels_table() -> str:
    head = ["operation", "signature", "shapes", "limits", "CPU", "GPU"]
    return markdown(head, kernel_rows())
