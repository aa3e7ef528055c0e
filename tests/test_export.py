"""CSV, JSON and what all exports share: tables that other programs read back, and places that are refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_cell, make_failure, make_output, run_python

from svd_batch import cli as command_line
from svd_batch import dataset
from svd_batch.errors import UserError
from svd_batch.export import TARGETS, ExportSettings, export
from svd_batch.export.folder import read_folder
from svd_batch.export.values import inert, plain
from svd_batch.store import Store

CAPTIONS = ['=HYPERLINK("x")', 'says "hi", twice\nand ümlaut 猫']


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two pictures, two cells, hostile captions, numbers with gaps, a list and a failure."""
    carried = {"caption": CAPTIONS, "age": [-1.5, float("nan")], "tags": [["a", "=b"], None], "empty": ["", None]}
    cells = (make_cell(motion_bucket_id=20), make_cell(motion_bucket_id=240))
    store = make_output(tmp_path_factory.mktemp("export") / "pets", cells=cells, carried=carried)
    store.record_failure(make_failure("owl", error_message="=cmd|x"))
    dataset.compact(store)
    return store


def exported(store: Store, target: str, place: Path, **settings: str) -> str:
    list(export(store.root, ExportSettings(target, **settings), place))  # type: ignore[arg-type]
    return place.read_text(encoding="utf-8")


# --- csv ---------------------------------------------------------------------------------------------------------


def test_a_csv_holds_every_row_and_column_of_the_table(output: Store, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(output, "csv", tmp_path / "x.csv"))))
    table = pq.read_table(output.metadata)
    assert list(rows[0]) == table.column_names
    assert [row["video_id"] for row in rows] == table["video_id"].to_pylist()


def test_pandas_and_duckdb_read_the_numbers_of_a_csv_as_numbers(output: Store, tmp_path: Path) -> None:
    exported(output, "csv", tmp_path / "x.csv")
    frame = pandas.read_csv(tmp_path / "x.csv")
    assert frame["age"].tolist()[:2] == [-1.5, -1.5]
    assert frame["age"].isna().tolist() == [False, False, True, True]
    query = f"select sum(motion_bucket_id), sum(age) from '{tmp_path / 'x.csv'}'"
    assert duckdb.sql(query).fetchall() == [(520, -3.0)]


def test_no_text_of_a_csv_begins_a_formula(output: Store, tmp_path: Path) -> None:
    for table in ("videos", "failures"):
        rows = list(csv.DictReader(io.StringIO(exported(output, "csv", tmp_path / "x.csv", table=table))))
        texts = [value for row in rows for name, value in row.items() if name != "age"]
        assert rows
        assert not [text for text in texts if text[:1] in "=+-@\t\r\n" and text]


def test_a_csv_tells_a_null_from_an_empty_text(output: Store, tmp_path: Path) -> None:
    lines = exported(output, "csv", tmp_path / "x.csv").splitlines()
    assert lines[1].endswith(',""')
    assert lines[-1].endswith(",")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "  =1", "'=1", "''  +x", "＝1", "＠x"])
def test_a_formula_gets_an_apostrophe_that_can_be_taken_off_again(text: str) -> None:
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", " ", "a=1", "'tis", "猫", "1-2", "it's -5"])
def test_a_text_that_is_no_formula_stays_as_it_is(text: str) -> None:
    assert inert(text) == text


# --- json --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["json", "jsonl"])
def test_json_gives_the_table_back_with_null_in_place_of_nan(target: str, output: Store, tmp_path: Path) -> None:
    text = exported(output, target, tmp_path / f"x.{target}")
    rows = json.loads(text) if target == "json" else [json.loads(line) for line in text.splitlines()]
    assert [row["caption"] for row in rows] == [c for c in CAPTIONS for _ in range(2)]
    assert (rows[0]["age"], rows[2]["age"], rows[0]["tags"]) == (-1.5, None, ["a", "=b"])
    assert rows[0]["created_at"] == "2026-01-02T03:04:05.678000+00:00"
    assert "NaN" not in text


def test_a_value_that_json_lacks_becomes_one_that_it_has() -> None:
    assert plain({"a": float("inf"), "b": b"\x00\xff", "c": (1, None)}) == {"a": None, "b": "AP8=", "c": [1, None]}


def test_failures_are_a_table_of_their_own(output: Store, tmp_path: Path) -> None:
    (row,) = json.loads(exported(output, "json", tmp_path / "x.json", table="failures"))
    assert (row["image_id"], row["error_message"]) == ("owl", "=cmd|x")


def test_a_folder_without_a_single_video_gives_empty_files(tmp_path: Path) -> None:
    store = make_output(tmp_path / "none", image_ids=())
    assert exported(store, "csv", tmp_path / "x.csv").count("\n") == 1
    assert json.loads(exported(store, "json", tmp_path / "x.json")) == []
    assert exported(store, "jsonl", tmp_path / "x.jsonl") == ""


# --- places and settings -----------------------------------------------------------------------------------------


def test_the_verb_says_where_it_wrote_and_a_dash_writes_to_the_shell(
    output: Store, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert command_line.main(["export", str(output.root), "--to", "csv"]) == 0
    place = output.root / "exports/videos.csv"
    assert capfdbinary.readouterr().out.decode() == f"{place}: 4 videos\n"
    assert command_line.main(["export", str(output.root), "--to", "csv", "-o", "-"]) == 0
    assert capfdbinary.readouterr().out == place.read_bytes()


def test_an_export_inside_the_folder_leaves_the_dataset_whole(output: Store) -> None:
    list(export(output.root, ExportSettings("csv")))
    list(export(output.root, ExportSettings("vbench")))
    assert command_line.main(["verify", str(output.root)]) == 0


@pytest.mark.parametrize(
    ("target", "place", "sentence"),
    [
        ("csv", "x.json", "give a file that ends in .csv"),
        ("json", ".svd_batch/run.json", "is where svd_batch keeps its own"),
        ("vbench", "videos", "is where svd_batch keeps its own"),
        ("vbench", "", "is where svd_batch keeps its own"),
        ("tensorboard", "exports", "is not empty and was not made by"),
        ("vbench", "exports", "is not empty and was not made by"),
        ("csv", "README.md/x.csv", "can't be written"),
    ],
)
def test_a_place_that_would_overwrite_something_is_refused(
    target: str, place: str, sentence: str, output: Store
) -> None:
    (output.root / "exports").mkdir(exist_ok=True)
    (output.root / "exports/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=sentence):
        list(export(output.root, ExportSettings(target), output.root / place))
    assert (output.root / "exports/thesis.txt").is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_that_is_no_output_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"OUTPUT: .* has no metadata\.parquet"):
        list(export(tmp_path, ExportSettings(target)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": "xlsx"}, "--to: 'xlsx' is not accepted; give one of csv, json"),
        ({"target": "csv", "table": "all"}, "--table: 'all' is not accepted; give one of videos, failures"),
        ({"target": "csv", "project": "p"}, "--project: --to csv has no use for it; --to wandb has"),
        ({"target": "vbench", "no_videos": True}, "--no-videos: --to vbench has no use for it; --to wandb, --to ten"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ExportSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_one_sentence_with_the_command(
    name: str,
    output: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).mkdir()  # W&B leaves a folder of its own name, which Python would take for a package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert command_line.main(["export", str(output.root), "--to", name, "-o", str(tmp_path / "place")]) == 2
    sentence = f"error: export --to {name}: the package {name} is not installed; pip install 'svd_batch[{name}]'\n"
    assert capsys.readouterr().err == sentence
    assert not (tmp_path / "place").exists()


def test_exporting_a_csv_loads_neither_torch_nor_the_packages_of_other_targets(output: Store, tmp_path: Path) -> None:
    code = (
        "import sys; from svd_batch.cli import main; main(['export', sys.argv[1], '--to', 'csv', '-o', sys.argv[2]]);"
        "assert not {'torch', 'ray', 'wandb', 'tensorboard', 'hydra'} & set(sys.modules)"
    )
    run_python(code, str(output.root), str(tmp_path / "x.csv"))


# --- which columns are what --------------------------------------------------------------------------------------


def test_metrics_are_the_numbers_that_were_measured_and_neither_sizes_times_nor_a_manifests_own(
    output: Store, tmp_path: Path
) -> None:
    assert read_folder(output.root).metrics == ()
    table = pq.read_table(output.metadata)
    for name, values in {"motion": [1.0, None, 2.0, 3.0], "is_frozen": [True, None, False, False]}.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    folder = dataclasses.replace(read_folder(output.root), table=table)
    assert folder.metrics == ("motion", "is_frozen")
    assert {"motion_bucket_id", "seed"} <= set(folder.parameters)
