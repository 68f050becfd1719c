"""The table of `kernels/README.md`: what each operation takes, and how fast the result files say that it is.

`python -m benchmarks.report.documentation` writes it, from `benchmarks/results/cpu/kernel_*.json` and from the same
files of another folder of results, of a machine with a GPU, where there is one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iris_fast.kernels

RESULTS = Path(__file__).parents[1] / "results"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One row: words about an operation, and which entry of which result file is its speed."""

    name: str
    shapes: str
    limits: str
    case: str
    entries: str  # the list of measured sizes in the result
    cpu: dict[str, Any]  # what the entry shown holds
    gpu: dict[str, Any]
    size: str  # of that entry, from its fields
    ours: tuple[str, ...] = ("ours",)  # the first of these that was timed

    def speed(self, folder: str) -> str:
        """Milliseconds of ours, how many times as long the fastest other took; a dash where nothing was measured."""
        path = RESULTS / folder / f"{self.case}.json"
        if not path.exists():
            return "–"
        wanted = self.cpu if folder == "cpu" else self.gpu
        entries = [
            entry
            for entry in json.loads(path.read_text())["result"][self.entries]
            if all(entry[name] == value for name, value in wanted.items()) and "seconds" in entry
        ]
        if not entries:
            return "–"
        return f"{self.size.format(**entries[0])}: {side_by_side(entries[0], self.ours)}"


def side_by_side(entry: Entry, preferred: tuple[str, ...]) -> str:
    """Ours in milliseconds, and the fastest of the others in units of it."""
    seconds = {
        name: timing["median"]
        for timings in (entry.get("seconds_without_graphs", {}), entry["seconds"])
        for name, timing in timings.items()
    }
    ours = seconds[next(name for name in preferred if name in seconds)]
    others = {name: found for name, found in seconds.items() if not name.startswith("ours")}
    best = min(others, key=lambda name: others[name])
    return f"{1e3 * ours:.2g} ms; {best} {others[best] / ours:.2g}×"


def signature(name: str) -> str:
    """The function's parameters by name; those after `*` are keywords."""
    parts: list[str] = []
    for parameter in inspect.signature(getattr(iris_fast.kernels, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        optional = parameter.default is not parameter.empty
        parts.append(f"{parameter.name}={parameter.default!r}" if optional else parameter.name)
    return f"{name}({', '.join(parts)})"


OPERATIONS = [
    Operation(
        "vq_lookup",
        "(…, dim), (num_codes, dim) → (…) int64, (…, dim)",
        "none; float64 by PyTorch",
        "kernel_vq_lookup",
        "sizes",
        {"size": [1024, 512, 512]},
        {"size": [16384, 512, 512]},
        "{size[0]} × {size[1]}, {size[2]} codes",
        ("ours tf32x3", "ours ieee"),
    ),
    Operation(
        "vq_statistics",
        "(…, dim), (…) int64 → (num_codes,), (num_codes, dim)",
        "indices in range",
        "kernel_vq_statistics",
        "sizes",
        {"rows": 4096, "dim": 512},
        {"rows": 4096, "dim": 512},
        "{rows} × {dim}, {num_codes} codes",
    ),
    Operation(
        "cached_attention",
        "(batch, heads, new, head_dim), 2 × (batch, kv_heads, new, head_dim), 2 caches (batch, kv_heads, "
        "max_tokens, head_dim), lengths (batch,) → (batch, heads, new, head_dim)",
        "head_dim 1 to 256; kv_heads divides heads; e4m3 caches from compute capability 8.9; no gradient",
        "kernel_cached_attention",
        "sizes",
        {"batch": 64},
        {"batch": 64, "length": 339, "dtype": "bfloat16", "cache": "bfloat16"},
        "batch {batch}, {length} tokens",
    ),
    Operation(
        "sample_categorical",
        "(…, classes) → (…) int64",
        "1 class at least; no gradient",
        "kernel_sampling",
        "draws",
        {"rows": 64, "classes": 512},
        {"rows": 64, "classes": 512},
        "{rows} × {classes}",
    ),
    Operation(
        "linear_sample",
        "(…, dim), (classes, dim), (classes,) → (…) int64",
        "top-k and top-p up to 512 classes; no gradient",
        "kernel_sampling",
        "layers",
        {"rows": 64, "classes": 512},
        {"rows": 64, "classes": 512},
        "{rows} × {dim} → {classes}",
    ),
    Operation(
        "layer_norm_linear",
        "(…, dim), (out, dim) → (…, out)",
        "made for up to about 1000 rows",
        "kernel_layer_norm_linear",
        "sizes",
        {"layer": "mlp_in", "rows": 64},
        {"layer": "mlp_in", "rows": 64, "dtype": "bfloat16"},
        "{rows} × 256 → 1024, GELU",
    ),
    Operation(
        "layer_norm_attention",
        "(parts, batch, dim), weights, 2 caches (batch, heads, max_tokens, head_dim), lengths (batch,) → "
        "(1 + heads, batch, dim)",
        "one new token a sequence; dim to 1024, 65 parts; head_dim 1 to 256; no gradient",
        "kernel_layer_norm_attention",
        "sizes",
        {"batch": 64},
        {"batch": 64, "length": 339, "dtype": "bfloat16"},
        "batch {batch}, {length} tokens, dim 256",
    ),
    Operation(
        "layer_norm_mlp",
        "(parts, rows, dim), (width, dim), (dim, width) → (1 + slices, rows, dim)",
        "dim to 1024, 65 parts; made for up to some 100 rows; no gradient",
        "kernel_layer_norm_mlp",
        "sizes",
        {"rows": 64},
        {"rows": 64, "dtype": "bfloat16"},
        "{rows} × 256, width 1024",
    ),
    Operation(
        "group_norm_swish",
        "(batch, channels, …) → the same",
        "differentiable once",
        "kernel_group_norm_swish",
        "sizes",
        {"side": 64, "gradients": False},
        {"batch": 64, "side": 64, "dtype": "bfloat16", "gradients": False},
        "{batch} × 64 × {side}²",
    ),
    Operation(
        "token_embedding",
        "(…, time), (vocab, dim), (positions, dim) → (…, time, dim)",
        "int64 or int32 tokens",
        "kernel_token_embedding",
        "sizes",
        {"batch": 64, "time": 340, "gradients": False},
        {"batch": 64, "time": 340, "gradients": False},
        "{batch} × {time} × {dim}",
    ),
    Operation(
        "lambda_returns",
        "3 × (batch, time) → (batch, time)",
        "float32",
        "kernel_lambda_returns",
        "shapes",
        {"shape": [64, 20]},
        {"shape": [64, 20]},
        "{shape[0]} × {shape[1]}",
    ),
]


def gpu_folder() -> str | None:
    """The results of a machine with a GPU, where there are some of kernels: the first by name."""
    folders = (path for path in sorted(RESULTS.iterdir()) if path.is_dir() and path.name != "cpu")
    return next((path.name for path in folders if any(path.glob("kernel_*.json"))), None)


def kernel_rows() -> list[list[str]]:
    """A row for each operation."""
    folder = gpu_folder()
    return [
        [
            f"[`{operation.name}`]({operation.name}.py)",
            f"`{signature(operation.name)}`",
            operation.shapes,
            operation.limits,
            operation.speed("cpu"),
            operation.speed(folder) if folder else "not measured yet",
        ]
        for operation in OPERATIONS
    ]


def kernels_table(markdown: Callable[[list[str], list[list[str]]], str]) -> str:
    head = ["operation", "signature", "shapes", "limits", "CPU", "GPU"]
    return markdown(head, kernel_rows())
