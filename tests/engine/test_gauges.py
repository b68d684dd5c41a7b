"""Gauges are read from any thread, and one that fails costs no other."""

from __future__ import annotations

import pytest

from edgeflex_flow.gauges import Gauges


def test_what_is_known_is_told() -> None:
    gauges = Gauges()
    gauges.watch("queue_rows", lambda: 3)
    gauges.watch("certificate_until_s", lambda: None)
    assert gauges.read() == {"queue_rows": 3.0}


def test_what_tells_later_takes_the_place_of_what_told_before() -> None:
    gauges = Gauges()
    gauges.watch("connected", lambda: False)
    gauges.watch("connected", lambda: True)
    assert gauges.read() == {"connected": 1.0}


def test_one_that_cannot_be_read_now_is_left_out() -> None:
    gauges = Gauges()
    gauges.watch("clients", lambda: 1 / 0)
    gauges.watch("queue_rows", lambda: 3)
    assert gauges.read() == {"queue_rows": 3.0}


def test_a_name_that_is_no_gauge_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="no gauge 'queue'; known: connected, opened, queue_messages"):
        Gauges().watch("queue", lambda: 1)
