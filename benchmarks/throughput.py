"""Frames a second through the whole flow, beside the floor and beside the same work written by hand."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.children import child, memory_mb
from benchmarks.floor import FloorReceiver, decoder, drain
from benchmarks.report import Report
from edgeflex_services.broker import free_udp_port

SECTION = "Throughput, 46-byte frames of 1,000 PMUs (frames/s)"
PMUS = 1000
FLOOR_BUFFER_BYTES = 512 << 20
FLOOR_FRAMES = 400_000
FLOW_FRAMES = 500_000
STORM_FRAMES = 1_000_000
HAND_FRAMES = 100_000
WARM_UP_FRAMES = 100_000
WARM_UP_RATE = 50_000.0
STALL_S = 20.0


class Sender:
    """The sending process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, **command: object) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def sender(port: int) -> Iterator[Sender]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sender", str(port), str(PMUS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Sender(process)
    finally:
        process.terminate()
        process.communicate()


class Subject:
    """A process under test, and the lines in which it says how far it is."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, float]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def last(self, name: str) -> float:
        return self.lines[-1].get(name, 0) if self.lines else 0

    def wait_for_start(self) -> None:
        deadline_s = time.monotonic() + 60
        while not self.lines and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def wait_for_frames(self, frames: float) -> bool:
        """Whether `frames` came before nothing more did for a while."""
        seen, since_s = -1.0, time.monotonic()
        while self.last("frames") < frames:
            if self.last("frames") != seen:
                seen, since_s = self.last("frames"), time.monotonic()
            elif time.monotonic() - since_s > STALL_S:
                return False
            time.sleep(0.02)
        return True


@contextmanager
def subject(arguments: list[str], port: int) -> Iterator[tuple[Subject, Sender]]:
    """The process under test and its sender, warmed up: each PMU is configured and its windows are full."""
    with child(arguments, stdout=subprocess.PIPE) as process, sender(port) as send:
        tested = Subject(process)
        tested.wait_for_start()
        send(configure=True)
        sent = send(count=WARM_UP_FRAMES, rate=WARM_UP_RATE)["sent"]
        if not tested.wait_for_frames(sent):
            raise RuntimeError(f"{arguments}: {tested.last('frames')} of {sent} frames of the warm-up came")
        yield tested, send


def drain_rate(tested: Subject, send: Sender, frames: int, **more: object) -> float:
    """Frames a second while it empties a socket that was filled while it was stopped."""
    before = tested.last("frames")
    tested.process.send_signal(signal.SIGSTOP)
    sent = send(count=frames, rate=0, **more)["sent"]
    started_s = time.monotonic()
    tested.process.send_signal(signal.SIGCONT)
    if not tested.wait_for_frames(before + sent):
        raise RuntimeError(f"{tested.last('frames') - before:.0f} of {sent} frames came")
    time.sleep(0.1)
    return sent / (tested.last("time_s") - started_s)


def measure(report: Report, mqtt_port: int, *, rounds: int, sustained_s: float) -> None:
    """Each round measures floor, flow and script one after the other: a shared machine drifts, ratios do not."""
    rates: dict[str, list[float]] = {"floor": [], "decoded": [], "flow": [], "hand": []}
    port, hand_port = free_udp_port(), free_udp_port()
    floor = FloorReceiver(FLOOR_BUFFER_BYTES)
    hand_written = ["-m", "benchmarks.hand_written", str(hand_port), str(PMUS), str(mqtt_port)]
    with (
        subject(["-m", "benchmarks.flow_process", str(port), str(mqtt_port)], port) as (ours, send),
        subject(hand_written, hand_port) as (script, send_by_hand),
        sender(floor.port) as fill,
    ):
        decode = decoder(floor)
        for _ in range(rounds):
            rates["floor"].append(_floor_rate(floor, fill, lambda _count: None))
            rates["decoded"].append(_floor_rate(floor, fill, decode))
            rates["flow"].append(drain_rate(ours, send, FLOW_FRAMES))
            rates["hand"].append(drain_rate(script, send_by_hand, HAND_FRAMES))
        storm = drain_rate(ours, send, STORM_FRAMES, disturbed=PMUS)
        _add_rates(report, rates, storm)
        _sustained(report, ours, send, 0.8 * statistics.median(rates["flow"]), sustained_s)
        report.add(
            SECTION,
            "resident memory after that load",
            "MB",
            [memory_mb(ours.process.pid)],
            asked="≤ 150",
            good=lambda v: v <= 150,
        )
    floor.socket.close()


def _add_rates(report: Report, rates: dict[str, list[float]], storm: float) -> None:
    report.add(SECTION, "floor: recvmmsg, nothing else", "frames/s", rates["floor"])
    report.add(SECTION, "floor with decode and CRC", "frames/s", rates["decoded"])
    report.add(SECTION, "whole flow on bytewax, one worker", "frames/s", rates["flow"])
    report.add(SECTION, "the same, an event on every PMU each 30 s", "frames/s", [storm])
    report.add(SECTION, "written by hand", "frames/s", rates["hand"])
    over_floor = [flow / floor for flow, floor in zip(rates["flow"], rates["floor"], strict=True)]
    over_hand = [flow / hand for flow, hand in zip(rates["flow"], rates["hand"], strict=True)]
    report.add(SECTION, "flow over floor, by round", "ratio", over_floor, asked="≥ 0.6", good=lambda v: v >= 0.6)
    report.add(SECTION, "flow over written by hand, by round", "ratio", over_hand, asked="≥ 8", good=lambda v: v >= 8)


def _floor_rate(floor: FloorReceiver, fill: Sender, use: Callable[[int], object]) -> float:
    fill(count=FLOOR_FRAMES, rate=0)
    count, seconds = drain(floor, use)
    return count / seconds


def _sustained(report: Report, ours: Subject, send: Sender, rate: float, seconds: float) -> None:
    """At a steady rate, after a warm-up at it, no frame may be lost."""
    send(count=int(5 * rate), rate=rate)
    time.sleep(1.0)
    frames, drops, events = ours.last("frames"), ours.last("drops"), ours.last("published")
    answer = send(count=int(seconds * rate), rate=rate)
    ours.wait_for_frames(frames + answer["sent"])
    time.sleep(0.5)
    lost = answer["sent"] - (ours.last("frames") - frames)
    report.add(
        SECTION,
        f"sustained for {seconds:.0f} s, rate sent",
        "frames/s",
        [answer["sent"] / answer["seconds"]],
        asked="80 %",
    )
    report.add(SECTION, "sustained, frames lost", "frames", [lost], asked="0", good=lambda v: v == 0)
    report.add(
        SECTION,
        "sustained, drops counted",
        "frames",
        [ours.last("drops") - drops],
        asked="= lost",
        good=lambda v: v == lost,
    )
    report.add(SECTION, "sustained, events published", "events", [ours.last("published") - events])


def pin_note() -> str:
    return f"{os.cpu_count()} cores shared by sender, flow, broker and this program; nothing is pinned."
