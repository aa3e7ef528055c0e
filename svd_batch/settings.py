"""What the driver tells the generating stage of a job. Plain values: they travel to actors."""

from __future__ import annotations

from dataclasses import dataclass, field

from svd_batch.config import MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.place import Place
from svd_batch.records import SweepCell


@dataclass(frozen=True)
class GenerateSettings:
    """All that a Generate stage needs; small, so that it travels to actors as it is."""

    output: str
    model: ModelConfig
    """With the hub's commit as its revision, so that a node which has the files asks the hub nothing."""
    model_revision: str
    memory: MemoryConfig
    video: VideoConfig
    fingerprint: str
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    torch_threads: int | None = None
    reproducible: bool = False
    num_videos: int | None = None
    """What each stage has to make, roughly: compiling must be won back."""
    heaviest: SweepCell | None = None
    """The cell that takes the most memory of all that are planned."""
    memory_share: float = 1.0
    """How much of the device's free memory is for this stage, where several share it."""
    place: Place | None = None
    """What the actor that holds this stage asks of its node: it settles threads and memory_share there."""
    metrics: tuple[str, ...] = ()
    """What to measure of each video before it is encoded."""
    item_timeout_s: float | None = None
    """Seconds that a video may take to generate."""
