from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import vq_lookup, vq_lookup_reference
from iris_fast.kernels._vq.tiles import SearchConfig
from iris_fast.kernels.vq_lookup import launch_vq_lookup, search_config, search_splits
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

PRECISIONS = ["ieee", "tf32x3", "tf32", "bf16"]
UNIT = {"ieee": 2**-24, "tf32x3": 2**-20, "tf32": 2**-9, "bf16": 2**-7}
"""Largest error of a product's two rounded factors, relative to the product; TF32 may cut instead of rounding."""
SHAPES = [(1, 8, 16), (5, 8, 1), (16, 64, 70), (40, 33, 100), (130, 16, 33), (2, 1, 3)]


def random_inputs(
    rows: int, dim: int, num_codes: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dim, generator=generator).to(dtype)
    return vectors, torch.randn(num_codes, dim, generator=generator).to(dtype)


def scores64(vectors: Tensor, codebook: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """What is minimised, (rows, num_codes), and the magnitude of its terms, which its error is relative to."""
    x, c = vectors.double().cpu(), codebook.double().cpu()
    if distance == "cosine":
        c = c / c.norm(dim=1, keepdim=True).clamp_min(1e-12)
    terms = 0.5 * c.square().sum(1) if distance == "euclidean" else torch.zeros(len(c), dtype=torch.float64)
    return terms - x @ c.t(), terms + x.abs() @ c.abs().t()


def assert_nearest(
    indices: Tensor, vectors: Tensor, codebook: Tensor, distance: str, unit: float = UNIT["ieee"]
) -> None:
    """Asserts that no codeword is nearer than the chosen by more than rounding, and that clear winners are chosen."""
    scores, magnitude = scores64(vectors, codebook, distance)
    assert indices.dtype == torch.int64
    chosen = scores.gather(1, indices.cpu()[:, None]).squeeze(1)
    allowed = 2 * (unit + 2**-22) * magnitude.amax(1) + 1e-30
    assert (chosen - scores.amin(1) <= allowed).all(), (chosen - scores.amin(1) - allowed).max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_finds_the_nearest_in_float64(
    device: str, shape: tuple[int, int, int], distance: Any
) -> None:
    vectors, codebook = random_inputs(*shape)
    with poisoned_outputs():
        quantized, indices, *errors = launch_vq_lookup(
            vectors.to(device), codebook.to(device), distance, "ieee", True
        )
    expected = scores64(vectors, codebook, distance)[0].argmin(1)
    assert torch.equal(indices.cpu(), expected)
    assert torch.equal(quantized.cpu(), codebook[expected])
    plain = (vectors - codebook[expected]).square().mean(1)
    exact = (vectors.double() - codebook[expected].double()).square().mean(1)
    for error in errors:
        assert_as_exact_as(error, plain, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_and_dtype_is_as_exact_as_it_says(
    device: str, precision: Any, dtype: torch.dtype
) -> None:
    vectors, codebook = random_inputs(70, 40, 90, dtype=dtype)
    with poisoned_outputs():
        quantized, indices, *_ = launch_vq_lookup(
            vectors.to(device), codebook.to(device), "euclidean", precision
        )
    unit = UNIT[precision] if dtype == torch.float32 or precision == "bf16" else UNIT["ieee"]
    assert_nearest(indices, vectors, codebook, "euclidean", unit)
    assert quantized.dtype == dtype and torch.equal(quantized.cpu(), codebook[indices.cpu()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("capability", "dim"), [(8, 150), (9, 40), (9, 150), (10, 40)])
def test_the_tiles_of_large_lookups(device: str, precision: Any, capability: int, dim: int) -> None:
    vectors, codebook = random_inputs(130, dim, 300)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config = search_config(10**6, 8192, dim, dtype, precision, capability)
    with poisoned_outputs():
        _, indices, *_ = launch_vq_lookup(
            vectors.to(device), codebook.to(device), "euclidean", precision, config=config
        )
    assert_nearest(indices, vectors, codebook, "euclidean", UNIT[precision])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("splits", [1, 2, 3, 7, 11])
def test_the_split_does_not_change_the_result(device: str, splits: int) -> None:
    vectors, codebook = random_inputs(37, 24, 200)
    codebook[[7, 60, 199]] = vectors[3] + 0.01  # ties between ranges go to the lowest index
    found = launch_vq_lookup(vectors.to(device), codebook.to(device), splits=splits)[1]
    assert torch.equal(found.cpu(), scores64(vectors, codebook, "euclidean")[0].argmin(1))
    assert found[3] == 7


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mean", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_nearest_far_from_the_origin(device: str, mean: float, distance: Any) -> None:
    generator = torch.Generator().manual_seed(int(mean))
    codebook = torch.randn(40, 8, generator=generator) * 0.05 + mean
    codebook[[9, 30]] = codebook[2].clone()
    chosen = torch.randint(40, (64,), generator=generator)
    vectors = codebook[chosen] + 1e-3 * torch.randn(64, 8, generator=generator)
    vectors[:40] = codebook.clone()
    x, c = vectors.double(), codebook.double()
    if distance == "cosine":
        x, c = (t / t.norm(dim=1, keepdim=True) for t in (x, c))
    exact = torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    launched = launch_vq_lookup(vectors.to(device), codebook.to(device), distance, "ieee")[1]
    for found in (
        launched.cpu(),
        vq_lookup(vectors, codebook, distance=distance).indices,
        vq_lookup_reference(vectors, codebook, distance=distance).indices,
    ):
        assert torch.equal(found, exact)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_codebook_given_twice_gives_the_first(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        vectors, codebook = random_inputs(2000, 5, 3)
        assert (vq_lookup(vectors, codebook.repeat(2, 1)).indices < 3).all()
        exact = torch.tensor([[512695.0]]), torch.tensor([[512804.0], [512695.0]])
        assert vq_lookup(*exact).indices.item() == 1
        tiny = [1e-25 * t for t in random_inputs(300, 8, 40)]
        assert torch.equal(
            vq_lookup(tiny[0], tiny[1]).indices, torch.cdist(tiny[0].double(), tiny[1].double()).argmin(1)
        )
    finally:
        torch.set_num_threads(before)


SMALL_AND_LARGE = [None, SearchConfig(64, 128, 32, 4, 3, 2)]
"""Tiles that take their minimum over all of it, and by lanes, as the launcher does for large lookups on Hopper."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", SMALL_AND_LARGE)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_what_is_not_finite(device: str, config: Any, value: float, distance: Any) -> None:
    vectors, codebook = random_inputs(40, 40, 150)
    precision: Any = "tf32x3" if config else "ieee"
    expected = scores64(vectors, codebook, distance)[0].argmin(1)
    vectors[5, 3], vectors[39] = value, value
    codebook[68, 4] = value
    expected[5], expected[39] = 0, 0
    usable = expected != 68
    assert usable.sum() > 30
    for found in (
        launch_vq_lookup(vectors.to(device), codebook.to(device), distance, precision, config=config)[
            1
        ].cpu(),
        vq_lookup(vectors, codebook, distance=distance).indices,
    ):
        assert torch.equal(found[usable], expected[usable])
        assert (found != 68).all()
    nothing = torch.full((3, 40), value)
    assert not launch_vq_lookup(vectors.to(device), nothing.to(device), distance, precision, config=config)[
        1
    ].any()
    assert not vq_lookup(vectors, nothing, distance=distance).indices.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", SMALL_AND_LARGE)
def test_a_product_that_overflows_gives_index_0(device: str, config: Any) -> None:
    vectors, codebook = random_inputs(70, 40, 150)
    expected = scores64(vectors, codebook, "euclidean")[0].argmin(1)
    codebook[91], vectors[3], expected[3] = 1e8, 1e31, 0  # the squares of the codeword do not overflow
    vectors[7], expected[7] = -1e31, 0  # its score is infinite
    precision: Any = "tf32x3" if config else "ieee"
    for found in (
        launch_vq_lookup(vectors.to(device), codebook.to(device), "euclidean", precision, config=config)[
            1
        ].cpu(),
        vq_lookup(vectors, codebook).indices,
    ):
        usable = expected != 91
        usable[7] = False  # another codeword's score may be the least
        assert torch.equal(found[usable], expected[usable])
        assert found[7] != 91


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", SMALL_AND_LARGE)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_ties_go_to_the_lowest_index(device: str, config: Any, distance: Any) -> None:
    vectors, codebook = random_inputs(37, 32, 300)
    same = codebook[:1].repeat(300, 1)
    config_precision: Any = "tf32x3" if config else "ieee"
    assert not launch_vq_lookup(
        vectors.to(device), same.to(device), distance, config_precision, config=config
    )[1].any()
    assert not vq_lookup(vectors, same, distance=distance).indices.any()
    codebook[[9, 17, 77, 137, 265]] = codebook[9].clone()  # in one lane, in others, in other tiles
    near = codebook[9] + 0.01 * vectors
    precisions: tuple[Any, ...] = tuple(PRECISIONS)
    for precision in precisions:
        found = launch_vq_lookup(near.to(device), codebook.to(device), distance, precision, config=config)[1]
        assert (found == 9).all(), precision
    assert launch_vq_lookup(torch.zeros(1, 32, device=device), codebook.to(device), "cosine")[1].item() == 0


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(0, 20),
    dim=st.integers(1, 40),
    num_codes=st.integers(1, 50),
    seed=st.integers(0, 99),
    distance=st.sampled_from(["euclidean", "cosine"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    transposed=st.booleans(),
    launched=st.booleans(),
)
def test_any_shape_stride_and_dtype(
    rows: int,
    dim: int,
    num_codes: int,
    seed: int,
    distance: Any,
    dtype: torch.dtype,
    transposed: bool,
    launched: bool,
) -> None:
    vectors, codebook = random_inputs(rows, dim, num_codes, seed, dtype)
    if transposed:
        vectors, codebook = vectors.t().contiguous().t(), codebook.repeat(1, 2)[:, :dim]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if launched and dtype != torch.float64:
        quantized, indices, *_ = launch_vq_lookup(vectors.to(device), codebook.to(device), distance)
    else:
        indices, quantized, *_ = vq_lookup(vectors, codebook, distance=distance)
    assert indices.shape == (rows,) and quantized.shape == (rows, dim) and quantized.dtype == dtype
    if rows:
        assert_nearest(indices, vectors, codebook, distance)
    assert torch.equal(quantized.cpu(), codebook[indices.cpu()])


def test_leading_shapes_and_large_lookups_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, codebook = random_inputs(60, 12, 9)
    expected = torch.cdist(vectors.double(), codebook.double()).argmin(1)
    monkeypatch.setattr(sys.modules[vq_lookup.__module__], "_REFERENCE_SCORES", 50)
    found = vq_lookup(vectors.view(3, 4, 5, 12), codebook, commitment=True, reduction="rows", statistics=True)
    assert torch.equal(found.indices, expected.view(3, 4, 5))
    assert found.quantized.shape == (3, 4, 5, 12)
    assert found.commitment_loss is not None and found.commitment_loss.shape == (3, 4, 5)
    assert found.counts is not None and torch.equal(
        found.counts, torch.bincount(expected, minlength=9).float()
    )
    assert found.sums is not None
    torch.testing.assert_close(
        found.sums, torch.stack([vectors[expected == code].sum(0) for code in range(9)])
    )
    alone = vq_lookup(vectors[7], codebook)
    assert alone.indices.shape == () and alone.indices == expected[7] and alone.commitment_loss is None


def test_neither_autocast_nor_mixed_types_change_the_tokens() -> None:
    vectors, codebook = random_inputs(300, 24, 60)
    expected = vq_lookup(vectors, codebook).indices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vq_lookup(vectors, codebook).indices, expected)
    half = vectors.bfloat16()
    found = vq_lookup(half, codebook)
    assert found.quantized.dtype == torch.bfloat16
    assert torch.equal(found.indices, vq_lookup(half.float(), codebook).indices)
    rounded = vq_lookup(vectors.bfloat16().float(), codebook.bfloat16().float()).indices
    assert torch.equal(vq_lookup(vectors, codebook, precision="bf16").indices, rounded)
    assert not torch.equal(rounded, expected)


@pytest.mark.parametrize(
    ("switch", "low", "exact"), [("allow_tf32", True, "ieee"), ("fp32_precision", "tf32", "ieee")]
)
def test_either_switch_of_tf32_is_off_inside_and_as_it_was_after(switch: str, low: Any, exact: Any) -> None:
    """PyTorch lets a process use one of the two switches. So this is in a process of its own."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch has no such switch")
    program = (
        "import torch; from iris_fast.kernels.common.arithmetic import exact_float32\n"
        "m = torch.backends.cuda.matmul\n"
        f"m.{switch} = {low!r}\n"
        "with exact_float32(torch.device('cuda')): inside = m.fp32_precision\n"
        f"assert inside == {exact!r} and m.{switch} == {low!r}\n"
        "with exact_float32(torch.device('cpu')): assert m." + switch + f" == {low!r}\n"
        "print('ok')"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert result.stdout == "ok\n", result.stderr


@pytest.mark.parametrize("reduction", ["mean", "rows"])
def test_gradients_in_float64(reduction: Any) -> None:
    """Of the losses by finite differences, of the quantized vectors straight through."""
    vectors, codebook = (tensor.double().requires_grad_() for tensor in random_inputs(7, 5, 4))

    def losses(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        found = vq_lookup(x, c, commitment=True, reduction=reduction)
        assert found.commitment_loss is not None and found.codebook_loss is not None
        return found.commitment_loss, found.codebook_loss

    frozen = codebook.detach()
    assert torch.autograd.gradcheck(lambda x: losses(x, frozen)[0], (vectors,))
    assert torch.autograd.gradcheck(lambda c: losses(vectors.detach(), c)[1], (codebook,))
    commitment, error = (loss.sum() for loss in losses(vectors, codebook))
    assert torch.autograd.grad(commitment, codebook, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(error, vectors, allow_unused=True) == (None,)
    weight = torch.randn(7, 5, dtype=torch.float64)
    gradients = torch.autograd.grad(
        (vq_lookup(vectors, codebook).quantized * weight).sum(), (vectors, codebook), allow_unused=True
    )
    assert torch.equal(gradients[0], weight) and gradients[1] is None


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gradients_are_as_exact_as_the_references(device: str) -> None:
    vectors, codebook = random_inputs(200, 24, 16)
    weight = torch.randn(200, 24)

    def gradients(function: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [t.to(device, dtype).requires_grad_() for t in (vectors, codebook)]
        found = function(*inputs)
        total = (found.quantized * weight.to(device, dtype)).sum() + 3 * found.commitment_loss
        return torch.autograd.grad(total + 5 * found.codebook_loss, inputs)

    found, again = (gradients(lambda x, c: vq_lookup(x, c, commitment=True), torch.float32) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))
    plain = gradients(vq_lookup_reference, torch.float32)
    exact = gradients(vq_lookup_reference, torch.float64)
    for triple in zip(found, plain, exact, strict=True):
        assert_as_exact_as(*triple)


@pytest.mark.parametrize(
    ("shapes", "keywords", "message"),
    [
        (((3, 4), (5, 6)), {}, r"got \(3, 4\) and \(5, 6\)"),
        (((3, 4), (0, 4)), {}, r"at least one codeword, got \(3, 4\) and \(0, 4\)"),
        (((3, 4), (2, 5, 4)), {}, r"got \(3, 4\) and \(2, 5, 4\)"),
        (((), (5, 4)), {}, r"got \(\) and \(5, 4\)"),
        (((3, 4), (5, 4)), {"distance": "manhattan"}, "euclidean, cosine, got 'manhattan'"),
        (((3, 4), (5, 4)), {"precision": "fp8"}, "tf32, bf16, got 'fp8'"),
        (((3, 4), (5, 4)), {"reduction": "sum"}, "mean, rows, got 'sum'"),
    ],
)
def test_what_is_refused(shapes: tuple[tuple[int, ...], ...], keywords: dict[str, Any], message: str) -> None:
    vectors, codebook = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        vq_lookup(vectors, codebook, **keywords)


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"real numbers, got torch\.int64"):
        vq_lookup(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(4, 3))


@pytest.mark.parametrize("rows", [1, 64, 1024, 16384, 2**20])
@pytest.mark.parametrize("num_codes", [1, 16, 512, 8192])
def test_the_split_covers_every_codeword_and_fills_the_chip(rows: int, num_codes: int) -> None:
    config = search_config(rows, num_codes, 512, torch.float32, "tf32")
    row_tiles, code_tiles = -(-rows // config.block_rows), -(-num_codes // config.block_codes)
    splits = search_splits(row_tiles, code_tiles, 132 * config.programs)
    tiles_a_split = -(-code_tiles // splits)
    assert splits * tiles_a_split >= code_tiles > (splits - 1) * tiles_a_split
    assert row_tiles * splits >= min(100, row_tiles * code_tiles)


def test_tiles_are_large_where_there_are_enough_of_them() -> None:
    def tile(rows: int, num_codes: int) -> tuple[int, int]:
        config = search_config(rows, num_codes, 512, torch.bfloat16, "bf16")
        return config.block_rows, config.block_codes

    assert tile(16, 8192) == (16, 32) and tile(64, 512) == (64, 32)
    assert tile(1024, 512) == (64, 64)  # a tile a multiprocessor
    assert tile(256, 8192) == tile(16384, 512) == tile(2**20, 8192) == (128, 256)


@pytest.mark.parametrize(("rows", "dim", "num_codes"), [(1, 8, 16), (2**20, 512, 8192)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_launches_of_the_smallest_and_the_largest_lookup(
    rows: int, dim: int, num_codes: int, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grids that CUDA takes, numbers that 32 bits hold, and memory for neither distances nor codes in one-hot."""
    launches: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {}

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **_: launches.update({self.name: (grid, arguments)})

    module = sys.modules[vq_lookup.__module__]
    for name in ("_terms_kernel", "_search_kernel", "_finish_kernel"):
        monkeypatch.setattr(module, name, Recorder(name))
    monkeypatch.setattr(module, "INTERPRETED", False)
    monkeypatch.setattr(module, "require_triton", lambda *_: None)
    monkeypatch.setattr(module, "num_multiprocessors", lambda _: 132)
    vectors, codebook = (torch.empty(count, dim, device="meta") for count in (rows, num_codes))
    quantized, indices, *_ = module.launch_vq_lookup(vectors, codebook, "euclidean", precision, True)
    assert quantized.shape == (rows, dim) and indices.shape == (rows,)
    assert set(launches) >= {"_search_kernel", "_finish_kernel"}
    for (first, *rest), arguments in launches.values():
        assert 0 < first < 2**31 and all(0 < size < 2**16 for size in rest)
        assert all(abs(number) < 2**31 for number in arguments if isinstance(number, int))
        largest = max(one.numel() for one in arguments if isinstance(one, Tensor))
        assert largest <= max(rows * dim, 256 * 32)
    (row_tiles, splits), _ = launches["_search_kernel"]
    assert splits <= 2 if rows > 1000 else splits <= num_codes and row_tiles == 1


@pytest.mark.parametrize("errors", [False, True])
def test_is_a_well_formed_operator_and_compiles_whole(errors: bool) -> None:
    vectors, codebook = (tensor.requires_grad_() for tensor in random_inputs(6, 5, 4))
    arguments = (vectors, codebook, "euclidean", "ieee", errors)
    torch.library.opcheck(torch.ops.iris_fast_kernels.vq_lookup.default, arguments)

    def loss(x: Tensor, c: Tensor) -> Tensor:
        found = vq_lookup(x.view(2, 3, 5), c, commitment=errors, statistics=True)
        assert found.counts is not None
        total = found.quantized.square().sum() + found.counts.max()
        if found.commitment_loss is None or found.codebook_loss is None:
            return total
        return total + found.commitment_loss + found.codebook_loss

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(vectors, codebook), loss(vectors, codebook))
    inputs = (vectors, codebook) if errors else (vectors,)
    found = torch.autograd.grad(compiled(vectors, codebook), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(loss(vectors, codebook), inputs))


@pytest.mark.gpu
def test_is_captured_in_a_cuda_graph() -> None:
    vectors, codebook = (tensor.cuda() for tensor in random_inputs(64, 32, 100))
    expected = vq_lookup(vectors, codebook, commitment=True, statistics=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = vq_lookup(vectors, codebook, commitment=True, statistics=True)
    graph.replay()
    for one, other in zip(found, expected, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)
