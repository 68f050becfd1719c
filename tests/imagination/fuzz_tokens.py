"""Random calls of the C++ world model, its dreams and its draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.imagination.fuzz_frames import MODEL_REFUSALS
from tests.imagination.fuzz_inputs import VALUES, are_weights, attempt, has_form, is_calm
from tests.imagination.fuzz_recurrence import RecurrenceCalls

HEADS = ("rewards", "ends", "observations")
CLASSES = (3, 2)  # of rewards and ends


class TokenCalls(RecurrenceCalls):
    """Makes world models of random sizes, and steps dreams of them."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.models: list[tuple[Any, dict[str, int]]] = []
        self.dreams: list[tuple[Any, dict[str, int]]] = []

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

    def shapes(self, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        """Of the state dict of a world model of these sizes."""
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
        for head, classes in zip(HEADS, (*CLASSES, sizes["vocabulary"]), strict=True):
            linears |= {f"head_{head}.head_module.0": (width, width)}
            linears |= {f"head_{head}.head_module.2": (classes, width)}
        norms = ["transformer.ln_f"]
        norms += [f"transformer.blocks.{i}.ln{n}" for i in range(sizes["layers"]) for n in (1, 2)]
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in norms:
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        return shapes

    def model(self) -> None:
        sizes = self.sizes()
        shapes = self.shapes(sizes)
        weights = self.spoiled_weights(self.filled(shapes))
        options: dict[str, Any] = {
            "num_layers": sizes["layers"],
            "num_heads": sizes["heads"],
            "tokens_per_block": sizes["block"],
            "max_blocks": sizes["blocks"],
            "block_causal": self.chance(0.3),
            "layer_norm_epsilon": 1e-5,
            "simd": self.simd(),
            "weights_dtype": self.pick(("float32", "float16", "int8")),
        }
        # The number of actions is read from the weights: any but none fits.
        actions = weights.get("embedder.embedding_tables.0.weight")
        if isinstance(actions, np.ndarray) and actions.ndim == 2 and len(actions) > 0:
            sizes["actions"] = len(actions)
            shapes["embedder.embedding_tables.0.weight"] = (len(actions), sizes["width"])
        fits: bool | None = are_weights(weights, shapes)
        if fits and options["weights_dtype"] != "float32" and not is_calm(*weights.values()):
            fits = None  # which cannot hold every number
        if self.chance(0.1):
            options[self.pick(sorted(options))] = self.pick((*VALUES, "", None, self.size()))
            fits = None
        model = attempt(
            lambda: self.extension.TokenModel(weights, **options), fits=fits, refusals=MODEL_REFUSALS
        )
        if fits:  # an option that happened to work may have changed the sizes
            self.models = [*self.models[-5:], (model, sizes)]

    def dream(self) -> None:
        model, sizes = self.pick(self.models) if self.models else (None, self.sizes())
        batch = self.whole(1, 19)
        first = self.first_tokens(batch, sizes)
        odd = self.chance(0.15)
        options: dict[str, Any] = {
            "seed": int(self.random.integers(2**63)),
            "first_row": int(self.random.integers(2**32)),
            "kv_dtype": self.pick(("float32", "float16")),
            "group_size": self.whole(0, 24),
        }
        if odd:
            name = self.pick(sorted(options))
            options[name] = self.pick((-1, 2**32, 2**64, 1.5, "int8", None, self.size()))
        fits = model is not None and self.are_tokens(first, sizes)
        pool = self.pool()
        dream = attempt(
            lambda: self.extension.TokenDream(
                model, pool, first, purpose_reward=1, purpose_end=2, purpose_token=3, **options
            ),
            fits=None if odd and fits else fits,
        )
        self.dreams = [*self.dreams[-5:], (dream, sizes)]

    def first_tokens(self, batch: int, sizes: dict[str, int]) -> Any:
        """Tokens `(batch, slots)`, sometimes spoiled."""
        return self.spoiled(self.random.integers(0, sizes["vocabulary"], (batch, sizes["block"] - 1)))

    def are_tokens(self, tokens: Any, sizes: dict[str, int], batch: int | None = None) -> bool:
        """Whether a dream starts from them; `batch`: how many it is of, None for any but none."""
        rows = len(tokens) if np.ndim(tokens) else 0
        shape = (rows if batch is None else batch, sizes["block"] - 1)
        return shape[0] > 0 and has_form(tokens, np.int64, shape, sizes["vocabulary"])

    def restart(self) -> None:
        if not self.dreams:
            return
        dream, sizes = self.pick(self.dreams)
        first = self.first_tokens(dream.batch, sizes)
        attempt(lambda: dream.restart(first, seed=3), fits=self.are_tokens(first, sizes, dream.batch))

    def step(self) -> None:
        if not self.dreams:
            return
        dream, sizes = self.pick(self.dreams)
        batch, slots, vocabulary = dream.batch, sizes["block"] - 1, sizes["vocabulary"]
        actions = self.spoiled(self.random.integers(0, sizes["actions"], batch), 0.15)
        frame, wanted = self.chance(0.8), self.chance(0.5)
        rewards, ends, tokens, *logits = attempt(
            lambda: dream.step(actions, generate_frame=frame, want_logits=wanted),
            fits=has_form(actions, np.int64, (batch,), sizes["actions"]),
        )
        for drawn, classes in zip((rewards, ends), CLASSES, strict=True):
            assert has_form(drawn, np.int64, (batch,), classes)
        assert has_form(tokens, np.int64, (batch, slots), vocabulary) if frame else tokens is None
        shapes = ((batch, CLASSES[0]), (batch, CLASSES[1]), (batch, slots, vocabulary))
        for found, shape, asked in zip(logits, shapes, (wanted, wanted, wanted and frame), strict=True):
            assert has_form(found, np.float32, shape) if asked else found is None

    def draw(self) -> None:
        rows, classes = self.whole(0, 8), self.whole(0, 199)
        logits = self.spoiled(self.random.standard_normal((rows, classes), np.float32))
        ids, positions = (self.spoiled(self.random.integers(-(2**62), 2**62, rows)) for _ in range(2))
        temperature = self.pick((1.0, 0.5, 0.0, -1.0, float("nan"), 1e-30))
        shape = np.shape(logits)
        fits = len(shape) == 2 and shape[1] > 0 and temperature > 0 and has_form(logits, np.float32, shape)
        fits = fits and all(has_form(numbers, np.int64, shape[:1]) for numbers in (ids, positions))
        seed, purpose = int(self.random.integers(2**63)), int(self.random.integers(2**32))
        tokens = attempt(
            lambda: self.extension.sample_categorical(logits, seed, ids, positions, purpose, temperature),
            fits=fits,
        )
        assert has_form(tokens, np.int64, shape[:1], shape[1])
