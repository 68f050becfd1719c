"""The commands' arguments: paths, endings, settings typed as options, and printed commands to copy."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import iris_fast.evaluate as evaluate
import iris_fast.train as train
from iris_fast import convert, plot
from iris_fast.command_line import CommandParser, run_command
from iris_fast.config import apply_overrides, config_keys, preset_config
from iris_fast.errors import UserError
from iris_fast.interop.files import read_weights
from iris_fast.results import __main__ as results
from iris_fast.sweep import __main__ as sweep
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, contents, refusal, run_evaluate, run_train, train_micro
from tests.support.micro import MICRO

UNTRAINED = ("common.epochs=1", "training.should=false", "evaluation.should=false")
PARSERS: dict[str, Callable[[], CommandParser]] = {
    "train": train.make_parser,
    "evaluate": evaluate.make_parser,
    "plot": plot.make_parser,
    "convert": convert.make_parser,
    "results": results.make_parser,
    "sweep": sweep.make_parser,
}
# Every option that is a path, with what else a command line with it needs.
PATH_OPTIONS = (
    ("train", "--run-dir", ("--game", "Catch")),
    ("train", "--resume", ()),
    ("train", "--init", ("--game", "Catch")),
    ("evaluate", "", ()),
    ("evaluate", "--json", ("run",)),
    ("evaluate", "--video", ("run",)),
    ("plot", "", ()),
    ("plot", "--out", ("run",)),
    ("results", "", ()),
    ("results", "--output", ()),
    ("sweep", "--output", ("--games", "Catch")),
    ("sweep", "--slurm", ("--games", "Catch")),
    ("convert", "", ("b.pt", "--to", "public")),
    ("convert", "", ("a.pt", "--to", "public")),
)


def run_plot(*arguments: object) -> int:
    return run_command(plot.main, [str(argument) for argument in arguments])


def run_results(*arguments: object) -> int:
    return run_command(results.main, [str(argument) for argument in arguments])


def run_sweep(*arguments: object) -> int:
    return run_command(sweep.main, [str(argument) for argument in arguments])


def run_convert(*arguments: object) -> int:
    return run_command(convert.main, [str(argument) for argument in arguments])


RUNNERS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "plot": run_plot,
    "convert": run_convert,
    "results": run_results,
    "sweep": run_sweep,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; not to be written to."""
    run = tmp_path_factory.mktemp("arguments") / "run"
    assert train_micro(run, *UNTRAINED) == 0
    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, with a home folder below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield tmp_path


@pytest.mark.parametrize(("command", "option", "others"), PATH_OPTIONS)
@pytest.mark.parametrize("text", ["", "x" * 300 + ".mp4", "~nobody-of-this-name/x"])
def test_a_path_that_no_system_call_takes(
    command: str, option: str, others: tuple[str, ...], text: str, here: Path, capsys: Say
) -> None:
    argument = (f"{option}={text}",) if option else (text,)
    sentence = refusal(RUNNERS[command], capsys, *argument, *others)
    assert "not a path" in sentence or "cannot be used as a path" in sentence or "no such user" in sentence, (
        sentence
    )
    assert len(sentence) < 250 and contents(here) == {"home": None}


@pytest.mark.parametrize("name", PARSERS)
def test_every_path_option_expands_the_home_folder(name: str, here: Path) -> None:
    """Shells do it at the start of a word alone, and Python nowhere."""
    paths = {
        "runs",
        "run",
        "source",
        "target",
        "init",
        "run_dir",
        "resume",
        "out",
        "output",
        "slurm",
        "video",
        "json",
    }
    for action in PARSERS[name]()._actions:
        if action.dest in paths:
            assert callable(action.type)
            ending = {"video": ".mp4"}.get(action.dest, "")
            assert action.type(f"~/x{ending}") == here / "home" / f"x{ending}", action.dest
        else:
            assert action.type in (None, int, float), f"is {action.dest} a path?"


def test_settings_that_are_paths_expand_the_home_folder(here: Path) -> None:
    config = preset_config("tiny", "Catch")
    for key in ("path_to_checkpoint", "lpips_weights"):
        changed = apply_overrides(config, [f"initialization.{key}=~/x.pt"]).initialization
        assert getattr(changed, key) == str(here / "home" / "x.pt")
        assert getattr(apply_overrides(config, [f"initialization.{key}=~"]).initialization, key) is None
        with pytest.raises(UserError, match=rf"initialization\.{key}=.*not a path"):
            apply_overrides(config, [f"initialization.{key}="])


@pytest.mark.parametrize(
    ("command", "arguments", "endings"),
    [
        ("evaluate", ("run", "--video", "x.gif"), ".mp4"),
        ("evaluate", ("run", "--video", "film"), ".mp4"),
        ("evaluate", ("run", "--json", "x.csv"), ".json"),
        ("plot", ("run", "--out", "x.jpg"), ".png, .pdf or .svg"),
        ("convert", ("a.pt", "x.safetensors", "--to", "public"), ".pt, .pth, .ckpt or .bin"),
    ],
)
def test_a_file_gets_the_format_of_its_ending_or_is_refused(
    command: str, arguments: tuple[str, ...], endings: str, here: Path, capsys: Say
) -> None:
    assert f"ends in {endings}" in refusal(RUNNERS[command], capsys, *arguments)
    assert contents(here) == {"home": None}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--epochs", "common.epochs=…"),
        ("--epochs=5", "common.epochs=5"),
        ("--learning-rate", "training.learning_rate=…"),
        ("--common.epochs=7", "common.epochs=7"),
        ("--sed", "(nearest: --seed"),
    ],
)
def test_an_option_that_is_a_setting(given: str, meant: str, here: Path, capsys: Say) -> None:
    assert meant in refusal(run_train, capsys, "--game", "Catch", given, "5" if "=" not in given else "x=5")
    assert contents(here) == {"home": None}


def test_the_settings_that_are_suggested_are_there() -> None:
    assert set(train.SETTINGS) <= config_keys().keys()


def test_commands_to_copy_are_quoted_for_a_shell(here: Path, capsys: Say) -> None:
    run = here / "it's a run"
    assert train_micro(run, *UNTRAINED) == 0
    done = capsys.readouterr().err.splitlines()[-1]
    command = shlex.split(done.partition("; ")[2])
    assert command == ["python", "-m", "iris_fast.evaluate", str(run), "--episodes", "100"]
    sentence = refusal(train_micro, capsys, run)
    assert shlex.quote(str(run)) in sentence.partition("--resume ")[2]
    assert run_evaluate(*command[3:4], "--episodes", "1") == 0


def test_no_path_is_printed_unquoted_in_a_command() -> None:
    """Wherever an option stands before a value in a sentence, the value went through `quoted`."""
    folder = Path(train.__file__).parent
    for source in folder.rglob("*.py"):
        if "kernels" not in source.parts:
            found = re.findall(r"--(?:resume|init|json|run-dir) \{[^}]*\}", source.read_text())
            assert not found, (source, found)


def test_list_keys_shows_what_a_run_would_use(here: Path, trained: Path, capsys: Say) -> None:
    def listed(*arguments: object) -> list[str]:
        assert run_train("--list-keys", *arguments) == 0
        return capsys.readouterr().out.splitlines()

    assert "common.epochs=44  (int)" in listed("--game", "catch")
    assert "common.epochs=600  (int)" in listed()
    assert "common.epochs=200  (int)" in listed("--game", "Pong", "--device", "cpu")
    assert "common.epochs=7  (int)" in listed("--game", "Catch", "common.epochs=7")
    assert "common.seed=3  (int)" in listed("--seed", 3)
    assert "tokenizer.vocab_size=16  (int)" in listed("--resume", trained)
    assert "'Pang'" in refusal(run_train, capsys, "--list-keys", "--game", "Pang")


def test_a_run_is_not_resumed_for_fewer_epochs_than_it_has(
    trained: Path, tmp_path: Path, capsys: Say
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert run_train("--resume", run, "common.epochs=2") == 0
    sentence = refusal(run_train, capsys, "--resume", run, "common.epochs=1")
    assert "common.epochs=1" in sentence and "has done 2 already" in sentence


def test_a_run_folder_with_a_typo(trained: Path, capsys: Say) -> None:
    for command, arguments in ((run_train, ("--resume",)), (run_evaluate, ()), (run_plot, ())):
        assert "(nearest: run)" in refusal(command, capsys, *arguments, trained.with_name("rum"))
    checkpoint = RunFolder(trained).checkpoint
    assert "is a file: give the folder" in refusal(run_train, capsys, "--resume", checkpoint)


def test_sizes_are_refused_before_perceptual_weights_are_asked_for(
    trained: Path, tmp_path: Path, capsys: Say
) -> None:
    sentence = refusal(run_convert, capsys, trained, tmp_path / "public.pt", "--to", "public")
    assert "only an agent of that size can be exported" in sentence and "--lpips" not in sentence


@pytest.mark.parametrize("text", ["a note", "", "{}", "PK\x03\x04"])
def test_a_file_that_is_no_checkpoint(text: str, tmp_path: Path, capsys: Say) -> None:
    path = tmp_path / "note.pt"
    path.write_text(text)
    for command, more in ((run_convert, (tmp_path / "x.pt", "--to", "iris_fast")), (run_evaluate, ())):
        sentence = refusal(command, capsys, path, *more)
        assert f"'{path}' is" in sentence and "not a checkpoint" in sentence
    sentence = refusal(run_train, capsys, "--game", "Catch", "--init", path, *MICRO)
    assert "not a checkpoint" in sentence


def test_the_home_folder_is_where_things_are_written(here: Path, trained: Path) -> None:
    assert run_train("--game", "Catch", "--run-dir=~/run", f"--init={trained}", *MICRO, *UNTRAINED) == 0
    assert run_evaluate("~/run", "--episodes=1", "--json=~/own.json", "--video=~/film.mp4") == 0
    assert run_plot("~/run", "--out=~/plots") == 0
    assert run_convert("~/run", "~/weights.pt", "--to", "iris_fast", "--lpips", "omit") == 0
    assert read_weights(here / "home" / "weights.pt").num_actions == 3
    made = {path.name for path in (here / "home").iterdir() if not path.name.startswith(".")}  # matplotlib's
    assert made == {"run", "own.json", "film.mp4", "plots", "weights.pt"}
    assert [path.name for path in here.iterdir()] == ["home"]
