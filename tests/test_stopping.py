"""Signals: who gets them while a run goes on, and afterwards. What they end is in test_faults.py and test_run.py."""

from __future__ import annotations

import signal
import threading

import pytest
from builders import run_python

from svd_batch.stopping import interruptible


def test_sigterm_is_as_ctrl_c_and_whose_it_was_gets_it_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_signals_that_somebody_took_meanwhile_are_taken_anew_and_kept_until_the_end() -> None:
    with interruptible():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray's start does
        with interruptible():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_background_job_of_a_shell_goes_on_ignoring_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_that_a_library_gave_back_to_the_system_is_taken_again() -> None:
    code = (
        "import ctypes, signal\n"
        "from svd_batch.stopping import interruptible, take_again\n"
        "with interruptible():\n"
        "    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(0))\n"  # SIG_DFL, behind Python's back
        "    take_again()\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        print('ours')\n"
    )
    assert run_python(code).stdout == "ours\n"
