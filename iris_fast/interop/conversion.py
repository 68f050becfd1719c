"""The work of `convert` after its arguments are read: writes a checkpoint in the other form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

from ..agent import config_from_dict
from ..errors import UserError, quoted
from ..files import check_writable, explained_writing, user_path
from .files import (
    Weights,
    heads_assumption,
    lpips_weights,
    read_weights,
    save_atomically,
    weights_path,
    write_weights,
)
from .lpips_files import find_lpips
from .public import public_overrides, require_expressible, to_public

LPIPS_PREFIX = "tokenizer.lpips."


def convert(arguments: argparse.Namespace) -> int:
    """Converts as the command's arguments say."""
    _check_target(arguments.source, arguments.target, arguments.force)
    weights = read_weights(arguments.source, arguments.num_heads)
    assumption = heads_assumption(weights, arguments.num_heads)
    if assumption:
        print(assumption, file=sys.stderr)
    config = config_from_dict(weights.agent_config)
    if arguments.to == "public":
        require_expressible(config)  # before asking for anything that would not help
    perceptual = _perceptual(weights, arguments.to, arguments.lpips)
    agent = {name: value for name, value in weights.state_dict.items() if not name.startswith(LPIPS_PREFIX)}
    with explained_writing(arguments.target):
        if arguments.to == "public":
            save_atomically(to_public(agent, config, perceptual), arguments.target)
        else:
            carried = {f"{LPIPS_PREFIX}{name}": value for name, value in (perceptual or {}).items()}
            write_weights(arguments.target, agent | carried, config, weights.num_actions)
    included = "with" if perceptual else "without"
    print(f"wrote {arguments.target}: {weights.num_actions} actions, {included} the perceptual network")
    overrides = public_overrides(config) if arguments.to == "public" else []
    if overrides:
        print(f"the public implementation loads it with these settings: {quoted(*overrides)}")
    return 0


def _check_target(source: Path, target: Path, force: bool) -> None:
    check_writable(target)
    if target.exists():
        if target.samefile(weights_path(source)):
            raise UserError(f"{target} is the source itself: choose another target")
        if not force:
            raise UserError(f"{target} exists already: choose another target, or replace it with --force")


def _perceptual(weights: Weights, to: str, choice: str | None) -> dict[str, Tensor] | None:
    """The perceptual network's state dict for the target, or None to leave it out."""
    if choice == "omit":
        return None
    carried = lpips_weights(weights.state_dict)
    if choice is None and (carried or to == "iris_fast"):
        return carried
    if choice in (None, "download"):
        found = find_lpips(None, allow_download=choice == "download")
    else:
        found = find_lpips(user_path(choice))
    if found is None:
        raise UserError(
            f"{weights.path} carries no perceptual network, which the public implementation wants in a file: "
            "give its weights with --lpips PATH or --lpips download, or leave it out with --lpips omit "
            "(then load it there into a tokenizer built with with_lpips=False)"
        )
    return found.state_dict()
