"""What happens when a run has ended, however it did: a small JSON to an address, a command. Neither fails the run.

What was asked for may hold a secret (the path of a webhook's address often is one), so nothing of it is ever printed or
written but the address's host.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from svd_batch.access import printable, unsecret
from svd_batch.config import OnEndConfig, is_loopback
from svd_batch.console import Console, duration
from svd_batch.errors import ProcessError, UserError, is_storage
from svd_batch.events import EventLog
from svd_batch.stopping import INTERRUPTED

HIDDEN = "…"
USAGE, PROCESS, DEFECT = 2, 4, 1
_MEANINGS = {
    0: "finished",
    1: "ended by an error",
    USAGE: "stopped by a wrong setting or its disk",
    3: "ended, with too many failures",
    PROCESS: "ended, since its process can't go on",
    INTERRUPTED: "interrupted",
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: what is sent."""

    output: str
    """The output folder's name."""
    folder: str
    """Its absolute path."""
    exit_code: int
    num_asked: int
    """Videos to make in this run."""
    num_made: int
    num_failed: int
    seconds: float
    most_frequent_failure: str | None
    host: str
    error: str | None
    """The sentence that ended the run, where one did."""

    @property
    def text(self) -> str:
        """One sentence for people; chat services show the field of this name."""
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        most = f"; most often {self.most_frequent_failure}" if self.most_frequent_failure else ""
        why = f": {self.error}" if self.error else ""
        return (
            f"svd_batch: {self.output} {_MEANINGS.get(self.exit_code, 'ended')} (exit code {self.exit_code}) after "
            f"{duration(self.seconds)}: {self.num_made} of {self.num_asked} videos made{failed}{most}{why}"
        )

    def to_json(self) -> str:
        """Return the fields and the sentence."""
        return json.dumps({**vars(self), "text": self.text})

    def environment(self) -> dict[str, str]:
        """Return the fields as SVD_BATCH_EXIT_CODE and so on; what is not known is empty."""
        values = {**vars(self), "text": self.text}
        return {f"SVD_BATCH_{name.upper()}": "" if value is None else str(value) for name, value in values.items()}


def check(config: OnEndConfig) -> None:
    """Raise UserError where the command's program is not here."""
    if config.command is not None and shutil.which(shlex.split(config.command)[0]) is None:
        raise UserError("on_end.command: its program is not on PATH here; give the path of a program that can be run")


def hidden(text: str, config: OnEndConfig) -> str:
    """Return a text (a command line, the configuration) without the address and the command."""
    for value in (config.url, config.command):
        if value:
            forms = {value, shlex.quote(value), value.replace("'", "'\"'\"'"), json.dumps(value)[1:-1]}
            for form in sorted(forms, key=len, reverse=True):
                text = text.replace(form, HIDDEN)
    return text


@contextmanager
def notified(config: OnEndConfig, root: Path, console: Console) -> Iterator[EventLog]:
    """Yield the log of a run; when the run has begun and ended, tell whom the configuration names."""
    events, error = EventLog(), None
    try:
        yield events
    except BaseException as raised:
        events.exit_code, error = _exit_code(raised), raised
        raise
    finally:
        if events.has_begun:
            _tell(config, _outcome(root, events, error), events, console)


def _exit_code(error: BaseException) -> int:
    refused = (UserError, FileExistsError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, refused) or is_storage(error):
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return PROCESS if isinstance(error, ProcessError) else DEFECT


def _outcome(root: Path, events: EventLog, error: BaseException | None) -> Outcome:
    most = events.failures.most_common(1)
    message = " ".join(str(error).split())[:500] if error is not None else ""
    return Outcome(
        output=root.resolve().name,
        folder=str(root.resolve()),
        exit_code=events.exit_code,
        num_asked=events.num_asked,
        num_made=events.num_made,
        num_failed=events.num_failed,
        seconds=round(events.seconds, 3),
        most_frequent_failure=printable(most[0][0]) if most else None,
        host=socket.gethostname(),
        error=printable(unsecret(message)) or None,
    )


def _tell(config: OnEndConfig, outcome: Outcome, events: EventLog, console: Console) -> None:
    events.end({"error": outcome.error})
    for key, tell in (("command", _run_command), ("url", _post)):
        if getattr(config, key) is not None:
            with suppress(KeyboardInterrupt):  # it stops waiting for this one; the run has ended
                reason = _in_time(lambda tell=tell: tell(config, outcome), config.timeout_s)  # type: ignore[misc]
                if reason:
                    console.warn(f"on_end.{key}: {printable(unsecret(reason))}; the run is not affected")


def _in_time(tell: Callable[[], str], timeout_s: float) -> str:
    """Return what tell() says, or that it took too long: names that don't resolve wait without any time limit."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(tell()), name="on_end", daemon=True)
    thread.start()
    thread.join(timeout_s + 1)
    return said[0] if said else f"no answer within {timeout_s:g} s"


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> NoReturn:
        raise HTTPError("", code, "a redirect, which is not followed", headers, fp)


def _post(config: OnEndConfig, outcome: Outcome) -> str:
    """POST the outcome; return why that failed, or nothing."""
    assert config.url is not None
    host = urlsplit(config.url).hostname or ""
    data, headers = outcome.to_json().encode(), {"Content-Type": "application/json", "User-Agent": "svd_batch"}
    try:
        opener = build_opener(
            _NoRedirect(),
            *([HTTPSHandler(context=_tls())] if config.url.startswith("https") else []),
            *([ProxyHandler({})] if is_loopback(host) else []),  # a proxy's loopback is another machine's
        )
        with opener.open(Request(config.url, data, headers, method="POST"), timeout=config.timeout_s):
            return ""
    except HTTPError as error:
        return f"{host} answered {error.code} ({error.reason})"
    except URLError as error:
        return f"{host} was not reached: {error.reason}"
    except Exception as error:  # whatever a server answers: the address is in none of these sentences
        return f"{host} was not reached: {type(error).__name__}"


def _tls() -> ssl.SSLContext:
    import certifi

    context = ssl.create_default_context()  # the system's authorities, SSL_CERT_FILE's too
    context.load_verify_locations(certifi.where())
    return context


def _run_command(config: OnEndConfig, outcome: Outcome) -> str:
    """Run the command, the outcome in its environment and on its standard input; return why that failed, or nothing."""
    assert config.command is not None
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
        given.write(outcome.to_json().encode() + b"\n")
        given.seek(0)
        try:
            process = subprocess.Popen(
                shlex.split(config.command),
                stdin=given,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **outcome.environment()},
                start_new_session=True,  # so that all it started ends with it
            )
        except OSError as error:
            return f"can't be run: {error.strerror}"
        try:
            code = process.wait(config.timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"took longer than on_end.timeout_s={config.timeout_s:g} and was ended"
        if code == 0:
            return ""
        said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
        lines = said.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"exit code {code}: {last[:300]}"
