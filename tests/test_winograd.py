"""3x3 convolutions by the function that is compiled on the machine, against torch's."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from svd_batch.engine.native import built
from svd_batch.engine.winograd import WinogradConv, takes_winograd

needs_compiler = pytest.mark.usefixtures("c_compiler")


def conv_of(inputs: int, outputs: int, bias: bool = True, by_onednn: bool = True) -> Any:
    torch.manual_seed(inputs)
    conv: Any = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias).requires_grad_(False)
    conv.__class__, conv.by_onednn = WinogradConv, by_onednn
    return conv


def states_of(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(shape).to(memory_format=torch.channels_last)


def convolved(conv: Any, *states: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = conv(*states)
    return result


def exactly(conv: Any, states: torch.Tensor) -> torch.Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return functional.conv2d(states.double(), conv.weight.double(), bias, padding=1)


@needs_compiler
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs", "rows", "height", "width"),
    [
        (64, 64, 16, 16, 24),
        (16, 32, 1, 1, 1),
        (48, 96, 3, 5, 7),  # an odd size: the last squares stand out
        (32, 32, 2, 2, 41),
        (128, 160, 2, 3, 4),
        (32, 64, 1, 90, 61),  # a last share of fewer squares
    ],
)
def test_it_is_as_accurate_as_torchs(
    inputs: int, outputs: int, rows: int, height: int, width: int, adds: bool, bias: bool
) -> None:
    conv, states = conv_of(inputs, outputs, bias), states_of(rows, inputs, height, width)
    plus = states_of(rows, outputs, height, width)
    exact = exactly(conv, states) + (plus if adds else 0)
    torchs = functional.conv2d(states, conv.weight, conv.bias, padding=1) + (plus if adds else 0)
    assert built("winograd") is not None
    ours = convolved(conv, states, *([plus] if adds else []))
    assert "winograd" in conv.kept
    assert ours.shape == torchs.shape
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - exact).abs().max() <= max(2e-6, 2 * (torchs - exact).abs().max())


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    conv, states, threads = conv_of(32, 64), states_of(3, 32, 21, 33), torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(convolved(conv, states))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_compiler
def test_a_picture_alone_has_the_same_bits_as_among_others() -> None:
    conv, states = conv_of(64, 64), states_of(5, 64, 9, 7)
    assert torch.equal(convolved(conv, states)[3:4], convolved(conv, states[3:4]))


@needs_compiler
def test_another_weight_is_transformed_anew() -> None:
    conv, states = conv_of(16, 32), states_of(1, 16, 8, 8)
    convolved(conv, states)
    conv.weight.mul_(-2)
    assert (convolved(conv, states) - exactly(conv, states)).abs().max() <= 1e-5
    conv.weight = torch.nn.Parameter(torch.ones_like(conv.weight), requires_grad=False)
    assert (convolved(conv, states) - exactly(conv, states)).abs().max() <= 1e-4


@needs_compiler
def test_what_is_not_finite_is_seen_in_what_it_reaches() -> None:
    conv, states = conv_of(16, 32), states_of(2, 16, 8, 8)
    states[1, 3, 4, 4] = float("nan")
    ours = convolved(conv, states)
    assert ours[0].isfinite().all()
    assert ours[1, :, 3:6, 3:6].isnan().all()


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("by_onednn", [False, True])
def test_without_a_compiler_torchs_operations_do_it(by_onednn: bool) -> None:
    conv, states = conv_of(16, 32, by_onednn=by_onednn), states_of(2, 16, 8, 8)
    ours = convolved(conv, states, torch.ones(2, 32, 8, 8).to(memory_format=torch.channels_last))
    assert "winograd" not in conv.__dict__.get("kept", {})
    assert (ours - exactly(conv, states) - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layout_and_dtype_is_taken(layout: torch.memory_format, dtype: torch.dtype) -> None:
    conv = conv_of(16, 32).to(dtype)
    states = states_of(2, 16, 6, 6).to(dtype).contiguous(memory_format=layout)
    assert (convolved(conv, states) - exactly(conv, states)).abs().max() <= (1e-5 if dtype == torch.float32 else 0.05)


@needs_compiler
def test_gradients_are_left_to_torch() -> None:
    conv, states = conv_of(16, 32), states_of(1, 16, 4, 4).requires_grad_()
    stock = copy.deepcopy(conv)
    stock.__class__ = torch.nn.Conv2d
    conv(states).sum().backward()
    ours, states.grad = states.grad, None
    stock(states).sum().backward()
    assert torch.allclose(ours, states.grad)


@pytest.mark.parametrize(
    ("module", "takes"),
    [
        (torch.nn.Conv2d(16, 32, 3, padding=1), True),
        (torch.nn.Conv2d(16, 32, 3, padding=1, stride=2), False),
        (torch.nn.Conv2d(16, 32, 3), False),
        (torch.nn.Conv2d(16, 32, 1), False),
        (torch.nn.Conv2d(8, 32, 3, padding=1), False),
        (torch.nn.Conv2d(16, 48, 3, padding=1), False),
        (torch.nn.Conv2d(32, 32, 3, padding=1, groups=2), False),
        (torch.nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect"), False),
        (torch.nn.Conv2d(320, 320, 3, padding=1), False),  # its weights would take 6.6 MB more
        (torch.nn.Linear(16, 32), False),
    ],
)
def test_only_what_it_computes_is_taken(module: torch.nn.Module, takes: bool) -> None:
    assert takes_winograd(module) is takes
