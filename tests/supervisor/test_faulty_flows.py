"""Flows that go wrong under `edgeflex up`: each is ended and started again, and the one beside them does not notice."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import faulty_kinds
import pytest
from supervised import PASS, Up, up

AFTER = 3
"""Rows that go well."""
FAULTS = ("crash", "exit", "hang")
LIMITS = "limits: {stalled: 2s, silent: 4s, memory: 400 MiB}"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("yard")
    with up(folder, faulty_kinds.install(folder / "installed")) as site:
        for fault in (*FAULTS, "leak"):
            site.write(fault, f"kind: faulty, fault: {fault}, after: {AFTER}", top=LIMITS)
        site.write("stopped", top=LIMITS)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            site.write("refused", port=taken.getsockname()[1])
            site.write("opening", f"{PASS}, from: samples}}\n  stuck: {{kind: stuck", top="limits: {open: 2s}", port=0)
            site.write("beside")
            site.run_these(*site.ports, "refused", "opening")
            site.start()
            site.running()
            site.gets("beside", 1)
            for name in FAULTS:
                provoke(site, name)
            yield site
        assert "Traceback" not in site.log


def provoke(site: Up, flow: str) -> None:
    for number in range(AFTER + 1):
        site.send(flow, number)


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        ("crash", "was killed by signal 11"),
        ("exit", "ended with exit code 7"),
        ("hang", r"stood still for \d s"),
    ],
)
def test_flow_that_goes_wrong_is_started_again(yard: Up, flow: str, told: str) -> None:
    yard.wait_for(f"flow '{flow}' {told}; starting it again at once")
    yard.wait_for(f"flow '{flow}' runs\n", 2)


def test_flow_that_leaks_is_ended_when_it_needs_more_than_it_may(yard: Up) -> None:

    def leaked() -> bool:
        yard.send("leak", 1)
        return yard.times("flow 'leak' needs") > 0

    yard.wait(leaked, "nobody noticed")
    yard.wait_for(r"flow 'leak' needs \d+ MiB of memory, at most 400 MiB are allowed; starting it again at once")
    yard.wait_for("flow 'leak' runs\n", 2)


def test_flow_that_breaks_down_with_its_state_again_and_again_begins_anew(yard: Up) -> None:
    yard.wait_for("flow 'leak' needs", 2)
    yard.wait_for("'.*/leak/state' is set aside as 'state.aside': the flow broke down with it again and again")


def test_process_that_says_nothing_is_killed_and_started_again(yard: Up) -> None:
    stopped = yard.member("stopped")
    stopped.send_signal(signal.SIGSTOP)
    yard.wait_for("flow 'stopped' said nothing for 4 s; starting it again at once")
    yard.wait_for("flow 'stopped' runs\n", 2)
    assert yard.member("stopped") != stopped


def test_flow_whose_sink_never_opens_is_ended_and_tried_again(yard: Up) -> None:
    yard.wait_for(r"flow 'opening' stood still for \d s; starting it again at once")


def test_flow_that_cannot_start_is_tried_less_and_less_often(yard: Up) -> None:
    for wait in ("at once", "in 1 s", "in 2 s", "in 4 s"):
        yard.wait_for(rf"flow 'refused' ended: UDP [\d.:]+: the port is in use .*; starting it again {wait}")


def test_flow_beside_the_faulty_ones_has_run_all_the_time(yard: Up) -> None:
    yard.wait_for("starting it again", 4)
    yard.gets("beside", 2)
    assert yard.times("flow 'beside' runs\n") == 1
