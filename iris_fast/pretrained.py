"""A trained agent as a folder in the form of the Hugging Face Hub: weights, configuration, model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from . import __version__, hub
from .errors import UserError, quoted
from .files import explained_writing, user_path, write_atomically

if TYPE_CHECKING:
    from .agent import Agent

Dtype = Literal["float32", "float16"]
DTYPES = {"float32": torch.float32, "float16": torch.float16}
RUN_CONFIG, EVALUATION, PROVENANCE = "config/trainer.yaml", "logs/evaluation.json", "config/provenance.json"
CURVE = "media/plots/learning_curve.png"
PERCEPTUAL = "tokenizer.lpips."

USE = """\
```bash
pip install 'iris_fast[atari,hub,play]'
python -m iris_fast.play {address}
python -m iris_fast.evaluate {address} --episodes 100
python -m iris_fast.train {options}
```

```python
from iris_fast import Agent

agent = Agent.from_pretrained("{name}")
```"""


def is_pretrained(path: Path) -> bool:
    """Whether this is such a folder."""
    return (path / hub.WEIGHTS).is_file() and (path / hub.CONFIG).is_file()


def save_pretrained(
    agent: Agent, folder: Path, *, run: Path | None = None, dtype: Dtype = "float32", name: str | None = None
) -> None:
    """Writes `agent` into `folder`, without the perceptual network. As `Agent.save_pretrained`."""
    safetensors = require_safetensors()
    from .agent import config_to_dict

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: choose from {', '.join(DTYPES)}")
    content: dict[str, Any] = {
        "format": "iris_fast",
        "version": 1,
        "num_actions": agent.num_actions,
        "config": config_to_dict(agent.config),
        "iris_fast_version": __version__,
    }
    of_run = {} if run is None else read_run(run)
    if of_run.get("config"):
        content |= {"game": of_run["config"].get("game"), "run_config": of_run["config"]}
    weights = {
        key: _stored(value, DTYPES[dtype])
        for key, value in agent.state_dict().items()
        if not key.startswith(PERCEPTUAL)
    }
    with explained_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / hub.WEIGHTS, safetensors.save(weights, metadata={"format": "pt"}))
        write_atomically(folder / hub.CONFIG, (json.dumps(content, indent=1) + "\n").encode())
        if run is not None:
            _copy(run / RUN_CONFIG, folder / "trainer.yaml")
            _copy(run / EVALUATION, folder / "evaluation.json")
            _copy(run / CURVE, folder / "curve.png")
        card = model_card(content, of_run, name or "OWNER/NAME", curve=(folder / "curve.png").is_file())
        write_atomically(folder / "README.md", card.encode())


def push_to_hub(
    agent: Agent,
    repository: str,
    *,
    run: Path | None = None,
    dtype: Dtype = "float32",
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload an agent of iris_fast",
) -> str:
    """Uploads `agent` to a repository of the Hub, and returns its address. As `Agent.push_to_hub`."""
    library = hub.require_library()
    hub.parse_address(f"{hub.PREFIX}{repository}")
    with tempfile.TemporaryDirectory() as name:
        save_pretrained(agent, Path(name), run=run, dtype=dtype, name=repository)
        api = library.HfApi(token=token)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=name, commit_message=message)
        except library.errors.LocalTokenNotFoundError:
            raise UserError(f"{repository}: log in first with `hf auth login`") from None
        except Exception as error:  # what a broken connection raises differs between its versions
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"{repository} was not uploaded ({reason}): try again") from error
    return f"{hub.PREFIX}{repository}"


def from_pretrained(kind: type[Agent], name: str | Path, revision: str | None, device: str) -> Agent:
    """As `Agent.from_pretrained`."""
    from .agent import config_from_dict

    text = str(name)
    local = user_path(text.removeprefix(hub.PREFIX)) if not hub.is_address(text) else None
    if local is None or not local.exists():
        address = text if hub.is_address(text) else f"{hub.PREFIX}{text}"
        local = hub.fetched(f"{address}@{revision}" if revision else address)
    if not is_pretrained(local):
        raise UserError(f"{name} has no {hub.WEIGHTS} and {hub.CONFIG}: give a folder of save_pretrained")
    content = read_pretrained(local / hub.WEIGHTS)
    agent = kind(config_from_dict(content["config"]), int(content["num_actions"]))
    agent.load_parts(content["agent"])
    return agent.to(device).eval()


def read_pretrained(weights: Path) -> dict[str, Any]:
    """The content of a folder as of our weights files: its configuration, and the weights under `agent`.

    Raises UserError for a broken file.
    """
    safetensors = require_safetensors()
    config = weights.with_name(hub.CONFIG)
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no settings")
    except FileNotFoundError:
        raise UserError(f"{weights} has no {hub.CONFIG} beside it: use the whole folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({error}): use another copy") from error
    try:
        tensors: dict[str, Tensor] = safetensors.load_file(weights)
    except OSError as error:
        raise UserError(f"{weights} cannot be read ({error}): check its permissions") from error
    except Exception as error:  # of safetensors, which has its own
        raise UserError(f"{weights} is truncated or corrupt ({error}): use another copy") from error
    return content | {
        "agent": {
            key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()
        }
    }


def require_safetensors() -> Any:
    """The module `safetensors.torch`; UserError if it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("safetensors files need a package: pip install 'iris_fast[hub]'") from None
    return safetensors.torch


def read_run(run: Path) -> dict[str, Any]:
    """What a run folder says for a model card: its configuration, evaluation and provenance, as far as they are
    there."""
    import yaml

    found: dict[str, Any] = {}
    for key, file in (("config", RUN_CONFIG), ("evaluation", EVALUATION), ("provenance", PROVENANCE)):
        try:
            found[key] = yaml.safe_load((run / file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            found[key] = None
    if not isinstance(found["config"], dict):
        raise UserError(f"'{run}' is not a run folder: it has no {RUN_CONFIG}")
    return found


def model_card(content: Mapping[str, Any], of_run: Mapping[str, Any], name: str, curve: bool) -> str:
    """The text of README.md, with the Hub's metadata at its top."""
    import yaml

    game = content.get("game")
    evaluation = of_run.get("evaluation") or {}
    metadata = {
        "library_name": "iris_fast",
        "license": "apache-2.0",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "world-model", "iris", *([game] if game else [])],
    }
    if evaluation:
        metadata["model-index"] = [{"name": name, "results": [_result(game, evaluation)]}]
    title = f"IRIS on {game}" if game else "An IRIS agent"
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {title}",
        "A world-model agent ([Transformers are Sample-Efficient World Models]"
        "(https://arxiv.org/abs/2209.00588)), trained with `iris_fast`. A tokenizer turns frames into tokens, a "
        "Transformer predicts the next ones, and the policy learned in its dream alone.",
        "## Use",
        USE.format(
            name=name,
            address=f"hf://{name}",
            options=quoted("--game", game or "GAME", "--init", f"hf://{name}"),
        ),
    ]
    if evaluation:
        parts += ["## Evaluation", _evaluation_text(evaluation)]
    if curve:
        parts += ["![Return against steps in the game](curve.png)"]
    if of_run:
        parts += ["## Training", _training_text(of_run)]
    return "\n\n".join(parts) + "\n"


def _result(game: str | None, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    found = evaluation["statistics"]
    error = found.get("standard_error")
    value = f"{found['return']:.2f}" + (f" +/- {error:.2f}" if error is not None else "")
    return {
        "task": {"type": "reinforcement-learning"},
        "dataset": {"name": game, "type": game},
        "metrics": [{"type": "mean_reward", "name": "mean return", "value": value}],
    }


def _evaluation_text(evaluation: Mapping[str, Any]) -> str:
    found, settings = evaluation["statistics"], evaluation["settings"]
    rows = [("episodes", settings["episodes"]), ("mean return", f"{found['return']:.2f}")]
    if found.get("standard_error") is not None:
        rows.append(("standard error", f"{found['standard_error']:.2f}"))
    rows += [("lowest, highest", f"{found['return_min']:.2f}, {found['return_max']:.2f}")]
    if found.get("human_normalized_score") is not None:
        rows.append(("human-normalised score", f"{found['human_normalized_score']:.3f}"))
    acting = "greedy" if settings["greedy"] else f"temperature {settings['temperature']:g}"
    rows += [("actions", f"{acting}, epsilon {settings['epsilon']:g}"), ("epochs", evaluation["epoch"])]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _training_text(of_run: Mapping[str, Any]) -> str:
    """The commands of the run, without the places of its machine, and its settings."""
    records = [each for each in of_run.get("provenance") or [] if isinstance(each, dict)]
    lines = [f"Preset `{of_run['config'].get('preset')}`. All settings are in `trainer.yaml`."]
    for record in records:
        machine, versions = record.get("machine", {}), record.get("versions", {})
        place = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"
        lines += [
            f"```bash\n{_shown_command(str(record.get('command', '')))}\n```",
            f"From epoch {record.get('epoch')} on {place}; iris_fast {versions.get('iris_fast')}, commit "
            f"{record.get('commit') or 'unknown'}, PyTorch {versions.get('torch')}.",
        ]
    return "\n\n".join(lines)


def _shown_command(command: str) -> str:
    """A command line with the last names of paths alone, since the others tell of a person's machine."""
    words = command.split()
    start = words.index("-m") if "-m" in words else 0
    shown = [word if "=" in word or "/" not in word else Path(word).name for word in words[start:]]
    return " ".join(["python", *shown] if start else shown)


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu()
    return (value.to(dtype) if value.is_floating_point() else value).contiguous()


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
