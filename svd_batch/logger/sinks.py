"""Points to W&B's run of the output folder, or to a TensorBoard event file. Used by one thread alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from svd_batch.config import LoggerConfig
from svd_batch.export import wandb_run
from svd_batch.export.events import EventFile
from svd_batch.export.folder import run_id, saved_config
from svd_batch.export.settings import ExportSettings
from svd_batch.logger.background import CLOSE_S
from svd_batch.store import Store

INIT_S = 60.0


class WandbSink:
    """The run of W&B that belongs to the folder; a resumed job goes on with it."""

    name = "W&B"

    def __init__(self, store: Store, place: Path, config: LoggerConfig) -> None:
        self._store, self._place = store, place
        self._settings = ExportSettings(
            "wandb", project=config.project, name=config.name, entity=config.entity, offline=config.offline
        )
        self._run: Any = None

    def start(self) -> str:
        """Open the run and return its address, or the command that sends it."""
        self._store.check_place(self._place / "wandb")
        name = self._store.root.resolve().name
        limits = {"init_timeout": INIT_S, "finish_timeout": CLOSE_S - 5}
        config = saved_config(self._store)
        self._run = wandb_run.start(self._place, run_id(self._store), name, config, self._settings, **limits)
        return wandb_run.sync_hint(self._run)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one point; W&B drops a step below its last, so an earlier one counts as the last."""
        self._run.log(dict(values), step=max(step, self._run.step))

    def finish(self, exit_code: int) -> None:
        """Send what waits and close the run, failed where the exit code isn't 0."""
        self._run.finish(exit_code=exit_code)


class TensorboardSink:
    """One event file a run, all in one folder: TensorBoard shows them as one."""

    name = "TensorBoard"

    def __init__(self, store: Store, place: Path) -> None:
        self._store, self._place = store, place
        self._events: EventFile | None = None

    def start(self) -> str:
        """Open the file, write the configuration into it and return the command that shows it."""
        self._store.check_place(self._place)
        self._place.mkdir(parents=True, exist_ok=True)
        self._events = EventFile(self._place)
        config = yaml.safe_dump(saved_config(self._store), sort_keys=False, allow_unicode=True)
        self._events.text("config", f"```yaml\n{config}```")
        return f"tensorboard --logdir {self._place}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one point, to disk at once."""
        assert self._events is not None
        self._events.scalars(values, step)
        self._events.flush()

    def finish(self, exit_code: int) -> None:
        """Write how it ended and close the file."""
        assert self._events is not None
        self._events.text("exit_code", str(exit_code))
        self._events.close()
