"""The verb score: metrics of finished videos, from their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import commit_video, make_cell, make_frames, make_store
from PIL import Image

from svd_batch import cli, dataset, score
from svd_batch.checkpoint import resolve_revision
from svd_batch.config import Codec, Config, ModelConfig, VideoConfig, folder_settings
from svd_batch.manifest import read_manifest, write_manifest
from svd_batch.metrics import METRICS, Clip, measure
from svd_batch.records import VideoRecord
from svd_batch.score import CLIP_METRICS
from svd_batch.store import Store, file_sha256

LOSSLESS = VideoConfig(codec=Codec.ffv1, quality=None)
FRAMES = make_frames(6, 48, 64)


@pytest.fixture
def output(tmp_path: Path, tiny_checkpoint: Path) -> Store:
    """A folder with two lossless clips of one picture, made with the tiny checkpoint, and no metrics."""
    Image.fromarray(FRAMES[0]).save(tmp_path / "cat.png")
    manifest = tmp_path / "cats.parquet"
    write_manifest(tmp_path, manifest)
    (image,) = read_manifest([str(manifest)]).images
    store = make_store(tmp_path / "out")
    model = ModelConfig(id=str(tiny_checkpoint), name="tiny", num_frames=6, height=48, width=64)
    revision = resolve_revision(model)
    settings = folder_settings(Config(model=model), revision)
    store.write_run({"format": 1, "settings": settings, "manifest": [str(manifest)], "runs": []})
    for bucket in (20, 200):
        commit_video(
            store,
            image.image_id,
            cell=make_cell(motion_bucket_id=bucket),
            config=LOSSLESS,
            frames=FRAMES,
            image_path=image.image_path,
            image_sha256=file_sha256(tmp_path / "cat.png"),
            model_id=str(tiny_checkpoint),
            model_revision=revision,
        )
    dataset.save_images(store, pa.table({"image_id": [image.image_id]}))
    dataset.compact(store)
    return store


def run(store: Store, *arguments: str) -> int:
    return cli.main(["score", str(store.root), *arguments])


def rows(store: Store) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(store.metadata).to_pylist()
    return found


def records(store: Store) -> list[VideoRecord]:
    return list(store.records())


def test_all_metrics_come_into_records_and_table(output: Store) -> None:
    assert {row["motion"] for row in rows(output)} == {None}
    assert run(output) == 0
    expected = measure(Clip(FRAMES, 7, FRAMES[0]), METRICS).values
    for row, record in zip(rows(output), records(output), strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected)
        assert all(-1 <= row[name] <= 1.0001 for name in CLIP_METRICS)
        assert set(record.metrics) == set(METRICS)
        assert row["metrics_source"] == "file"
        assert row["metrics_s"] > 0


def test_named_metrics_come_alone_and_the_others_later(output: Store) -> None:
    assert run(output, "--metrics", "flicker,motion") == 0
    assert [set(record.metrics) for record in records(output)] == [{"motion", "flicker"}] * 2
    before = [record.metrics["motion"] for record in records(output)]
    assert run(output) == 0
    assert [set(record.metrics) for record in records(output)] == [set(METRICS)] * 2
    assert [record.metrics["motion"] for record in records(output)] == before


def test_what_is_measured_is_not_measured_again_unless_forced(output: Store, capfd: pytest.CaptureFixture[str]) -> None:
    run(output, "--metrics", "motion")
    for record in records(output):
        output.commit(dataclasses.replace(record, metrics={"motion": -1.0}))
    assert run(output, "--metrics", "motion") == 0
    assert "nothing to do, 2 videos have been measured" in capfd.readouterr().out
    assert {row.metrics["motion"] for row in records(output)} == {-1.0}
    assert run(output, "--metrics", "motion", "--force") == 0
    assert min(row.metrics["motion"] for row in records(output)) > 0


def test_metrics_of_frames_and_of_a_file_are_told_apart(output: Store) -> None:
    first, second = records(output)
    output.commit(dataclasses.replace(first, metrics={"motion": 1.5, "is_broken": True}, metrics_source="frames"))
    output.commit(dataclasses.replace(second, metrics={"flicker": 1.5}, metrics_source="frames"))
    run(output, "--metrics", "flicker,is_broken", "--force")
    first, second = records(output)
    assert (first.metrics_source, first.metrics["motion"]) == ("mixed", 1.5)
    assert first.metrics["is_broken"] is True  # NaN in the frames can't be seen in the file
    assert second.metrics_source == "file"


def test_missing_and_damaged_files_are_told_and_the_rest_is_measured(
    output: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = records(output)
    (output.root / first.file_name).unlink()
    assert run(output, "--metrics", "motion") == 1
    assert f"{first.video_id}: {first.file_name} is missing" in capfd.readouterr().out
    assert [bool(record.metrics) for record in records(output)] == [False, True]
    (output.root / second.file_name).write_bytes(b"another")
    assert run(output, "--metrics", "motion", "--force") == 1
    assert "has another sha256 than its record says" in capfd.readouterr().out
    assert records(output)[1].metrics["motion"] > 0


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_without_the_picture_what_needs_it_stays_empty_with_a_note(
    how: str, output: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = output.root.parent / "cat.png"
    picture.unlink()
    if how == "changed":
        Image.fromarray(FRAMES[1]).save(picture)
    assert run(output) == 0
    assert "note: what is compared with the picture cat.png is left out: " in capfd.readouterr().out
    empty = {name for name in METRICS if rows(output)[0][name] is None}
    assert empty == {"likeness", "likeness_last", "psnr_first", "psnr_last", *CLIP_METRICS}


def test_without_the_checkpoint_clips_metrics_are_left_out_and_can_not_be_asked_for(
    output: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    run_json = output.read_run()
    output.write_run({**run_json, "settings": {**run_json["settings"], "model.id": "nobody/has-this"}})
    assert run(output) == 0
    assert "warning: left out: clip_likeness and clip_consistency need nobody/has-this" in capfd.readouterr().err
    assert [set(METRICS) - set(record.metrics) for record in records(output)] == [set(CLIP_METRICS)] * 2
    assert run(output, "--metrics", "clip_likeness") == 2
    assert "which is not on this machine" in capfd.readouterr().err


def test_another_checkpoint_in_the_same_place_is_not_taken(output: Store, capfd: pytest.CaptureFixture[str]) -> None:
    run_json = output.read_run()
    output.write_run({**run_json, "settings": {**run_json["settings"], "model.revision": "0" * 40}})
    assert run(output, "--metrics", "clip_likeness") == 2
    assert "has changed since" in capfd.readouterr().err


def test_an_interrupted_run_keeps_what_it_measured_and_goes_on(
    output: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, done = score.Scorer.score, []

    def interrupted(self: score.Scorer, record: VideoRecord, names: Any) -> VideoRecord:
        if done:
            raise KeyboardInterrupt
        done.append(record)
        return whole(self, record, names)

    monkeypatch.setattr(score.Scorer, "score", interrupted)
    assert run(output, "--metrics", "motion") == 130
    assert "interrupted: what was measured is kept" in capfd.readouterr().out
    assert sum(row["motion"] is not None for row in rows(output)) == 1
    monkeypatch.undo()
    assert run(output, "--metrics", "motion") == 0
    assert "score: 1 of 2 videos to measure" in capfd.readouterr().out


def test_ids_and_files_stay_as_they_are(output: Store) -> None:
    before = {(row["video_id"], row["video_sha256"], row["created_at"]) for row in rows(output)}
    run(output)
    assert {(row["video_id"], row["video_sha256"], row["created_at"]) for row in rows(output)} == before
    assert cli.main(["verify", str(output.root)]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--metrics", "motoin"], "--metrics: 'motoin' is not accepted; did you mean motion? The metrics are motion,"),
        (["--metrics", ""], "--metrics: '' is not accepted; the metrics are motion,"),
    ],
)
def test_what_is_no_metric_is_refused(
    arguments: list[str], sentence: str, output: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(output, *arguments) == 2
    assert sentence in capfd.readouterr().err


def test_a_folder_that_is_no_output_and_one_without_videos_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["score", str(tmp_path)]) == 2
    assert "is not an output folder of svd_batch" in capfd.readouterr().err
    assert run(make_store(tmp_path / "empty")) == 2
    assert "has no finished videos" in capfd.readouterr().err


def test_a_lossy_file_reads_nearly_as_its_frames(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    record = commit_video(store, frames=FRAMES)
    scored = score.Scorer(store, {}, Config().fit).score(record, ["motion", "flicker", "sharpness"])
    exact = measure(Clip(FRAMES, 7), ["motion"]).values["motion"]
    assert scored.metrics["motion"] == pytest.approx(exact, rel=0.2)
    assert np.isfinite(list(scored.metrics.values())).all()
