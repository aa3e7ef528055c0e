"""The answer: what of an analysis reaches the page, and what it says where there is little to say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
from sweep_tables import noise, sweep, sweep_table

from svd_batch.analysis import Analysis, Videos, analyse, videos_of
from svd_batch.report import sentences, tables
from svd_batch.report.answer import answer, cell_seconds, single_pictures
from svd_batch.report.heatmaps import NUM_COLOURS, colour
from svd_batch.report.html import environment
from svd_batch.report.limits import limits
from svd_batch.report.reactions import reactions
from svd_batch.report.typeset import typeset

BUCKETS, NOISES = [20, 127, 240], [0.0, 0.1]
GRID: Mapping[str, Any] = {"motion_bucket_id": BUCKETS, "noise_aug_strength": NOISES}
STATIC_CSS = Path(__file__).parents[1] / "svd_batch/report/static/answer.css"
METRICS: Mapping[str, Any] = {
    "motion": lambda row: row["motion_bucket_id"] / 100 + row["picture"] / 10,
    "likeness": lambda row: 0.9 - row["noise_aug_strength"] - row["motion_bucket_id"] / 2000,
    "flicker": noise(1.0),
}


def template(name: str) -> jinja2.Template:
    """Return a template as the page has it."""
    return environment().get_template(name)


def html_of(analysis: Analysis, **options: Any) -> str:
    """Return the partial alone."""
    return template("answer.html").render(answer=answer(analysis, **options))


def page_of(videos: Videos) -> str:
    """Return the partial of some videos."""
    return html_of(analyse(videos), seconds=cell_seconds(videos))


@pytest.fixture(scope="module")
def whole() -> tuple[Analysis, str]:
    """Return the analysis of a whole grid, and its partial."""
    videos = sweep(GRID, metrics=METRICS, generate_s=31.0)
    return analyse(videos), page_of(videos)


def test_motion_and_likeness_come_first_and_their_effects_are_said_first(whole: tuple[Analysis, str]):
    analysis, html = whole
    assert sentences.ordered(analysis)[:2] == ["motion", "likeness"]
    assert [said.kind for said in sentences.lead(analysis)] == ["rises", "shares", "falls", "falls", "shares"]
    assert html.index("Motion rises from") < html.index("Likeness falls from") < html.index("<h3>motion")


def test_a_sentence_gets_a_capital_and_a_full_stop_unless_it_begins_with_an_axis():
    videos = sweep({"noise_aug_strength": NOISES}, metrics={"likeness": METRICS["motion"], "motion": noise(1.0)})
    texts = [said.text for said in sentences.of_metric(analyse(videos), "motion")]
    assert texts[0].startswith("No clear effect")
    found = analyse(sweep({"noise_aug_strength": NOISES}, metrics={"likeness": lambda r: r["noise_aug_strength"]}))
    assert sentences.of_metric(found, "likeness")[0].text.startswith("noise_aug_strength 0.1 instead of 0 gains")


def test_a_folded_metric_is_headed_by_an_effect_where_it_has_one():
    metrics = {"motion": noise(1.0), "likeness": noise(1.0), "flicker": lambda row: row["noise_aug_strength"]}
    (card,) = answer(analyse(sweep(GRID, metrics=metrics)))["more"]
    assert card.sentences[0].kind == "constant"
    assert card.headline.startswith("noise_aug_strength 0.1 instead of 0 adds 0.1 levels of flicker")


def test_what_stands_behind_a_sentence_stands_apart(whole: tuple[Analysis, str]):
    said = sentences.lead(whole[0])[0]
    assert said.text.endswith(".")
    assert "change" not in said.text
    assert re.fullmatch(r"change \+2\.2, 95 % interval \+2\.2 to \+2\.2, 8 pictures", said.evidence)


def test_bars_add_up_to_the_whole_and_say_what_the_shares_say(whole: tuple[Analysis, str]):
    bars = tables.bars(whole[0])
    assert [bar.title for bar in bars] == ["motion", "likeness", "flicker"]
    assert all(abs(sum(part.length for part in bar.parts) - 100) < 0.1 for bar in bars)
    share = whole[0].shares[0].axes["motion_bucket_id"]
    assert share is not None
    assert bars[0].parts[0].text == f"{share * 100:.0f} %"


def test_monotonicity_says_which_way_with_its_interval(whole: tuple[Analysis, str]):
    axes, rows = tables.steadiness(whole[0])
    assert axes == ["motion_bucket_id"]  # two steps are no trend
    found = {title: cells[0] for title, cells in rows}
    assert (found["motion"].rho, found["motion"].interval, found["motion"].sign) == ("+1.00", "+1.00 to +1.00", "up")
    assert found["likeness"].sign == "down"
    assert found["flicker"].sign == "unclear"


def test_the_front_has_every_cell_that_no_other_beats_and_what_a_video_took(whole: tuple[Analysis, str]):
    html = whole[1]
    assert "3 of 6 cells are the best trades" in html
    assert re.search(r"<th scope=\"row\">240</th><th scope=\"row\">0</th><td>2.7", html)
    assert "<td>31</td>" in html


def test_heatmaps_have_figures_colours_and_cells_to_click(whole: tuple[Analysis, str]):
    html = whole[1]
    square = re.search(r'<td class="heat-(\d+)" title="motion_bucket_id 240, noise_aug_strength 0.1: 2.75\xa0px', html)
    assert square
    assert int(square[1]) == NUM_COLOURS - 1
    assert 'data-cell="{&#34;motion_bucket_id&#34;:240,&#34;noise_aug_strength&#34;:0.1}"' in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("falls from 2.1 to -0.3 px a frame", "falls from 2.1 to −0.3\u00a0px a frame"),
        ("(change -1, 95 % interval -1.5e-05 to +2 s)", "(change −1, 95\u00a0% interval −1.5e−05 to +2\u00a0s)"),
        ("run-2 of 2026-11-26, 3e-11d2, a/-1: 8 pictures, 4 steps", None),
    ],
)
def test_numbers_get_a_minus_and_keep_their_unit_and_names_stay(text: str, shown: str | None):
    assert typeset(text) == (shown or text)


def test_the_scale_goes_from_the_first_colour_to_the_last():
    assert [colour(v, 0, 1) for v in (0.0, 0.5, 1.0, None)] == [0, NUM_COLOURS // 2, NUM_COLOURS - 1, None]
    assert colour(3.0, 3.0, 3.0) == NUM_COLOURS // 2


def test_nothing_in_it_needs_a_style_of_its_own_or_a_script(whole: tuple[Analysis, str]):
    html = whole[1]
    assert not re.search(r"\sstyle=|<style|<script|\son\w+=|https?://", html)


def test_all_ids_are_different(whole: tuple[Analysis, str]):
    found = re.findall(r'\sid="([^"]*)"', whole[1])
    assert len(found) == len(set(found)) > 5
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', whole[1]))
    assert used <= set(found)


def test_the_same_table_gives_the_same_bytes(whole: tuple[Analysis, str]):
    assert page_of(sweep(GRID, metrics={**METRICS, "flicker": noise(1.0)}, generate_s=31.0)) == whole[1]


def test_the_pictures_that_react_most_and_least_are_named_as_text():
    metrics = {"motion": lambda row: row["motion_bucket_id"] / 100 * row["picture"]}
    (found,) = reactions(analyse(sweep({"motion_bucket_id": BUCKETS}, metrics=metrics)))
    assert found.most[0] == ("img0007", "15.4")
    assert found.least[0] == ("img0000", "0")
    evil = dataclasses.replace(found, most=(("<b>evil", "1"),))
    html = template("answer/reactions.html").render(reactions=[evil])
    assert "&lt;b&gt;evil" in html


def test_a_grid_with_holes_shows_no_single_pictures():
    keep = lambda row: row["motion_bucket_id"] != 240 or not row["noise_aug_strength"]  # noqa: E731
    assert single_pictures(analyse(sweep(GRID, metrics=METRICS)), "motion", "motion_bucket_id")
    assert not single_pictures(analyse(sweep(GRID, metrics=METRICS, keep=keep)), "motion", "motion_bucket_id")


# --- little to say --------------------------------------------------------------------------------------------


def test_without_metrics_it_says_how_to_measure_them():
    found = html_of(analyse(sweep(GRID, metrics={})), score="outputs/pets")
    assert "svd-batch score outputs/pets" in found
    assert "<svg" not in found


def test_metrics_without_values_are_none():
    nothing = {"motion": lambda row: None, "likeness": lambda row: float("nan")}
    assert "svd-batch score OUTPUT" in page_of(sweep(GRID, metrics=nothing))


def test_a_single_cell_has_a_table_and_no_curves():
    found = page_of(sweep({}, metrics=METRICS))
    assert "All videos are of one cell" in found
    assert '<th scope="row">motion, px a frame</th><td>1.6' in found
    assert "<svg" not in found


def test_one_picture_has_no_intervals_and_says_so():
    analysis = analyse(sweep(GRID, pictures=1, metrics=METRICS))
    assert "There is one picture" in limits(analysis)[0]
    assert "interval" not in " ".join(re.findall(r"<title>(.*?)</title>", html_of(analysis)))


def test_one_axis_over_one_picture_has_no_bar_that_could_only_be_full():
    html = page_of(sweep({"motion_bucket_id": BUCKETS}, pictures=1, metrics=METRICS))
    assert "explains how much" not in html
    assert "interplay" not in html
    html = page_of(sweep({"motion_bucket_id": BUCKETS}, pictures=1, replicates=2, metrics={"motion": noise(1.0)}))
    assert "chance: " in html
    assert "interplay" not in html


def test_few_pictures_holes_and_missing_values_are_told():
    metrics = {"motion": METRICS["motion"], "flicker": lambda row: None if row["picture"] else 1.0}
    analysis = analyse(
        sweep(
            GRID,
            pictures=3,
            metrics=metrics,
            keep=lambda r: r["motion_bucket_id"] != 240 or not r["noise_aug_strength"],
        )
    )
    told = " ".join(limits(analysis))
    assert "only 3 pictures" in told
    assert "1 of the 6 combinations of the axes was not made; it is empty" in told
    assert "flicker (10)" in told


def test_a_cell_lacks_a_picture_only_where_the_video_was_not_made():
    gone = lambda row: (row["motion_bucket_id"], row["noise_aug_strength"], row["picture"]) == (20, 0.1, 0)  # noqa: E731
    metrics = {"motion": lambda row: None if row["picture"] == 1 else 1.0}
    assert not [line for line in limits(analyse(sweep(GRID, metrics=metrics))) if "lack" in line]
    told = limits(analyse(sweep(GRID, metrics=metrics, keep=lambda row: not gone(row))))
    assert [line for line in told if line.startswith("1 of 6 cells lacks some of the 8 pictures.")]


def test_a_confounded_axis_is_told():
    keep = lambda row: (row["motion_bucket_id"] > 100) == (row["noise_aug_strength"] > 0)  # noqa: E731
    told = " ".join(limits(analyse(sweep(GRID, metrics=METRICS, keep=keep))))
    assert "Some steps of motion_bucket_id were never made at the same settings" in told


def test_thirty_values_an_axis_stay_a_table_with_every_figure():
    axes = {"motion_bucket_id": list(range(1, 241, 8)), "noise_aug_strength": [i / 100 for i in range(30)]}
    html = page_of(sweep(axes, pictures=2, metrics={"motion": METRICS["motion"]}))
    assert len(re.findall(r'<td class="heat-\d+"', html)) == 900
    assert 'class="heat dense"' in html


def test_folders_that_are_compared_are_an_axis_of_words():
    tables_ = {
        name: sweep_table(GRID, metrics=METRICS, fingerprint=name) for name in ("a", "<img src=x onerror=alert(1)>")
    }
    html = page_of(videos_of(tables_))
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
