"""`python -m iris_fast.doctor`: what this machine has for training, what is missing, and how to get it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from iris_fast.command_line import CommandParser, file_argument, loading, run_command
from iris_fast.files import explained_writing, write_atomically

DESCRIPTION = """\
Print the machine, the versions and the backends that a run would use, and what is missing or slow,
with what to do about it."""

EPILOG = """\
It ends with 0 when a run can start at full speed here, and with 1 when something in the way of that is found ("!").
What is optional is listed with the command that installs it, and changes nothing of the exit code."""

# Each extra: what it is for, and the packages by their import names.
EXTRAS = {
    "atari": ("Atari games", ("ale_py", "envpool")),
    "play": ("the page to watch and play", ("starlette", "uvicorn", "websockets")),
    "results": ("scores beside published ones", ("rliable", "pandas")),
    "hub": ("agents of the Hugging Face Hub", ("huggingface_hub", "safetensors")),
    "sweep": ("games × seeds", ("ray", "rich")),
    "wandb": ("logs on Weights & Biases", ("wandb",)),
}
NOT_EVERYWHERE = ("envpool",)  # has no wheels but for Linux on x86-64
SLOW_LEVELS = ("portable",)


def make_parser() -> CommandParser:
    parser = CommandParser(prog="python -m iris_fast.doctor", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "--json", type=file_argument(".json"), metavar="FILE", help="also write what was found here"
    )
    return parser


@dataclass
class Findings:
    """What was found: rows of name and value, problems and optional parts as sentences."""

    rows: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)

    def text(self) -> str:
        width = max(map(len, self.rows)) + 2
        lines = [f"{name:<{width}}{value}" for name, value in self.rows.items()]
        if self.optional:
            lines += ["", "optional:", *(f"  {sentence}" for sentence in self.optional)]
        problems = [f"! {sentence}" for sentence in self.problems]
        return "\n".join([*lines, "", *(problems or ["nothing in the way of a run was found"])])


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    with loading("torch"):
        import torch  # noqa: F401

    found = examine()
    print(found.text())
    if arguments.json is not None:
        with explained_writing(arguments.json):
            write_atomically(arguments.json, (json.dumps(asdict(found), indent=1) + "\n").encode())
    return 1 if found.problems else 0


def examine() -> Findings:
    """Looks at everything, and changes nothing."""
    found = Findings()
    for look in (_versions, _processor, _gpu, _extension, _environments, _perceptual, _films, _run, _extras):
        look(found)
    return found


def _versions(found: Findings) -> None:
    import torch

    from iris_fast.training.provenance import circumstances

    now = circumstances(torch.device("cpu"))
    versions: dict[str, Any] = now["versions"]
    commit = f", commit {now['commit']}" if now["commit"] else ""
    found.rows["iris_fast"] = f"{versions['iris_fast']}{commit}"
    found.rows["Python"] = f"{versions['python']} ({sys.executable})"
    found.rows["packages"] = ", ".join(
        f"{name} {number or 'missing'}"
        for name, number in versions.items()
        if name not in ("iris_fast", "python")
    )
    found.rows["system"] = now["machine"]["system"]
    found.rows["processor"] = now["machine"]["processor"]


def _processor(found: Findings) -> None:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found.rows["cores"] = f"{usable} usable, {threads} threads of PyTorch"
    found.rows["memory"] = _memory()
    if threads < usable and not torch.cuda.is_available():
        limit = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ), None)
        cause = f": {limit}={os.environ[limit]} says so; unset it" if limit else ""
        found.problems.append(
            f"PyTorch uses {threads} of {usable} cores{cause}, or set common.threads={usable}"
        )


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return "unknown"
    return f"{total / 1e9:.0f} GB"


def _gpu(found: Findings) -> None:
    import torch

    from iris_fast.kernels.common.triton import triton

    if not torch.cuda.is_available():
        found.rows["GPU"] = "none that PyTorch can use"
        if shutil.which("nvidia-smi"):
            build = torch.version.cuda
            found.problems.append(
                f"there is an NVIDIA driver, but this PyTorch ({torch.__version__}) was built without CUDA: "
                "install a build with CUDA as pytorch.org says"
                if build is None
                else f"there is an NVIDIA driver, but PyTorch (CUDA {build}) finds no GPU: update the driver"
            )
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.rows[f"GPU {index}"] = (
            f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, compute capability "
            f"{properties.major}.{properties.minor}, CUDA {torch.version.cuda}"
        )
    if triton is None:
        found.problems.append("the GPU's kernels need Triton: pip install triton")


def _extension(found: Findings) -> None:
    from iris_fast.kernels.common.extension import find_extension

    try:
        extension = find_extension()
    except ImportError as error:
        extension, reason = None, f"cannot be loaded ({error})"
    else:
        reason = "was not built"
    if extension is None:
        found.rows["C++ extension"] = "missing"
        found.problems.append(
            f"the C++ extension {reason}, so dreams on a CPU are several times slower: run pip install -e ."
        )
        return
    levels = extension.simd_levels()
    found.rows["C++ extension"] = f"{levels[0]} (also: {', '.join(levels[1:]) or 'none'})"
    if levels[0] in SLOW_LEVELS:
        found.problems.append(
            "the C++ extension has no vector instructions for this processor: it will be slow"
        )


def _environments(found: Findings) -> None:
    from iris_fast.envs.factory import is_available
    from iris_fast.envs.games import INSTALL_ATARI, list_games

    there = [name for name in ("envpool", "ale") if is_available(name)]
    found.rows["games"] = f"{len(list_games())}, with {' and '.join(there) or 'Catch alone playable'}"
    if "ale" not in there:
        found.problems.append(f"no Atari game can be played: {INSTALL_ATARI}")


def _perceptual(found: Findings) -> None:
    from iris_fast.interop.lpips_files import find_files, search_folders

    files = find_files(search_folders())
    found.rows["LPIPS weights"] = str(files[0].parent) if files else "not here"
    if files is None:
        found.optional.append(
            "LPIPS weights, of the paper's perceptual loss: the preset paper downloads them once, about 530 MB"
        )


def _films(found: Findings) -> None:
    from iris_fast.play.recording import has_encoder

    can = has_encoder()
    found.rows["films"] = "mp4 (H.264)" if can else "gif alone"
    if not can:
        found.optional.append("films as mp4 need PyAV's own build: pip install --force-reinstall av")


def _run(found: Findings) -> None:
    from iris_fast.training.device import choose_device
    from iris_fast.training.launch import choose_preset

    device = choose_device("auto")
    found.rows["a run takes"] = f"device {device}, preset {choose_preset('Pong', device)} for Atari"


def _extras(found: Findings) -> None:
    for extra, (purpose, packages) in EXTRAS.items():
        missing = [name for name in packages if find_spec(name) is None and name not in NOT_EVERYWHERE]
        if missing:
            found.optional.append(f"{purpose}: pip install 'iris_fast[{extra}]'")


if __name__ == "__main__":
    sys.exit(run_command(main))
