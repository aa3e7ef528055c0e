"""A finished folder to one page."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import (
    cell_values,
    commit_video,
    make_cell,
    make_failure,
    make_output,
    make_record,
    make_store,
    run_python,
)

from svd_batch import dataset
from svd_batch.config import Codec, VideoConfig
from svd_batch.errors import UserError
from svd_batch.quality import in_quality, quality_of
from svd_batch.records import EXACT
from svd_batch.report import page, write_report
from svd_batch.store import Store
from svd_batch.sweep import expand

GRID = [make_cell(motion_bucket_id=m, noise_aug_strength=n) for m in (20, 127, 240) for n in (0.02, 0.1)]


def row_of(image_id: str = "cat", **changes: Any) -> dict[str, Any]:
    """Return a row of metadata.parquet."""
    return dataclasses.asdict(make_record(image_id=image_id, **changes))


def rows_of(cells: Any, image_ids: Any = ("cat",)) -> list[dict[str, Any]]:
    """Return a row for each image and cell."""
    return [row_of(image_id, **cell_values(cell)) for image_id in image_ids for cell in cells]


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note some text."""
        self.text += data

    def sources(self) -> list[str]:
        """Return the files that videos and pictures show, in order."""
        found = [a.get("data-src") or a.get("src") for tag, a in self.tags if tag in ("video", "img")]
        return [source for source in found if source]


# --- axes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("motion", "noise", "across", "down"),
    [
        ([20, 127, 240], [0.02, 0.1], "motion_bucket_id", "noise_aug_strength"),
        ([20, 127], [0.02, 0.1, 0.3], "noise_aug_strength", "motion_bucket_id"),
        ([20, 127], [0.02, 0.1], "motion_bucket_id", "noise_aug_strength"),
    ],
)
def test_the_axis_with_most_values_runs_across_and_the_others_down(motion: Any, noise: Any, across: str, down: str):
    cells = expand(make_cell(), {"motion_bucket_id": motion, "noise_aug_strength": noise})
    found = page(rows_of(cells))
    assert (found["across"], found["down"]) == (across, [down])
    assert found["across_values"] == {"motion_bucket_id": motion, "noise_aug_strength": noise}[across]


def test_each_row_of_a_grid_has_the_clips_of_its_cell():
    found = page(rows_of(GRID))
    (image,) = found["images"]
    assert list(image["cells"]) == [(0.02,), (0.1,)]
    for (noise,), clips in image["cells"].items():
        for motion, clip in clips.items():
            assert (clip["noise_aug_strength"], clip["motion_bucket_id"]) == (noise, motion)


def test_what_is_the_same_for_all_is_told_once():
    constant = page(rows_of(GRID))["constant"]
    assert constant["fps"] == 7
    assert not {"motion_bucket_id", "noise_aug_strength"} & set(constant)


def test_a_single_cell_is_a_grid_of_one():
    found = page([row_of()])
    assert (found["across"], found["across_values"], found["down"]) == ("motion_bucket_id", [127], [])


def test_replicates_are_an_axis_too():
    found = page([row_of(replicate=r, seed=r) for r in (0, 1)])
    assert (found["across"], found["across_values"]) == ("replicate", [0, 1])


def test_three_axes_make_a_row_for_each_combination_of_two():
    cells = expand(make_cell(), {"motion_bucket_id": [1, 2, 3], "fps": [5, 6], "decode_chunk_size": [1, 2]})
    found = page(rows_of(cells))
    assert found["down"] == ["fps", "decode_chunk_size"]
    assert list(found["images"][0]["cells"]) == [(5, 1), (5, 2), (6, 1), (6, 2)]


def test_images_come_in_the_order_of_the_table():
    assert [image["id"] for image in page(rows_of(GRID, ("owl", "cat")))["images"]] == ["owl", "cat"]


def test_without_rows_there_is_an_empty_page():
    found = page([])
    assert (found["num_videos"], found["images"], found["shape"]) == (0, [], None)


def test_no_clip_is_lost_where_two_listed_seeds_share_a_replicate():
    found = page([row_of(video_id="00" * 10, seed=42), row_of(video_id="11" * 10, seed=43)])
    shown = {
        clip["video_id"] for image in found["images"] for clips in image["cells"].values() for clip in clips.values()
    }
    assert shown == {"00" * 10, "11" * 10}


# --- the file ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a finished folder with two failures and captions that look like HTML; not to be changed."""
    root = tmp_path_factory.mktemp("made") / "output"
    carried = {"caption": ["<script>alert(1)</script>", 'a "dog" & more']}
    store = make_output(root, image_ids=["<b>cat</b>", "dog"], cells=GRID[:2], carried=carried)
    store.record_failure(make_failure("owl", error_message="no <such> file"))
    store.record_failure(make_failure("dog", video_id="ab" * 10, stage="generate", error_type="RuntimeError"))
    dataset.compact(store)
    write_report(root)
    return store


def test_the_page_shows_every_clip_by_its_relative_name(output: Store):
    found = Page(output.root / "report.html").sources()
    assert sorted(found) == sorted(record.file_name for record in output.records())


def test_the_page_lists_every_failure_with_its_reason(output: Store):
    text = Page(output.root / "report.html").text
    assert "2 failures" in text
    assert "ItemError: no <such> file" in text
    assert "RuntimeError: no such file" in text


def test_captions_and_ids_are_text_whatever_they_look_like(output: Store):
    found = Page(output.root / "report.html")
    assert "<script>alert(1)</script>" in found.text
    assert "<b>cat</b>" in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert "b" not in [tag for tag, _ in found.tags]


def test_the_page_asks_nothing_of_the_network(output: Store):
    text = (output.root / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text


def test_the_axes_values_are_on_the_page(output: Store):
    headings = [a for tag, a in Page(output.root / "report.html").tags if tag == "th" and a.get("scope") == "col"]
    assert len(headings) == 2 * 3  # for each picture a corner and the two values


@pytest.mark.parametrize("codec", [Codec.gif, Codec.webp])
def test_animations_are_pictures_on_the_page(tmp_path: Path, codec: Codec):
    quality = 8.5 if codec is Codec.webp else None
    store = make_output(tmp_path / "output", config=VideoConfig(codec, quality, None, False))
    found = Page(write_report(store.root))
    assert sorted(found.sources()) == sorted(record.file_name for record in store.records())
    assert "img" in [tag for tag, _ in found.tags]


def test_a_cell_that_was_not_made_says_so(tmp_path: Path):
    store = make_store(tmp_path / "output")
    commit_video(store, "cat", cell=GRID[0])
    commit_video(store, "dog", cell=GRID[2])
    dataset.compact(store)
    assert Page(write_report(store.root)).text.count("not made") == 2


def test_a_run_without_a_single_video_has_a_report_of_its_failures(tmp_path: Path):
    store = make_store(tmp_path / "output")
    dataset.save_images(store, pa.table({"image_id": ["owl"]}))
    store.record_failure(make_failure("owl"))
    dataset.compact(store)
    assert "no such file" in Page(write_report(store.root)).text


def test_writing_the_report_again_replaces_it_and_leaves_nothing_beside(tmp_path: Path):
    store = make_output(tmp_path / "output")
    first = write_report(store.root).read_text()
    assert write_report(store.root).read_text() == first
    assert list(store.temporary_dir.iterdir()) == []


def test_a_folder_without_a_table_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"^report: .* has no metadata\.parquet"):
        write_report(tmp_path)


def test_writing_a_report_loads_neither_torch_nor_ray(tmp_path: Path):
    store = make_output(tmp_path / "output")
    code = (
        "import sys; from pathlib import Path; from svd_batch.report import write_report;"
        "write_report(Path(sys.argv[1])); print(sorted({'torch', 'ray', 'diffusers', 'hydra'} & set(sys.modules)))"
    )
    assert run_python(code, str(store.root)).stdout == "[]\n"


def test_a_damaged_table_is_refused_in_a_sentence(output: Store):
    output.metadata.write_bytes(output.metadata.read_bytes()[:50])
    with pytest.raises(UserError, match="is damaged"):
        write_report(output.root)


# --- approximations ---------------------------------------------------------------------------------------------


def rows_in(*qualities: str) -> list[dict[str, Any]]:
    """Return the rows of two cells in each quality."""
    cells = [in_quality(make_cell(motion_bucket_id=m), q) for q in qualities for m in (20, 240)]
    return [row_of(**cell_values(cell), quality=quality_of(cell)) for cell in cells]


def test_draft_and_final_of_a_cell_stand_under_the_names_of_their_qualities():
    found = page(rows_in("draft", "final"))
    assert (found["across"], found["down"]) == ("motion_bucket_id", ["quality"])
    assert list(found["images"][0]["cells"]) == [("draft",), ("final",)]


def test_an_approximation_that_is_swept_is_an_axis_of_its_own():
    cells = expand(make_cell(), {"deep_cache_interval": [1, 2, 3]})
    found = page([row_of(**cell_values(cell), quality=quality_of(cell)) for cell in cells])
    assert (found["across"], found["across_values"]) == ("deep_cache_interval", [1, 2, 3])


def test_a_swept_sampler_is_an_axis_of_words():
    cells = expand(make_cell(num_inference_steps=10), {"sampler": ["euler", "ays10"]})
    assert page([row_of(**cell_values(cell)) for cell in cells])["across_values"] == ["ays10", "euler"]


def test_what_is_not_approximated_is_not_told():
    assert not set(EXACT) & set(page(rows_in("final"))["constant"])
    assert page(rows_in("draft"))["constant"]["deep_cache_interval"] == 2


def test_a_table_of_before_there_were_approximations_still_makes_a_page(tmp_path: Path):
    store = make_output(tmp_path / "out")
    table = pq.read_table(store.metadata).drop_columns([*EXACT, "quality", "approximations"])
    pq.write_table(table, store.metadata)
    assert write_report(store.root).is_file()
