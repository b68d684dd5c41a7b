"""What the operating system says of its clock."""

from __future__ import annotations

from edgeflex_flow.monitor.machine import clock_state


def test_this_machine_tells_whether_its_clock_is_kept() -> None:
    state = clock_state()
    assert state is not None
    assert (state.offset_s is not None) == state.is_synchronized
    if state.most_error_s is not None:
        assert 0 <= state.most_error_s < 3600
