"""The statistics of finished videos: what each parameter did to each metric, and which cell to take.

Knows tables alone: no videos, no pages, neither torch nor ray. All results are frozen dataclasses of numbers, words,
tuples and dicts, None where a figure does not exist; `to_json` writes them. docs/analysis.md says what each means.

    videos = read_videos([Path("outputs/pets")])
    analysis = analyse(videos)
    advice = recommend(videos, Target("motion", 1.5), [Bound("likeness", at_least=0.8)])
"""

from __future__ import annotations

from svd_batch.analysis.names import Metric, check_metric, describe
from svd_batch.analysis.recommend import Bound, Recommendation, Target, recommend
from svd_batch.analysis.sentences import Sentence
from svd_batch.analysis.summary import Analysis, analyse, to_json
from svd_batch.analysis.videos import Cell, Videos, read_videos, videos_of

__all__ = [
    "Analysis",
    "Bound",
    "Cell",
    "Metric",
    "Recommendation",
    "Sentence",
    "Target",
    "Videos",
    "analyse",
    "check_metric",
    "describe",
    "read_videos",
    "recommend",
    "to_json",
    "videos_of",
]
