"""One video shown: its row, and a command and a stock diffusers script that make it again."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import encode, engine_without_torch, make_output, write_parquet
from conftest import Cli, tiny_overrides
from PIL import Image

from svd_batch import cli as command_line
from svd_batch import show
from svd_batch.errors import UserError
from svd_batch.video import read_frames

JOB = ["backend=serial", "video=ffv1", "seeds=[7]", "sweep.motion_bucket_id=[20,200]"]


@pytest.fixture(scope="module")
def job(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished job: a rotated JPEG, a picture with transparency, and two that the manifest embeds."""
    folder = tmp_path_factory.mktemp("it's a job, $1")
    pixels = np.random.default_rng(3).integers(0, 256, (60, 90, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba.convert("RGB").save(folder / "rotated.jpg", exif=exif)
    rgba.save(folder / "clear.png")
    grey = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    embedded = [None, None, {"bytes": encode(grey), "path": None}, {"bytes": encode(rgba.convert("P")), "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image_path": ["rotated.jpg", "clear.png", None, None],
        "image": pa.array(embedded, kind),
        "caption": ["a", "b", "c", "d"],
    }
    manifest = write_parquet(folder / "m.parquet", columns)
    arguments = [f"manifest={show.override_value(str(manifest))}", f"output={show.override_value(str(folder / 'out'))}"]
    assert command_line.main(["run", *arguments, *tiny_overrides(tiny_checkpoint), *JOB, "fit=pad"]) == 0
    return folder / "out"


def rows(output: Path) -> list[dict[str, object]]:
    """Return the table's rows, one cell of each picture."""
    found = pq.read_table(output / "metadata.parquet").to_pylist()
    assert len(found) == 8
    return [row for row in found if row["motion_bucket_id"] == 200]


Save = Callable[..., np.ndarray]


@pytest.fixture
def save(cli_here: Cli, tmp_path: Path) -> Iterator[Save]:
    """The frames (T, H, W, 3) that a video's printed script saves, run in this process or in a fresh one."""
    threads = torch.get_num_threads()

    def call(output: Path, video_id: object, *, fresh: bool = False) -> np.ndarray:
        printed = cli_here("show", output, video_id, "--script")
        assert (printed.returncode, printed.stderr) == (0, "")
        (tmp_path / "one.py").write_text(printed.stdout)
        if fresh:
            subprocess.run([sys.executable, "one.py"], cwd=tmp_path, check=True)
        else:
            runpy.run_path("one.py", run_name="__main__")
        frames = sorted((tmp_path / f"one-{str(video_id)[:8]}-frames").glob("*.png"))
        return np.stack([np.asarray(Image.open(frame)) for frame in frames])

    yield call
    torch.set_num_threads(threads)  # which the script sets


@pytest.mark.parametrize("index", range(4), ids=["rotated", "transparent", "embedded 16 bits", "embedded palette"])
def test_the_script_makes_the_stored_frames(job: Path, index: int, save: Save) -> None:
    row = rows(job)[index]
    stored, _ = read_frames(job / str(row["file_name"]))
    made = save(job, row["video_id"], fresh=index == 2)  # the one that imports most
    assert made.shape == stored.shape
    assert np.abs(made.astype(int) - stored.astype(int)).max() <= 1  # `speed` may round otherwise than stock


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_the_script_fits_the_picture_as_the_job_did(
    fit: str, pets: Path, tiny: list[str], tmp_path: Path, cli_here: Cli, save: Save
) -> None:
    job = ["run", f"manifest={pets}", "output=out", *tiny, "backend=serial", "video=ffv1", f"fit={fit}"]
    assert cli_here(*job).returncode == 0
    row = pq.read_table(tmp_path / "out/metadata.parquet").to_pylist()[1]
    stored, _ = read_frames(tmp_path / "out" / row["file_name"])
    made = save(tmp_path / "out", row["video_id"])
    assert np.abs(made.astype(int) - stored.astype(int)).max() <= 1


@pytest.mark.parametrize("index", [0, 2], ids=["file", "embedded"])
def test_the_command_makes_the_same_video_in_a_new_folder(job: Path, index: int, tmp_path: Path, cli_here: Cli) -> None:
    row = rows(job)[index]
    printed = cli_here("show", job, row["video_id"], "--command")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "allow_urls" not in printed.stdout
    assert paste(printed.stdout, tmp_path, in_a_shell=index == 0) == 0
    again = tmp_path / f"one-{str(row['video_id'])[:8]}"
    made = pq.read_table(again / "metadata.parquet").to_pylist()
    assert [r["video_id"] for r in made] == [row["video_id"]]
    expected, _ = read_frames(job / str(row["file_name"]))
    assert np.array_equal(read_frames(again / made[0]["file_name"])[0], expected)


def paste(text: str, folder: Path, *, in_a_shell: bool) -> int:
    """Return the exit code of a printed command: in a shell, or word by word as a shell would take it, here."""
    if in_a_shell:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", text], cwd=folder, env={**os.environ, "PATH": path}, check=False
        ).returncode
    codes = []
    for line in text.split("&&\n"):
        python, module, name, *arguments = shlex.split(line)
        assert [python, module, name] == ["python", "-m", "svd_batch"]
        codes.append(command_line.main(arguments))
    return max(codes)


def test_a_prefix_or_a_file_names_the_video(job: Path) -> None:
    row = rows(job)[0]
    names = [str(row["video_id"])[:8], str(row["file_name"]), str(job / str(row["file_name"]))]
    assert {show.find(job, name).record.video_id for name in names} == {row["video_id"]}


def test_all_of_the_row_is_printed_aligned_with_what_the_manifest_carried(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows(job)[1]
    assert command_line.main(["show", str(job), str(row["video_id"])]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.partition(":")[0] for line in table] == list(row)
    assert f"{'caption:':22}b" in table
    assert len({len(line) - len(line.partition(":")[2].lstrip()) for line in table}) == 1


def test_json_parses_and_holds_the_row(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = rows(job)[0]
    assert command_line.main(["show", str(job), str(row["video_id"]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    times = {"created_at": None, "started_at": None}
    assert {**shown, **times} == {**row, **times}


@pytest.mark.parametrize("video_id", ["0123456789abcdef0123", "abc", "", "cat.mp4"])
def test_an_unknown_video_is_a_usage_error(video_id: str, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["show", str(job), video_id]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: VIDEO_ID: ")
    assert f"no video {video_id!r}; give a video_id" in error


def test_a_prefix_of_two_videos_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_output(tmp_path / "out", image_ids=["cat"])
    record = next(store.records_dir.glob("*/*.json"))
    record.with_name(f"{record.stem[:10]}{'0' * 10}.json").write_text(record.read_text())
    assert command_line.main(["show", str(store.root), record.stem[:10]]) == 2
    assert f"{record.stem[:10]!r} begins 2 videos" in capsys.readouterr().err


def test_a_folder_that_is_no_dataset_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["show", str(tmp_path), "abcd"]) == 2
    assert f"{tmp_path} is not an output folder of svd_batch" in capsys.readouterr().err


def test_changed_weights_are_told(job: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_checkpoint / "scheduler/scheduler_config.json"
    before = config.read_text()
    config.write_text(before + " ")
    try:
        assert command_line.main(["show", str(job), str(rows(job)[0]["video_id"])]) == 0
    finally:
        config.write_text(before)
    assert "have changed since" in capsys.readouterr().err


def test_a_picture_on_the_web_is_to_be_downloaded(job: Path, tmp_path: Path) -> None:
    shown = show.find(job, str(rows(job)[0]["video_id"]))
    columns = {"image_id": [shown.record.image_id], "image_path": ["https://example.org/cat.png"]}
    elsewhere = str(write_parquet(tmp_path / "web.parquet", columns))
    text = show.script(show.Shown(shown.store, shown.record, shown.settings, (elsewhere,)))
    assert "# download https://example.org/cat.png as picture.png first" in text


@pytest.mark.parametrize(
    "text", ["plain", "a b", "it's", "7", "null", "1e5", "[a,b]", "a\\", "a\\'b", "k=v", "${x}", "ü"]
)
def test_any_text_passes_through_an_override(text: str) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(command_line.conf_dir()), version_base="1.3"):
        node = compose(overrides=[f"+other={show.override_value(text)}"])
    assert node.other == text


def test_a_picture_of_an_earlier_manifest_of_the_folder_is_found(
    pictures: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_batch.stages._make_engine", engine_without_torch)
    manifests = [
        write_parquet(tmp_path / f"{name[0]}.parquet", {"image_path": [str(pictures / name)]})
        for name in ("a.png", "b.jpg", "c.webp")
    ]
    job = [f"output={tmp_path / 'out'}", *tiny_overrides(tiny_checkpoint), "backend=serial"]
    for manifest in (*manifests, manifests[0]):
        assert command_line.main(["run", f"manifest={manifest}", *job]) == 0
    run = json.loads((tmp_path / "out/.svd_batch/run.json").read_text())
    assert [Path(path).name for path in run["manifest"]] == ["a.parquet", "c.parquet", "b.parquet"]
    manifests[2].unlink()
    found = {}
    for row in pq.read_table(tmp_path / "out/metadata.parquet").to_pylist():
        shown = show.find(tmp_path / "out", row["video_id"])
        try:
            found[Path(row["image_path"]).name] = shown.image().source
        except UserError as error:
            found[Path(row["image_path"]).name] = str(error)
    assert {name: found[name] for name in ("a.png", "b.jpg")} == {n: str(pictures / n) for n in ("a.png", "b.jpg")}
    assert "no such file" in found["c.webp"]
    assert "run the manifest that has it once more" in found["c.webp"]


@pytest.fixture(scope="module")
def approximated(tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished job with a video by ays10 alone and one in draft quality, of each of three pictures."""
    output = tmp_path_factory.mktemp("approximated") / "out"
    cells = "sweep.cells=[{deep_cache_interval: 1, guidance_sigma_min: 0, guidance_sigma_max: 1000},{}]"
    arguments = [f"manifest={pets}", f"output={output}", *tiny_overrides(tiny_checkpoint, 10), "quality=draft", cells]
    assert command_line.main(["run", *arguments, "backend=serial", "video=ffv1"]) == 0
    return output


@pytest.mark.parametrize(
    ("label", "source"),
    [
        ("ays10", "from diffusers import StableVideoDiffusionPipeline"),
        ("ays10, deep_cache_interval=2, guidance in 0.3 <= sigma <= 50", "import SVDSweepPipeline"),
    ],
)
def test_the_script_of_an_approximated_video_makes_its_frames_with_stock_where_stock_can(
    label: str, source: str, approximated: Path, tmp_path: Path, save: Save
) -> None:
    table = pq.read_table(approximated / "metadata.parquet").to_pylist()
    row = next(row for row in table if row["approximations"] == label)
    made = save(approximated, row["video_id"])
    text = (tmp_path / "one.py").read_text()
    assert source in text
    assert ("Stock diffusers can't make it" in text) == ("deep" in label)
    stored, _ = read_frames(approximated / row["file_name"])
    assert np.abs(made.astype(int) - stored.astype(int)).max() <= 1


def test_the_rows_of_approximated_videos_say_so(approximated: Path) -> None:
    found = {(row["quality"], row["sampler"]) for row in pq.read_table(approximated / "metadata.parquet").to_pylist()}
    assert found == {("draft", "ays10"), ("custom", "ays10")}


def test_the_command_of_an_approximated_video_names_its_approximations(approximated: Path) -> None:
    row = pq.read_table(approximated / "metadata.parquet").to_pylist()[0]
    words = show.command(show.find(approximated, row["video_id"])).split()
    assert {f"generation.{n}={show.override_value(row[n])}" for n in ("sampler", "deep_cache_interval")} <= set(words)
