"""Turns of the writing threads."""

from __future__ import annotations

import threading

import pytest

from svd_batch.turns import given_up, turn


def goes_on() -> bool:
    """Return whether another thread gets its turn within a moment."""
    got = threading.Event()

    def take() -> None:
        with turn():
            got.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    in_time = got.wait(0.2)
    others.append(thread)
    return in_time


others: list[threading.Thread] = []


def test_one_at_a_time() -> None:
    with turn():
        assert not goes_on()
    others.pop().join(60)  # whoever waited has had its turn now
    assert goes_on()


def test_another_goes_on_while_the_turn_is_given_up_and_not_after_that() -> None:
    with turn():
        with given_up():
            assert goes_on()
        assert not goes_on()


def test_without_a_turn_there_is_none_to_give_up() -> None:
    with given_up():
        pass
    with turn(), given_up():
        pass
    with given_up():
        assert goes_on()


def test_an_error_ends_the_turn_wherever_it_comes() -> None:
    with pytest.raises(OSError, match="disk"), turn():
        raise OSError("disk")
    with pytest.raises(OSError, match="disk"), turn(), given_up():
        raise OSError("disk")
    assert goes_on()
