"""The work of `convert --to pretrained`: an agent with its model card as a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from iris_fast import hub
from iris_fast.errors import UserError
from iris_fast.interop.files import heads_assumption

from .curves import load_run
from .plots import PLOTS_FOLDER, draw_runs
from .subject import read_subject


def publish(arguments: argparse.Namespace) -> int:
    """Writes or uploads the agent as the command's arguments say; draws the run's curves for the card first."""
    if arguments.lpips is not None:
        raise UserError("--lpips does not go with --to pretrained, which leaves the perceptual network out")
    target: Path | str = arguments.target
    folder = _new_folder(target, arguments.force) if isinstance(target, Path) else None
    subject = read_subject(arguments.source, arguments.game, arguments.num_heads, torch.device("cpu"))
    assumption = heads_assumption(subject.weights, arguments.num_heads)
    if assumption:
        print(assumption, file=sys.stderr)
    run = None if subject.run is None else subject.run.path
    if run is not None:
        draw_runs([load_run(run)], out=run / PLOTS_FOLDER)
    agent = subject.agent(subject.weights.num_actions, torch.device("cpu"))
    if folder is not None:
        agent.save_pretrained(folder, run=run, dtype=arguments.dtype)
        print(f"wrote {folder}: upload it with {hub.PREFIX}OWNER/NAME in its place")
        return 0
    repository, revision, file = hub.parse_address(str(target))
    if revision or file:
        raise UserError(f"{target}: an agent is uploaded to hf://OWNER/NAME as a whole")
    print(f"uploaded {agent.push_to_hub(repository, run=run, dtype=arguments.dtype)}")
    return 0


def _new_folder(folder: Path, force: bool) -> Path:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file: --to pretrained writes a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder} exists already: choose another target, or write into it with --force")
    return folder
