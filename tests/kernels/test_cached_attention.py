from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels import cached_attention, cached_attention_reference
from iris_fast.kernels.cached_attention import launch_cached_attention
from iris_fast.models.transformer import TransformerConfig, attention_mask
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

FP8 = torch.float8_e4m3fn


@dataclass
class Problem:
    """Inputs of one call. What lies past the tokens held is NaN."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_cache: Tensor
    value_cache: Tensor
    lengths: Tensor
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None

    @property
    def scales(self) -> dict[str, Any]:
        return {"key_scale": self.key_scale, "value_scale": self.value_scale}

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The six tensors, with caches of its own."""
        return (
            *(self.query, self.key, self.value),
            *(self.key_cache.clone(), self.value_cache.clone(), self.lengths),
        )

    def to(self, device: str) -> Problem:
        moved = {name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **moved)


def problem(
    lengths: list[int],
    new: int = 1,
    *,
    heads: int = 2,
    group: int = 1,
    head_dim: int = 16,
    max_tokens: int = 40,
    dtype: torch.dtype = torch.float32,
    fp8: bool = False,
    seed: int = 0,
) -> Problem:
    """A random problem for sequences of these lengths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch = len(lengths)
    query = normal(batch, heads * group, new, head_dim).to(dtype)
    key, value = (normal(batch, heads, new, head_dim).to(dtype) for _ in range(2))
    caches = []
    for _ in range(2):
        cache = normal(batch, heads, max_tokens, head_dim).to(dtype)
        cache = cache.float().mul(30).to(FP8) if fp8 else cache
        for row, length in enumerate(lengths):
            past = (
                cache.view(torch.uint8)[row, :, max(0, length) :] if fp8 else cache[row, :, max(0, length) :]
            )
            past.fill_(0x7F if fp8 else float("nan"))
        caches.append(cache)
    scales = [torch.rand(heads, generator=generator) * 0.02 + 0.02 if fp8 else None for _ in range(2)]
    return Problem(query, key, value, caches[0], caches[1], torch.tensor(lengths), scales[0], scales[1])


def in_float64(
    p: Problem, tokens_per_block: int = 1, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Output and caches of a call, token by token in float64; each sequence must fit."""
    batch, heads, new, head_dim = p.query.shape
    group = heads // p.key.shape[1]
    caches = []
    for new_tokens, cache, unit in (
        (p.key, p.key_cache, p.key_scale),
        (p.value, p.value_cache, p.value_scale),
    ):
        per_head = torch.ones(1, 1, 1) if unit is None else unit[:, None, None]
        rounded = (new_tokens / per_head).clamp(-448, 448) if unit is not None else new_tokens
        full = cache.double()
        for row, length in enumerate(p.lengths.tolist()):
            full[row, :, length : length + new] = rounded[row].to(cache.dtype).double()
        caches.append(full)
    out = torch.empty(batch, heads, new, head_dim, dtype=torch.float64)
    units = [1.0 if unit is None else unit.double()[:, None, None] for unit in (p.key_scale, p.value_scale)]
    for row, length in enumerate(p.lengths.tolist()):
        for t in range(new):
            position = length + t
            seen = min((position // tokens_per_block + 1) * tokens_per_block, length + new)
            keys, values = (
                (cache[row, :, :seen] * unit).repeat_interleave(group, 0)
                for cache, unit in zip(caches, units, strict=True)
            )
            scores = (keys @ p.query[row, :, t].double()[:, :, None])[..., 0]
            weights = torch.softmax(scores * (head_dim**-0.5 if scale is None else scale), -1)
            out[row, :, t] = (weights[:, None] @ values)[:, 0]
    return out, caches[0], caches[1]


def assert_right(p: Problem, device: str, tokens_per_block: int = 1, **configuration: Any) -> None:
    """Asserts that the launcher computes and writes what float64 says, as exactly as plain PyTorch."""
    exact, *exact_caches = in_float64(p, tokens_per_block)
    causal: Any = "causal" if tokens_per_block == 1 else "block_causal"
    plain = cached_attention_reference(
        *p.tensors(), causal=causal, tokens_per_block=tokens_per_block, **p.scales
    )
    there = p.to(device)
    tensors = there.tensors()
    with poisoned_outputs():
        found = launch_cached_attention(
            *tensors,
            tokens_per_block,
            p.query.shape[3] ** -0.5,
            there.key_scale,
            there.value_scale,
            **configuration,
        ).transpose(1, 2)
    assert_as_exact_as(found, plain, exact, rounding=4)
    for cache, expected in zip(tensors[3:5], exact_caches, strict=True):
        torch.testing.assert_close(cache.cpu().double(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("new", [1, 17])
def test_is_as_exact_as_plain_pytorch(device: str, dtype: torch.dtype, new: int) -> None:
    assert_right(problem([0, 5, 23], new, dtype=dtype), device, block_keys=16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head_dim", [1, 24, 80, 96, 256])
@pytest.mark.parametrize("new", [1, 3])
def test_head_dimensions(device: str, head_dim: int, new: int) -> None:
    assert_right(problem([7, 20], new, heads=1, head_dim=head_dim), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("group", "new"), [(2, 1), (4, 1), (3, 5), (8, 9)])
def test_query_heads_in_groups(device: str, group: int, new: int) -> None:
    assert_right(problem([3, 18], new, group=group), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_splits", [2, 3, 8])
@pytest.mark.parametrize(("new", "group"), [(1, 1), (1, 2), (18, 1)])
def test_splits_of_the_cache(device: str, num_splits: int, new: int, group: int) -> None:
    p = problem([0, 1, 82, 33], new, heads=1, group=group, max_tokens=100)
    assert_right(p, device, num_splits=num_splits, block_keys=16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tokens_per_block", [2, 17])
def test_blocks_see_themselves_whole(device: str, tokens_per_block: int) -> None:
    assert_right(problem([0, 4, 17, 21], 19, heads=1), device, tokens_per_block)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("new", "group"), [(1, 1), (2, 2)])
def test_an_fp8_cache(device: str, dtype: torch.dtype, new: int, group: int) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("e4m3 needs compute capability 8.9")
    assert_right(problem([0, 9, 33], new, group=group, dtype=dtype, fp8=True), device)


@pytest.mark.parametrize("device", DEVICES)
def test_fp8_rounds_and_saturates_as_pytorch(device: str) -> None:
    """Every e4m3 number, the halfway points between neighbours, and numbers beyond the largest."""
    grid = torch.arange(127, dtype=torch.uint8).view(FP8).float()
    numbers = torch.cat([grid, (grid[1:] + grid[:-1]) / 2, torch.tensor([463.0, 1e9, float("inf"), 1e-9])])
    numbers = torch.cat([numbers, -numbers])
    numbers = torch.cat([numbers, numbers.new_zeros(-len(numbers) % 128)]).reshape(1, 1, -1, 128)
    new = numbers.shape[2]
    key_cache, value_cache = (torch.zeros(1, 1, new, 128).to(FP8) for _ in range(2))
    unit = torch.ones(1)
    p = Problem(numbers, numbers, numbers, key_cache, value_cache, torch.tensor([0]), unit, unit).to(device)
    tensors = p.tensors()
    launch_cached_attention(*tensors, 1, 1.0, p.key_scale, p.value_scale)
    expected = numbers.clamp(-448, 448).to(FP8).float()
    for cache in tensors[3:5]:
        torch.testing.assert_close(cache.cpu().float(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("new", [1, 4])
@pytest.mark.parametrize("num_splits", [1, 2])
def test_a_sequence_that_does_not_fit_is_left_alone(device: str, new: int, num_splits: int) -> None:
    p = problem([5, 40 - new, 41 - new, 40, -1, -(2**40), 2**63 - 1, 0], new)
    fitting = [0, 1, 7]
    exact = in_float64(replace(p, **{n: t[fitting] for n, t in vars(p).items() if t is not None}))[0]
    for launched in (True, False):
        there = p.to(device) if launched else p
        tensors = there.tensors()
        if launched:
            found = (
                launch_cached_attention(*tensors, 1, 16**-0.5, num_splits=num_splits).transpose(1, 2).cpu()
            )
        else:
            found = cached_attention(*tensors)
        assert torch.isnan(found[[2, 3, 4, 5, 6]]).all()
        torch.testing.assert_close(found[fitting].double(), exact, rtol=1e-5, atol=1e-5)
        for cache, before in ((tensors[3].cpu(), p.key_cache), (tensors[4].cpu(), p.value_cache)):
            left_alone = [2, 3, 4, 5, 6]
            torch.testing.assert_close(cache[left_alone], before[left_alone], rtol=0, atol=0, equal_nan=True)
            assert not torch.isnan(cache[1]).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("lengths", [[10, 10], [0, 7]])
def test_a_query_that_is_no_number_gives_nan_on_a_cpu(value: float, new: int, lengths: list[int]) -> None:
    query, key = torch.ones(2, 2, new, 4), torch.ones(2, 1, new, 4)
    query[1] = value
    for held in (lengths[0], torch.tensor(lengths)):
        found = cached_attention(
            query, key, key, torch.ones(2, 1, 32, 4), torch.ones(2, 1, 32, 4), lengths=held
        )
        assert torch.isnan(found[1]).all() and torch.isfinite(found[0]).all()
    for tensors in ((query.abs(), key.new_full(key.shape, torch.nan), key), (key, key, key * torch.nan)):
        found = cached_attention(*tensors, torch.ones(2, 1, 32, 4), torch.ones(2, 1, 32, 4), lengths[0])
        assert torch.isnan(found).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_splits", [1, 2])
@pytest.mark.parametrize("new", [1, 2])
def test_nan_and_infinity_reach_who_sees_them(device: str, num_splits: int, new: int) -> None:
    p = problem([9, 30, 30, 30, 30], new, heads=1)
    p.query[1, 0, -1, 3] = float("nan")
    p.key_cache[2, 0, 29, 0] = float("nan")
    p.value_cache[3, 0, 1, 2] = float("inf")
    p.key_cache[4, 0, 0] = float("inf") * p.query[4, 0, -1].sign()  # a score of +inf
    there = p.to(device)
    found = launch_cached_attention(
        *there.tensors(), 1, 0.25, num_splits=num_splits, block_keys=16
    ).transpose(1, 2)
    plain = cached_attention_reference(*p.tensors())
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1, 0, -1]).all() and torch.isfinite(found[1, 0, :-1]).all()
    assert torch.isnan(found[2]).all() and torch.isnan(found[4, 0, -1]).all()
    assert not torch.isfinite(found[3, :, :, 2]).any() and torch.isfinite(found[3, :, :, :2]).all()
    torch.testing.assert_close(torch.isnan(found[:3]).cpu(), torch.isnan(plain[:3]), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_shape_and_stride(device: str, data: st.DataObject) -> None:
    max_tokens = data.draw(st.integers(1, 50))
    new = data.draw(st.integers(1, min(max_tokens, 20)))
    lengths = data.draw(st.lists(st.integers(0, max_tokens - new), min_size=1, max_size=3))
    p = problem(
        lengths,
        new,
        heads=data.draw(st.integers(1, 2)),
        group=data.draw(st.integers(1, 3)),
        head_dim=data.draw(st.integers(1, 40)),
        max_tokens=max_tokens,
        dtype=data.draw(st.sampled_from([torch.float32, torch.float16])),
        seed=data.draw(st.integers(0, 99)),
    )
    if data.draw(st.booleans()):  # as a linear layer's output gives them, and a cache of tokens before heads
        p.query, p.key, p.value, p.key_cache, p.value_cache = (
            t.transpose(1, 2).contiguous().transpose(1, 2)
            for t in (p.query, p.key, p.value, p.key_cache, p.value_cache)
        )
    if data.draw(st.booleans()):
        p.query, p.value = (t.transpose(2, 3).contiguous().transpose(2, 3) for t in (p.query, p.value))
    if data.draw(st.booleans()):
        p.lengths = p.lengths.to(torch.int32)
    assert_right(p, device, data.draw(st.integers(1, 5)), num_splits=data.draw(st.integers(1, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("new", "fp8"), [(1, False), (6, False), (1, True), (6, True)])
@pytest.mark.parametrize("lengths", [[4, 0, 34], [7, 7]])
def test_the_public_function_on_the_cpu(dtype: torch.dtype, new: int, fp8: bool, lengths: list[int]) -> None:
    p = problem(lengths, new, group=2, dtype=dtype, fp8=fp8)
    exact, *exact_caches = in_float64(p, scale=0.5)
    tensors = p.tensors()
    with poisoned_outputs():
        found = cached_attention(*tensors, scale=0.5, **p.scales)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6 if dtype == torch.float32 or fp8 else 1e-12
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
    for cache, expected in zip(tensors[3:5], exact_caches, strict=True):
        torch.testing.assert_close(cache.double(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("attention", ["causal", "block_causal"])
def test_the_tokens_seen_are_those_of_the_models_mask(attention: Any) -> None:
    """A token passes its value on where the world model's mask says so: values are one-hot."""
    config = TransformerConfig(tokens_per_block=5, max_blocks=3, attention=attention)
    tokens = config.max_tokens
    values = torch.eye(tokens)[None, None]
    query = key = torch.zeros(1, 1, tokens, tokens)
    caches: Any = torch.zeros(2, 1, 1, tokens, tokens)
    for start, stop in ((0, 6), (6, 7), (7, tokens)):
        new = slice(start, stop)
        arguments = (query[:, :, new], key[:, :, new], values[:, :, new], *caches, start)
        found = cached_attention(*arguments, causal=attention, tokens_per_block=5)
        mask = attention_mask(config)[new].clone()
        mask[:, stop:] = False  # not there yet
        assert torch.equal(found[0, 0] > 0, mask)


def test_the_division_into_calls_does_not_matter() -> None:
    for fp8 in (False, True):
        p = problem([3, 3], 12, fp8=fp8)
        whole = cached_attention(*p.tensors(), **p.scales)
        *_, key_cache, value_cache, lengths = p.tensors()
        parts = []
        for start, stop in ((0, 1), (1, 8), (8, 12)):
            query, key, value = (t[:, :, start:stop] for t in (p.query, p.key, p.value))
            part = cached_attention(query, key, value, key_cache, value_cache, lengths + start, **p.scales)
            parts.append(part)
        torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-5, atol=1e-5)


def test_the_layout_of_the_output() -> None:
    attended = cached_attention(*problem([1, 2], 3).tensors())
    assert attended.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("batch", "new", "max_tokens"), [(0, 1, 8), (2, 0, 8), (0, 1, 0)])
def test_nothing_to_do(batch: int, new: int, max_tokens: int) -> None:
    query = torch.zeros(batch, 4, new, 16)
    key = query[:, :2]
    key_cache, value_cache = torch.zeros(2, batch, 2, max_tokens, 16)
    lengths = torch.zeros(batch, dtype=torch.int64)
    for function in (cached_attention, cached_attention_reference):
        assert function(query, key, key, key_cache, value_cache, lengths).shape == query.shape


def test_no_room_at_all() -> None:
    query = torch.zeros(1, 1, 1, 16)
    key_cache, value_cache = torch.zeros(2, 1, 1, 0, 16)
    assert torch.isnan(cached_attention(query, query, query, key_cache, value_cache, torch.tensor([0]))).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query": torch.zeros(2, 3, 1, 16)}, ValueError, r"multiple of those of the cache \(2, 2, 40, 16\)"),
        ({"query": torch.zeros(2, 2, 16)}, ValueError, "four dimensions"),
        ({"key": torch.zeros(2, 2, 2, 16)}, ValueError, r"here \(2, 2, 1, 16\), got \(2, 2, 2, 16\)"),
        (
            {"value_cache": torch.zeros(2, 2, 39, 16)},
            ValueError,
            r"got \(2, 2, 40, 16\) and \(2, 2, 39, 16\)",
        ),
        ({"value_cache": torch.zeros(2, 2, 40, 16).half()}, TypeError, "torch.float16"),
        ({"query": torch.zeros(2, 2, 1, 16).half()}, TypeError, "dtype of query, torch.float16"),
        ({"query": torch.zeros(2, 2, 1, 16).long()}, TypeError, "torch.int64"),
        ({"key_cache": torch.zeros(2, 2, 16, 40).transpose(2, 3)}, ValueError, "last dimension"),
        ({"key_cache": torch.zeros(1, 2, 40, 16).expand(2, -1, -1, -1)}, ValueError, "expanded"),
        ({"lengths": torch.zeros(3, dtype=torch.int64)}, ValueError, r"here \(2,\).*got \(3,\)"),
        ({"lengths": torch.zeros(2)}, TypeError, "torch.float32"),
        ({"lengths": 40}, ValueError, "room for 40 tokens"),
        ({"lengths": -1}, ValueError, "lengths -1"),
        ({"causal": "none"}, ValueError, "'none'"),
        ({"tokens_per_block": 0}, ValueError, "got 0"),
        ({"num_splits": 0}, ValueError, "got 0"),
        ({"key_scale": 2.0}, ValueError, "float8_e4m3fn"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes: dict[str, Any], error: type, message: str) -> None:
    arguments = dict(vars(problem([1, 2]))) | changes
    with pytest.raises(error, match=message):
        cached_attention(**arguments)


def test_large_heads_and_bad_scales_are_refused() -> None:
    with pytest.raises(ValueError, match=r"head_dim .*257"):
        cached_attention(*problem([1], head_dim=257).tensors())
    with pytest.raises(ValueError, match=r"here \(2,\).*got \(3,\)"):
        cached_attention(*problem([1], fp8=True).tensors(), key_scale=torch.ones(3))


def test_an_fp8_cache_is_refused_on_a_gpu_without_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(RuntimeError, match=r"need compute capability 8\.9, and cpu has 8\.0"):
        launch_cached_attention(*problem([1], fp8=True).tensors(), 1, 1.0)


def test_asking_for_a_gradient_is_refused() -> None:
    p = problem([1, 2])
    p.query.requires_grad_()
    with pytest.raises(RuntimeError, match="no gradient"):
        cached_attention(*p.tensors())
    with torch.no_grad():
        assert torch.isfinite(cached_attention(*p.tensors())).all()


@pytest.mark.parametrize("fp8", [False, True])
def test_is_a_well_formed_operator_and_compiles_whole(fp8: bool) -> None:
    p = problem([3, 8], 2, fp8=fp8)
    operator = torch.ops.iris_fast_kernels.cached_attention.default
    checks = ["test_autograd_registration", "test_faketensor"]
    if not fp8:  # the others compare caches by an operation that PyTorch lacks for e4m3
        checks += ["test_schema", "test_aot_dispatch_dynamic"]
    arguments = (*p.tensors(), 1, 0.25, p.key_scale, p.value_scale, 0)
    torch.library.opcheck(operator, arguments, test_utils=checks)
    compiled = torch.compile(cached_attention, backend="aot_eager", fullgraph=True)
    results = []
    for function in (compiled, cached_attention):
        tensors = p.tensors()
        storage = torch.stack([cache.float() for cache in tensors[3:5]]).to(tensors[3].dtype)
        key_cache, value_cache = storage  # views of one tensor
        attended = function(*tensors[:3], key_cache, value_cache, p.lengths, **p.scales)
        results.append((attended, storage.float()))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
def test_a_captured_graph_follows_the_lengths() -> None:
    p = problem([0, 3], max_tokens=2048).to("cuda")
    static = p.tensors()
    cached_attention(*static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attended = cached_attention(*static)
        static[5].add_(1)
    for cache, start in zip(static[3:5], p.tensors()[3:5], strict=True):
        cache.copy_(start)
    static[5].copy_(torch.tensor([0, 3]))
    expected = list(p.tensors())
    expected[5] = torch.tensor([0, 3], device="cuda")
    for _ in range(5):
        graph.replay()
        torch.testing.assert_close(attended, cached_attention_reference(*expected), rtol=1e-5, atol=1e-5)
        expected[5] += 1
