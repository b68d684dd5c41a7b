from __future__ import annotations

import threading

import pytest

from edgeflex_flow.runtime.every import every


def test_the_work_is_done_again_and_again_by_a_thread_of_that_name() -> None:
    names: list[str] = []
    thrice = threading.Event()

    def call() -> None:
        names.append(threading.current_thread().name)
        if len(names) >= 3:
            thrice.set()

    with every(0.001, call, "stats"):
        assert thrice.wait(10.0)
    assert set(names) == {"stats"}


def test_the_thread_ends_with_the_block_even_when_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), every(60.0, lambda: None, "in vain"):
        raise ZeroDivisionError
    assert "in vain" not in {thread.name for thread in threading.enumerate()}
