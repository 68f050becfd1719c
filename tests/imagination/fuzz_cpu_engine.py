"""Feeds the token engine random shapes, types, layouts and values: each call works, or raises what it may raise.

    python -m tests.imagination.fuzz_cpu_engine --seconds 60

Prints how many calls of each kind worked and were refused. A crash ends the process; the seed repeats it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from iris_fast.models.cpu_weights import require_extension

Array = np.ndarray[Any, Any]
REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, OverflowError, MemoryError)
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool", "complex64", "object")
VALUES = (0, 1, -1, 2, 5, 2**31, -(2**63), 2**63 - 1, float("nan"), float("inf"), -1e38, 1e-40, 7e4)
HEADS = ("rewards", "ends", "observations")


def unaligned(array: Array) -> Array:
    """A copy that begins one byte past where its elements should."""
    room = np.zeros(array.nbytes + 1, np.uint8)[1:]
    copy = room.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Fuzzer:
    """One stream of random calls; `seed` decides all of them."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.extension = require_extension()
        self.models: list[tuple[Any, dict[str, int]]] = []
        self.dreams: list[tuple[Any, dict[str, int]]] = []
        self.counts: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        calls = (self.model, self.dream, self.restart, self.step, self.step, self.draw, self.pool)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            call: Callable[[], None] = self.pick(calls)
            name = call.__name__
            try:
                call()
                self.counts[f"{name} worked"] += 1
            except REFUSALS:
                self.counts[f"{name} refused"] += 1

    def pick(self, options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def size(self) -> int:
        return int(self.random.integers(0, 40)) if self.chance(0.97) else self.pick((2**20, 2**40, 2**62))

    def spoiled(self, array: Array) -> Any:
        """The array, or something that is not quite it."""
        if self.chance(0.9):
            return array
        way = self.random.integers(9)
        if way == 0:
            return array.astype(self.pick(DTYPES), casting="unsafe")
        if way == 1:
            return array[..., ::-1]
        if way == 2:
            return np.asfortranarray(array)
        if way == 3:
            return array[:-1]
        if way == 4:
            return array[None]
        if way == 5:
            return np.repeat(array, 2, axis=-1)[..., ::2]
        if way == 6:
            return unaligned(array)
        if way == 7:
            return self.pick((None, 3, [1, 2], "text", np.float32(1), np.zeros(0, np.int64)))
        changed = array.copy()
        if changed.size:
            value = self.pick(VALUES)
            with np.errstate(all="ignore"):
                changed.flat[int(self.random.integers(changed.size))] = np.array(value).astype(changed.dtype)
        return changed

    def sizes(self) -> dict[str, int]:
        heads = int(self.random.integers(1, 4))
        return {
            "heads": heads,
            "layers": int(self.random.integers(1, 3)),
            "width": heads * int(self.random.integers(1, 20)),
            "block": int(self.random.integers(2, 7)),
            "blocks": int(self.random.integers(2, 5)),
            "vocabulary": int(self.random.integers(1, 50)),
            "actions": int(self.random.integers(1, 8)),
        }

    def weights(self, sizes: dict[str, int]) -> dict[str, Array]:
        """A state dict of these sizes."""
        width = sizes["width"]
        shapes: dict[str, tuple[int, ...]] = {
            "pos_emb.weight": (sizes["block"] * sizes["blocks"], width),
            "embedder.embedding_tables.0.weight": (sizes["actions"], width),
            "embedder.embedding_tables.1.weight": (sizes["vocabulary"], width),
        }
        linears: dict[str, tuple[int, int]] = {}
        for layer in range(sizes["layers"]):
            block = f"transformer.blocks.{layer}"
            linears |= {f"{block}.attn.{part}": (width, width) for part in ("query", "key", "value", "proj")}
            linears |= {f"{block}.mlp.0": (4 * width, width), f"{block}.mlp.2": (width, 4 * width)}
        for head, classes in zip(HEADS, (3, 2, sizes["vocabulary"]), strict=True):
            linears |= {f"head_{head}.head_module.0": (width, width)}
            linears |= {f"head_{head}.head_module.2": (classes, width)}
        norms = ["transformer.ln_f"]
        norms += [f"transformer.blocks.{i}.ln{n}" for i in range(sizes["layers"]) for n in (1, 2)]
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in norms:
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        return {name: self.random.standard_normal(shape, np.float32) for name, shape in shapes.items()}

    def model(self) -> None:
        sizes = self.sizes()
        weights: dict[str, Any] = self.weights(sizes)
        if self.chance(0.5):
            name = self.pick(sorted(weights))
            weights[name] = self.spoiled(weights[name])
            if self.chance(0.05):
                del weights[name]
        options: dict[str, Any] = {
            "num_layers": sizes["layers"],
            "num_heads": sizes["heads"],
            "tokens_per_block": sizes["block"],
            "max_blocks": sizes["blocks"],
            "block_causal": self.chance(0.3),
            "layer_norm_epsilon": 1e-5,
            "simd": self.pick([*self.extension.simd_levels(), "auto"]),
            "weights_dtype": self.pick(("float32", "float16")),
        }
        if self.chance(0.1):
            options[self.pick(sorted(options))] = self.pick((*VALUES, "", None, self.size()))
        self.models = [*self.models[-5:], (self.extension.TokenModel(weights, **options), sizes)]

    def pool(self) -> Any:
        threads = (
            int(self.random.integers(1, 5)) if self.chance(0.9) else self.pick((0, -1, 2**40, None, 1.5))
        )
        return self.extension.ThreadPool(threads)

    def dream(self) -> None:
        model, sizes = self.pick(self.models) if self.models else (None, self.sizes())
        batch = int(self.random.integers(1, 20))
        first = self.random.integers(0, sizes["vocabulary"], (batch, sizes["block"] - 1))
        dream = self.extension.TokenDream(
            model,
            self.pool(),
            self.spoiled(first),
            seed=int(self.random.integers(2**63)) if self.chance(0.95) else self.pick((-1, 2**64, 1.5)),
            first_row=int(self.random.integers(2**32)) if self.chance(0.95) else self.pick((-1, 2**32)),
            purpose_reward=1,
            purpose_end=2,
            purpose_token=3,
            kv_dtype=self.pick(("float32", "float16")) if self.chance(0.95) else self.pick(("int8", None, 4)),
            group_size=int(self.random.integers(0, 25)) if self.chance(0.95) else self.size(),
        )
        self.dreams = [*self.dreams[-5:], (dream, sizes)]

    def restart(self) -> None:
        if not self.dreams:
            return
        dream, sizes = self.pick(self.dreams)
        first = self.random.integers(0, sizes["vocabulary"], (dream.batch, sizes["block"] - 1))
        dream.restart(self.spoiled(first), seed=3)

    def step(self) -> None:
        if not self.dreams:
            return
        dream, sizes = self.pick(self.dreams)
        actions = self.spoiled(self.random.integers(0, sizes["actions"], dream.batch))
        rewards, ends, tokens, *_ = dream.step(
            actions, generate_frame=self.chance(0.8), want_logits=self.chance(0.5)
        )
        assert ((rewards >= 0) & (rewards < 3)).all()
        assert ((ends >= 0) & (ends < 2)).all()
        assert tokens is None or ((tokens >= 0) & (tokens < sizes["vocabulary"])).all()

    def draw(self) -> None:
        rows, classes = int(self.random.integers(0, 9)), int(self.random.integers(0, 200))
        logits = self.random.standard_normal((rows, classes), np.float32)
        tokens = self.extension.sample_categorical(
            self.spoiled(logits),
            int(self.random.integers(2**63)),
            self.spoiled(self.random.integers(-(2**62), 2**62, rows)),
            self.spoiled(self.random.integers(-(2**62), 2**62, rows)),
            int(self.random.integers(2**32)),
            self.pick((1.0, 0.5, 0.0, -1.0, float("nan"), 1e-30)),
        )
        assert ((tokens >= 0) & (tokens < max(2 * classes, 1))).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="what decides the calls (default: 0)")
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed)
    fuzzer.run(arguments.seconds)
    for name in sorted(fuzzer.counts):
        print(f"{name}: {fuzzer.counts[name]}")


if __name__ == "__main__":
    main()
