"""Muon for the matrices, AdamW for the rest, a schedule for both, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

# Source: https://kellerjordan.github.io/posts/muon (the quintic's coefficients)
QUINTIC = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix to a 2-D one, roughly, by Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal; kernels count as matrices (out, in x taps), which torch's own refuses.

    The step's size matches AdamW's, so that both take rates of one order.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter from its gradient."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(buffer, group["momentum"])
                update = orthogonalise(nesterov.flatten(1))
                scale = 0.2 * math.sqrt(max(update.shape))
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


def make_optimizers(model: nn.Module, muon_lr: float, adamw_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for inner kernels and matrices; AdamW for biases, norms, embeddings and the outer convolutions."""
    inner, outer = [], []
    for name, parameter in model.named_parameters():
        is_outer = any(part in name for part in ("conv_in", "conv_out", "quant_conv", "embedding"))
        (outer if parameter.ndim < 2 or is_outer else inner).append(parameter)
    return [Muon(inner, muon_lr), torch.optim.AdamW(outer, adamw_lr, betas=(0.9, 0.99), weight_decay=0.0)]


def rate_factor(step: int, num_steps: int, num_warmup: int = 40, flat_part: float = 0.4) -> float:
    """What the learning rate is multiplied by: a short warm-up, flat, then half a cosine down to 1 %."""
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = (step / num_steps - flat_part) / (1 - flat_part)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to a multiple of the one it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_lr", group["lr"]) * factor


class Average:
    """An exponential moving average of a model's parameters, short at first and longer as training goes on."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)
