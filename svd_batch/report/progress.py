"""How the runs into a page's folders get on, as long as they go on: what `status` finds, in a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from svd_batch.errors import UserError
from svd_batch.report.folders import Folder
from svd_batch.status import progress, status


def going_on(folders: Iterable[Folder]) -> Iterator[tuple[str, str]]:
    """Yield (name, how far the run is) of each folder that a run writes into, as far as the folder can be read."""
    for folder in folders:
        try:
            found = status(folder.store.root)
        except (UserError, OSError):
            continue
        if found.state in ("running", "silent"):
            yield folder.name, progress(found)
