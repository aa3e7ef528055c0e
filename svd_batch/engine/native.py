"""Functions of this package in C, compiled once a process where the machine has a C compiler, in half a second.

They are built for the processor that they run on, so they are never kept: a folder may be shared by different ones.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch  # noqa: F401  (its OpenMP must be in the process before a function that is linked without one)

COMPILER_FLAGS = [
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fopenmp",
]
COMPILER_TIMEOUT_S = 60

ARGUMENTS: dict[str, list[Any]] = {
    "group_norm": [*[ctypes.c_void_p] * 5, *[ctypes.c_long] * 5, ctypes.c_float, ctypes.c_int],
    "geglu": [*[ctypes.c_void_p] * 7, *[ctypes.c_long] * 3, ctypes.c_float],
    "winograd": [*[ctypes.c_void_p] * 5, *[ctypes.c_long] * 5],
}
"""What each takes. A file NAME.c defines the function NAME, which returns nothing."""

logger = logging.getLogger(__name__)
_building = threading.Lock()


def is_x86() -> bool:
    """Return whether this is a 64-bit processor of Intel's or AMD's kind."""
    return platform.machine().lower() in ("x86_64", "amd64")


def built(name: str) -> Any:
    """Return a function by its name, or None where no C compiler makes one that this process can load."""
    with _building:  # two lanes may ask for the first time at once
        return _built(name)


@functools.cache
def _built(name: str) -> Any:
    if not is_x86():
        return None
    found = (shutil.which(compiler) for compiler in (os.environ.get("CC"), "gcc", "cc") if compiler)
    for compiler in filter(None, found):
        try:
            return _build(compiler, name)
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or error
            logger.info("%s can't build %s.c, torch's operations stand in for it: %s", compiler, name, told)
    return None


def _build(compiler: str, name: str) -> Any:
    source = Path(__file__).with_name(f"{name}.c")
    with tempfile.TemporaryDirectory(prefix="svd_batch_") as folder:
        compiled, library = f"{folder}/{name}.o", f"{folder}/{name}.so"
        # linked without OpenMP, of which torch has loaded one: a second one's threads would fight with its threads
        for arguments in ([*COMPILER_FLAGS, "-c", str(source), "-o", compiled], ["-shared", compiled, "-o", library]):
            subprocess.run(
                [compiler, *arguments], check=True, capture_output=True, text=True, timeout=COMPILER_TIMEOUT_S
            )
        function = getattr(ctypes.CDLL(library), name)
    function.restype, function.argtypes = None, ARGUMENTS[name]
    return function
