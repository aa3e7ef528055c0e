"""One stage of training: the loop with its snapshots, progress lines and loss log. Knows no model by name."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pocket.optimizer import Average, make_optimizers, rate_factor, set_rate

SNAPSHOT_EVERY = 50
PRINT_EVERY = 10


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains."""

    name: str
    num_steps: int
    muon_lr: float
    adamw_lr: float
    average_decay: float


def generator_for(seed: int, step: int) -> torch.Generator:
    """The random generator of one step: a resumed run draws what an unbroken one would."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Stage:
    """Trains one model to the end of its plan, from the last snapshot if the work folder holds one."""

    def __init__(self, plan: Plan, model: nn.Module, work: Path) -> None:
        self.plan = plan
        self.model = model
        self.optimizers = make_optimizers(model, plan.muon_lr, plan.adamw_lr)
        self.average = Average(model, plan.average_decay)
        self.step = 0
        self.elapsed_s = 0.0
        self.snapshot_path = work / f"{plan.name}.pt"
        self.log_path = work / f"{plan.name}_loss.csv"
        if self.snapshot_path.exists():
            self._load()

    def _load(self) -> None:
        snapshot = torch.load(self.snapshot_path, weights_only=True)
        self.step = snapshot["step"]
        self.elapsed_s = snapshot["elapsed_s"]
        self.model.load_state_dict(snapshot["model"])
        self.average.weights = snapshot["average"]
        for optimizer, state in zip(self.optimizers, snapshot["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    def _save(self) -> None:
        snapshot = {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.snapshot_path.with_suffix(".partial")
        torch.save(snapshot, partial)
        partial.replace(self.snapshot_path)

    def run(self, loss_of_step: Callable[[int], torch.Tensor]) -> None:
        """Train to the end of the plan, then leave the averaged weights in the model.

        loss_of_step draws all its randomness from the step's number, so that a resumed run goes on as if unbroken.
        """
        self.model.train()
        started_step, started_s, losses = self.step, self.elapsed_s, []
        while self.step < self.plan.num_steps:
            started_at = time.monotonic()
            set_rate(self.optimizers, rate_factor(self.step, self.plan.num_steps))
            loss = loss_of_step(self.step)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.step += 1
            self.average.update(self.model, self.step)
            losses.append(loss.item())
            self.elapsed_s += time.monotonic() - started_at
            if self.step % PRINT_EVERY == 0 or self.step == self.plan.num_steps:
                self._report(sum(losses) / len(losses), (self.elapsed_s - started_s) / (self.step - started_step))
                losses.clear()
            if self.step % SNAPSHOT_EVERY == 0 or self.step == self.plan.num_steps:
                self._save()
        self.model.load_state_dict(self.average.weights)
        self.model.eval()

    def _report(self, loss: float, step_s: float) -> None:
        """Print one line with the time left, and add it to the loss log."""
        left_s = (self.plan.num_steps - self.step) * step_s
        print(
            f"{self.plan.name} {self.step}/{self.plan.num_steps}  loss {loss:.4f}  "
            f"{step_s:.2f} s a step  {left_s / 60:.1f} min left",
            flush=True,
        )
        with self.log_path.open("a", newline="") as file:
            csv.writer(file).writerow((self.step, f"{loss:.6f}"))
