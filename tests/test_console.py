"""What a person sees while a job runs."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from builders import run_python

from svd_batch.console import Console, Progress, duration, size

NOISY = """
import os, subprocess, sys
from pathlib import Path
from svd_batch.console import Console

os.write(1, b"before out\\n")
with Console().quiet(Path(sys.argv[1])) as lines:
    lines.say("our line")
    lines.warn("our warning")
    print("a library prints")
    os.write(1, b"C writes to out\\n")
    os.write(2, b"C writes to err\\n")
    subprocess.run(["sh", "-c", "echo a child out; echo a child err >&2"], check=True)
    sys.stderr.write("a library warns\\n")
print("after")
os.write(2, b"after err\\n")
"""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Return what reached standard output, standard error and the log."""
    log = tmp_path_factory.mktemp("noisy") / "run.log"
    done = run_python(NOISY, str(log))
    return done.stdout, done.stderr, log.read_text()


def test_our_lines_reach_the_terminal_while_all_else_is_quiet(noisy: tuple[str, str, str]):
    out, err, _ = noisy
    assert out.splitlines() == ["before out", "our line", "after"]
    assert err.splitlines() == ["warning: our warning", "after err"]


@pytest.mark.parametrize(
    "line",
    [
        "a library prints",
        "a library warns",
        "C writes to out",
        "C writes to err",
        "a child out",
        "a child err",
    ],
)
def test_what_libraries_and_children_write_goes_to_the_log(noisy: tuple[str, str, str], line: str):
    assert line in noisy[2].splitlines()


def test_our_lines_are_not_in_the_log(noisy: tuple[str, str, str]):
    assert "our" not in noisy[2]


def test_a_log_is_appended_to(tmp_path: Path):
    log = tmp_path / "run.log"
    log.write_text("an earlier run\n")
    run_python(NOISY, str(log))
    assert log.read_text().startswith("an earlier run\n")


def test_an_error_inside_gives_the_terminal_back(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from svd_batch.console import Console
try:
    with Console().quiet(Path(sys.argv[1])):
        raise ValueError
except ValueError:
    os.write(1, b"back")
"""
    assert run_python(code, str(tmp_path / "log")).stdout == "back"


def test_no_file_descriptor_is_left_open(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from svd_batch.console import Console
def count(): return len(os.listdir("/proc/self/fd"))
before = count()
for _ in range(5):
    with Console().quiet(Path(sys.argv[1])):
        pass
print(count() - before)
"""
    assert run_python(code, str(tmp_path / "log")).stdout == "0\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_is_told_as_a_person_reads_it(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4_200, "4.2 kB"),
        (1_300_000_000, "1.3 GB"),
        (2.5e15, "2500.0 TB"),
    ],
)
def test_a_size_is_told_as_a_person_reads_it(num_bytes: float, text: str):
    assert size(num_bytes) == text


def progress_of(total: int) -> tuple[Progress, io.StringIO]:
    """Return a display that writes plain lines into memory, and what it writes to."""
    err = io.StringIO()
    return Progress(total, Console(io.StringIO(), err)), err


def test_without_a_terminal_the_first_and_the_last_video_make_a_line():
    progress, err = progress_of(5)
    for _ in range(5):
        progress.update()
    first, last = err.getvalue().splitlines()
    assert first.startswith("1/5 videos, 0 failed, ")
    assert last.startswith("5/5 videos, 0 failed, ")
    assert last.endswith(", 0 s left")


def test_a_line_has_counts_failures_rate_and_time_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("svd_batch.console.EARLY_S", 0.0)
    progress, _ = progress_of(4)
    progress.update()
    progress.update(failed=True)
    pattern = r"2/4 videos, 1 failed, \d+\.\d videos/min, \d+ (s|min \d\d s|h \d\d min) left"
    assert re.fullmatch(pattern, progress.line())


def test_the_first_moment_says_nothing_of_the_rate():
    progress, _ = progress_of(4)
    progress.update()
    assert progress.line() == "1/4 videos, 0 failed, ? videos/min, ? left"


def test_before_the_first_video_the_time_left_is_not_known():
    progress, _ = progress_of(4)
    assert progress.line() == "0/4 videos, 0 failed, 0.0 videos/min, ? left"


def test_results_go_to_standard_output_and_warnings_to_standard_error():
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    console.say("36 videos")
    console.warn("a picture will fail")
    assert (out.getvalue(), err.getvalue()) == ("36 videos\n", "warning: a picture will fail\n")


def test_on_a_terminal_there_is_a_bar_with_failures():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    with Progress(3, Console(io.StringIO(), err)) as progress:
        for failed in (False, True, False):
            progress.update(failed=failed)
        progress._bar.refresh()  # type: ignore[union-attr]
    assert "3/3" in err.getvalue()
    assert "1 failed" in err.getvalue()


def test_the_bar_keeps_to_a_narrow_window():
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        with Progress(1000, Console(err=terminal)) as progress:
            progress.update(failed=True)
        shown = os.read(master, 10_000).decode()
    os.close(master)
    assert max(len(part.rstrip()) for part in re.split(r"[\r\n]", re.sub(r"\x1b\[\w", "", shown))) <= 40
