"""Hostile manifests: refused in one sentence before anything loads, or read without harm."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import commit_video, make_failure, make_image, make_store, picture_bytes, write_parquet

from svd_batch import cli as command_line
from svd_batch import dataset
from svd_batch.access import Access, printable, shown
from svd_batch.config import Config, LimitsConfig
from svd_batch.errors import UserError
from svd_batch.manifest import Manifest, read_manifest

ODD_IDS = [
    "../../x",
    "/etc/passwd",
    "..",
    "a/b",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "漢字 🦀",
    "x" * 512,
]
BAD_IDS = ["a\0b", "a\nb", "\x1b[31mred", "a\x7f", "a\x85", "a\u2028b", "\u202egnp.exe", "x" * 10_000, ""]


def manifest_of(folder: Path, columns: Any, access: Access | None = None) -> Manifest:
    """Return what is read of a manifest with some columns."""
    return read_manifest([str(write_parquet(folder / "m.parquet", columns))], access or Access())


def refusal(folder: Path, columns: Any, access: Access | None = None) -> str:
    """Return the one sentence with which a manifest is refused."""
    with pytest.raises(UserError) as caught:
        manifest_of(folder, columns, access)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 700
    assert text == printable(text)
    return text


# --- ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_id", BAD_IDS, ids=range(len(BAD_IDS)))
def test_an_id_that_could_harm_a_terminal_or_a_page_is_refused_shortened(image_id: str, tmp_path: Path):
    found = refusal(tmp_path, {"image_path": ["a.png"], "image_id": [image_id]})
    assert found.startswith("manifest m.parquet, row 0: image_id ")
    assert found.endswith("is not accepted; give 1 to 512 printable characters")


@pytest.mark.parametrize("image_id", ODD_IDS)
def test_an_id_names_no_place_so_that_any_text_is_harmless(image_id: str, tmp_path: Path):
    (image,) = manifest_of(tmp_path, {"image_path": ["a.png"], "image_id": [image_id]}).images
    store = make_store(tmp_path / "out")
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(store.root)}
    commit_video(store, image.image_id)
    store.record_failure(make_failure(image.image_id))
    dataset.compact(store)
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(store.root)} == before
    assert pq.read_table(store.metadata)["image_id"].to_pylist() == [image_id]


# --- paths and addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("a\0b.png", "holds a NUL"),
        ("x" * 10_000, "has 10000 characters"),
        ("data:image/png;base64," + "A" * 9000, "or the picture itself in image_bytes"),
        ("http://example.org/a.png", "is a URL; set allow_urls=true"),
        ("file:///etc/passwd", "is a file:// URI; give a plain path"),
        ("FILE:///etc/passwd", "is a file:// URI; give a plain path"),
        ("local:///etc/passwd", "is a local:// URI; give a plain path"),
        ("s3://bucket/a.png", "in a store that allowed_roots names"),
        ("ftp://example.org/a.png", "is not accepted"),
        ("zip://a.png::/etc/x.zip", "is not accepted"),
        ("filecache::s3://bucket/a.png", "is not accepted"),
        ("s3://KEY:SECRET@bucket/a?token=SECRET", "s3://bucket/a?…"),
    ],
)
def test_a_path_that_is_no_local_file_is_refused(path: str, told: str, tmp_path: Path):
    found = refusal(tmp_path, {"image_path": [path]})
    assert told in found
    assert "SECRET" not in found


@pytest.mark.parametrize(
    "path",
    [
        *(
            "https://",
            "https:///a.png",
            "http://user@@host/a",
            "http://a b/c",
            "http://host\\@evil/a",
            "https://h/\x1b",
        ),
        *("simplecache::https://host/a.png", "file:///etc/passwd", "gopher://host/a"),
    ],
)
def test_with_urls_allowed_only_http_and_https_are(path: str, tmp_path: Path):
    assert "image_path '" in refusal(tmp_path, {"image_path": [path]}, Access(allow_urls=True))


def test_a_store_is_read_where_a_root_names_it_and_nowhere_beside(tmp_path: Path):
    access = Access(allowed_roots=("s3://bucket/pictures",))
    (image,) = manifest_of(tmp_path, {"image_path": ["s3://bucket/pictures/a.png"]}, access).images
    assert image.source == "s3://bucket/pictures/a.png"
    for path in ("s3://bucket/pictures2/a", "s3://bucket/pictures/../a", "s3://bucket/pictures/a::http://x/b", "a.png"):
        assert "image_path" in refusal(tmp_path, {"image_path": [path]}, access)


def test_without_its_secrets_an_address_still_has_the_id_of_the_whole(tmp_path: Path):
    urls = ["https://me:pw@host/a.png?v=1#x", "https://me:pw@host/a.png?v=2"]
    images = manifest_of(tmp_path, {"image_path": urls}, Access(allow_urls=True)).images
    assert [image.image_path for image in images] == ["https://host/a.png?…"] * 2
    assert [image.source for image in images] == urls
    assert len({image.image_id for image in images}) == 2


@pytest.mark.parametrize("text", ["a?b#c.png", "C:/a?b", "me@host", "", "a://b@c?d e://f@g#h"])
def test_only_addresses_are_shortened(text: str):
    assert shown(text) == (text if "://" not in text else "a://c?… e://g?…")


@pytest.fixture
def roots(tmp_path: Path) -> Access:
    """An allowed folder `in` with links that lead in and out of it."""
    for name in ("in", "in/sub", "out"):
        (tmp_path / name).mkdir()
    for name in ("in/a.png", "in/sub/b.png", "out/secret.png"):
        (tmp_path / name).write_bytes(picture_bytes())
    (tmp_path / "in/inside.png").symlink_to("sub/b.png")
    (tmp_path / "in/leak.png").symlink_to("../out/secret.png")
    (tmp_path / "in/door").symlink_to("../out")
    (tmp_path / "in-not").symlink_to("out")
    (tmp_path / "gate").symlink_to("in")
    return Access(allowed_roots=(str(tmp_path / "in"),))


@pytest.mark.parametrize("path", ["in/a.png", "in/sub/b.png", "in/inside.png", "gate/a.png", "out/../in/a.png"])
def test_a_picture_below_an_allowed_root_is_taken(path: str, roots: Access, tmp_path: Path):
    assert manifest_of(tmp_path, {"image_path": [path]}, roots).images


@pytest.mark.parametrize(
    "path",
    [
        *("out/secret.png", "in/leak.png", "in/door/secret.png", "in/../out/secret.png", "in-not/secret.png", "in"),
        *("/etc/passwd", "/proc/self/environ", "../../../../etc/passwd", "in/door/../../etc/passwd"),
    ],
)
def test_a_picture_outside_the_allowed_roots_is_refused_links_followed(path: str, roots: Access, tmp_path: Path):
    found = refusal(tmp_path, {"image_path": [path]}, roots)
    assert found.startswith(f"manifest m.parquet, row 0: image_path {path!r} leads to ")
    assert found.endswith(f"outside allowed_roots ({tmp_path}/in)")


def test_a_root_may_itself_be_a_link(roots: Access, tmp_path: Path):
    access = Access(allowed_roots=(str(tmp_path / "gate"),))
    assert manifest_of(tmp_path, {"image_path": ["in/a.png"]}, access).images


# --- Parquet ----------------------------------------------------------------------------------------------------


def text_of(data: bytes) -> pa.Array:
    """Return a text array of one value that need not be UTF-8."""
    offsets = np.array([0, len(data)], np.int32)
    return pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"image_path": text_of(b"\xff\xfe")}, "rows 0 to 0: column image_path holds text that is not UTF-8"),
        ({"image_path": ["a"], "image_id": text_of(b"\xff")}, "column image_id holds text that is not UTF-8"),
        ({"image_path": ["a"], "image_id": pa.array([b"0" * 16], pa.uuid())}, "column image_id has type extension<"),
        ({"image_path": pa.array(["a"], pa.json_())}, "column image_path has type extension<arrow.json>"),
        ({"image": [{"bytes": "x", "path": "y"}]}, "column image has type struct<"),
        ({"image": [{"bytes": b"x", "path": 5}]}, "column image has type struct<"),
        ({"image": [{"bytes": [b"x"], "path": ["y"]}]}, "column image has type struct<"),
        ({f"c{i}": [1] for i in range(10_000)}, "no column image_path, image_bytes or image; it has c0, c1"),
    ],
    ids=range(8),
)
def test_a_file_of_wrong_types_is_refused(columns: dict[str, Any], told: str, tmp_path: Path):
    assert told in refusal(tmp_path, columns)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"0" * 16], pa.uuid()),
        pa.array(['{"a": 1}'], pa.json_()),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2))),
        pa.array(["x"]).dictionary_encode(),
        pa.array(["x"], pa.large_string()),
        pa.array(["x"], pa.string_view()),
        pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([1], pa.timestamp("us", "+05:30")),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([["x"]], pa.list_(pa.large_string())),
        pa.array([[("k", [1])]], pa.map_(pa.string(), pa.list_(pa.int8()))),
        text_of(b"\xff\xfe"),
        pa.nulls(1),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_a_column_of_any_type_is_carried_into_the_table(column: pa.Array, tmp_path: Path):
    store = make_store(tmp_path / "out")
    manifest = manifest_of(tmp_path, {"image_path": ["a.png"], "extra": column})
    for _ in range(2):  # the second time beside what is kept of the first
        dataset.save_images(store, manifest.carried)
    commit_video(store, manifest.images[0].image_id)
    dataset.compact(store)
    assert pq.read_table(store.metadata)["extra"].cast(column.type).combine_chunks().equals(column)


def test_a_column_that_arrow_can_not_take_rows_of_is_refused_at_once_and_not_at_the_end(tmp_path: Path):
    column = pa.array([["x"]], pa.list_(pa.string_view()))
    assert "which can't be carried into the table" in refusal(tmp_path, {"image_path": ["a"], "x": column})


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())])
def test_paths_of_every_text_type_are_read(kind: pa.DataType, tmp_path: Path):
    assert manifest_of(tmp_path, {"image_path": pa.array(["a", "b"], kind)}).images[1].image_path == "b"


def test_ten_thousand_columns_are_read_in_seconds(tmp_path: Path):
    columns = {"image_path": ["a", "b"], **{f"c{i}": [1, 2] for i in range(10_000)}}
    write_parquet(tmp_path / "m.parquet", columns)
    start = time.process_time()
    assert read_manifest([str(tmp_path / "m.parquet")]).carried.num_columns == 10_001
    assert time.process_time() - start < 5


def test_damaged_footers_are_refused_in_a_sentence_or_read(tmp_path: Path):
    path = write_parquet(tmp_path / "m.parquet", {"image_path": [f"{i}" for i in range(50)], "x": list(range(50))})
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(len(data) - footer, len(data), random.integers(1, 6)):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            read_manifest([str(path)])
        except UserError:  # whatever else is raised fails the test
            refused += 1
    assert refused > 50


@pytest.mark.timeout(20)
def test_a_manifest_that_is_a_pipe_or_a_device_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "m.parquet")
    for spec in (str(tmp_path / "m.parquet"), str(tmp_path), "/dev/zero"):
        with pytest.raises(UserError, match="is not a regular file; give a Parquet file"):
            read_manifest([spec])


def test_parts_whose_types_drift_are_widened_or_refused_naming_the_column(tmp_path: Path):
    parts: list[dict[str, Any]] = [
        {"image_path": ["a"], "n": pa.array([1], pa.int8()), "t": ["x"]},
        {"image_path": ["b"], "n": [1.5], "t": pa.array(["y"], pa.large_string())},
        {"image_path": ["c"], "n": ["no number"]},
    ]
    for i, part in enumerate(parts):
        write_parquet(tmp_path / f"{i}.parquet", part)
    files = [str(tmp_path / f"{i}.parquet") for i in range(3)]
    assert read_manifest(files[:2]).carried["n"].to_pylist() == [1.0, 1.5]
    with pytest.raises(UserError, match=r"^manifest: the parts' columns don't fit together: .* n "):
        read_manifest(files)


def test_captions_stay_the_text_that_they_are(tmp_path: Path):
    captions = ["<script>alert(1)</script>", "=HYPERLINK(1)", "+1", "-1", "@x", "\x1b[31m", '"><img onerror=1>']
    store = make_store(tmp_path / "out")
    manifest = manifest_of(tmp_path, {"image_path": [str(i) for i in range(7)], "caption": captions, "<b>": captions})
    dataset.save_images(store, manifest.carried)
    for image in manifest.images:
        commit_video(store, image.image_id)
    dataset.compact(store)
    assert pq.read_table(store.metadata)["caption"].to_pylist() == captions
    assert not [p for p in store.root.rglob("*") if p.suffix in (".csv", ".tsv")]


# --- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"allowed_roots": []}, "allowed_roots: [] is not accepted"),
        ({"allowed_roots": [1]}, "allowed_roots: [1] is not accepted"),
        ({"allowed_roots": "https://example.org/"}, "for http and https there are allow_urls and allowed_hosts"),
        ({"allowed_roots": "file:///data"}, "allowed_roots: 'file:///data' is not accepted; give a folder"),
        ({"allowed_hosts": "http://images.lan"}, "allowed_hosts: 'http://images.lan' is not accepted; give a host"),
        ({"allowed_hosts": ["*.lan"]}, "allowed_hosts: '*.lan' is not accepted"),
    ],
)
def test_a_wrong_rule_is_refused_in_a_sentence(rule: dict[str, Any], told: str):
    with pytest.raises(UserError) as caught:
        Config(**rule)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "rule", [{"max_pixels": 178_000_001}, {"max_pixels": 0}, {"max_bytes": 0}, {"url_timeout_s": float("nan")}]
)
def test_a_wrong_limit_is_refused_in_a_sentence(rule: dict[str, Any]):
    with pytest.raises(UserError, match=rf"^limits\.{next(iter(rule))}: .* is not accepted; give a"):
        LimitsConfig(**rule)


def test_every_rule_reaches_the_pictures():
    config = Config(allow_urls=True, allowed_hosts="Images.LAN", allowed_roots=["pictures", "s3://bucket"])
    assert config.access() == Access(True, ("images.lan",), (str(Path("pictures").absolute()), "s3://bucket"))


def test_a_hostile_manifest_stops_a_run_before_any_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    manifest = write_parquet(tmp_path / "m.parquet", {"image_path": ["/etc/passwd"], "a\x1b[31m\nb": [1]})
    command = ["run", "backend=serial", f"manifest={manifest}", "output=out", f"allowed_roots=[{tmp_path}]"]
    assert command_line.main(command) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: manifest m.parquet, row 0: image_path '/etc/passwd' leads to")
    assert "\x1b" not in found
    assert not Path("out").exists()


def test_image_paths_with_control_characters_do_not_reach_the_terminal():
    assert printable(make_image("a\x1b[2Jb").image_id) == "a�[2Jb"
