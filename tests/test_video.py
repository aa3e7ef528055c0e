"""Frames to a video file and back, by the ffmpeg that ships with imageio-ffmpeg."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from builders import make_frames
from PIL import Image, ImageSequence

from svd_batch.config import Codec, VideoConfig
from svd_batch.video import Probe, count_frames, probe, read_frames, suffix, write_video

CONFIGS = {
    Codec.h264: VideoConfig(),
    Codec.gif: VideoConfig(Codec.gif, None, None, False),
    Codec.webp: VideoConfig(Codec.webp, 8.5, None, False),
    Codec.ffv1: VideoConfig(Codec.ffv1, None, None, True),
}
PARAMETERS = {"seed": 11, "model": "svd=xt; #1\\n", "noise_aug_strength": 0.02, "note": 'a "quote" and ü'}


def written(folder: Path, codec: Codec, frames: Any = None, fps: int = 10, parameters: Any = None) -> Path:
    """Return a video file of some frames."""
    path = folder / f"clip.{suffix(codec)}"
    write_video(path, make_frames(8) if frames is None else frames, fps, CONFIGS[codec], parameters)
    return path


def tags(path: Path) -> dict[str, str]:
    """Return a file's own tags, as ffmpeg reads them."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "ffmetadata", "-"]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    pairs = re.findall(r"^(\w+)=((?:\\.|[^\\\n])*)$", text, re.MULTILINE | re.DOTALL)
    return {key.lower(): re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}


@pytest.mark.parametrize("codec", Codec)
def test_a_video_holds_the_frames_the_size_and_the_speed_that_were_written(tmp_path: Path, codec: Codec):
    assert probe(written(tmp_path, codec)) == Probe(num_frames=8, height=32, width=48, playback_fps=10.0)


@pytest.mark.parametrize("codec", Codec)
def test_a_video_looks_like_its_frames(tmp_path: Path, codec: Codec):
    y, x = np.mgrid[:32, :48]
    smooth = np.stack([np.stack([4 * x + 3 * t, 6 * y, 100 + 0 * x], -1) for t in range(4)]).astype(np.uint8)
    frames, _ = read_frames(written(tmp_path, codec, smooth))
    assert np.abs(frames.astype(int) - smooth).mean() < 10


def test_ffv1_gives_back_every_pixel(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)
    frames, _ = read_frames(written(tmp_path, Codec.ffv1, noise))
    assert np.array_equal(frames, noise)


@pytest.mark.parametrize("codec", Codec)
def test_a_still_clip_keeps_every_frame(tmp_path: Path, codec: Codec):
    still = np.full((6, 32, 48, 3), 90, np.uint8)
    assert probe(written(tmp_path, codec, still)).num_frames == 6


@pytest.mark.parametrize("codec", Codec)
def test_a_clip_of_one_frame_is_a_video(tmp_path: Path, codec: Codec):
    assert probe(written(tmp_path, codec, make_frames(1))).num_frames == 1


@pytest.mark.parametrize("codec", Codec)
def test_frames_that_are_a_view_are_written_like_a_copy(tmp_path: Path, codec: Codec):
    frames = make_frames(8)[::2, :, ::-1]
    view = written(tmp_path, codec, frames).read_bytes()
    assert written(tmp_path, codec, frames.copy()).read_bytes() == view


@pytest.mark.parametrize("codec", Codec)
def test_the_same_frames_make_the_same_bytes(tmp_path: Path, codec: Codec):
    first = written(tmp_path, codec, parameters=PARAMETERS).read_bytes()
    (tmp_path / "other").mkdir()
    assert written(tmp_path / "other", codec, parameters=PARAMETERS).read_bytes() == first


@pytest.mark.parametrize("fps", [1, 5, 7, 24, 240])
@pytest.mark.parametrize("codec", [Codec.h264, Codec.ffv1])
def test_a_video_plays_at_the_asked_speed(tmp_path: Path, codec: Codec, fps: int):
    assert probe(written(tmp_path, codec, fps=fps)).playback_fps == pytest.approx(fps, rel=0.01)


@pytest.mark.parametrize("codec", [Codec.h264, Codec.ffv1])
def test_the_parameters_are_in_the_files_comment_whatever_characters_they_have(tmp_path: Path, codec: Codec):
    assert json.loads(tags(written(tmp_path, codec, parameters=PARAMETERS))["comment"]) == PARAMETERS


@pytest.mark.parametrize("codec", [Codec.h264, Codec.ffv1])
def test_a_switch_leaves_the_parameters_out(tmp_path: Path, codec: Codec):
    path = tmp_path / f"clip.{suffix(codec)}"
    config = VideoConfig(codec, CONFIGS[codec].quality, None, embed_parameters=False)
    write_video(path, make_frames(), 7, config, {"seed": 1234567})
    assert "comment" not in tags(path)
    assert b"1234567" not in path.read_bytes()


def boxes(data: bytes) -> list[str]:
    """Return the names of an mp4's outermost boxes, in order."""
    names, place = [], 0
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        names.append(name.decode())
        place += length
    return names


def test_an_mp4_has_its_index_before_its_pictures_so_that_browsers_start_at_once(tmp_path: Path):
    names = boxes(written(tmp_path, Codec.h264).read_bytes())
    assert names.index("moov") < names.index("mdat")


def test_an_mp4_is_h264_in_yuv420p_which_browsers_play(tmp_path: Path):
    meta = next(imageio_ffmpeg.read_frames(str(written(tmp_path, Codec.h264))))
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p(")
    assert "bt709" in meta["pix_fmt"]


@pytest.mark.parametrize("codec", [Codec.h264, Codec.webp])
def test_a_higher_quality_is_closer_to_the_frames(tmp_path: Path, codec: Codec):
    frames = make_frames(4, 64, 96)
    errors = []
    for quality in (2.0, 9.0):
        path = tmp_path / f"{quality}.{suffix(codec)}"
        write_video(path, frames, 7, VideoConfig(codec, quality, None, False))
        errors.append(np.abs(read_frames(path)[0].astype(int) - frames).mean())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("codec", [Codec.gif, Codec.webp])
def test_an_animation_loops_for_ever(tmp_path: Path, codec: Codec):
    with Image.open(written(tmp_path, codec)) as image:
        assert image.info["loop"] == 0


def test_a_gif_plays_its_frames_for_as_long_as_was_asked_all_in_all(tmp_path: Path):
    with Image.open(written(tmp_path, Codec.gif, fps=7)) as image:
        total_ms = sum(frame.info["duration"] for frame in ImageSequence.Iterator(image))
    assert total_ms == pytest.approx(8 / 7 * 1000, abs=20)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("content", [b"", b"no video at all", b"\0" * 5000], ids=["empty", "text", "zeros"])
def test_a_broken_file_is_an_oserror_that_names_it(tmp_path: Path, codec: Codec, content: bytes):
    path = tmp_path / f"clip.{suffix(codec)}"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"clip\.\w+ does not decode"):
        probe(path)


@pytest.mark.parametrize("codec", Codec)
def test_a_file_cut_in_half_does_not_pass_for_whole(tmp_path: Path, codec: Codec):
    path = written(tmp_path, codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        found = probe(path).num_frames
    except OSError:
        found = 0
    assert found < 8


@pytest.mark.parametrize("codec", [Codec.h264, Codec.ffv1])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, codec: Codec):
    """FFmpeg knows such lists, and would open what they name."""
    path = written(tmp_path, codec)
    path.rename(tmp_path / "other")
    path.write_text("ffconcat version 1.0\nfile other\n")
    for read in (probe, count_frames, read_frames):
        with pytest.raises(OSError, match=r"clip\.\w+ does not decode"):
            read(path)


def test_files_of_both_kinds_decode_one_after_the_other(tmp_path: Path):
    both = [written(tmp_path, Codec.h264), written(tmp_path, Codec.ffv1)]
    assert [count_frames(path) for path in both * 2] == [8] * 4


def test_a_name_of_no_kind_that_is_written_here_is_an_oserror(tmp_path: Path):
    path = written(tmp_path, Codec.h264).rename(tmp_path / "clip.avi")
    with pytest.raises(OSError, match=r"clip\.avi is no video"):
        probe(path)


@pytest.mark.parametrize("codec", Codec)
def test_a_missing_file_is_an_oserror(tmp_path: Path, codec: Codec):
    with pytest.raises(OSError, match="clip"):
        probe(tmp_path / f"clip.{suffix(codec)}")


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("num_frames", [2, 200])
def test_writing_into_a_missing_folder_is_an_oserror(tmp_path: Path, codec: Codec, num_frames: int):
    with pytest.raises(OSError, match=r"."):
        written(tmp_path / "missing", codec, make_frames(num_frames))


@pytest.mark.parametrize(("codec", "ending"), [("h264", "mp4"), ("gif", "gif"), ("webp", "webp"), ("ffv1", "mkv")])
def test_each_codec_has_its_file_name_ending(codec: str, ending: str):
    assert suffix(Codec(codec)) == ending
