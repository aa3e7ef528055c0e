"""Exports to W&B, offline, and to TensorBoard, read back from what lies on the disk."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_cell, make_output
from PIL import Image
from trackers import OfflineRun, read_events, read_wandb, series

from svd_batch.config import Codec, VideoConfig
from svd_batch.errors import UserError
from svd_batch.export import ExportSettings, export
from svd_batch.store import Store

CELLS = (make_cell(motion_bucket_id=20), make_cell(motion_bucket_id=240))
MOTION = [1.0, None, 2.0, 4.0]


def output(root: Path, config: VideoConfig | None = None) -> Store:
    """Return two pictures in two cells with a metric that one video lacks, and a configuration."""
    store = make_output(root, cells=CELLS, carried={"caption": ["a cat", "=a dog"]}, config=config)
    table = pq.read_table(store.metadata)
    at = table.column_names.index("motion")
    pq.write_table(table.set_column(at, "motion", pa.array(MOTION)), store.metadata)
    store.write_config("model:\n  id: pocket\nseed: 42\n")
    return store


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The output folder of most tests."""
    return output(tmp_path_factory.mktemp("trackers") / "pets")


# --- W&B -----------------------------------------------------------------------------------------------------------


def to_wandb(store: Store, place: Path, **settings: Any) -> OfflineRun:
    """Export to an offline run and return what it holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        (line,) = export(store.root, ExportSettings("wandb", **settings), place)
    assert f"wandb sync {place}/wandb/offline-run-" in line
    return read_wandb(place)[-1]


@pytest.fixture(scope="module")
def run(pets: Store, tmp_path_factory: pytest.TempPathFactory) -> OfflineRun:
    """The offline run of `pets`."""
    return to_wandb(pets, tmp_path_factory.mktemp("wandb"), project="sweeps", name="first")


def table_of(run: OfflineRun) -> list[dict[str, Any]]:
    table = json.loads(run.files["videos.table.json"].read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_the_table_has_every_videos_parameters_metrics_and_captions(run: OfflineRun) -> None:
    rows = table_of(run)
    assert [row["motion_bucket_id"] for row in rows] == [20, 240, 20, 240]
    assert [row["motion"] for row in rows] == MOTION
    assert [row["caption"] for row in rows] == ["a cat", "a cat", "=a dog", "=a dog"]


def test_the_table_has_every_video_byte_for_byte(run: OfflineRun, pets: Store) -> None:
    for row in table_of(run):
        clip = run.files[row["video"]["path"]]
        assert clip.read_bytes() == (pets.root / row["file_name"]).read_bytes()


def test_the_run_has_names_the_folders_configuration_and_the_means(run: OfflineRun) -> None:
    assert (run.run["project"], run.run["display_name"]) == ("sweeps", "first")
    assert (run.config["model"], run.config["seed"]) == ({"id": "pocket"}, 42)
    assert (run.summary["videos_made"], run.summary["mean/motion"]) == (4, 7 / 3)


def test_clips_that_wandb_does_not_play_are_written_again_and_a_second_export_goes_into_the_same_run(
    tmp_path: Path,
) -> None:
    store = output(tmp_path / "pets", VideoConfig(Codec.webp, 9.0, None, False))
    clips = to_wandb(store, tmp_path)
    bare = to_wandb(store, tmp_path, no_videos=True)
    assert {Path(row["video"]["path"]).suffix for row in table_of(clips)} == {".mp4"}
    assert "video" not in table_of(bare)[0]
    assert clips.run["run_id"] == bare.run["run_id"]


# --- TensorBoard -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def board(pets: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TensorBoard folder of `pets`."""
    place = tmp_path_factory.mktemp("board")
    (line,) = export(pets.root, ExportSettings("tensorboard"), place)
    assert line == f"{place}: 4 runs, one a video; tensorboard --logdir {place}"
    return place


def runs(board: Path) -> dict[int, Any]:
    """Return the readers of the first picture's runs by motion_bucket_id."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = {}
    for folder in sorted((board / "cat.png").iterdir()):
        events = read_events(folder)
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
        found[int(start.hparams["motion_bucket_id"].number_value)] = events
    return found


def test_every_video_is_a_run_with_its_hyperparameters_metrics_and_seconds(board: Path) -> None:
    found = runs(board)
    assert set(found) == {20, 240}
    assert series(found[20], "metrics/motion") == {0: 1.0}
    assert "metrics/motion" not in found[240].Tags()["scalars"]  # null
    assert series(found[20], "seconds/generate_s") == {0: 1.5}


def test_every_run_has_its_clip_as_a_gif_that_moves(board: Path) -> None:
    for bucket, events in runs(board).items():
        (image,) = events.Images(f"clip/motion_bucket_id={bucket}")
        gif = Image.open(io.BytesIO(image.encoded_image_string))
        assert (gif.format, getattr(gif, "n_frames", 1), gif.size) == ("GIF", 4, (image.width, image.height))


def test_the_hparams_tab_finds_the_metrics_and_parameters(board: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(board)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(board))
    context = Context(TBContext(data_provider=provider))
    metadata = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, [])
    assert {info.name.tag for info in experiment.metric_infos} >= {"metrics/motion", "seconds/generate_s"}
    assert "motion_bucket_id" in {info.name for info in experiment.hparam_infos}


def test_a_second_export_replaces_the_first_and_may_leave_the_clips_out(pets: Store, tmp_path: Path) -> None:
    for settings in (ExportSettings("tensorboard"), ExportSettings("tensorboard", no_videos=True)):
        list(export(pets.root, settings, tmp_path / "board"))
    assert len(list((tmp_path / "board").glob("*/*/events*"))) == 4
    assert not [tag for events in runs(tmp_path / "board").values() for tag in events.Tags()["images"]]


def test_a_missing_clip_is_refused(tmp_path: Path) -> None:
    store = output(tmp_path / "pets")
    next(store.root.glob("videos/*/*.mp4")).unlink()
    with pytest.raises(UserError, match="see svd-batch verify"):
        list(export(store.root, ExportSettings("tensorboard"), tmp_path / "board"))
