"""The exceptions that users see.

    SvdBatchError
    ├── UserError (also a ValueError)   usage, configuration or input: one clear sentence, exit code 2
    └── ItemError                       one picture or video failed: becomes a row in failures.parquet

Everything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno

STORAGE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
}
"""What a full, read-only, forbidden, broken or vanished disk answers: no defect of ours, so one sentence tells it."""


class SvdBatchError(Exception):
    """Root of all errors that svd_batch raises on purpose."""


class UserError(SvdBatchError, ValueError):
    """A wrong setting or input that the user can mend; the message names the field, the value and what is accepted."""


class ItemError(SvdBatchError):
    """One item can't be processed; the run goes on without it."""
