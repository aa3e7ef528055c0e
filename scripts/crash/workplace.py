"""Where a crash test works: pictures, the command that it gives again and again, and one start of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from crash.processes import MARK, end_all
from crash.settings import VARIABLE, Fault, Kill, Settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MAX_BASE = 16
"""Ray wants a short path for its temporary folder, which is made inside ours."""


@dataclass(frozen=True)
class Options:
    """What a test is made of."""

    engine: str = "millisecond"
    engine_ms: float = 5.0
    pictures: int = 3
    cells: int = 4
    actors: int = 1


class Workplace:
    """A folder for one test, removed at the end with every process that belongs to it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        base = tempfile.gettempdir()
        self.root = Path(tempfile.mkdtemp(prefix="crash-", dir=base if len(base) <= MAX_BASE else "/tmp")).resolve()
        self.temporary = self.root / "t"
        self.temporary.mkdir()
        self._overrides = [*self._make_pictures(), *self._model(), "reproducible=true", "metrics.names=[]"]
        buckets = [20 + 200 * i // options.cells for i in range(options.cells)]
        self._overrides.append(f"sweep.motion_bucket_id={buckets}".replace(" ", ""))

    def __enter__(self) -> Workplace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_all(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    def _make_pictures(self) -> list[str]:
        from svd_batch.manifest import write_manifest

        folder = self.root / "pictures"
        folder.mkdir()
        random = np.random.default_rng(0)
        for i in range(self.options.pictures):
            small = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8))
            small.resize((48, 32), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        write_manifest(folder, self.root / "pictures.parquet")
        return [f"manifest={self.root / 'pictures.parquet'}"]

    def _model(self) -> list[str]:
        if self.options.engine == "millisecond":  # the bundled checkpoint is looked at, and nothing of it loaded
            return ["model.num_frames=4", "model.height=32", "model.width=48"]
        from pocket.architecture import make_random_checkpoint

        folder = self.root / "tiny"
        make_random_checkpoint(folder, "tiny", 0)
        shape = ["model.num_frames=3", "model.height=32", "model.width=32", "generation.num_inference_steps=2"]
        return [f"model.id={folder}", "model.name=tiny", *shape]

    def command(self, output: Path, backend: str, more: Sequence[str] = ()) -> list[str]:
        """Return the command of a job."""
        where = [f"backend={backend}", *([f"backend.num_actors={self.options.actors}"] if backend == "ray" else [])]
        words = [*self._overrides, *where, f"output={output}", *more]
        return [sys.executable, "-m", "svd_batch", "run", *words]

    def start(
        self,
        output: Path,
        backend: str,
        *,
        kill: Kill | None = None,
        fault: Fault | None = None,
        more: Sequence[str] = (),
    ) -> Run:
        """Start the command."""
        options = self.options
        millisecond = options.engine == "millisecond"
        settings = Settings(str(output), str(events_of(output)), millisecond, options.engine_ms, kill, fault)
        before = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(HERE / "site"), str(HERE.parent), str(ROOT), *([before] if before else [])])
        environment = {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "RAY_worker_niceness": "0",  # else actors get what a busy machine leaves, and the test takes for ever
            **os.environ,
            "PYTHONPATH": path,
            "TMPDIR": str(self.temporary),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
            MARK: str(self.root),
            VARIABLE: settings.to_text(),
        }
        return Run(self.command(output, backend, more), environment, output.with_suffix(".log"), self.root)


def events_of(output: Path) -> Path:
    """Return the diary of an output folder's runs."""
    return output.with_suffix(".events")


class Run:
    """One start of the command, with what it printed in a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path, folder: Path) -> None:
        self.log = log
        self.started = time.time()
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.process.poll()

    def wait(self, limit_s: float) -> int | None:
        """Return the exit code; None for one that has not ended within the limit."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def printed(self) -> str:
        """Return what it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")
