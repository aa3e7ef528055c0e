"""How the runs into a page's folders get on, as long as they aren't over: what `status` finds, in a line each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from svd_batch.errors import UserError
from svd_batch.report.folders import Folder
from svd_batch.status import progress, status


def going_on(folders: Iterable[Folder]) -> Iterator[tuple[str, str]]:
    """Yield (name, how far the run is) of each folder with a run of another process that goes on or was killed.

    A run that writes the page itself does so at its end.
    """
    for folder in folders:
        try:
            found = status(folder.store.root)
        except (UserError, OSError):
            continue
        holder = found.holder
        is_own = holder is not None and holder.is_here and holder.pid == os.getpid()
        if found.state in ("running", "silent", "killed") and found.num_left != 0 and not is_own:
            yield folder.name, progress(found)
