"""Hostile and broken pictures: each is loaded or becomes one row with a clear reason, and the rest goes on."""

from __future__ import annotations

import os
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import CELL, encode, make_image, picture_bytes, write_parquet
from hostile import KINDS, Kind, png, red
from PIL import Image

from svd_batch import cli as command_line
from svd_batch.access import Access
from svd_batch.config import Fit
from svd_batch.errors import ItemError
from svd_batch.images import one_line, open_image, read_bytes
from svd_batch.load import LoadedUnit, load_image
from svd_batch.records import PlannedVideo, WorkUnit


def loaded(path: Path, name: str, access: Access | None = None) -> LoadedUnit:
    """Return what the load stage makes of a file."""
    image = make_image("id", image_path=name, source=str(path))
    return load_image(WorkUnit(image, (PlannedVideo("ab" * 10, CELL, 1, 0),)), 32, 48, Fit.crop, access or Access())


def is_inert(text: str) -> bool:
    """Return whether a message is one short line without control characters or bytes."""
    controls = [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    return not controls and "\\x" not in text and "0x" not in text and 0 < len(text) <= 300


def test_there_are_more_than_forty_kinds():
    assert len(KINDS) >= 40


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_picture_is_loaded_or_becomes_one_row_with_the_reason(kind: Kind, tmp_path: Path):
    red(size=(1, 1))(tmp_path / "dot.png")  # what links lead to
    path = tmp_path / kind.file_name
    kind.make(path)
    found = loaded(path, kind.file_name)
    if kind.refused is None:
        assert found.error is None, found.error
        assert found.picture is not None
        assert found.picture.shape == (32, 48, 3)
        assert kind.colour is None or np.allclose(found.picture[16, 24], kind.colour, atol=2)
        return
    assert found.picture is None
    assert found.error is not None
    assert_matches(kind.refused, found.error.error_message)
    assert is_inert(found.error.error_message)
    assert (found.error.stage, found.error.error_type, found.error.video_id) == ("load", "ItemError", None)


def assert_matches(pattern: str, text: str) -> None:
    """Assert that a message says what it must."""
    with pytest.raises(ItemError, match=pattern):
        raise ItemError(text)


@pytest.mark.parametrize("name", ["bomb.png", "bomb.jpg", "bomb.gif"])
def test_a_bomb_takes_no_memory_to_refuse(name: str, tmp_path: Path):
    kind = next(k for k in KINDS.values() if k.file_name == name)
    kind.make(tmp_path / name)
    tracemalloc.start()
    assert loaded(tmp_path / name, name).error is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_the_limit_of_pixels_can_be_lowered():
    data = encode(Image.new("RGB", (11, 10)))
    assert open_image(data, 110).size == (11, 10)
    with pytest.raises(ItemError, match="^11x10 pixels are more than max_pixels=109$"):
        open_image(data, 109)


def test_a_16_bit_picture_is_brought_to_8_bits_in_parts():
    values = np.arange(1000 * 3, dtype=np.uint16).reshape(1000, 3) * 21
    found = np.asarray(open_image(encode(Image.fromarray(values))))[..., 0]
    assert np.array_equal(found, np.round(values / 257).astype(np.uint8))


def test_a_file_that_grows_without_end_is_read_to_the_limit(tmp_path: Path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)
    found = loaded(tmp_path / "a.png", "a.png", Access(max_bytes=1 << 20))
    assert found.error is not None
    assert found.error.error_message == "the file is larger than 1 MiB"


def test_a_pipe_that_took_a_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(tmp_path / "a.png")
    regular = os.stat(__file__)  # noqa: PTH116
    monkeypatch.setattr("svd_batch.images.os.stat", lambda path: regular)
    with pytest.raises(ItemError, match="not a regular file"):
        read_bytes(make_image(source=str(tmp_path / "a.png")))


def test_a_link_that_was_turned_out_of_the_roots_after_the_plan_is_refused(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(picture_bytes())
    (tmp_path / "in/a.png").symlink_to("../secret.png")
    found = loaded(tmp_path / "in/a.png", "a.png", Access(allowed_roots=(str(tmp_path / "in"),)))
    assert found.error is not None
    assert found.error.error_message.startswith("a.png leads outside allowed_roots")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\x1b[31mb\x00c", "a�[31mb�c"),
        ("bad chunk (b'\\xff\\x00IDAT')", "bad chunk (bytes)"),
        ("bad chunk b'IDAT'", "bad chunk b'IDAT'"),
        ("https://me:pw@host/a.png?sig=SECRET#x failed", "https://host/a.png?… failed"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
    ],
)
def test_a_message_holds_neither_control_characters_nor_bytes_nor_secrets(text: str, told: str):
    assert one_line(ValueError(text)) == told


def test_a_run_over_all_of_them_finishes_with_a_row_for_each(
    tmp_path: Path, tiny: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    bad = {name: kind for name, kind in KINDS.items() if kind.refused is not None}
    (tmp_path / "in").mkdir()
    for kind in bad.values():
        kind.make(tmp_path / "in" / kind.file_name)
    for name in ("good1.png", "good2.png"):
        (tmp_path / "in" / name).write_bytes(picture_bytes())
    files = ["good1.png", *dict.fromkeys(kind.file_name for kind in bad.values()), "good2.png"]
    manifest = write_parquet(tmp_path / "m.parquet", {"image_path": [f"in/{name}" for name in files]})
    overrides = [*tiny, "generation.num_inference_steps=1", "max_failed_fraction=1", "output=out"]
    assert command_line.main(["run", "backend=serial", f"manifest={manifest}", *overrides]) == 0
    assert "\x1b" not in "".join(capfd.readouterr())
    videos = pq.read_table(tmp_path / "out/metadata.parquet").to_pylist()
    assert [row["image_path"] for row in videos] == ["in/good1.png", "in/good2.png"]
    failures = {row["image_path"]: row for row in pq.read_table(tmp_path / "out/failures.parquet").to_pylist()}
    assert set(failures) == {f"in/{name}" for name in files[1:-1]}
    for row in failures.values():
        assert (row["stage"], row["error_type"], row["attempts"]) == ("load", "ItemError", 1)
        assert is_inert(row["error_message"])


def test_a_png_helper_makes_pictures_that_open():
    assert open_image(png(1, 1, b"\x78\x9c\x63\x60\x60\x60\x00\x00\x00\x04\x00\x01")).size == (1, 1)
