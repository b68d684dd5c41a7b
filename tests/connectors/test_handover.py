from __future__ import annotations

import select
import threading

from edgeflex_connectors.handover import Handover


def is_readable(handover: Handover[str, int]) -> bool:
    fd = handover.fileno()
    assert fd is not None
    return bool(select.select([fd], [], [], 0.0)[0])


def test_the_newest_of_each_key_is_taken_once_and_wakes_the_source_until_then() -> None:
    handover = Handover[str, int]()
    handover.open()
    assert not is_readable(handover)
    handover.put({"a": 1, "b": 2})
    handover.put({"a": 3})
    assert is_readable(handover)
    assert handover.take() == [3, 2]
    assert not is_readable(handover)
    assert handover.take() == []
    handover.close()


def test_beyond_the_limit_the_oldest_go_and_are_told() -> None:
    handover = Handover[str, int](2)
    handover.open()
    assert handover.put({"a": 1, "b": 2}) == 0
    assert handover.put({"c": 3}) == 1
    assert handover.take() == [2, 3]
    handover.close()


def test_what_comes_before_it_is_open_or_after_it_is_closed_is_not_held() -> None:
    handover = Handover[str, int]()
    assert handover.put({"a": 1}) is None
    handover.open()
    handover.put({"a": 1, "b": 2})
    assert handover.close() == 2
    assert (handover.put({"a": 1}), handover.take(), handover.fileno()) == (None, [], None)


def test_a_thread_that_outlives_the_source_harms_nothing() -> None:
    handover = Handover[int, int](10)
    handover.open()
    stop = threading.Event()

    def hand() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            handover.put({number: number})

    thread = threading.Thread(target=hand)
    thread.start()
    while not (taken := handover.take()):
        pass
    assert taken == sorted(taken)
    handover.close()
    stop.set()
    thread.join()
    assert handover.take() == []
