"""Feed-forward layers of a CPU in one function of C (geglu.c): norm, GEGLU, projection and residual, cache by cache.

oneDNN makes each product as fast, but what is hidden, eight times as wide as states, goes through memory in between.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from svd_batch.engine.native import built
from svd_batch.engine.onednn import PACK_BYTES, applies, is_small, kept

CHANNELS = 32
"""geglu.c takes channels by so many."""


def can_be_fused(module: Any) -> bool:
    """Return whether FusedFeedForward can stand for it: GEGLU with biases, widths that fit, weights that are small."""
    if type(module) is not FeedForward or len(module.net) != 3 or not isinstance(module.net[0], GEGLU):
        return False
    proj, dropout, output = module.net[0].proj, module.net[1], module.net[2]
    linear = isinstance(proj, nn.Linear) and isinstance(output, nn.Linear)
    whole = linear and proj.bias is not None and output.bias is not None and proj.in_features == output.out_features
    fits = whole and proj.in_features % CHANNELS == 0 and output.in_features % CHANNELS == 0
    return bool(fits) and proj.weight.numel() * 4 <= PACK_BYTES and isinstance(dropout, nn.Dropout)


class FusedFeedForward(FeedForward):  # type: ignore[misc]
    """A feed-forward layer that can be added to its states together with the norm before it."""

    def takes(self, norm: Any, rows: Tensor) -> bool:
        """Return whether `add_to` can do it: float32 states side by side on a CPU, a plain norm, a compiler."""
        weight, dropout = self.net[0].proj.weight, self.net[1]
        is_real = (
            type(rows) is Tensor and rows.is_contiguous() and applies(rows, weight) and is_small(weight, PACK_BYTES)
        )
        is_plain = type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
        drops = dropout.training and dropout.p > 0
        return is_real and is_plain and not drops and built("geglu") is not None

    def add_to(self, norm: nn.LayerNorm, rows: Tensor) -> None:
        """Add self(norm(rows)) to rows (N, C), in place."""
        proj, output = self.net[0].proj, self.net[2]
        into = kept(self, "into", proj.weight, (), proj.weight.T.contiguous)
        out_of = kept(self, "out of", output.weight, (), output.weight.T.contiguous)
        tensors = (rows, norm.weight, norm.bias, into, proj.bias, out_of, output.bias)
        built("geglu")(*(tensor.data_ptr() for tensor in tensors), *rows.shape, output.in_features, norm.eps)
