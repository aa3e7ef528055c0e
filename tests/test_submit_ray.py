"""`submit cluster=ray` against a real head with a job server on loopback: follow, fail, stop, go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from builders import without_torch
from conftest import PATIENCE_S, ROOT
from ray_head import Head, ray_head

from svd_batch import cli as command_line
from svd_batch.store import Store
from svd_batch.submit.package import LIMIT_BYTES

Done = subprocess.CompletedProcess[str]
Submit = Callable[..., Done]

SWEEP, NUM_VIDEOS = "+sweep=motion", 36


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as running:
        yield running


@pytest.fixture
def submit(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Submit:
    """`svd-batch submit cluster=ray ARGUMENTS` here for OUTPUT tmp_path/out, with the millisecond engine in the job."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)

    def call(*arguments: str, video_s: float = 0.01) -> Done:
        words = submit_words(head, tmp_path / "out", video_s, *arguments)
        capfd.readouterr()
        code = command_line.main(words)
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, printed.out, printed.err)

    return call


def submit_words(head: Head, output: Path, video_s: float, *arguments: str) -> list[str]:
    """Return the arguments of a submission whose job has the millisecond engine."""
    job = without_torch(output, video_s)
    job["PYTHONPATH"] = os.pathsep.join([str(ROOT / "scripts/crash/site"), str(ROOT / "scripts")])
    variables = ", ".join(f"{k}: {json.dumps(job[k])}" for k in ("PYTHONPATH", "SVD_BATCH_CRASH_LAYER"))
    words = ["submit", "cluster=ray", f"cluster.address={head.address}", f"output={output}"]
    return [*words, f"cluster.env={{{variables}}}", *arguments]


def submit_alone(head: Head, work: Path, words: list[str], **environment: str) -> Done:
    """Submit in a process of its own: Ray's client reads a token once."""
    return subprocess.run(
        [sys.executable, "-m", "svd_batch", *words],
        cwd=work,
        env={**os.environ, "RAY_AUTH_TOKEN": head.token, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def client_of(head: Head) -> Any:
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(head.address, headers={"Authorization": f"Bearer {head.token}"})


def submission_id(result: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("submitted ")]
    return line.split()[1]


@dataclass(frozen=True)
class Story:
    """A job that was stopped, and the next submission for its OUTPUT, which went on with it to its end."""

    output: Path
    first: Done
    again: Done
    """While the first was running."""
    status: Done
    stopped: Done
    num_kept: int
    stopped_again: Done
    last: Done


@pytest.fixture(scope="module")
def story(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Story:
    work = tmp_path_factory.mktemp("work")
    output = tmp_path_factory.mktemp("story") / "out"

    def submit(*arguments: str, video_s: float = 0.01, **environment: str) -> Done:
        return submit_alone(head, work, submit_words(head, output, video_s, *arguments), **environment)

    first = submit(SWEEP, "--no-wait", video_s=3)
    assert first.returncode == 0, first.stderr
    store = Store(output)
    deadline = time.monotonic() + PATIENCE_S
    while not store.done_ids() and time.monotonic() < deadline:
        time.sleep(0.5)
    again, status, stopped = submit(SWEEP), submit("--status"), submit("--stop")
    num_kept, stopped_again = len(store.done_ids()), submit("--stop")
    secret = ("cluster.env_from=[SVDB_KEY]", "cluster.metadata={team: video}")
    last = submit(SWEEP, *secret, SVDB_KEY="abracadabra")
    return Story(output, first, again, status, stopped, num_kept, stopped_again, last)


def test_a_job_is_followed_to_its_end_and_its_secrets_are_written_nowhere(story: Story, head: Head) -> None:
    result = story.last
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    num_new = NUM_VIDEOS - story.num_kept
    assert f"{num_new}/{num_new} videos" in result.stdout
    job = client_of(head).get_job_info(submission_id(result))
    assert job.runtime_env["env_vars"]["SVDB_KEY"] == "abracadabra"
    assert (job.metadata["team"], job.metadata["output"]) == ("video", str(story.output))
    kept = [p for p in story.output.rglob("*") if p.suffix in (".json", ".yaml", ".md", ".html", ".log")]
    assert kept
    assert not [p for p in kept if "abracadabra" in p.read_text()]
    assert "abracadabra" not in result.stdout + str(job.metadata) + job.entrypoint


def test_a_second_submission_is_refused_while_the_first_is_running(story: Story) -> None:
    assert story.again.returncode == 2
    assert f"is being made by {submission_id(story.first)}, which is RUNNING" in story.again.stderr
    assert f"{submission_id(story.first)}: RUNNING" in story.status.stdout


def test_what_is_stopped_goes_on_with_the_next_submission(story: Story, head: Head) -> None:
    stopped = story.stopped
    assert (stopped.returncode, stopped.stdout.count("STOPPED")) == (0, 1), stopped.stdout + stopped.stderr
    assert "interrupted: everything finished is kept" in client_of(head).get_job_logs(submission_id(story.first))
    assert 0 < story.num_kept < NUM_VIDEOS
    assert story.stopped_again.returncode == 1  # nothing runs any more
    assert submission_id(story.last) == submission_id(story.first).removesuffix("-1") + "-2"
    assert f"{story.num_kept} done" in story.last.stdout
    assert len(Store(story.output).done_ids()) == NUM_VIDEOS


def test_a_failing_jobs_exit_code_and_reason_come_back(submit: Submit) -> None:
    result = submit("manifest=/data/none.parquet")
    assert result.returncode == 2
    assert "error: manifest: no such file: /data/none.parquet; give" in result.stdout
    assert "failed with exit code 2; its last lines above say why" in result.stdout


def test_more_gpus_than_there_are_is_waited_for_and_then_refused(submit: Submit) -> None:
    result = submit("backend.num_gpus=1", "backend.num_actors=2", "backend.wait_s=2")
    assert result.returncode == 2
    assert "waiting up to 2 s for more nodes: backend.num_gpus: an actor asks for 1 GPUs" in result.stdout
    assert "error: backend.num_gpus: an actor asks for 1 GPUs and Ray sees 0" in result.stdout


def test_a_job_that_waits_for_its_own_resources_says_so(submit: Submit) -> None:
    assert submit("cluster.entrypoint_resources={nowhere: 1}", "--no-wait").returncode == 0
    assert "PENDING: Job has not started yet. It may be waiting for resources" in submit("--status").stdout


@pytest.mark.parametrize(("token", "found"), [("wrong", "the token found here is not"), ("", "none was found here")])
def test_a_wrong_token_or_none_is_one_sentence(head: Head, tmp_path: Path, token: str, found: str) -> None:
    words = submit_words(head, tmp_path / "out", 0.01, "--status")
    result = submit_alone(head, tmp_path, words, RAY_AUTH_TOKEN=token, HOME=str(tmp_path))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"asks for a token and {found}" in result.stderr


def test_an_output_that_nobody_submitted_is_not_known(submit: Submit) -> None:
    result = submit("--status")
    assert (result.returncode, result.stderr) == (1, "")
    assert "knows of no submission for" in result.stdout


def test_the_job_server_refuses_more_than_the_limit_that_is_checked_here(head: Head) -> None:
    headers = {"Authorization": f"Bearer {head.token}"}
    codes = [
        requests.put(
            f"{head.address}/api/packages/gcs/svdb_{size}.zip", data=bytes(size), headers=headers, timeout=PATIENCE_S
        ).status_code
        for size in (LIMIT_BYTES, LIMIT_BYTES + 1)
    ]
    assert codes[0] == 200
    assert codes[1] != 200
