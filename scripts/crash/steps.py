"""The named steps at which a process is killed, as operations on the output folder. Standard library alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

BEFORE, AFTER, HALF = "before", "after", "half"
START, COMMIT, ADOPT, TIDY, TABLES = "start", "commit", "adopt", "tidy", "tables"


@dataclass(frozen=True)
class Step:
    """One moment of a run."""

    name: str
    group: str
    """What must be there for it to come: something to make, to adopt or to tidy up; nothing for start and tables."""
    operation: str
    """open, write, fsync, rename, mkdir, unlink, frame (one that the encoder gets) or denoise."""
    place: str
    """Pattern of the path in OUTPUT."""
    when: str
    """Before or after the operation, or with half of the bytes written."""
    is_main_thread: bool | None = None
    skip: int = 0
    """How many moments of the same look come before, in every run."""

    def matches(self, operation: str, place: str, when: str, *, is_main_thread: bool) -> bool:
        """Return whether this is the moment."""
        return (
            (operation, when) == (self.operation, self.when)
            and self.is_main_thread in (None, is_main_thread)
            and re.fullmatch(self.place, place) is not None
        )


_IN = r"\.svd_batch/"
_VIDEO, _RECORD = r"videos/../\w+\.mp4", _IN + r"records/../\w+\.json"
STEPS = (
    Step("lease half written", START, "write", _IN + r"lease/.+", HALF),
    Step("lease taken", START, "write", _IN + r"lease/.+", AFTER),
    Step("run.json written beside", START, "rename", _IN + r"run\.json", BEFORE),
    Step("run.json in place", START, "rename", _IN + r"run\.json", AFTER),
    Step("carried columns half written", START, "write", _IN + r"tmp/.+\.parquet", HALF),
    Step("denoising", COMMIT, "denoise", "", AFTER),
    Step("encoding", COMMIT, "frame", _IN + r"tmp/.+\.mp4", AFTER),
    Step("video encoded, not flushed", COMMIT, "fsync", _IN + r"tmp/.+\.mp4", BEFORE),
    Step("video flushed", COMMIT, "fsync", _IN + r"tmp/.+\.mp4", AFTER),
    Step("pending record half written", COMMIT, "write", _IN + r"pending/.+", HALF),
    Step("pending record written, not flushed", COMMIT, "fsync", _IN + r"pending/.+", BEFORE),
    Step("pending record flushed", COMMIT, "fsync", _IN + r"pending/.+", AFTER),
    Step("video renamed", COMMIT, "rename", _VIDEO, AFTER),
    Step("video's folder flushed", COMMIT, "fsync", r"videos/..", AFTER),
    Step("record renamed", COMMIT, "rename", _RECORD, AFTER, is_main_thread=False),
    Step("record's folder flushed", COMMIT, "fsync", _IN + r"records/..", AFTER, is_main_thread=False),
    Step("adopting: before the rename", ADOPT, "rename", _RECORD, BEFORE, is_main_thread=True),
    Step("adopting: renamed", ADOPT, "rename", _RECORD, AFTER, is_main_thread=True),
    Step("tidying up", TIDY, "unlink", _IN + r"(tmp|pending)/.+", AFTER, is_main_thread=True),
    Step("table half written", TABLES, "write", _IN + r"tmp/.+\.parquet", HALF, skip=1),
    Step("table written beside", TABLES, "rename", r"metadata\.parquet", BEFORE),
    Step("table in place", TABLES, "rename", r"metadata\.parquet", AFTER),
    Step("failures table in place", TABLES, "rename", r"failures\.parquet", AFTER),
    Step("card in place", TABLES, "rename", r"README\.md", AFTER),
    Step("poster half written", COMMIT, "write", _IN + r"(tmp|posters/..)/.+\.jpg.*", HALF),
    Step("report written beside", TABLES, "rename", r"report\.html", BEFORE),
    Step("report in place", TABLES, "rename", r"report\.html", AFTER),
)
BY_NAME = {step.name: step for step in STEPS}
