"""The checkpoint's folder: weights, model card, loss curves and sample sheet."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from pocket.architecture import LATENT_CHANNELS, SIZES
from pocket.data import FPS_RANGE, HELD_OUT_PHOTOS, MAX_SPEED_PX, TRAIN_PHOTOS, Photo
from pocket.evaluate import DEFAULTS, Figures

matplotlib.use("Agg")
from matplotlib import pyplot

SMOOTHING = 10  # lines of the loss log

CARD = Path(__file__).with_name("card.md")


def _read_log(path: Path) -> np.ndarray:
    """(N, 2) float64: step and loss; of a step logged twice (a resumed run) the last counts."""
    with path.open(newline="") as file:
        rows = {int(step): float(loss) for step, loss in csv.reader(file)}
    return np.array(sorted(rows.items()))


def draw_curves(work: Path, path: Path) -> None:
    """Write a small PNG with the losses of both stages."""
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 2.6), dpi=80)
    for panel, stage, title in zip(panels, ("vae", "unet"), ("autoencoder", "denoiser, error on v"), strict=True):
        steps, losses = _read_log(work / f"{stage}_loss.csv").T
        kernel = np.ones(min(SMOOTHING, len(losses)))
        weights = np.convolve(np.ones_like(losses), kernel, "same")
        panel.plot(steps, losses, linewidth=0.6, alpha=0.4)
        panel.plot(steps, np.convolve(losses, kernel, "same") / weights, linewidth=1.5)
        panel.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def write_sheet(sheet: np.ndarray, path: Path) -> None:
    """Write a sample sheet as a PNG of 48 colours, to stay small."""
    image = Image.fromarray(sheet).quantize(48, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def _part(photo: Photo) -> str:
    """Which part of a picture is meant, in words."""
    left, top, right, bottom = photo.box
    if photo.box == (0, 0, 1, 1):
        return "all"
    return f"{left:.0%} to {right:.0%} across, {top:.0%} to {bottom:.0%} down"


def _list_photos(photos: tuple[Photo, ...]) -> str:
    """A Markdown table of pictures, parts and rights."""
    rows = [f"| {photo.file} | {_part(photo)} | {photo.rights} |" for photo in photos]
    return "\n".join(["| picture | part | rights |", "|---|---|---|", *rows])


def write_card(folder: Path, figures: Figures, parts: dict[str, tuple[str, int]], training: dict[str, str]) -> None:
    """Write the model card. `parts` is class and parameters by part; `training` fills in steps and minutes."""
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    card = CARD.read_text().format(
        size_mb=weights / 1e6,
        parts="\n".join(f"| {name} | {cls} | {count / 1e6:.2f} M |" for name, (cls, count) in parts.items()),
        num_frames=SIZES["pocket"].num_frames,
        latent_channels=LATENT_CHANNELS,
        defaults=", ".join(f"{name} {value}" for name, value in DEFAULTS.items()),
        max_speed=MAX_SPEED_PX,
        fps_low=FPS_RANGE[0],
        fps_high=FPS_RANGE[1],
        trained_on=_list_photos(TRAIN_PHOTOS),
        held_out=_list_photos(HELD_OUT_PHOTOS),
        figures="\n".join(figures.lines()),
        **training,
    )
    (folder / "README.md").write_text(card)
