"""From starting the process to its first event, memory, and what an idle flow costs."""

from __future__ import annotations

import tempfile
import time

from benchmarks.children import child, cpu_percent, flow_arguments, memory_mb
from benchmarks.latency import _sent_with_event
from benchmarks.listener import Listener
from benchmarks.report import Report
from edgeflex_services.broker import free_udp_port

SECTION = "Start, memory, idle"
SETTLE_S = 5.0


def measure(report: Report, mqtt_port: int, *, rounds: int, idle_s: float) -> None:
    _first_event(mqtt_port, None)  # fills the cache of kernels
    warm = [_first_event(mqtt_port, None) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as empty:
        cold = _first_event(mqtt_port, empty)
    report.add(SECTION, "process start to first event, warm", "s", warm, asked="≤ 2", good=lambda v: v <= 2)
    report.add(SECTION, "process start to first event, cold", "s", [cold], asked="≤ 20", good=lambda v: v <= 20)
    port = free_udp_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        child(flow_arguments("start", port, mqtt_port, folder)) as process,
    ):
        time.sleep(SETTLE_S)
        idle = [cpu_percent(process.pid, idle_s / rounds) for _ in range(rounds)]
        report.add(SECTION, "idle flow, processor", "% of a core", idle, asked="≤ 2", good=lambda v: v <= 2)
        report.add(SECTION, "idle flow, resident memory", "MB", [memory_mb(process.pid)])


def _first_event(mqtt_port: int, kernel_cache: str | None) -> float:
    port = free_udp_port()
    environment = {"NUMBA_CACHE_DIR": kernel_cache} if kernel_cache else {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Listener(mqtt_port, "bench/event", _sent_with_event) as listener,
        child(["-m", "benchmarks.latency_sender", "start", str(port)]),
    ):
        time.sleep(1.0)
        start_s = time.monotonic()
        with child(flow_arguments("start", port, mqtt_port, folder), environment=environment):
            if not listener.first.wait(120.0):
                raise RuntimeError("the flow gave no event within 120 s")
            return time.monotonic() - start_s
