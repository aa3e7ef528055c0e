"""Records to text and back."""

from __future__ import annotations

import dataclasses
import json

from builders import CELL, make_cell, make_failure, make_image, make_record

from svd_batch.records import (
    EXACT,
    FailureRecord,
    PlannedVideo,
    VideoRecord,
    WorkUnit,
    from_dict,
    to_json,
    unit_from_json,
    unit_to_json,
)


def test_a_unit_survives_its_way_through_text():
    image = make_image("Mümmel/1", source_row=3, bytes_column="image", sha256="a" * 64, fixed=(("fps", 7), ("x", 0.1)))
    videos = (PlannedVideo("ab", CELL, 2**63 - 1, 0), PlannedVideo("cd", make_cell(noise_aug_strength=0.1), 0, 1))
    unit = WorkUnit(image, videos)
    assert unit_from_json(unit_to_json(unit)) == unit


def test_a_record_survives_its_way_through_text():
    record = make_record(image_path=None, model_revision=None)
    assert from_dict(VideoRecord, json.loads(to_json(record))) == record


def test_a_record_of_a_later_version_is_read_without_the_fields_that_are_new():
    row = {**dataclasses.asdict(make_record()), "flicker": 0.5}
    assert from_dict(VideoRecord, row) == make_record()


def test_a_failure_is_named_by_its_video_where_it_has_one():
    image, video = make_failure("cat"), make_failure("cat", video_id="ab")
    assert (image.item_id, video.item_id) == ("cat", "ab")


def test_a_record_is_one_line_of_text_with_its_keys_in_order():
    text = to_json(make_failure(error_message="two\nlines"))
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(f.name for f in dataclasses.fields(FailureRecord))


def test_a_record_of_before_there_were_approximations_is_read_as_exact():
    later = {*EXACT, "approximations", "quality"}
    row = {k: v for k, v in dataclasses.asdict(make_record()).items() if k not in later}
    record = from_dict(VideoRecord, row)
    assert (record.approximations, record.quality) == (None, "final")
    assert {name: getattr(record, name) for name in EXACT} == EXACT
