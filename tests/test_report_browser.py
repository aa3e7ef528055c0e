"""The report in a real browser, from file://, offline. Each module's pages share one browser."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Opened, open_browser, open_file
from builders import (
    cell_values,
    commit_video,
    encode,
    make_cell,
    make_failure,
    make_frames,
    make_output,
    make_record,
    make_store,
    picture_bytes,
    write_parquet,
)
from PIL import Image

from svd_batch import dataset, ids, show
from svd_batch.analysis import Bound, Target, read_videos, recommend
from svd_batch.config import Codec, VideoConfig
from svd_batch.records import SweepCell, VideoRecord
from svd_batch.report import write_report
from svd_batch.store import Store
from svd_batch.video import write_video

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MOTION, NOISE, STEPS = (20, 127, 240), (0.02, 0.1), (10, 25)
GRID = [
    make_cell(motion_bucket_id=m, noise_aug_strength=n, num_inference_steps=s)
    for m in MOTION
    for n in NOISE
    for s in STEPS
]
HOSTILE = "</script><script>window.hit = 1</script><!--<img src=x onerror='window.hit = 2'>"
NUM_FRAMES = 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of all tests here."""
    with open_browser() as opened:
        yield opened


def with_metrics(store: Store) -> None:
    """Add metrics to the table: motion grows with its bucket and likeness falls; one clip isn't measured."""
    table = pq.read_table(store.metadata)
    bucket = np.array(table["motion_bucket_id"].to_pylist())
    noise = np.array(table["noise_aug_strength"].to_pylist())
    motion: list[Any] = (bucket / 100 + noise).tolist()
    motion[-1] = None
    likeness = (1 - bucket / 300).tolist()
    columns = {"motion": motion, "likeness": likeness, "is_frozen": (bucket == 20).tolist(), "sharpness": likeness}
    columns["brightness_drift"] = (-bucket / 100).tolist()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, store.metadata)


def remember_pictures(store: Store) -> dict[str, str]:
    """Write a manifest of a transparent picture and an embedded one into run.json; return their SHA-256."""
    clear = picture_bytes("PNG", seed=1)
    rgba = Image.open(io.BytesIO(clear)).convert("RGBA")
    rgba.putalpha(100)
    pictures = {"<b>cat</b>": encode(rgba), "dog": picture_bytes("JPEG")}
    (store.root / "cat's.png").write_bytes(pictures["<b>cat</b>"])
    columns = {"image_id": list(pictures), "image_path": ["cat's.png", None], "image_bytes": [None, pictures["dog"]]}
    manifest = write_parquet(store.root / "m.parquet", columns)
    settings = {"fit": "pad", "video.codec": "h264", "model.variant": None, "model.id": "pocket", "seed": 3}
    store.write_run({"format": 1, "settings": settings, "runs": [], "manifest": [str(manifest)]})
    return {image_id: hashlib.sha256(data).hexdigest() for image_id, data in pictures.items()}


def commit_copy(store: Store, image_id: str, cell: SweepCell, clip: bytes, sha256: str) -> VideoRecord:
    """Commit a video whose file is made already."""
    video_id = ids.video_id(image_id, cell, 11, {})
    temporary = store.temporary("mp4")
    temporary.write_bytes(clip)
    path = "https://example.org/dog.jpg" if image_id == "dog" else "cat's.png"
    values = {**cell_values(cell), "num_frames": NUM_FRAMES, "image_sha256": sha256, "image_path": path}
    record = make_record(video_id, image_id, **values)
    store.place(temporary, record.file_name)
    store.commit(record)
    return record


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A folder of two pictures with hostile words and 12 cells each: one missing, one without file and motion."""
    store = make_store(tmp_path_factory.mktemp("it's 50% #1") / "out")
    write_video(store.temporary_dir / "clip.mp4", make_frames(NUM_FRAMES), 7, VideoConfig())
    clip = (store.temporary_dir / "clip.mp4").read_bytes()
    sha256 = remember_pictures(store)
    for image_id in ("<b>cat</b>", "dog"):
        for cell in GRID[:-1] if image_id == "dog" else GRID:
            record = commit_copy(store, image_id, cell, clip, sha256[image_id])
    (store.root / record.file_name).unlink()
    store.record_failure(
        make_failure("dog", video_id="ab" * 10, stage="generate", error_message="out <i>of</i> memory")
    )
    captions = {"caption": [HOSTILE, "a dog in the snow"]}
    dataset.save_images(store, pa.table({"image_id": ["<b>cat</b>", "dog"], **captions}))
    dataset.compact(store)
    with_metrics(store)
    write_report(store.root)
    return store


@pytest.fixture(scope="module")
def shared(browser: Browser, output: Store) -> Opened:
    """The page of `output`, opened once, as tests leave it."""
    opened = open_file(browser, output.root / "report.html")
    opened.page.wait_for_selector("#canvas video")
    return opened


RESET = """() => {
    document.querySelectorAll("dialog[open]").forEach(dialog => dialog.close());
    const set = (id, value, kind) => {
        const field = document.querySelector(id);
        if (field.value === value || field.disabled) return;
        field.value = value;
        field.dispatchEvent(new Event(kind));
    };
    if (!document.querySelector("#clear").hidden) document.querySelector("#clear").click();
    if (!document.querySelector("#marked").hidden) document.querySelector("#unmark").click();
    set("#layout", "pictures", "change");
    set("#x", "motion_bucket_id", "change");
    set("#y", "noise_aug_strength", "change");
    set("#order", "high", "change");
    set("#sort", "", "change");
    set("#aim", "near", "change");
    document.querySelectorAll("#bounds .remove").forEach(() => document.querySelector("#bounds .remove").click());
    set("#sliders input", "0", "input");
    const play = document.querySelector("#clips .play");
    if (play.ariaLabel === "Pause") play.click();
    document.querySelector("#filters").open = false;
    document.activeElement.blur();
}"""


@pytest.fixture
def page(shared: Opened) -> Opened:
    """The same page with everything back where it began: nothing open, nothing filtered, paused."""
    shared.page.evaluate(RESET)
    return shared


def cells(page: Opened) -> int:
    """Return how many clips the grid shows."""
    return page.count("#canvas .cell:not(.hole)")


def settled(page: Opened, num: int, selector: str = "#canvas video") -> None:
    """Wait until so many videos are loaded and none is on its way to another frame."""
    code = "([s, n]) => [...document.querySelectorAll(s)].filter(v => v.readyState >= 2 && !v.seeking).length >= n"
    page.until(code, [selector, num])


def show_frames(page: Opened, num: int, frames: list[int]) -> None:
    """Wait until so many videos are loaded and at rest, and stand at these frames, counted from 0, of 7 a second."""
    code = """([n, frames]) => {
        const videos = [...document.querySelectorAll("#canvas video")].filter(v => v.readyState >= 2 && !v.seeking);
        const shown = new Set(videos.map(v => Math.floor(v.currentTime * 7)));
        return videos.length >= n && JSON.stringify([...shown].sort((a, b) => a - b)) === JSON.stringify(frames);
    }"""
    page.until(code, [num, frames])


# --- playing ----------------------------------------------------------------------------------------------------


def test_all_clips_near_the_screen_play(page: Opened) -> None:
    page.page.click("#clips .play")
    page.until("() => [...document.querySelectorAll('#canvas video')].filter(v => v.currentTime > 0.1).length >= 6")


def test_playing_clips_stay_within_one_frame_of_each_other(page: Opened) -> None:
    settled(page, 6)
    page.page.click("#clips .play")
    page.page.wait_for_timeout(700)
    apart = []
    for _ in range(8):
        shares = [video["share"] for video in page.videos("#canvas video") if not video["paused"]]
        assert len(shares) >= 6
        apart.append((max(shares) - min(shares)) * NUM_FRAMES)
        page.page.wait_for_timeout(100)
    assert sorted(apart)[len(apart) // 2] < 1, apart  # the others may have been caught at the loop's end


def test_a_scrubbed_frame_is_the_same_in_all_clips(page: Opened) -> None:
    page.page.locator("#clips .scrub").fill("7")
    show_frames(page, 6, [7])
    assert page.text("#clips .frame-number") == "8 / 12"


def test_a_step_goes_one_frame_on(page: Opened) -> None:
    page.page.locator("#clips .scrub").fill("7")
    page.page.click("#clips .forth")
    show_frames(page, 6, [8])


def test_clips_of_other_lengths_end_together(browser: Browser, tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    for motion, num_frames in ((20, 6), (127, 12)):
        commit_video(store, cell=make_cell(motion_bucket_id=motion), frames=make_frames(num_frames))
    dataset.compact(store)
    opened = open_file(browser, write_report(store.root), "play=0")
    opened.page.locator("#clips .scrub").fill("11")
    show_frames(opened, 2, [5, 11])
    assert opened.page.locator("#sync-note").is_visible()
    opened.page.close()


# --- what is shown ------------------------------------------------------------------------------------------------


def test_the_grid_has_a_row_for_each_value_of_the_second_axis_and_a_slider_for_the_third(page: Opened) -> None:
    assert page.page.locator("#heads .column-label").all_inner_texts() == ["20", "127", "240"]
    assert page.page.locator("#canvas .line-label").all_inner_texts() == ["0.02", "0.1"] * 2
    assert page.page.locator("#sliders input").get_attribute("data-axis") == "num_inference_steps"


def test_a_slider_shows_the_cells_of_its_value(page: Opened) -> None:
    assert (cells(page), page.count("#canvas .hole")) == (12, 0)
    page.page.locator("#sliders input").fill("1")
    assert (cells(page), page.count("#canvas .hole")) == (11, 1)  # one failed


def test_other_axes_can_go_across(page: Opened) -> None:
    page.page.select_option("#x", "num_inference_steps")
    assert page.page.locator("#heads .column-label").all_inner_texts() == ["10", "25"]


def test_choosing_the_axis_that_goes_down_exchanges_the_two(page: Opened) -> None:
    page.page.select_option("#x", "noise_aug_strength")
    assert page.page.input_value("#y") == "motion_bucket_id"


def test_a_clip_without_its_file_says_so(page: Opened) -> None:
    assert "file missing" in page.page.locator("#canvas .clip.none").all_inner_texts()


def test_missing_and_damaged_clips_are_counted_in_the_head_and_can_be_shown_alone(
    browser: Browser, tmp_path: Path
) -> None:
    store = make_output(tmp_path / "out", image_ids=["ant", "bee", "cat", "dog"])
    gone, cut, *_ = (store.root / record.file_name for record in store.records())
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    opened = open_file(browser, write_report(store.root))
    opened.until("() => document.querySelector('#unplayable').textContent")
    assert opened.text("#lacking") == "The file of 1 clip is missing. 1 clip can't be played. Show them"
    opened.page.click("#show-lacking")
    opened.until("() => document.querySelectorAll('#canvas .why').length === 2")
    assert set(opened.page.locator("#canvas .why").all_inner_texts()) == {"file missing", "can't be played"}
    assert (cells(opened), opened.text("#picked")) == (2, "missing or damaged")
    opened.page.close()


def test_failures_and_missing_files_stand_in_the_head_as_sentences(page: Opened) -> None:
    assert page.text("header .lead").endswith(" 1 failure. The file of 1 clip is missing. Show it")


def test_where_every_clip_plays_the_head_says_nothing_of_files(browser: Browser, tmp_path: Path) -> None:
    opened = open_file(browser, write_report(make_output(tmp_path / "out", image_ids=["ant"]).root))
    opened.until("() => document.querySelector('#canvas video')?.readyState >= 2")
    assert not opened.page.locator("#lacking").is_visible()
    opened.page.close()


def test_a_value_that_is_filtered_out_leaves_the_grid(page: Opened) -> None:
    page.page.click("#filters summary")
    page.page.locator("#values input[data-axis=motion_bucket_id]").first.click()
    assert page.page.locator("#heads .column-label").all_inner_texts() == ["127", "240"]
    assert page.text("#count").startswith("15 of 23")


def test_words_find_pictures(page: Opened) -> None:
    page.page.fill("#query", "SNOW dog")
    page.until("() => document.querySelectorAll('.row.head').length == 1")
    assert page.text(".row.head b") == "dog"


def test_a_metric_range_keeps_the_clips_in_it_and_drops_the_unmeasured(page: Opened) -> None:
    page.page.click("#filters summary")
    page.page.select_option("#range-of", "motion")
    page.page.fill("#range-low", "2")
    page.page.press("#range-low", "Enter")
    assert page.text("#count").startswith("6 of 23")


def test_all_clips_can_stand_in_the_order_of_a_metric(page: Opened) -> None:
    page.page.select_option("#layout", "clips")
    page.page.select_option("#sort", "motion")
    shown = [float(text) for text in page.page.locator("#canvas .value-strip span").all_inner_texts()[:6]]
    assert shown == sorted(shown, reverse=True)


def test_the_number_below_a_clip_is_what_clips_are_sorted_by(page: Opened) -> None:
    page.page.select_option("#layout", "clips")
    page.page.select_option("#sort", "likeness")
    shown = [float(text) for text in page.page.locator("#canvas .value-strip span").all_inner_texts()[:12]]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == pytest.approx(1 - 20 / 300, abs=0.001)
    assert "motion" in str(page.page.locator("#canvas .value-strip").first.get_attribute("title"))


def test_pictures_can_stand_in_the_order_of_a_metric(page: Opened) -> None:
    page.page.select_option("#sort", "motion")
    assert page.page.locator(".row.head b").all_inner_texts() == ["<b>cat</b>", "dog"]
    page.page.select_option("#order", "low")
    assert page.page.locator(".row.head b").all_inner_texts() == ["dog", "<b>cat</b>"]


def test_the_pointer_over_a_clip_shows_its_parameters_and_metrics(page: Opened) -> None:
    page.page.hover("#canvas .cell >> nth=1")
    page.page.wait_for_selector("#card:not([hidden])")
    assert "motion_bucket_id\t127" in page.text("#card")
    assert "likeness\t0" in page.text("#card")
    assert page.page.eval_on_selector("#card", "card => card.scrollWidth <= card.clientWidth")
    page.page.mouse.move(5, 5)


# --- windows ------------------------------------------------------------------------------------------------------


def test_a_click_shows_a_clip_large_with_its_row(page: Opened) -> None:
    page.page.click("#canvas .cell >> nth=1")
    settled(page, 1, "#large video")
    assert page.text("#large-title") == "<b>cat</b>"
    assert page.text("#large-caption") == HOSTILE
    assert "1.29\u00a0px a frame" in page.text("#large-metrics")


@pytest.mark.parametrize("number", [0, 4, 9])
def test_command_and_script_of_a_clip_are_those_that_show_prints(page: Opened, output: Store, number: int) -> None:
    page.page.click(f"#canvas .cell >> nth={number}")
    shown = show.find(output.root, page.text("#large-file"))
    assert page.page.text_content("#large-command") == show.command(shown)
    assert ("allow_urls=true" in show.command(shown)) == (shown.record.image_id == "dog")
    assert page.page.text_content("#large-script") == show.script(shown)


def test_arrows_in_the_large_view_go_to_the_next_cell(page: Opened) -> None:
    page.page.click("#canvas .cell >> nth=0")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowDown")
    assert page.page.locator("#large-axes b").all_inner_texts() == ["127", "0.1", "10"]


def test_two_marked_clips_are_compared_in_step(page: Opened) -> None:
    page.page.focus("#canvas .cell >> nth=0")
    for key in ("c", "ArrowRight", "ArrowDown", "c"):
        page.page.keyboard.press(key)
    settled(page, 2, "#compare video")
    page.page.keyboard.press(".")
    page.until("""() => {
        const [a, b] = [...document.querySelectorAll("#compare video")];
        return a.currentTime > 0 && a.currentTime === b.currentTime && !a.seeking && !b.seeking;
    }""")
    assert page.page.locator("#side-1 select").evaluate_all("s => s.map(s => s.selectedOptions[0].text)") == [
        "<b>cat</b>", "127", "0.1", "10"
    ]  # fmt: skip


def test_on_a_phone_what_is_chosen_for_two_clips_stands_beside_each_other(page: Opened) -> None:
    page.page.set_viewport_size({"width": 390, "height": 800})
    page.page.focus("#canvas .cell >> nth=0")
    for key in ("c", "ArrowRight", "c"):
        page.page.keyboard.press(key)
    left, right = (page.page.locator(f"#side-{side} :is(span, select)") for side in (0, 1))
    edge = "(all, edge) => all.map(e => e.getBoundingClientRect()[edge])"
    assert max(left.evaluate_all(edge, "right")) <= min(right.evaluate_all(edge, "left"))
    assert page.page.eval_on_selector("#compare", "e => e.scrollWidth <= e.clientWidth")
    assert page.page.eval_on_selector("#compare h2", "e => e.getClientRects().length && e.scrollWidth > 60")
    page.page.set_viewport_size({"width": 1280, "height": 800})


def test_a_clip_that_is_marked_stays_as_large_as_it_was(page: Opened) -> None:
    page.page.focus("#canvas .cell >> nth=0")
    box = "e => { const { width, height } = e.getBoundingClientRect(); return [width, height]; }"
    before = page.page.eval_on_selector("#canvas .clip", box)
    page.page.keyboard.press("c")
    assert page.count("#canvas .cell.marked") == 1
    assert page.page.eval_on_selector("#canvas .cell.marked .clip", box) == before


def test_the_divider_uncovers_one_of_two_clips(page: Opened) -> None:
    page.page.focus("#canvas .cell >> nth=0")
    for key in ("c", "ArrowRight", "c"):
        page.page.keyboard.press(key)
    page.page.check("#swipe")
    page.page.locator("#divider").fill("25")
    assert page.page.eval_on_selector("#compare .clip", "e => getComputedStyle(e).clipPath") == "inset(0px 75% 0px 0px)"
    page.page.check("#beside")


# --- the lookup ---------------------------------------------------------------------------------------------------


def test_the_lookup_names_the_nearest_cell_that_was_made(page: Opened) -> None:
    page.page.eval_on_selector("#target", "e => { e.value = 1.36; e.dispatchEvent(new Event('input')); }")
    assert "motion_bucket_id 127, noise_aug_strength 0.1" in page.text("#lookup-all")
    assert "median over 2 pictures" in page.text("#lookup-all")


def set_bounds(page: Opened, bounds: list[tuple[str, str, float]]) -> None:
    """Have the lookup keep these bounds alone, by its own controls."""
    while page.count("#bounds .remove"):
        page.page.locator("#bounds .remove").first.click()
    for i, (metric, side, value) in enumerate(bounds):
        page.page.click("#add-bound")
        page.page.locator("#bounds .of").nth(i).select_option(metric)
        page.page.locator("#bounds .side").nth(i).select_option(side)
        page.page.locator("#bounds input[type=number]").nth(i).fill(str(value))


def test_a_bound_moves_the_lookup_to_a_cell_that_keeps_it(page: Opened) -> None:
    page.page.eval_on_selector("#target", "e => { e.value = 2.4; e.dispatchEvent(new Event('input')); }")
    set_bounds(page, [("likeness", "least", 0.5)])
    assert "motion_bucket_id 127, noise_aug_strength 0.1" in page.text("#lookup-all")
    assert "(medians over 2 pictures; 2 of them keep likeness ≥ 0.500)" in page.text("#lookup-all")


def test_the_lookup_says_of_all_pictures_that_its_figures_are_of_all(page: Opened) -> None:
    set_bounds(page, [("likeness", "least", 0.99)])
    assert "(medians over 2 pictures; 0 of them keep likeness ≥ 0.990)" in page.text("#lookup-all")


@pytest.mark.parametrize("target", ["1.5", "most", "least"])
@pytest.mark.parametrize(
    "bounds",
    [
        [],
        [("likeness", "least", 0.5)],
        [("likeness", "least", 0.3), ("likeness", "most", 0.7)],
        [("likeness", "least", 0.5), ("motion", "most", 1.35), ("generate_s", "most", 5)],
        [("likeness", "least", 0.9), ("motion", "least", 1)],
    ],
)
def test_the_lookup_answers_as_recommend_does(page: Opened, output: Store, target: str, bounds: Any) -> None:
    page.page.select_option("#aim", target if target in ("most", "least") else "near")
    if target == "1.5":
        page.page.fill("#target-number", target)
    set_bounds(page, bounds)
    asked = [Bound(name, **{f"at_{side}": value}) for name, side, value in bounds]
    wanted = target if target in ("most", "least") else float(target)
    expected = recommend(read_videos([output.root]), Target("motion", wanted), asked)  # type: ignore[arg-type]
    fields = page.page.locator("#lookup-others-head th").all_inner_texts()[:3]

    def texts(index: int) -> list[str]:
        return [f"{getattr(expected.cells[index].settings, field):g}" for field in fields]

    named = ", ".join(f"{f} {v}" for f, v in zip(fields, texts(expected.best.index), strict=True))
    assert page.text("#lookup-all").startswith(named)
    assert ("No cell keeps" in page.text("#lookup-all")) == (not expected.best.is_met)
    rows = [row.split("\t") for row in page.page.locator("#lookup-others tr").all_inner_texts()]
    assert [row[:3] for row in rows] == [texts(one.index) for one in expected.runners_up]
    each = [row.split("\t") for row in page.page.locator("#lookup-each tr").all_inner_texts()]
    assert {row[0]: row[1:4] for row in each} == {one.image_id: texts(one.index) for one in expected.pictures}


def test_bounds_stay_in_the_address(browser: Browser, output: Store) -> None:
    opened = open_file(
        browser, output.root / "report.html", "play=0&bounds=likeness:most:0.7,motion:least:1,nonsense:x:1"
    )
    assert opened.page.locator("#bounds select").evaluate_all("all => all.map(s => s.value)") == [
        "likeness", "most", "motion", "least"
    ]  # fmt: skip
    assert opened.page.locator("#bounds input[type=number]").first.input_value() == "0.7"
    opened.page.close()


def test_the_lookup_filters_the_grid_to_its_cell(page: Opened) -> None:
    page.page.eval_on_selector("#target", "e => { e.value = 1.36; e.dispatchEvent(new Event('input')); }")
    page.page.click("#pick-all")
    assert cells(page) == 2
    assert page.text("#picked") == "chosen by the lookup"


def test_a_click_on_a_figure_filters_the_grid_to_its_cell(page: Opened) -> None:
    page.page.locator("#answer td[data-cell]").first.click()
    assert page.text("#picked") == "the cell of a figure"
    assert cells(page) == 2


def press(page: Opened, *keys: str) -> dict[str, str]:
    """Press keys; return which cell of a figure is focused then, and what it is called."""
    for key in keys:
        page.page.keyboard.press(key)
    code = "() => ({cell: document.activeElement.dataset.cell ?? '', name: document.activeElement.ariaLabel ?? ''})"
    found: dict[str, str] = page.page.evaluate(code)
    return found


def test_tab_stops_once_at_each_figure_and_arrows_walk_its_cells(page: Opened) -> None:
    stops = """() => [...document.querySelectorAll("#answer :is(table, svg)")].map(figure => [
        figure.querySelectorAll("[data-cell]").length > 0, figure.querySelectorAll("[tabindex='0']").length])"""
    figures = page.page.evaluate(stops)
    assert {(has_cells, num) for has_cells, num in figures} == {(True, 1), (False, 0)}
    page.page.focus("#answer td[data-cell][tabindex='0'] >> nth=0")
    start = press(page, "Home", "ArrowUp")
    assert start["name"].startswith("motion_bucket_id 20, noise_aug_strength 0.02: ")
    assert "px a frame" in start["name"]
    assert json.loads(press(page, "ArrowRight", "ArrowDown")["cell"]) == {
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.1,
    }
    assert json.loads(press(page, "End", "ArrowRight")["cell"])["motion_bucket_id"] == 240  # nothing lies beyond it
    assert page.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.page.evaluate(stops) == figures


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_key_on_a_figure_filters_the_grid_to_its_cell_and_goes_there(page: Opened, key: str) -> None:
    page.page.focus("#answer td[data-cell][tabindex='0'] >> nth=0")
    press(page, "Home", "ArrowRight", key)
    assert page.text("#picked") == "the cell of a figure"
    assert page.page.locator("#heads .column-label").all_inner_texts() == ["127"]
    assert page.page.evaluate("() => document.activeElement.id") == "viewport"
    assert page.count("dialog[open]") == 0
    assert page.page.locator("#clips .play").get_attribute("aria-label") == "Play"


def test_points_of_curves_and_rows_of_the_best_trades_are_reached_by_keys(page: Opened) -> None:
    page.page.focus("#answer .dot[tabindex='0'] >> nth=0")
    assert json.loads(press(page, "Home", "ArrowRight")["cell"]) == {"motion_bucket_id": 127}
    assert page.page.get_by_role("button", name="motion_bucket_id 127: ").count() > 0
    page.page.focus("#answer tr[data-cell][tabindex='0']")
    below = press(page, "ArrowDown")
    assert below["name"].startswith("motion_bucket_id ")
    assert f"motion_bucket_id {json.loads(below['cell'])['motion_bucket_id']}," in below["name"]


def test_a_copy_that_fails_says_so(page: Opened) -> None:
    page.page.click("#canvas .cell >> nth=0")
    page.page.evaluate("navigator.clipboard.writeText = () => Promise.reject(); document.execCommand = () => false")
    page.page.click("#copy-command")
    page.until("() => document.querySelector('#copy-command').textContent === 'Not copied'")
    page.until("() => document.querySelector('#copy-command').textContent === 'Copy'")


# --- keys -----------------------------------------------------------------------------------------------------------


def test_space_plays_and_pauses(page: Opened) -> None:
    page.page.focus("#canvas .cell >> nth=0")
    page.page.keyboard.press(" ")
    assert page.page.locator("#clips .play").get_attribute("aria-label") == "Pause"
    page.page.keyboard.press(" ")
    assert page.page.locator("#clips .play").get_attribute("aria-label") == "Play"


def test_keys_walk_the_grid_and_open_and_close_a_clip(page: Opened) -> None:
    page.page.focus("#canvas .cell >> nth=0")
    for key in ("j", "ArrowRight", "ArrowDown", "Enter"):
        page.page.keyboard.press(key)
    assert (page.text("#large-title"), page.page.locator("#large-axes b").all_inner_texts()) == (
        "dog",
        ["127", "0.1", "10"],
    )
    page.page.keyboard.press("Escape")
    assert page.count("dialog[open]") == 0


def test_a_question_mark_lists_the_keys(page: Opened) -> None:
    page.page.keyboard.press("?")
    assert page.page.locator("#help").is_visible()


def test_letters_typed_into_a_field_are_no_keys(page: Opened) -> None:
    page.page.focus("#query")
    page.page.keyboard.type("c?")
    page.until("() => document.querySelector('#count').textContent.startsWith('0 of')")
    assert page.count("dialog[open]") == 0


# --- the page as a whole ----------------------------------------------------------------------------------------------


def test_captions_and_ids_are_inert(page: Opened) -> None:
    assert page.page.evaluate("window.hit") is None
    assert page.page.locator(".row.head .soft").first.inner_text() == HOSTILE
    assert "out <i>of</i> memory" in page.text("#failures")


def test_frozen_clips_are_listed(page: Opened) -> None:
    assert page.page.locator("#flags h3").all_inner_texts() == ["8 frozen"]


def test_a_reload_keeps_what_was_chosen(browser: Browser, output: Store) -> None:
    opened = open_file(browser, output.root / "report.html", "play=0")
    opened.page.select_option("#x", "num_inference_steps")
    opened.page.fill("#query", "dog")
    opened.until("() => location.hash.includes('q=dog')")
    opened.page.reload()
    opened.page.wait_for_selector("#canvas .cell")
    assert (opened.page.input_value("#x"), opened.page.input_value("#query")) == ("num_inference_steps", "dog")
    assert opened.count(".row.head") == 1
    opened.page.close()


@pytest.mark.parametrize("width", [360, 1920, 2560])
def test_nothing_sticks_out_sideways(page: Opened, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 800})
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    page.page.set_viewport_size({"width": 1280, "height": 800})


@pytest.mark.parametrize("width", [390, 1280])
def test_the_values_of_a_clip_are_not_cut_off_in_the_wall_and_among_what_stands_out(page: Opened, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.evaluate("document.querySelector('#settings').open = true")
    page.page.select_option("#layout", "clips")
    cut = """selector => [...document.querySelectorAll(selector)].map(e => {
        const [inside, row] = [e.querySelector("span"), e.closest(".row")];
        const next = row?.nextElementSibling?.getBoundingClientRect().top ?? Infinity;
        return e.getBoundingClientRect().bottom > next || inside.scrollHeight > inside.clientHeight;
    })"""
    for selector in ("#canvas .under", "#extremes .under"):
        found = page.page.evaluate(cut, selector)
        assert len(found) > 5
        assert not any(found)
    edges = "() => ['.viewport', '.cell .clip'].map(s => document.querySelector(s).getBoundingClientRect())"
    outer, inner = page.page.evaluate(edges)
    assert inner["x"] - outer["x"] >= 6  # room for the mark of the selected clip
    assert inner["y"] - outer["y"] >= 6
    page.page.set_viewport_size({"width": 1280, "height": 800})


def test_no_line_of_a_figure_runs_through_a_word(page: Opened) -> None:
    style = "text => [getComputedStyle(text).paintOrder, getComputedStyle(text).strokeWidth]"
    assert page.page.eval_on_selector("#answer .figure text", style) == ["stroke", "3px"]


def test_what_stands_out_stands_in_line_and_breaks_names_of_axes_behind_an_underscore(page: Opened) -> None:
    page.page.set_viewport_size({"width": 390, "height": 800})
    page.page.evaluate("() => document.querySelector('#extremes .tile .under span').append(' one more line or two')")
    tops = """() => [...document.querySelectorAll("#extremes .tiles")].map(tiles => [...tiles.children].map(
        tile => tile.querySelector(".clip").getBoundingClientRect().top - tile.getBoundingClientRect().top))"""
    for found in page.page.evaluate(tops):
        assert max(found) - min(found) < 1
    split = """() => [...document.querySelectorAll(".tile .under span")].flatMap(s => [...s.childNodes]).filter(one => {
        const range = document.createRange();
        range.selectNodeContents(one);
        return /^\\w+$/.test(one.textContent) && range.getClientRects().length > 1;
    }).map(one => one.textContent)"""
    assert page.page.evaluate(split) == []
    page.page.set_viewport_size({"width": 1280, "height": 800})


def test_on_a_phone_the_highest_value_stands_below_the_right_end_of_its_histogram(page: Opened) -> None:
    page.page.set_viewport_size({"width": 360, "height": 800})
    right = "id => document.getElementById(id).getBoundingClientRect().right"
    assert page.page.evaluate(f"({right})('histogram-high')") == pytest.approx(
        page.page.evaluate(f"({right})('histogram')"), abs=2
    )
    page.page.set_viewport_size({"width": 1280, "height": 800})


def shown_texts(page: Opened) -> list[str]:
    """Return all texts that a person reads or hears: text, tooltips and labels; no commands, scripts and names."""
    code = """() => {
        const skipped = "script, style, pre, code, #extremes .under, .picture";
        const found = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let text; (text = walker.nextNode());) if (!text.parentElement.closest(skipped)) found.push(text.data);
        for (const name of ["title", "aria-label", "aria-valuetext"]) {
            for (const one of document.querySelectorAll(`[${name}]`)) found.push(one.getAttribute(name));
        }
        return found;
    }"""
    found: list[str] = page.page.evaluate(code)
    return found


def test_no_line_can_be_broken_between_a_number_and_its_unit(page: Opened) -> None:
    page.page.click("#canvas .cell >> nth=0")
    unit = r"(?:%|(?:px|s|min|h|levels|bytes|KiB|MiB|GiB|UTC)\b)"
    texts = shown_texts(page)
    assert [text for text in texts if re.search(rf"\d[ \n]+{unit}", text)] == []
    assert sum(bool(re.search(rf"\d\u00a0{unit}", text)) for text in texts) > 50


def test_numbers_below_zero_have_a_true_minus_sign(page: Opened) -> None:
    page.page.select_option("#sort", "brightness_drift")
    page.page.click("#canvas .cell >> nth=0")
    texts = shown_texts(page)
    assert [text for text in texts if re.search(r"(?<![\w.-])-\d", text)] == []
    assert sum("−" in text for text in texts) > 50
    assert page.page.locator("#canvas .value-strip").first.inner_text() == "−0.200"
    inside = "id => document.getElementById(id).textContent"
    assert "brightness_drift−0.2" in page.page.evaluate(inside, "large-parameters")
    assert not any("−" in page.page.evaluate(inside, f"large-{kind}") for kind in ("command", "script"))


def test_where_nothing_hovers_no_key_is_named(browser: Browser, output: Store) -> None:
    opened = open_file(browser, output.root / "report.html", "play=0", width=390, has_touch=True, is_mobile=True)
    opened.page.focus("#canvas .cell >> nth=0")
    opened.page.keyboard.press("c")
    assert "Choose a second clip, then “Compare with another”." in opened.text("#marked")
    opened.page.close()


def test_the_button_changes_light_and_dark(page: Opened) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.page.evaluate(colour)
    page.page.click("#theme")
    assert page.page.evaluate(colour) != before


def test_an_embedded_page_plays_without_its_folder(browser: Browser, tmp_path: Path) -> None:
    store = make_output(tmp_path / "out", image_ids=["cat"])
    path = write_report(store.root, tmp_path / "mail.html", embed=True)
    store.root.rename(tmp_path / "gone")
    opened = open_file(browser, path)
    opened.until("() => document.querySelector('#canvas video')?.readyState >= 2")
    assert not opened.complaints
    opened.page.close()


def test_a_live_page_shows_new_videos_by_itself_and_keeps_what_was_chosen(browser: Browser, tmp_path: Path) -> None:
    store = make_output(tmp_path / "out", image_ids=["cat"])
    opened = open_file(browser, write_report(store.root, live=True, refresh_s=1), "play=0&size=small")
    opened.page.wait_for_selector("#canvas .cell")
    commit_video(store, "owl")
    write_report(store.root, live=True, refresh_s=1)
    opened.page.wait_for_selector("#canvas .cell >> nth=1")
    assert opened.page.input_value("#size") == "small"
    opened.page.close()


def test_a_live_page_without_a_video_waits_for_the_first_one(browser: Browser, tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    opened = open_file(browser, write_report(store.root, live=True, refresh_s=1))
    assert "No video was made" in opened.text("header")
    commit_video(store, "owl")
    write_report(store.root, live=True, refresh_s=1)
    opened.page.wait_for_selector("#canvas .cell")
    assert not opened.complaints
    opened.page.close()


def test_animated_pictures_are_shown(browser: Browser, tmp_path: Path) -> None:
    config = VideoConfig(Codec.gif, None, None, False)
    opened = open_file(browser, write_report(make_output(tmp_path / "out", image_ids=["cat"], config=config).root))
    opened.page.wait_for_selector("#canvas .clip img")
    opened.until("() => document.querySelector('#canvas .clip img').naturalWidth === 48")
    assert not opened.complaints
    opened.page.close()


def test_a_long_id_leaves_room_for_the_columns_beside_it(browser: Browser, tmp_path: Path) -> None:
    store = make_output(tmp_path / "out", image_ids=["a" * 120, "b" * 120], cells=GRID[:2])
    with_metrics(store)
    opened = open_file(browser, write_report(store.root), "play=0")
    for width in (390, 1280):
        opened.page.set_viewport_size({"width": width, "height": 800})
        code = "cell => cell.getBoundingClientRect().right - cell.closest('.scroll').getBoundingClientRect().right"
        assert opened.page.eval_on_selector("#lookup-each td", code) <= 0
    opened.page.close()


def test_a_page_of_one_cell_without_metrics_works(browser: Browser, tmp_path: Path) -> None:
    opened = open_file(browser, write_report(make_output(tmp_path / "out", image_ids=["cat"]).root))
    opened.page.wait_for_selector("#canvas video")
    assert (cells(opened), opened.count("#lookup"), opened.complaints) == (1, 0, [])
    opened.page.close()


def test_while_it_scrolls_fast_nothing_is_loaded_and_nothing_plays(browser: Browser, tmp_path: Path) -> None:
    store = make_output(tmp_path / "out", image_ids=["cat"])
    row = pq.read_table(store.metadata).to_pylist()[0]
    rows = [{**row, "image_id": f"p{i // 10}", "motion_bucket_id": i % 10} for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), store.metadata)
    opened = open_file(browser, write_report(store.root), "play=1")
    opened.page.wait_for_selector("#canvas video")
    found = opened.page.evaluate("""() => new Promise(done => {
        const box = document.querySelector("#viewport"), before = new Set(document.querySelectorAll("#canvas video"));
        let frames = 0, loaded = 0, playing = 0;
        const next = () => {
            if (frames > 1) for (const video of document.querySelectorAll("#canvas video")) {
                loaded += !before.has(video);
                playing += !video.paused;
            }
            box.scrollTop += 1500;
            if (++frames < 15) requestAnimationFrame(next); else done([loaded, playing]);
        };
        requestAnimationFrame(next);
    })""")
    assert found == [0, 0]
    opened.until("() => [...document.querySelectorAll('#canvas video')].some(v => !v.paused)")
    opened.page.close()


def test_of_thousands_of_clips_only_those_near_the_screen_are_in_the_document(browser: Browser, tmp_path: Path) -> None:
    store = make_output(tmp_path / "out", image_ids=["cat"])
    row = pq.read_table(store.metadata).to_pylist()[0]
    rows = [{**row, "image_id": f"p{i // 10}", "motion_bucket_id": i % 10} for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), store.metadata)
    opened = open_file(browser, write_report(store.root), "play=0")
    opened.page.wait_for_selector("#canvas .cell")
    opened.page.eval_on_selector("#viewport", "e => { e.scrollTop = e.scrollHeight; }")
    opened.until("() => [...document.querySelectorAll('.row.head b')].some(b => b.textContent == 'p499')")
    assert cells(opened) < 400
    opened.page.close()


def test_the_browser_has_nothing_to_complain_about_and_asks_no_network(shared: Opened) -> None:
    # last, so that it judges everything above
    assert [c for c in shared.complaints if "ERR_FILE_NOT_FOUND" not in c] == []
    assert {url.partition(":")[0] for url in shared.requests} <= {"file", "data"}
