"""Reads back what W&B wrote offline and what TensorBoard's event files hold, by the tools' own readers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb


@dataclass
class OfflineRun:
    """One offline run of W&B."""

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    """What its artifacts hold, by name."""
    exit_code: int | None = None

    def series(self, key: str) -> dict[int, Any]:
        """Return a logged key's value by step."""
        return {row["_step"]: row[key] for row in self.history if key in row}


def read_wandb(place: Path) -> list[OfflineRun]:
    """Return the offline runs in PLACE/wandb, oldest first."""
    return [_read_run(path) for path in sorted(place.glob("wandb/offline-run-*/*.wandb"))]


def _read_run(path: Path) -> OfflineRun:
    # what `wandb leet inspect --json FILE` calls, without a second Python
    core = Path(str(wandb.__file__)).parent / "bin/wandb-core"
    command = [core, "leet", "inspect", "--no-observability", "--json", "--run-file", path, path.parent.parent]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = OfflineRun()
    for record in map(json.loads, lines):
        value = record.get(record["type"], {})
        if record["type"] == "run":
            found.run = value
            found.config |= value.get("config", {}).get("update", {})
        elif record["type"] == "config":
            found.config |= value.get("update", {})
        elif record["type"] == "history":
            found.history.append(value["item"])
        elif record["type"] == "summary":
            found.summary |= value.get("update", {})
        elif record["type"] == "artifact":
            for entry in value["manifest"]["contents"]:
                found.files[entry["path"]] = Path(entry["local_path"])
        elif record["type"] == "exit":
            found.exit_code = value.get("exit_code", 0)
    return found


def read_events(folder: Path) -> Any:
    """Return TensorBoard's own reader of one run's folder, with everything read."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def series(events: Any, tag: str) -> dict[int, float]:
    """Return a scalar's value by step."""
    return {event.step: event.value for event in events.Scalars(tag)}


def text(events: Any, tag: str) -> str:
    """Return a text."""
    return str(events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode())
