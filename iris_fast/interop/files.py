"""Weights files: writes ours, reads ours and the public implementation's.

Ours is one `torch.save`d dict: `{"format": "iris_fast", "version": 1, "num_actions": int, "config": {...},
"agent": state dict, ...}`, where `config` is `AgentConfig` as a plain nested dict and the trainer may add
keys of its own. Files are read with `weights_only=True` only, so no code in them runs.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..agent import PARTS, Agent, AgentConfig, config_from_dict, config_to_dict
from ..errors import UserError, nearest
from ..files import open_atomically
from ..hub import WEIGHTS
from ..pretrained import is_pretrained, read_pretrained
from .public import UNKNOWN_KEYS, from_public, infer_config, perceptual_names

FORMAT = "iris_fast"
VERSION = 1
# Settings that may differ between agents with the same weights.
FREE_KEYS = frozenset(
    {
        "tokenizer.encoder.config.dropout",
        "tokenizer.perceptual",
        "tokenizer.perceptual_weight",
        "tokenizer.restart_codes_every",
        "tokenizer.restart_codes_at",
        "world_model.embed_pdrop",
        "world_model.resid_pdrop",
        "world_model.attn_pdrop",
    }
)
# Sizes of other parts on which a part's weights depend.
BORROWED_KEYS = {
    "tokenizer": (),
    "world_model": ("tokenizer.vocab_size",),
    "actor_critic": ("tokenizer.encoder.config.resolution",),
}
PLAIN_TYPES = (str, int, float, bool, type(None), bytes)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a whole agent, as read from a file.

    `state_dict` has the names of `Agent`, with `tokenizer.lpips.` if the file includes the perceptual network.
    `agent_config` is `AgentConfig` as a plain nested dict; for a public file it is inferred from the shapes (settings
    that no shape shows, `UNKNOWN_KEYS`, have the paper's values). `run`: what a run's checkpoint says of it besides.
    """

    path: Path
    state_dict: dict[str, Tensor]
    num_actions: int
    kind: Literal["iris_fast", "public"]
    agent_config: dict[str, Any]
    run: dict[str, Any] = dataclasses.field(default_factory=dict)  # `position` and `run_config`


def weights_path(path: Path) -> Path:
    """The weights file at `path`: the file itself, `checkpoints/last.pt` of a run folder of either kind, or that of a
    folder of `Agent.save_pretrained`."""
    path = Path(path)
    if path.is_dir():
        if is_pretrained(path):
            return path / WEIGHTS
        inside = path / "checkpoints" / "last.pt"
        if not inside.is_file():
            raise UserError(
                f"'{path}' is a folder without checkpoints/last.pt: give a run folder or a checkpoint file"
            )
        return inside
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no checkpoint '{path}'{nearest(path.name, siblings)}: check the path")
    return path


def load_payload(path: Path) -> Any:
    """Loads a `torch.save`d file on the CPU without running code from it.

    Raises UserError if it cannot be opened, is truncated or corrupt, or holds more than plain data.
    """
    if path.suffix == ".safetensors":
        return read_pretrained(path)
    try:
        broken = _wrong_checksum(path)
        if broken is not None:
            raise UserError(f"'{path}' is corrupt (the checksum of {broken} is wrong): use another copy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles; the messages below suffice
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): check the path and its permissions") from error
    except Exception as error:  # a broken archive or pickle can raise anything
        if "unsupported global" in str(error).lower():
            raise UserError(
                f"{path} holds Python objects besides weights, which are not loaded as they could run code: "
                "save it again as a plain state dict"
            ) from error
        if not _is_torchs(path):
            raise UserError(
                f"'{path}' is not a checkpoint, since torch.save did not write it: give one, or use another copy"
            ) from error
        raise UserError(f"'{path}' is truncated, corrupt or not a checkpoint: use another copy") from error


def _is_torchs(path: Path) -> bool:
    """Whether the file begins like an archive or a pickle, the two formats of torch.save."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")


def _wrong_checksum(path: Path) -> str | None:
    """The first entry of an archive with a wrong checksum; torch.load does not check them."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            return None
        with zipfile.ZipFile(file) as archive:
            return archive.testzip()


def read_payload(path: Path) -> dict[str, Any]:
    """The whole content of our weights file, including the trainer's keys; `path` may be a run folder.

    Raises UserError for a broken file, a file of another kind, or one of a later version.
    """
    path = weights_path(path)
    payload = load_payload(path)
    if not _is_ours(payload):
        raise UserError(f"'{path}' is not a checkpoint of iris_fast: give one that it wrote")
    return _checked(path, payload)


def read_weights(path: Path, num_heads: int | None = None) -> Weights:
    """The agent's weights from our file, a public state dict, or a run folder of either kind.

    `num_heads`: heads of a public file's world model, which no shape shows (the paper's number if None).
    Raises UserError for a broken file, a file of neither kind, or `num_heads` that contradict our file.
    """
    path = weights_path(path)
    payload = load_payload(path)
    if _is_ours(payload):
        payload = _checked(path, payload)
        config, num_actions = payload["config"], payload["num_actions"]
        if num_heads not in (None, config["world_model"]["num_heads"]):
            raise UserError(
                f"--num-heads {num_heads}: {path} says that its world model has "
                f"{config['world_model']['num_heads']}; leave --num-heads out"
            )
        run: dict[str, Any] = {name: payload[name] for name in ("position", "run_config") if name in payload}
        return Weights(path, payload["agent"], num_actions, "iris_fast", config, run)
    if not _is_state_dict(payload):
        raise UserError(f"'{path}' is not a checkpoint of an IRIS agent: give a whole agent's weights")
    try:
        inferred = infer_config(payload, num_heads)
        state_dict = from_public(payload, inferred)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    num_actions = state_dict["actor_critic.actor_linear.weight"].shape[0]
    return Weights(path, state_dict, num_actions, "public", config_to_dict(inferred))


def heads_assumption(weights: Weights, num_heads: int | None) -> str | None:
    """The message about an assumed number of heads of the world model, when neither the user nor the file gives
    it."""
    if weights.kind != "public" or num_heads is not None:
        return None
    heads = weights.agent_config["world_model"]["num_heads"]
    return f"{weights.path} does not give its world model's heads: {heads} assumed, as in the paper (--num-heads)"


def write_weights(
    path: Path,
    state_dict: Mapping[str, Tensor],
    config: AgentConfig,
    num_actions: int,
    extra: Mapping[str, Any] | None = None,
    before_replacing: Callable[[], None] | None = None,
) -> None:
    """Writes our weights file atomically; `extra` adds keys (optimizers, counters, …) beside the agent's.

    `before_replacing` is called once everything is on the disk, right before the file takes its name.

    Raises OSError if it cannot be written (a full disk, say); `path` then keeps its old content. Raises TypeError for
    a value that `weights_only` loading would refuse.
    """
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "num_actions": num_actions,
        "config": config_to_dict(config),
        "agent": dict(state_dict),
    }
    taken = payload.keys() & (extra or {}).keys()
    if taken:
        raise ValueError(f"extra keys {sorted(taken)} are the file's own: name them otherwise")
    save_atomically({**payload, **(extra or {})}, path, before_replacing)


def save_atomically(payload: Any, path: Path, before_replacing: Callable[[], None] | None = None) -> None:
    """`torch.save`s plain data atomically: `path` always holds the complete old or the complete new content."""
    _require_plain(payload, "")
    with open_atomically(path) as file:  # through a file object, torch raises the true OSError
        torch.save(payload, file)
        if before_replacing is not None:
            file.flush()
            os.fsync(file.fileno())
            before_replacing()


def check_fits(weights: Weights, agent: Agent, parts: Iterable[str] = PARTS) -> None:
    """Raises UserError unless the chosen parts of `weights` fit `agent`."""
    parts = tuple(parts)
    theirs, ours = weights.num_actions, agent.num_actions
    if theirs != ours and set(parts) - {"tokenizer"}:
        raise UserError(
            f"{weights.path} was trained with {theirs} actions and this game has {ours}: "
            "choose the game it was trained on, or load its tokenizer alone"
        )
    different = list(_different_sizes(weights, agent.config, parts))
    if different:
        raise UserError(
            f"{weights.path} has another architecture ({'; '.join(different[:3])}"
            f"{'; …' if len(different) > 3 else ''}): choose the same sizes, or load only the parts that fit"
        )
    expected = {name: value for name, value in agent.state_dict().items() if name.split(".")[0] in parts}
    _check_names_and_shapes(weights, expected, parts)


def architecture(config: AgentConfig) -> dict[str, Any]:
    """The settings, by dotted key, in which agents with the same weights must agree."""
    return {key: value for key, value in _flat(config_to_dict(config)) if key not in FREE_KEYS}


def lpips_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The perceptual network in an agent's state dict, by the names of `LPIPS`; None if there is none."""
    prefix = "tokenizer.lpips."
    own = {name[len(prefix) :]: value for name, value in state_dict.items() if name.startswith(prefix)}
    missing = perceptual_names() - own.keys()
    if own and missing:
        raise UserError(f"the perceptual network in the checkpoint lacks {min(missing)}: use another copy")
    return own or None


def _is_ours(payload: Any) -> bool:
    return isinstance(payload, dict) and payload.get("format") == FORMAT


def _is_state_dict(payload: Any) -> bool:
    return (
        isinstance(payload, dict)
        and all(isinstance(n, str) and isinstance(v, Tensor) for n, v in payload.items())
        and all(any(name.startswith(f"{part}.") for name in payload) for part in PARTS)
    )


def _checked(path: Path, payload: dict[str, Any]) -> dict[str, Any]:
    version = payload.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"{path} has version {version} of the file format: upgrade iris_fast to read it")
    wanted = {"num_actions": int, "config": dict, "agent": dict}
    lacking = [key for key, kind in wanted.items() if not isinstance(payload.get(key), kind)]
    if lacking or not _is_state_dict(payload["agent"]):
        raise UserError(f"{path} lacks {(lacking or ['weights'])[0]!r}: use another copy")
    config_from_dict(payload["config"])
    return payload


def _require_plain(value: Any, where: str) -> None:
    """Fails when the checkpoint is written, not when it is read."""
    if isinstance(value, Tensor) or type(value) in PLAIN_TYPES:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_plain(key, where)
            _require_plain(inner, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):
            _require_plain(inner, f"{where}[{index}]")
    else:
        raise TypeError(
            f"checkpoint key {where.lstrip('.')} holds a {type(value).__name__}: store plain data"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "attn_resolutions":
            yield f"{prefix}{key}", sorted(value)
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value


def _different_sizes(weights: Weights, config: AgentConfig, parts: tuple[str, ...]) -> Iterator[str]:
    """`KEY is A there and B here` for each differing size of the chosen parts."""
    theirs = dict(_flat(weights.agent_config))
    ignored = FREE_KEYS | (UNKNOWN_KEYS if weights.kind == "public" else frozenset())
    borrowed = {key for part in parts for key in BORROWED_KEYS[part]}
    for key, ours in _flat(config_to_dict(config)):
        concerned = key.split(".")[0] in parts or key in borrowed
        if concerned and key not in ignored and key in theirs and theirs[key] != ours:
            yield f"{key} is {theirs[key]} there and {ours} here"


def _check_names_and_shapes(weights: Weights, expected: Mapping[str, Tensor], parts: tuple[str, ...]) -> None:
    """The final check, because a configuration may contradict the weights beside it."""
    own = {name: value for name, value in weights.state_dict.items() if name.split(".")[0] in parts}
    perceptual = {name for name in own.keys() | expected.keys() if name.startswith("tokenizer.lpips.")}
    for name in sorted((own.keys() ^ expected.keys()) - perceptual):
        verb = "has an unknown" if name in own else "lacks the"
        raise UserError(f"{weights.path} {verb} parameter {name}: give a checkpoint of an IRIS agent")
    for name, value in expected.items():
        if name not in perceptual and own[name].shape != value.shape:
            raise UserError(
                f"{weights.path} has {name} of shape {tuple(own[name].shape)} where {tuple(value.shape)} "
                "is expected: choose the same sizes"
            )
