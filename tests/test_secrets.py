"""Tokens and signed addresses leave no trace, no telemetry is sent, and no code of a checkpoint is run."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import picture_bytes, run_python
from conftest import Cli
from stub_engine import StubEngine
from web import gives, web

import svd_batch
from svd_batch.access import unsecret
from svd_batch.records import SweepCell

ROOT = Path(svd_batch.__file__).parent
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"401 for {TOKEN}, gated", "401 for …, gated"),
        ("Authorization: Bearer abc.def-123 was refused", "Authorization: Bearer … was refused"),
        ("https://me:pw@host/a.png?X-Amz-Signature=SECRET failed", "https://host/a.png?… failed"),
        ("GET s3://KEY:SECRET@bucket/a", "GET s3://bucket/a"),
        ("password=hunter22 is wrong", "password=… is wrong"),
        ("{'api_key': 'abc123', 'x': 1}", "{'api_key': '…', 'x': 1}"),
        ("AWS_SECRET_ACCESS_KEY=abc/def, eu", "AWS_SECRET_ACCESS_KEY=…, eu"),
        ("AKIAIOSFODNN7EXAMPLE is unknown", "… is unknown"),
        ("ghp_0123456789abcdef0123 and sk-proj-0123456789ab", "… and …"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "…"),
        ("token: null", "token: null"),
        ("77 tokens: too many", "77 tokens: too many"),
        ("motion_bucket_id=[20,240] fps=7 seed=42", "motion_bucket_id=[20,240] fps=7 seed=42"),
        ("file:///etc/passwd: only http and https are loaded", "file:///etc/passwd: only http and https are loaded"),
        ("no such file: pictures/hf_cat.png", "no such file: pictures/hf_cat.png"),
    ],
)
def test_what_may_be_secret_is_left_out_of_a_text(text: str, expected: str) -> None:
    assert unsecret(text) == expected


def files_with(secrets: list[str], folder: Path) -> list[str]:
    """Return the files below a folder that hold one of the secrets, or are named after one."""
    found = []
    for path in folder.rglob("*"):
        data = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        found += [f"{path.relative_to(folder)}: {secret}" for secret in secrets if secret.encode() in data]
    return found


@pytest.fixture
def texts(tmp_path: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A run over signed addresses, one that fails, and an engine that tells its token: its folder and its lines."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def act(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 2:
            raise RuntimeError(f"could not reach https://me:SECRET@hub/x?sig=SECRET with {os.environ['HF_TOKEN']}")

    monkeypatch.setattr("svd_batch.stages._make_engine", lambda settings: StubEngine(act))
    with web(cat=gives(picture_bytes()), gone=gives(b"SECRET", 404)) as server:
        names = [
            f"{server.url}/{name}?sig=SECRET&X-Amz-Credential=SECRET".replace("//", "//me:SECRET@")
            for name in ("cat", "gone")
        ]
        columns: dict[str, Any] = {"image_path": names}
        pq.write_table(pa.table(columns), tmp_path / "m.parquet")
        access = ["allow_urls=true", f"allowed_hosts=[{server.host}]", "allowed_roots=['s3://KEY:SECRET@bucket','/']"]
        words = [
            "backend=serial",
            "manifest=m.parquet",
            "output=out",
            "sweep.motion_bucket_id=[1,2]",
            "metrics.names=[]",
        ]
        ended = cli_here("run", *words, *access, "max_failed_fraction=1")
    assert ended.returncode == 0, ended.stderr
    assert pq.read_table(tmp_path / "out/metadata.parquet").num_rows == 1
    return tmp_path / "out", ended.stdout + ended.stderr


def test_no_secret_is_in_any_file_of_the_output_nor_in_what_is_printed(texts: tuple[Path, str]) -> None:
    folder, printed = texts
    assert files_with(["SECRET", TOKEN], folder) == []
    assert "SECRET" not in printed
    assert TOKEN not in printed


def test_a_failure_says_all_the_rest(texts: tuple[Path, str]) -> None:
    rows = pq.read_table(texts[0] / "failures.parquet").to_pylist()
    assert {row["stage"] for row in rows} == {"load", "generate"}
    (generate,) = [row for row in rows if row["stage"] == "generate"]
    assert generate["error_message"] == "could not reach https://hub/x?… with …"
    assert (generate["error_type"], generate["attempts"]) == ("RuntimeError", 1)
    assert generate["created_at"].year >= 2026


# --- nothing is sent home -----------------------------------------------------------------------------------------

HUB = "import svd_batch.checkpoint; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
RAY = (
    "from svd_batch.backends import _quiet_environment as quiet; quiet();"
    "from ray._common.usage import usage_lib; print(not usage_lib.usage_stats_enabled())"
)


@pytest.mark.parametrize(
    ("code", "variable", "on"), [(HUB, "HF_HUB_DISABLE_TELEMETRY", "0"), (RAY, "RAY_USAGE_STATS_ENABLED", "1")]
)
def test_telemetry_is_off_unless_the_user_turned_it_on(
    code: str, variable: str, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert run_python(code).stdout == "True\n"
    assert run_python(code, **{variable: on}).stdout == "False\n"


# --- nothing of a checkpoint is run -------------------------------------------------------------------------------


def calls(name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each call of a method is, with its keywords as written."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                yield path.name, {str(k.arg): ast.unparse(k.value) for k in node.keywords}


def test_weights_are_loaded_from_safetensors_on_this_machine_alone() -> None:
    found = list(calls("from_pretrained"))
    assert {where for where, _ in found} >= {"pipeline.py", "embedding.py", "stock.py"}
    for where, keywords in found:
        assert (keywords.get("use_safetensors"), keywords.get("local_files_only")) == ("True", "True"), where


def test_no_code_that_a_checkpoint_ships_is_trusted_or_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        names = {getattr(n, "id", None) or getattr(n, "arg", None) for n in ast.walk(ast.parse(path.read_text()))}
        assert not names & {"trust_remote_code", "custom_pipeline", "pickle"}, path
        assert "torch.load(" not in path.read_text(), path
