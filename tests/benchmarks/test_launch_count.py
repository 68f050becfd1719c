"""The count of launches, which says what is worth a kernel: on one expression, and on the smallest preset."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases.launch_count import LaunchCounter, measure


def test_views_and_allocations_are_no_launches_and_bytes_are_those_of_the_tensors() -> None:
    x, weight = torch.ones(3, 4), torch.ones(4, 5)
    with LaunchCounter() as counter:
        y = (x @ weight).relu().t().reshape(5, 3)
        torch.empty(9)
        y.add_(torch.ones(1).expand(5, 3))
    table = counter.table()
    rows = table["operations"]
    assert {name: row["launches"] for name, row in rows.items()} == {"mm": 1, "relu": 1, "add_": 1, "ones": 1}
    assert (rows["mm"]["bytes_in"], rows["mm"]["bytes_out"]) == (4 * (12 + 20), 4 * 15)
    assert (rows["add_"]["bytes_in"], rows["add_"]["bytes_out"]) == (4 * (15 + 1), 4 * 15)
    assert table["launches"] == 4


@pytest.fixture(scope="module")
def counts() -> dict:
    return measure("tiny")


def test_kernels_replace_launches_of_the_imagined_step(counts: dict) -> None:
    plain, ours = (counts["imagined_step"][side] for side in ("pytorch", "ours"))
    passes = ours["operations"]["token_embedding"]["launches"]
    layers = ours["operations"]["cached_attention"]["launches"] // passes
    assert ours["operations"]["layer_norm_linear"]["launches"] == passes * 4 * layers + passes + 1
    assert "native_layer_norm" not in ours["operations"] and "gelu" not in ours["operations"]
    # A layer: 6 products, 2 LayerNorms, 2 copies, attention, GELU and 2 sums become 5 launches.
    assert plain["launches"] - ours["launches"] >= 9 * layers * passes


def test_two_launches_a_layer_are_that(counts: dict) -> None:
    five, two = (counts["imagined_step"][side] for side in ("ours", "ours_two_launches_a_layer"))
    passes = two["operations"]["token_embedding"]["launches"]
    layers = two["operations"]["layer_norm_mlp"]["launches"] // passes
    assert two["operations"]["layer_norm_attention"]["launches"] == passes * layers
    assert "cached_attention" not in two["operations"]
    # Three fewer a layer; the sum of the parts at a pass's end is one more.
    assert five["launches"] - two["launches"] == passes * (3 * layers - 1)


def test_group_norm_swish_takes_the_place_of_two_operations_and_their_gradients(counts: dict) -> None:
    plain, ours = (counts["tokenizer_piece"][side]["operations"] for side in ("pytorch", "ours"))
    assert ours["group_norm_swish"]["launches"] == plain["native_group_norm"]["launches"]
    assert ours["group_norm_swish_backward"]["launches"] == plain["native_group_norm_backward"]["launches"]
    assert "silu" in plain and "silu" not in ours and "silu_backward" not in ours
    unchanged = [name for name in plain if "group_norm" not in name and "silu" not in name]
    assert unchanged and all(plain[name]["launches"] == ours[name]["launches"] for name in unchanged)
    assert all(counts[part]["pytorch"]["launches"] > 0 for part in ("world_model_step", "actor_critic_step"))
