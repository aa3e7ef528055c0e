"""Generated frames to committed files, and failures to rows. Calls no torch."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import svd_batch
from svd_batch import ids, video
from svd_batch.attempts import AttemptLog
from svd_batch.errors import condemns
from svd_batch.load import LoadedUnit, failure_of, now
from svd_batch.locations import location, remove
from svd_batch.metrics import Clip, Embeddings, measure
from svd_batch.quality import approximations, quality_of
from svd_batch.records import CELL_FIELDS, FailureRecord, PlannedVideo, Result, VideoRecord
from svd_batch.settings import GenerateSettings
from svd_batch.store import Store, flush_and_hash

if TYPE_CHECKING:
    from svd_batch.engine.generated import EngineInfo, Generated

ENCODER_PAUSE_S = 3.0
"""How long until an encoder that failed is started once more: who ends a job signals it and all else, perhaps twice."""


@dataclass(frozen=True)
class Embedded:
    """What CLIP said of a video, if it was asked, and how long it took."""

    embeddings: Embeddings | None
    seconds: float


@dataclass(frozen=True)
class Encoded:
    """A video whose file is written, and neither checked nor durable."""

    loaded: LoadedUnit
    planned: PlannedVideo
    generated: Generated
    temporary: Path
    known: dict[str, Any]
    """Fields of its record that are known by now."""
    encode_s: float


class Committer:
    """Makes generated frames committed files, and failures rows. Calls no torch."""

    def __init__(self, settings: GenerateSettings, info: EngineInfo) -> None:
        self.settings = settings
        self.store = Store(location(settings.output))
        self.attempts = AttemptLog(self.store)
        self.info = info
        self.notes: list[str] = []
        """Sentences for the person who waits; whoever hands them on empties the list."""

    def fail(self, failure: FailureRecord) -> FailureRecord:
        """Record one failed item and return it."""
        earlier = self.store.failure(failure.item_id)
        if earlier is not None:
            failure = dataclasses.replace(failure, attempts=earlier.attempts + failure.attempts)
        self.store.record_failure(failure)
        if failure.video_id is not None:
            self.attempts.forget(failure.video_id)
        return failure

    def write(self, loaded: LoadedUnit, planned: PlannedVideo, generated: Generated) -> Result:
        """Measure, encode, check and commit one video of which CLIP was not asked."""
        encoded = self.encode(loaded, planned, generated, Embedded(None, 0.0))
        return encoded if isinstance(encoded, FailureRecord) else self.commit(encoded)

    def encode(
        self,
        loaded: LoadedUnit,
        planned: PlannedVideo,
        generated: Generated,
        embedded: Embedded,
        started_at: str | None = None,
    ) -> Encoded | FailureRecord:
        """Measure and encode one video, whose making began at `started_at`."""
        measured = self._measured(loaded, planned, generated, embedded)
        start = time.perf_counter()
        suffix = video.suffix(self.settings.video.codec)
        temporary = self.store.temporary(suffix)
        known = {
            "file_name": ids.video_path(planned.video_id, suffix),
            "playback_fps": self.settings.video.playback_fps or planned.cell.fps,
            "started_at": started_at,
            **measured,
        }
        encoded = Encoded(loaded, planned, generated, temporary, known, 0.0)
        with self._at_the_item(encoded) as failed:
            try:
                self._write_video(encoded)
            except OSError as error:
                self._before_again(encoded, error)
                self._write_video(encoded)
            return dataclasses.replace(encoded, encode_s=time.perf_counter() - start)
        return failed[0]

    def commit(self, encoded: Encoded) -> Result:
        """Check an encoded video, make it durable, and then its record."""
        with self._at_the_item(encoded) as failed:
            start = time.perf_counter()
            try:
                self._check(encoded)
            except OSError as error:
                self._before_again(encoded, error)
                self._write_video(encoded)
                self._check(encoded)
            pending = self.store.new_pending()
            try:
                # a process that dies from here on dies of something else
                self.attempts.forget(encoded.planned.video_id, leave_to=pending)
                sha256, num_bytes = flush_and_hash(encoded.temporary)  # the record can't time the moves that follow
                record = self._record(encoded, sha256, num_bytes, time.perf_counter() - start)
            except Exception:
                with suppress(Exception):
                    remove(pending)
                raise
            self.store.commit_video(encoded.temporary, record, pending)
            self.store.clear_failure(encoded.loaded.unit.image.image_id)
            return record
        return failed[0]

    @contextmanager
    def _at_the_item(self, encoded: Encoded) -> Iterator[list[FailureRecord]]:
        """Put the failure of what is done inside on record, and into the list that is yielded.

        Raises: what is the disk's fault, or condemns the process.
        """
        failed: list[FailureRecord] = []
        try:
            yield failed
        except Exception as error:  # the per-item boundary
            refusal = self.store.refusal(error)
            encoded.temporary.unlink(missing_ok=True)
            if refusal is error:
                raise
            if refusal is not None:
                raise refusal from error
            if condemns(error):
                raise
            failed.append(self.fail(failure_of(encoded.loaded.unit, encoded.planned, "write", error)))

    def _write_video(self, encoded: Encoded) -> None:
        parameters = self._parameters(encoded.loaded, encoded.planned)
        fps = encoded.known["playback_fps"]
        video.write_video(encoded.temporary, encoded.generated.frames, fps, self.settings.video, parameters)

    @staticmethod
    def _check(encoded: Encoded) -> None:
        """Raise OSError when frames are lacking in a file."""
        if video.count_frames(encoded.temporary) != len(encoded.generated.frames):
            raise OSError("the encoded file does not hold every frame")

    def _before_again(self, encoded: Encoded, error: OSError) -> None:
        """Wait before an encoder that failed is started once more; raise its error where it was the disk's."""
        if error.errno is not None or self.store.refusal(error) is not None:
            raise error
        encoded.temporary.unlink(missing_ok=True)
        time.sleep(ENCODER_PAUSE_S)

    def _measured(
        self, loaded: LoadedUnit, planned: PlannedVideo, generated: Generated, embedded: Embedded
    ) -> dict[str, Any]:
        """Return a video's metrics as fields of its record; what fails is left out and noted."""
        start = time.perf_counter()
        names = self.settings.metrics
        fps = self.settings.video.playback_fps or planned.cell.fps
        parts = (loaded.picture, embedded.embeddings, generated.num_nan_frames)
        found = measure(Clip(generated.frames, fps, *parts), names)
        values = dict(found.values)
        if generated.num_nan_frames:  # known without measuring, and nobody could find out later
            values["is_broken"] = True
        self.notes += [f"metrics: {', '.join(left_out)} can't be measured: {e}" for e, left_out in found.errors.items()]
        seconds = round(embedded.seconds + time.perf_counter() - start, 6)
        embed_s = round(embedded.seconds, 6) if embedded.seconds else None
        fields = {"metrics": values, "metrics_s": seconds, "metrics_source": "frames"} if values else {}
        return {"embed_s": embed_s, **fields}

    def _parameters(self, loaded: LoadedUnit, planned: PlannedVideo) -> dict[str, object]:
        """Return what goes into the file's own metadata: no paths, so that a file can be passed on."""
        cell = {name: getattr(planned.cell, name) for name in CELL_FIELDS}
        return {
            **cell,
            "video_id": planned.video_id,
            "image_sha256": loaded.sha256,
            "seed": planned.seed,
            "model": self.settings.model.name,
            "svd_batch_version": svd_batch.__version__,
        }

    def _record(self, encoded: Encoded, sha256: str, num_bytes: int, commit_s: float) -> VideoRecord:
        """Return a video's row, all but durable."""
        model, generated = self.settings.model, encoded.generated
        loaded, planned = encoded.loaded, encoded.planned
        seconds = {name: getattr(generated, name) for name in ("generate_s", "condition_s", "denoise_s", "decode_s")}
        seconds |= {"load_s": loaded.load_s, "encode_s": encoded.encode_s, "commit_s": commit_s}
        seconds["write_s"] = encoded.encode_s + commit_s
        return VideoRecord(
            video_id=planned.video_id,
            image_id=loaded.unit.image.image_id,
            image_path=loaded.unit.image.image_path,
            image_sha256=loaded.sha256,
            **vars(planned.cell),
            **encoded.known,
            num_bytes=num_bytes,
            video_sha256=sha256,
            approximations=approximations(planned.cell),
            quality=quality_of(planned.cell),
            num_frames=generated.frames.shape[0],
            height=generated.frames.shape[1],
            width=generated.frames.shape[2],
            seed=planned.seed,
            replicate=planned.replicate,
            model_id=model.id,
            model_revision=self.settings.model_revision,
            dtype=model.dtype.value,
            fingerprint=self.settings.fingerprint,
            **{name: round(value, 6) for name, value in seconds.items()},
            peak_memory_bytes=generated.peak_memory_bytes,
            **vars(self.info),
            torch_threads=generated.torch_threads,
            batch_size=generated.batch_size,
            memory_profile=generated.memory_profile,
            svd_batch_version=svd_batch.__version__,
            created_at=now(),
            host=platform.node(),
        )
