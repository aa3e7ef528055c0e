"""How a run gets on, told by its output folder alone: while it goes on, afterwards, and after a kill. Writes nothing.

Looks at the lease, run.json, the end of the last run's events, how many records there are, and the failures; never at
all records, of which there may be millions. docs/operating.md says what each line means.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svd_batch.access import printable
from svd_batch.attempts import AttemptLog
from svd_batch.console import duration, size
from svd_batch.errors import UserError
from svd_batch.events import tail
from svd_batch.lease import Holder, look
from svd_batch.locations import readable
from svd_batch.store import Store

WINDOW_S = 300.0
"""The rate is that of the last videos within this time."""

MOST_KINDS, MOST_IDS = 5, 4


@dataclass(frozen=True)
class Status:
    """What one output folder tells."""

    output: str
    state: str
    """running, silent (another machine's, no heartbeat seen), killed, interrupted, ended, finished or unknown."""
    holder: Holder | None
    started_at: str | None
    ended_at: str | None
    exit_code: int | None
    """Of the last run, where it got so far as to note it."""
    num_asked: int | None
    """Videos that the last run was asked for, with those that were there already; None for older folders."""
    num_done: int
    num_failed: int
    num_left: int | None
    videos_per_minute: float | None
    """Of the last videos of the run, within WINDOW_S."""
    seconds_left: float | None
    failures: tuple[tuple[str, int], ...]
    """The folder's failures as they are now, by what failed, the most frequent first."""
    made_by: tuple[tuple[str, int], ...]
    """Machines and devices of the last videos, with how many each made."""
    in_the_making: Mapping[str, float]
    """Seconds since each unfinished video was begun."""
    video_bytes: int | None
    is_exact: bool
    """Whether video_bytes is counted; else it is reckoned from the last videos."""
    free_bytes: int | None
    """None of a store, which tells nobody."""
    go_on: str | None
    """The command that makes what is left."""
    directory: str | None
    """Where the command was given."""


def status(root: Path) -> Status:
    """Return how the last run into an output folder gets on.

    Raises: UserError when it is no output folder.
    """
    store = Store(root)
    if not store.exists():
        raise UserError(f"output: {root} was not made by svd_batch, or its first run has not begun; give an OUTPUT")
    run = (store.read_run().get("runs") or [{}])[-1]
    holder = look(store.lease_dir)
    events = tail(store.shared_logs_dir / Path(str(run["events"])).name) if run.get("events") else []
    last = events[-1] if events else {}
    end = last if last.get("event") == "end" else {}
    num_done, num_failed, num_left = _counts(store, run, last)
    rate = _videos_per_minute(events)
    state = _state(holder, end, num_left)
    failures = Counter(f"{f.stage}: {f.error_type}: {f.error_message}" for f in store.failures())
    video_bytes, is_exact = _video_bytes(store, events, num_done, is_over=bool(end))
    is_unfinished = state in ("killed", "interrupted", "ended") and bool(num_left)
    return Status(
        output=str(root),
        state=state,
        holder=holder,
        started_at=run.get("started_at"),
        ended_at=end.get("time"),
        exit_code=end.get("exit_code"),
        num_asked=run.get("num_asked"),
        num_done=num_done,
        num_failed=num_failed,
        num_left=num_left,
        videos_per_minute=rate,
        seconds_left=60 * num_left / rate if num_left and rate and state == "running" else None,
        failures=tuple(failures.most_common(MOST_KINDS)),
        made_by=_made_by(events),
        in_the_making=_in_the_making(store) if state in ("running", "silent") else {},
        video_bytes=video_bytes,
        is_exact=is_exact,
        free_bytes=None if store.is_remote else shutil.disk_usage(root).free,
        go_on=run.get("command") if is_unfinished else None,
        directory=run.get("directory") if is_unfinished else None,
    )


def _state(holder: Holder | None, end: Mapping[str, Any], num_left: int | None) -> str:
    if holder is not None and not end:
        if holder.is_alive:
            return "running"
        return "killed" if holder.is_here else "silent"
    if end.get("exit_code") == 130:
        return "interrupted"
    if end:
        return "finished" if num_left == 0 else "ended"
    return "unknown" if num_left is None else "finished" if num_left == 0 else "killed"


def _counts(store: Store, run: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[int, int, int | None]:
    """Return (done, failed, left) of the videos that the last run was asked for; of the whole folder where unknown."""
    num_records = store.num_records()
    if "num_asked" not in run:
        return num_records, len(store.failures()), None
    num_made = max(0, num_records - run["num_records"])
    num_done = min(run["num_done"] + num_made, run["num_asked"])
    num_failed = run["num_left_failed"] + int(last.get("num_failed") or 0)
    return num_done, num_failed, max(0, run["num_asked"] - num_done - num_failed)


def _videos_per_minute(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the rate of the last finished and failed videos; None where fewer than two are known."""
    times = [_seconds(event["time"]) for event in events if event.get("event") in ("video", "failure")]
    recent = [t for t in times if t >= times[-1] - WINDOW_S]
    if len(recent) < 2 or max(recent) <= min(recent):
        return None
    return 60 * (len(recent) - 1) / (max(recent) - min(recent))


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _made_by(events: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    videos = [event for event in events if event.get("event") == "video"]
    return tuple(Counter(f"{event.get('host')} ({event.get('device_name')})" for event in videos).most_common())


def _in_the_making(store: Store) -> dict[str, float]:
    now = time.time()
    return {video_id: max(0.0, now - t) for video_id, t in AttemptLog(store).in_the_making().items()}


def _video_bytes(
    store: Store, events: Sequence[Mapping[str, Any]], num_done: int, *, is_over: bool
) -> tuple[int | None, bool]:
    """Return the bytes of the videos and whether they were counted, in the table of a run that is over."""
    if is_over and store.metadata.is_file():
        with suppress(pa.ArrowException, OSError, KeyError), readable(store.metadata) as source:
            batches = pq.ParquetFile(source).iter_batches(columns=["num_bytes"])
            return sum(pc.sum(batch.column(0)).as_py() or 0 for batch in batches), True
    sizes = [event["num_bytes"] for event in events if event.get("event") == "video"]
    return (round(sum(sizes) / len(sizes) * num_done), False) if sizes else (None, False)


# --- for people -------------------------------------------------------------------------------------------------


def lines(found: Status) -> Iterator[str]:
    """Yield what a person reads, made safe for a terminal."""
    yield from map(printable, _lines(found))


def _lines(found: Status) -> Iterator[str]:
    yield f"{found.output}: {_headline(found)}"
    if found.num_asked is None:
        yield f"  videos:   {found.num_done} done, {found.num_failed} failed; made by a version that noted no plan"
    else:
        left = "nothing left" if not found.num_left else f"{found.num_left} left"
        yield f"  videos:   {found.num_done} of {found.num_asked} done, {found.num_failed} failed, {left}"
    if found.videos_per_minute is not None:
        yield f"  rate:     {_rate(found.videos_per_minute, found)}"
    for label, (what, count) in _labelled("failures:", found.failures):
        yield f"  {label} {count} × {what}"
    for label, (who, count) in _labelled("made by:", found.made_by):
        yield f"  {label} {who}, {count} of the last {sum(n for _, n in found.made_by)} videos"
    if found.in_the_making:
        ids = [video_id[:8] for video_id in list(found.in_the_making)[:MOST_IDS]]
        more = ", …" if len(found.in_the_making) > MOST_IDS else ""
        oldest = duration(max(found.in_the_making.values()))
        yield f"  making:   {len(found.in_the_making)} videos, one for {oldest}: {', '.join(ids)}{more}"
    if found.video_bytes is not None:
        about = "" if found.is_exact else "about "
        free = "" if found.free_bytes is None else f", {size(found.free_bytes)} free"
        yield f"  disk:     {about}{size(found.video_bytes)} of videos{free}"
    if found.go_on:
        yield f"  go on:    {found.go_on}"
        if found.directory:
            yield f"            in {found.directory}"


def _rate(per_minute: float, found: Status) -> str:
    when = "" if found.state == "running" else " at the end"
    eta = f"; about {duration(found.seconds_left)} left" if found.seconds_left is not None else ""
    return f"{per_minute:.1f} videos/min{when}{eta}"


def progress(found: Status) -> str:
    """Return how far a run is that goes on or was killed, in one line."""
    asked = "" if found.num_asked is None else f" of {found.num_asked:,}"
    parts = [f"{found.num_done:,}{asked} videos, {found.num_failed:,} failed"]
    if found.state == "killed":
        return f"{parts[0]}; the run was killed, and its command goes on with it"
    if found.videos_per_minute is not None:
        parts.append(_rate(found.videos_per_minute, found))
    if found.state == "silent":
        parts.append("no heartbeat seen, it may be dead")
    return "; ".join(parts)


def _labelled(label: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    yield from zip([f"{label:9}", *[" " * 9] * len(values)], values, strict=False)


def _headline(found: Status) -> str:
    who = ""
    if found.holder is not None:
        who = f", process {found.holder.pid} on {found.holder.host} since {found.holder.since}"
    match found.state:
        case "running":
            return f"running{who}" + ("" if found.holder and found.holder.is_here else ", heartbeat seen")
        case "silent":
            return f"silent{who}: no heartbeat seen; it is on another machine and may be dead"
        case "killed":
            return f"killed{who or f', started {found.started_at}'}"
        case "unknown":
            return "nobody is writing"
    writes = f"{who} is writing" if found.holder is not None and found.holder.is_alive else ""
    return f"{found.state} at {found.ended_at} with exit code {found.exit_code}{writes}"


def show(roots: Sequence[Path], *, as_json: bool) -> bool:
    """Print the status of folders; return whether a run goes on in one of them."""
    found = [status(root) for root in roots]
    for one in found:
        if as_json:
            print(json.dumps({**dataclasses.asdict(one), "time": datetime.now(UTC).isoformat(timespec="seconds")}))
        else:
            print("\n".join(lines(one)))
    sys.stdout.flush()
    return any(one.state == "running" for one in found)


def watch(roots: Sequence[Path], interval_s: float, *, as_json: bool) -> None:
    """Print the status again and again until no run goes on, or Ctrl-C."""
    with suppress(KeyboardInterrupt):
        while True:
            if sys.stdout.isatty() and not as_json:
                print("\x1b[H\x1b[2J", end="")
            if not show(roots, as_json=as_json):
                return
            time.sleep(interval_s)
