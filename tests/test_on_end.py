"""Who is told when a run ends: at every kind of end, in time, without harm to the run, without leaking the address."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from stub_engine import Act, StubEngine
from test_attempts import STICKING, raising
from test_faults import write_manifest
from test_secrets import files_with
from web import drips, gives, leads, web

from svd_batch.config import OnEndConfig
from svd_batch.errors import UserError
from svd_batch.lease import look
from svd_batch.records import SweepCell
from svd_batch.store import Store

SECRET = "T0PSECRET"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`svd-batch run` of one picture and two cells, in this process."""
    manifest = write_manifest(tmp_path, 1)

    def call(*overrides: str, act: Act | None = None) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("svd_batch.stages._make_engine", lambda settings: StubEngine(act))
        words = ["backend=serial", f"manifest={manifest}", "output=out", "metrics.names=[]"]
        return cli_here("run", *words, "sweep.motion_bucket_id=[1,2]", *overrides)

    return call


def interrupt(cell: SweepCell) -> None:
    if cell.motion_bucket_id == 2:
        while not list(Path("out/.svd_batch/records").glob("*/*.json")):
            time.sleep(0.01)
        time.sleep(0.3)  # the driver counts it meanwhile
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)


def no_room(cell: SweepCell) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


ENDS: dict[int, tuple[list[str], Act | None]] = {
    0: ([], None),
    3: ([], raising(ValueError("too dark"), 2)),
    4: ([], raising(STICKING, 2)),
    130: ([], interrupt),
}


@pytest.mark.parametrize("code", ENDS)
def test_every_end_of_a_run_is_told_with_its_exit_code_and_counts(code: int, run: Run) -> None:
    overrides, act = ENDS[code]
    with web(hook=gives(b"")) as server:
        ended = run(f"on_end.url={server.url}/hook", *overrides, act=act)
    assert ended.returncode == code
    (body,) = server.bodies
    told = json.loads(body)
    assert (told["exit_code"], told["output"], told["num_asked"]) == (code, "out", 2)
    assert told["num_made"] in ((2,) if code == 0 else (1, 2) if code == 130 else (1,))
    assert told["seconds"] > 0
    assert told["most_frequent_failure"] == ("generate: too dark" if code == 3 else None)
    assert (told["error"] is not None) == (code == 4)
    assert f"exit code {code}" in told["text"]


def test_a_disk_that_refuses_after_the_start_is_told_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "commit_video", full)
    with web(hook=gives(b"")) as server:
        assert run(f"on_end.url={server.url}/hook").returncode == 2
    told = json.loads(server.bodies[0])
    assert told["exit_code"] == 2
    assert told["error"]


def test_this_machine_is_told_without_a_proxy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with web(hook=gives(b"")) as server:
        assert run(f"on_end.url={server.url}/hook").returncode == 0
    assert len(server.bodies) == 1


def test_a_run_that_never_began_tells_nobody(run: Run, tmp_path: Path) -> None:
    assert run().returncode == 0
    with web(hook=gives(b"")) as server:
        assert run(f"on_end.url={server.url}/hook", "seed=7").returncode == 2
    assert server.bodies == []


@pytest.mark.parametrize(
    ("answer", "limit_s", "says"),
    [
        (gives(b"", 500), 60, "127.0.0.1 answered 500"),
        (leads("/elsewhere"), 60, "127.0.0.1 answered 302"),
        (drips(b"HTTP/1.0 2"), 0.5, "no answer within 0.5 s"),
        (None, 60, "127.0.0.1 was not reached"),
    ],
)
def test_an_address_that_fails_is_one_warning_in_time_and_the_run_is_fine(
    answer: Any, limit_s: float, says: str, run: Run
) -> None:
    with web(**({SECRET: answer} if answer else {})) as server:
        url = f"{server.url}/{SECRET}" if answer else f"http://127.0.0.1:1/{SECRET}"
        start = time.monotonic()
        ended = run(f"on_end.url={url}", f"on_end.timeout_s={limit_s}")
    assert ended.returncode == 0
    assert time.monotonic() - start < 60
    (warning,) = [line for line in ended.stderr.splitlines() if "on_end" in line]
    assert warning.startswith(f"warning: on_end.url: {says}")
    assert SECRET not in ended.stderr
    assert all("elsewhere" not in path for path, _ in server.seen)


def script(folder: Path, code: str) -> str:
    """Return a command that runs some Python."""
    path = folder / "tell.py"
    path.write_text(code)
    return f"{sys.executable} {path} {folder}/told"


TELL = "import json, os, sys; json.dump([dict(os.environ), json.load(sys.stdin)], open(sys.argv[1], 'w'))"


def test_a_command_has_the_outcome_in_its_environment_and_on_stdin(run: Run, tmp_path: Path) -> None:
    words = [f"on_end.command='{script(tmp_path, TELL)}'", "max_failed_fraction=1"]
    assert run(*words, act=raising(ValueError("too dark"), 2)).returncode == 0
    environment, told = json.loads((tmp_path / "told").read_text())
    names = ("EXIT_CODE", "OUTPUT", "NUM_ASKED", "NUM_MADE", "NUM_FAILED", "MOST_FREQUENT_FAILURE", "ERROR")
    values = tuple(environment[f"SVD_BATCH_{name}"] for name in names)
    assert values == ("0", "out", "2", "1", "1", "generate: too dark", "")
    assert told["num_made"] == 1
    assert environment["SVD_BATCH_FOLDER"] == str((tmp_path / "out").resolve())


def test_no_shell_reads_the_command(run: Run, tmp_path: Path) -> None:
    command = script(tmp_path, "import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:]))")
    assert run(f"on_end.command='{command} $HOME ; touch {tmp_path}/pwned'").returncode == 0
    assert (tmp_path / "told").read_text() == f"$HOME ; touch {tmp_path}/pwned"
    assert not (tmp_path / "pwned").exists()


def test_the_folder_is_free_when_the_command_runs(run: Run, tmp_path: Path) -> None:
    code = "import pathlib, sys; from svd_batch.lease import look\n"
    code += "open(sys.argv[1], 'w').write(str(look(pathlib.Path('out/.svd_batch/lease'))))"
    assert run(f"on_end.command='{script(tmp_path, code)}'").returncode == 0
    assert (tmp_path / "told").read_text() == "None"
    assert look(tmp_path / "out/.svd_batch/lease") is None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; print('fine'); sys.exit('no mail server')", "exit code 1: no mail server"),
        ("import os, time; os.fork(); time.sleep(60)", "took longer than on_end.timeout_s=3"),
    ],
)
def test_a_command_that_fails_is_one_warning(code: str, says: str, run: Run, tmp_path: Path) -> None:
    ended = run(f"on_end.command='{script(tmp_path, code)}'", f"on_end.timeout_s={3 if 'sleep' in code else 60}")
    assert ended.returncode == 0
    (warning,) = [line for line in ended.stderr.splitlines() if "on_end" in line]
    assert says in warning


def test_neither_address_nor_command_is_written_or_printed(run: Run, tmp_path: Path) -> None:
    command = script(tmp_path, "") + f" {SECRET}"
    with web() as server:
        ended = run(f"on_end.url={server.url}/{SECRET}", f"++on_end.command='{command}'")
    assert server.bodies
    assert files_with([SECRET], tmp_path / "out") == []
    assert SECRET not in ended.stdout + ended.stderr
    run_json = Store(tmp_path / "out").read_run()
    assert "on_end.url=… ++on_end.command=…" in run_json["runs"][-1]["command"].replace("'", "")


def test_a_reference_to_the_environment_stays_as_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web(hook=gives(b"")) as server:
        monkeypatch.setenv("HOOK", f"{server.url}/hook?{SECRET}")
        assert run("on_end.url=${oc.env:HOOK}").returncode == 0
    assert server.seen[0][0].endswith(SECRET)
    assert files_with([SECRET], tmp_path / "out") == []
    assert "on_end.url=${oc.env:HOOK}" in Store(tmp_path / "out").read_run()["runs"][-1]["command"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": f"http://example.org/{SECRET}"}, "on_end.url: http://example.org would send it in the clear"),
        ({"url": f"ftp://example.org/{SECRET}"}, "on_end.url: this is no address of http or https"),
        ({"url": SECRET}, "on_end.url: this is no address of http or https"),
        ({"url": f"https://[::1/{SECRET}"}, "on_end.url: this is no address"),
        ({"command": f"mail '{SECRET}"}, "on_end.command: it can't be split into words"),
        ({"command": " "}, "on_end.command: the empty string"),
        ({"timeout_s": 0}, "on_end.timeout_s: 0 is not accepted"),
    ],
)
def test_what_is_not_accepted_is_one_sentence_without_the_secret(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        OnEndConfig(**wrong)
    assert str(error.value).startswith(says)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "right", [{"url": "http://localhost:8/x"}, {"url": "http://[::1]/x"}, {"url": "http://a.lan/", "allow_http": True}]
)
def test_this_machine_and_what_is_allowed_may_be_told_in_the_clear(right: dict[str, Any]) -> None:
    assert OnEndConfig(**right).url == right["url"]


def test_a_program_that_is_not_there_is_refused_before_the_start(run: Run, tmp_path: Path) -> None:
    ended = run("on_end.command='no-such-program --quiet'")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: on_end.command: its program is not on PATH here")
    assert not (tmp_path / "out").exists()
