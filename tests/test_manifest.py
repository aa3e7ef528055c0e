"""Parquet manifests: every form that is accepted, every one that is refused, and making them from folders."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import encode, picture_bytes, write_parquet
from parts import offline_datasets
from PIL import Image

from svd_batch import ids
from svd_batch.access import Access
from svd_batch.errors import UserError
from svd_batch.images import open_image, read_bytes
from svd_batch.manifest import BATCH_ROWS, Manifest, bundled_manifest, natural_key, read_manifest, write_manifest


def manifest_of(folder: Path, columns: dict[str, Any], **options: Any) -> Manifest:
    """Return what is read of a manifest with some columns."""
    return read_manifest([str(write_parquet(folder / "m.parquet", columns))], **options)


def refusal(folder: Path, columns: dict[str, Any]) -> str:
    """Return the sentence with which a manifest with some columns is refused."""
    with pytest.raises(UserError) as caught:
        manifest_of(folder, columns)
    return str(caught.value)


# --- which picture ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.png", "{here}/a.png"),
        ("sub/../a b.png", "{here}/a b.png"),
        ("../a.png", "{above}/a.png"),
        ("/elsewhere/a.png", "/elsewhere/a.png"),
        ("Mümmel 100%.png", "{here}/Mümmel 100%.png"),
        ("~a.png", "{here}/~a.png"),
    ],
)
def test_a_path_is_relative_to_the_manifest_or_absolute(tmp_path: Path, path: str, source: str):
    (image,) = manifest_of(tmp_path, {"image_path": [path]}).images
    assert image.source == source.format(here=tmp_path, above=tmp_path.parent)
    assert (image.image_path, image.source_row, image.bytes_column) == (path, None, None)


def test_a_relative_path_does_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_parquet(tmp_path / "m.parquet", {"image_path": ["a.png"]})
    monkeypatch.chdir(tmp_path)
    assert read_manifest(["m.parquet"]).images[0].source == f"{tmp_path}/a.png"


def test_embedded_bytes_are_read_from_their_row(tmp_path: Path):
    manifest = manifest_of(tmp_path, {"image_bytes": [b"one", b"two"], "image_path": ["x.png", None]})
    assert [read_bytes(image) for image in manifest.images] == [b"one", b"two"]
    assert [image.image_path for image in manifest.images] == ["x.png", None]


def test_embedded_bytes_go_before_a_path_row_by_row(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"from the file")
    rows = {"image_bytes": [b"embedded", None], "image_path": ["a.png", "a.png"], "image_id": ["1", "2"]}
    assert [read_bytes(image) for image in manifest_of(tmp_path, rows).images] == [b"embedded", b"from the file"]


def test_bytes_past_the_first_batch_come_from_their_own_row(tmp_path: Path):
    rows = [f"picture {i}".encode() for i in range(BATCH_ROWS + 3)]
    image = manifest_of(tmp_path, {"image_bytes": rows}).images[BATCH_ROWS + 1]
    assert read_bytes(image) == rows[BATCH_ROWS + 1]


@pytest.mark.parametrize(
    ("struct", "content"),
    [({"bytes": b"inside", "path": "a.png"}, b"inside"), ({"bytes": None, "path": "a.png"}, b"from the file")],
    ids=["bytes", "path only"],
)
def test_an_image_struct_of_hugging_face_is_read(tmp_path: Path, struct: dict[str, Any], content: bytes):
    (tmp_path / "a.png").write_bytes(b"from the file")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    (image,) = manifest_of(tmp_path, {"image": pa.array([struct], kind)}).images
    assert (read_bytes(image), image.image_path) == (content, "a.png")


def test_a_parquet_file_that_datasets_wrote_is_a_manifest(tmp_path: Path):
    datasets = offline_datasets()
    pictures = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    table = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1], "caption": ["one", "two"]},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "caption": datasets.Value("string"),
            }
        ),
    )
    table.to_parquet(str(tmp_path / "m.parquet"))
    manifest = read_manifest([str(tmp_path / "m.parquet")])
    colours = [open_image(read_bytes(image)).getpixel((0, 0)) for image in manifest.images]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert manifest.carried.select(["label", "caption"]).to_pydict() == {"label": [0, 1], "caption": ["one", "two"]}


# --- ids ----------------------------------------------------------------------------------------------------


def test_without_an_id_column_ids_come_from_the_path_as_it_is_written(tmp_path: Path):
    images = manifest_of(tmp_path, {"image_path": ["a.png", "./a.png"]}).images
    assert [i.image_id for i in images] == [ids.image_id_of_path("a.png"), ids.image_id_of_path("./a.png")]


def test_without_an_id_column_ids_of_embedded_pictures_come_from_their_bytes(tmp_path: Path):
    (image,) = manifest_of(tmp_path, {"image_bytes": [b"one"], "image_path": ["a.png"]}).images
    assert image.image_id == ids.image_id_of_bytes(b"one")


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint32()])
def test_whole_numbers_are_ids_too(tmp_path: Path, kind: pa.DataType):
    rows = {"image_path": ["a.png", "b.png"], "image_id": pa.array([7, 12], kind)}
    assert [i.image_id for i in manifest_of(tmp_path, rows).images] == ["7", "12"]


def test_the_same_picture_twice_is_fine_with_ids_of_its_own(tmp_path: Path):
    assert len(manifest_of(tmp_path, {"image_path": ["a.png"] * 2, "image_id": ["x", "y"]}).images) == 2


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())]
)
def test_text_may_be_stored_in_any_of_arrows_ways(tmp_path: Path, kind: pa.DataType):
    column = pa.array(["a.png", "b.png"], pa.string()).cast(kind)
    manifest = manifest_of(tmp_path, {"image_path": column, "image_id": column, "caption": column})
    assert [(i.image_id, i.image_path) for i in manifest.images] == [("a.png", "a.png"), ("b.png", "b.png")]
    assert manifest.carried["caption"].to_pylist() == ["a.png", "b.png"]


def test_bytes_may_be_large_binary(tmp_path: Path):
    (image,) = manifest_of(tmp_path, {"image_bytes": pa.array([b"one"], pa.large_binary())}).images
    assert read_bytes(image) == b"one"


def test_the_sha256_column_is_kept_for_the_check_at_loading(tmp_path: Path):
    rows = {"image_path": ["a.png", "b.png"], "image_sha256": ["f" * 64, None]}
    assert [i.sha256 for i in manifest_of(tmp_path, rows).images] == ["f" * 64, None]


# --- fixed fields -------------------------------------------------------------------------------------------


def test_a_column_named_like_a_field_fixes_it_and_null_does_not(tmp_path: Path):
    rows = {"image_path": ["a", "b"], "fps": [5, None], "noise_aug_strength": [0.1, 0.0]}
    fixed = [dict(image.fixed) for image in manifest_of(tmp_path, rows).images]
    assert fixed == [{"fps": 5, "noise_aug_strength": 0.1}, {"noise_aug_strength": 0.0}]


def test_whole_numbers_that_pandas_made_floats_stay_whole(tmp_path: Path):
    frame = pd.DataFrame({"image_path": ["a", "b"], "motion_bucket_id": [20, None]})
    frame.to_parquet(tmp_path / "m.parquet")
    assert pq.read_schema(tmp_path / "m.parquet").field("motion_bucket_id").type == pa.float64()
    images = read_manifest([str(tmp_path / "m.parquet")]).images
    assert [repr(image.fixed) for image in images] == ["(('motion_bucket_id', 20),)", "()"]


def test_a_column_sampler_holds_words(tmp_path: Path):
    images = manifest_of(tmp_path, {"image_path": ["a", "b"], "sampler": ["ays10", None]}).images
    assert [image.fixed for image in images] == [(("sampler", "ays10"),), ()]


def test_a_column_of_nulls_fixes_nothing(tmp_path: Path):
    assert manifest_of(tmp_path, {"image_path": ["a"], "fps": pa.nulls(1)}).images[0].fixed == ()


def test_fixed_fields_are_not_carried(tmp_path: Path):
    manifest = manifest_of(tmp_path, {"image_path": ["a"], "fps": [7], "caption": ["x"]})
    assert manifest.carried.column_names == ["image_id", "caption"]


# --- carried columns ------------------------------------------------------------------------------------------


def test_every_other_column_is_carried_with_its_type(tmp_path: Path):
    columns = {
        "caption": pa.array(["x"]),
        "label": pa.array([3], pa.int16()),
        "tags": pa.array([["a", "b"]]),
        "box": pa.array([{"x": 1, "y": 2.0}]),
        "when": pa.array([0], pa.timestamp("us")),
    }
    carried = manifest_of(tmp_path, {"image_path": ["a"], **columns}).carried
    assert {f.name: f.type for f in carried.schema} == {
        "image_id": pa.string(),
        **{k: v.type for k, v in columns.items()},
    }
    assert carried.drop_columns("image_id").to_pylist() == pa.table(columns).to_pylist()


TAKEN = ["seed", "height", "width", "video_id", "num_frames", "model_id", "file_name", "video", "created_at", "dtype"]


@pytest.mark.parametrize("column", TAKEN)
def test_a_column_whose_name_is_taken_is_carried_as_source_and_that_is_said(tmp_path: Path, column: str):
    manifest = manifest_of(tmp_path, {"image_path": ["a"], column: ["x"]})
    (renamed,) = manifest.renamed
    assert renamed[0] == column
    assert renamed[1].startswith("source_")
    assert manifest.carried.column_names == ["image_id", renamed[1]]


@pytest.mark.parametrize("column", ["file_name", "mask_file_name", "_file_name", "source_file_name", "video"])
def test_no_carried_name_is_one_that_datasets_reads_as_a_video(tmp_path: Path, column: str):
    names = manifest_of(tmp_path, {"image_path": ["a"], column: ["x"]}).carried.column_names
    assert not [n for n in names if n in ("file_name", "video") or n.endswith("_file_name")]


@pytest.mark.parametrize("column", ["file_names", "mask_file_names", "videos"])
def test_no_carried_list_is_one_that_datasets_reads_as_videos(tmp_path: Path, column: str):
    names = manifest_of(tmp_path, {"image_path": ["a"], column: [["x", "y"]]}).carried.column_names
    assert not [n for n in names if n == "file_names" or n.endswith("_file_names")]


@pytest.mark.parametrize(
    "columns", [("height", "source_height"), ("video", "source_video"), ("mask_file_name", "source_mask_file")]
)
def test_two_carried_columns_never_get_the_same_name(tmp_path: Path, columns: tuple[str, str]):
    names = manifest_of(tmp_path, {"image_path": ["a"], columns[0]: ["x"], columns[1]: ["y"]}).carried.column_names
    assert len(set(names)) == 3


# --- several files --------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Return a folder with three parts of a manifest, the tenth last in natural order."""
    for name in ("part-10", "part-2", "part-1"):
        write_parquet(tmp_path / f"{name}.parquet", {"image_path": [f"{name}.png"], "caption": [name]})
    (tmp_path / "notes.txt").write_text("no manifest")
    return tmp_path


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (["{here}"], ["part-1", "part-2", "part-10"]),
        (["{here}/*.parquet"], ["part-1", "part-2", "part-10"]),
        (["{here}/part-1*.parquet"], ["part-1", "part-10"]),
        (["{here}/part-[12].parquet"], ["part-1", "part-2"]),
        (["{here}/part-2.parquet", "{here}/part-1.parquet"], ["part-2", "part-1"]),
        (["{here}/part-2.parquet", "{here}"], ["part-2", "part-1", "part-10"]),
    ],
)
def test_a_manifest_is_a_folder_a_glob_or_a_list_in_natural_order(parts: Path, specs: list[str], expected: list[str]):
    manifest = read_manifest([spec.format(here=parts) for spec in specs])
    assert [image.image_path for image in manifest.images] == [f"{name}.png" for name in expected]
    assert manifest.carried["caption"].to_pylist() == expected


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path):
    path = write_parquet(tmp_path / "m[1].parquet", {"image_path": ["a.png"]})
    assert read_manifest([str(path)]).files == (path,)


def test_a_column_that_one_part_lacks_is_null_there(tmp_path: Path):
    write_parquet(tmp_path / "1.parquet", {"image_path": ["a"], "caption": ["x"]})
    write_parquet(tmp_path / "2.parquet", {"image_path": ["b"]})
    assert read_manifest([str(tmp_path)]).carried["caption"].to_pylist() == ["x", None]


def test_a_part_without_rows_is_fine_beside_one_with_rows(tmp_path: Path):
    write_parquet(tmp_path / "1.parquet", {"image_path": pa.array([], pa.string())})
    write_parquet(tmp_path / "2.parquet", {"image_path": ["b"]})
    assert len(read_manifest([str(tmp_path)]).images) == 1


def test_parts_whose_columns_do_not_fit_together_are_refused(tmp_path: Path):
    write_parquet(tmp_path / "1.parquet", {"image_path": ["a"], "caption": ["x"]})
    write_parquet(tmp_path / "2.parquet", {"image_path": ["b"], "caption": [{"text": "y"}]})
    with pytest.raises(UserError, match="don't fit together"):
        read_manifest([str(tmp_path)])


def test_an_id_that_is_in_two_parts_is_refused(tmp_path: Path):
    for name in ("1", "2"):
        write_parquet(tmp_path / f"{name}.parquet", {"image_path": [f"{name}.png"], "image_id": ["same"]})
    with pytest.raises(UserError, match=r"manifest 2\.parquet: image_id 'same' is there twice \(1\.png and 2\.png\)"):
        read_manifest([str(tmp_path)])


# --- refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["missing.parquet", "*.parquet", "", "."])
def test_a_spec_that_names_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^manifest: "):
        read_manifest([spec])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"image_path\na.png\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.parquet is not a readable Parquet file"):
        read_manifest([str(path)])


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = write_parquet(tmp_path / "m.parquet", {"image_path": ["a.png"] * 10})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        read_manifest([str(path)])


def test_a_file_with_damaged_pages_is_refused(tmp_path: Path):
    path = tmp_path / "m.parquet"
    names = [f"{i}.png" for i in range(1000)]
    write_parquet(path, {"image_path": names}, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"manifest m\.parquet: can't be read past row 0"):
        read_manifest([str(path)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a"], "caption": ["x"]}, "no column image_path, image_bytes or image; it has path, caption"),
        ({"image_path": pa.array([], pa.string())}, "m.parquet has no rows"),
        ({"image_path": ["a", None]}, "row 1: image_path is null or empty"),
        ({"image_path": ["a", ""]}, "row 1: image_path is null or empty"),
        ({"image_path": pa.nulls(1)}, "row 0: image_path is null or empty"),
        ({"image_bytes": [b"a", b""]}, "row 1: image_bytes is null or empty"),
        ({"image_bytes": [None], "image_path": [""]}, "row 0: image_path, image_bytes is null or empty"),
        ({"image": [{"bytes": b"", "path": ""}]}, "row 0: image is null or empty"),
        ({"image": pa.array([None], pa.struct({"bytes": pa.binary(), "path": pa.string()}))}, "row 0: image is null"),
        ({"image_path": ["a", "a"]}, "is there twice (a and a)"),
        ({"image_bytes": [b"x", b"x"]}, "is there twice (an embedded picture and an embedded picture)"),
        ({"image_path": ["a", "b"], "image_id": ["1", "1"]}, "image_id '1' is there twice (a and b)"),
        ({"image_path": ["a", "b"], "image_id": ["1", None]}, "row 1: image_id is null"),
        ({"image_path": ["a"], "image_id": [""]}, "row 0: image_id '' is not accepted"),
        ({"image_path": ["a"], "image_id": ["a\nb"]}, "row 0: image_id 'a\\nb' is not accepted"),
        ({"image_path": ["a"], "image_id": [1.5]}, "column image_id has type double"),
        ({"image_path": [1]}, "column image_path has type int64; it must be a string"),
        ({"image_path": [b"a"]}, "column image_path has type binary; it must be a string"),
        ({"image_bytes": ["a"]}, "column image_bytes has type string; it must be binary"),
        ({"image": ["a"]}, "column image has type string; it must be a struct of bytes and path"),
        ({"image": [b"a"]}, "column image has type binary; it must be a struct of bytes and path"),
        ({"image": [{"data": b"a"}]}, "it must be a struct of bytes and path"),
        ({"image_path": ["a"], "image_sha256": [b"a"]}, "column image_sha256 has type binary; it must be a string"),
        ({"image_path": ["a"], "fps": ["7"]}, "column fps has type string; it must be a number"),
        ({"image_path": ["a"], "sampler": [10]}, "column sampler has type int64; it must be a string"),
        (
            {"image_path": ["a"], "sampler": ["heun"]},
            "row 0, column sampler: 'heun' is not accepted; give euler or ays10",
        ),
        ({"image_path": ["a"], "fps": [True]}, "column fps has type bool; it must be a number"),
        ({"image_path": ["a", "b"], "fps": [7, 0]}, "row 1, column fps: 0 is not accepted"),
        ({"image_path": ["a"], "fps": [7.5]}, "row 0, column fps: 7.5 is not accepted"),
        ({"image_path": ["a"], "noise_aug_strength": [float("inf")]}, "column noise_aug_strength: inf"),
        ({"image_path": ["a\0b"]}, "row 0: image_path holds a NUL"),
        ({"image_path": ["https://example.org/a.png"]}, "row 0: image_path is a URL; set allow_urls=true"),
        ({"image_path": ["http://example.org/a.png"]}, "row 0: image_path is a URL"),
        ({"image_path": ["HTTPS://example.org/a.png"]}, "row 0: image_path is a URL"),
        ({"image_path": ["simplecache::https://example.org/a.png"]}, "row 0: image_path is a URL"),
    ],
)
def test_a_wrong_manifest_is_refused_naming_file_row_and_column(tmp_path: Path, columns: dict[str, Any], message: str):
    found = refusal(tmp_path, columns)
    assert message in found
    assert found.startswith("manifest")


def test_the_row_of_a_refusal_is_counted_over_the_whole_file(tmp_path: Path):
    rows = [f"{i}.png" for i in range(BATCH_ROWS + 5)]
    rows[BATCH_ROWS + 3] = ""
    assert f"row {BATCH_ROWS + 3}: image_path is null or empty" in refusal(tmp_path, {"image_path": rows})


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["image_path", "x", "x"]), path)
    with pytest.raises(UserError, match=r"manifest m\.parquet: the column x is there twice"):
        read_manifest([str(path)])


def test_urls_are_accepted_where_they_are_allowed(tmp_path: Path):
    url = "https://example.org/a%20b.png"
    (image,) = manifest_of(tmp_path, {"image_path": [url]}, access=Access(allow_urls=True)).images
    assert image.source == url


def test_the_bundled_manifest_has_four_pictures_that_open():
    images = read_manifest([str(bundled_manifest())]).images
    assert len([open_image(read_bytes(image)) for image in images]) == 4


# --- making one from a folder -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with pictures at two levels and other things between them."""
    folder = tmp_path / "pictures"
    (folder / "sub" / ".cache").mkdir(parents=True)
    for seed, name in enumerate(("img10.png", "img2.PNG", "sub/img1.jpg", ".hidden.png", "sub/.cache/a.png")):
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (folder / name).write_bytes(picture_bytes(kind, (24, 16), seed))
    (folder / "notes.txt").write_text("no picture")
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    return folder


def paths_in(manifest: Path) -> list[str]:
    """Return the image_path column."""
    paths: list[str] = pq.read_table(manifest)["image_path"].to_pylist()
    return paths


def test_the_pictures_of_a_folder_come_in_natural_order_from_all_levels(folder: Path):
    scan = write_manifest(folder, folder / "m.parquet")
    assert paths_in(folder / "m.parquet") == ["img2.PNG", "img10.png", "sub/img1.jpg"]
    assert scan.num_images == 3


def test_sub_folders_can_be_left_out(folder: Path):
    write_manifest(folder, folder / "m.parquet", recursive=False)
    assert paths_in(folder / "m.parquet") == ["img2.PNG", "img10.png"]


def test_what_is_left_out_is_listed_with_the_reason_and_hidden_files_are_passed_over(folder: Path):
    left_out = dict(write_manifest(folder, folder / "m.parquet").left_out)
    assert set(left_out) == {"notes.txt", "text.jpg", "empty.png"}
    assert "not a picture by its name" in left_out["notes.txt"]
    assert "not a picture in one of the formats" in left_out["text.jpg"]
    assert left_out["empty.png"] == "the file is empty"


def test_a_broken_link_and_a_pipe_are_left_out(folder: Path):
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    left_out = dict(write_manifest(folder, folder / "m.parquet").left_out)
    assert {"link.png", "pipe.png"} <= set(left_out)


def test_paths_are_relative_to_the_manifest_where_the_pictures_lie_below_it(folder: Path):
    write_manifest(folder, folder.parent / "m.parquet")
    assert paths_in(folder.parent / "m.parquet") == [
        "pictures/img2.PNG",
        "pictures/img10.png",
        "pictures/sub/img1.jpg",
    ]


def test_paths_are_absolute_where_the_manifest_lies_elsewhere(folder: Path):
    out = folder.parent / "elsewhere" / "m.parquet"
    write_manifest(folder, out)
    assert paths_in(out)[0] == f"{folder}/img2.PNG"


@pytest.mark.parametrize("out", ["m.parquet", "pictures/m.parquet", "pictures/sub/m.parquet", "else/where/m.parquet"])
def test_a_manifest_made_from_a_folder_leads_back_to_its_pictures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, out: str
):
    monkeypatch.chdir(folder.parent)
    write_manifest(Path("pictures"), Path(out))
    monkeypatch.chdir("/")
    found = {hashlib.sha256(read_bytes(i)).hexdigest() for i in read_manifest([str(folder.parent / out)]).images}
    names = ("img2.PNG", "img10.png", "sub/img1.jpg")
    assert found == {hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_size_bytes_and_sha256_are_recorded_as_the_picture_is_seen_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (24, 16)), "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(data)
    write_manifest(tmp_path, tmp_path / "m.parquet")
    assert pq.read_table(tmp_path / "m.parquet").to_pylist() == [
        {
            "image_path": "a.jpg",
            "image_width": 16,
            "image_height": 24,
            "image_num_bytes": len(data),
            "image_sha256": hashlib.sha256(data).hexdigest(),
        }
    ]


def test_making_a_manifest_again_gives_the_same_one(folder: Path):
    write_manifest(folder, folder / "m.parquet")
    first = pq.read_table(folder / "m.parquet")
    write_manifest(folder, folder / "m.parquet")
    assert pq.read_table(folder / "m.parquet").equals(first)


@pytest.mark.parametrize("name", ["~a.png", "a b%20.png", "a#b?.png", "1²3.png", "²1.png", "Mümmel.png", "a:b.png"])
def test_a_picture_of_any_name_finds_its_way_through_a_manifest(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(picture_bytes())
    write_manifest(tmp_path, tmp_path / "m.parquet")
    (image,) = read_manifest([str(tmp_path / "m.parquet")]).images
    assert read_bytes(image) == picture_bytes()


def test_a_name_that_is_no_text_is_left_out_with_the_reason(tmp_path: Path):
    (tmp_path / "good.png").write_bytes(picture_bytes())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(picture_bytes())
    scan = write_manifest(tmp_path, tmp_path / "m.parquet")
    assert (scan.num_images, len(scan.left_out)) == (1, 1)


@pytest.mark.parametrize("content", ["nothing", "no pictures", "a missing folder"])
def test_a_folder_without_a_picture_is_refused_and_no_manifest_is_written(tmp_path: Path, content: str):
    folder, out = tmp_path / "pictures", tmp_path / "m.parquet"
    if content != "a missing folder":
        folder.mkdir()
    if content == "no pictures":
        (folder / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"^manifest: "):
        write_manifest(folder, out)
    assert not out.exists()


@pytest.mark.parametrize("out", ["pictures", "file/m.parquet"])
def test_a_place_that_can_not_be_written_is_refused_in_a_sentence(folder: Path, out: str):
    (folder.parent / "file").write_text("")
    with pytest.raises(UserError, match=r"^manifest: "):
        write_manifest(folder, folder.parent / out)


@pytest.mark.parametrize(
    ("shuffled", "ordered"),
    [
        (["img10", "img9", "img1"], ["img1", "img9", "img10"]),
        (["b", "A", "c"], ["A", "b", "c"]),
        (["a/10", "a/9", "A/1"], ["A/1", "a/9", "a/10"]),
        (["10", "9", "a"], ["9", "10", "a"]),
    ],
)
def test_natural_order_counts_numbers_as_numbers(shuffled: list[str], ordered: list[str]):
    assert sorted(shuffled, key=natural_key) == ordered


def test_a_manifest_that_is_a_link_to_itself_is_refused(tmp_path: Path):
    (tmp_path / "loop.parquet").symlink_to("loop.parquet")
    for spec in (f"{tmp_path}/loop.parquet", f"{tmp_path}/*.parquet", str(tmp_path)):
        with pytest.raises(UserError, match=r"^manifest: .*loop\.parquet"):
            read_manifest([spec])
