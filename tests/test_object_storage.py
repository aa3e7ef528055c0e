"""OUTPUT, manifest, pictures and checkpoint in a store, on a real S3 server that breaks as told: tests/s3_server.py.

The engine is the crash test's, all else is real. Runs that are killed, or on Ray, are processes of their own.
"""

from __future__ import annotations

import collections
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import without_torch
from conftest import PATIENCE_S, Cli, tiny_overrides
from ray_head import free_ports

from svd_batch import lease
from svd_batch.access import Access, own_stores
from svd_batch.errors import UserError
from svd_batch.images import read_bytes
from svd_batch.locations import children, create, location
from svd_batch.manifest import read_manifest
from svd_batch.store import Store
from svd_batch.verify import problems

FOUR = "sweep.motion_bucket_id=[20,80,140,240]"
SMALL = ["model.num_frames=4", "model.height=32", "model.width=32", "generation.num_inference_steps=1"]


class Server:
    """The running server, its bucket `data`, and what it is told to spoil."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def spoil(self, *rules: dict[str, Any]) -> None:
        """Break what the rules name from now on, and nothing else."""
        request = urllib.request.Request(f"{self.url}/_faults", json.dumps(rules).encode(), method="POST")
        urllib.request.urlopen(request).close()

    def asked(self) -> dict[str, Any]:
        """Return the requests so far, and the rules with how often each has hit."""
        with urllib.request.urlopen(f"{self.url}/_requests") as answer:
            return dict(json.loads(answer.read()))


@pytest.fixture(scope="module")
def server(pictures: Path, pets: Path) -> Iterator[Server]:
    """A server whose bucket has the manifest and its pictures under s3://data/pets."""
    (port,) = free_ports(1)
    script = Path(__file__).with_name("s3_server.py")
    process = subprocess.Popen([sys.executable, str(script), str(port)], stderr=subprocess.DEVNULL)
    served = Server(f"http://127.0.0.1:{port}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in served.environment.items():
            patch.setenv(name, value)
        deadline = time.monotonic() + 60
        while True:
            try:
                served.spoil()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        import s3fs

        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("data")
        for path in pictures.iterdir():
            files.put_file(str(path), f"data/pets/{path.name}")
        yield served
    process.terminate()
    process.wait()


class Runs:
    """Calls the command line with OUTPUT at an address of its own."""

    def __init__(self, server: Server, folder: Path, cli_here: Cli) -> None:
        self.server, self.folder, self._cli_here = server, folder, cli_here
        self.address = f"s3://data/{folder.name}"
        self.output = location(self.address)

    def command(self, *words: str, verb: str = "run") -> list[str]:
        """Return the command line."""
        own = [f"output={self.address}", "manifest=s3://data/pets/pets.parquet", *SMALL]
        first = own if verb in ("run", "plan") else [self.address]
        return [verb, *first, *words]

    def environment(self, video_s: float = 0.01) -> dict[str, str]:
        """Return an environment in which a video takes so long."""
        own = {"TMPDIR": str(self.folder)}
        return {**without_torch(self.folder / "out", video_s), **self.server.environment, **own}

    def __call__(self, *words: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
        """Run a command in this process to its end."""
        serial = ["backend=serial"] if verb == "run" and not any(w.startswith("backend") for w in words) else []
        return self._cli_here(*self.command(*serial, *words, verb=verb))

    def elsewhere(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the job in a process of its own to its end."""
        return subprocess.run(
            [sys.executable, "-m", "svd_batch", *self.command(*words)],
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def begin(self, *words: str, video_s: float) -> subprocess.Popen[str]:
        """Start a run and return when it has committed two videos."""
        process = subprocess.Popen(
            [sys.executable, "-m", "svd_batch", *self.command("backend=serial", *words)],
            env=self.environment(video_s),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        deadline = time.monotonic() + PATIENCE_S
        while len(self.store.done_ids()) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return process

    @property
    def store(self) -> Store:
        return Store(self.output)

    def commits(self) -> collections.Counter[str]:
        """Return how often each video was put into the store, by its name."""
        puts = re.compile(rf"PUT /data/{self.folder.name}/videos/(.*)\.mp4")
        found = (puts.fullmatch(request) for request in self.server.asked()["requests"])
        return collections.Counter(match[1] for match in found if match)

    def assert_whole(self, number: int) -> None:
        """Fail unless so many videos are there, each once in the table, and nothing is on its way."""
        import pyarrow.parquet as pq

        with self.store.metadata.open("rb") as file:
            table = pq.read_table(file)
        assert table.num_rows == number == len(set(table["video_id"].to_pylist()))
        assert not list(problems(self.output))
        assert children(self.store.pending_dir) == []
        assert children(self.store.attempts_dir) == []
        assert list(self.store.temporary_dir.iterdir()) == []


@pytest.fixture
def runs(
    server: Server, no_torch: None, cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runs]:
    """Runs with OUTPUT s3://data/NAME, NAME being the test's own; afterwards the server spoils nothing any more."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield Runs(server, tmp_path, cli_here)
    server.spoil()


def test_a_run_from_a_store_into_a_store_is_whole_and_the_same_command_does_nothing(runs: Runs) -> None:
    done = runs(FOUR)
    assert done.returncode == 0, done.stderr
    assert f"table:    {runs.address}/metadata.parquet" in done.stdout
    runs.assert_whole(12)
    assert set(runs.commits().values()) == {1}
    assert not [request for request in runs.server.asked()["requests"] if request.endswith(" copy")]
    again = runs(FOUR)
    assert again.returncode == 0
    assert "12 of 12 done, nothing to do" in again.stdout
    assert set(runs.commits().values()) == {1}


def test_every_verb_reads_an_output_in_a_store(runs: Runs) -> None:
    assert runs("sweep.motion_bucket_id=[20,240]").returncode == 0
    told = runs(verb="status").stdout
    assert "finished" in told
    assert "6 of 6 done" in told
    assert runs(verb="verify").returncode == 0
    video_id = next(iter(runs.store.records())).video_id
    assert f"show {runs.address} {video_id}" in runs(video_id, verb="show").stdout
    assert runs("--motion", "1", verb="recommend").returncode == 0
    table = runs.folder / "table.csv"
    assert runs("--to", "csv", "-o", str(table), verb="export").returncode == 0
    assert len(table.read_text().splitlines()) == 7
    assert runs("--to", "csv", verb="export").returncode == 2
    assert runs("--to", "vbench", "-o", str(runs.folder / "vbench"), verb="export").returncode == 0
    assert len(list((runs.folder / "vbench/videos").glob("*.mp4"))) == 6
    assert runs("--force", "--metrics", "sharpness", verb="score").returncode == 0
    runs.assert_whole(6)


def test_the_page_in_the_store_links_relatively_and_one_elsewhere_by_signed_addresses(runs: Runs) -> None:
    assert runs("sweep.motion_bucket_id=[20,240]").returncode == 0
    there = (runs.output / "report.html").read_text(encoding="utf-8")
    assert '"folders":[{"name":"' in there
    assert '"href":""' in there
    assert '"signed":{}' in there
    page = runs.folder / "page.html"
    assert runs("-o", str(page), "--markdown", "--contact-sheets", verb="report").returncode == 0
    text = page.read_text(encoding="utf-8")
    links = json.loads(re.search(r'"signed":(\{.*?\})', text)[1])  # type: ignore[index]
    assert len(links) == 6
    for link in links.values():
        with urllib.request.urlopen(link) as answer:  # no credentials but the link
            assert answer.read(12)[4:8] == b"ftyp"
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]  # type: ignore[index]
    assert runs.server.url in policy.partition("media-src")[2]
    names = {path.name for path in children(runs.output / "report")}
    assert {"report.md", "contact"} <= names
    assert len(children(runs.output / "report" / "contact")) == 6


def test_a_killed_run_goes_on_and_makes_nothing_finished_again(runs: Runs) -> None:
    process = runs.begin(FOUR, video_s=0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = runs(FOUR)
    assert done.returncode == 0, done.stderr
    runs.assert_whole(12)
    assert sum(runs.commits().values()) <= 13  # the one that it was killed in, at most


@pytest.mark.parametrize(
    "rules",
    [
        [{"kind": "InternalError", "every": 17}, {"kind": "SlowDown", "every": 13}, {"kind": "slow", "every": 50}],
        [{"kind": "lost", "method": "PUT|DELETE", "every": 3}],
    ],
    ids=["500, 503 and slow", "done, and the answer lost"],
)
def test_what_the_client_can_try_again_costs_nothing(runs: Runs, rules: list[dict[str, Any]]) -> None:
    runs.server.spoil(*rules)
    done = runs("sweep.motion_bucket_id=[20]")
    assert done.returncode == 0, done.stderr
    assert runs.server.asked()["rules"][0]["hit"] > 4
    runs.server.spoil()
    runs.assert_whole(3)


@pytest.mark.parametrize("code", ["ExpiredToken", "InternalError"])
def test_a_store_that_refuses_in_the_middle_stops_the_run_with_a_sentence_and_it_goes_on(runs: Runs, code: str) -> None:
    runs.server.spoil({"kind": code, "method": "PUT", "path": "/videos/", "every": 1, "count": 10**6})
    done = runs.elsewhere("backend=serial", FOUR)  # it ends its process where threads still try when patience is over
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"error: storage: {code}")
    assert "the same command goes on" in sentence
    runs.server.spoil()
    assert runs(FOUR).returncode == 0
    runs.assert_whole(12)


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_a_store_that_refuses_is_not_told_of_as_a_folder_that_is_not_ours(runs: Runs, code: str) -> None:
    assert runs("sweep.motion_bucket_id=20").returncode == 0
    runs.server.spoil({"kind": code})
    done = runs(verb="status")
    runs.server.spoil()
    assert done.returncode == 2
    assert done.stderr.startswith("error: storage: ")
    assert "was not made by" not in done.stderr


def test_a_store_that_refuses_the_pictures_stops_the_run_and_one_that_denies_a_picture_fails_it(runs: Runs) -> None:
    one = ["sweep.motion_bucket_id=20", "check_images=none"]
    runs.server.spoil({"kind": "ExpiredToken", "path": "/pets/.*(png|jpg|jpeg)"})
    refused = runs(*one)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: storage: ")
    assert list(runs.store.failures()) == []
    runs.server.spoil({"kind": "AccessDenied", "path": "/pets/.*(png|jpg|jpeg)"})
    assert runs(*one).returncode == 3
    assert {failure.stage for failure in runs.store.failures()} == {"load"}
    runs.server.spoil()
    assert runs(*one, "retry_failed=true").returncode == 0
    runs.assert_whole(3)


def test_status_has_the_time_and_exit_code_of_an_ended_run(runs: Runs) -> None:
    process = runs.begin(FOUR, video_s=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 130
    found = json.loads(runs("--json", verb="status").stdout)
    assert (found["state"], found["exit_code"]) == ("interrupted", 130)
    assert runs(FOUR).returncode == 0
    found = json.loads(runs("--json", verb="status").stdout)
    assert (found["state"], found["exit_code"]) == ("finished", 0)
    assert found["ended_at"]


def test_one_writer_at_a_time(runs: Runs) -> None:
    process = runs.begin(FOUR, video_s=0.5)
    second = runs(FOUR)
    assert second.returncode == 2
    assert f"output: {runs.address} is being written by process {process.pid}" in second.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 130
    assert runs(FOUR).returncode == 0
    runs.assert_whole(12)


def test_of_many_who_ask_for_the_lease_in_the_same_moment_one_gets_it(runs: Runs) -> None:
    folder, won, lost = runs.output / "lease", [], []
    ready = threading.Barrier(6)

    def ask() -> None:
        ready.wait()
        try:
            won.append(lease.take(folder, runs.output, lambda _: None, lambda: None))
        except UserError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    won[0].release()
    lease.take(folder, runs.output, lambda _: None, lambda: None).release()


def test_a_file_that_is_made_though_the_answer_got_lost_is_ours(runs: Runs) -> None:
    runs.server.spoil({"kind": "lost", "method": "PUT", "count": 1})
    assert create(runs.output / "one", b"mine")
    assert not create(runs.output / "one", b"another's")


def test_an_actor_on_ray_writes_into_the_store(runs: Runs) -> None:
    done = runs.elsewhere("sweep.motion_bucket_id=[20]", "backend.num_actors=1")
    assert done.returncode == 0, done.stderr
    runs.assert_whole(3)


def test_a_checkpoint_in_a_store_is_fetched_once_and_its_address_is_in_the_table(
    runs: Runs, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("XDG_CACHE_HOME", str(runs.folder / "cache"))
    s3fs.S3FileSystem(use_listings_cache=False).put(str(tiny_checkpoint) + "/", "data/tiny/", recursive=True)
    tiny = [word for word in tiny_overrides(Path("s3://data/tiny"), 1) if not word.startswith("model.id")]
    words = ["model.id=s3://data/tiny", *tiny, "sweep.motion_bucket_id=[20]"]
    done = runs(*words)
    assert done.returncode == 0, done.stderr
    record = next(iter(runs.store.records()))
    assert record.model_id == "s3://data/tiny"
    fetched = [r for r in runs.server.asked()["requests"] if re.match(r"GET /data/tiny/unet/.*\.safetensors", r)]
    assert len(fetched) == 1
    absent = runs("model.id=s3://data/nothing", *tiny)
    assert absent.returncode == 2
    assert "model.id: no model_index.json in s3://data/nothing" in absent.stderr


def test_what_is_not_there_is_told_in_a_sentence(runs: Runs) -> None:
    nowhere = runs("output=s3://no-such-bucket/out")
    assert nowhere.returncode == 2
    assert "s3://no-such-bucket/out: there is no such bucket" in nowhere.stderr
    missing = runs("manifest=s3://data/none.parquet")
    assert missing.returncode == 2
    assert "no such file: s3://data/none.parquet" in missing.stderr
    unread = runs("output=nosuchkind://bucket/out")
    assert unread.returncode == 2
    assert "nosuchkind://" in unread.stderr
    runs.server.spoil({"kind": "AccessDenied"})
    refused = runs()
    assert refused.returncode == 2
    assert "error: storage: AccessDenied" in refused.stderr


@pytest.mark.parametrize("spec", ["s3://data/pets/*.parquet", "s3://data/pets", "s3://data/pets/pets.parquet"])
def test_a_manifest_in_a_store_is_a_file_a_glob_or_a_folder(server: Server, spec: str) -> None:
    access = Access(own_stores=own_stores([spec]))
    images = read_manifest([spec], access).images
    assert images[0].source.startswith("s3://data/pets/")
    assert len(read_bytes(images[0], access)) > 100


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://another/cat.jpg", "not accepted"),
        ("../../cat.jpg", "not accepted"),
        ("gs://data/cat.jpg", "not accepted"),
        ("file:///etc/passwd", "give a plain path"),
    ],
)
def test_pictures_of_a_manifest_in_a_store_lie_in_that_store(
    server: Server, path: str, said: str, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with location("s3://data/hostile/m.parquet").open("wb") as file:
        pq.write_table(pa.table({"image_path": [path]}), file)
    with pytest.raises(UserError, match=said):
        read_manifest(["s3://data/hostile/m.parquet"], Access(own_stores=("s3://data",)))


def test_the_scratch_folder_of_another_user_is_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs.store.here
    folder.rmdir()
    elsewhere = runs.folder / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(UserError, match="not this user's own folder"):
        _ = runs.store
    assert list(elsewhere.iterdir()) == []


def test_logs_are_put_beside_the_videos_for_those_who_read_from_elsewhere(runs: Runs) -> None:
    assert runs("sweep.motion_bucket_id=[20]").returncode == 0
    names = [path.name for path in children(runs.store.shared_logs_dir)]
    assert [name for name in names if name.startswith("events-")]
    assert [name for name in names if name.startswith("run-")]
