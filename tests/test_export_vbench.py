"""The folder for VBench, checked by the rules that VBench's own code reads it with."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from builders import make_cell, make_output, picture_bytes
from PIL import Image

from svd_batch.config import Codec, Fit, VideoConfig
from svd_batch.errors import UserError
from svd_batch.export import ExportSettings, export
from svd_batch.export.vbench import video_names
from svd_batch.images import fit_image, open_image, read_bytes
from svd_batch.manifest import read_manifest, write_manifest
from svd_batch.store import Store
from svd_batch.video import probe

CELLS = (make_cell(motion_bucket_id=20), make_cell(motion_bucket_id=240))


def output(tmp_path: Path, captions: list[str | None] | None = None, config: VideoConfig | None = None) -> Store:
    """Return an output folder of two pictures, whose manifest and pictures are there."""
    for i, name in enumerate(("cat-1", "dog")):
        (tmp_path / f"{name}.png").write_bytes(picture_bytes(seed=i))
    manifest = tmp_path / "m.parquet"
    write_manifest(tmp_path, manifest)
    ids = [image.image_id for image in read_manifest([str(manifest)]).images]
    carried = {"caption": captions} if captions else {}
    store = make_output(tmp_path / "pets", image_ids=ids, cells=CELLS, carried=carried, config=config)
    store.write_run({"settings": {"fit": "stretch"}, "manifest": [str(manifest)]})
    return store


def vbench(store: Store, place: Path, captions: str | None = None) -> list[str]:
    return list(export(store.root, ExportSettings("vbench", captions=captions), place))


def prompt_of(name: str) -> str:
    """Return what VBench takes a file's prompt and picture for: its `get_prompt_from_filename`."""
    return re.sub(r"-\d+$", "", Path(name).stem)


def test_every_video_is_there_once_under_a_name_that_leads_to_its_picture(tmp_path: Path) -> None:
    vbench(output(tmp_path), tmp_path / "v")
    videos = sorted(p.name for p in (tmp_path / "v/videos").iterdir())
    pictures = {p.stem for p in (tmp_path / "v/images").iterdir()}
    assert len(videos) == 4
    assert {prompt_of(name) for name in videos} == pictures
    assert {Image.open(p).size for p in (tmp_path / "v/images").iterdir()} == {(48, 32)}


def test_a_picture_is_as_the_model_saw_it(tmp_path: Path) -> None:
    vbench(output(tmp_path), tmp_path / "v")
    for image in read_manifest([str(tmp_path / "m.parquet")]).images:
        seen = fit_image(open_image(read_bytes(image)), 32, 48, Fit.stretch)
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"v/images/{image.image_id}.png")), seen)


def test_videos_csv_says_which_file_is_which_video(tmp_path: Path) -> None:
    store = output(tmp_path)
    vbench(store, tmp_path / "v")
    rows = list(csv.DictReader((tmp_path / "v/videos.csv").open()))
    for row in rows:
        record = store.read_record(row["video_id"])
        assert record is not None
        assert (tmp_path / "v/videos" / row["file"]).read_bytes() == (store.root / record.file_name).read_bytes()
        assert int(row["motion_bucket_id"]) == record.motion_bucket_id
    assert len(rows) == 4


def test_videos_are_linked_and_take_no_room(tmp_path: Path) -> None:
    vbench(output(tmp_path), tmp_path / "v")
    assert {p.stat().st_nlink for p in (tmp_path / "v/videos").iterdir()} == {2}


def test_captions_become_a_prompt_for_every_video(tmp_path: Path) -> None:
    vbench(output(tmp_path, ["a cat", "ein Hünd"]), tmp_path / "v")
    prompts = json.loads((tmp_path / "v/prompts.json").read_text(encoding="utf-8"))
    assert set(prompts) == {p.name for p in (tmp_path / "v/videos").iterdir()}
    assert sorted(prompts.values()) == ["a cat", "a cat", "ein Hünd", "ein Hünd"]
    assert "--prompt_file prompts.json" in (tmp_path / "v/README.md").read_text()


def test_without_a_caption_for_every_picture_there_are_no_prompts_and_that_is_said(tmp_path: Path) -> None:
    lines = vbench(output(tmp_path, ["a cat", None]), tmp_path / "v")
    assert not (tmp_path / "v/prompts.json").exists()
    assert lines[-1].startswith("no prompts.json: not every picture has a caption")
    assert "--prompt_file" not in (tmp_path / "v/README.md").read_text()


@pytest.mark.parametrize(("column", "sentence"), [("captoin", "has no column 'captoin'"), ("caption", "rows without")])
def test_a_column_of_captions_that_was_asked_for_and_lacks_some_is_refused(
    column: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        vbench(output(tmp_path, ["a cat", None]), tmp_path / "v", column)


def test_a_missing_picture_leaves_the_pictures_out_with_the_reason(tmp_path: Path) -> None:
    store = output(tmp_path)
    (tmp_path / "dog.png").unlink()
    lines = vbench(store, tmp_path / "v")
    assert not (tmp_path / "v/images").exists()
    assert "no pictures for VBench-I2V: no such file" in lines[1]
    assert "evaluate_i2v" not in (tmp_path / "v/README.md").read_text()


def test_a_missing_video_is_refused(tmp_path: Path) -> None:
    store = output(tmp_path)
    next(store.root.glob("videos/*/*.mp4")).unlink()
    with pytest.raises(UserError, match="1 videos are missing"):
        vbench(store, tmp_path / "v")


def test_codecs_that_vbench_does_not_read_are_written_again_as_mp4(tmp_path: Path) -> None:
    config = VideoConfig(Codec.webp, 9.0, None, False)
    vbench(output(tmp_path, config=config), tmp_path / "v")
    videos = list((tmp_path / "v/videos").iterdir())
    assert {path.suffix for path in videos} == {".mp4"}
    assert {probe(path).num_frames for path in videos} == {4}


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    store = output(tmp_path, ["a cat", "a dog"])
    vbench(store, tmp_path / "v")
    (tmp_path / "v/videos/old-0.mp4").write_text("")
    vbench(store, tmp_path / "v")
    assert len(list((tmp_path / "v/videos").iterdir())) == 4


def test_pictures_of_one_name_and_names_of_any_kind_stay_apart() -> None:
    paths = ["a/cat.png", "b/cat.png", "c/CAT.png", "x/$(rm -r ~) 猫-3.png", None]
    rows = [{"image_id": str(i), "image_path": p, "file_name": "videos/ab/x.gif"} for i, p in enumerate(paths)]
    names = video_names(rows)
    assert names == ["cat-0.gif", "cat_2-0.gif", "CAT_3-0.gif", "rm_r_猫_3-0.gif", "4-0.gif"]
