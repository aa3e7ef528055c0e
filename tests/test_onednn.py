"""What oneDNN computes itself: the same as torch's layers, also of changed weights, and where it doesn't apply."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from svd_batch.engine import onednn
from svd_batch.engine.onednn import FastUpsample, OneDnnConv, OneDnnLinear, TemporalConv, has_onednn, is_plain_upsample

pytestmark = pytest.mark.skipif(not has_onednn(), reason="needs an x86 CPU and a torch with oneDNN")


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True, params=["packed", "as they are"])
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "packed":
        monkeypatch.setattr(onednn, "PACK_BYTES", 0)
    return str(request.param)


def own(module: nn.Module, kind: type[nn.Module]) -> Any:
    changed = copy.deepcopy(module)
    changed.__class__ = kind
    return changed


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


def near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) < 1e-5


CONVS = [
    nn.Conv2d(6, 10, 3, padding=1),
    nn.Conv2d(6, 10, 3, stride=2, padding=1),
    nn.Conv2d(6, 10, 1, bias=False),
    nn.Conv2d(6, 10, (3, 1), padding=(1, 0)),
]


@pytest.mark.parametrize("stock", CONVS, ids=["3x3", "stride", "1x1 without bias", "3x1"])
@pytest.mark.parametrize("is_channels_last", [True, False])
def test_a_convolution_is_torchs_with_and_without_an_addition(stock: nn.Conv2d, is_channels_last: bool) -> None:
    ours, states = own(stock, OneDnnConv), pictures(3, 6, 9, 11)
    states = states if is_channels_last else states.contiguous()
    expected = stock(states)
    assert near(ours(states), expected)
    for plus in (torch.randn_like(expected), torch.randn_like(expected).contiguous()):
        kept = plus.clone()
        assert near(ours(states, plus), expected + plus)
        assert torch.equal(plus, kept)


def test_another_size_than_the_first_is_convolved_as_well() -> None:
    stock = nn.Conv2d(6, 10, 3, padding=1)
    ours = own(stock, OneDnnConv)
    assert all(near(ours(states), stock(states)) for states in (pictures(2, 6, 8, 8), pictures(5, 6, 33, 7)))


@pytest.mark.parametrize(
    ("kind", "stock", "sizes"),
    [
        (OneDnnConv, nn.Conv2d(6, 10, 3, padding=1), [(2, 6, 8, 8), (5, 6, 33, 7)]),
        (OneDnnLinear, nn.Linear(6, 10), [(2, 6), (70, 6)]),
        (FastUpsample, Upsample2D(6, use_conv=True), [(2, 6, 4, 4), (3, 6, 9, 5)]),
    ],
    ids=["convolution", "product", "upsampling"],
)
def test_weights_are_kept_in_the_order_of_one_size_and_anew_for_another(
    kind: Any, stock: nn.Module, sizes: list[tuple[int, ...]], weights: str
) -> None:
    """In the order of another size they are brought into the right one at every call, at thrice the time."""
    ours = own(stock, kind)
    packs = weights == "packed" or kind is FastUpsample
    seen = []
    for size in (sizes[0], sizes[0], sizes[1], sizes[1]):
        states = torch.randn(size) if len(size) == 2 else pictures(*size)
        assert near(ours(states), stock(states))
        assert len(ours.__dict__.get("kept", ())) == packs
        seen += [id(packed) for _, _, packed in ours.__dict__.get("kept", {}).values()]
    if packs:
        assert seen[0] == seen[1] != seen[2] == seen[3]


@pytest.mark.parametrize("bias", [True, False])
def test_a_share_of_a_convolution_along_time_is_added_to_what_there_is(bias: bool) -> None:
    conv = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0), bias=bias)
    ours, states, to = own(conv, TemporalConv), pictures(2, 8, 5, 12), pictures(2, 8, 5, 12)
    ours.packs = True
    expected = to + 0.3 * conv(states.unflatten(3, (3, 4))).flatten(3)
    assert near(ours(states), conv(states[..., None]).flatten(3))
    assert near(ours.added(states, to.clone(), 0.3), expected)
    assert near(ours.added(states, to.clone(), 0.3), expected)  # from the weights that were kept


def test_parts_of_a_product_are_those_of_the_whole() -> None:
    stock = nn.Linear(6, 10)
    ours, states, other = own(stock, OneDnnLinear), torch.randn(3, 7, 6), torch.randn(3, 7, 5)
    first, second = stock(states).chunk(2, -1)
    assert near(ours(states), stock(states))
    assert near(ours.product(states, "gelu", part=(1, 2)), nn.functional.gelu(second))
    assert near(ours.product(states, "mul", other, part=(0, 2)), first * other)


def upsample(channels: int = 6, **settings: Any) -> Upsample2D:
    return Upsample2D(channels, use_conv=True, out_channels=10, **settings)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 12)])
@pytest.mark.parametrize("output_size", [None, "double"])
def test_upsampling_by_phases_is_stocks_up_to_the_edges(size: tuple[int, int], output_size: Any) -> None:
    stock, states = upsample(), pictures(3, 6, *size)
    asked = None if output_size is None else (2 * size[0], 2 * size[1])
    assert is_plain_upsample(stock)
    ours = own(stock, FastUpsample)
    assert near(ours(states, asked), stock(states, asked))
    assert near(ours(states.contiguous(), asked), stock(states, asked))
    assert ours(states, asked).is_contiguous(memory_format=torch.channels_last)


def test_upsampling_goes_the_way_of_stock_where_phases_do_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    stock, states = upsample(), pictures(3, 6, 5, 7)
    ours = own(stock, FastUpsample)
    monkeypatch.setattr(onednn, "kept", None)  # would fail
    assert near(ours(states, (9, 13)), stock(states, (9, 13)))
    assert torch.equal(ours.double()(states.double()), stock.double()(states.double()))
    monkeypatch.setattr(onednn, "PHASES_BYTES", 0)
    assert near(ours.float()(states), stock.float()(states))


def test_what_is_built_otherwise_is_not_taken_for_an_upsampling() -> None:
    assert not is_plain_upsample(upsample(kernel_size=5, padding=2))
    assert not is_plain_upsample(upsample(norm_type="ln_norm"))
    assert not is_plain_upsample(Upsample2D(6, use_conv_transpose=True))
    assert not is_plain_upsample(Upsample2D(6))


LAYERS = [
    (nn.Conv2d(6, 6, 3, padding=1), OneDnnConv),
    (nn.Linear(6, 6), OneDnnLinear),
    (Upsample2D(6, use_conv=True), FastUpsample),
]


@pytest.mark.parametrize(("stock", "kind"), LAYERS, ids=["conv", "linear", "upsample"])
@pytest.mark.parametrize("change", ["loaded", "in place", "another tensor", "through another type"])
def test_what_is_kept_of_weights_follows_their_changes(stock: nn.Module, kind: Any, change: str) -> None:
    stock = copy.deepcopy(stock)
    ours, states = own(stock, kind), pictures(2, 6, 6, 6)
    before = ours(states)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter *= -2
        if change == "loaded":
            ours.load_state_dict(stock.state_dict())
        elif change == "another tensor":
            for parameter, new in zip(ours.parameters(), stock.parameters(), strict=True):
                parameter.data = new.data.clone()
        elif change == "in place":
            for parameter in ours.parameters():
                parameter.mul_(-2)
        else:
            ours.double()
            for parameter in ours.parameters():
                parameter.mul_(-2)
            ours.float()
    assert near(ours(states), stock(states))
    assert not near(ours(states), before)


@pytest.mark.parametrize(("stock", "kind"), LAYERS, ids=["conv", "linear", "upsample"])
def test_a_layer_that_has_run_can_be_copied_and_pickled(stock: nn.Module, kind: Any) -> None:
    ours, states = own(stock, kind), pictures(2, 6, 6, 6)
    expected = ours(states)
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(again(states), expected)
    assert list(ours.state_dict()) == list(stock.state_dict())


def test_with_gradients_it_is_torchs_layer(weights: str) -> None:
    conv = own(CONVS[0], OneDnnConv)
    with torch.enable_grad():
        conv(pictures(1, 6, 4, 4)).sum().backward()
    assert conv.weight.grad is not None


def test_large_weights_are_not_held_twice(weights: str) -> None:
    conv = own(CONVS[0], OneDnnConv)
    conv(pictures(1, 6, 4, 4))
    assert bool(conv.__dict__.get("kept")) == (weights == "packed")
