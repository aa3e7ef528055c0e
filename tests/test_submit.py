"""The verb `submit` before anything is sent: arguments, settings, what would travel, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Cli

from svd_batch.cli import conf_dir
from svd_batch.errors import UserError
from svd_batch.submit import job_server, package, preflight
from svd_batch.submit.requirements import pinned
from svd_batch.submit.submission import hydra_quoted


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with a manifest, some more files, and what should stay here."""
    for name in ("pets.parquet", "clips/a.bin", ".git/config", ".env", "outputs/x/y.mp4", "made/.svd_batch/run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    for name in ("env/pyvenv.cfg", "env/lib/torch.so", "made/metadata.parquet", "src/__pycache__/a.pyc", "src/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    return tmp_path


def dry_run(cli_here: Cli, *arguments: str) -> dict[str, Any]:
    result = cli_here("submit", "cluster=ray", "--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    plan = yaml.safe_load(result.stdout)
    assert isinstance(plan, dict)
    return plan


def refusal(cli_here: Cli, *arguments: str) -> str:
    result = cli_here("submit", *arguments)
    assert result.returncode == 2, result.stdout
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


# --- the job's command line -----------------------------------------------------------------------------------


def test_all_arguments_but_the_clusters_go_to_the_job_as_they_are(cli_here: Cli) -> None:
    plan = dry_run(cli_here, "+sweep=motion", "sweep.fps=[7,8]", "cluster.env={A: 1}", "output=/data/out")
    run = "exec python -m svd_batch run +sweep=motion 'sweep.fps=[7,8]' output=/data/out backend.address=auto"
    assert plan["entrypoint"].endswith(f"&& {run}")


def test_the_job_may_be_a_refinement(cli_here: Cli) -> None:
    given = ("+sweep=motion", "cluster.verb=refine", "refine.best=2", "output=/data/out")
    assert " svd_batch refine +sweep=motion refine.best=2 output=" in dry_run(cli_here, *given)["entrypoint"]


def test_what_the_job_would_refuse_is_refused_before_it_is_sent(cli_here: Cli) -> None:
    given = ("cluster=ray", "output=/data/out")
    assert refusal(cli_here, *given, "generation.fps=0").startswith("generation.fps: 0 is not accepted")
    assert refusal(cli_here, *given, "refine.best=2").startswith("refine.best: `run` makes the whole grid")
    assert refusal(cli_here, *given, "cluster.verb=refine").startswith("refine.best: none given")
    for cluster in (given, ("cluster=slurm", "cluster.nodes=2")):
        assert refusal(cli_here, *cluster, "backend=serial").startswith("backend: serial makes all in one process")


def test_what_on_end_gets_may_not_stand_in_the_jobs_command(cli_here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("cluster=ray", "output=/data/out")
    text = refusal(cli_here, *given, "on_end.url=https://hooks.example/T0K3N")
    assert text.startswith("on_end.url: may hold a secret")
    assert "T0K3N" not in text
    monkeypatch.setenv("HOOK", "https://hooks.example/T0K3N")
    plan = dry_run(cli_here, "output=/data/out", "on_end.url='${oc.env:HOOK}'", "cluster.env_from=[HOOK]")
    assert "T0K3N" not in str(plan)
    assert "oc.env:HOOK" in plan["entrypoint"]


def test_each_job_of_a_multirun_is_a_submission_of_its_own(cli_here: Cli, work: Path) -> None:
    result = cli_here("submit", "-m", "cluster=ray", "seed=1,2", "output=/data/${seed}", "--dry-run")
    assert result.returncode == 0, result.stderr
    jobs = [line.partition("svd_batch run ")[2] for line in result.stdout.splitlines() if "entrypoint:" in line]
    assert jobs == [f"seed={n} output=/data/{n} backend.address=auto" for n in (1, 2)]


def test_a_folder_of_configuration_travels_where_the_job_reads_it(cli_here: Cli, work: Path) -> None:
    for name in ("cluster/mine.yaml", "sweep/ours.yaml"):
        (work / "my_conf" / name).parent.mkdir(parents=True, exist_ok=True)
    (work / "my_conf/cluster/mine.yaml").write_text("defaults: [ray, _self_]\nmetadata: {team: video}\n")
    (work / "my_conf/sweep/ours.yaml").write_text("fps: [7, 8]\n")
    given = ["submit", "cluster=mine", "output=/o", "--config-dir", "my_conf", "--dry-run"]
    plans = [yaml.safe_load(cli_here(*given, *more).stdout) for more in ([], ["+sweep=ours"])]
    assert [plan["metadata"]["team"] for plan in plans] == ["video", "video"]
    assert ["--config-dir my_conf" in plan["entrypoint"] for plan in plans] == [False, True]
    result = cli_here(*given, "+sweep=ours", "cluster.exclude=[my_conf]")
    assert "--config-dir: 'my_conf' is not among the files that travel" in result.stderr


@pytest.mark.parametrize("text", ["/data/out", "/da ta/x'y", "a=b,[c]", "back\\", "s3://bucket/x"])
def test_a_quoted_value_comes_back_as_it_was(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"output={hydra_quoted(text)}"])
    assert override.value() == text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "cluster: none is chosen; give cluster=ray, cluster=kuberay or cluster=slurm"),
        (["cluster=ray", "output=out"], "output: 'out' is a folder of this machine"),
        (["cluster=ray"], "output: 'outputs/single' is a folder of this machine"),
        (["cluster=ray", "output='~/out'"], "output: '~/out' is a folder of this machine"),
        (["cluster=ray", "output=/o", "manifest=no.parquet"], "manifest: 'no.parquet' is not among the files"),
        (
            ["cluster=ray", "output=/o", "manifest=pets.parquet", "cluster.exclude=[pets.*]"],
            "manifest: 'pets.parquet' is",
        ),
        (
            ["cluster=ray", "output=/o", "cluster.address=ray://head:10001"],
            "cluster.address: 'ray://head:10001' is not",
        ),
        (["cluster=ray", "output=/o", "cluster.nope=1"], "unknown key cluster.nope"),
        (["cluster=ray", "output=/o", "cluster.env={HF_TOKEN: abc}"], "cluster.env.HF_TOKEN: looks like a secret"),
        (["cluster=ray", "output=/o", "cluster.env_from=[hf-abc]"], "cluster.env_from: what was given is not"),
        (["cluster=ray", "output=/o", "cluster.env_from=[SVDB_UNSET]"], "cluster.env_from: SVDB_UNSET is not set"),
        (
            ["cluster=ray", "output=/o", "manifest=https://me:pw@host/a.parquet"],
            "manifest=https://host/a.parquet: holds",
        ),
        (["cluster=ray", "output=/o", "cluster.working_dir=nowhere"], "cluster.working_dir: 'nowhere' is no folder"),
        (["cluster=ray", "output=/o", "cluster.stop_wait_s=0"], "cluster.stop_wait_s: 0 is not accepted"),
        (["cluster=ray", "output=/o", "--apply"], "--apply: cluster=ray has no use for it"),
    ],
)
def test_bad_input_is_one_sentence(cli_here: Cli, work: Path, given: list[str], sentence: str) -> None:
    assert refusal(cli_here, *given).startswith(sentence)


def test_other_verbs_refuse_a_cluster(cli_here: Cli) -> None:
    result = cli_here("run", "cluster=ray")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "cluster: run has no use for this section" in result.stderr


def test_a_dry_run_shows_no_secret(cli_here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretvalue")
    plan = dry_run(cli_here, "output=/o", "cluster.env_from=[HF_TOKEN]")
    assert plan["runtime_env"]["env_vars"]["HF_TOKEN"] == "(from your environment)"
    assert "averysecret" not in str(plan)


# --- what travels ---------------------------------------------------------------------------------------------


def names(folder: Path | None, *exclude: str) -> set[str]:
    return {f.name for f in package.collect(folder, exclude, conf_dir())}


def test_hidden_files_outputs_environments_and_caches_stay_here(work: Path) -> None:
    own = {n for n in names(work) if not n.startswith("svd_batch/")}
    assert own == {"pets.parquet", "clips/a.bin", "src/a.py"}


@pytest.mark.parametrize("pattern", ["clips", "clips/", "clips/a.bin", "*.bin", "cl*"])
def test_more_can_be_left_out_by_name_pattern_or_path(work: Path, pattern: str) -> None:
    assert "clips/a.bin" not in names(work, pattern)
    assert "pets.parquet" in names(work, pattern)


def test_a_link_out_of_the_folder_stays_here(work: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "key"
    secret.write_text("x")
    (work / "key").symlink_to(secret)
    (work / "again").symlink_to(work / "pets.parquet")
    assert "key" not in names(work)
    assert "again" in names(work)


def test_the_package_runs_from_the_archive_alone(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    package.write_zip(package.collect(None, (), conf_dir()), archive, None)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "there")
    code = "import svd_batch, svd_batch.cli as c; print(svd_batch.__file__, c.main(['plan', '--cfg', 'job']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "there", env={**os.environ, "PYTHONPATH": ""}, capture_output=True
    )
    assert str(tmp_path / "there") in done.stdout.decode()
    assert b"motion_bucket_id" in done.stdout


def test_the_same_files_make_the_same_archive(work: Path) -> None:
    made = []
    for name in ("a.zip", "b.zip"):
        os.utime(work / "pets.parquet", (1, 1) if made else None)
        package.write_zip(package.collect(work, ("*.zip",), conf_dir()), work / name, work)
        made.append((work / name).read_bytes())
    assert made[0] == made[1]


def test_too_much_is_refused_with_the_sizes_before_anything_is_sent(work: Path) -> None:
    with (work / "clips/large.bin").open("wb") as file:
        for _ in range(110):
            file.write(os.urandom(1 << 20))
    files = package.collect(work, (), conf_dir())
    with pytest.raises(
        UserError, match=r"takes 104.9 MB packed; the largest are clips \(115.3 MB\).*exclude=\[clips\]"
    ):
        package.write_zip(files, work / "a.zip", work)


def test_a_home_folder_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="is too much to send"):
        package.collect(tmp_path, (), conf_dir())


def test_the_limit_is_rays_own() -> None:
    from ray._private import ray_constants

    assert package.LIMIT_BYTES == ray_constants.DASHBOARD_CLIENT_MAX_SIZE


def test_dependencies_are_pinned_as_they_are_here_without_rays() -> None:
    pins = dict(line.split("==") for line in pinned("svd_batch"))
    assert pins["diffusers"] == version("diffusers")
    assert pins["tokenizers"] == version("tokenizers")  # needed by what is needed
    assert "+" not in pins["torch"]
    assert not {"ray", "pytest", "svd_batch"} & set(pins)


# --- the first process on the cluster ---------------------------------------------------------------------------


def test_an_old_python_on_the_cluster_is_a_sentence() -> None:
    assert preflight.problem((3, 9)) == (
        "the cluster's Python is 3.9 and svd_batch needs 3.11 or newer; use another image"
    )


def test_missing_packages_on_the_cluster_are_a_sentence() -> None:
    command = [sys.executable, "-S", "-m", "svd_batch.submit.preflight"]  # -S: no site-packages
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the cluster's Python lacks ray, torch, diffusers, ")
    assert done.stderr.count("\n") == 1


def test_this_python_passes() -> None:
    assert preflight.problem() is None


def test_the_versions_asked_for_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least, below = (".".join(map(str, v)) for v in (job_server.LEAST_RAY, (job_server.BELOW_RAY[0],)))
    assert f"ray[data]>={least},<{below}" in project["dependencies"]
    assert project["requires-python"] == ">=" + ".".join(map(str, preflight.LEAST_PYTHON))


# --- job servers that aren't what they should be -----------------------------------------------------------------


@contextmanager
def server(body: bytes, status: int = 200, wait_s: float = 0) -> Iterator[str]:
    """Answer every request alike, on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(wait_s)
            with suppress(ConnectionError):  # who asked has given up; http.server would print that
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b'{"ray_version": "2.40.0"}', 200, "runs Ray 2.40.0 and svd_batch needs at least 2.58, below 3.0"),
        (b'{"ray_version": "3.1.0"}', 200, "runs Ray 3.1.0 and svd_batch needs"),
        (b"<html>hello</html>", 200, "is no Ray job server"),
        (b"", 404, "is no Ray job server"),
        (b"", 401, "asks for a token and none was found here"),
    ],
)
def test_a_wrong_server_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: bytes, status: int, sentence: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with server(body, status) as address, pytest.raises(UserError, match=sentence):
        job_server.connect(address, print)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://nowhere.invalid:8265"])
def test_an_unreachable_address_is_one_sentence_within_seconds(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"can't be reached: \w"):
        job_server.connect(address, print)
    assert time.monotonic() - start < 30


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "TIMEOUT_S", 0.5)
    with server(b"", wait_s=3) as address, pytest.raises(UserError, match="did not answer as a job server does"):
        job_server.connect(address, print)


def test_an_open_job_server_is_warned_of_unless_it_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with server(b'{"ray_version": "2.60.0"}') as address:
        job_server.connect(address, told.append)
        assert told == []
        monkeypatch.setattr(job_server, "is_loopback", lambda _: False)
        job_server.connect(address, told.append)
    (warning,) = told
    assert "takes jobs from anyone who can reach it, with no token" in warning


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://127.9.9.9:8265", True),
        ("http://[::1]:8265", True),
        ("http://localhost:8265", True),
        ("http://0.0.0.0:8265", False),
        ("http://10.0.0.7:8265", False),
        ("https://head.example.org", False),
        ("http://localhost.example.org:8265", False),
    ],
)
def test_loopback_is_what_nobody_else_reaches(address: str, is_ours: bool) -> None:
    assert job_server.is_loopback(address) is is_ours


def test_the_address_given_wins_over_rays_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with server(b'{"ray_version": "2.60.0"}') as address:
        assert job_server.connect(address, print).get_address() == address
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


def test_what_reads_stores_is_pinned_for_the_cluster_where_it_is_installed_here() -> None:
    names = {line.partition("==")[0] for line in pinned("svd_batch")}
    assert {"s3fs", "universal-pathlib"} <= names
    assert "gcsfs" not in names
