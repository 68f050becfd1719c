"""Weights of the perceptual network from every file format."""

from __future__ import annotations

import hashlib
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.errors import UserError
from iris_fast.interop import lpips_files
from iris_fast.interop.files import write_weights
from iris_fast.interop.lpips_files import find_lpips, load_lpips
from iris_fast.models.perceptual import LPIPS


def save_vgg(lpips: LPIPS, path: Path, **options: Any) -> Path:
    """As torchvision's file: `features.N`, and a classifier that is of no use here."""
    weights: dict[str, Tensor] = {"classifier.6.bias": torch.zeros(1000)}
    for name, value in lpips.net.state_dict().items():
        weights[f"features.{name.partition('.')[2]}"] = value.contiguous()
    torch.save(weights, path, **options)
    return path


def save_linear(lpips: LPIPS, path: Path) -> Path:
    """As the LPIPS repository's file."""
    torch.save({name: value for name, value in lpips.state_dict().items() if name.startswith("lin")}, path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


@pytest.fixture
def files(tmp_path: Path, lpips: LPIPS, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Both files in a folder of their own, under names that carry their hashes."""
    folder = tmp_path / "files"
    folder.mkdir()
    vgg, linear = save_vgg(lpips, folder / "vgg.tmp"), save_linear(lpips, folder / "lin.tmp")
    vgg = vgg.rename(folder / f"vgg16-{digest(vgg)}.pth")
    linear = linear.rename(folder / f"lpips-vgg-{digest(linear)}.pth")
    monkeypatch.setattr(lpips_files, "VGG_FILE", vgg.name)
    monkeypatch.setattr(lpips_files, "LINEAR_FILE", linear.name)
    monkeypatch.setattr(lpips_files, "LINEAR_NAMES", (linear.name, "vgg.pth"))
    return vgg, linear


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every request fails as without a network; yields the addresses asked for."""
    asked: list[str] = []

    def refuse(request: Any, timeout: float) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    yield asked


def assert_same(found: LPIPS | None, lpips: LPIPS) -> None:
    assert found is not None and not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    for name, value in lpips.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_the_two_files_in_cache_folders(files: tuple[Path, Path], lpips: LPIPS, tmp_path: Path) -> None:
    vgg, linear = files
    assert_same(find_lpips(folders=(tmp_path / "absent", vgg.parent)), lpips)
    other = tmp_path / "other"
    other.mkdir()
    linear.rename(other / "vgg.pth")  # each may lie in another folder, by either name
    assert_same(find_lpips(folders=(other, vgg.parent)), lpips)


def test_a_folder_or_the_vgg_file_named_by_the_user(files: tuple[Path, Path], lpips: LPIPS) -> None:
    vgg, linear = files
    assert_same(find_lpips(vgg.parent), lpips)
    assert_same(load_lpips(vgg), lpips)
    linear.unlink()
    with pytest.raises(UserError, match=r"VGG-16 alone: put the linear layers"):
        load_lpips(vgg)
    with pytest.raises(UserError, match="put both files"):
        load_lpips(vgg.parent)


def test_the_format_that_torchvision_still_publishes(lpips: LPIPS, tmp_path: Path) -> None:
    vgg = save_vgg(lpips, tmp_path / "vgg16.pth", _use_new_zipfile_serialization=False)
    save_linear(lpips, tmp_path / "vgg.pth")
    assert_same(load_lpips(vgg), lpips)


def test_a_checkpoint_of_either_kind(
    small_agent: Agent, published: dict[str, Tensor], lpips: LPIPS, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(published, path)
    assert_same(load_lpips(path), lpips)
    torch.save(lpips.state_dict(), path)
    assert_same(load_lpips(path), lpips)
    weights = {f"tokenizer.lpips.{name}": value for name, value in lpips.state_dict().items()}
    run = tmp_path / "run"
    write_weights(run / "checkpoints" / "last.pt", small_agent.state_dict() | weights, small_agent.config, 5)
    assert_same(load_lpips(run), lpips)
    write_weights(path, small_agent.state_dict(), small_agent.config, 5)
    with pytest.raises(UserError, match="carries no perceptual network"):
        load_lpips(path)


def test_files_of_another_content_are_refused(files: tuple[Path, Path], lpips: LPIPS, tmp_path: Path) -> None:
    vgg, _ = files
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_lpips(tmp_path / "absent.pth")
    content = bytearray(vgg.read_bytes())
    content[len(content) // 2] ^= 1
    vgg.write_bytes(content)
    with pytest.raises(UserError, match=r"is corrupt \(its SHA-256"):
        find_lpips(folders=(vgg.parent,))
    other = tmp_path / "vgg16.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, other)
    save_linear(lpips, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"has no features\.0\.bias of shape \(64,\)"):
        load_lpips(other)
    torch.save(lpips.state_dict() | {"lin0.model.1.weight": torch.zeros(3)}, other)
    with pytest.raises(UserError, match=r"has no lin0\.model\.1\.weight of shape \(1, 64, 1, 1\)"):
        load_lpips(other)


def test_without_files_or_network_there_is_none_and_it_is_said_once(
    tmp_path: Path, no_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_lpips(allow_download=False, folders=(tmp_path,)) is None
    assert not no_network and not capsys.readouterr().err
    assert find_lpips(folders=(tmp_path,)) is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "could not be downloaded (no network)" in said[0] and str(tmp_path) in said[0]
    assert len(no_network) == 1


def test_download_fetches_what_is_missing(
    files: tuple[Path, Path], lpips: LPIPS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses are served from files; hashes are checked by torch hub."""
    sources = {lpips_files.VGG_URL: files[0], lpips_files.LINEAR_URL: files[1]}
    for name, url in (("VGG_URL", lpips_files.VGG_URL), ("LINEAR_URL", lpips_files.LINEAR_URL)):
        monkeypatch.setattr(lpips_files, name, sources[url].as_uri())
    said: list[str] = []
    cache, hub = tmp_path / "cache", tmp_path / "hub"
    assert_same(find_lpips(say=said.append, folders=(cache, hub)), lpips)
    assert len(said) == 2 and (hub / files[0].name).is_file() and (cache / files[1].name).is_file()
    assert_same(find_lpips(say=said.append, folders=(cache, hub)), lpips)
    assert len(said) == 2  # nothing was fetched again

    (hub / files[0].name).unlink()
    files[0].write_bytes(b"not the weights")
    assert find_lpips(say=said.append, folders=(cache, hub)) is None
    assert "invalid hash value" in said[-1] and not (hub / files[0].name).exists()


def test_published_files_are_asked_for_by_their_published_names() -> None:
    assert lpips_files.VGG_URL.endswith("/vgg16-397923af.pth")
    assert [folder.name for folder in lpips_files.search_folders()] == ["iris_fast", "checkpoints"]
