"""The C++ engine's dreams: exact, independent of how the work is split, and refusing invalid input."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_fast.imagination.cpu_engine import (
    CpuDream,
    HalfOrFloat,
    StepLogits,
    WeightsDtype,
    pack_world_model,
)
from iris_fast.imagination.dream import Dream, DreamStep
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.transformer import TransformerConfig
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws, Purpose
from tests.support.agents import NUM_ACTIONS, make_world_model, small_transformer
from tests.support.properties import given, settings, st

EXTENSION = require_extension()

LEVELS: list[str] = EXTENSION.simd_levels()
VOCABULARY = 11
ROUNDING = 2.0**-23

# Sizes with and without padding: heads of 8, 5, 16 and 80 dimensions, blocks of 5 tokens and of 17.
CONFIGS = {
    "micro": small_transformer(),
    "odd": small_transformer(embed_dim=15, num_heads=3, tokens_per_block=4, max_blocks=3),
    "wide": small_transformer(embed_dim=80, num_heads=1, num_layers=1),
    "block_causal": small_transformer(attention="block_causal"),
    "paper_blocks": TransformerConfig(num_layers=2, num_heads=4, embed_dim=64, max_blocks=3),
}


def make_dream(
    model: WorldModel,
    first: Tensor,
    seed: int = 0,
    *,
    threads: int = 1,
    group_size: int = 0,
    kv_dtype: HalfOrFloat = "float32",
    weights_dtype: WeightsDtype = "float32",
    simd: str = "auto",
    first_row: int = 0,
) -> CpuDream:
    return CpuDream(
        model,
        pack_world_model(model, simd, weights_dtype),
        EXTENSION.ThreadPool(threads),
        first,
        PhiloxDraws(seed, first_row),
        group_size=group_size,
        kv_dtype=kv_dtype,
    )


def inputs(model: WorldModel, batch: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """First tokens `(batch, slots)` and actions `(batch, steps)`."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = len(model.embedder.embedding_tables[1].weight)  # type: ignore[arg-type]
    first = torch.randint(vocabulary, (batch, model.frame_tokens), generator=generator)
    return first, torch.randint(NUM_ACTIONS, (batch, steps), generator=generator)


def play(dream: CpuDream, actions: Tensor) -> list[tuple[DreamStep, StepLogits]]:
    """Steps with each column of `actions`; the last one generates no frame."""
    last = actions.shape[1] - 1
    return [
        dream.step_with_logits(actions[:, step], generate_frame=step < last)
        for step in range(actions.shape[1])
    ]


def assert_bit_equal(
    first: list[tuple[DreamStep, StepLogits]], second: list[tuple[DreamStep, StepLogits]]
) -> None:
    for (step, logits), (other_step, other_logits) in zip(first, second, strict=True):
        for mine, theirs in zip((*step, *logits), (*other_step, *other_logits), strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                assert torch.equal(mine, theirs)


def rows_of(played: tuple[DreamStep, StepLogits], rows: slice) -> tuple[DreamStep, StepLogits]:
    def part(entry: Tensor | None) -> Tensor | None:
        return None if entry is None else entry[rows]

    step, logits = played
    return (
        DreamStep(step.rewards[rows], step.ends[rows], part(step.tokens)),
        StepLogits(logits.rewards[rows], logits.ends[rows], part(logits.observations)),
    )


@pytest.mark.parametrize("name", ["micro", "block_causal", "odd"])
@pytest.mark.parametrize("threads", [1, 3])
def test_given_and_replaced_frames_are_the_oracles(name: str, threads: int) -> None:
    """Frames that are given and replaced, past the context too: logits and draws of both dreams agree."""
    model = make_world_model(CONFIGS[name], VOCABULARY)
    first, actions = inputs(model, 3, 9)
    given = inputs(model, 3 * 9, 1, seed=1)[0].unflatten(0, (9, 3))
    fast, oracle = make_dream(model, first, threads=threads), Dream(model, first, PhiloxDraws(0))
    for step in range(9):
        if step in (
            0,
            2,
            3,
            7,
        ):  # before the first step, within the context, twice in a row, past the context
            for dream in (fast, oracle):
                dream.replace(given[step].roll(1, 1))
        next_tokens = given[step] if step in (1, 2, 5) else None
        found, logits = fast.step_with_logits(actions[:, step], next_tokens=next_tokens)
        expected, wanted = oracle.step_with_logits(actions[:, step], next_tokens=next_tokens)
        assert fast.length == oracle.length
        for mine, theirs in zip(logits, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        for mine, theirs in zip(found, expected, strict=True):
            assert torch.equal(mine, theirs)  # type: ignore[arg-type]
        if next_tokens is not None:
            assert torch.equal(fast.tokens, next_tokens)


def test_a_replaced_frame_is_as_if_it_had_been_drawn() -> None:
    model = make_world_model(CONFIGS["micro"], VOCABULARY)
    first, actions = inputs(model, 2, 4)
    given = inputs(model, 2, 1, seed=1)[0]
    drawn, replaced = make_dream(model, first), make_dream(model, first)
    drawn.step(actions[:, 0], next_tokens=given)
    replaced.step(actions[:, 0])
    replaced.replace(given)
    for step in range(1, 4):
        for mine, theirs in zip(drawn.step(actions[:, step]), replaced.step(actions[:, step]), strict=True):
            assert torch.equal(mine, theirs)  # type: ignore[arg-type]


class ForcedDraws(PhiloxDraws):
    """Gives recorded samples, and keeps the logits that they should have come from."""

    def __init__(self, recorded: dict[tuple[Purpose, int], Tensor]):
        super().__init__(0)
        self.recorded = recorded
        self.logits: dict[tuple[Purpose, int], Tensor] = {}

    def sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        self.logits[purpose, position] = logits
        return self.recorded[purpose, position]


def by_address(
    model: WorldModel, played: list[tuple[DreamStep, StepLogits]]
) -> dict[tuple[Purpose, int], tuple[Tensor, Tensor]]:
    """The sample `(batch,)` and the logits `(batch, classes)` of every address that a play drew at."""
    found = {}
    slots, block = model.frame_tokens, model.config.tokens_per_block
    for step, (outcome, logits) in enumerate(played):
        found[Purpose.REWARD, step * block + slots] = ((outcome.rewards + 1).long(), logits.rewards)
        found[Purpose.END, step * block + slots] = (outcome.ends.long(), logits.ends)
        if outcome.tokens is None or logits.observations is None:
            continue
        for slot in range(slots):
            drawn = (outcome.tokens[:, slot], logits.observations[:, slot])
            found[Purpose.TOKEN, (step + 1) * block + slot] = drawn
    return found


def forced_logits(
    model: WorldModel, first: Tensor, actions: Tensor, recorded: dict[tuple[Purpose, int], Tensor]
) -> dict[tuple[Purpose, int], Tensor]:
    """The oracle's logits along a recorded trajectory."""
    draws = ForcedDraws(recorded)
    dream = Dream(model, first, draws)
    for step in range(actions.shape[1]):
        dream.step(actions[:, step], generate_frame=step < actions.shape[1] - 1)
    return draws.logits


def double(model: WorldModel) -> WorldModel:
    exact = WorldModel(model.config, VOCABULARY, NUM_ACTIONS)
    exact.load_state_dict(model.state_dict())
    return exact.eval().double()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_as_exact_as_pytorchs_along_the_same_trajectory(name: str) -> None:
    """Against float64, over more steps than the context holds."""
    model = make_world_model(CONFIGS[name], VOCABULARY)
    first, actions = inputs(model, 9, 2 * model.config.max_blocks)
    found = by_address(model, play(make_dream(model, first), actions))
    recorded = {address: sample for address, (sample, _) in found.items()}
    exact = forced_logits(double(model), first, actions, recorded)
    plain = forced_logits(model, first, actions, recorded)
    assert found.keys() == exact.keys()
    ours = torch.cat([(logits - exact[address]).flatten() for address, (_, logits) in found.items()])
    theirs = torch.cat([(plain[address] - exact[address]).flatten() for address in found])
    largest = max(float(logits.abs().amax()) for logits in exact.values())
    assert float(ours.abs().amax()) <= 2 * float(theirs.abs().amax()) + ROUNDING * largest
    assert float(ours.square().mean().sqrt()) <= 2 * float(theirs.square().mean().sqrt())


@pytest.mark.parametrize("name", CONFIGS)
def test_samples_are_the_draws_from_these_logits(name: str) -> None:
    model = make_world_model(CONFIGS[name], VOCABULARY)
    first, actions = inputs(model, 9, model.config.max_blocks + 2)
    found = by_address(model, play(make_dream(model, first, seed=2**63 + 5, first_row=4), actions))
    draws = PhiloxDraws(2**63 + 5, first_row=4)
    for (purpose, position), (sample, logits) in found.items():
        assert torch.equal(sample, draws.sample(logits, position, purpose))


@given(
    config=st.sampled_from(sorted(CONFIGS)),
    batch=st.integers(1, 21),
    threads=st.integers(1, 3),
    group_size=st.integers(0, 25),
    simd=st.sampled_from(LEVELS),
    precisions=st.sampled_from(
        [(kv, weights) for kv in ("float32", "float16") for weights in ("float32", "float16", "int8")]
    ),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=40, deadline=None)
def test_the_same_bits_for_any_threads_groups_and_simd_level(
    config: str,
    batch: int,
    threads: int,
    group_size: int,
    simd: str,
    precisions: tuple[HalfOrFloat, WeightsDtype],
    seed: int,
) -> None:
    """With more threads than groups, too, which then go through each pass together."""
    model = make_world_model(CONFIGS[config], VOCABULARY)
    first, actions = inputs(model, batch, model.config.max_blocks + 1, seed % 1000)
    kv_dtype, weights_dtype = precisions
    one = make_dream(model, first, seed, group_size=1, kv_dtype=kv_dtype, weights_dtype=weights_dtype)
    other = make_dream(
        model,
        first,
        seed,
        threads=threads,
        group_size=group_size,
        simd=simd,
        kv_dtype=kv_dtype,
        weights_dtype=weights_dtype,
    )
    assert_bit_equal(play(one, actions), play(other, actions))


@pytest.mark.parametrize("name", ["micro", "odd"])
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_do_not_depend_on_their_batch(name: str, threads: int) -> None:
    """All that a row is drawn from and draws, past the end of the context; also alone, where threads share a pass."""
    model = make_world_model(CONFIGS[name], VOCABULARY)
    first, actions = inputs(model, 8, model.config.max_blocks + 2)
    whole = play(make_dream(model, first, threads=threads), actions)
    for rows in (slice(5, 8), slice(2, 3)):
        part = play(make_dream(model, first[rows], first_row=rows.start, threads=threads), actions[rows])
        assert_bit_equal([rows_of(played, rows) for played in whole], part)


def test_cache_lengths() -> None:
    model = make_world_model(CONFIGS["paper_blocks"], VOCABULARY)
    first, actions = inputs(model, 1, 5)
    dream = make_dream(model, first)
    assert (dream.length, dream.steps) == (16, 0)
    lengths = []
    for step in range(4):
        dream.step(actions[:, step])
        lengths.append(dream.length)
    assert lengths == [33, 50, 33, 50]
    dream.step(actions[:, 4], generate_frame=False)
    assert (dream.length, dream.steps) == (51, 5)


def test_not_a_number_in_the_weights_crashes_nothing() -> None:
    model = make_world_model(CONFIGS["micro"], VOCABULARY)
    with torch.no_grad():
        model.pos_emb.weight[7, 3] = torch.nan
        model.transformer.ln_f.weight[2] = torch.inf
    first, actions = inputs(model, 6, 6)
    for simd in LEVELS:
        for outcome, _ in play(make_dream(model, first, simd=simd), actions):
            assert outcome.tokens is None or bool(
                ((outcome.tokens >= 0) & (outcome.tokens < VOCABULARY)).all()
            )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w.pop("pos_emb.weight"), KeyError, "pos_emb.weight"),
        (
            lambda w: w.update({"pos_emb.weight": w["pos_emb.weight"][:-1]}),
            ValueError,
            r"\(20, 16\).*\(19, 16\)",
        ),
        (
            lambda w: w.update({"pos_emb.weight": w["pos_emb.weight"].astype(np.float64)}),
            TypeError,
            "float64",
        ),
        (lambda w: w.update({"pos_emb.weight": w["pos_emb.weight"][:, ::-1]}), ValueError, "contiguous"),
        (lambda w: w.update({"pos_emb.weight": [1.0]}), TypeError, "NumPy array"),
        (
            lambda w: w.update({"transformer.blocks.1.mlp.0.bias": np.zeros(63, np.float32)}),
            ValueError,
            "mlp.0.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change: object, error: type[Exception], message: str) -> None:
    assert EXTENSION is not None and callable(change)
    model = make_world_model(small_transformer(), VOCABULARY)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    sizes = {"num_layers": 2, "num_heads": 2, "tokens_per_block": 5, "max_blocks": 4}
    EXTENSION.TokenModel(weights, **sizes, block_causal=False, layer_norm_epsilon=1e-5)
    change(weights)
    with pytest.raises(error, match=message):
        EXTENSION.TokenModel(weights, **sizes, block_causal=False, layer_norm_epsilon=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_heads": 3}, "multiple of heads"),
        ({"num_heads": 0}, "heads"),
        ({"num_layers": 0}, "layers"),
        ({"num_layers": 10**6}, "layers"),
        ({"max_blocks": 1}, "max_blocks"),
        ({"tokens_per_block": 1}, "tokens_per_block"),
        ({"tokens_per_block": 2**40}, "tokens_per_block"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"simd": "avx1024"}, "avx1024"),
    ],
)
def test_sizes_that_cannot_be_are_named(sizes: dict[str, object], message: str) -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    valid: dict[str, object] = {"num_layers": 2, "num_heads": 2, "tokens_per_block": 5, "max_blocks": 4}
    options = valid | {"block_causal": False, "layer_norm_epsilon": 1e-5} | sizes
    with pytest.raises(ValueError, match=message):
        EXTENSION.TokenModel(weights, **options)


def test_bad_tokens_and_actions_are_named() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    first, actions = inputs(model, 3, 1)
    dream = make_dream(model, first)
    for bad in (NUM_ACTIONS, -1, 2**40):
        with pytest.raises(ValueError, match=f"actions.*{bad} at index 2"):
            dream.step(torch.tensor([0, 0, bad]))
    with pytest.raises(ValueError, match=r"actions must have shape \(3,\)"):
        dream.step(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="int64"):
        dream.step(torch.zeros(3))
    assert dream.steps == 0
    for bad in (VOCABULARY, -1):
        with pytest.raises(ValueError, match=f"first_tokens.*{bad} at index 0"):
            dream.restart(torch.full((3, 4), bad), PhiloxDraws(0))
        with pytest.raises(ValueError, match="tokens must be in"):
            dream.replace(torch.full((3, 4), bad))
        with pytest.raises(ValueError, match="next_tokens must be in"):
            dream.step(torch.zeros(3, dtype=torch.int64), next_tokens=torch.full((3, 4), bad))
    with pytest.raises(ValueError, match=r"first_tokens must have shape \(3, 4\)"):
        dream.restart(first[:, :3], PhiloxDraws(0))
    with pytest.raises(ValueError, match="batch"):
        make_dream(model, first[:0])
    with pytest.raises(ValueError, match="kv_dtype"):
        make_dream(model, first, kv_dtype="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed"):
        make_dream(model, first, seed=-1)
    for threads in (0, 10**6):
        with pytest.raises(ValueError, match="threads"):
            make_dream(model, first, threads=threads)
    dream.step(actions[:, 0])
    assert dream.steps == 1


def test_refuses_weights_of_another_precision() -> None:
    with pytest.raises(ValueError, match=r"float32 weights.*float64"):
        pack_world_model(make_world_model(small_transformer(), VOCABULARY).double())


def slow_dream(threads: int) -> tuple[CpuDream, Tensor]:
    """A dream whose step takes tenths of a second."""
    config = TransformerConfig(num_layers=4, num_heads=2, embed_dim=128)
    model = make_world_model(config, VOCABULARY)
    first, actions = inputs(model, 16, 1)
    return make_dream(model, first, threads=threads, group_size=4, simd="portable"), actions[:, 0]


@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_a_step_and_the_dream_can_be_restarted() -> None:
    dream, actions = slow_dream(threads=2)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    began = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            dream.step(actions)
    timer.join()
    assert time.perf_counter() - began < 10
    with pytest.raises(RuntimeError, match="restart"):
        dream.step(actions)
    dream.restart(dream.tokens, PhiloxDraws(0))


def test_other_threads_run_meanwhile_and_may_not_step_the_same_dream() -> None:
    dream, actions = slow_dream(threads=1)
    worker = threading.Thread(target=dream.step, args=(actions,))
    worker.start()
    time.sleep(0.05)
    assert worker.is_alive(), "the step holds no lock of the interpreter"
    with pytest.raises(RuntimeError, match="in use"):
        dream.step(actions)
    worker.join()
    assert dream.steps == 1
