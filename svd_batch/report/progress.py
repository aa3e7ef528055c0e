"""How the runs into a page's folders get on, as long as they aren't over: what `status` finds, in a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from svd_batch.errors import UserError
from svd_batch.report.folders import Folder
from svd_batch.status import progress, status


def going_on(folders: Iterable[Folder]) -> Iterator[tuple[str, str]]:
    """Yield (name, how far the run is) of each folder with a run that goes on or was killed."""
    for folder in folders:
        try:
            found = status(folder.store.root)
        except (UserError, OSError):
            continue
        if found.state in ("running", "silent", "killed") and found.num_left != 0:
            yield folder.name, progress(found)
