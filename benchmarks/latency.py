"""Latency from sending a frame to having its event over MQTT, beside the bare hop and a script written by hand."""

from __future__ import annotations

import msgspec

from benchmarks.children import child, flow_arguments
from benchmarks.listener import Listener, collect, percentile
from benchmarks.report import Report
from edgeflex_services.broker import free_udp_port

SECTION = "Latency at 1,000 frames/s, frame sent to event received over MQTT (ms)"
WARM_UP_S = 2.0


class _Event(msgspec.Struct):
    type: str
    time_ns: int = 0


def _sent_with_event(payload: bytes) -> int | None:
    event = msgspec.json.decode(payload, type=_Event)
    return event.time_ns if event.type == "crossing" else None


def measure(report: Report, mqtt_port: int, *, rounds: int, seconds: float) -> None:
    """Each round measures hop, script and flow one after the other, so that drift of the machine meets all alike."""
    ages: dict[str, list[list[float]]] = {"hop": [], "hand": [], "ours": []}
    for _ in range(rounds):
        ages["hop"].append(_hop(mqtt_port, seconds))
        ages["hand"].append(_subject(["-m", "benchmarks.hand_written_latency"], mqtt_port, seconds))
        ages["ours"].append(_subject(None, mqtt_port, seconds))
    p50 = {name: [percentile(run, 0.5) for run in runs] for name, runs in ages.items()}
    p99 = {name: [percentile(run, 0.99) for run in runs] for name, runs in ages.items()}
    hop50 = report.add(SECTION, "bare MQTT hop, p50", "ms", p50["hop"])
    hop99 = report.add(SECTION, "bare MQTT hop, p99", "ms", p99["hop"])
    report.add(SECTION, "written by hand, p50", "ms", p50["hand"])
    report.add(SECTION, "written by hand, p99", "ms", p99["hand"])
    report.add(
        SECTION, "flow on bytewax, p50", "ms", p50["ours"], asked="≤ hop + 0.15", good=lambda v: v <= hop50 + 0.15
    )
    report.add(SECTION, "flow on bytewax, p99", "ms", p99["ours"], asked="≤ hop + 0.6", good=lambda v: v <= hop99 + 0.6)


def _hop(mqtt_port: int, seconds: float) -> list[float]:
    with (
        Listener(mqtt_port, "bench/hop", int) as listener,
        child(["-m", "benchmarks.latency_sender", "mqtt", str(mqtt_port)]),
    ):
        return collect(listener, WARM_UP_S, seconds)


def _subject(script: list[str] | None, mqtt_port: int, seconds: float) -> list[float]:
    port = free_udp_port()
    arguments = [*script, str(port), str(mqtt_port)] if script else flow_arguments("latency", port, mqtt_port)
    with (
        Listener(mqtt_port, "bench/event", _sent_with_event) as listener,
        child(arguments),
        child(["-m", "benchmarks.latency_sender", "frames", str(port)]),
    ):
        return collect(listener, WARM_UP_S, seconds)
