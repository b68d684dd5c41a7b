"""Streams of PMUs through networks that lose, double, reorder and break; and what tshark says of them."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from c37118_cases import plain_config, plain_data
from networks import FaultyUdp, ListeningIn, namespaces_allowed, two_hosts
from tshark import assert_sound, dissect

from edgeflex_connectors.c37118 import Command, FrameType, encode_config, encode_data
from edgeflex_connectors.c37118_cutter import FrameCutter
from edgeflex_connectors.pmu_client import PmuClientConfig, PmuClientSource
from edgeflex_connectors.pmu_server import PmuServer, ServedStream
from edgeflex_connectors.pmu_udp import PmuUdpConfig, PmuUdpSource
from edgeflex_flow.messages import Samples, join_samples
from edgeflex_operators import pmu_align
from edgeflex_operators.pmu_align import PmuAlignConfig
from edgeflex_services.pmu_simulator import PmuSimulator

if TYPE_CHECKING:
    from conftest import ContextMaker

PATIENCE_S = 30.0


def read(source: PmuClientSource | PmuUdpSource, batches: list[Samples], holds: Callable[[], bool]) -> None:
    """Let a source work until something holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    descriptor = source.fileno()
    assert descriptor is not None
    while not holds():
        assert time.monotonic() < deadline_s
        select.select([descriptor], [], [], 0.01)
        batches += source.poll()


def row_count(batches: list[Samples]) -> int:
    return sum(batch.rows for batch in batches)


@pytest.mark.parametrize("seed", range(5))
def test_spontaneous_frames_that_the_network_passes_are_rows_or_counted(make_context: ContextMaker, seed: int) -> None:
    context = make_context("pmu")
    source = PmuUdpSource(PmuUdpConfig(port=0, host="127.0.0.1"), context)
    source.open()
    configs = [plain_config(idcode) for idcode in (1, 2, 3)]
    batches: list[Samples] = []
    with FaultyUdp(("127.0.0.1", source.port), seed=seed) as network:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
            for number in range(600):
                for config in configs:
                    if number % 50 == 0:
                        device.sendto(encode_config(config), ("127.0.0.1", network.port))
                    device.sendto(encode_data(plain_data(config, number), config), ("127.0.0.1", network.port))
                if number % 20 == 0:
                    time.sleep(0.002)
        read(source, batches, lambda: network.came["to_server"] == 1836)
        time.sleep(0.1)
        batches += source.poll()
    passed = network.passed["to_server"]
    count = context.counters.get
    source.close()
    assert network.lost["to_server"] > 50
    assert count("frames") == len(passed)
    assert count("config_frames") == sum(frame[1] == 0x31 for frame in passed)
    assert row_count(batches) == count("rows") == sum(frame[1] == 0x01 for frame in passed)
    assert count("size_mismatch") == count("bad_crc") == count("unknown_idcode") == 0
    # What comes out of the concentrator, or is told, is what went in.
    align = PmuAlignConfig(min="2 of 3", devices=("G1", "G2", "G3"), missing="leave_out", lag=0.2)
    state = pmu_align.start(align)
    given = [message for batch in batches for message in pmu_align.step(align, state, batch)]
    given += pmu_align.end(align, state)
    aligned = join_samples([message for message in given if isinstance(message, Samples)])
    told = sum(
        getattr(each, "count", 0) for each in given if getattr(each, "reason", "") in ("late", "duplicate", "too_few")
    )
    assert aligned.rows + told == row_count(batches)
    assert aligned.time_ns.tolist() == sorted(aligned.time_ns.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_a_commanded_stream_comes_through_a_network_that_loses_commands(make_context: ContextMaker, seed: int) -> None:
    config = plain_config()
    server = PmuServer("127.0.0.1", 0, [ServedStream(config)], transport="udp")
    server.start()
    context = make_context("pmu")
    batches: list[Samples] = []
    with FaultyUdp(("127.0.0.1", server.port), seed=seed, share=0.2) as network:
        settings: dict[str, Any] = {"transport": "udp", "answer_timeout": 0.1, "silence": 0.2, "reconnect_min": 0.05}
        source = PmuClientSource(
            PmuClientConfig(host="127.0.0.1", listen="127.0.0.1", port=network.port, idcode=7, **settings), context
        )
        source.open()
        over, number = threading.Event(), 0

        def serve() -> None:
            nonlocal number
            while not over.wait(0.005):
                server.publish(7, [encode_data(plain_data(config, number), config)])
                number += 1

        thread = threading.Thread(target=serve)
        thread.start()
        read(source, batches, lambda: row_count(batches) > 300)
        over.set()
        thread.join()
        time.sleep(0.2)
        batches += source.poll()
        count = context.counters.get
        passed = list(network.passed["to_client"])
        source.close()
    server.close()
    assert count("frames") == len(passed)
    data = sum(frame[1] == 0x01 for frame in passed)
    assert count("rows") == row_count(batches)
    # All data were decoded, but for those that came before a configuration and a connection that was given up.
    assert data - count("unknown_idcode") == count("rows")
    assert count("bad_crc") == count("size_mismatch") == 0


@pytest.mark.needs("tshark")
def test_tshark_reads_all_that_client_and_simulator_say_to_each_other(
    make_context: ContextMaker, tmp_path: Path
) -> None:
    stop, context = threading.Event(), make_context("pmu")
    simulator = PmuSimulator("127.0.0.1", 0, transport="tcp", pdc=99, announce_s=0.2)
    served = threading.Thread(target=simulator.run, args=(stop,))
    served.start()
    assert simulator.listening.wait(10.0)
    batches: list[Samples] = []
    try:
        with ListeningIn(simulator.port) as wire:
            source = PmuClientSource(
                PmuClientConfig(host="127.0.0.1", port=wire.port, idcode=99, ask=("cfg2", "cfg3"), recheck=0.3), context
            )
            source.open()
            read(source, batches, lambda: row_count(batches) > 50)
            simulator.change()
            read(source, batches, lambda: context.counters.get("config_changes") == 1)
            after = row_count(batches)
            read(source, batches, lambda: row_count(batches) > after + 100)
            source.close()
            time.sleep(0.2)
    finally:
        stop.set()
        served.join()
    said, answered = FrameCutter().add(bytes(wire.to_server)), FrameCutter().add(bytes(wire.to_client))
    commands = dissect([(5000, frame) for frame in said], tmp_path)
    assert_sound(commands)
    found = [int(packet.number("command")) for packet in commands]
    assert found[:4] == [Command.DATA_OFF, Command.SEND_CFG2, Command.SEND_HEADER, Command.DATA_ON]
    assert found[-1] == Command.DATA_OFF
    assert {packet.number("idcode_stream_source") for packet in commands} == {99}
    packets = dissect([(5001, frame) for frame in answered], tmp_path)
    assert_sound(packets)
    assert {packet.number("frtype") for packet in packets} == {FrameType.CFG2, FrameType.HEADER, FrameType.DATA}
    # It does not know the layout of the frames between a change and its configuration, which the client holds.
    shown = {
        int.from_bytes(frame[6:10], "big") * 10**9 + int.from_bytes(frame[11:14], "big") * 1000: values
        for frame, packet in zip(answered, packets, strict=True)
        if (values := packet.numbers("actual_frequency_value"))
    }
    rows = join_samples(batches)
    compared = 0
    for time_ns in np.unique(rows.time_ns).tolist():
        found_hz = rows.columns["frequency_hz"][rows.time_ns == time_ns].tolist()
        assert len(found_hz) == 10
        if time_ns in shown:
            assert found_hz == pytest.approx(shown[time_ns], rel=1e-6)
            compared += 1
    assert compared >= rows.rows // 10 - 3


@pytest.mark.long
@pytest.mark.needs("ip")
@pytest.mark.skipif(not namespaces_allowed(), reason="this user may not make network namespaces here")
def test_streams_come_again_after_the_network_was_cut_for_30_s(make_context: ContextMaker) -> None:
    stop, over = threading.Event(), threading.Event()
    batches: dict[str, list[Samples]] = {"tcp": [], "udp": []}
    contexts = {name: make_context(name) for name in batches}
    simulators = {
        name: PmuSimulator("10.77.0.1", 4712, transport=name, pdc=99)  # type: ignore[arg-type]
        for name in batches
    }
    longest_poll_s = dict.fromkeys(batches, 0.0)

    def watch(name: str) -> None:
        config = PmuClientConfig(
            host="10.77.0.1",
            port=4712,
            idcode=99,
            transport=name,  # type: ignore[arg-type]
            answer_timeout=1.0,
            silence=1.0,
            reconnect_max=2.0,
        )
        source = PmuClientSource(config, contexts[name])
        source.open()
        descriptor = source.fileno()
        assert descriptor is not None
        while not over.is_set():
            select.select([descriptor], [], [], 0.02)
            began_s = time.thread_time()
            batches[name] += source.poll()
            longest_poll_s[name] = max(longest_poll_s[name], time.thread_time() - began_s)
        source.close()

    def wait_for_rows(before: dict[str, int]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while any(row_count(batches[name]) < before[name] + 300 for name in batches):
            assert time.monotonic() < deadline_s, {name: contexts[name].counters.snapshot() for name in batches}
            time.sleep(0.05)

    with two_hosts() as hosts:
        threads = [hosts.on(0, lambda each=each: each.run(stop)) for each in simulators.values()]  # type: ignore[misc]
        assert all(each.listening.wait(20.0) for each in simulators.values())
        threads += [hosts.on(1, lambda name=name: watch(name)) for name in batches]  # type: ignore[misc]
        try:
            wait_for_rows(dict.fromkeys(batches, 0))
            hosts.cut()
            time.sleep(2.0)
            before = {name: row_count(batches[name]) for name in batches}
            time.sleep(28.0)
            assert {name: row_count(batches[name]) for name in batches} == before
            hosts.mend()
            wait_for_rows(before)
        finally:
            over.set()
            stop.set()
            for thread in threads:
                thread.join()
    for name, context in contexts.items():
        rows = join_samples(batches[name])
        one = rows.take(rows.device == 0).time_ns
        assert len(np.unique(one)) == len(one)
        gap_s = float(np.diff(one).max()) / 1e9
        assert 25.0 < gap_s < 60.0
        assert context.counters.get("connections") >= 2
        assert context.counters.get("failures") >= 2
        assert context.counters.get("bad_crc") == context.counters.get("size_mismatch") == 0
        assert longest_poll_s[name] < 1.0
