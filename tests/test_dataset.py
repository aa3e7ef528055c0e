"""Records to the dataset folder that pandas, DuckDB and Hugging Face datasets open."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from builders import cell_values, make_cell, make_failure, make_output, make_record, make_store
from parts import has_torchcodec, need, offline_datasets

from svd_batch import dataset
from svd_batch.config import Codec, ModelConfig, VideoConfig
from svd_batch.errors import UserError
from svd_batch.metrics import METRICS
from svd_batch.records import CELL_FIELDS, VideoRecord, flat
from svd_batch.store import Store
from svd_batch.video import read_frames

COLUMNS = {
    "file_name": "string",
    "video_id": "string",
    "image_id": "string",
    "image_path": "string",
    "image_sha256": "string",
    "motion_bucket_id": "int64",
    "noise_aug_strength": "double",
    "fps": "int64",
    "playback_fps": "int64",
    "num_frames": "int64",
    "height": "int64",
    "width": "int64",
    "num_inference_steps": "int64",
    "min_guidance_scale": "double",
    "max_guidance_scale": "double",
    "decode_chunk_size": "int64",
    "sampler": "string",
    "guidance_sigma_min": "double",
    "guidance_sigma_max": "double",
    "deep_cache_interval": "int64",
    "approximations": "string",
    "quality": "string",
    "seed": "int64",
    "replicate": "int64",
    "model_id": "string",
    "model_revision": "string",
    "dtype": "string",
    "fingerprint": "string",
    "num_bytes": "int64",
    "video_sha256": "string",
    "load_s": "double",
    "generate_s": "double",
    "write_s": "double",
    "condition_s": "double",
    "denoise_s": "double",
    "decode_s": "double",
    "encode_s": "double",
    "commit_s": "double",
    "peak_memory_bytes": "int64",
    "device_name": "string",
    "torch_threads": "int64",
    "batch_size": "int64",
    "memory_profile": "string",
    "diffusers_version": "string",
    "torch_version": "string",
    "svd_batch_version": "string",
    "created_at": "timestamp[ms, tz=UTC]",
    "started_at": "timestamp[ms, tz=UTC]",
    "host": "string",
    "metrics_s": "double",
    "embed_s": "double",
    "metrics_source": "string",
    **{name: "bool" if metric.is_flag else "double" for name, metric in METRICS.items()},
}
GRID = [make_cell(motion_bucket_id=m, noise_aug_strength=n) for m in (20, 127) for n in (0.02, 0.1)]


def put(store: Store, *records: VideoRecord) -> None:
    """Commit records whose videos are of no interest."""
    for record in records:
        temporary = store.temporary("mp4")
        temporary.write_bytes(b"a clip")
        store.place(temporary, record.file_name)
        store.commit(record)


def keep(store: Store, **columns: Any) -> None:
    """Keep the carried columns of a manifest."""
    dataset.save_images(store, pa.table(columns))


def rows_of(store: Store) -> list[dict[str, Any]]:
    """Return the rows of metadata.parquet, written anew."""
    dataset.compact(store)
    rows: list[dict[str, Any]] = pq.read_table(store.metadata).to_pylist()
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a new output folder."""
    return make_store(tmp_path / "output")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a finished folder of two pictures with four cells each; not to be changed."""
    carried = {"caption": ["a cat", "a dog"], "label": [3, 4]}
    return make_output(tmp_path_factory.mktemp("made") / "output", cells=GRID, carried=carried)


# --- the tables ---------------------------------------------------------------------------------------------


def test_the_columns_of_the_table_have_fixed_names_types_and_order(output: Store):
    schema = pq.read_schema(output.metadata)
    found = {field.name: str(field.type) for field in schema}
    assert list(found.items()) == [*COLUMNS.items(), ("caption", "string"), ("label", "int64")]


def test_a_metric_that_was_not_measured_is_null_and_another_what_it_was(store: Store):
    measured = {"motion": 1.25, "is_frozen": False}
    put(store, make_record(metrics=measured, metrics_source="frames", metrics_s=0.5))
    (row,) = rows_of(store)
    assert {name: row[name] for name in METRICS} == {**dict.fromkeys(METRICS), **measured}
    assert (row["metrics_source"], row["metrics_s"]) == ("frames", 0.5)


def test_a_record_of_before_there_were_metrics_becomes_a_row_without(store: Store):
    record = make_record()
    put(store, record)
    path = next(store.records_dir.glob("*/*.json"))
    old = {k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("metrics")}
    path.write_text(json.dumps(old))
    (row,) = rows_of(store)
    assert {row[name] for name in (*METRICS, "metrics_s", "metrics_source")} == {None}


def test_a_column_that_was_carried_before_its_name_became_ours_is_carried_under_another(store: Store):
    put(store, make_record(metrics={"motion": 1.25}))
    keep(store, image_id=["cat"], motion=["running"], source_motion=["a dog's"])
    (row,) = rows_of(store)
    assert (row["motion"], row["source_motion"], row["source_source_motion"]) == (1.25, "a dog's", "running")


def test_a_row_has_the_values_of_its_record(store: Store):
    record = make_record(image_path=None, model_revision=None, seed=2**63 - 1)
    put(store, record)
    (row,) = rows_of(store)
    assert row == {**dict.fromkeys(METRICS), **flat(record), "created_at": datetime.fromisoformat(record.created_at)}


@pytest.mark.parametrize("zone", ["+00:00", "Z", "+02:00"])
def test_created_at_is_the_moment_in_utc(store: Store, zone: str):
    put(store, make_record(created_at=f"2026-01-02T03:04:05.678{zone}"))
    hour = 1 if zone == "+02:00" else 3
    assert rows_of(store)[0]["created_at"] == datetime(2026, 1, 2, hour, 4, 5, 678000, tzinfo=UTC)


def test_rows_come_in_manifest_order_then_by_cell_then_by_replicate(store: Store):
    keep(store, image_id=["owl", "cat"])
    wanted = [
        (image_id, cell, replicate) for image_id in ("owl", "cat") for cell in sorted(GRID) for replicate in (0, 1)
    ]
    records = [
        make_record(f"{i:020x}", image_id, **cell_values(cell), replicate=replicate)
        for i, (image_id, cell, replicate) in enumerate(wanted)
    ]
    put(store, *(records[i] for i in np.random.default_rng(0).permutation(len(records))))
    assert [row["video_id"] for row in rows_of(store)] == [record.video_id for record in records]


def test_compacting_twice_gives_the_same_bytes(output: Store):
    first = output.metadata.read_bytes()
    dataset.compact(output)
    assert output.metadata.read_bytes() == first


def test_compacting_leaves_no_temporary_file(output: Store):
    assert list(output.temporary_dir.iterdir()) == []


def test_compacting_returns_how_many_rows_each_table_has(store: Store):
    put(store, make_record("00" * 10), make_record("11" * 10))
    store.record_failure(make_failure())
    assert dataset.compact(store) == dataset.Totals(num_videos=2, num_images=1, num_bytes=2000)
    assert pq.read_table(store.failures_table).num_rows == 1


def test_without_records_the_tables_are_empty_and_have_their_columns(store: Store):
    keep(store, image_id=["cat"], caption=["x"])
    assert dataset.compact(store) == dataset.Totals()
    assert pq.read_table(store.metadata).column_names == [*COLUMNS, "caption"]
    assert pq.read_table(store.failures_table).num_rows == 0


def test_a_failure_is_a_row_with_its_reason(store: Store):
    failure = make_failure("cat", error_message="no such file: cat.png", attempts=3)
    store.record_failure(failure)
    dataset.compact(store)
    (row,) = dataset.read_failures(store)
    assert row == {**dataclasses.asdict(failure), "created_at": datetime.fromisoformat(failure.created_at)}


def test_before_the_first_table_there_are_no_failures_to_read(store: Store):
    assert dataset.read_failures(store) == []


# --- carried columns ------------------------------------------------------------------------------------------


def test_carried_columns_are_joined_by_image(store: Store):
    keep(store, image_id=["dog", "cat"], caption=["a dog", "a cat"])
    put(store, make_record("00" * 10, "cat"), make_record("11" * 10, "dog"), make_record("22" * 10, "cat"))
    assert [(r["image_id"], r["caption"]) for r in rows_of(store)] == [
        ("dog", "a dog"),
        ("cat", "a cat"),
        ("cat", "a cat"),
    ]


def test_a_video_whose_image_was_never_kept_comes_last_with_nulls(store: Store):
    keep(store, image_id=["cat"], caption=["a cat"])
    put(store, make_record("00" * 10, "ant"), make_record("11" * 10, "cat"))
    assert [(r["image_id"], r["caption"]) for r in rows_of(store)] == [("cat", "a cat"), ("ant", None)]


def test_a_manifest_that_lacks_an_earlier_image_keeps_what_that_carried(store: Store):
    keep(store, image_id=["cat", "dog"], caption=["a cat", "a dog"])
    keep(store, image_id=["owl"], caption=["an owl"])
    put(store, *(make_record(f"{i:020x}", image_id) for i, image_id in enumerate(("cat", "dog", "owl"))))
    assert {r["image_id"]: r["caption"] for r in rows_of(store)} == {"cat": "a cat", "dog": "a dog", "owl": "an owl"}


def test_a_manifest_that_carries_something_new_replaces_the_old(store: Store):
    keep(store, image_id=["cat"], caption=["old"])
    keep(store, image_id=["cat"], caption=["new"])
    put(store, make_record())
    assert [r["caption"] for r in rows_of(store)] == ["new"]


def test_a_column_that_is_new_or_gone_is_null_where_it_lacks(store: Store):
    keep(store, image_id=["cat"], caption=["a cat"])
    keep(store, image_id=["dog"], label=[7])
    put(store, make_record("00" * 10, "cat"), make_record("11" * 10, "dog"))
    found = {r["image_id"]: (r["caption"], r["label"]) for r in rows_of(store)}
    assert found == {"cat": ("a cat", None), "dog": (None, 7)}


def test_a_column_that_changed_its_type_is_refused_in_a_sentence(store: Store):
    keep(store, image_id=["cat"], caption=["text"])
    with pytest.raises(UserError, match="another type than in this output's earlier manifest"):
        keep(store, image_id=["dog"], caption=[{"text": 1}])


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x", None]),
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array([["a"], []]),
        pa.array([{"x": 1}, None]),
        pa.array([1.5, None]),
        pa.nulls(2),
    ],
    ids=lambda column: str(column.type),
)
def test_carried_columns_of_any_type_reach_the_table(store: Store, column: pa.Array):
    keep(store, image_id=["cat", "dog"], extra=column)
    put(store, make_record("00" * 10, "cat"), make_record("11" * 10, "dog"))
    assert [row["extra"] for row in rows_of(store)] == column.to_pylist()


# --- the card -------------------------------------------------------------------------------------------------


def front_matter(store: Store) -> dict[str, Any]:
    """Return what the card says to machines."""
    _, text, _ = (store.root / "README.md").read_text().split("---\n", 2)
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def test_the_card_names_both_the_table_and_the_videos(output: Store):
    (config,) = front_matter(output)["configs"]
    assert config["data_files"] == [{"split": "train", "path": ["metadata.parquet", "videos/**"]}]


@pytest.mark.parametrize("licence", ["apache-2.0", "other", "mine: ask me", "#none", "[a]"])
def test_the_card_carries_the_models_licence(store: Store, licence: str):
    dataset.write_card(store, ModelConfig(license=licence), "r", 1, 1)
    assert front_matter(store)["license"] == licence


def test_the_card_of_a_licence_that_has_no_name_leads_to_the_model(store: Store):
    dataset.write_card(store, ModelConfig(id="org/model", license="other"), "r", 1, 1)
    assert "https://huggingface.co/org/model" in (store.root / "README.md").read_text()


def test_the_card_gives_away_no_path_of_this_machine(store: Store):
    dataset.write_card(store, ModelConfig(id="/home/somebody/checkpoints/mine", license="other"), "r", 1, 1)
    text = (store.root / "README.md").read_text()
    assert "mine" in text
    assert "/home/somebody" not in text


def test_the_card_says_what_the_videos_are(output: Store):
    text = (output.root / "README.md").read_text()
    assert "8 videos of 2 pictures" in text
    assert "8 frames of 96x64 pixels" in text


# --- opened by others -----------------------------------------------------------------------------------------


def test_pandas_reads_the_table_with_every_parameter(output: Store):
    frame = pd.read_parquet(output.root / "metadata.parquet")
    assert list(frame.columns[:3]) == ["file_name", "video_id", "image_id"]
    assert frame.groupby(["image_id", "motion_bucket_id", "noise_aug_strength"]).size().tolist() == [1] * 8
    assert str(frame.created_at.dt.tz) == "UTC"


def test_duckdb_answers_questions_about_parameters_and_captions(output: Store):
    query = f"select distinct caption from '{output.metadata}' where noise_aug_strength > 0.05 order by 1"
    assert duckdb.sql(query).fetchall() == [("a cat",), ("a dog",)]


def test_duckdb_reads_failures_of_an_output_without_any(output: Store):
    assert duckdb.sql(f"select count(*) from '{output.failures_table}'").fetchall() == [(0,)]


def test_file_names_lead_from_the_folder_to_the_videos(output: Store):
    names = pd.read_parquet(output.metadata).file_name
    assert all((output.root / name).is_file() for name in names)


def loaded(root: Path, cache: Path) -> Any:
    """Return the folder as Hugging Face datasets loads it, videos undecoded."""
    datasets = offline_datasets()
    found = datasets.load_dataset(str(root), split="train", cache_dir=str(cache))
    return found.cast_column("video", datasets.Video(decode=False))


def test_datasets_loads_the_folder_with_video_and_every_parameter(output: Store, tmp_path: Path):
    (output.root / "report.html").write_text("a report does not confuse the loader")
    rows = loaded(output.root, tmp_path)
    assert rows.column_names[0] == "video"
    assert set(rows.column_names) == {"video", *COLUMNS, "caption", "label"} - {"file_name"}
    table = pd.read_parquet(output.metadata).drop(columns="file_name")
    for name in (*CELL_FIELDS, "seed", "video_id", "caption", "label"):
        assert rows[name][:] == table[name].tolist()


def test_datasets_joins_each_row_with_its_own_file(output: Store, tmp_path: Path):
    for row in loaded(output.root, tmp_path):
        assert Path(row["video"]["path"]).stem == row["video_id"]


@pytest.mark.parametrize(
    "config",
    [VideoConfig(Codec.ffv1, None, None, True), VideoConfig(Codec.gif, None, None, False)],
    ids=lambda config: config.codec.value,
)
def test_datasets_loads_the_folder_whatever_the_codec(tmp_path: Path, config: VideoConfig):
    store = make_output(tmp_path / "output", config=config)
    assert len(loaded(store.root, tmp_path / "cache")) == 2


@pytest.mark.parametrize("name", ["train", "my-test-set", "validation"])
def test_datasets_loads_one_split_though_the_folder_is_named_like_another(tmp_path: Path, name: str):
    store = make_output(tmp_path / name)
    assert len(loaded(store.root, tmp_path / "cache")) == 2


def test_datasets_decodes_the_frames_that_we_read(output: Store, tmp_path: Path):
    need("torchcodec (it needs the system's ffmpeg libraries)", has_torchcodec())
    datasets = offline_datasets()
    row = datasets.load_dataset(str(output.root), split="train", cache_dir=str(tmp_path))[0]
    frames = np.stack([frame.permute(1, 2, 0).numpy() for frame in row["video"]])
    ours, _ = read_frames(output.root / "videos" / row["video_id"][:2] / f"{row['video_id']}.mp4")
    assert frames.shape == ours.shape
    assert np.abs(frames.astype(int) - ours).mean() < 4
