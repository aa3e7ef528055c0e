"""Contact sheets and report.md: what is written beside the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import make_cell, make_output
from PIL import Image
from sweep_tables import sweep, sweep_table, write_output

from svd_batch.analysis import analyse, videos_of
from svd_batch.cli import main
from svd_batch.report.contact import GIF_PX, MOST_STEPS, SHEET_PX, file_names, write_contact_sheets
from svd_batch.report.markdown import plain, write_markdown

CELLS = [make_cell(motion_bucket_id=m, noise_aug_strength=n) for m in (20, 127, 240) for n in (0.02, 0.1)]


def test_a_sheet_shows_a_picture_s_whole_grid_still_and_playing(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=("cat",), cells=CELLS)
    (path,) = write_contact_sheets(store.root, tmp_path / "contact")
    still, moving = Image.open(path), Image.open(path.with_suffix(".gif"))
    assert path.name == "cat.png"
    assert still.width > 3 * 3 * 48  # three frames of each of three columns
    assert moving.n_frames == 4
    assert all(
        a <= b
        for size, most in ((still.size, SHEET_PX), (moving.size, GIF_PX))
        for a, b in zip(size, most, strict=True)
    )


def test_a_clip_that_is_gone_leaves_its_tile_empty_and_the_rest_is_shown(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=("cat",), cells=CELLS[:2])
    next((store.root / "videos").rglob("*.mp4")).unlink()
    assert len(list(write_contact_sheets(store.root, tmp_path / "contact"))) == 1


def test_a_long_axis_shows_some_of_its_steps_within_the_same_bounds(tmp_path: Path):
    axes = {"motion_bucket_id": list(range(1, 101)), "fps": [5, 6]}
    table = sweep_table(axes, pictures=1, metrics={})
    root = write_output(tmp_path / "out", table)
    (path,) = write_contact_sheets(root, tmp_path / "contact")
    assert Image.open(path).width <= SHEET_PX[0]
    assert MOST_STEPS < 100


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b", "", "con", "<b>", ".hidden", "x" * 300, "ü\n\0", "\ud800", "end."]
)
def test_an_odd_id_makes_a_file_name_that_is_safe_anywhere(name: str):
    (found,) = file_names([name])
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}", found)
    assert found.lower() != "con"


def test_file_names_stay_apart_where_case_does_not_count_and_plain_ones_are_kept():
    assert file_names(["cat", "dog.2"]) == ["cat", "dog.2"]
    assert len({name.casefold() for name in file_names(["Cat", "cat", "a/b", "a b"])}) == 4


def test_report_md_has_the_sentences_the_tables_and_every_plot_it_links(tmp_path: Path):
    metrics = {
        "motion": lambda row: row["motion_bucket_id"] / 100 + row["picture"] / 50,
        "likeness": lambda row: row["fps"] / 9,
    }
    analysis = analyse(sweep({"motion_bucket_id": [20, 127, 240], "fps": [6, 7]}, metrics=metrics))
    text = write_markdown(analysis, tmp_path).read_text()
    assert "- Motion rises from 0.3 to 2.5 px a frame between motion_bucket_id 20 and 240 (change" in text
    assert re.search(r"^\| motion \| \d+ % \|", text, re.MULTILINE)
    linked = re.findall(r'src="([^"]*)"', text)
    assert len(linked) == 1 + 2 * 3
    assert all((tmp_path / name).is_file() and (tmp_path / name).with_suffix(".svg").is_file() for name in linked)


def test_report_md_of_a_hostile_folder_name_is_text(tmp_path: Path):
    table = sweep_table({"fps": [6, 7]}, metrics={})
    text = write_markdown(analyse(videos_of({"<script>|`x`\n# no": table})), tmp_path).read_text()
    assert text.startswith("# &lt;script&gt;\\|\\`x\\` # no\n")
    assert plain("[a](b)") == "\\[a\\](b)"
    assert "svd-batch score OUTPUT" in text


def test_the_verb_report_writes_both_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = make_output(tmp_path / "out", image_ids=("cat",), cells=CELLS[:1])
    assert main(["report", str(store.root), "--markdown", "--contact-sheets"]) == 0
    assert (store.root / "report/report.md").is_file()
    assert (store.root / "report/contact/cat.gif").is_file()
    assert "1 contact sheets" in capsys.readouterr().out
