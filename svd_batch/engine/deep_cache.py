"""Deep UNet features, computed every N-th denoising step and used again in between: an approximation.

From one step to the next the coarse levels of a UNet change little. A whole step remembers what goes into the very
last layer of the last up block; a shallow step runs conv_in, which is that layer's skip, and that layer.
Running more layers in a shallow step is no better for its time (docs/log.md).

For the length of a step some blocks of the UNet are replaced in place, so that the UNet's own `forward` runs, be it
stock's or FastUNet's, with whatever hooks it has. Source of the idea: DeepCache, https://arxiv.org/abs/2312.00858.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class DeepCache:
    """The deep features of one call of a pipeline. With `interval` 1 every step is whole and nothing is kept.

    Raises: ValueError for an interval below 1, or a UNet whose last up block makes the picture larger.
    """

    def __init__(self, unet: Any, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"`deep_cache_interval` is {interval}; give 1, which computes every step, or more")
        self.unet, self.interval = unet, interval
        self._number: int | None = None
        self._features: dict[Hashable, Tensor] = {}
        if interval == 1:
            return
        last = unet.up_blocks[-1]
        if last.upsamplers is not None:
            raise ValueError("`deep_cache_interval` above 1 needs a UNet whose last up block doesn't upsample")
        self._recall, self._whole = _Recall(), _LastBlock(last, slice(None))
        self._whole_blocks = {"up_blocks": nn.ModuleList([*unet.up_blocks[:-1], self._whole])}
        self._shallow_blocks = {
            "down_blocks": nn.ModuleList(),
            "mid_block": self._recall,
            "up_blocks": nn.ModuleList([_LastBlock(last, slice(-1, None))]),
        }

    @contextmanager
    def step(self, number: int, part: Hashable) -> Iterator[None]:
        """Within, the UNet computes step `number` (from 0) for one part of the batch: whole, or shallow where it may.

        Each part has features of its own; one that has none since the last whole step computes a whole one.
        """
        if self.interval == 1:
            yield
            return
        if number % self.interval == 0 and number != self._number:
            self._features.clear()
        self._number = number  # every part of the batch comes with the same
        if part in self._features:
            self._recall.features = self._features[part]
            with _replaced(self.unet, self._shallow_blocks):
                yield
            return
        with _replaced(self.unet, self._whole_blocks):
            yield
        assert self._whole.features is not None
        self._features[part], self._whole.features = self._whole.features, None


@contextmanager
def _replaced(unet: Any, blocks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within, the UNet has other blocks under these names."""
    before = {name: getattr(unet, name) for name in blocks}
    try:
        for name, block in blocks.items():
            setattr(unet, name, block)
        yield
    finally:
        for name, block in before.items():
            setattr(unet, name, block)


class _Recall(nn.Module):
    """Stands for all that is deep, and gives back what was remembered of it."""

    features: Tensor | None = None

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        assert self.features is not None
        return self.features


class _LastBlock(nn.Module):
    """Layers of the last up block; what goes into the last of them is remembered."""

    def __init__(self, block: Any, layers: slice) -> None:
        super().__init__()
        self.has_cross_attention = bool(getattr(block, "has_cross_attention", False))
        self.resnets = block.resnets[layers]
        self.attentions = block.attentions[layers] if self.has_cross_attention else None
        self.features: Tensor | None = None

    def forward(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor,
        image_only_indicator: Tensor,
        encoder_hidden_states: Any = None,
        upsample_size: Any = None,
    ) -> Tensor:
        for number, resnet in enumerate(self.resnets):
            if number == len(self.resnets) - 1:
                self.features = hidden_states
            hidden_states = torch.cat([hidden_states, res_hidden_states_tuple[-1 - number]], dim=1)
            hidden_states = resnet(hidden_states, temb, image_only_indicator=image_only_indicator)
            if self.attentions is not None:
                attention: Any = self.attentions[number]
                hidden_states = attention(
                    hidden_states,
                    encoder_hidden_states=encoder_hidden_states,
                    image_only_indicator=image_only_indicator,
                    return_dict=False,
                )[0]
        return hidden_states
