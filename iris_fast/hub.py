"""Files of the Hugging Face Hub: `hf://OWNER/NAME[@REVISION][/FILE]` in place of a path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import UserError

PREFIX = "hf://"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The files of an agent on the Hub."""
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/(?!/)([^@]+?))?/?")


def is_address(text: str) -> bool:
    return text.startswith(PREFIX)


def parse_address(text: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and file of an address; UserError if it is none."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise UserError(f"{text}: write hf://OWNER/NAME, or hf://OWNER/NAME/FILE for one of its files")
    repository, revision, file = match.groups()
    return repository, revision, file


def fetched(text: str) -> Path:
    """The place of a file of the Hub on this machine, or of the folder of an agent; downloads what is missing.

    Files are kept in the Hub's cache (`HF_HOME`), an interrupted download goes on at the next call, and without a
    network what was downloaded before is used.

    Raises UserError: no such repository, revision or file; no network; `huggingface_hub` is not installed.
    """
    repository, revision, file = parse_address(text)
    if file is not None:
        return _download(text, repository, revision, file)
    _download(text, repository, revision, CONFIG)
    return _download(text, repository, revision, WEIGHTS).parent


def require_library() -> Any:
    """The module `huggingface_hub`; UserError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("the Hugging Face Hub needs huggingface_hub: pip install 'iris_fast[hub]'") from None
    return huggingface_hub


def repository_of(path: Path) -> str | None:
    """The name of the repository whose file in the Hub's cache this is; None of any other path."""
    folders = [part for part in path.parts if part.startswith("models--")]
    return folders[-1].rpartition("--")[2] if folders else None


def _download(text: str, repository: str, revision: str | None, file: str) -> Path:
    library = require_library()
    errors = library.errors
    try:
        return Path(library.hf_hub_download(repository, file, revision=revision))
    except errors.GatedRepoError:
        problem = "its owner must let you in: ask on its page, then run `hf auth login`"
    except errors.RepositoryNotFoundError:
        problem = f"there is no repository '{repository}' (if it is private, run `hf auth login`)"
    except errors.RevisionNotFoundError:
        problem = f"{repository} has no revision {revision}"
    except errors.LocalEntryNotFoundError:
        problem = f"{file} is not on this machine, and the Hub does not answer: check the network"
    except errors.EntryNotFoundError:
        problem = f"{repository} has no {file}{_other_files(library, repository, revision)}"
    except errors.HFValidationError:
        problem = "write hf://OWNER/NAME, or hf://OWNER/NAME/FILE for one of its files"
    except Exception as error:  # what a broken connection raises differs between its versions
        problem = f"the download failed ({_first_line(error)}): run the command again to go on"
    raise UserError(f"{text}: {problem}")


def _other_files(library: Any, repository: str, revision: str | None) -> str:
    """The checkpoints that a repository has, as the end of a sentence."""
    try:
        names = library.HfApi().list_repo_files(repository, revision=revision)
    except (OSError, ValueError):
        return ""
    found = [name for name in names if name.endswith(CHECKPOINTS)]
    return f": choose from {', '.join(found[:5])}{', …' if len(found) > 5 else ''}" if found else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
