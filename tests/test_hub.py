"""Agents on the Hugging Face Hub, against a server that speaks its protocol: uploads, downloads, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import iris_fast
from iris_fast import convert, hub, pretrained
from iris_fast.agent import Agent
from iris_fast.command_line import run_command
from iris_fast.errors import UserError
from iris_fast.interop.public import to_public
from iris_fast.play.loading import media_of
from tests.golden.recipe import golden_agent
from tests.interop.conftest import small_config
from tests.support.commands import Say, refusal, run_evaluate, run_train, train_micro
from tests.support.hub_server import Hub, hub_server
from tests.support.micro import MICRO

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
pytest.importorskip("safetensors", reason="the extra `hub` is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("hub") / "catch"
    assert train_micro(run) == 0
    assert run_evaluate(run, "--episodes", 3) == 0
    return run


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this test, with an empty cache."""
    from huggingface_hub import constants

    with hub_server() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            found.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        yield found


def run_convert(*arguments: object) -> int:
    return run_command(convert.main, [str(argument) for argument in arguments])


def same_weights(one: Agent, other: Agent) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_saved_agent_is_the_same_again(run: Path, tmp_path: Path) -> None:
    agent = iris_fast.load_agent(run)
    agent.save_pretrained(tmp_path / "saved", run=run)
    assert same_weights(agent, Agent.from_pretrained(tmp_path / "saved"))
    assert same_weights(agent, iris_fast.load_agent(tmp_path / "saved"))
    assert iris_fast.evaluate(tmp_path / "saved", episodes=3)["game"] == "Catch"


def test_half_the_size(run: Path, tmp_path: Path) -> None:
    agent = iris_fast.load_agent(run)
    for dtype in pretrained.DTYPES:
        agent.save_pretrained(tmp_path / dtype, dtype=dtype)  # type: ignore[arg-type]
    whole, half = ((tmp_path / dtype / hub.WEIGHTS).stat().st_size for dtype in pretrained.DTYPES)
    assert half < 0.75 * whole
    loaded = Agent.from_pretrained(tmp_path / "float16")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, agent.state_dict()[name].half().to(value.dtype)), name


def test_the_card_says_what_the_run_did(run: Path, tmp_path: Path) -> None:
    assert run_convert(run, tmp_path / "saved", "--to", "pretrained") == 0
    card = (tmp_path / "saved" / "README.md").read_text()
    _, metadata, text = card.split("---\n", 2)
    facts = yaml.safe_load(metadata)
    assert facts["license"] == "apache-2.0" and facts["library_name"] == "iris_fast"
    result = json.loads((run / "logs" / "evaluation.json").read_text())
    (metric,) = facts["model-index"][0]["results"][0]["metrics"]
    assert metric["value"].startswith(f"{result['statistics']['return']:.2f}")
    assert "IRIS on Catch" in text and "python -m iris_fast.train --game Catch" in text
    assert str(run.parent) not in card and "![" in text
    assert (tmp_path / "saved" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "saved" / "trainer.yaml").is_file() and (
        tmp_path / "saved" / "evaluation.json"
    ).is_file()


def test_an_agent_goes_up_and_comes_down(run: Path, server: Hub, capsys: Say) -> None:
    assert run_convert(run, "hf://me/iris-catch", "--to", "pretrained") == 0
    assert "uploaded hf://me/iris-catch" in capsys.readouterr().out
    files = server.repositories["me/iris-catch"]
    assert {"README.md", "config.json", "model.safetensors", "trainer.yaml", "curve.png"} <= files.keys()
    assert b"hf://me/iris-catch" in files["README.md"]
    agent = iris_fast.load_agent(run)
    assert same_weights(agent, Agent.from_pretrained("me/iris-catch"))
    assert same_weights(agent, Agent.from_pretrained("me/iris-catch", revision="main"))
    assert same_weights(agent, iris_fast.load_agent("hf://me/iris-catch"))


def test_commands_take_addresses(run: Path, server: Hub, tmp_path: Path, capsys: Say) -> None:
    iris_fast.load_agent(run).push_to_hub("me/iris-catch", run=run)
    assert run_evaluate("hf://me/iris-catch", "--episodes", 2) == 0
    assert "Catch" in capsys.readouterr().out
    own = ("--game", "Catch", "--run-dir", tmp_path / "run", *MICRO, "common.epochs=1")
    assert run_train(*own, "--init", "hf://me/iris-catch") == 0
    assert run_convert("hf://me/iris-catch", tmp_path / "catch.pt", "--to", "iris_fast") == 0
    assert same_weights(iris_fast.load_agent(run), iris_fast.load_agent(tmp_path / "catch.pt", game="Catch"))


def test_a_checkpoint_of_the_public_form(server: Hub, tmp_path: Path) -> None:
    """As the public implementation's trained agents lie on the Hub: one file in a folder of a repository."""
    small_agent = golden_agent(3, 5, small_config(), with_lpips=False)
    file = tmp_path / "Catch.pt"
    torch.save(to_public(small_agent.state_dict(), small_agent.config, None), file)
    server.repositories["someone/iris"] = {"pretrained/Catch.pt": file.read_bytes()}
    heads = small_agent.config.world_model.num_heads
    loaded = iris_fast.load_agent("hf://someone/iris/pretrained/Catch.pt", game="Catch", num_heads=heads)
    assert same_weights(loaded, small_agent)


def test_without_a_network_the_earlier_download_counts(run: Path, server: Hub) -> None:
    agent = iris_fast.load_agent(run)
    agent.push_to_hub("me/iris-catch")
    Agent.from_pretrained("me/iris-catch")
    server.repositories.clear()
    from huggingface_hub import constants

    before = constants.ENDPOINT
    try:
        constants.HUGGINGFACE_CO_URL_TEMPLATE = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        constants.ENDPOINT = "http://127.0.0.1:9"
        assert same_weights(agent, Agent.from_pretrained("me/iris-catch"))
        with pytest.raises(UserError, match="not on this machine"):
            Agent.from_pretrained("me/another")
    finally:
        constants.ENDPOINT = before


def test_an_interrupted_download_goes_on(run: Path, server: Hub) -> None:
    agent = iris_fast.load_agent(run)
    agent.push_to_hub("me/iris-catch")
    hub.fetched("hf://me/iris-catch/config.json")
    server.broken = 1000
    try:
        Agent.from_pretrained("me/iris-catch")  # the library goes on by itself where it can
    except UserError as error:
        assert "run the command again" in str(error)
    assert same_weights(agent, Agent.from_pretrained("me/iris-catch"))
    assert server.broken is None  # it did break off


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://me/none", "there is no repository 'me/none'"),
        ("hf://me/there@old", "no revision old"),
        ("hf://me/there/other.pt", "has no other.pt: choose from games/Pong.pt"),
        ("hf://me/there", "has no config.json: choose from games/Pong.pt"),
        ("hf://me/closed/Pong.pt", "let you in"),
        ("hf://me", "write hf://OWNER/NAME"),
        ("hf://me//Pong.pt", "write hf://OWNER/NAME"),
        ("hf://", "write hf://OWNER/NAME"),
    ],
)
def test_refusals(address: str, words: str, server: Hub, capsys: Say) -> None:
    server.repositories["me/there"] = {"games/Pong.pt": b"weights", "README.md": b"text"}
    server.repositories["me/closed"] = {"Pong.pt": b"weights"}
    server.gated.add("me/closed")
    assert words in refusal(run_evaluate, capsys, address)
    with pytest.raises(UserError, match="hf://"):
        iris_fast.load_agent(address)


@pytest.mark.parametrize("broken", ["weights", "config", "missing"])
def test_broken_folders(broken: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    iris_fast.load_agent(run).save_pretrained(folder)
    file = folder / (hub.WEIGHTS if broken == "weights" else hub.CONFIG)
    file.write_bytes(file.read_bytes()[:100])
    if broken == "missing":
        file.unlink()
    with pytest.raises(UserError):
        iris_fast.load_agent(folder if broken != "missing" else folder / hub.WEIGHTS)


def test_targets_that_cannot_be(run: Path, tmp_path: Path, capsys: Say) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for target, words in (
        (tmp_path / "full", "exists already"),
        (tmp_path / "full" / "file", "is a file"),
        ("hf://me/name/file", "as a whole"),
    ):
        assert words in refusal_after_loading(capsys, run, target)
    assert "--dtype goes with" in refusal(
        run_convert, capsys, run, tmp_path / "a.pt", "--to", "public", "--dtype", "float16"
    )
    assert not (tmp_path / "a.pt").exists()


def refusal_after_loading(capsys: Say, run: Path, target: object) -> str:
    return refusal(run_convert, capsys, run, target, "--to", "pretrained")


def test_films_of_an_agent_of_the_hub_lie_in_outputs() -> None:
    cached = Path("/cache/hub/models--me--iris-catch/snapshots/0123")
    assert media_of(cached) == media_of(cached / "Pong.pt") == Path("outputs/iris-catch/media")


def test_without_the_extra_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('huggingface_hub', 'safetensors', 'safetensors.torch'): sys.modules[name] = None\n"
        "from iris_fast.command_line import run_command\n"
        "from iris_fast.evaluate import main\n"
        "sys.exit(run_command(main, ['hf://me/name']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and "pip install 'iris_fast[hub]'" in done.stderr
