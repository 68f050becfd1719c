"""The count of launches: on one expression, and on the smallest preset."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests.support.launches import Counts, LaunchCounter, measure

By = dict[str, dict[str, Counts]]


def test_views_and_allocations_are_no_launches() -> None:
    x, weight = torch.ones(3, 4), torch.ones(4, 5)
    with LaunchCounter() as counter:
        y = (x @ weight).relu().t().reshape(5, 3)
        torch.empty(9)
        y.add_(torch.ones(1).expand(5, 3))
    assert counter.launches == Counter({"mm": 1, "relu": 1, "add_": 1, "ones": 1})


@pytest.fixture(scope="module")
def counts() -> By:
    return measure("tiny")


def test_kernels_replace_launches_of_the_imagined_step(counts: By) -> None:
    plain, ours = (counts["imagined_step"][side] for side in ("pytorch", "ours"))
    passes = ours["token_embedding"]
    layers = ours["cached_attention"] // passes
    assert ours["layer_norm_linear"] == passes * 4 * layers + passes + 1
    assert "native_layer_norm" not in ours and "gelu" not in ours
    # A layer: 6 products, 2 LayerNorms, 2 copies, attention, GELU and 2 sums become 5 launches.
    assert plain.total() - ours.total() >= 9 * layers * passes


def test_two_launches_a_layer_are_that(counts: By) -> None:
    five, two = (counts["imagined_step"][side] for side in ("ours", "ours_two_launches_a_layer"))
    passes = two["token_embedding"]
    layers = two["layer_norm_mlp"] // passes
    assert two["layer_norm_attention"] == passes * layers
    assert "cached_attention" not in two
    # Three fewer a layer; the sum of the parts at a pass's end is one more.
    assert five.total() - two.total() == passes * (3 * layers - 1)


def test_group_norm_swish_takes_the_place_of_two_operations_and_their_gradients(counts: By) -> None:
    plain, ours = (counts["tokenizer_step"][side] for side in ("pytorch", "ours"))
    assert ours["group_norm_swish"] == plain["native_group_norm"]
    assert ours["group_norm_swish_backward"] == plain["native_group_norm_backward"]
    assert "silu" in plain and "silu" not in ours and "silu_backward" not in ours
    unchanged = [name for name in plain if "group_norm" not in name and "silu" not in name]
    assert unchanged and all(plain[name] == ours[name] for name in unchanged)
