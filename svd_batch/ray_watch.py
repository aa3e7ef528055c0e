"""Tells of a Ray of our own whose processes have died: seconds later Ray may end the driver, without a word."""

from __future__ import annotations

import threading
from collections.abc import Callable

LOOK_S = 0.5
"""Seconds between two looks; Ray ends the driver some ten seconds after its raylet's death."""

_NEEDED = ("raylet", "gcs_server")
"""Ray's names of the processes that a run can't do without (`ray._private.ray_constants`)."""


def watch(say: Callable[[str], None]) -> threading.Event:
    """Say so once, from a thread, when one of Ray's processes dies; return what ends the watch."""
    import ray

    ended = threading.Event()
    node = ray._private.worker._global_node  # what Ray shows of its processes in public, it asks the raylet for

    def look() -> None:
        while not ended.wait(LOOK_S):
            dead = [kind for kind, _ in node.dead_processes() if kind in _NEEDED]
            if dead and not ended.is_set():
                say(
                    f"Ray's {dead[0]} has died (killed, or out of memory), so the run ends. What is finished is kept, "
                    "and the same command goes on"
                )
                return

    threading.Thread(target=look, name="ray-watch", daemon=True).start()
    return ended
