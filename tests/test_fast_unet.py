"""The exact shortcuts: the same sums as stock, alone and together, and stock where they don't apply."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest
import torch
from accelerate import cpu_offload
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from svd_batch.engine import fast_unet
from svd_batch.engine.fast_unet import FastUNet, GegluLinear, Switches, has_onednn, make_fast
from svd_batch.engine.group_norm import FastGroupNorm
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from pocket.architecture import SIZES, build_pipeline

NAMES = [field.name for field in dataclasses.fields(Switches)]
PICTURES = [PIL.Image.effect_noise((32, 32), sigma).convert("RGB") for sigma in (20, 80)]
SHAPE: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 3, "num_inference_steps": 3, "decode_chunk_size": 2}


def only(*names: str) -> Switches:
    return Switches(**{name: name in names for name in NAMES})


def unsettle(module: torch.nn.Module) -> None:
    """Move biases, norms and blends off their initial values, which would hide a mistake in them."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def four_levels() -> UNetSpatioTemporalConditionModel:
    """The published architecture, narrow: four levels, attention in three of them, two layers a block."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64, 64),
        num_attention_heads=(1, 2, 2, 2),
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=2,
    ).eval()
    unsettle(unet)
    return unet


@pytest.fixture(scope="module")
def stock() -> StableVideoDiffusionPipeline:
    pipe = build_pipeline(SIZES["tiny"], 0)
    unsettle(pipe.unet)
    unsettle(pipe.vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fast(unet: UNetSpatioTemporalConditionModel, switches: Switches) -> UNetSpatioTemporalConditionModel:
    unet = copy.deepcopy(unet)
    make_fast(SimpleNamespace(unet=unet, vae=SimpleNamespace(decoder=torch.nn.Identity())), switches)
    return unet


@torch.no_grad()
def difference(a: Any, b: Any, num_tokens: int = 1, size: tuple[int, int] = (16, 16)) -> float:
    """Return the largest difference between two UNets on the same random input."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 5, 8, *size, generator=generator)
    context = torch.randn(2, num_tokens, 16, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02], [6.0, 20.0, 0.3]])
    outputs = [unet(sample, torch.tensor(1.3), context, ids).sample for unet in (a, b)]
    assert outputs[0].std() > 0.05
    return float((outputs[0] - outputs[1]).abs().max())


@pytest.mark.parametrize("names", [*[[name] for name in NAMES], NAMES], ids=lambda names: "+".join(names))
def test_a_shortcut_changes_nothing_but_rounding(names: list[str], four_levels: Any) -> None:
    assert difference(four_levels, fast(four_levels, only(*names))) < 1e-5


@pytest.mark.parametrize(
    "names",
    [["slice_feed_forward"], [name for name in NAMES if name != "fused_feed_forward"]],
    ids=["alone", "with all that slices"],
)
def test_slices_change_nothing_but_rounding(
    names: list[str], four_levels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_unet, "CPU_SLICE_BYTES", 0)  # 64 tokens each
    sizes: list[int] = []
    split = fast_unet.slices
    monkeypatch.setattr(
        fast_unet, "slices", lambda rows, size: (sizes.append(-(-len(rows) // size)), split(rows, size))[1]
    )
    assert difference(four_levels, fast(four_levels, only(*names))) < 1e-5
    assert max(sizes) > 10


def test_few_tokens_on_a_cpu_are_not_sliced(four_levels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[bool] = []
    split = fast_unet.slices
    monkeypatch.setattr(fast_unet, "slices", lambda rows, size: (whole.append(size >= len(rows)), split(rows, size))[1])
    difference(four_levels, fast(four_levels, Switches()))
    assert all(whole)


@pytest.mark.parametrize("mean", [0.0, 3.0, 300.0])
def test_the_own_group_norm_is_as_accurate_as_torchs(mean: float) -> None:
    """Sums of squares as they are would lose what lies beside a mean that is large against the spread."""
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(8, 48)
    unsettle(norm)
    states = (mean + torch.randn(3, 48, 9, 11)).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(norm).double()(states.double())
    own = copy.deepcopy(norm)
    own.__class__ = FastGroupNorm
    with torch.no_grad():
        ours, torchs = own(states), norm(states.contiguous())
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - exact).abs().max() <= 3 * (torchs - exact).abs().max()


def test_no_shortcut_leaves_every_class_as_it_was(four_levels: Any) -> None:
    kinds = [[type(m) for m in unet.modules()] for unet in (four_levels, fast(four_levels, only()))]
    assert kinds[0] == kinds[1]


def test_weights_and_their_names_stay(four_levels: Any) -> None:
    after = fast(four_levels, Switches()).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in four_levels.state_dict().items())
    assert len(after) == len(four_levels.state_dict())


def test_another_layout_takes_the_memory_that_a_weight_has(stock: Any) -> None:
    pipe = SimpleNamespace(unet=copy.deepcopy(stock.unet), vae=copy.deepcopy(stock.vae))
    roots = (pipe.unet, pipe.vae.decoder)
    before = {name: w.data_ptr() for root in roots for name, w in root.named_parameters()}
    make_fast(pipe, only("channels_last", "temporal_conv2d"))
    assert before == {name: w.data_ptr() for root in roots for name, w in root.named_parameters()}
    moved = [w for root in roots for w in root.parameters() if not w.is_contiguous()]
    assert {w.ndim for w in moved} == {4, 5}
    for old, new in zip((stock.unet, stock.vae.decoder), roots, strict=True):
        for a, b in zip(old.parameters(), new.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_context_of_several_tokens_is_attended_to_in_full(four_levels: Any) -> None:
    assert difference(four_levels, fast(four_levels, Switches()), num_tokens=3) < 1e-5


def test_sizes_that_the_levels_do_not_halve_evenly_work_as_in_stock(four_levels: Any) -> None:
    assert difference(four_levels, fast(four_levels, Switches()), size=(18, 14)) < 1e-5


def test_an_attention_processor_of_someone_elses_keeps_the_transformers_stock(four_levels: Any) -> None:
    class Doubled(AttnProcessor2_0):
        def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return 2 * super().__call__(*args, **kwargs)

    changed = copy.deepcopy(four_levels)
    changed.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(Doubled())
    assert difference(four_levels, changed) > 1e-4
    quick = fast(changed, Switches())
    assert not isinstance(quick, FastUNet)
    assert difference(changed, quick) < 1e-5


def test_what_is_remembered_follows_a_tensor_changed_in_place(four_levels: Any) -> None:
    unet = fast(four_levels, Switches())
    sample, context, ids = torch.ones(1, 2, 8, 16, 16), torch.ones(1, 1, 16), torch.tensor([[6.0, 127.0, 0.02]])
    with torch.no_grad():
        unet(sample, 1.0, context, ids)
        context *= -3
        ids += 5
        assert (
            unet(sample, 1.0, context, ids).sample - four_levels(sample, 1.0, context, ids).sample
        ).abs().max() < 1e-5


@pytest.mark.parametrize("loads_there", [False, True], ids=["called there", "loaded there too"])
def test_inference_mode_changes_nothing(four_levels: Any, loads_there: bool) -> None:
    """Tensors made there don't tell of changes, so nothing is remembered by them."""
    with torch.inference_mode(loads_there):
        copied = copy.deepcopy(four_levels)
        quick = fast(copied, Switches())
    with torch.inference_mode():
        assert difference(four_levels, quick) < 1e-5
        for weight in (w for unet in (copied, quick) for w in unet.parameters() if w.ndim > 1):
            weight.mul_(1.1)
        assert difference(copied, quick) < 1e-5
    assert loads_there or difference(copied, quick) < 1e-5


def test_in_bfloat16_the_error_is_no_larger_than_stocks(four_levels: Any) -> None:
    half = copy.deepcopy(four_levels).to(torch.bfloat16)
    inputs = (torch.ones(1, 2, 8, 16, 16), torch.tensor(1.0), torch.ones(1, 1, 16), torch.tensor([[6.0, 127.0, 0.02]]))
    with torch.no_grad():
        true = four_levels(*inputs).sample
        inputs = tuple(part.bfloat16() for part in inputs)
        errors = [(unet(*inputs).sample - true).square().mean().sqrt() for unet in (fast(half, Switches()), half)]
    assert 0 < errors[0] < 1.2 * errors[1]


def test_the_product_by_onednn_is_there_on_x86() -> None:
    import platform

    assert has_onednn() == (platform.machine().lower() in ("x86_64", "amd64"))


def calls(pipe: Any, cells: list[dict[str, Any]], picture: PIL.Image.Image = PICTURES[0]) -> list[torch.Tensor]:
    return [
        pipe(picture, generator=torch.Generator().manual_seed(7), output_type="pt", **SHAPE, **cell).frames[0]
        for cell in cells
    ]


GRID = [
    {"motion_bucket_id": bucket, "noise_aug_strength": strength} for strength in (0.02, 0.3) for bucket in (20, 240)
]


def test_a_sweep_with_every_shortcut_is_within_1e_4_of_stock_pixels(stock: Any) -> None:
    ours = SVDSweepPipeline(**copy.deepcopy(stock).components)
    ours.set_progress_bar_config(disable=True)
    ours.enable_conditioning_reuse()
    make_fast(ours, Switches())
    for picture in (*PICTURES, PICTURES[0]):
        for a, b in zip(calls(ours, GRID, picture), calls(stock, GRID, picture), strict=True):
            assert (a - b).abs().max() < 1e-4


def test_clip_sees_a_picture_once_and_the_vae_once_for_each_noise(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SVDSweepPipeline(**stock.components)
    ours.set_progress_bar_config(disable=True)
    ours.enable_conditioning_reuse()
    seen = {"clip": 0, "vae": 0}
    for name, module in (("clip", ours.image_encoder), ("vae", ours.vae.encoder)):
        monkeypatch.setattr(module, "forward", counted(seen, name, module.forward))
    calls(ours, GRID)
    assert seen == {"clip": 1, "vae": 2}
    calls(ours, GRID, PICTURES[1])
    assert seen == {"clip": 2, "vae": 4}


def counted(seen: dict[str, int], name: str, forward: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        seen[name] += 1
        return forward(*args, **kwargs)

    return wrapped


def test_reused_conditioning_gives_the_same_pixels_to_the_bit(stock: Any) -> None:
    ours = SVDSweepPipeline(**stock.components)
    ours.set_progress_bar_config(disable=True)
    ours.enable_conditioning_reuse()
    assert all(torch.equal(a, b) for a, b in zip(calls(ours, GRID), calls(stock, GRID), strict=True))


def test_guidance_in_two_halves_gives_the_pixels_of_one(stock: Any) -> None:
    ours = SVDSweepPipeline(**stock.components)
    ours.set_progress_bar_config(disable=True)
    ours.split_guidance = True
    batches: list[int] = []
    handle = ours.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    halved = calls(ours, GRID[:1])[0]
    handle.remove()
    assert batches == [1] * 2 * SHAPE["num_inference_steps"]
    assert (halved - calls(stock, GRID[:1])[0]).abs().max() < 1e-4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offloaded", [False, True])
def test_geglu_in_two_products_is_the_one_also_where_a_hook_brings_its_weights(bias: bool, offloaded: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 64, bias=bias)
    states = torch.randn(3, 5, 16)
    value, gate = layer(states).chunk(2, dim=-1)
    layer.by_onednn, layer.__class__ = False, GegluLinear
    if offloaded:
        cpu_offload(layer, execution_device=torch.device("cpu"))
        assert layer.weight.is_meta
    assert (layer(states, gated=True) - value * torch.nn.functional.gelu(gate)).abs().max() < 1e-6
    assert (layer(states) - torch.cat((value, gate), -1)).abs().max() < 1e-6
