"""Who may import whom: the rule of docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import run_python

import svd_batch

ROOT = Path(svd_batch.__file__).parent
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py"))
HEAVY = ("torch", "ray", "hydra", "omegaconf", "diffusers", "transformers", "cv2", "wandb", "tensorboard")

ALLOWED = {
    "ray": ("backends.py", "ray_metrics.py", "ray_watch.py", "submit/"),
    "torch": ("engine/", "bench"),
    "diffusers": ("engine/", "bench"),
    "transformers": ("engine/", "bench"),
    "hydra": ("cli.py",),
    "omegaconf": ("cli.py",),
    "huggingface_hub": ("checkpoint.py",),
    "imageio_ffmpeg": ("video.py",),
    "jinja2": ("report/",),
    "matplotlib": ("report/",),
    "tqdm": ("console.py",),
    "cv2": ("metrics/", "report/posters.py", "video.py"),
    "wandb": ("export/",),
    "tensorboard": ("export/",),
    "upath": ("locations.py",),
    "urllib3": ("download.py",),
    "certifi": ("download.py", "on_end.py"),
    "requests": ("submit/",),
    "aiohttp": ("submit/",),
    "packaging": ("submit/",),
}
"""Which modules may import a package, anywhere in them."""


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether at the top level) of everything that a module imports, `TYPE_CHECKING` left out."""
    tree = ast.parse((ROOT / module).read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            yield from ((f"{node.module}.{alias.name}", node in tree.body) for alias in node.names)


def own(module: str) -> set[str]:
    """Return the modules of svd_batch that a module imports, as `store` or `engine`."""
    names = [name.split(".") for name, _ in imports(module)]
    return {parts[1] for parts in names if parts[0] == "svd_batch" and len(parts) > 1 and parts[1] != "__version__"}


def test_the_walk_sees_imports_inside_functions():
    assert ("ray", False) in set(imports("backends.py"))
    assert ("hydra", False) in set(imports("cli.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_is_imported_in_its_own_room_alone(package: str):
    found = [m for m in MODULES if any(name.split(".")[0] == package for name, _ in imports(m))]
    assert [m for m in found if not m.startswith(ALLOWED[package])] == []


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(("engine/", "bench", "submit/"))])
def test_nothing_heavy_is_imported_at_the_top_of_a_module(module: str):
    top = {name.split(".")[0] for name, top_level in imports(module) if top_level}
    assert not top & set(HEAVY)


@pytest.mark.parametrize(
    "module",
    [
        "errors.py",
        "records.py",
        "sweep.py",
        "ids.py",
        "quality.py",
        "gpus.py",
        "place.py",
        "profiles.py",
        "submit/preflight.py",
    ],
)
def test_a_pure_module_imports_the_standard_library_and_us_alone(module: str):
    packages = {name.split(".")[0] for name, _ in imports(module)}
    assert packages <= {*sys.stdlib_module_names, "svd_batch"}


@pytest.mark.parametrize(
    ("module", "rooms"),
    [
        ("errors.py", set()),
        ("records.py", set()),
        ("ids.py", {"records"}),
        ("sweep.py", {"errors", "records"}),
        ("quality.py", {"records", "sweep"}),
        ("access.py", set()),
        ("download.py", {"access", "errors"}),
        ("checks.py", {"errors"}),
        ("config.py", {"access", "checks", "errors", "gpus", "metrics", "records", "submit", "sweep"}),
        ("submit/__init__.py", set()),
        ("submit/settings.py", {"access", "checks", "errors"}),
        ("submit/submission.py", {"access", "config", "errors", "submit"}),
        ("submit/package.py", {"console", "errors"}),
        ("submit/requirements.py", {"errors"}),
        ("submit/job_server.py", {"errors", "extras"}),
        ("submit/ray_job.py", {"access", "console", "errors", "stopping", "submit"}),
        ("submit/kubectl.py", {"access", "errors", "stopping", "submit"}),
        ("submit/slurm.py", {"errors", "stopping", "store", "submit"}),
        ("submit/kuberay.py", {"access", "errors", "submit"}),
        ("gpus.py", set()),
        ("place.py", set()),
        ("submit/slurm_script.py", {"submit"}),
        ("profiles.py", {"config", "errors"}),
        ("plan.py", {"id_set", "ids", "quality", "records", "sweep"}),
        ("metrics/__init__.py", {"errors", "metrics"}),
        ("metrics/clip.py", {"metrics"}),
        ("metrics/camera.py", set()),
        ("metrics/flow.py", {"metrics"}),
        ("metrics/likeness.py", {"metrics"}),
        ("metrics/exposure.py", {"metrics"}),
        ("engine/embedding.py", {"config", "errors", "images"}),
        ("locations.py", {"errors", "owner"}),
        ("owner.py", set()),
        ("events.py", {"records"}),
        ("on_end.py", {"access", "config", "console", "errors", "events", "stopping"}),
        ("status.py", {"access", "attempts", "console", "errors", "events", "lease", "locations", "store"}),
        ("ray_metrics.py", {"records"}),
        ("ray_watch.py", set()),
        ("lease.py", {"errors", "locations", "owner"}),
        ("recover.py", {"console", "lease", "locations", "owner", "records", "store"}),
        ("id_set.py", set()),
        ("record_table.py", {"records"}),
        ("parts.py", {"errors", "id_set", "locations", "record_table", "records"}),
        ("store.py", {"errors", "id_set", "locations", "owner", "parts", "record_table", "records"}),
        ("image_table.py", {"records"}),
        ("video.py", {"config", "locations"}),
        ("images.py", {"access", "config", "download", "errors", "locations", "records"}),
        ("explain.py", {"config", "errors", "submit"}),
        ("console.py", set()),
        ("engine/pipeline.py", {"checkpoint_files", "config", "engine", "errors", "images", "records", "profiles"}),
        ("engine/estimate.py", {"config", "engine"}),
        ("engine/ledger.py", set()),
        ("engine/machine.py", {"config", "errors"}),
        *((m, {"analysis", "errors", "metrics", "records", "sweep"}) for m in MODULES if m.startswith("analysis/")),
        ("bench/stock.py", {"config", "engine", "profiles", "records"}),
        ("bench/summary.py", {"records"}),
        ("extras.py", {"errors"}),
        ("export/settings.py", {"errors"}),
        ("export/values.py", set()),
        ("export/folder.py", {"errors", "export", "locations", "records", "store"}),
        ("export/files.py", {"errors", "export"}),
        ("export/events.py", set()),
        ("export/wandb_run.py", {"errors", "export", "locations"}),
        ("logger/background.py", set()),
        ("logger/values.py", {"console", "export", "records"}),
    ],
)
def test_a_module_knows_no_more_of_us_than_its_room_needs(module: str, rooms: set[str]):
    assert own(module) <= rooms


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("analysis/")])
def test_the_analysis_needs_arrays_tables_and_yaml_alone(module: str):
    packages = {name.split(".")[0] for name, _ in imports(module)}
    assert packages <= {*sys.stdlib_module_names, "svd_batch", "numpy", "pyarrow", "yaml"}


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("cli.py", "__main__.py")])
def test_nobody_imports_the_command_line(module: str):
    assert "cli" not in own(module)


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("engine/")])
def test_the_engine_knows_nothing_of_ray_hydra_or_the_disk_layout(module: str):
    assert not own(module) & {"store", "dataset", "backends", "stages", "run", "job", "cli", "manifest", "plan"}


LIGHT = [
    "svd_batch",
    "svd_batch.cli",
    "svd_batch.analysis.advice",
    "svd_batch.report",
    "svd_batch.manifest",
    "svd_batch.verify",
    "svd_batch.dataset",
    "svd_batch.run",
    "svd_batch.bench",
    "svd_batch.export",
    "svd_batch.logger",
    "svd_batch.engine",
    "svd_batch.metrics",
    "svd_batch.score",
    "svd_batch.status",
    "svd_batch.submit.submission",
]


def test_importing_everything_but_the_engine_loads_nothing_heavy():
    code = f"import sys, {', '.join(LIGHT)}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert run_python(code).stdout == "[]\n"


def test_the_help_of_the_command_line_loads_nothing_heavy_not_even_arrow():
    code = (
        "import sys; from svd_batch.cli import main; main(['run', '--help']);"
        f"print(sorted(set({(*HEAVY, 'pyarrow', 'numpy', 'PIL')!r}) & set(sys.modules)))"
    )
    assert run_python(code).stdout.splitlines()[-1] == "[]"
