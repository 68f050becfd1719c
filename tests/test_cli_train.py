"""`python -m iris_fast.train` from its command line to its run folder."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iris_fast.agent import PARTS, Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.envs import ATARI_100K
from iris_fast.interop.files import read_weights
from iris_fast.interop.public import to_public
from iris_fast.kernels.common.extension import find_extension
from iris_fast.models.perceptual import LPIPS
from iris_fast.train import make_parser
from iris_fast.training.device import multiplies_bfloat16
from iris_fast.training.launch import _fresh, key_lines
from iris_fast.training.loggers import read_metrics
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, contents, refusal, run_train, train_micro
from tests.support.micro import MICRO, micro_config

UNTRAINED = ("common.epochs=1", "training.should=false", "evaluation.should=false")
# The smallest agent that has a public form, which fixes some sizes.
PUBLIC_SIZES = (
    "tokenizer.encoder.config.ch=32",
    "tokenizer.encoder.config.norm_groups=32",
    "actor_critic.channels=[32,32,64,64]",
    "actor_critic.lstm_dim=512",
    "tokenizer.restart_codes_every=0",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, every part trained and the second evaluated; not to be written to."""
    run = tmp_path_factory.mktemp("train") / "run"
    assert train_micro(run, "common.epochs=2", "logging.tensorboard=true") == 0
    return run


def agent_weights(path: Path) -> dict[str, Tensor]:
    return read_weights(path).state_dict


def same_parts(ours: dict[str, Tensor], others: dict[str, Tensor]) -> set[str]:
    """The parts of the agent whose weights are all the same."""
    return {
        part
        for part in PARTS
        if all(
            torch.equal(value, others[name]) for name, value in ours.items() if name.startswith(f"{part}.")
        )
    }


def test_help_mentions_every_option_with_examples(capsys: Say) -> None:
    with pytest.raises(SystemExit) as ended:
        run_train("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    options = "game preset device seed run-dir resume init init-parts wandb list-games list-keys"
    for option in options.split():
        assert re.search(rf"^  --{option}\b", text, re.MULTILINE), option
    examples = re.findall(r"^  python -m iris_fast\.train (.*)$", text, re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:  # each can be typed as it stands
        arguments = make_parser().parse_intermixed_args(example.split())
        apply_overrides(preset_config("paper", "Pong"), arguments.overrides)
    assert max(map(len, text.splitlines())) <= 110


def test_list_games_has_atari_100k_and_catch(capsys: Say) -> None:
    assert run_train("--list-games") == 0
    games = capsys.readouterr().out.split()
    assert set(ATARI_100K) | {"Catch"} <= set(games)
    assert len(ATARI_100K) == 26 and len(games) == len(set(games))


def test_list_keys_gives_overrides_as_they_are_written(capsys: Say) -> None:
    assert run_train("--list-keys", "--preset", "small") == 0
    lines = capsys.readouterr().out.splitlines()
    small = preset_config("small", "Pong")
    assert lines == key_lines(small) and len(lines) > 100
    assert "common.precision=auto  (auto|float32|tf32|bf16|fp16)" in lines
    overrides = [line.split("  ")[0] for line in lines]
    paper = preset_config("paper", "Pong")
    assert replace(apply_overrides(paper, overrides), preset="small") == small


@pytest.mark.parametrize(
    ("game", "preset"), [("Catch", "tiny"), ("Pong", "small" if not torch.cuda.is_available() else "paper")]
)
def test_preset_and_device_are_chosen_and_announced(
    game: str, preset: str, tmp_path: Path, capsys: Say
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = tmp_path / "run"
    few = ["collection.train.config.num_steps=2", "common.threads=1"]
    assert run_train("--game", game.lower(), "--run-dir", run, *UNTRAINED, *few) == 0
    said = capsys.readouterr().err
    assert f"game: {game} (" in said
    engine = {"cuda": "cuda_graph", "cpu": "cpu" if find_extension() else "oracle"}[device]
    precision = "bf16" if (preset, device) == ("small", "cpu") and multiplies_bfloat16() else "float32"
    assert (f"products of gradient steps in {precision}" in said) == (precision == "bf16")
    assert (
        f"preset: {preset}, device: {device}, precision: {precision}, imagination: {engine}, seed: 0" in said
    )
    assert f"chosen: preset {preset} for {game} on {device}" in said
    assert re.search(rf"run folder: {re.escape(str(run))}, epochs 1 to 1, about .*estimate", said)
    assert RunFolder(run).read_config().preset == preset


def test_what_is_given_is_not_chosen(tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "run"
    arguments = ["--preset", "tiny", "--device", "cpu", "--seed", 7, "--run-dir", run]
    assert run_train("--game", "Catch", *arguments, *MICRO, *UNTRAINED) == 0
    said = capsys.readouterr().err
    assert "seed: 7" in said and "chosen:" not in said
    config = RunFolder(run).read_config()
    assert (config.common.seed, config.common.device) == (7, "cpu")


def test_the_default_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # two runs started within a second or so are two folders
        assert run_train("--game", "Catch", *MICRO, *UNTRAINED) == 0
    runs = sorted((tmp_path / "outputs" / "Catch").iterdir())
    assert len(runs) == 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?", run.name) for run in runs)
    assert f"evaluate outputs/Catch/{runs[-1].name} --episodes 100" in capsys.readouterr().err


def test_the_run_folder(trained: Path) -> None:
    run = RunFolder(trained)
    assert read_weights(trained).num_actions == 3
    assert [path.suffix for path in run.dataset.iterdir()] == [".npz", ".npz"]
    config = run.read_config()
    assert (config.game, config.common.epochs, config.tokenizer.vocab_size) == ("Catch", 2, 16)
    assert config.training.world_model.learning_rate is not None  # everything is said in numbers
    (sheet,) = run.reconstructions.iterdir()
    assert sheet.name == "epoch_0002.png" and sheet.read_bytes().startswith(b"\x89PNG")
    for kind in ("train", "test", "imagination"):
        (video,) = run.episodes(kind).iterdir()
        assert video.name == "epoch_0002_0.mp4" and video.read_bytes()[4:8] == b"ftyp"
    assert list((trained / "logs" / "tensorboard").iterdir())
    assert [line["epoch"] for line in read_metrics(trained)] == [1, 2]
    assert not list(trained.rglob("*.partial"))


def test_the_metrics(trained: Path) -> None:
    first, last = read_metrics(trained)
    losses = {
        "tokenizer": ("reconstruction_loss", "commitment_loss", "perceptual_loss", "total_loss"),
        "world_model": ("loss_obs", "loss_rewards", "loss_ends", "total_loss"),
        "actor_critic": ("loss_actions", "loss_values", "loss_entropy", "total_loss"),
    }
    expected = {f"{part}/train/{name}" for part, names in losses.items() for name in (*names, "grad_norm")}
    expected |= {f"{part}/eval/{name}" for part in ("tokenizer", "world_model") for name in losses[part]}
    expected |= {f"collection/train/{name}" for name in ("episodes", "return", "length")}
    test = "return return_std return_min return_max return_median length episodes"
    expected |= {f"collection/test/{name}" for name in test.split()}
    expected |= {f"rates/{part}_steps_per_second" for part in ("collection", *PARTS)}
    expected |= {"rates/evaluation_episodes_per_second", "actor_critic/train/entropy"}
    expected |= {f"duration/{phase}" for phase in ("collection", *PARTS, "evaluation", "epoch", "checkpoint")}
    expected |= {"replay/frames", "replay/episodes", "env_steps", "epoch", "time"}
    assert expected <= last.keys()
    assert first["duration/checkpoint"] > 0
    assert all(last[name] > 0 for name in last if name.startswith(("rates/", "duration/")))
    assert last["env_steps"] == last["replay/frames"] == 48
    assert 0 < last["actor_critic/train/entropy"] <= 1.0987  # at most ln 3, with three actions
    # The actor-critic starts after epoch 1, and only every second epoch is evaluated.
    assert not [name for name in first if name.startswith(("actor_critic/", "collection/test/"))]


def test_a_resumed_run_keeps_its_overrides(tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "run"
    assert train_micro(run, "common.epochs=1", "evaluation.should=false") == 0
    before = contents(run)
    capsys.readouterr()
    assert run_train("--resume", run) == 0
    said = capsys.readouterr().err
    assert "is complete (1 epochs)" in said and said.count("\n") == 1  # nothing was built
    assert contents(run) == before
    assert run_train("--resume", run, "--game", "catch", "common.epochs=2") == 0
    assert RunFolder(run).read_config().common.epochs == 2
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2]


def test_a_resumed_run_takes_a_new_learning_rate(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    overrides = ("training.tokenizer.learning_rate=0.0007", "training.world_model.weight_decay=0.25")
    assert run_train("--resume", run, "common.epochs=3", "evaluation.should=false", *overrides) == 0
    parts = torch.load(RunFolder(run).checkpoint, weights_only=True)["parts"]
    rates = {name: part["optimizer"]["param_groups"][0]["lr"] for name, part in parts.items()}
    assert rates["tokenizer"] == 0.0007
    assert rates["world_model"] == preset_config("tiny", "Catch").training.learning_rate
    decays = [group["weight_decay"] for group in parts["world_model"]["optimizer"]["param_groups"]]
    assert decays == [0.25, 0.0]


def test_init_from_a_run_of_ours(trained: Path, tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "run"
    assert train_micro(run, *UNTRAINED, "--init", trained) == 0
    assert f"weights: {', '.join(PARTS)} from {RunFolder(trained).checkpoint}" in capsys.readouterr().err
    assert same_parts(agent_weights(trained), agent_weights(run)) == set(PARTS)


def test_init_does_not_mind_other_training_settings(trained: Path, tmp_path: Path) -> None:
    """Only sizes must agree: how often codes restart, dropout and the perceptual loss may differ."""
    settings = ("tokenizer.restart_codes_every=0", "tokenizer.perceptual=none", "world_model.embed_pdrop=0.3")
    run = tmp_path / "run"
    assert train_micro(run, *UNTRAINED, *settings, "--init", trained) == 0
    assert same_parts(agent_weights(trained), agent_weights(run)) == set(PARTS)


@pytest.mark.parametrize("parts", ["tokenizer", "world_model, actor_critic", "tokenizer,world_model"])
def test_init_from_a_public_checkpoint_loads_the_parts_chosen(
    parts: str, tmp_path: Path, capsys: Say
) -> None:
    config = micro_config(*PUBLIC_SIZES).agent
    torch.manual_seed(123)
    public = to_public(Agent(config, 3).state_dict(), config)
    torch.save(public, tmp_path / "public.pt")
    fresh, run = tmp_path / "fresh", tmp_path / "run"
    assert train_micro(fresh, *PUBLIC_SIZES, *UNTRAINED) == 0
    arguments = ("--init", tmp_path / "public.pt", "--init-parts", parts)
    assert train_micro(run, *PUBLIC_SIZES, *UNTRAINED, *arguments) == 0
    chosen = set(parts.replace(" ", "").split(","))
    assert same_parts(agent_weights(tmp_path / "public.pt"), agent_weights(run)) == chosen
    assert same_parts(agent_weights(fresh), agent_weights(run)) == set(PARTS) - chosen
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weights: ")]
    assert said == [f"weights: {', '.join(p for p in PARTS if p in chosen)} from {tmp_path / 'public.pt'}"]


def test_a_checkpoint_of_another_game_gives_its_tokenizer(trained: Path, tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "run"
    arguments = ("--init", trained, *UNTRAINED, "collection.train.config.num_steps=2")
    sentence = refusal(train_micro_on_pong, capsys, run, *arguments)
    assert "3 actions" in sentence and not run.exists()
    assert train_micro_on_pong(run, *arguments, "--init-parts", "tokenizer") == 0
    assert same_parts(agent_weights(trained), {**agent_weights(trained), **tokenizer(run)}) == set(PARTS)


def tokenizer(run: Path) -> dict[str, Tensor]:
    return {name: value for name, value in agent_weights(run).items() if name.startswith("tokenizer.")}


def train_micro_on_pong(run: Path, *arguments: object) -> int:
    return train_micro(run, "--preset", "tiny", "env.backend=ale", *arguments, game="Pong")


@pytest.mark.parametrize("backend", ["ale", "envpool"])
def test_a_run_on_pong(backend: str, tmp_path: Path, capsys: Say) -> None:
    package = {"ale": "ale_py", "envpool": "envpool"}[backend]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    run = tmp_path / "run"
    overrides = ("common.epochs=2", "evaluation.should=false", f"env.backend={backend}")
    assert train_micro(run, *overrides, game="Pong") == 0
    assert f"game: Pong ({backend}, 6 actions)" in capsys.readouterr().err
    last = read_metrics(run)[-1]
    assert last["replay/frames"] == 48 and last["actor_critic/train/total_loss"] != 0
    assert run_train("--resume", run, "common.epochs=3") == 0
    lost = "environments: envpool cannot be restored" in capsys.readouterr().err
    assert lost == (backend == "envpool")  # envpool has no snapshots, and that is said
    assert read_metrics(run)[-1]["replay/frames"] == 72


def perceptual_lines(capsys: Say) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceptual loss: ")]


def test_the_perceptual_substitute_is_announced_once(tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "run"
    assert train_micro(run, "common.epochs=1", "evaluation.should=false") == 0
    (line,) = perceptual_lines(capsys)
    assert "foreground, a substitute" in line and "tokenizer.perceptual=lpips" in line
    assert RunFolder(run).read_config().tokenizer.perceptual == "foreground"


def test_the_background_is_taken_announced_and_resumed(tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "run"
    assert train_micro(run, "common.epochs=1", "evaluation.should=false", "tokenizer.background=true") == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("tokenizer: works on the difference") for line in lines) == 1
    weights = agent_weights(run)
    background = weights["tokenizer.background"]
    assert weights["tokenizer.background_known"]
    above = background[:, :48].flatten(1)  # Catch's paddle
    assert torch.equal(above, above[:, :1].expand_as(above)), "the median knows no ball"
    assert run_train("--resume", run, "common.epochs=2") == 0
    assert torch.equal(agent_weights(run)["tokenizer.background"], background)


def test_absent_perceptual_weights_are_announced_once(
    tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_fast.training.builder.find_lpips", lambda *args, **kwargs: None)
    run = tmp_path / "run"
    overrides = ("tokenizer.perceptual=lpips", "common.epochs=1", "evaluation.should=false")
    assert train_micro(run, *overrides) == 0
    (line,) = perceptual_lines(capsys)
    assert line.startswith("perceptual loss: none, since the weights") and "lpips_weights=FILE" in line
    assert RunFolder(run).read_config().tokenizer.perceptual == "none"
    assert "tokenizer/train/perceptual_loss" not in read_metrics(run)[-1]


def test_perceptual_weights_that_are_there_are_used_and_kept(
    tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_fast.training.builder.find_lpips", lambda *args, **kwargs: LPIPS())
    run = tmp_path / "run"
    overrides = ("tokenizer.perceptual=lpips", "common.epochs=1", "evaluation.should=false")
    assert train_micro(run, *overrides) == 0
    assert perceptual_lines(capsys) == ["perceptual loss: lpips, the paper's"]
    assert read_metrics(run)[-1]["tokenizer/train/perceptual_loss"] != 0
    # The checkpoint carries the network, so that a resumed run needs it nowhere else.
    monkeypatch.setattr("iris_fast.training.builder.find_lpips", lambda *args, **kwargs: None)
    assert run_train("--resume", run, "common.epochs=2") == 0
    assert perceptual_lines(capsys) == ["perceptual loss: lpips, the paper's"]
    assert read_metrics(run)[-1]["tokenizer/train/perceptual_loss"] != 0


def test_ctrl_c_before_training_begins(tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("iris_fast.training.builder.estimate_seconds_per_unit", interrupted)
    assert train_micro(tmp_path / "run", *UNTRAINED) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped: interrupted")


@pytest.mark.parametrize(("arguments", "preset"), [((), "paper"), (("common.device=cpu",), "small")])
def test_the_preset_follows_the_device_that_an_override_names(
    arguments: tuple[str, ...], preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parsed = make_parser().parse_intermixed_args(
        ["--game", "Pong", "--run-dir", str(tmp_path / "run"), *arguments]
    )
    config, _ = _fresh(parsed)
    assert config.preset == preset
