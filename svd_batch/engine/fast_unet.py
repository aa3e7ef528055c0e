"""The denoiser and the decoder, exact but faster: the same weights and the same sums in a cheaper order.

`make_fast` changes the classes of a loaded pipeline's modules in place; weights, names and state_dict stay as they are.
What each switch does:

- collapse_cross_attention: SVD's context is one token, so softmax over one key is 1 and cross-attention is
  `to_out(to_v(context))` whatever the query; norm2, to_q, to_k and the attention itself drop out, and the vector is
  computed once a call of the pipeline.
- hoist_invariants: time ids and the frames' positions are embedded once a call of the pipeline; embeddings that stock
  repeats for every frame and then projects are projected first; blending with a learned factor is one addition.
- slice_feed_forward: norm, GEGLU and residual over as many tokens at a time as stay in the cache, in place.
- split_geglu: GEGLU's value and gate as two products, each of which fills its memory without gaps; what follows them
  goes through it faster, and half of it is there at a time.
- onednn_linear, onednn_conv: on an x86 CPU in float32, matrix products and convolutions by oneDNN, with weights kept in
  its order and GELU, products and sums folded in (onednn.py).
- split_upsample: there, doubling and convolving a picture as a small convolution for each of its four phases.
- temporal_conv2d: a (3, 1, 1) convolution over (T, H, W) is a (3, 1) one over (T, H * W), for which a CPU has a
  kernel three times as fast, and a GPU a slower one.
- channels_last: convolutions in the layout that oneDNN is up to twice as fast in, and in which neither attention nor
  convolution along time has to reorder anything; group norm, which torch computes slowly in it, as two sums.
- fused_group_norm: there, group norm and SiLU in one function of C (group_norm.py).
- winograd: there, small 3x3 convolutions by Winograd's algorithm, in C (winograd.py).
- fused_feed_forward: small feed-forward layers of a CPU, with norm and residual, in C (feed_forward.py).

A part that isn't built as the published checkpoints are stays stock.
Source of what is replaced: diffusers 0.42, models/unets/unet_spatio_temporal_condition.py,
models/transformers/transformer_temporal.py, models/attention.py, models/resnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionOutput
from torch import Tensor, nn
from torch.nn import functional

from svd_batch.engine import onednn
from svd_batch.engine.feed_forward import FusedFeedForward, can_be_fused
from svd_batch.engine.group_norm import FastGroupNorm, FusedGroupNorm, activated
from svd_batch.engine.onednn import (
    FastUpsample,
    OneDnnConv,
    OneDnnLinear,
    TemporalConv,
    has_onednn,
    is_channels_last,
    is_plain_conv,
    is_plain_upsample,
)
from svd_batch.engine.winograd import WinogradConv, takes_winograd

CPU_SLICE_BYTES = 1 << 23
"""What a slice's hidden activations may take on a CPU: they stay in its last cache, and products are long enough."""
GPU_SLICE_BYTES = 1 << 28
"""The same on a GPU, where slices are there to save memory."""

MOST_REMEMBERED = 2
"""Contexts whose invariants are kept: the two halves of guidance may come one after the other."""


@dataclass(frozen=True)
class Switches:
    """Which exact shortcuts the model takes."""

    collapse_cross_attention: bool = True
    hoist_invariants: bool = True
    slice_feed_forward: bool = True
    split_geglu: bool = True
    onednn_linear: bool = True
    onednn_conv: bool = True
    split_upsample: bool = True
    temporal_conv2d: bool = True
    channels_last: bool = True
    fused_group_norm: bool = True
    winograd: bool = True
    fused_feed_forward: bool = True


class LayerContext(NamedTuple):
    """What one spatio-temporal transformer is told, the same at every step."""

    tokens: Tensor
    """The context as it came, (B, L, D)."""
    spatial: Tensor | None
    """What each spatial cross-attention adds, (layers, B, 1, C); None when it must be computed in full."""
    temporal: Tensor | None
    positions: Tensor | None
    """Embedding of the frames' positions, (T, 1, C)."""


def make_fast(pipe: StableVideoDiffusionPipeline, switches: Switches) -> None:
    """Make the pipeline's UNet and VAE decoder take the shortcuts, in place."""
    roots = (pipe.unet, pipe.vae.decoder)
    if switches.onednn_linear and has_onednn():
        for module in (m for root in roots for m in root.modules() if type(m) is nn.Linear):
            module.__class__ = OneDnnLinear
    if switches.temporal_conv2d:
        for module in (m for root in roots for m in root.modules() if _is_temporal_conv(m)):
            module.__class__ = TemporalConv
            module.packs = switches.onednn_conv and has_onednn()
            if switches.channels_last:
                _lay_out(module, torch.channels_last_3d)
    if switches.split_upsample and has_onednn():
        for module in (m for root in roots for m in root.modules() if is_plain_upsample(m)):
            module.__class__ = FastUpsample
    if switches.onednn_conv and has_onednn():
        for module in (m for root in roots for m in root.modules() if is_plain_conv(m)):
            module.__class__ = OneDnnConv
    if switches.winograd:
        for module in (m for root in roots for m in root.modules() if takes_winograd(m)):
            module.by_onednn = type(module) is OneDnnConv
            module.__class__ = WinogradConv
    if switches.channels_last:
        for module in (m for root in roots for m in root.modules()):
            if type(module) in (nn.Conv2d, OneDnnConv, WinogradConv):
                _lay_out(module, torch.channels_last)
    if switches.channels_last or switches.fused_group_norm:
        kind = FusedGroupNorm if switches.fused_group_norm else FastGroupNorm
        for norm in (m for root in roots for m in root.modules() if type(m) is nn.GroupNorm):
            norm.__class__ = kind
    if switches.hoist_invariants:
        for module in (m for root in roots for m in root.modules() if _is_plain_res_block(m)):
            module.__class__ = FastResBlock
            module.spatial_share = _spatial_share(module.time_mixer)
    transformers = [m for m in pipe.unet.modules() if isinstance(m, TransformerSpatioTemporalModel)]
    plain = type(pipe.unet) is UNetSpatioTemporalConditionModel and all(map(_is_plain_transformer, transformers))
    of_transformers = (
        "collapse_cross_attention",
        "hoist_invariants",
        "slice_feed_forward",
        "split_geglu",
        "fused_feed_forward",
    )
    if not plain or not any(getattr(switches, name) for name in of_transformers):
        return
    if switches.split_geglu:
        for module in (m.proj for m in pipe.unet.modules() if type(m) is GEGLU):
            if type(module) in (nn.Linear, OneDnnLinear):
                module.by_onednn = type(module) is OneDnnLinear
                module.__class__ = GegluLinear
    if switches.fused_feed_forward:
        for module in (m for m in pipe.unet.modules() if can_be_fused(m)):
            module.__class__ = FusedFeedForward
    for index, transformer in enumerate(transformers):
        transformer.__class__ = FastTransformer
        transformer.index, transformer.switches = index, switches
        transformer.spatial_share = _spatial_share(transformer.time_mixer)
    pipe.unet.__class__ = FastUNet
    pipe.unet.switches, pipe.unet.transformers, pipe.unet.remembered = switches, tuple(transformers), {}


def _lay_out(module: Any, memory_format: torch.memory_format) -> None:
    """Give a weight another layout in the memory that it has: of SVD-XT's, new ones would be a gigabyte at a time."""
    weight: Tensor = module.weight.data
    values = weight.contiguous(memory_format=memory_format)
    module.weight.data = weight.as_strided(weight.shape, values.stride()).copy_(values)


# --- what is built as expected ----------------------------------------------------------------------------------


def _is_temporal_conv(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv3d
        and module.kernel_size == (3, 1, 1)
        and module.padding == (1, 0, 0)
        and module.padding_mode == "zeros"
        and {*module.stride, *module.dilation, module.groups} == {1}
    )


def _is_plain_res_block(module: nn.Module) -> bool:
    if type(module) is not SpatioTemporalResBlock:
        return False
    spatial: Any = module.spatial_res_block
    temporal: Any = module.temporal_res_block
    return bool(
        type(spatial) is ResnetBlock2D
        and spatial.upsample is None
        and spatial.downsample is None
        and spatial.time_embedding_norm == "default"
        and not spatial.skip_time_act
        and spatial.output_scale_factor == 1.0
        and isinstance(spatial.nonlinearity, nn.SiLU)
        and type(temporal) is TemporalResnetBlock
        and temporal.conv_shortcut is None
        and _is_plain_mixer(module.time_mixer)
    )


def _is_plain_mixer(mixer: AlphaBlender) -> bool:
    return type(mixer) is AlphaBlender and mixer.merge_strategy in ("learned", "learned_with_images")


def _is_plain_attention(attention: Any) -> bool:
    return bool(
        type(attention) is Attention
        and type(attention.processor) in (AttnProcessor, AttnProcessor2_0)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and (attention.group_norm, attention.spatial_norm, attention.norm_cross) == (None, None, None)
        and (attention.norm_q, attention.norm_k) == (None, None)
    )


def _is_plain_feed_forward(feed_forward: FeedForward) -> bool:
    return isinstance(feed_forward.net[0], GEGLU) and len(feed_forward.net) == 3


def _is_plain_transformer(module: TransformerSpatioTemporalModel) -> bool:
    spatial, temporal = module.transformer_blocks, module.temporal_transformer_blocks
    return (
        type(module) is TransformerSpatioTemporalModel
        and all(type(b) is BasicTransformerBlock and b.norm_type == "layer_norm" and not b.pos_embed for b in spatial)
        and all(type(b) is TemporalBasicTransformerBlock and b.is_res for b in temporal)
        and all(_is_plain_attention(a) for b in (*spatial, *temporal) for a in (b.attn1, b.attn2))
        and all(_is_plain_feed_forward(b.ff) for b in (*spatial, *temporal))
        and all(_is_plain_feed_forward(b.ff_in) for b in temporal)
        and _is_plain_mixer(module.time_mixer)
    )


# --- the parts --------------------------------------------------------------------------------------------------


def _per_frame(per_sample: Tensor, num_rows: int) -> Tensor:
    """Return (num_rows, …) from (B, …): each sample's row once a frame; what has num_rows already stays."""
    repeats = num_rows // per_sample.shape[0]
    return per_sample if repeats == 1 else per_sample.repeat_interleave(repeats, dim=0, output_size=num_rows)


def _split(tensor: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """Return the tensor with one dimension split in several."""
    output: Tensor = tensor.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return output


def _along_time(frames: Tensor, num_frames: int) -> Tensor:
    """Return (B, C, T, H * W) from frames (B * T, C, H, W); without a copy in the channels_last layout."""
    channels, height, width = frames.shape[1:]
    if is_channels_last(frames):  # a view by its full shape: group norm must recognise the layout even where B is 1
        return frames.permute(0, 2, 3, 1).view(-1, num_frames, height * width, channels).permute(0, 3, 1, 2)
    return frames.view(-1, num_frames, channels, height * width).transpose(1, 2).contiguous()


def _as_frames(volume: Tensor, shape: torch.Size) -> Tensor:
    """Return frames of a shape (B * T, C, H, W) from (B, C, T, …); without a copy in the channels_last layout."""
    rows, channels, height, width = shape
    if volume.movedim(1, -1).is_contiguous():
        return volume.movedim(1, -1).reshape(rows, height, width, channels).permute(0, 3, 1, 2)
    return volume.transpose(1, 2).reshape(shape)


def _spatial_share(mixer: AlphaBlender) -> float:
    """Return how much of the spatial branch a blend keeps; videos only, no still images."""
    share = float(torch.sigmoid(mixer.mix_factor.detach()))
    return 1.0 - share if mixer.switch_spatial_to_temporal_mix else share


class FastResBlock(SpatioTemporalResBlock):  # type: ignore[misc]
    """Convolutions in space, then in time; `temb` may have one row a sample (B, E) or a frame (B * T, E)."""

    spatial_share: float

    def forward(
        self, hidden_states: Tensor, temb: Tensor | None = None, image_only_indicator: Tensor | None = None
    ) -> Tensor:
        """Return (B * T, C, H, W); T is the indicator's last dimension."""
        assert image_only_indicator is not None
        num_frames, spatial, temporal = image_only_indicator.shape[-1], self.spatial_res_block, self.temporal_res_block
        rows = hidden_states.shape[0]
        time = None if temb is None else functional.silu(temb)

        hidden = spatial.conv1(activated(spatial.norm1, hidden_states))
        if time is not None and spatial.time_emb_proj is not None:
            hidden += _per_frame(spatial.time_emb_proj(time), rows)[:, :, None, None]
        hidden = activated(spatial.norm2, hidden)
        residual = hidden_states if spatial.conv_shortcut is None else spatial.conv_shortcut(hidden_states)
        if isinstance(spatial.conv2, OneDnnConv):
            hidden = spatial.conv2(hidden, residual)
        else:
            hidden = spatial.conv2(hidden)
            hidden += residual
        del residual

        shape = hidden.shape
        volume = _along_time(hidden, num_frames)
        del hidden  # a decoder's largest tensors are what a profile's peak consists of: none is held that isn't needed
        if not isinstance(temporal.conv1, TemporalConv):
            volume = _split(volume, 3, tuple(shape[2:]))  # (B, C, T, H, W)
        added = temporal.conv1(activated(temporal.norm1, volume))
        if time is not None and temporal.time_emb_proj is not None:
            projected = _split(_per_frame(temporal.time_emb_proj(time), rows), 0, (-1, num_frames)).transpose(1, 2)
            added += projected[(..., *[None] * (volume.ndim - 3))]
        added = activated(temporal.norm2, added)
        # blend of x and x + added: the first has a share, so only the rest of what is added counts
        share = 1.0 - self.spatial_share
        if isinstance(temporal.conv2, TemporalConv):
            volume = temporal.conv2.added(added, volume, share)
        else:
            volume.add_(temporal.conv2(added), alpha=share)
        return _as_frames(volume, shape)


class GegluLinear(OneDnnLinear):
    """The projection of a GEGLU, which computes value and gate one after the other."""

    by_onednn: bool

    def applies_to(self, states: Tensor) -> bool:
        """Return whether oneDNN takes these states."""
        return self.by_onednn and super().applies_to(states)

    def forward(self, input: Tensor, gated: bool = False) -> Tensor:
        """Return (…, out) for (…, in); gated: value * GELU(gate), (…, out / 2)."""
        if not gated:
            return super().forward(input)
        if torch.compiler.is_compiling():  # one product is quicker where the compiler fuses what follows it
            value, gate = functional.linear(input, self.weight, self.bias).chunk(2, dim=-1)
            return value * functional.gelu(gate)
        weights = self.weight.chunk(2)
        biases = self.bias.chunk(2) if self.bias is not None else (None, None)
        gate = functional.gelu(functional.linear(input, weights[1], biases[1]))
        return functional.linear(input, weights[0], biases[0]).mul_(gate)


def slices(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Return views of `size` rows each, the last one shorter; the estimator looks at the first alone."""
    return torch.split(rows, size)


def _feed_forward(norm: nn.LayerNorm, feed_forward: FeedForward, rows: Tensor, sliced: bool) -> None:
    """Add feed_forward(norm(rows)) to rows (N, C), in place."""
    if isinstance(feed_forward, FusedFeedForward) and feed_forward.takes(norm, rows):
        feed_forward.add_to(norm, rows)
        return
    geglu, dropout, output = feed_forward.net
    folded = all(isinstance(layer, OneDnnLinear) and layer.applies_to(rows) for layer in (geglu.proj, output))
    width = geglu.proj.out_features * rows.element_size()
    most = GPU_SLICE_BYTES if onednn.on_gpu(rows) else CPU_SLICE_BYTES
    size = max(64, most // width // 64 * 64) if sliced else len(rows)
    for part in slices(rows, size):
        if folded:
            normed = norm(part)
            gate = geglu.proj.product(normed, "gelu", part=(1, 2))
            hidden = geglu.proj.product(normed, "mul", gate, part=(0, 2))
            part.copy_(output.product(hidden, "add", part))
        elif isinstance(geglu.proj, GegluLinear):
            part += output(dropout(geglu.proj(norm(part), gated=True)))
        else:
            hidden, gate = geglu.proj(norm(part)).chunk(2, dim=-1)
            part += output(dropout(hidden * functional.gelu(gate)))


def _attend(attention: Attention, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of self-attention, each (…, heads, C / heads)."""
    shape = (attention.heads, -1)
    return (
        _split(attention.to_q(states), -1, shape),
        _split(attention.to_k(states), -1, shape),
        _split(attention.to_v(states), -1, shape),
    )


def _project_out(attention: Attention, attended: Tensor) -> Tensor:
    projected: Tensor = attention.to_out[1](attention.to_out[0](attended))
    return projected


def _collapsed(block: Any, tokens: Tensor) -> Tensor:
    """Return what the block's cross-attention adds for a context of one token (B, 1, D): (B, 1, C)."""
    return _project_out(block.attn2, block.attn2.to_v(tokens))


class FastTransformer(TransformerSpatioTemporalModel):  # type: ignore[misc]
    """Attention over the tokens of a frame, then over the frames at a token, without reordering the tokens."""

    index: int
    switches: Switches
    spatial_share: float

    def layer_context(self, tokens: Tensor, num_frames: int) -> LayerContext:
        """Return what this transformer can know before the first step."""
        spatial = temporal = positions = None
        if self.switches.collapse_cross_attention and tokens.shape[1] == 1:
            spatial = torch.stack([_collapsed(b, tokens) for b in self.transformer_blocks])
            temporal = torch.stack([_collapsed(b, tokens) for b in self.temporal_transformer_blocks])
        if self.switches.hoist_invariants:
            positions = self._positions(num_frames, tokens)
        return LayerContext(tokens, spatial, temporal, positions)

    def _positions(self, num_frames: int, like: Tensor) -> Tensor:
        frames = self.time_proj(torch.arange(num_frames, device=like.device)).to(like.dtype)
        embedded: Tensor = self.time_pos_embed(frames)[:, None]
        return embedded

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        image_only_indicator: Tensor | None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        """Return (B * T, C, H, W), in a tuple; `encoder_hidden_states` holds one LayerContext a transformer."""
        assert image_only_indicator is not None
        context: LayerContext = encoder_hidden_states[self.index]
        num_frames, sliced = image_only_indicator.shape[-1], self.switches.slice_feed_forward
        positions = context.positions if context.positions is not None else self._positions(num_frames, context.tokens)
        height, width = hidden_states.shape[2:]
        states = self.norm(hidden_states).permute(0, 2, 3, 1).flatten(1, 2)
        states = self.proj_in(states)  # (B * T, H * W, C)
        for number, (block, temporal) in enumerate(
            zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        ):
            vector = None if context.spatial is None else context.spatial[number]
            states = _spatial_block(block, states, context.tokens, vector, sliced)
            vector = None if context.temporal is None else context.temporal[number]
            mixed = _split(states, 0, (-1, num_frames)) + positions  # (B, T, H * W, C)
            mixed = _temporal_block(temporal, mixed, context.tokens, vector, sliced).flatten(0, 1)
            states = torch.lerp(mixed, states, self.spatial_share)
        states = _split(self.proj_out(states), 1, (height, width)).permute(0, 3, 1, 2)
        return (hidden_states + states,)


def _spatial_block(
    block: BasicTransformerBlock, states: Tensor, tokens: Tensor, vector: Tensor | None, sliced: bool
) -> Tensor:
    """Return states (B * T, N, C) after attention within each frame. Changes `states`."""
    query, key, value = (part.transpose(1, 2) for part in _attend(block.attn1, block.norm1(states)))
    attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    states = _project_out(block.attn1, attended).add_(states)
    if vector is not None:
        states += _per_frame(vector, len(states))
    else:
        states += block.attn2(block.norm2(states), encoder_hidden_states=_per_frame(tokens, len(states)))
    _feed_forward(block.norm3, block.ff, states.flatten(0, 1), sliced)
    return states


def _temporal_block(
    block: TemporalBasicTransformerBlock, states: Tensor, tokens: Tensor, vector: Tensor | None, sliced: bool
) -> Tensor:
    """Return states (B, T, N, C) after attention along time at each token. Changes `states`."""
    _feed_forward(block.norm_in, block.ff_in, states.flatten(0, 2), sliced)
    parts = _attend(block.attn1, block.norm1(states))  # (B, T, N, heads, C / heads)
    attended = torch.empty_like(states)
    for sample, (query, key, value) in enumerate(zip(*parts, strict=True)):
        along_time = [part.permute(1, 2, 0, 3) for part in (query, key, value)]  # (N, heads, T, C / heads)
        result = functional.scaled_dot_product_attention(*along_time)
        _split(attended[sample], -1, (block.attn1.heads, -1)).copy_(result.permute(2, 0, 1, 3))
    states = _project_out(block.attn1, attended).add_(states)
    if vector is not None:
        states += vector[:, None]
    else:
        states += _temporal_cross_attention(block, states, tokens)
    _feed_forward(block.norm3, block.ff, states.flatten(0, 2), sliced)
    return states


def _temporal_cross_attention(block: TemporalBasicTransformerBlock, states: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross-attention of states (B, T, N, C) in full, for contexts of more than one token."""
    batch_size, _, num_tokens = states.shape[:3]
    by_token = block.norm2(states).transpose(1, 2).flatten(0, 1)  # (B * N, T, C)
    result = block.attn2(by_token, encoder_hidden_states=_per_frame(tokens, batch_size * num_tokens))
    reordered: Tensor = _split(result, 0, (batch_size, num_tokens)).transpose(1, 2)
    return reordered


class FastUNet(UNetSpatioTemporalConditionModel):  # type: ignore[misc]
    """The UNet with what doesn't change between steps computed once, and one row of embedding a sample, not a frame.

    It remembers what it computed for the last context and time ids, and recognises them by being the same tensors,
    unchanged: pass the same ones at every step.
    """

    switches: Switches
    transformers: tuple[FastTransformer, ...]
    remembered: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor, list[LayerContext]]]

    def invariants(self, tokens: Tensor, time_ids: Tensor, num_frames: int) -> tuple[Tensor, list[LayerContext]]:
        """Return the embedded time ids (B, E) and a LayerContext for each transformer."""
        if tokens.is_inference() or time_ids.is_inference():  # in torch.inference_mode() no tensor tells of its changes
            return self._computed(tokens, time_ids, num_frames)
        key = (id(tokens), tokens._version, id(time_ids), time_ids._version, num_frames)
        if key not in self.remembered or not self.switches.hoist_invariants:
            embedded, layers = self._computed(tokens, time_ids, num_frames)
            if len(self.remembered) == MOST_REMEMBERED:
                del self.remembered[next(iter(self.remembered))]
            # the tensors are kept with what came of them, so that no other tensor can get their id
            self.remembered[key] = (tokens, time_ids, embedded, layers)
        return self.remembered[key][2:]

    def _computed(self, tokens: Tensor, time_ids: Tensor, num_frames: int) -> tuple[Tensor, list[LayerContext]]:
        ids = self.add_time_proj(time_ids.flatten()).unflatten(0, time_ids.shape).flatten(1)
        layers = [transformer.layer_context(tokens, num_frames) for transformer in self.transformers]
        return self.add_embedding(ids.to(tokens.dtype)), layers

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        return_dict: bool = True,
    ) -> Any:
        """Return v for `sample` (B, T, 2C, h, w), context (B, L, D) and time ids (B, 3), as stock does."""
        batch_size, num_frames = sample.shape[:2]
        ids_embedding, contexts = self.invariants(encoder_hidden_states, added_time_ids, num_frames)
        times = torch.as_tensor(timestep, device=sample.device)
        times = (times[None] if times.ndim == 0 else times).expand(batch_size)
        embedding = self.time_embedding(self.time_proj(times).to(sample.dtype)) + ids_embedding
        if not self.switches.hoist_invariants:  # stock's own blocks want a row a frame
            embedding = _per_frame(embedding, batch_size * num_frames)
        output = self.denoise(sample, embedding, contexts)
        return UNetSpatioTemporalConditionOutput(sample=output) if return_dict else (output,)

    def denoise(self, sample: Tensor, embedding: Tensor, contexts: list[LayerContext]) -> Tensor:
        """Return v (B, T, C, h, w): all that a step has to compute."""
        batch_size, num_frames = sample.shape[:2]
        sizes_differ = any(side % 2**self.num_upsamplers for side in sample.shape[-2:])
        indicator = torch.zeros(batch_size, num_frames, dtype=sample.dtype, device=sample.device)
        common = {"temb": embedding, "image_only_indicator": indicator}
        context = {"encoder_hidden_states": contexts}
        hidden = self.conv_in(sample.flatten(0, 1))
        skips: tuple[Tensor, ...] = (hidden,)
        for block in self.down_blocks:
            hidden, added = block(hidden_states=hidden, **common, **(context if _attends(block) else {}))
            skips += added
        hidden = self.mid_block(hidden_states=hidden, **common, **context)
        for block in self.up_blocks:
            taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            size = skips[-1].shape[2:] if sizes_differ and skips else None
            extra = {"res_hidden_states_tuple": taken, "upsample_size": size, **(context if _attends(block) else {})}
            hidden = block(hidden_states=hidden, **common, **extra)
        hidden = self.conv_out(activated(self.conv_norm_out, hidden))
        return _split(hidden, 0, (batch_size, num_frames))


def _attends(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))
