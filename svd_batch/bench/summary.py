"""The sums over what was measured, and the lines that a person reads. Pure: standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svd_batch.records import CELL_FIELDS, VideoRecord

if TYPE_CHECKING:
    from svd_batch.bench.measure import Comparison, Loaded, Pair
    from svd_batch.bench.sides import Turn

PHASES = ("condition", "denoise", "decode", "encode", "commit")
JOB_VIDEOS = 100
"""Videos of the job over which loading and warm-up are spread in one of the ratios."""
DISTURBED = 1.3
"""Greatest over least ratio of a round from which on something else must have slowed the machine now and then."""


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return ratios, the seconds of both sides by phase, and every single time."""
    pairs = comparison.pairs
    stock = _side(comparison.stock, [p.stock for p in pairs])
    ours = _side(comparison.ours, [p.ours for p in pairs])
    commits_s = sum(r.commit_s for p in pairs for r in p.stock.records)
    ratios = [p.stock.wall_s / p.ours.wall_s for p in pairs]
    return {
        "num_videos": stock["num_videos"],
        "ratio": stock["wall_s"] / ours["wall_s"],
        "ratio_spread": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "ratio_without_stock_commits": (stock["wall_s"] - commits_s) / ours["wall_s"],
        f"ratio_of_{JOB_VIDEOS}_videos": _job_s(stock) / _job_s(ours),
        "largest_difference": max(d for p in pairs for d in p.differences),
        "stock": stock,
        "ours": ours,
        "rounds": [_round(p) for p in pairs],
    }


def _side(loaded: Loaded, turns: Sequence[Turn]) -> dict[str, Any]:
    """Return one side's totals."""
    records = [record for turn in turns for record in turn.records]
    wall_s = sum(turn.wall_s for turn in turns)
    phases = {phase: statistics.fmean(getattr(r, f"{phase}_s") for r in records) for phase in PHASES}
    return {
        "load_s": loaded.start.load_s,
        "warm_up_s": loaded.warm_up.wall_s,
        "num_warm_up_videos": len(loaded.warm_up.records),
        "num_videos": len(records),
        "wall_s": wall_s,
        "seconds_a_video": {**phases, "wall": wall_s / len(records)},
        "peak_memory_bytes": max(r.peak_memory_bytes for r in (*loaded.warm_up.records, *records)),
        "memory_profiles": sorted({str(r.memory_profile) for r in records}),
        "batch_sizes": sorted({r.batch_size for r in records}),
    }


def _job_s(side: dict[str, Any]) -> float:
    """Return the seconds of a job of JOB_VIDEOS, of which the warm-up's are the first."""
    num_left = max(0, JOB_VIDEOS - side["num_warm_up_videos"])
    return float(side["load_s"] + side["warm_up_s"] + num_left * side["seconds_a_video"]["wall"])


def _round(pair: Pair) -> dict[str, Any]:
    videos = zip(pair.stock.records, pair.ours.records, pair.differences, strict=True)
    return {
        "stock_s": pair.stock.wall_s,
        "ours_s": pair.ours.wall_s,
        "ratio": pair.stock.wall_s / pair.ours.wall_s,
        "videos": [
            {
                "image_id": stock.image_id,
                "cell": {name: getattr(stock, name) for name in CELL_FIELDS},
                "seed": stock.seed,
                "difference": difference,
                "stock": _seconds(stock),
                "ours": _seconds(ours),
            }
            for stock, ours, difference in videos
        ],
    }


def _seconds(record: VideoRecord) -> dict[str, float]:
    return {phase: getattr(record, f"{phase}_s") for phase in PHASES}


def lines(result: dict[str, Any]) -> list[str]:
    """Return what to print of one comparison."""
    stock, ours, spread = result["stock"], result["ours"], result["ratio_spread"]
    job = result[f"ratio_of_{JOB_VIDEOS}_videos"]
    table = [
        f"  {phase:<10}{stock['seconds_a_video'][phase]:>10.3f}{ours['seconds_a_video'][phase]:>10.3f}"
        for phase in (*PHASES, "wall")
    ]
    return [
        "seconds a video    stock      ours",
        *table,
        "  (ours encodes and commits while it denoises the next video, so its parts may add up to more than wall)",
        f"speed-up: {result['ratio']:.2f} of {result['num_videos']} videos each; round by round "
        f"{spread['min']:.2f} to {spread['max']:.2f}, median {spread['median']:.2f}",
        *_disturbed_line(spread),
        f"  {result['ratio_without_stock_commits']:.2f} against a loop that encodes but neither checks nor flushes",
        f"  {job:.2f} over a job of {JOB_VIDEOS} videos, with loading ({stock['load_s']:.1f} s, "
        f"{ours['load_s']:.1f} s) and a first grid ({stock['warm_up_s']:.1f} s, {ours['warm_up_s']:.1f} s)",
        f"largest difference of pixels on [0, 1]: {result['largest_difference']:.1e}",
        f"peak memory: {stock['peak_memory_bytes'] / 2**30:.2f} GiB, {ours['peak_memory_bytes'] / 2**30:.2f} GiB",
    ]


def _disturbed_line(spread: dict[str, float]) -> list[str]:
    if spread["max"] < DISTURBED * spread["min"]:
        return []
    return ["  rounds differ so much that something else slowed the machine: trust the median alone, or measure again"]
