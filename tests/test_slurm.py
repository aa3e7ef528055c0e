"""`submit cluster=slurm` with Slurm's own daemons (slurm.py): a job's life from sbatch to a whole OUTPUT."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import without_torch
from conftest import PATIENCE_S
from slurm import SlurmCluster, make_cluster

from svd_batch.store import Store
from svd_batch.verify import problems

SMALL = ["model.num_frames=4", "model.height=32", "model.width=48", "metrics.names=[]", "seeds=[1]"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    cluster = make_cluster()
    yield cluster
    cluster.stop()


class Job:
    """A command line of `submit` for one OUTPUT, with an engine that takes `video_s` for a video.

    Without Ray unless told otherwise: signals and requeues do the same to a run, and it starts in a tenth of the time.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        folder: Path,
        pets: Path,
        *arguments: str,
        video_s: float = 0.01,
        backend: tuple[str, ...] = ("backend=serial",),
    ) -> None:
        self.cluster, self.folder, self.output = cluster, folder, folder / "out"
        self.take(video_s)
        shape = ["cluster.gpus_per_node=0", "cluster.cpus_per_task=4", *backend]
        self._arguments = [f"manifest={pets}", f"output={self.output}", *SMALL, *shape, *arguments]

    def take(self, video_s: float) -> None:
        """Let a video take so long in what is submitted from here on."""
        self.environment = {**without_torch(self.output, video_s), "RAY_worker_niceness": "0"}

    def submit(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Call `submit` where Slurm's commands are."""
        command = [sys.executable, "-m", "svd_batch", "submit", "cluster=slurm", *options, *self._arguments]
        return self.cluster.call(*command, folder=self.folder, environment=self.environment, timeout=PATIENCE_S)

    def send(self) -> str:
        """Submit without waiting and return the job's id."""
        done = self.submit("--no-wait")
        assert done.returncode == 0, done.stderr
        found = re.search(r"^job: +(\d+)", done.stdout, re.MULTILINE)
        assert found, done.stdout
        return found[1]

    def log(self) -> str:
        """Return what the job has printed."""
        return "".join(p.read_text() for p in (self.output / ".svd_batch/slurm").glob("slurm-*.log"))

    def num_done(self) -> int:
        """Return how many videos are committed."""
        return len(Store(self.output).done_ids())

    def wait_for_videos(self, number: int, timeout: float = PATIENCE_S) -> None:
        """Return when so many are committed."""
        deadline = time.monotonic() + timeout
        while self.num_done() < number:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def num_commits(self) -> dict[str, int]:
        """Return how often each video was committed, over all starts, by the diary of its processes."""
        lines = self.output.with_suffix(".events").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return collections.Counter(event["what"] for event in events if event["kind"] == "commit")

    def assert_whole(self, number: int) -> None:
        """Fail unless there is each video, made once, and nothing is wrong with any."""
        assert self.num_done() == number, self.log()
        assert set(self.num_commits().values()) == {1}
        assert not list(problems(self.output))


def buckets(number: int) -> str:
    return f"sweep.motion_bucket_id={list(range(10, 10 + number))}".replace(" ", "")


def test_a_submitted_job_is_followed_to_its_end_and_its_output_is_whole(
    cluster: SlurmCluster, tmp_path: Path, pets: Path
) -> None:
    job = Job(cluster, tmp_path, pets, buckets(2), backend=("backend.num_actors=1",))
    done = job.submit()
    assert done.returncode == 0, (done.stderr, job.log())
    assert "job 1: COMPLETED" in done.stdout
    assert "videos:   6 in" in done.stdout  # of the job's log
    job.assert_whole(6)
    assert ": COMPLETED" in job.submit("--status").stdout


def test_a_failing_job_has_its_exit_code_and_status_says_why(cluster: SlurmCluster, tmp_path: Path, pets: Path) -> None:
    job = Job(cluster, tmp_path, pets, "model.id=/nowhere/at/all")
    done = job.submit()
    assert done.returncode == 2
    told = job.submit("--status").stdout
    assert "FAILED, exit code 2" in told
    assert "error: model.id: no such folder: /nowhere/at/all" in told


def test_told_to_stop_before_the_time_limit_it_commits_requeues_itself_and_makes_no_video_twice(
    cluster: SlurmCluster, tmp_path: Path, pets: Path
) -> None:
    job = Job(cluster, tmp_path, pets, buckets(10), video_s=0.5)
    job_id = job.send()
    job.wait_for_videos(3)
    cluster.call("scancel", "--signal=USR1", "--batch", job_id)  # what Slurm itself sends by --signal
    cluster.wait_for(job_id, "PENDING")
    assert 3 <= job.num_done() < 30
    assert cluster.wait_for(job_id, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED", job.log()
    assert "requeued: the next start goes on from here" in job.log()
    assert "requeued 1 times" in job.submit("--status").stdout
    job.assert_whole(30)


def test_a_second_submission_is_refused_and_stop_ends_in_order_without_a_requeue(
    cluster: SlurmCluster, tmp_path: Path, pets: Path
) -> None:
    job = Job(cluster, tmp_path, pets, buckets(10), video_s=3)  # none may be left to make while two commands run
    job_id = job.send()
    job.wait_for_videos(2)
    second = job.submit("--no-wait")
    assert second.returncode == 2
    assert f"job {job_id} (RUNNING) already makes {job.output}" in second.stderr
    assert "told to stop" in job.submit("--stop").stdout
    assert cluster.wait_for(job_id, "COMPLETED", "FAILED", "CANCELLED", "PENDING") == "FAILED"
    assert "interrupted: everything finished is kept" in job.submit("--status").stdout
    num_kept = job.num_done()
    assert 2 <= num_kept < 30
    assert Store(job.output).metadata.is_file()
    job.take(0.01)
    assert job.submit().returncode == 0
    job.assert_whole(30)


def test_a_cancelled_job_leaves_what_the_next_one_goes_on_with(
    cluster: SlurmCluster, tmp_path: Path, pets: Path
) -> None:
    job = Job(cluster, tmp_path, pets, buckets(10), video_s=1)
    job_id = job.send()
    job.wait_for_videos(2)
    cluster.call("scancel", job_id)
    assert cluster.wait_for(job_id, "CANCELLED", "FAILED", "COMPLETED", "PENDING") == "CANCELLED"
    num_kept = job.num_done()
    assert num_kept < 30
    job.take(0.01)
    assert job.submit().returncode == 0, job.log()
    job.assert_whole(30)


def test_a_waiting_job_is_cancelled_by_stop(cluster: SlurmCluster, tmp_path: Path, pets: Path) -> None:
    job = Job(cluster, tmp_path, pets, 'cluster.sbatch=["--begin=now+1hour"]')
    job_id = job.send()
    assert "waits for BeginTime" in job.submit("--status").stdout
    assert "cancelled while it waited" in job.submit("--stop").stdout
    assert cluster.wait_for(job_id, "CANCELLED") == "CANCELLED"
    assert job.submit("--stop").returncode == 1


@pytest.mark.slow  # Ray's own start and end on two nodes take a minute of two idle cores
def test_two_nodes_run_one_job_and_give_the_outputs_videos_once(
    cluster: SlurmCluster, tmp_path: Path, pets: Path
) -> None:
    two = ["cluster.nodes=2", "cluster.gpus_per_node=1"]
    job = Job(cluster, tmp_path, pets, buckets(10), *two, video_s=0.5, backend=("backend.num_actors=2",))
    done = job.submit()
    assert done.returncode == 0, (done.stderr, job.log())
    job.assert_whole(30)


def test_what_slurm_refuses_is_told_in_a_sentence(cluster: SlurmCluster, tmp_path: Path, pets: Path) -> None:
    done = Job(cluster, tmp_path, pets, "cluster.partition=nowhere").submit()
    assert done.returncode == 2
    assert "error: cluster=slurm: sbatch: " in done.stderr
    assert "nvalid partition" in done.stderr
