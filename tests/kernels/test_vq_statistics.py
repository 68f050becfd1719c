from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import ema_update, vq_statistics, vq_statistics_reference
from iris_fast.kernels.vq_statistics import _indexed_sums, launch_vq_statistics
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs


def random_inputs(rows: int, dim: int, num_codes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors and indices of which some codewords are popular and some unused."""
    generator = torch.Generator().manual_seed(seed)
    indices = (torch.rand(rows, generator=generator) ** 3 * num_codes).long()
    return torch.randn(rows, dim, generator=generator), indices


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 8, 5), (150, 33, 7), (3, 130, 20), (0, 4, 6)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_kernel_is_as_exact_as_plain_pytorch(
    device: str, shape: tuple[int, int, int], weighted: bool, dtype: torch.dtype
) -> None:
    vectors, indices = random_inputs(*shape)
    vectors = vectors.to(dtype)
    weights, codebook = torch.rand(shape[0]), torch.randn(shape[2], shape[1])
    if dtype == torch.float64:
        weights, codebook = weights.double(), codebook.double()
    extra = (weights, codebook) if weighted else (None, None)
    placed = [t.to(device) if t is not None else None for t in extra]
    with poisoned_outputs():
        counts, sums = launch_vq_statistics(
            vectors.to(device), indices.to(device), shape[2], *placed, piece=16
        )
    plain_counts, plain = _indexed_sums(vectors, indices, shape[2], *extra)
    wide = [t.double() if t is not None else None for t in extra]
    exact = _indexed_sums(vectors.double(), indices, shape[2], *wide)[1]
    assert torch.equal(counts.cpu(), plain_counts)
    assert_as_exact_as(sums, plain, exact, rounding=4)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(0, 40), dim=st.integers(1, 20), num_codes=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_shape_and_stride(rows: int, dim: int, num_codes: int, seed: int) -> None:
    vectors, indices = random_inputs(rows, 2 * dim, num_codes, seed)
    vectors = vectors[:, ::2] if seed % 2 else vectors[:, :dim]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counts, sums = launch_vq_statistics(vectors.to(device), indices.to(device), num_codes, piece=8)
    expected = torch.stack([vectors[indices == code].double().sum(0) for code in range(num_codes)])
    torch.testing.assert_close(sums.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(counts.cpu(), torch.bincount(indices, minlength=num_codes).float())
    found = vq_statistics(vectors, indices, num_codes)
    torch.testing.assert_close(found, vq_statistics_reference(vectors, indices, num_codes))


@pytest.mark.parametrize("device", DEVICES)
def test_nan_stays_with_its_codeword(device: str) -> None:
    vectors, indices = random_inputs(60, 6, 4)
    vectors[7, 2] = float("nan")
    _, sums = launch_vq_statistics(vectors.to(device), indices.to(device), 4, piece=8)
    assert torch.isnan(sums[indices[7], 2]) and torch.isnan(sums).sum() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("outside", [-1, -2, 2, 10**9])
def test_an_index_out_of_range_is_left_out(device: str, outside: int) -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    indices = torch.tensor([0, outside, 1])
    extra = (torch.ones(3), torch.zeros(2, 2))
    expected = ([1.0, 1.0], [[1.0, 2.0], [5.0, 6.0]])
    for weighted in ((None, None), extra):
        placed = [t.to(device) if t is not None else None for t in weighted]
        for found in (
            launch_vq_statistics(vectors.to(device), indices.to(device), 2, *placed),
            _indexed_sums(vectors, indices, 2, *weighted),
            vq_statistics(vectors, indices, 2),
        ):
            assert (found[0].tolist(), found[1].tolist()) == expected


def test_counts_and_sums_go_on_beyond_what_float32_adds() -> None:
    rows = 2**24 + 1000
    counts, sums = vq_statistics(torch.ones(1, 1).expand(rows, 1), torch.zeros(rows, dtype=torch.int64), 1)
    assert (counts.item(), sums.item()) == (rows, rows)
    tenths = torch.full((10**6, 1), 0.1)
    found = vq_statistics(tenths, torch.zeros(10**6, dtype=torch.int64), 1)[1].double()
    assert abs(found.item() / tenths.double().sum().item() - 1) < 2**-23


def test_a_codebook_that_nothing_has_used_stays() -> None:
    codebook = torch.randn(8, 4)
    before, size, average = codebook.clone(), torch.zeros(8), codebook.clone()
    ema_update(codebook, size, average, torch.zeros(8), torch.zeros(8, 4))
    assert torch.equal(codebook, before)
    for _ in range(3000):
        ema_update(codebook, size, average, torch.eye(8)[0] * 9, torch.zeros(8, 4))
    assert codebook.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_moving_average_of_many_codewords_in_half_precision(dtype: torch.dtype) -> None:
    codebook = torch.randn(8192, 4).to(dtype)
    before, size = codebook.clone(), torch.full((8192,), 16.0, dtype=dtype)
    ema_update(codebook, size, before * 16, torch.full((8192,), 16.0), before.float() * 16)
    torch.testing.assert_close(codebook, before)


def test_bad_shapes_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3,\) for \(4, 2\)"):
        vq_statistics(torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), 5)
    with pytest.raises(TypeError, match=r"got torch.float32 and torch.int32"):
        vq_statistics(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int32), 5)
    with pytest.raises(ValueError, match=r"got \(5, 2\), \(5, 2\), \(5, 3\), \(5,\), \(5,\)"):
        ema_update(
            torch.zeros(5, 2),
            torch.zeros(5),
            torch.zeros(5, 2),
            torch.zeros(5),
            torch.zeros(5, 3),
        )


def test_the_moving_average_by_hand() -> None:
    codebook = torch.zeros(2, 1)
    cluster_size, embed_avg = torch.tensor([1.0, 3.0]), torch.tensor([[2.0], [6.0]])
    ema_update(
        codebook, cluster_size, embed_avg, torch.tensor([4.0, 0.0]), torch.tensor([[8.0], [0.0]]), 0.75, 0.5
    )
    assert cluster_size.tolist() == [1.75, 2.25]  # 0.75 * (1, 3) + 0.25 * (4, 0)
    assert embed_avg.tolist() == [[3.5], [4.5]]
    torch.testing.assert_close(
        codebook, torch.tensor([[3.5 / (2.25 / 5 * 4)], [4.5 / (2.75 / 5 * 4)]])
    )  # (N + 0.5) / (4 + 2 * 0.5) * 4


def test_a_codebook_finds_the_means_of_its_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[4.0, 0.0], [-4.0, 1.0], [0.0, 6.0]])
    codebook = means + torch.randn(3, 2, generator=generator)
    cluster_size, embed_avg = torch.ones(3), codebook.clone()
    for _ in range(60):
        chosen = torch.randint(3, (300,), generator=generator)
        vectors = means[chosen] + 0.1 * torch.randn(300, 2, generator=generator)
        indices = torch.cdist(vectors, codebook).argmin(1)
        ema_update(codebook, cluster_size, embed_avg, *vq_statistics(vectors, indices, 3), decay=0.8)
    torch.testing.assert_close(codebook, means, rtol=0, atol=0.02)


def test_is_a_well_formed_operator_and_compiles_whole() -> None:
    vectors, indices = random_inputs(9, 5, 4)
    operator = torch.ops.iris_fast_kernels.vq_statistics.default
    torch.library.opcheck(operator, (vectors, indices, 4, None, None))
    torch.library.opcheck(operator, (vectors, indices, 4, torch.rand(9), torch.rand(4, 5)))
    compiled = torch.compile(vq_statistics, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(vectors, indices, 4), vq_statistics(vectors, indices, 4))
