"""Feed-forward layers by the function that is compiled on the machine, against diffusers'."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward

from svd_batch.engine.feed_forward import FusedFeedForward, can_be_fused
from svd_batch.engine.native import built

needs_compiler = pytest.mark.usefixtures("c_compiler")


def layer(channels: int, **settings: Any) -> Any:
    return FeedForward(channels, **{"activation_fn": "geglu", **settings})


def layer_and_norm(channels: int, **settings: Any) -> tuple[Any, torch.nn.LayerNorm]:
    torch.manual_seed(channels)
    made, norm = layer(channels, **settings).requires_grad_(False), torch.nn.LayerNorm(channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    made.__class__ = FusedFeedForward
    return made, norm.requires_grad_(False)


def added(made: Any, norm: torch.nn.LayerNorm, rows: torch.Tensor) -> torch.Tensor:
    result = rows.clone()
    with torch.no_grad():
        assert made.takes(norm, result)
        made.add_to(norm, result)
    return result


def stocks(made: Any, norm: torch.nn.LayerNorm, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    stock = copy.deepcopy(made).to(dtype)
    stock.__class__ = FeedForward
    states = rows.to(dtype)
    result: torch.Tensor = states + stock(copy.deepcopy(norm).to(dtype)(states))
    return result


@needs_compiler
@pytest.mark.parametrize(("channels", "rows"), [(32, 1), (64, 1536), (96, 97), (128, 191), (160, 12)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_it_is_as_accurate_as_stock(channels: int, rows: int, scale: float) -> None:
    made, norm = layer_and_norm(channels)
    states = scale * torch.randn(rows, channels) + scale
    exact, stock = (stocks(made, norm, states, dtype) for dtype in (torch.float64, torch.float32))
    assert built("geglu") is not None
    assert (added(made, norm, states) - exact).abs().max() <= max(3e-6, 3 * float((stock - exact).abs().max()))


@needs_compiler
def test_gates_far_from_zero_give_what_stock_gives() -> None:
    made, norm = layer_and_norm(32)
    made.net[0].proj.bias[128:] = torch.linspace(-40, 40, 128)
    states = torch.randn(64, 32)
    exact = stocks(made, norm, states, torch.float64)
    assert torch.allclose(added(made, norm, states).double(), exact, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_neither_threads_nor_other_rows_change_a_bit() -> None:
    made, norm = layer_and_norm(64)
    states, threads = torch.randn(401, 64), torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(added(made, norm, states))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[0][250:260], added(made, norm, states[250:260]))


@needs_compiler
def test_a_changed_weight_is_seen() -> None:
    made, norm = layer_and_norm(32)
    states = torch.randn(10, 32)
    before = added(made, norm, states)
    made.net[2].weight.zero_()
    made.net[2].bias.zero_()
    assert not torch.equal(before, states)
    assert torch.equal(added(made, norm, states), states)


@needs_compiler
def test_what_is_not_finite_stays_in_its_row() -> None:
    made, norm = layer_and_norm(32)
    states = torch.randn(10, 32)
    states[4, 7] = float("nan")
    ours = added(made, norm, states)
    assert ours[4].isnan().all()
    assert ours[[0, 1, 2, 3, 5, 6, 7, 8, 9]].isfinite().all()


def test_what_it_cannot_do_is_left_to_others() -> None:
    made, norm = layer_and_norm(32)
    rows = torch.randn(10, 32)
    with torch.no_grad():
        assert not made.takes(norm, rows.double())
        assert not made.takes(norm, torch.randn(32, 10).T)
        assert not made.takes(torch.nn.LayerNorm(32, elementwise_affine=False), rows)
        made.net[1] = torch.nn.Dropout(0.5).train()
        assert not made.takes(norm, rows)
    assert not layer_and_norm(32)[0].takes(norm, rows.requires_grad_())


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_it_is_left_to_others() -> None:
    made, norm = layer_and_norm(32)
    with torch.no_grad():
        assert not made.takes(norm, torch.randn(10, 32))


@pytest.mark.parametrize(
    ("module", "fused"),
    [
        (layer(64), True),
        (layer(64, activation_fn="gelu"), False),
        (layer(64, bias=False), False),
        (layer(64, dim_out=32), False),
        (layer(48), False),
        (layer(320), False),  # its weights would take 3.3 MB more
        (layer(64, final_dropout=True), False),
        (torch.nn.Linear(32, 32), False),
    ],
)
def test_only_what_it_computes_is_taken(module: torch.nn.Module, fused: bool) -> None:
    assert can_be_fused(module) is fused
