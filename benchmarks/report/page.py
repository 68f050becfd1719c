"""`python -m benchmarks report`: tables and plots of existing results; of our own, the documentation's tables too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iris_fast.command_line import CommandParser, path_argument
from iris_fast.errors import UserError, quoted
from iris_fast.files import explained_writing, write_atomically

from .. import cases  # noqa: F401  (registers the cases)
from ..record import Record, Size
from ..registry import CASES
from .projection import PHASES
from .slower import SLOWER_HEAD, SLOWER_NOTE, slower_rows
from .tables import ceilings, duration, label_of, markdown, text_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "cpu"
NOT_YET = "No comparison is recorded yet: `python -m benchmarks --json benchmarks/results/cpu` writes one."
# Of the table of all speeds: the case, its sizes' words, and the seconds of one unit.
ROWS = (
    ("rollout", "imagined step, batch {batch} (of {horizon})", lambda size: size.what["horizon"]),
    ("rollout_whole", "imagined step, batch {batch} (of {horizon})", lambda size: size.what["horizon"]),
    ("token_generation", "17 token passes, batch {batch}", lambda size: size.what["steps"]),
    ("frame_decoding", "{batch} frames decoded", lambda size: 1),
    ("gradient_steps", "{part} step, batch {batch}", lambda size: 1),
    ("playing", "{what}, batch {batch}", lambda size: 1),
)
COLUMNS = (
    *("ours", "ours_cached", "ours_float16_cache", "ours_bf16", "pytorch", "public", "public_tuned"),
    *("simulusion", "simulusion_tuned"),
)
# Of those the README shows six rows at the most, by case and facts of the size, and the columns of whole systems.
README_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rollout", {"batch": 1}),
    ("rollout_whole", {"batch": 64}),
    ("frame_decoding", {"batch": 64}),
    *(("gradient_steps", {"part": part}) for part in ("tokenizer", "world_model", "actor_critic")),
)
README_COLUMNS = ("ours", "public", "public_tuned", "simulusion_tuned")


def main(argv: list[str]) -> int:
    """Rebuilds everything from JSON files."""
    parser = CommandParser(
        prog="python -m benchmarks report", description="Make tables and plots of existing results."
    )
    parser.add_argument(
        "folder", type=path_argument, nargs="?", default=RESULTS, help="where the JSON files are"
    )
    parser.add_argument(
        "--out", type=path_argument, help="where report.md and plots go (default: the same folder)"
    )
    arguments = parser.parse_args(argv)
    records = read_records(arguments.folder)
    if not records:
        raise UserError(
            f"{arguments.folder} holds no results: write some with {quoted('--json', arguments.folder)}"
        )
    out = arguments.out or arguments.folder
    from .plots import draw_all  # here, since matplotlib takes a second

    report = out / "report.md"
    with explained_writing(report, "choose another place with --out"):
        out.mkdir(parents=True, exist_ok=True)
        plots = draw_all({name: record.result for name, record in records.items()}, out)
        write_atomically(report, report_text(records, plots).encode())
    print("\n".join(str(path) for path in (report, *plots)))
    if arguments.folder.resolve() == RESULTS:
        from .documentation import main as write_documentation  # here, since it imports this file

        write_documentation()
    return 0


def read_records(folder: Path) -> dict[str, Record]:
    """The records of registered cases by name, in the order of the registry."""
    paths = {name: folder / f"{name}.json" for name in CASES}
    return {name: Record.read(path) for name, path in paths.items() if path.is_file()}


def report_text(records: Mapping[str, Record], plots: Sequence[Path]) -> str:
    """Markdown: the machine, the plots, the projection and every case's table."""
    lines = ["# Results", ""]
    for title, names in _by_circumstances(records).items():
        lines += [f"- {title}: {', '.join(names)}"]
    lines += [""] + [f"![{path.stem}]({path.name})" for path in plots] + [""]
    if "projection" in records and (table := projection_table(records["projection"].result.facts)):
        lines += ["## A whole run, projected", "", table, ""]
    if slower := slower_rows(records):
        lines += ["## Where ours is slower", "", markdown(SLOWER_HEAD, slower), "", SLOWER_NOTE, ""]
    for name, record in records.items():
        if record.result.sizes:  # a case without a table is read in its file
            text = text_of(name, record.result).rstrip()
            lines += [f"## {name}", "", CASES[name].description, "", "```text", text, "```", ""]
    return "\n".join(lines)


def _by_circumstances(records: Mapping[str, Record]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        made = record.circumstances
        versions = f"torch {made.versions['torch']}, Python {made.python}"
        quick = ", quick (a smoke test)" if record.quick else ""
        found.setdefault(f"{made.machine}, {versions}, commit {made.commit}{quick}", []).append(name)
    return found


def projection_table(result: Mapping[str, Any]) -> str:
    """Hours by phase, a column for each system; empty for another result and where nothing is projected."""
    if "units" not in result:
        return ""
    sides = list(result["seconds"])
    rows = [
        [phase.replace("_", " "), *(f"{result['seconds'][side][phase] / 3600:.3g}" for side in sides)]
        for phase in PHASES
    ]
    totals = [f"**{sum(result['seconds'][side].values()) / 3600:.3g}**" for side in sides]
    others = result.get("other_models", ())
    head = ["hours", *(f"{label_of(side)}{' (another model)' * (side in others)}" for side in sides)]
    notes = [f"- {note}" for note in result.get("notes", ())]
    notes += [
        f"- {label_of(side)} is left out: {why}." for side, why in result.get("left_out_sides", {}).items()
    ]
    return "\n".join([markdown(head, [*rows, ["**all**", *totals]]), "", *notes]).rstrip()


def speed_table(folder: Path = RESULTS) -> str:
    """The README's table: median seconds of a unit by system, in brackets how many times as long as ours."""
    return _speeds(folder, README_COLUMNS, _in_readme)


def all_speeds_table(folder: Path = RESULTS) -> str:
    """As `speed_table`, with every size and system, and the rounds of each row."""
    return _speeds(folder, COLUMNS, lambda case, size: True, with_rounds=True)


def _in_readme(case: str, size: Size) -> bool:
    return any(case == name and facts.items() <= dict(size.what).items() for name, facts in README_ROWS)


def _speeds(
    folder: Path, columns: Sequence[str], wanted: Callable[[str, Size], bool], with_rounds: bool = False
) -> str:
    records = read_records(folder)
    if "rollout" not in records:
        return NOT_YET
    found = [
        (case, size, _words(words, size, with_rounds), unit(size))
        for case, words, unit in ROWS
        if case in records
        for size in records[case].result.timed()
        if wanted(case, size)
    ]
    sides = [side for side in columns if any(side in size.seconds for _, size, _, _ in found)]
    rows = [[words, *(_cell(size, side, units) for side in sides)] for _, size, words, units in found]
    caption = _caption(records, list(dict.fromkeys(case for case, _, _, _ in found)), sides)
    return f"{markdown(['', *map(label_of, sides)], rows)}\n\n{caption}"


def _caption(records: Mapping[str, Record], shown: Sequence[str], sides: Sequence[str]) -> str:
    """On which machine, of which commits, and what a reader must know of a column."""
    measured: dict[str, list[str]] = {}
    for case in shown:
        found = records[case]
        when = f"commit {found.circumstances.commit} ({ceilings(found.result.ceilings)})"
        measured.setdefault(when, []).append(f"`{case}`")
    runs = "; ".join(f"{', '.join(names)}: {when}" for when, names in measured.items())
    other = "".join(
        f" {label_of(side)} has the same Transformer; its other models are lighter than the paper's."
        for side in sides
        if side.startswith("simulusion")
    )
    record = records["rollout"]
    quick = " of a smoke test (`--quick`)" if record.quick else ""
    return (
        f"Median seconds{quick}; in brackets how many times as long as ours. {record.circumstances.machine}. "
        f"Measured by {runs}.{other}"
    )


def _words(words: str, size: Size, with_rounds: bool) -> str:
    """A row's words with its facts, and how many rounds there were if asked."""
    said = words.format(**{key: str(value).replace("_", " ") for key, value in size.what.items()})
    rounds = min(spread.rounds for spread in size.seconds.values())
    return f"{said}; {rounds} round{'s' * (rounds > 1)}" if with_rounds else said


def _cell(size: Size, side: str, units: float) -> str:
    if side not in size.seconds:
        return "–"
    seconds = duration(size.seconds[side].median / units)
    found = size.ratios.get(side)
    return seconds if found is None else f"{seconds} ({found.ratio:.2g}×)"


def growth_table(folder: Path = RESULTS) -> str:
    """Growth of time over each range of the case `scaling`, one row for each quantity."""
    path = folder / "scaling.json"
    if not path.is_file():
        return "Not recorded yet: `python -m benchmarks --only scaling --minutes 20`."
    record = Record.read(path)
    rows = []
    for table, powers in record.result.facts["powers"].items():
        sizes = record.result.timed(table)
        what = next(iter(sizes[0].what))
        for side, power in powers.items():
            points = [(size.what[what], size.seconds[side].median) for size in sizes]
            middle = [f"{value:,}: {duration(seconds)}" for value, seconds in _some(points)]
            rows.append([what, side, ", ".join(middle), f"{power:.2f}"])
    made = record.circumstances
    head = ("what grows", "what is timed", "medians", "power")
    where = f"{made.machine}, commit {made.commit} ({ceilings(record.result.ceilings)})."
    return f"{markdown(head, rows)}\n\n{where}"


def _some(points: Sequence[tuple[Any, float]]) -> list[tuple[Any, float]]:
    """The first, the last and what lies about evenly between them: five at most."""
    count = min(5, len(points))
    return [points[round(index * (len(points) - 1) / max(1, count - 1))] for index in range(count)]


def slower_table(folder: Path = RESULTS) -> str:
    """The table of sizes where ours is slower in a folder's results, or a note that there are none."""
    rows = slower_rows(read_records(folder))
    return (
        f"{markdown(SLOWER_HEAD, rows)}\n\n{SLOWER_NOTE}"
        if rows
        else "Nowhere in the results that are there."
    )
