"""The exceptions that users see.

    SvdBatchError
    ├── UserError (also a ValueError)   usage, configuration or input: one clear sentence, exit code 2
    │   └── StoreError                  an object store refused, or wasn't reached
    ├── ProcessError                    this process can't go on, a new one can: one sentence, exit code 4
    ├── StoppingError                   the run is being stopped: what was in the making is dropped
    └── ItemError                       one picture or video failed: becomes a row in failures.parquet
        └── ItemTimeoutError            it took longer than item_timeout_s

Everything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

STORAGE_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO),
}
"""What a full, read-only, forbidden, broken or vanished disk answers: no defect of ours, so one sentence tells it."""

_STORES = {"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "adlfs", "azure"}
"""Packages whose errors are an object store's, or of the way there."""

_OF_ONE_FILE = {"AccessDenied", "403", "NoSuchKey", "NoSuchBucket", "404", "InvalidObjectState"}
"""S3's codes for a file that is not there, is denied, or is archived; a HEAD is answered with a number alone."""

_STICKING = (
    "CUDA error: an illegal memory access",
    "CUDA error: device-side assert",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction",
    "CUDA error: invalid program counter",
    "CUDA error: hardware stack error",
    "CUDA error: the launch timed out",
    "CUDA error: unknown error",
    "uncorrectable ECC error",
)
"""After these every further CUDA call of the process fails.

Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html ("the process must be terminated")
"""

_PASSING = ("out of memory", "invalid argument", "invalid configuration argument", "no kernel image")
"""torch.AcceleratorErrors that leave the process as it was."""


class SvdBatchError(Exception):
    """Root of all errors that svd_batch raises on purpose."""


class UserError(SvdBatchError, ValueError):
    """A wrong setting or input that the user can mend; the message names the field, the value and what is accepted."""


class StoreError(UserError):
    """An object store refused, or wasn't reached, after its client's own tries."""


class ProcessError(SvdBatchError):
    """This process can't go on, through no fault of the user's; the same command goes on in a new one."""


class StoppingError(SvdBatchError):
    """The run is being stopped."""


class ItemError(SvdBatchError):
    """One item can't be processed; the run goes on without it."""


class ItemTimeoutError(ItemError):
    """One item took too long."""


def condemns(error: BaseException) -> bool:
    """Return whether an error tells that nothing later in this process can be trusted: it must be replaced."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    if type(error).__name__ == "AcceleratorError":  # torch's, which isn't imported here
        return not any(words in text for words in _PASSING)
    return isinstance(error, RuntimeError) and any(words in text for words in _STICKING)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on; each once, as an error may have been raised from itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__


def store_error(error: BaseException) -> StoreError | None:
    """Return what an object store's answer means as a sentence, None for an error of another kind.

    fsspec's packages raise their own errors, or an OSError of which theirs is the cause.
    """
    if isinstance(error, StoreError):
        return error
    cause = _of_store(error)
    if cause is None:
        return None
    text, code = " ".join(str(error).split()).rstrip("."), _code(cause)
    told = ": ".join(dict.fromkeys(filter(None, (code, text)))) or type(cause).__name__
    return StoreError(
        f"storage: {told[:300]}; what is finished is kept, and the same command goes on once the store answers again"
    )


def is_of_one_file(error: BaseException) -> bool:
    """Return whether a store's answer speaks of the file that was asked for, not of the store or the credentials."""
    cause = _of_store(error)
    return isinstance(error, FileNotFoundError) or (cause is not None and _code(cause) in _OF_ONE_FILE)


def _of_store(error: BaseException) -> BaseException | None:
    return next((e for e in causes(error) if type(e).__module__.partition(".")[0] in _STORES), None)


def _code(cause: BaseException) -> str:
    answered = getattr(cause, "response", None)
    return str(answered.get("Error", {}).get("Code", "")) if isinstance(answered, dict) else ""


def is_storage(error: BaseException) -> bool:
    """Return whether a disk or a store has failed."""
    return (isinstance(error, OSError) and error.errno in STORAGE_ERRNOS) or store_error(error) is not None
