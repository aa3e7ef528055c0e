"""What an export is told, and which of it each target takes. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields

from svd_batch.errors import UserError

FILES = ("csv", "json", "jsonl")
TARGETS = (*FILES, "wandb", "tensorboard", "vbench")
TABLES = ("videos", "failures")

_TAKEN_BY = {
    "table": FILES,
    "project": ("wandb",),
    "name": ("wandb",),
    "entity": ("wandb",),
    "offline": ("wandb",),
    "no_videos": ("wandb", "tensorboard"),
    "captions": ("vbench",),
}


@dataclass(frozen=True)
class ExportSettings:
    """The options of the verb `export`."""

    target: str
    table: str = "videos"
    """videos or failures."""
    project: str | None = None
    """W&B's project; none is svd_batch."""
    name: str | None = None
    """Name of the W&B run; none is the output folder's."""
    entity: str | None = None
    """W&B's team or user; none is the account's default."""
    offline: bool = False
    """Write the W&B run to disk alone."""
    no_videos: bool = False
    """Parameters and metrics alone."""
    captions: str | None = None
    """Carried column with VBench's prompts; none takes `caption` where there is one."""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UserError(f"--to: {self.target!r} is not accepted; give one of {', '.join(TARGETS)}")
        if self.table not in TABLES:
            raise UserError(f"--table: {self.table!r} is not accepted; give one of {', '.join(TABLES)}")
        for field in fields(self)[1:]:
            given = getattr(self, field.name) != field.default
            if given and self.target not in _TAKEN_BY[field.name]:
                takes = ", ".join(f"--to {target}" for target in _TAKEN_BY[field.name])
                raise UserError(f"--{field.name.replace('_', '-')}: --to {self.target} has no use for it; {takes} has")
