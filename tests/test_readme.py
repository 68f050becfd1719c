"""The documentation: its Python runs, its commands parse, and its keys, files and tables exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import iris_fast.evaluate as evaluate
import iris_fast.train as train
from benchmarks.report.documentation import TABLES, with_tables
from iris_fast import command_line, convert, plot
from iris_fast.config import apply_overrides, config_keys, preset_config
from iris_fast.sweep import __main__ as sweep
from tests.support.commands import Say, train_micro

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "kernels" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SNIPPETS = [
    (name, block) for name, page in zip(NAMES, PAGES, strict=True) for block in blocks(page, "python")
]


@pytest.fixture(scope="module")
def with_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that the snippets speak of."""
    folder = tmp_path_factory.mktemp("docs")
    run = folder / "outputs" / "catch"
    assert train_micro(run, "common.epochs=1", "training.should=false", "evaluation.should=false") == 0
    return folder


@pytest.mark.parametrize(("name", "snippet"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_python_snippets_run(
    name: str, snippet: str, with_a_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(with_a_run)
    namespace: dict[str, object] = {}
    exec(compile(snippet, name, "exec"), namespace)
    if "dream" in namespace:
        assert namespace["dream"].observations.shape == (1, 8, 3, 64, 64)  # type: ignore[attr-defined]


def test_there_are_snippets() -> None:
    assert {"README.md", "kernels/README.md", "docs/environments.md"} <= {name for name, _ in SNIPPETS}


def commands(module: str) -> list[list[str]]:
    """The arguments of every `python -m iris_fast.MODULE` in the shell blocks."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    found = [line.partition(f"python -m iris_fast.{module} ")[2] for line in lines]
    return [shlex.split(rest, comments=True) for rest in found if rest]


def test_train_commands_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "fetched", Path)  # from the Hub, which tests do not reach
    assert len(commands("train")) >= 6
    for arguments in commands("train"):
        parsed = train.make_parser().parse_intermixed_args(arguments)
        apply_overrides(preset_config(parsed.preset or "paper", "Pong"), parsed.overrides)


@pytest.mark.parametrize(
    ("module", "parse"),
    [
        ("evaluate", evaluate.make_parser().parse_args),
        ("plot", plot.make_parser().parse_args),
        ("convert", convert.make_parser().parse_args),
        ("sweep", sweep.make_parser().parse_intermixed_args),
    ],
)
def test_other_commands_parse(
    module: str, parse: Callable[[list[str]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "fetched", Path)
    assert commands(module)
    for arguments in commands(module):
        parse(arguments)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_configuration_keys_exist(page: Path) -> None:
    """Every dotted key in backticks, with a value or without."""
    sections = "|".join({key.split(".")[0] for key in config_keys() if "." in key})
    keys = config_keys()
    for quoted in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for key in re.findall(rf"(?<![\w./])(?:{sections})(?:\.[a-z_]+)+(?![\w./(*])", quoted):
            known = key in keys or any(other.startswith(f"{key}.") for other in keys)
            assert known or (ROOT / "iris_fast" / key).exists(), f"{page.name} speaks of {key}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tree_of_the_design_notes_is_the_repository() -> None:
    (tree,) = [
        block for block in blocks(ROOT / "docs" / "design.md", "text") if block.startswith("iris_fast/\n")
    ]
    found: set[Path] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        entries = re.split(r"  +", line.strip())[0].split()
        folders = folders[: indent // 4]
        for entry in entries:
            path = ROOT.joinpath(*folders, entry)
            assert path.exists(), f"the README's tree has {path.relative_to(ROOT)}"
            found.add(path)
        if entries[0].endswith("/"):
            folders.append(entries[0])
    package = {path for path in (ROOT / "iris_fast").iterdir() if (path / "__init__.py").exists()}
    modules = set((ROOT / "iris_fast").glob("[a-z]*.py"))
    assert (package | modules) - found == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run python -m benchmarks.report.documentation"


def test_a_table_is_replaced_between_its_marks() -> None:
    text = "before\n<!-- table:presets -->\nold\n<!-- end:presets -->\nafter\n"
    fresh = with_tables(text)
    assert fresh.startswith("before\n<!-- table:presets -->\n| | `paper` |") and "old" not in fresh
    assert fresh.endswith(" |\n<!-- end:presets -->\nafter\n") and with_tables(fresh) == fresh
    with pytest.raises(ValueError, match="end:presets"):
        with_tables("<!-- table:presets -->\nwithout an end")


def test_every_table_is_in_the_documentation() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in TABLES:
        assert pages.count(f"<!-- table:{name} -->") == pages.count(f"<!-- end:{name} -->") == 1


def test_every_command_has_a_help_that_fits_a_terminal(capsys: Say) -> None:
    for command in (train.main, evaluate.main, plot.main, convert.main):
        with pytest.raises(SystemExit):
            command(["--help"])
        text = capsys.readouterr().out
        assert text.startswith("usage: python -m iris_fast.")
        assert max(map(len, text.splitlines())) <= 110
