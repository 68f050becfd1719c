from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import Sample, philox_uniform, sample_categorical, sample_categorical_reference
from iris_fast.kernels.common.extension import find_extension
from iris_fast.kernels.common.registration import NAMESPACE
from iris_fast.kernels.sample_categorical import invert, launch_sample_categorical
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

# By name, because the package exports the function under the same name.
MODULE = importlib.import_module("iris_fast.kernels.sample_categorical")

# A draw may differ between implementations only where u lies this near a boundary of the cumulative
# distribution. Measured over 1.6 million draws beside a boundary: 2.2e-8, because rounding a p by 6e-8 moves
# the boundary by p (1 - p) times that.
BOUNDARY_GAP = 5e-8


def boundary_gap(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """The distance (rows,) of u (rows,) to the nearest boundary of the float64 distribution of logits."""
    boundaries = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return (boundaries - uniform.double()[:, None]).abs().amin(-1)


def exact_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    boundaries = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return (boundaries <= uniform.double()[:, None]).sum(-1)


@pytest.mark.parametrize("classes", [1, 2, 3, 18, 512, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_both_implementations_invert_the_exact_distribution(classes: int, temperature: float) -> None:
    torch.manual_seed(classes)
    logits = 3 * torch.randn(2000, classes)
    options: dict[str, Any] = {"seed": 5, "position": 7, "purpose": 3, "temperature": temperature}
    uniform = philox_uniform(5, torch.arange(2000), 7, 3)
    clear = boundary_gap(logits, uniform, temperature) > BOUNDARY_GAP
    assert clear.float().mean() > 0.99
    expected = exact_tokens(logits, uniform, temperature)[clear]
    assert torch.equal(sample_categorical(logits, **options)[clear], expected)
    assert torch.equal(sample_categorical_reference(logits, **options)[clear], expected)


def test_draws_differ_only_within_rounding_of_a_boundary() -> None:
    uniform = philox_uniform(1, torch.arange(20_000), 0, 0)
    torch.manual_seed(0)
    boundary = (uniform.double() + torch.randn(20_000).double() * 3e-8).clamp(1e-6, 1 - 1e-6)
    logits = torch.stack([boundary.log(), (-boundary).log1p()], dim=-1).float()
    gap = boundary_gap(logits, uniform)
    assert (gap < BOUNDARY_GAP).float().mean() > 0.3  # the test reaches the region it is about
    exact = exact_tokens(logits, uniform)
    for draw in (sample_categorical, sample_categorical_reference):
        wrong = draw(logits, seed=1, position=0, purpose=0) != exact
        assert gap[wrong].max() < BOUNDARY_GAP


def test_the_extension_is_what_draws_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = find_extension()
    assert extension is not None, "iris_fast._C is not built: run `python -m pip install -e .`"
    calls = []

    class Spy:
        def sample_categorical(self, *arguments: Any) -> Any:
            calls.append(arguments)
            assert extension is not None
            return extension.sample_categorical(*arguments)

    monkeypatch.setattr(MODULE, "find_extension", Spy)
    sample_categorical(torch.zeros(2, 3), seed=0, position=0, purpose=0)
    assert len(calls) == 1


def test_the_reference_draws_where_there_is_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 9)
    with_extension = sample_categorical(logits, seed=3, position=1, purpose=0)
    monkeypatch.setattr(MODULE, "find_extension", lambda: None)
    assert torch.equal(sample_categorical(logits, seed=3, position=1, purpose=0), with_extension)


def test_the_distribution_by_chi_squared() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    for temperature in (1.0, 0.5):
        draws = sample_categorical(
            logits.expand(50_000, 5), seed=12, position=0, purpose=0, temperature=temperature
        )
        expected = 50_000 * (logits / temperature).softmax(0)
        chi_squared = ((torch.bincount(draws, minlength=5) - expected).square() / expected).sum().item()
        assert chi_squared < 33  # 4 degrees of freedom: above once in 10^6


def test_rows_are_counted_over_the_leading_dimensions_and_do_not_depend_on_the_batch() -> None:
    logits = torch.randn(4, 3, 7)
    tokens = sample_categorical(logits, seed=2, position=5, purpose=1)
    assert tokens.shape == (4, 3)
    assert tokens.dtype == torch.int64
    rows = torch.arange(12).reshape(4, 3)
    part = sample_categorical(logits[1:3], seed=2, position=5, purpose=1, row=rows[1:3])
    assert torch.equal(part, tokens[1:3])
    one = sample_categorical(logits[2, 1], seed=2, position=5, purpose=1, row=torch.tensor(7))
    assert one.shape == ()
    assert one == tokens[2, 1]


def test_addresses_may_be_tensors() -> None:
    logits = torch.randn(6, 11)
    tokens = sample_categorical(logits, seed=2**64 - 3, position=4, purpose=1)
    seed, position = torch.tensor(-3), torch.tensor(4, dtype=torch.int32)
    assert torch.equal(sample_categorical(logits, seed=seed, position=position, purpose=1), tokens)
    positions = torch.arange(6)
    by_row = sample_categorical(logits, seed=1, position=positions, purpose=0)
    alone = [sample_categorical(logits, seed=1, position=p, purpose=0)[p] for p in range(6)]
    assert by_row.tolist() == alone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_draw_as_their_float32_values(dtype: torch.dtype) -> None:
    logits = torch.randn(300, 20).to(dtype)
    expected = sample_categorical(logits.float(), seed=1, position=0, purpose=0)
    assert torch.equal(sample_categorical(logits, seed=1, position=0, purpose=0), expected)


def test_non_contiguous_logits() -> None:
    logits = torch.randn(20, 300).T
    expected = sample_categorical(logits.contiguous(), seed=1, position=0, purpose=0)
    assert torch.equal(sample_categorical(logits, seed=1, position=0, purpose=0), expected)
    assert torch.equal(sample_categorical_reference(logits, seed=1, position=0, purpose=0), expected)


@pytest.mark.parametrize("draw", [sample_categorical, sample_categorical_reference])
def test_special_rows(draw: Any) -> None:
    infinity, nan = float("inf"), float("nan")
    rows = torch.tensor(
        [
            [-infinity, 0.0, -infinity],  # one possible class
            [nan, 0.0, 0.0],
            [0.0, 0.0, nan],
            [0.0, infinity, 0.0],
            [-infinity, -infinity, -infinity],
            [3e38, -3e38, 3e38],
        ]
    )
    for position in range(20):
        tokens = draw(rows, seed=0, position=position, purpose=0)
        assert tokens[:5].tolist() == [1, 0, 0, 0, 0]
        assert tokens[5] in (0, 2)


@pytest.mark.parametrize("draw", [sample_categorical, sample_categorical_reference])
def test_zero_rows(draw: Any) -> None:
    tokens = draw(torch.empty(0, 5), seed=0, position=0, purpose=0)
    assert tokens.shape == (0,)
    assert tokens.dtype == torch.int64
    assert draw(torch.empty(2, 0, 5), seed=0, position=0, purpose=0).shape == (2, 0)


@pytest.mark.parametrize("draw", [sample_categorical, sample_categorical_reference])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": torch.zeros(3, 0)}, ValueError, r"at least one class, got shape \(3, 0\)"),
        ({"logits": torch.tensor(1.0)}, ValueError, r"got shape \(\)"),
        (
            {"logits": torch.zeros(3, 2, dtype=torch.int64)},
            TypeError,
            "floating point, got dtype torch.int64",
        ),
        ({"temperature": 0.0}, ValueError, "temperature must be positive and finite, got 0.0"),
        ({"temperature": float("nan")}, ValueError, "got nan"),
        ({"seed": -1}, ValueError, "seed must be an int from 0 to"),
        ({"position": 2**32}, ValueError, "position must be an int from 0 to"),
        ({"purpose": -1}, ValueError, "purpose must be an int from 0 to"),
        ({"temperature": 1e-50}, ValueError, "temperature must be in float32, got 1e-50"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, or None for all classes, got 0"),
        ({"top_p": 0.0}, ValueError, r"top_p must be in \(0, 1\], or None for all classes, got 0.0"),
        ({"top_p": float("nan")}, ValueError, "got nan"),
        ({"row": torch.arange(4)}, ValueError, r"row must broadcast to shape \(3,\), got \(4,\)"),
        ({"row": torch.zeros(3)}, TypeError, "row must be an int or a tensor of integers"),
        ({"position": torch.arange(2)}, ValueError, r"position must broadcast to shape \(3,\), got \(2,\)"),
        (
            {"row": torch.arange(3, device="meta")},
            ValueError,
            "row must be on the device of logits, cpu, got meta",
        ),
    ],
)
def test_bad_arguments_are_refused(
    draw: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        draw(**{"logits": torch.zeros(3, 2), "seed": 0, "position": 0, "purpose": 0, **arguments})


@pytest.mark.parametrize("shape", [(4, 9), (0, 9)])
def test_operator_is_registered_as_torch_expects(shape: tuple[int, int]) -> None:
    operator = getattr(torch.ops, NAMESPACE).sample_categorical.default
    rows = torch.arange(shape[0])
    torch.library.opcheck(operator, (torch.randn(shape), torch.tensor(3), rows, rows, 2, 0.7))
    torch.library.opcheck(
        operator, (torch.randn(shape, requires_grad=True), torch.tensor(3), rows, rows, 2, 0.7)
    )


def test_compiles_without_graph_breaks() -> None:
    def draw(logits: Tensor, position: Tensor) -> Tensor:
        return sample_categorical(logits * 2, seed=3, position=position, purpose=1) + 1

    logits, position = torch.randn(8, 5), torch.tensor(6)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, position), draw(logits, position))


@pytest.mark.gpu
def test_cuda_draws_as_the_cpu_does_and_under_graph_capture() -> None:
    logits = 3 * torch.randn(4000, 512)
    seed, position = torch.tensor(3, device="cuda"), torch.tensor(0, device="cuda")
    on_device = logits.cuda()
    sample_categorical(on_device, seed=seed, position=position, purpose=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sample_categorical(on_device, seed=seed, position=position, purpose=0)
    for step in range(3):
        position.fill_(step)
        graph.replay()
        uniform = philox_uniform(3, torch.arange(4000), step, 0)
        clear = boundary_gap(logits, uniform) > 2 * BOUNDARY_GAP
        expected = sample_categorical(logits, seed=3, position=step, purpose=0)
        assert torch.equal(tokens.cpu()[clear], expected[clear])


# What the tests of truncation and of the kernel add: the distribution by its definition, class by class.


def exact_distribution(logits: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities (rows, classes) float64, and how near (rows,) the mass to reach is to one that is reached."""
    weights = ((logits.double() - logits.double().amax(-1, keepdim=True)) / temperature).exp()
    not_more_probable = logits[:, None, :] <= logits[:, :, None]  # (rows, class, other class)
    if top_k:
        weights = torch.where((~not_more_probable).sum(-1) < top_k, weights, 0)
    gap = torch.full((len(logits),), torch.inf, dtype=torch.float64)
    if top_p < 1:
        weights = weights / weights.sum(-1, keepdim=True)
        above = torch.where(not_more_probable, 0, weights[:, None, :]).sum(-1)
        gap = (above - top_p).abs().amin(-1)
        weights = torch.where(above < top_p, weights, 0)
    return weights / weights.sum(-1, keepdim=True), gap


def assert_drawn_from(
    sample: Any, logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float
) -> None:
    """Asserts tokens, log-probabilities and entropies of finite logits (rows, classes), beside float64's."""
    probabilities, gap = exact_distribution(logits.float(), temperature, top_k, top_p)
    boundaries = probabilities.cumsum(-1)
    near = (boundaries - uniform.double()[:, None]).abs().amin(-1)
    clear = (gap > 1e-6) & (near > 3 * BOUNDARY_GAP)
    assert clear.any() and clear.double().mean() > 0.8
    tokens, log_probs, entropies = (part.cpu() for part in sample)
    assert torch.equal(tokens[clear], (boundaries <= uniform.double()[:, None]).sum(-1)[clear])
    exact_log = probabilities.gather(-1, tokens[:, None])[:, 0].log()
    exact_entropies = torch.special.entr(probabilities).sum(-1)
    plain = (logits.float() / temperature).masked_fill(probabilities == 0, -torch.inf).log_softmax(-1)
    plain_log = plain.gather(-1, tokens[:, None])[:, 0]
    plain_entropies = -(plain.exp() * plain.nan_to_num(neginf=0.0)).sum(-1)
    assert_as_exact_as(log_probs[clear], plain_log[clear], exact_log[clear])
    assert_as_exact_as(entropies[clear], plain_entropies[clear], exact_entropies[clear], rounding=4)


TRUNCATIONS = [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.8), (0, 0.05), (6, 0.7)]


def launched(
    logits: Tensor, device: str, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, **kwargs: Any
) -> Sample:
    """The kernels' draw at (seed 5; index, position 7, purpose 3), their outputs poisoned before."""
    position = torch.tensor(7, device=device).expand(len(logits))
    address = (torch.tensor(5, device=device), None, position, 3)
    with poisoned_outputs():
        parts = launch_sample_categorical(
            logits.to(device), *address, temperature, top_k, top_p, with_info=True, **kwargs
        )
    return Sample(*(part for part in parts if part is not None))


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS)
@pytest.mark.parametrize("ties", [False, True])
def test_the_reference_truncates_as_defined(temperature: float, top_k: int, top_p: float, ties: bool) -> None:
    logits = 2 * torch.randn(500, 12, generator=torch.Generator().manual_seed(top_k))
    logits = logits.round() if ties else logits
    sample = sample_categorical_reference(
        logits,
        seed=5,
        position=7,
        purpose=3,
        temperature=temperature,
        top_k=top_k or None,
        top_p=top_p,
        return_info=True,
    )
    uniform = philox_uniform(5, torch.arange(500), 7, 3)
    assert_drawn_from(sample, logits, uniform, temperature, top_k, top_p)


TIED = torch.tensor([2.0, 1.0, 1.0, 1.0, -0.0, 0.0])


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, 1.0, {0}),
        (2, 1.0, {0, 1, 2, 3}),
        (5, 1.0, {0, 1, 2, 3, 4, 5}),
        (0, 0.3, {0}),
        (0, 0.5, {0, 1, 2, 3}),
        (0, 0.9, {0, 1, 2, 3, 4, 5}),
        (2, 0.99, {0, 1, 2, 3}),
    ],
)
def test_ties_with_the_last_kept_class_stay(top_k: int, top_p: float, kept: set[int]) -> None:
    tokens = sample_categorical(
        TIED.expand(400, 6), seed=1, position=0, purpose=0, top_k=top_k or None, top_p=top_p
    )
    assert set(tokens.tolist()) == kept


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [{}, {"tile_classes": 4, "chunk_classes": 32}], ids=["tile", "chunks"])
def test_the_kernel_keeps_ties(device: str, sizes: dict[str, int]) -> None:
    for top_k, top_p, kept in ((2, 1.0, 4), (5, 1.0, 6), (0, 0.3, 1)):
        sample = launched(TIED.expand(2, 6).bfloat16(), device, 1.0, top_k, top_p, **sizes)
        weights = TIED.double().exp()[:kept]
        expected = -(weights / weights.sum() * (weights / weights.sum()).log()).sum().item()
        assert sample.entropies.tolist() == pytest.approx([expected] * 2, abs=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [1, 2, 3, 18, 100, 512, 1000])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_kernel_draws_from_the_exact_distribution(device: str, classes: int, temperature: float) -> None:
    rows = 37 if classes < 512 else 6
    logits = 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(classes))
    uniform = philox_uniform(5, torch.arange(rows), 7, 3)
    assert_drawn_from(launched(logits, device, temperature), logits, uniform, temperature, 0, 1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_truncates_as_defined(device: str, top_k: int, top_p: float, dtype: torch.dtype) -> None:
    logits = (2 * torch.randn(9, 90, generator=torch.Generator().manual_seed(top_k))).to(dtype)
    logits[::2] = logits[::2].round()
    sample = launched(logits, device, 1.3, top_k, top_p)
    assert_drawn_from(sample, logits, philox_uniform(5, torch.arange(9), 7, 3), 1.3, top_k, top_p)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("top_k", "top_p", "dtype"),
    [(0, 1.0, torch.float32), (5, 1.0, torch.float32), (6, 0.7, torch.bfloat16), (0, 0.8, torch.float16)],
)
def test_rows_in_chunks_are_truncated_as_defined(
    device: str, top_k: int, top_p: float, dtype: torch.dtype
) -> None:
    logits = (2 * torch.randn(3, 90, generator=torch.Generator().manual_seed(top_k))).to(dtype)
    logits[::2] = logits[::2].round()
    sample = launched(logits, device, 1.3, top_k, top_p, tile_classes=32, chunk_classes=64)
    assert_drawn_from(sample, logits, philox_uniform(5, torch.arange(3), 7, 3), 1.3, top_k, top_p)


@pytest.mark.parametrize("device", DEVICES)
def test_chunks_of_far_apart_logits_are_weighed_exactly(device: str) -> None:
    logits = torch.randn(8, 300) + 8 * torch.randn(8, 6).repeat_interleave(50, -1)
    sample = launched(logits, device, tile_classes=32, chunk_classes=64)
    assert_drawn_from(sample, logits, philox_uniform(5, torch.arange(8), 7, 3), 1.0, 0, 1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("long", [False, True], ids=["tile", "chunks"])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_the_kernel_gives_token_0_for_rows_that_are_no_distribution(
    device: str, long: bool, truncated: bool
) -> None:
    infinity, nan = float("inf"), float("nan")
    rows = torch.zeros(6, 40)
    rows[0], rows[0, 39] = -infinity, 1.0
    rows[1, 0], rows[2, 39], rows[3, 20], rows[4] = nan, nan, infinity, -infinity
    rows[5] = 3e38 * torch.linspace(-1, 1, 40)
    sizes = {"tile_classes": 16, "chunk_classes": 32} if long else {}
    if truncated and long:
        rows = rows.bfloat16()  # whose keys are found in half the steps
    for temperature in (3e38,) if truncated or long else (1.0, 2.0**-126, 3e38):
        options = (5, 0.9) if truncated else (0, 1.0)
        sample = launched(rows, device, temperature, *options, **sizes)
        assert sample.tokens[:5].tolist() == [39, 0, 0, 0, 0]
        assert 0 <= sample.tokens[5] < 40
        assert torch.isnan(sample.log_probs).tolist() == [False, True, True, True, True, False]
        assert torch.isnan(sample.entropies).tolist() == [False, True, True, True, True, False]
        assert sample.log_probs[0] == 0 and sample.entropies[0] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_the_kernel_draws_at_the_address_given(device: str) -> None:
    logits = torch.randn(6, 3, 11).transpose(0, 1)[1:].reshape(12, 11)[:, ::2]
    row, position = torch.arange(12) * 2**31, torch.arange(12) + 2**32
    seed = torch.tensor(-5)
    expected = sample_categorical_reference(logits, seed=seed, row=row, position=position, purpose=2**32 - 1)
    on_device = (seed.to(device), row.to(device), position.to(device), 2**32 - 1, 1.0)
    choices: list[dict[str, Any]] = [
        {},
        {"tile_classes": 4, "chunk_classes": 32},
        {"block_rows": 4, "num_warps": 2},
    ]
    for sizes in choices:
        found = launch_sample_categorical(logits.to(device), *on_device, **sizes)
        assert torch.equal(found[0].cpu(), expected)
        assert found[1] is None


@pytest.mark.parametrize("device", DEVICES)
@given(
    rows=st.integers(0, 6),
    classes=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    strides=st.sampled_from(["contiguous", "transposed", "sliced"]),
    top_k=st.integers(0, 80),
    top_p=st.sampled_from([1.0, 0.9, 1e-6]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_the_kernel_agrees_with_the_reference_on_any_shape_and_stride(
    device: str,
    rows: int,
    classes: int,
    dtype: torch.dtype,
    strides: str,
    top_k: int,
    top_p: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (classes, rows) if strides == "transposed" else (rows, 2 * classes)
    logits = torch.randn(shape, generator=generator).to(dtype)
    logits = {"transposed": logits.t(), "sliced": logits[:, classes:]}.get(strides, logits[:, :classes])
    top_k = 0 if top_k >= classes else top_k
    found = launched(logits, device, 1.0, top_k, top_p)
    position = torch.tensor(7).expand(rows)
    expected = invert(logits, torch.tensor(5), None, position, 3, 1.0, top_k, top_p)
    uniform = philox_uniform(5, torch.arange(rows), 7, 3)
    probabilities, gap = exact_distribution(logits.float(), 1.0, top_k, top_p)
    near = (probabilities.cumsum(-1) - uniform.double()[:, None]).abs().amin(-1)
    clear = (gap > 1e-6) & (near > 3 * BOUNDARY_GAP)
    assert torch.equal(found.tokens.cpu()[clear], expected[0][clear])
    torch.testing.assert_close(found.log_probs.cpu()[clear], expected[1][clear], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.entropies.cpu()[clear], expected[2][clear], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("truncated", [False, True])
def test_the_kernels_distribution_by_chi_squared(device: str, truncated: bool) -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5, -9.0]])
    top_k, top_p = (4, 0.95) if truncated else (0, 1.0)
    count = 20_000
    sample = launched(logits.expand(count, 6), device, 0.8, top_k, top_p, block_rows=4096)
    expected = count * exact_distribution(logits, 0.8, top_k, top_p)[0][0]
    counts = torch.bincount(sample.tokens.cpu(), minlength=6)
    assert (counts[expected == 0] == 0).all()
    likely = expected > 0
    chi_squared = ((counts - expected).square() / expected)[likely].sum().item()
    assert chi_squared < 36  # at most 5 degrees of freedom: above once in 10^6


@pytest.mark.parametrize("top_k", [None, 3])
def test_info_belongs_to_the_same_tokens(top_k: int | None) -> None:
    logits = torch.randn(4, 3, 7)
    options: dict[str, Any] = {"seed": 2, "position": 5, "purpose": 1, "top_k": top_k}
    sample = sample_categorical(logits, return_info=True, **options)
    assert isinstance(sample, Sample)
    assert torch.equal(sample.tokens, sample_categorical(logits, **options))
    for part in sample[1:]:
        assert part.shape == (4, 3) and part.dtype == torch.float32


def test_operator_with_info_is_registered_as_torch_expects() -> None:
    operator = getattr(torch.ops, NAMESPACE).sample_categorical_info.default
    position = torch.arange(4)
    torch.library.opcheck(operator, (torch.randn(4, 9), torch.tensor(3), None, position, 2, 0.7, 3, 0.9))

    def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
        sample = sample_categorical(logits, seed=3, position=1, purpose=1, top_p=0.9, return_info=True)
        return sample.tokens + 1, sample.entropies

    logits = torch.randn(8, 5)
    found = torch.compile(draw, fullgraph=True, backend="aot_eager")(logits)
    for part, expected in zip(found, draw(logits), strict=True):
        assert torch.equal(part, expected)


REACHED = [
    ([0.3, 0.1, 0.1, 0.5], 0.8, {0, 3}),
    ([0.6, 0.3, 0.1], 0.6, {0}),
    ([0.6, 0.3, 0.1], 0.9, {0, 1}),
    ([0.4, 0.4, 0.1, 0.1], 0.8, {0, 1}),
    ([0.25] * 4, 0.25, {0, 1, 2, 3}),
    ([0.7, 0.2, 0.1], 0.7, {0}),
    ([0.05, 0.05, 0.9], 0.9, {2}),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("probabilities", "top_p", "kept"), REACHED)
def test_a_top_p_that_a_mass_reaches_exactly_keeps_no_class_more(
    device: str, probabilities: list[float], top_p: float, kept: set[int]
) -> None:
    logits = torch.tensor(probabilities, dtype=torch.float64).log().float().expand(400, -1)
    for draw in (sample_categorical, sample_categorical_reference):
        assert set(draw(logits, seed=1, position=0, purpose=0, top_p=top_p).tolist()) == kept
    expected = sample_categorical_reference(logits, seed=1, position=0, purpose=0, top_p=top_p)
    # In one tile, and as a long row, which the interpreter takes a second for.
    for tile_classes, rows in ((8192, 400), (2, 12)):
        address = (torch.tensor(1, device=device), None, torch.zeros(rows, dtype=torch.int64, device=device))
        found = launch_sample_categorical(
            logits[:rows].to(device), *address, 0, 1.0, 0, top_p, tile_classes=tile_classes, chunk_classes=32
        )[0]
        assert torch.equal(found.cpu(), expected[:rows]), tile_classes


def test_more_classes_than_a_draw_has_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 2\*\*24 classes, got 16777217"):
        sample_categorical(torch.zeros(1).expand(1, 2**24 + 1), seed=0, position=0, purpose=0)
