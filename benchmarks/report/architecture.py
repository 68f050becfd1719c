"""The picture of the architecture in docs/design.md: the rooms of the package, and the imports between them.

Rooms are named here, from the top to the bottom; the arrows are read from the source.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Room:
    """Modules and folders of `iris_fast` that serve one purpose."""

    name: str
    purpose: str
    members: tuple[str, ...]


ROOMS = (
    Room("sweep", "games × seeds as processes, on Ray or Slurm", ("sweep",)),
    Room(
        "commands",
        "parse, build, call",
        ("__main__", "convert", "doctor", "evaluate", "front", "plot", "train"),
    ),
    Room("play", "the page, its server, one tab", ("play",)),
    Room("results", "published scores, statistics, tables, figures", ("results",)),
    Room("training", "trainer, parts, checkpoints, run folder", ("training",)),
    Room("interop", "checkpoints of other kinds, accelerate", ("interop",)),
    Room("config", "typed settings, presets, overrides", ("config",)),
    Room("imagination", "the oracle and the engines", ("imagination",)),
    Room("replay", "episodes, cache of tokens", ("replay",)),
    Room("envs", "vector environments", ("envs",)),
    Room("agent", "the three models together, acting", ("agent", "acting", "pretrained")),
    Room("models", "tokenizer, world model, actor-critic", ("models",)),
    Room("randomness", "seeds and draws by their address", ("randomness",)),
    Room("kernels", "operations in Triton and PyTorch", ("kernels",)),
    Room("csrc", "the C++ extension", ("_C",)),
    Room(
        "foundations",
        "errors, files, command lines, CUDA graphs",
        ("command_line", "errors", "files", "graphs", "hub", "terminal"),
    ),
)
"""From the top to the bottom: an import goes down, or stays in its room. Every room may import the foundations."""

Arrow = tuple[str, str]


def room_of(module: str) -> str | None:
    """The room of a module such as `iris_fast.models.tokenizer`; None of the package itself and its version."""
    names = module.split(".")
    member = names[1] if len(names) > 1 else ""
    return next((room.name for room in ROOMS if member in room.members), None)


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name, with its file."""
    for path in sorted((ROOT / "iris_fast").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        yield ".".join(("iris_fast", *path.relative_to(ROOT).with_suffix("").parts)), path


def imported(module: str, tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports, anywhere in it, for types too."""
    names = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = names[: -node.level] if node.level else []
            stem = [*base, *filter(None, [node.module])]
            yield from (".".join([*stem, alias.name]) for alias in node.names)


def arrows() -> dict[Arrow, list[str]]:
    """The imports from one room into another, each with the modules that have it."""
    found: dict[Arrow, list[str]] = {}
    for module, path in modules():
        here = room_of(module)
        for name in imported(module, ast.parse(path.read_text(encoding="utf-8"))):
            there = room_of(name) if name.startswith("iris_fast.") else None
            if here is not None and there is not None and here != there:
                found.setdefault((here, there), []).append(module)
    return found


def architecture() -> str:
    """A Mermaid flow chart of the rooms; an arrow that follows from others is left out, as are the foundations."""
    rooms = [room for room in ROOMS if room.name != "foundations"]
    drawn = {room.name for room in rooms}
    direct = {arrow for arrow in arrows() if set(arrow) <= drawn}
    lines = [f'    {room.name}["<b>{room.name}</b><br>{room.purpose}"]' for room in rooms]
    lines += [f"    {here} --> {there}" for here, there in sorted(direct) if not _leads(here, there, direct)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def _leads(here: str, there: str, direct: set[Arrow]) -> bool:
    """Whether other arrows lead from one room to the other."""
    reached = [end for start, end in direct if start == here and end != there]
    for room in reached:
        reached += [end for start, end in direct if start == room and end not in reached]
    return there in reached
