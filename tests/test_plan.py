"""Images x cells x seeds, minus what is done, in units."""

from __future__ import annotations

from typing import Any

import pytest
from builders import CELL, make_cell, make_image

from svd_batch.errors import UserError
from svd_batch.plan import UNITS_PER_ACTOR, Plan, Request, Seeds, make_plan, split_units
from svd_batch.sweep import expand

SETTINGS = {"model.id": "pocket"}
IMAGES = [make_image("cat"), make_image("dog"), make_image("owl")]
GRID = expand(CELL, {"motion_bucket_id": [20, 127], "fps": [5, 12]})


def plan_of(images: Any = IMAGES, cells: Any = GRID, seeds: Seeds | None = None, **options: Any) -> Plan:
    """Return a plan with small defaults."""
    return make_plan(images, Request(cells, seeds or Seeds(), SETTINGS), **options)


def ids_of(plan: Plan) -> list[str]:
    """Return the ids of the videos to make, in order."""
    return [video.video_id for _, videos in plan.work() for video in videos]


def test_a_plan_is_every_image_with_every_cell_and_seed_in_order():
    plan = plan_of(seeds=Seeds(num_seeds=2))
    found = [(image.image_id, v.cell, v.replicate) for image, videos in plan.work() for v in videos]
    assert found == [(i.image_id, cell, r) for i in IMAGES for cell in GRID for r in (0, 1)]


def test_the_counts_of_a_new_plan_add_up():
    plan = plan_of(seeds=Seeds(num_seeds=2))
    counts = (plan.num_images, plan.num_cells, plan.num_videos, plan.num_done, plan.num_left_failed, plan.num_todo)
    assert counts == (3, 4, 24, 0, 0, 24)


def test_every_video_of_a_plan_has_an_id_of_its_own():
    every = ids_of(plan_of(seeds=Seeds(num_seeds=3)))
    assert len(set(every)) == len(every) == 36


def test_what_is_done_is_subtracted_and_counted():
    first, *rest = ids_of(plan_of())
    plan = plan_of(done={first, "of another plan"})
    assert (ids_of(plan), plan.num_done, plan.num_videos) == (rest, 1, 12)


def test_a_finished_plan_has_no_work():
    plan = plan_of(done=set(ids_of(plan_of())))
    assert (list(plan.work()), plan.num_todo, plan.num_done) == ([], 0, 12)


def test_a_failed_image_is_left_out_whole():
    plan = plan_of(failed={"dog"})
    assert [image.image_id for image, _ in plan.work()] == ["cat", "owl"]
    assert plan.num_left_failed == 4


def test_a_failed_video_is_left_out_alone():
    first, *rest = ids_of(plan_of())
    plan = plan_of(failed={first})
    assert (ids_of(plan), plan.num_left_failed, plan.num_done) == (rest, 1, 0)


def test_a_video_that_is_done_does_not_count_as_failed_though_its_image_did():
    first = ids_of(plan_of())[0]
    plan = plan_of(done={first}, failed={"cat"})
    assert (plan.num_done, plan.num_left_failed, plan.num_todo) == (1, 3, 8)


def test_a_fixed_column_collapses_its_axis_for_that_image_alone():
    images = [make_image("cat", fixed=(("motion_bucket_id", 99),)), make_image("dog")]
    plan = plan_of(images)
    assert [len(videos) for _, videos in plan.work()] == [2, 4]
    assert {v.cell.motion_bucket_id for v in next(plan.work())[1]} == {99}
    assert (plan.num_cells, plan.num_videos) == (4, 6)


def test_a_fixed_guidance_that_runs_backwards_is_refused_naming_the_image():
    with pytest.raises(UserError, match=r"^image cat: min_guidance_scale=9 is above"):
        plan_of([make_image("cat", fixed=(("min_guidance_scale", 9.0),))])


@pytest.mark.parametrize(
    ("cells", "num_seeds"),
    [
        (expand(CELL, {"motion_bucket_id": [20, 99, 127], "fps": [5, 12]}), 1),
        (expand(CELL, {"motion_bucket_id": [20, 127], "fps": [12, 5, 7], "noise_aug_strength": [0.02, 0.5]}), 1),
        (GRID, 3),
    ],
    ids=["a value more", "an axis more", "seeds more"],
)
def test_a_grown_sweep_asks_for_every_earlier_video_again(cells: Any, num_seeds: int):
    before = set(ids_of(plan_of()))
    assert before < set(ids_of(plan_of(cells=cells, seeds=Seeds(num_seeds=num_seeds))))


def test_a_longer_manifest_keeps_the_earlier_ids():
    assert ids_of(plan_of([*IMAGES, make_image("new")]))[:12] == ids_of(plan_of())


def test_an_id_does_not_depend_on_where_the_picture_lies():
    moved = [make_image("cat", image_path="elsewhere.png", source="/elsewhere.png")]
    assert ids_of(plan_of(moved)) == ids_of(plan_of(IMAGES[:1]))


def test_the_cells_of_an_image_share_its_seeds():
    videos = Request(GRID, Seeds(num_seeds=2), SETTINGS).videos(IMAGES[0])
    assert len({v.seed for v in videos if v.replicate == 0}) == 1
    assert len({v.seed for v in videos}) == 2


def test_listed_seeds_are_used_as_they_are_for_every_image():
    plan = plan_of(cells=[CELL], seeds=Seeds(listed=(42, 7)))
    assert [[(v.seed, v.replicate) for v in videos] for _, videos in plan.work()] == [[(42, 0), (7, 1)]] * 3


def test_a_picture_that_was_used_before_must_still_have_its_sha256():
    plan = plan_of(recorded_sha256={"cat": "a" * 64})
    assert [image.sha256 for image, _ in plan.work()] == ["a" * 64, None, None]


def test_the_manifests_own_sha256_stays_where_nothing_is_recorded():
    plan = plan_of([make_image("cat", sha256="b" * 64)])
    assert next(plan.work())[0].sha256 == "b" * 64


def grown_plan(videos_of_each: list[int]) -> Plan:
    """Return a plan of as many images, each with so many videos."""
    images = [make_image(f"i{n}") for n in range(len(videos_of_each))]
    request = Request([make_cell(motion_bucket_id=m) for m in range(max(videos_of_each))], Seeds(), SETTINGS)
    pairs = zip(images, videos_of_each, strict=True)
    return make_plan(images, request, done={v.video_id for image, n in pairs for v in request.videos(image)[n:]})


SHAPES = [[9, 9, 9, 9], [1], [36], [100, 1, 1], [1] * 50, [7, 3, 5, 11, 2], [25, 25]]


@pytest.mark.parametrize("num_actors", [1, 2, 3, 8])
@pytest.mark.parametrize("videos_of_each", SHAPES, ids=str)
def test_units_hold_the_planned_videos_in_order_and_lose_none(videos_of_each: list[int], num_actors: int):
    plan = grown_plan(videos_of_each)
    units = tuple(split_units(plan, num_actors))
    assert [v.video_id for u in units for v in u.videos] == ids_of(plan)
    assert all(unit.videos for unit in units)


@pytest.mark.parametrize("num_actors", [1, 2, 3, 8])
@pytest.mark.parametrize("videos_of_each", SHAPES, ids=str)
def test_there_are_four_units_an_actor_where_there_is_enough_work(videos_of_each: list[int], num_actors: int):
    units = tuple(split_units(grown_plan(videos_of_each), num_actors))
    assert len(units) >= min(sum(videos_of_each), UNITS_PER_ACTOR * num_actors)


@pytest.mark.parametrize("videos_of_each", SHAPES, ids=str)
def test_a_unit_holds_videos_of_its_own_image_alone(videos_of_each: list[int]):
    plan = grown_plan(videos_of_each)
    owner = {v.video_id: image.image_id for image, videos in plan.work() for v in videos}
    for unit in split_units(plan, 1):
        assert {owner[v.video_id] for v in unit.videos} == {unit.image.image_id}


def test_much_work_is_not_split_further_than_by_image():
    assert [len(u.videos) for u in split_units(grown_plan([9, 9, 9, 9]), 1)] == [9, 9, 9, 9]


def test_the_units_of_an_image_are_evenly_filled():
    sizes = [len(u.videos) for u in split_units(grown_plan([10]), 1)]
    assert max(sizes) - min(sizes) <= 1


def test_no_work_makes_no_units():
    assert list(split_units(plan_of([]), 2)) == []
