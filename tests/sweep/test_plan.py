"""The list of runs: games, seeds, what is refused, and the state of a run from its folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from iris_fast.command_line import run_command
from iris_fast.config import config_keys, resolve
from iris_fast.envs.games import ATARI_100K
from iris_fast.errors import UserError
from iris_fast.sweep import __main__ as command
from iris_fast.sweep.plan import FOUND, FREE, Plan, chosen_games, chosen_seeds, differences, make_plan
from iris_fast.sweep.state import Watched, read_state
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, contents, refusal, train_micro
from tests.support.micro import MICRO


def run_sweep(*arguments: object) -> int:
    return run_command(command.main, [str(argument) for argument in arguments])


def plan_of(output: Path, *arguments: object) -> Plan:
    words = ["--games", "Catch", "--seeds", "2", "--preset", "tiny", "--output", output, "--episodes", 3]
    words += [*MICRO, *arguments]
    return make_plan(command.make_parser().parse_intermixed_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a sweep whose first run is trained and not evaluated; not to be written to."""
    output = tmp_path_factory.mktemp("sweep") / "out"
    arguments = ("--preset", "tiny", "--device", "cpu", "--seed", 0)
    assert train_micro(output / "Catch" / "seed_0", *arguments) == 0
    return output


def evaluated(output: Path, epoch: int, episodes: int) -> None:
    """Writes what `evaluate` would."""
    result = {"game": "Catch", "epoch": epoch, "returns": [1.0, 0.0, -0.25][:episodes]}
    (output / "Catch" / "seed_0" / "logs" / "evaluation.json").write_text(json.dumps(result))


def test_a_sweep_of_another_game_ends_with_its_mean_returns(
    trained: Path, tmp_path: Path, capsys: Say
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    evaluated(output, epoch=3, episodes=3)
    words = ["--games", "Catch", "--seeds", 1, "--preset", "tiny", "--output", output, "--episodes", 3]
    assert run_sweep(*words, *MICRO) == 0
    said = capsys.readouterr()
    assert "all 1 runs are done" in said.err
    assert said.out.splitlines()[-1].replace(" ", "") == "|Catch|1|0.25|0.25|0.25|"


def test_games_and_seeds() -> None:
    assert chosen_games("all") == list(ATARI_100K)
    assert chosen_games("ms_pacman, Catch,MsPacman") == ["MsPacman", "Catch"]
    assert chosen_seeds("3") == [0, 1, 2]
    assert chosen_seeds("3,") == [3]
    assert chosen_seeds("7,0,5-6,5") == [7, 0, 5, 6]
    for wrong in ("0", "", "-1", "1.5", "3,x", "6-5", "1;2"):
        with pytest.raises(UserError, match="--seeds"):
            chosen_seeds(wrong)


def test_all_games_make_130_runs(tmp_path: Path) -> None:
    words = ["--games", "all", "--seeds", "5", "--preset", "paper", "--output", str(tmp_path / "out")]
    plan = make_plan(command.make_parser().parse_intermixed_args([*words, "common.epochs=7"]))
    assert len({run.folder for run in plan.runs}) == 130
    assert {plan.configs[run].common.epochs for run in plan.runs} == {7}
    assert not list(tmp_path.iterdir())
    run = plan.runs[-1]
    assert (run.game, run.seed, plan.configs[run].common.seed) == ("UpNDown", 4, 4)
    assert run.train_arguments(resume=False)[:8] == [
        *("--game", "UpNDown", "--preset", "paper", "--seed", "4", "--run-dir"),
        str(tmp_path / "out" / "UpNDown" / "seed_4"),
    ]


def test_paths_in_settings_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(Path("out"), "initialization.lpips_weights=lpips.pt")
    assert f"initialization.lpips_weights={tmp_path / 'lpips.pt'}" in plan.runs[0].overrides
    plan = plan_of(Path("../out"), "initialization.lpips_weights=../lpips.pt")
    assert plan.output == tmp_path.parent / "out"
    assert f"initialization.lpips_weights={tmp_path.parent / 'lpips.pt'}" in plan.runs[0].overrides
    plan = plan_of(Path("out"))
    assert plan.runs[0].folder == tmp_path / "out" / "Catch" / "seed_0"


def test_threads_and_device_follow_the_shares_unless_settings_say_them(tmp_path: Path) -> None:
    words = ["--games", "Catch", "--output", str(tmp_path)]
    parse = command.make_parser().parse_intermixed_args
    run = make_plan(parse([*words, "--cpus-per-run", "2.5", "--gpus-per-run", "0.5"])).runs[0]
    assert run.device == "cuda" and run.overrides == ("common.threads=2",)
    run = make_plan(parse([*words, "--gpus-per-run", "0", "common.threads=3", "common.device=auto"])).runs[0]
    assert run.device is None and run.overrides == ("common.threads=3", "common.device=auto")
    assert make_plan(parse([*words, "--gpus-per-run", "0"])).runs[0].device == "cpu"


def test_the_default_preset_is_that_of_the_game_and_the_device(tmp_path: Path) -> None:
    words = ["--games", "Catch,Pong", "--seeds", "1", "--output", str(tmp_path), "--gpus-per-run"]
    parse = command.make_parser().parse_intermixed_args
    assert [run.preset for run in make_plan(parse([*words, "0"])).runs] == ["tiny", "small"]
    assert [run.preset for run in make_plan(parse([*words, "1"])).runs] == ["tiny", "paper"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--games", "Pang"), ["'Pang'", "Pong"], id="game"),
        pytest.param(("--games", ","), ["','", "all"], id="no game"),
        pytest.param((), ["--games"], id="nothing"),
        pytest.param(("--games", "Pong", "--seeds", "x"), ["--seeds x", "0,3"], id="seeds"),
        pytest.param(("--games", "Pong", "--preset", "smal"), ["'smal'", "small"], id="preset"),
        pytest.param(("--games", "Pong", "common.epoch=3"), ["common.epochs"], id="key"),
        pytest.param(("--games", "Pong", "common.epochs=0"), ["common.epochs=0"], id="value"),
        pytest.param(("--games", "Pong", "common.seed=3"), ["common.seed=3", "--seeds"], id="seed"),
        pytest.param(("--games", "Pong", "--episodes", 0), ["--episodes 0"], id="episodes"),
        pytest.param(("--games", "Pong", "--cpus-per-run", 0), ["--cpus-per-run 0"], id="no cores"),
        pytest.param(("--games", "Pong", "--cpus-per-run", "nan"), ["--cpus-per-run nan"], id="nan cores"),
        pytest.param(("--games", "Pong", "--gpus-per-run", 2), ["--gpus-per-run 2", "0.5"], id="two GPUs"),
        pytest.param(("--games", "Pong", "--retries", -1), ["--retries -1"], id="retries"),
        pytest.param(("--games", "Pong", "--run", 5), ["--run 5", "0 to 4"], id="run"),
        pytest.param(("--games", "Pong", "--dry-run", "--run", 0), ["not allowed with"], id="two of one"),
        pytest.param(("--games", "Pong", "--output", "/dev/null"), ["'/dev/null' is a file"], id="output"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[object, ...],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Say,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(run_sweep, capsys, *arguments)
    assert all(word in said for word in words), said
    assert not contents(tmp_path)


def test_without_ray_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert "pip install 'iris_fast[sweep]'" in refusal(run_sweep, capsys, "--games", "Pong")
    assert run_sweep("--games", "Pong", "--seeds", 1, "--dry-run") == 0


def test_states(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    plan = plan_of(output)
    first, second = plan.runs
    assert read_state(second, plan.configs[second]).words() == "epoch 0/3"
    watched = Watched(first, plan.configs[first], read_state(first, plan.configs[first]))
    assert (watched.state.stage, watched.state.epoch, watched.state.of) == ("trained", 3, "test")
    evaluated(output, epoch=3, episodes=3)
    assert watched.refresh().stage == "done" and watched.state.last_return == 0.25
    evaluated(output, epoch=2, episodes=3)  # of a former epoch
    assert watched.refresh().stage == "trained"
    evaluated(output, epoch=3, episodes=2)  # of too few
    assert watched.refresh().stage == "trained"
    (output / "Catch" / "seed_0" / "logs" / "metrics.jsonl").write_bytes(b"{\n{\n")
    assert watched.refresh().stage == "trained"  # as it last was
    with pytest.raises(UserError, match="line 1"):
        read_state(first, plan.configs[first])


def test_time_left_is_that_of_the_phases_to_come(trained: Path) -> None:
    plan = plan_of(trained, "common.epochs=5")
    state = read_state(plan.runs[0], plan.configs[plan.runs[0]])
    assert (state.stage, state.epoch, state.epochs) == ("begun", 3, 5)
    lines = (trained / "Catch" / "seed_0" / "logs" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    parts = ("collection", "tokenizer", "world_model", "actor_critic")
    twice = sum(records[-1][f"duration/{name}"] for name in parts)
    assert state.time_left is not None and not state.time_left.unknown
    assert state.time_left.seconds == pytest.approx(2 * twice + records[1]["duration/evaluation"])


def test_dry_run_lists_states_and_commands(trained: Path, capsys: Say) -> None:
    before = contents(trained)
    words = ["--games", "Catch", "--seeds", 2, "--preset", "tiny", "--output", trained, "--episodes", 3]
    assert run_sweep(*words, *MICRO, "--dry-run") == 0
    first, second, count = capsys.readouterr().out.splitlines()
    assert first.startswith("0 Catch seed 0: trained, epoch 3/3, test return ")
    assert f"python -m iris_fast.train --resume {trained}/Catch/seed_0 " in first
    assert first.endswith(
        f" && python -m iris_fast.evaluate {trained}/Catch/seed_0 --episodes 3 --device cpu"
    )
    assert second.startswith("1 Catch seed 1: new: python -m iris_fast.train --game Catch ")
    assert count == "2 runs: 1 trained, 1 new"
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("training.tokenizer.steps_per_epoch=7",),
            "training.tokenizer.steps_per_epoch=3 and this command asks for 7",
        ),
        (("training.learning_rate=0.5",), "training.learning_rate=0.001 and this command asks for 0.5"),
        (("training.tokenizer.learning_rate=0.5",), "training.tokenizer.learning_rate=0.002"),
        (("world_model.max_blocks=5",), "world_model.max_blocks=4 and this command asks for 5"),
        (("common.sequence_length=3",), "common.sequence_length=4 and this command asks for 3"),
        (("actor_critic.channels=[4,4,4,8]",), "asks for [4,4,4,8]"),
        (
            ("training.tokenizer.stop_after_epochs=null",),
            "stop_after_epochs=12 and this command asks for null",
        ),
        (("tokenizer.perceptual=none",), "tokenizer.perceptual=foreground and this command asks for none"),
        (("common.precision=bf16",), "common.precision=float32 and this command asks for bf16"),
        (("common.epochs=2",), "has had 3 epochs and this command asks for 2"),
        (("--preset", "small"), "preset=tiny"),
        (("common.epochs=9",), None),
        (
            ("common.engine=oracle", "common.threads=2", "common.device=auto", "logging.tensorboard=true"),
            None,
        ),
        (("--wandb", "wandb.project=other", "datasets.train.device=cpu", "--cpus-per-run", "2"), None),
    ],
)
def test_a_folder_with_another_run_is_refused(
    arguments: tuple[str, ...], words: str | None, trained: Path, capsys: Say
) -> None:
    """It would be taken for what the command asks, or trained on with settings that it has not begun with."""
    micro = [override for override in MICRO if override.partition("=")[0] not in " ".join(arguments)]
    base = ("--games", "Catch", "--seeds", 1, "--preset", "tiny", "--output", trained, "--dry-run", *micro)
    if words is None:
        assert run_sweep(*base, *arguments) == 0
        return
    said = refusal(run_sweep, capsys, *base, *arguments)
    assert words in said and "--output" in said


def test_what_a_run_found_on_its_machine_is_no_difference(trained: Path) -> None:
    run = RunFolder(trained / "Catch" / "seed_0")
    stored = run.read_config()
    asked = plan_of(trained).configs[plan_of(trained).runs[0]]
    assert asked.common.precision == "auto" and stored.common.precision != "auto"
    assert not differences(stored, asked)
    lpips = replace(asked, tokenizer=replace(asked.tokenizer, perceptual="lpips"))
    without = replace(stored, tokenizer=replace(stored.tokenizer, perceptual="none"))
    assert not differences(without, lpips)
    assert differences(stored, lpips) == [("tokenizer.perceptual", "foreground", "lpips")]


def test_settings_that_the_command_no_longer_gives_are_refused(trained: Path, capsys: Say) -> None:
    fewer = [override for override in MICRO if not override.startswith("training.actor_critic.burn_in")]
    base = ("--games", "Catch", "--seeds", 1, "--preset", "tiny", "--output", trained, "--dry-run")
    said = refusal(run_sweep, capsys, *base, *fewer)
    assert "training.actor_critic.burn_in=2 and this command asks for 4" in said and "--output" in said


def test_the_one_run_of_a_number_is_checked_too(trained: Path, capsys: Say) -> None:
    base = ("--games", "Catch", "--seeds", 1, "--preset", "tiny", "--output", trained, *MICRO, "--run", 0)
    assert "learning_rate=0.001" in refusal(run_sweep, capsys, *base, "training.learning_rate=0.5")


def test_every_setting_counts_unless_it_is_named(tmp_path: Path) -> None:
    """So a new key is refused until someone has thought about it."""
    free = {key for key in config_keys() if FREE.fullmatch(key)}
    assert free == {
        *(f"common.{name}" for name in ("epochs", "device", "threads", "engine", "layer_launches")),
        *("common.do_checkpoint", "training.cuda_graphs", "logging.tensorboard"),
        *("datasets.train.device", "datasets.train.cache_max_ram_usage"),
        *(key for key in config_keys() if key.startswith("wandb.")),
    }
    assert set(FOUND) <= set(config_keys())


def test_a_sweep_that_is_done_gives_its_results(tmp_path: Path, capsys: Say) -> None:
    """Without Ray or a process: each run has its evaluation, and the published methods are on the same game."""
    words = ["--games", "Pong", "--seeds", "2", "--preset", "small", "--gpus-per-run", "0", "--episodes", "2"]
    words += ["--output", str(tmp_path / "out"), "common.epochs=4"]
    plan = make_plan(command.make_parser().parse_intermixed_args(words))
    for run, score in zip(plan.runs, (14.6, -20.7), strict=True):  # the human's score and random play's
        RunFolder(run.folder).create(resolve(plan.configs[run]))
        result = {"game": "Pong", "epoch": 4, "returns": [score + run.seed, score - run.seed]}
        (run.folder / "logs" / "evaluation.json").write_text(json.dumps(result))
    assert run_sweep(*words) == 0
    said = capsys.readouterr()
    assert "all 2 runs are done" in said.err
    table = [line.replace(" ", "") for line in said.out.splitlines()]
    assert "|game|runs|meanreturn|lowestrun|highestrun|" in table
    assert "|Pong|2|-3.05|-20.7|14.6|" in table
    assert "this sweep: 1 of 26 games: Pong (seeds 0, 1)" in said.out
    (row,) = [line for line in said.out.splitlines() if line.startswith("| this sweep")]
    assert "0.5" in row and "| IRIS" in said.out
