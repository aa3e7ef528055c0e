"""The functions in C: compiled where there is a compiler, and loaded by whichever process asks."""

import subprocess
import sys
from pathlib import Path

import pytest

from svd_batch.engine import native
from svd_batch.engine.native import built

needs_compiler = pytest.mark.usefixtures("c_compiler")


@needs_compiler
def test_a_process_that_imported_nothing_else_gets_every_function() -> None:
    """What they leave to torch's OpenMP is found however early they are asked for."""
    code = "from svd_batch.engine.native import ARGUMENTS, built; print(*(n for n in ARGUMENTS if not built(n)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@needs_compiler
def test_a_compiler_that_fails_is_told_of_and_the_next_one_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    native._built.cache_clear()
    with caplog.at_level("INFO", logger=native.__name__):
        assert built("group_norm") is not None
    native._built.cache_clear()
    assert "no such flag" in caplog.text
    assert str(broken) in caplog.text
