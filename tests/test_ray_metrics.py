"""Prometheus metrics of a run on a real Ray head, scraped over HTTP while it lasts; the dashboard that reads them."""

from __future__ import annotations

import json
import platform
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from builders import without_torch
from conftest import PATIENCE_S
from parts import need
from ray_head import end_all, free_ports
from test_faults import write_manifest

from svd_batch.ray_metrics import METRICS, STAGES

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "deploy/grafana/svd_batch.json"

_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@contextmanager
def head(environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Start a Ray head without a dashboard; yield its address and that of its metrics."""
    folder = tempfile.mkdtemp(prefix="svdbm-", dir="/tmp")
    gcs, metrics, agent, agent_grpc, client = free_ports(5)
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--include-dashboard=false"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--metrics-export-port={metrics}", "--num-gpus=0"),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}", "--num-cpus=3"),
        *(f"--ray-client-server-port={client}", "--object-store-memory=100000000", f"--temp-dir={folder}"),
    ]
    log = Path(folder, "start.log")
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=folder
        )
    try:
        end = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{gcs}", f"http://127.0.0.1:{metrics}/metrics"
    finally:
        end_all(process)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Sample:
    """A line of Prometheus' text format."""

    name: str
    labels: dict[str, str]
    value: float


def scrape(address: str) -> list[Sample]:
    """Return our samples."""
    try:
        with urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return []
    found = [Sample(m["name"], dict(_LABEL.findall(m["labels"])), float(m["value"])) for m in _SAMPLE.finditer(text)]
    return [sample for sample in found if "svd_batch" in sample.name]


@dataclass(frozen=True)
class Scraped:
    """All that was seen while the run went on, and what there was after it."""

    during: list[Sample]
    after: list[Sample]
    told: dict[str, Any]
    """What the run gave to on_end.command."""

    def value(self, name: str, **labels: str) -> float:
        return sum(s.value for s in self.after if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    """A run by address of two pictures with three cells and a picture that is missing."""
    need("Ray's metrics exporter (pip install 'ray[default]')", _has_exporter())
    folder = tmp_path_factory.mktemp("metrics")
    output = folder / "swept"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**without_torch(output, video_s=1), **token, "RAY_metrics_report_interval_ms": "1000"}
    words = [f"manifest={write_manifest(folder, 2, num_missing=1)}", f"output={output}", "metrics.names=[]"]
    words += ["sweep.motion_bucket_id=[1,2,3]", "max_failed_fraction=1", "backend.num_actors=1"]
    words += [f"on_end.command='tee {folder}/told.json'"]
    with head(environment) as (address, metrics):
        command = [sys.executable, "-m", "svd_batch", "run", *words, f"backend.address={address}"]
        run = subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)
        during: list[Sample] = []
        while run.poll() is None:
            during += scrape(metrics)
            time.sleep(0.3)
        assert run.returncode == 0, run.stderr and run.stderr.read()
        end, after = time.monotonic() + 30, scrape(metrics)
        while time.monotonic() < end and Scraped([], after, {}).value("ray_svd_batch_videos_total") < 6:
            time.sleep(1)
            after = scrape(metrics)
    return Scraped(during, after, json.loads((folder / "told.json").read_text()))


def _has_exporter() -> bool:
    with suppress(ImportError):
        import prometheus_client  # noqa: F401
        from opentelemetry.exporter import prometheus  # noqa: F401

        return True
    return False


def test_counters_hold_every_video_and_failure_after_the_run(scraped: Scraped) -> None:
    assert scraped.value("ray_svd_batch_videos_total", output="swept", model="pocket", node=platform.node()) == 6
    assert scraped.value("ray_svd_batch_failures_total", stage="load", node=platform.node()) == 3
    assert scraped.value("ray_svd_batch_video_bytes_total") > 0
    assert scraped.value("ray_svd_batch_video_seconds_count") == 6


def test_seconds_are_exact_and_by_stage(scraped: Scraped) -> None:
    assert 6 <= scraped.value("ray_svd_batch_stage_seconds_total", stage="denoise") < 12
    assert scraped.value("ray_svd_batch_stage_seconds_total", stage="encode") > 0
    stages = {s.labels["stage"] for s in scraped.after if s.name == "ray_svd_batch_stage_seconds_total"}
    assert stages <= set(STAGES)


def test_gauges_tell_what_is_left_while_the_run_goes_on(scraped: Scraped) -> None:
    for name in ("ray_svd_batch_videos_left", "ray_svd_batch_units_waiting"):
        values = [sample.value for sample in scraped.during if sample.name == name]
        assert values == sorted(values, reverse=True)
        assert values
        assert 0 <= values[-1] < values[0] <= 9


def test_every_metric_is_exported_under_the_names_that_the_code_states(scraped: Scraped) -> None:
    seen = {sample.name for sample in [*scraped.during, *scraped.after]}
    assert seen == {name for metric in METRICS for name in metric.exported}


def test_the_end_of_a_run_on_ray_is_told(scraped: Scraped) -> None:
    told = scraped.told
    assert (told["exit_code"], told["num_made"], told["num_failed"], told["num_asked"]) == (0, 6, 3, 9)


# --- the dashboard --------------------------------------------------------------------------------------------------


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_every_query_of_the_dashboard_names_metrics_and_tags_that_exist() -> None:
    tags = {name: {*metric.tags, "le"} for metric in METRICS for name in metric.exported}
    for query in queries():
        names = re.findall(r"\b\w*svd_batch\w*\b", query)
        assert names, query
        assert set(names) <= set(tags), query
        for name in names:
            (labels,) = re.findall(rf"{name}\{{([^}}]*)\}}", query)
            assert set(re.findall(r"(\w+)=~?", labels)) <= tags[name], query
        groups = {tag.strip() for group in re.findall(r"by \(([^)]*)\)", query) for tag in group.split(",")}
        assert groups <= set.union(*(tags[name] for name in names)), query


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(queries())
    assert [m.name for m in METRICS if not any(name in shown for name in m.exported)] == []


def test_the_variables_of_the_dashboard_are_tags() -> None:
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert [v["name"] for v in variables] == ["datasource", "output", "model"]
    assert all("svd_batch" in v["query"]["query"] for v in variables[1:])
