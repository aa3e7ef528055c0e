"""Group norm and SiLU by the function that is compiled on the machine, against torch's."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from svd_batch.engine.group_norm import FastGroupNorm, FusedGroupNorm, activated
from svd_batch.engine.native import built

needs_compiler = pytest.mark.usefixtures("c_compiler")


def norm_of(channels: int, groups: int, kind: type = FusedGroupNorm) -> Any:
    torch.manual_seed(channels)
    norm = torch.nn.GroupNorm(groups, channels, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.__class__ = kind
    return norm.requires_grad_(False)


def states_of(*shape: int, mean: float = 0.5) -> torch.Tensor:
    torch.manual_seed(1)
    return (mean + 2 * torch.randn(shape)).to(memory_format=torch.channels_last)


def exactly(norm: Any, states: torch.Tensor) -> torch.Tensor:
    return functional.group_norm(states.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)


@needs_compiler
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((16, 64, 16, 24), 32),
        ((3, 48, 5, 7), 8),  # channels that are no multiple of a cache line's
        ((2, 16, 1, 1), 4),
        ((1, 96, 90, 70), 32),  # several shares, the last one shorter
        ((2, 1280, 3, 5), 32),
        ((2, 64, 8, 384), 1),
    ],
)
def test_it_is_as_accurate_as_torchs(shape: tuple[int, ...], groups: int, activate: bool) -> None:
    norm, states = norm_of(shape[1], groups), states_of(*shape)
    exact, torchs = exactly(norm, states), functional.group_norm(states, groups, norm.weight, norm.bias, norm.eps)
    if activate:
        exact, torchs = functional.silu(exact), functional.silu(torchs)
    with torch.no_grad():
        ours = norm(states, activate)
    assert built("group_norm") is not None
    assert ours.stride() == states.stride()
    assert (ours - exact).abs().max() <= max(1e-6, 3 * (torchs - exact).abs().max())


@needs_compiler
@pytest.mark.parametrize("mean", [300.0, -1e4])
def test_a_mean_that_is_large_against_the_spread_costs_no_more_than_torchs_rounding(mean: float) -> None:
    norm, states = norm_of(64, 32), states_of(2, 64, 48, 64, mean=mean)
    torchs = functional.group_norm(states.contiguous(), 32, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        ours = norm(states)
    exact = exactly(norm, states)
    assert (ours - exact).abs().max() <= 3 * (torchs - exact).abs().max()


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    norm, states, threads = norm_of(96, 32), states_of(2, 96, 60, 50), torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            with torch.no_grad():
                results.append(norm(states, activate=True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_compiler
def test_a_row_alone_has_the_same_bits_as_among_others() -> None:
    norm, states = norm_of(64, 32), states_of(5, 64, 24, 16)
    with torch.no_grad():
        together, alone = norm(states, activate=True), norm(states[3:4], activate=True)
    assert torch.equal(together[3:4], alone)


@needs_compiler
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    norm, states = norm_of(64, 32), states_of(2, 64, 4, 4)
    states[1, 5, 2, 2] = value
    with torch.no_grad():
        ours = norm(states, activate=True)
    torchs = functional.silu(functional.group_norm(states, 32, norm.weight, norm.bias, norm.eps))
    assert torch.equal(ours.isnan(), torchs.isnan())
    assert ours.isnan().any()


@needs_compiler
def test_silu_of_far_values_neither_overflows_nor_drifts() -> None:
    norm = norm_of(16, 1)
    states = states_of(1, 16, 8, 8)
    norm.bias.copy_(torch.linspace(-300, 300, 16))
    exact = functional.silu(exactly(norm, states))
    with torch.no_grad():
        ours = norm(states, activate=True)
    assert ours.isfinite().all()
    assert torch.allclose(ours.double(), exact, rtol=2e-6, atol=1e-6)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torchs_operations_do_it() -> None:
    norm, states = norm_of(64, 32), states_of(2, 64, 8, 8)
    with torch.no_grad():
        assert torch.equal(norm(states), norm_of(64, 32, FastGroupNorm)(states))
    assert built("group_norm") is None


@pytest.mark.parametrize("kind", [torch.nn.GroupNorm, FastGroupNorm, FusedGroupNorm])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layout_and_dtype_is_taken(kind: type, layout: torch.memory_format, dtype: torch.dtype) -> None:
    norm = norm_of(32, 8, kind).to(dtype)
    states = states_of(2, 32, 6, 6).to(dtype).contiguous(memory_format=layout)
    expected = functional.silu(exactly(norm, states))
    with torch.no_grad():
        ours = activated(norm, states)
    assert (ours - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 0.1)


@needs_compiler
def test_gradients_are_left_to_torch() -> None:
    norm, states = norm_of(32, 8), states_of(2, 32, 4, 4).requires_grad_()
    stock = copy.deepcopy(norm)
    stock.__class__ = torch.nn.GroupNorm
    norm(states, activate=True).sum().backward()
    ours, states.grad = states.grad, None
    functional.silu(stock(states)).sum().backward()
    assert torch.allclose(ours, states.grad)
