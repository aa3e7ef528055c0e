"""Output folders to one page: what is in the file. tests/test_report_browser.py has what it does."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import (
    CELL,
    cell_values,
    commit_video,
    make_cell,
    make_failure,
    make_output,
    make_record,
    make_store,
    run_python,
)

from svd_batch import cli as command_line
from svd_batch import dataset, report
from svd_batch.analysis import analyse
from svd_batch.config import Codec, VideoConfig
from svd_batch.errors import UserError
from svd_batch.quality import in_quality, quality_of
from svd_batch.records import EXACT, flat
from svd_batch.report import write_report
from svd_batch.report.axes import constants, varying_axes
from svd_batch.report.folders import Sweep, read_sweep
from svd_batch.report.html import script_json
from svd_batch.report.selection import select
from svd_batch.store import Store
from svd_batch.sweep import expand

GRID = [make_cell(motion_bucket_id=m, noise_aug_strength=n) for m in (20, 127, 240) for n in (0.02, 0.1)]
HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>"


def row_of(image_id: str = "cat", **changes: Any) -> dict[str, Any]:
    """Return a row of metadata.parquet."""
    return flat(make_record(image_id=image_id, **changes))


def sweep_of(rows: list[dict[str, Any]]) -> Sweep:
    """Return the videos of a folder that need not exist."""
    return Sweep((), pa.Table.from_pylist([{**row, "output": "out"} for row in rows]))


def sweep_over(cells: Any, image_ids: Any = ("cat",)) -> Sweep:
    """Return a video for each image and cell."""
    return sweep_of([row_of(image_id, **cell_values(cell)) for image_id in image_ids for cell in cells])


def names(sweep: Sweep) -> list[str]:
    """Return the axes' names in the page's order."""
    return [axis.name for axis in varying_axes(sweep)]


class Tags(HTMLParser):
    """What a page holds: tags with their attributes, and text outside styles and scripts."""

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
        self.text += data if self.tags and self.tags[-1][0] not in ("script", "style") else ""


def data_of(path: Path) -> dict[str, Any]:
    """Return what the page's scripts read."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


# --- axes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("motion", "noise", "expected"),
    [
        ([20, 127, 240], [0.02, 0.1], ["motion_bucket_id", "noise_aug_strength"]),
        ([20, 127], [0.02, 0.1, 0.3], ["noise_aug_strength", "motion_bucket_id"]),
        ([20, 127], [0.02, 0.1], ["motion_bucket_id", "noise_aug_strength"]),
        ([20], [0.02, 0.1], ["noise_aug_strength"]),
        ([20], [0.02], []),
    ],
)
def test_the_axis_with_most_values_comes_first(motion: Any, noise: Any, expected: list[str]):
    sweep = sweep_over(expand(make_cell(), {"motion_bucket_id": motion, "noise_aug_strength": noise}))
    assert names(sweep) == expected


def test_parameters_that_change_together_are_one_axis():
    cells = [make_cell(motion_bucket_id=m, noise_aug_strength=n) for m, n in ((20, 0.3), (127, 0.1), (240, 0.02))]
    (axis,) = varying_axes(sweep_over(cells))
    assert (axis.label, axis.values) == ("motion_bucket_id (noise_aug_strength)", (20, 127, 240))
    assert axis.also == {"noise_aug_strength": (0.3, 0.1, 0.02)}


def test_what_is_the_same_for_all_is_told_once():
    sweep = sweep_over(GRID)
    found = constants(sweep, varying_axes(sweep))
    assert found["fps"] == 7
    assert not {"motion_bucket_id", "noise_aug_strength"} & set(found)


def test_replicates_are_an_axis_too():
    assert names(sweep_of([row_of(replicate=r, seed=r) for r in (0, 1)])) == ["replicate"]


def test_no_clip_is_lost_where_two_listed_seeds_share_a_replicate():
    assert names(sweep_of([row_of(video_id="00" * 10, seed=42), row_of(video_id="11" * 10, seed=43)])) == ["seed"]


def sweep_in(*qualities: str) -> Sweep:
    """Return two cells in each quality."""
    cells = [in_quality(make_cell(motion_bucket_id=m), q) for q in qualities for m in (20, 240)]
    return sweep_of([row_of(**cell_values(cell), quality=quality_of(cell)) for cell in cells])


def test_draft_and_final_of_a_cell_stand_under_the_names_of_their_qualities():
    axes = varying_axes(sweep_in("draft", "final"))
    assert [(axis.name, axis.values) for axis in axes] == [
        ("motion_bucket_id", (20, 240)),
        ("quality", ("draft", "final")),
    ]


@pytest.mark.parametrize(("name", "values"), [("deep_cache_interval", [1, 2, 3]), ("sampler", ["ays10", "euler"])])
def test_an_approximation_that_is_swept_is_an_axis_of_its_own(name: str, values: list[Any]):
    cells = expand(make_cell(num_inference_steps=10), {name: values})
    axes = varying_axes(sweep_of([row_of(**cell_values(cell), quality=quality_of(cell)) for cell in cells]))
    assert [(axis.name, list(axis.values)) for axis in axes] == [(name, values)]


def test_what_is_not_approximated_is_not_told():
    final, draft = (constants(sweep, varying_axes(sweep)) for sweep in (sweep_in("final"), sweep_in("draft")))
    assert not set(EXACT) & set(final)
    assert draft["deep_cache_interval"] == 2


# --- which clips ------------------------------------------------------------------------------------------------


def test_all_pictures_are_in_the_grid_where_their_clips_are_few():
    selection = select(sweep_over(GRID, ("owl", "cat")), [])
    assert selection.pictures == ("owl", "cat")
    assert (len(selection.rows), selection.is_sample) == (12, False)


def test_of_too_many_clips_whole_pictures_evenly_over_the_table_are_taken():
    selection = select(sweep_over(GRID, [f"p{i}" for i in range(10)]), [], most=18)
    assert selection.pictures == ("p0", "p3", "p6")
    assert (len(selection.rows), selection.num_in_grid, selection.is_sample) == (18, 3, True)


def test_a_clip_that_stands_out_is_in_the_page_though_its_picture_is_not_in_the_grid():
    selection = select(sweep_over(GRID, [f"p{i}" for i in range(10)]), [6, 0], most=18)
    assert selection.pictures == ("p0", "p3", "p6", "p1")
    assert (selection.rows[-1], selection.picture[-1], selection.num_in_grid) == (6, 3, 3)


# --- the file ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a finished folder with two failures and ids and captions that look like HTML; not to be changed."""
    root = tmp_path_factory.mktemp("made") / "output"
    carried = {"caption": [HOSTILE, 'a "dog" & more']}
    store = make_output(root, image_ids=["<b>cat</b>", "dog"], cells=GRID[:2], carried=carried)
    store.record_failure(make_failure("owl", error_message="no <such> file"))
    store.record_failure(make_failure("dog", video_id="ab" * 10, stage="generate", error_type="RuntimeError"))
    dataset.compact(store)
    write_report(root)
    return store


def test_the_page_has_every_clip(output: Store):
    data = data_of(output.root / "report.html")
    assert sorted(data["video_id"]) == sorted(record.video_id for record in output.records())
    assert (data["missing"], data["file"]) == ([], {})


def test_the_page_lists_every_failure_with_its_reason(output: Store):
    text = Tags(output.root / "report.html").text
    assert "2 failures" in text
    assert "ItemError: no <such> file" in text
    assert "RuntimeError: no such file" in text


def test_captions_and_ids_make_no_tags_whatever_they_look_like(output: Store):
    found = Tags(output.root / "report.html")
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert not {"b", "img"} & {tag for tag, a in found.tags if not a} - {"b"}
    assert HOSTILE not in (output.root / "report.html").read_text()


def test_captions_and_ids_arrive_as_they_are(output: Store):
    pictures = data_of(output.root / "report.html")["pictures"]
    assert pictures["id"] == ["<b>cat</b>", "dog"]
    assert pictures["caption"] == [HOSTILE, 'a "dog" & more']


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "\ud800"])
def test_json_in_the_page_can_neither_begin_nor_end_a_tag(text: str):
    written = str(script_json({text: [text]}))
    assert not re.search("[<>&\u2028]", written)
    assert json.loads(written) == {text.replace("\ud800", "?"): [text.replace("\ud800", "?")]}


def test_the_page_names_no_network_and_allows_no_script_but_its_own(output: Store):
    text = (output.root / "report.html").read_text()
    policy = next(a["content"] for tag, a in Tags(output.root / "report.html").tags if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not re.search("unsafe|http:|https:|\\*", policy)
    assert not re.search(r"(src|href)=.?https?:", text)


@pytest.mark.parametrize("codec", [Codec.gif, Codec.webp, Codec.ffv1])
def test_any_codec_makes_a_page(tmp_path: Path, codec: Codec):
    quality = 8.5 if codec is Codec.webp else None
    store = make_output(tmp_path / "output", config=VideoConfig(codec, quality, None, False))
    data = data_of(write_report(store.root))
    assert data["suffix"] == {"same": {Codec.gif: "gif", Codec.webp: "webp", Codec.ffv1: "mkv"}[codec]}


def test_a_clip_whose_file_is_gone_is_told(output: Store, tmp_path: Path):
    store = make_output(tmp_path / "output", image_ids=["cat"], cells=GRID[:2])
    records = list(store.records())
    (store.root / records[1].file_name).unlink()
    data = data_of(write_report(store.root))
    assert [data["video_id"][i] for i in data["missing"]] == [records[1].video_id]
    assert "The file of 1 clip is missing." in Tags(store.root / "report.html").text


def test_a_run_without_a_single_video_has_a_report_of_its_failures(tmp_path: Path):
    store = make_store(tmp_path / "output")
    dataset.save_images(store, pa.table({"image_id": ["owl"]}))
    store.record_failure(make_failure("owl"))
    dataset.compact(store)
    text = Tags(write_report(store.root)).text
    assert "no such file" in text
    assert "No video was made" in text


def test_writing_the_report_again_replaces_it_and_leaves_nothing_beside(tmp_path: Path):
    store = make_output(tmp_path / "output")
    first = write_report(store.root).read_text()
    assert write_report(store.root).read_text() == first
    assert list(store.temporary_dir.iterdir()) == []


def test_a_folder_without_a_table_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"^report: .* has no metadata\.parquet"):
        write_report(tmp_path)


def test_a_table_of_something_else_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="has no column file_name"):
        write_report(tmp_path)


def test_a_run_that_was_killed_before_its_table_has_a_page_of_its_records(tmp_path: Path):
    store = make_store(tmp_path / "output")
    commit_video(store, "cat")
    assert data_of(write_report(store.root))["num"] == 1
    assert not store.metadata.exists()


def test_writing_a_report_loads_neither_torch_nor_ray(tmp_path: Path):
    store = make_output(tmp_path / "output")
    code = (
        "import sys; from pathlib import Path; from svd_batch.report import write_report;"
        "write_report(Path(sys.argv[1])); print(sorted({'torch', 'ray', 'diffusers', 'hydra'} & set(sys.modules)))"
    )
    assert run_python(code, str(store.root)).stdout == "[]\n"


def test_a_table_of_before_there_were_approximations_still_makes_a_page(tmp_path: Path):
    store = make_output(tmp_path / "out")
    table = pq.read_table(store.metadata).drop_columns([*EXACT, "quality", "approximations"])
    pq.write_table(table, store.metadata)
    assert write_report(store.root).is_file()


def test_a_damaged_table_is_refused_in_a_sentence(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    store.metadata.write_bytes(store.metadata.read_bytes()[:50])
    with pytest.raises(UserError, match="is damaged"):
        write_report(store.root)


# --- several folders --------------------------------------------------------------------------------------------


def test_the_folder_is_one_more_axis(tmp_path: Path):
    roots = [make_output(tmp_path / name, image_ids=["cat"], cells=GRID[:2]).root for name in ("a", "b")]
    axes = {axis.name: axis.values for axis in varying_axes(read_sweep(roots))}
    assert axes == {"noise_aug_strength": (0.02, 0.1), "output": ("a", "b")}


def test_what_differs_with_the_folder_alone_is_no_axis_of_its_own(tmp_path: Path):
    steps = {"a": 25, "b": 6, "c": 6}
    cells = {name: [dataclasses.replace(cell, num_inference_steps=n) for cell in GRID[:2]] for name, n in steps.items()}
    roots = [make_output(tmp_path / name, image_ids=["cat"], cells=cells[name]).root for name in steps]
    page = write_report(roots)
    output, noise = data_of(page)["axes"]
    assert (output["name"], output["label"]) == ("output", "output (num_inference_steps)")
    assert output["texts"] == ["a (25)", "b (6)", "c (6)"]
    assert noise["name"] == "noise_aug_strength"
    assert "3 folders (num_inference_steps) × 2 values of noise_aug_strength" in Tags(page).text


def test_folders_of_the_same_name_are_told_apart_by_their_parents(tmp_path: Path):
    roots = [make_output(tmp_path / name / "out", image_ids=["cat"]).root for name in ("a", "b")]
    assert [folder.name for folder in read_sweep(roots).folders] == ["a/out", "b/out"]


def test_a_carried_column_may_have_another_type_in_each_folder(tmp_path: Path):
    values: list[list[Any]] = [["x"], [1]]
    roots = [
        make_output(tmp_path / f"{i}", image_ids=["cat"], carried={"label": value}).root
        for i, value in enumerate(values)
    ]
    assert read_sweep(roots).values("label") == ["x", "1"]


def test_clips_of_other_folders_are_linked_relatively_and_percent_encoded(tmp_path: Path):
    roots = [make_output(tmp_path / name, image_ids=["cat"]).root for name in ("one", "50% #2 of ä?")]
    folders = data_of(write_report(roots))["folders"]
    assert [folder["href"] for folder in folders] == ["", "../50%25%20%232%20of%20%C3%A4%3F/"]


def test_the_page_may_stand_elsewhere(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    path = write_report(store.root, tmp_path / "page" / "all.html")
    assert path.is_file()
    assert data_of(path)["folders"][0]["href"] == "../out/"


def test_one_folder_given_twice_is_refused(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    with pytest.raises(UserError, match="is given twice"):
        write_report([store.root, tmp_path / "." / "out"])


# --- embedding, watching, the command line ----------------------------------------------------------------------------


def test_embedded_clips_are_the_files(tmp_path: Path):
    import base64

    store = make_output(tmp_path / "out", image_ids=["cat"], cells=[CELL])
    data = data_of(write_report(store.root, embed=True))
    (record,) = store.records()
    kind, _, encoded = data["embedded"]["0"].partition(",")
    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(encoded) == (store.root / record.file_name).read_bytes()


def test_a_page_too_large_for_a_mail_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    monkeypatch.setattr(command_line, "_MAILABLE_BYTES", 1000)
    assert command_line.main(["report", str(store.root), "--embed"]) == 0
    assert "many mail servers take no more than 25" in capsys.readouterr().err


def test_a_live_page_shows_what_is_committed_and_leaves_the_tables_alone(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    before = store.metadata.read_bytes()
    commit_video(store, "owl")
    data = data_of(write_report(store.root, live=True, refresh_s=5))
    assert (data["num"], data["refreshS"]) == (2, 5)
    assert store.metadata.read_bytes() == before


def test_watching_a_finished_run_writes_the_page_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    assert command_line.main(["report", str(store.root), "--watch"]) == 0
    assert data_of(store.root / "report.html")["refreshS"] is None


def test_report_md_is_written_from_the_analysis_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    calls: list[int] = []
    monkeypatch.setattr(report, "analyse", lambda videos: calls.append(len(videos)) or analyse(videos))
    assert command_line.main(["report", str(store.root), "--markdown"]) == 0
    assert calls == [1]
    path = store.root / "report/report.md"
    assert path.is_file()
    assert str(path) in capsys.readouterr().out


def test_a_folder_without_a_video_has_a_page_and_a_report_md_that_say_so(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    pq.write_table(pq.read_table(store.metadata).slice(0, 0), store.metadata)
    assert "No video was made" in Tags(write_report(store.root, markdown=True)).text
    assert "No video was made" in (store.root / "report/report.md").read_text()


def test_a_folder_that_is_no_output_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command_line.main(["report", str(tmp_path)]) == 2
    assert "has no metadata.parquet" in capsys.readouterr().err


def test_a_file_where_a_folder_belongs_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    (store.root / "report").write_text("mine")
    assert command_line.main(["report", str(store.root), "--markdown"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {store.root / 'report'}")
    assert error.endswith("move it away, or give another place\n")
