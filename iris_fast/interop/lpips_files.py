"""Finds the weights of the perceptual network.

The network is torchvision's VGG-16 (Simonyan and Zisserman 2015, trained on ImageNet) under the linear layers
of LPIPS v0.1 (Zhang et al. 2018). Its weights come from the first of these: the file or folder that the user names (a
released IRIS checkpoint has them too); the cache `~/.cache/iris_fast` and torch hub's folder, where torchvision keeps
its downloads; a download, if allowed.
"""

from __future__ import annotations

import hashlib
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..models.perceptual import LPIPS, LPIPS_CHANNELS, VGG_SLICES
from .files import load_payload, lpips_weights, weights_path
from .public import perceptual_names

VGG_FILE = "vgg16-397923af.pth"
LINEAR_FILE = "lpips-vgg-a78928a0.pth"
LINEAR_NAMES = (LINEAR_FILE, "vgg.pth")  # the second is the name in the LPIPS repository and older tools
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"
LINEAR_URL = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth"
)
HASH_IN_NAME = re.compile(
    r"-([0-9a-f]{8,64})\.pth$"
)  # torch hub's convention: a prefix of the file's SHA-256
SCALING_NAMES = ("scaling_layer.shift", "scaling_layer.scale")
PROBE_SECONDS = 10.0


def find_lpips(
    explicit: Path | None = None,
    allow_download: bool = True,
    say: Callable[[str], None] | None = None,
    folders: tuple[Path, ...] | None = None,
) -> LPIPS | None:
    """The frozen perceptual network with its published weights, or None if they cannot be found.

    `explicit`: the only file or folder to search; it must hold them (see `load_lpips`). `allow_download`: download
    them (about 530 MB, once) if no file has them. `say`: called with one sentence about a download or its failure; by
    default it prints to stderr. `folders`: where to look (default `search_folders()`); downloaded linear layers are
    stored in the first, VGG-16 in the last.

    Raises UserError if `explicit` or a file found by its name is broken.
    """
    if explicit is not None:
        return load_lpips(explicit)
    folders = search_folders() if folders is None else folders
    found = find_files(folders)
    if found is None and allow_download:
        found = _download(folders, say or _say_on_stderr)
    return None if found is None else _assemble(*found)


def search_folders() -> tuple[Path, ...]:
    """The folders to search: our cache, then torch hub's folder of checkpoints."""
    return (Path.home() / ".cache" / "iris_fast", Path(torch.hub.get_dir()) / "checkpoints")


def load_lpips(path: Path) -> LPIPS:
    """Loads the perceptual network from any of its file formats.

    `path`: an IRIS checkpoint that includes it (of either kind, or a run folder); a state dict of `LPIPS`;
    torchvision's VGG-16 file with the linear layers' file beside it (`vgg.pth`); a folder with those two.
    Raises UserError if it is none of these.
    """
    path = Path(path)
    if path.is_dir() and not (path / "checkpoints").is_dir():
        found = find_files((path,))
        if found is None:
            raise UserError(f"{path} lacks {VGG_FILE} or {LINEAR_NAMES[1]}: put both files of LPIPS there")
        return _assemble(*found)
    path = weights_path(path)
    _check_hash(path)
    payload = load_payload(path)
    payload = payload.get("agent", payload) if isinstance(payload, dict) else payload
    if not isinstance(payload, dict) or not all(isinstance(name, str) for name in payload):
        raise UserError(f"{path} holds no perceptual network: give an IRIS checkpoint or the files of LPIPS")
    if "features.0.weight" in payload:
        linear = _first_file((path.parent,), LINEAR_NAMES)
        if linear is None:
            raise UserError(
                f"{path} is VGG-16 alone: put the linear layers of LPIPS beside it as {LINEAR_NAMES[1]}"
            )
        return _build(path, _vgg_weights(path, payload) | _linear_weights(linear))
    own = payload if perceptual_names() <= payload.keys() else lpips_weights(payload)
    if own is None:
        raise UserError(
            f"{path} carries no perceptual network: give a checkpoint that does, or the files of LPIPS"
        )
    return _build(path, own)


def find_files(folders: tuple[Path, ...]) -> tuple[Path, Path] | None:
    vgg, linear = _first_file(folders, (VGG_FILE,)), _first_file(folders, LINEAR_NAMES)
    return (vgg, linear) if vgg and linear else None


def _first_file(folders: tuple[Path, ...], names: tuple[str, ...]) -> Path | None:
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.is_file()), None)


def _assemble(vgg: Path, linear: Path) -> LPIPS:
    _check_hash(vgg)
    # A ninth of the 528 MB is used; mapping the file, if its format allows, reads no more than that.
    payload = _mapped(vgg) if zipfile.is_zipfile(vgg) else load_payload(vgg)
    return _build(vgg, _vgg_weights(vgg, payload) | _linear_weights(linear))


def _mapped(path: Path) -> Any:
    try:  # without `load_payload`'s pass over all checksums, because the checksum in the file's name is checked
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"{path} is truncated, corrupt or not a checkpoint: use another copy") from error


def _vgg_weights(path: Path, payload: Any) -> dict[str, Tensor]:
    """The convolutions of torchvision's VGG-16 by our names: `net.sliceK.N` of `features.N`."""
    weights = {}
    for number, convolutions in enumerate(VGG_SLICES, start=1):
        for index, fan_in, fan_out in convolutions:
            for kind, shape in (("weight", (fan_out, fan_in, 3, 3)), ("bias", (fan_out,))):
                value = _tensor(path, payload, f"features.{index}.{kind}", shape)
                weights[f"net.slice{number}.{index}.{kind}"] = value
    return weights


def _linear_weights(path: Path) -> dict[str, Tensor]:
    _check_hash(path)
    payload = load_payload(path)
    return {
        f"lin{index}.model.1.weight": _tensor(
            path, payload, f"lin{index}.model.1.weight", (1, channels, 1, 1)
        )
        for index, channels in enumerate(LPIPS_CHANNELS)
    }


def _tensor(path: Path, payload: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    value = payload.get(name) if isinstance(payload, Mapping) else None
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        raise UserError(
            f"{path} has no {name} of shape {shape}: it is not the file of that name, so replace it"
        )
    return value


def _build(path: Path, weights: Mapping[str, Tensor]) -> LPIPS:
    lpips = LPIPS()
    own = lpips.state_dict()
    for name, value in own.items():
        if name in weights:
            own[name] = _tensor(path, weights, name, tuple(value.shape))
        elif name not in SCALING_NAMES:  # constants, absent from the files of VGG-16 and the linear layers
            raise UserError(f"{path} has no {name}, a part of the perceptual network: use another copy")
    lpips.load_state_dict(own)
    return lpips.eval()


def _check_hash(path: Path) -> None:
    """Checks the SHA-256 prefix in a file name of torch hub's convention."""
    carried = HASH_IN_NAME.search(path.name)
    if carried is None:
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if not digest.hexdigest().startswith(carried[1]):
        raise UserError(f"{path} is corrupt (its SHA-256 does not start with {carried[1]}): remove it")


def _download(folders: tuple[Path, ...], say: Callable[[str], None]) -> tuple[Path, Path] | None:
    """Downloads whichever of the two files is missing; on failure it says so and returns None."""
    vgg = _first_file(folders, (VGG_FILE,)) or folders[-1] / VGG_FILE
    linear = _first_file(folders, LINEAR_NAMES) or folders[0] / LINEAR_FILE
    try:
        for path, url in ((linear, LINEAR_URL), (vgg, VGG_URL)):
            if not path.exists():
                _fetch(url, path, say)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch hub's error for a wrong hash
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or reason
        say(
            f"the perceptual network's weights could not be downloaded ({reason}): "
            f"put {VGG_FILE} and {LINEAR_NAMES[1]} of LPIPS into {folders[0]}, or name an IRIS checkpoint"
        )
        return None
    return vgg, linear


def _fetch(url: str, path: Path, say: Callable[[str], None]) -> None:
    # torch hub sets no time limit, so a network that drops packets would hang the run.
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
        pass
    say(f"downloading {url} to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    carried = HASH_IN_NAME.search(path.name)
    torch.hub.download_url_to_file(
        url, str(path), hash_prefix=carried and carried[1], progress=sys.stderr.isatty()
    )


def _say_on_stderr(message: str) -> None:
    print(message, file=sys.stderr)
