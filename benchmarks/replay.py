"""`make bench-replay`: how fast a day is replayed, what recording costs a flow, and how large a recording is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from broker import Amqtt
from captures import ETHERNET, ip, link, pcap, udp

from benchmarks.children import memory_mb
from benchmarks.report import Report
from benchmarks.throughput import FLOW_FRAMES, drain_rate, subject
from edgeflex_connectors.recording_capture import read_capture
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.messages import Samples
from edgeflex_flow.recording import About, Given, Keep, NodeAbout, RecordingWriter
from edgeflex_services.broker import free_udp_port
from edgeflex_services.pmu_recording import Measurements, Playback, Recording
from edgeflex_services.pmu_simulator import PmuSimulator

DAY_S: Final = 86_400
PMUS, FRAMES_PER_S = 100, 50
START_NS: Final = 1_700_000_000_000_000_000
TIMES_REAL: Final = 500
COST: Final = 0.05
ROUNDS: Final = 15
SIZE_FRAMES: Final = 60_000
DELAY_NS: Final = 15_000_000


def write_day(folder: Path, seconds: int) -> None:
    """Frequencies of 100 PMUs with noise of 2 mHz and a slow swing, as float32 of frames, a batch each 20 ms."""
    rows = PMUS * FRAMES_PER_S
    about = About(
        flow="frequency_events",
        site="local",
        revision="",
        version="",
        begun_ns=START_NS,
        part=1,
        nodes={"pmu": NodeAbout(kind="pmu_udp", columns=("frequency_hz",))},
    )
    writer = RecordingWriter(folder, "day", about, Keep(256 << 20))
    random = np.random.default_rng(1)
    devices = tuple(f"PMU{number}" for number in range(PMUS))
    device = np.tile(np.arange(PMUS, dtype=np.int32), FRAMES_PER_S)
    quality = np.zeros(rows, dtype=np.uint16)
    offset_ns = np.repeat(np.arange(FRAMES_PER_S, dtype=np.int64) * 20_000_000, PMUS)
    for second in range(seconds):
        swing = 50.0 + 0.01 * np.sin(second / 40.0)
        values = (swing + 0.002 * random.standard_normal(rows, dtype=np.float32)).astype(np.float32).astype(np.float64)
        time_ns = START_NS + second * 1_000_000_000 + offset_ns
        given = []
        for frame in range(FRAMES_PER_S):
            there = slice(frame * PMUS, (frame + 1) * PMUS)
            at_ns = int(time_ns[there.start]) + DELAY_NS
            columns = {"frequency_hz": values[there]}
            batch = Samples(time_ns[there], device[there], devices, columns, quality[there], at_ns)
            given.append(Given(second * FRAMES_PER_S + frame + 1, at_ns, "pmu", batch))
        writer.write(given, given[-1].at_ns)
    writer.close()


def measure_day(report: Report, folder: Path, seconds: int) -> None:
    """One core: the process may use no other."""
    section = f"Replay of {seconds / 3600:g} h of {PMUS} PMUs at {FRAMES_PER_S} frames/s through frequency_events"
    write_day(folder, seconds)
    flows = shipped_flows()
    command = [sys.executable, "-m", "edgeflex_flow", "--log-level", "error", "replay"]
    command += [str(flows / "frequency_events.yaml"), "--site", str(flows / "sites" / "local.yaml")]
    command += ["--record", str(folder), "--json"]
    memory: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {0})
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=(process.pid, memory, over))
        watching.start()
        told = json.loads(process.communicate()[0])
        over.set()
        watching.join()
    rows = told["nodes"]["pmu"]["rows_out"]
    assert rows == seconds * PMUS * FRAMES_PER_S, rows
    speed = told["recorded_s"] / told["took_s"]
    report.add(
        section, "times as fast as it was", "", [speed], asked=f">= {TIMES_REAL}", good=lambda x: x >= TIMES_REAL
    )
    report.add(section, "rows a second", "1/s", [rows / told["took_s"]])
    settled = memory[len(memory) // 5]
    grew = memory[-1] - settled
    report.add(section, "memory after a fifth", "MB", [settled])
    report.add(
        section, "memory that it grew by until the end", "MB", [grew], asked="flat", good=lambda x: x < 0.05 * settled
    )


def _watch(pid: int, memory: list[float], over: threading.Event) -> None:
    while not over.wait(0.2):
        try:
            memory.append(memory_mb(pid))
        except (OSError, ValueError):
            return


def measure_cost(report: Report, folder: Path, rounds: int) -> None:
    """One flow that records nothing, its source, and all wires in turns: processes differ by more than that costs."""
    section = "Rate of a flow that is recorded (frames/s)"
    rates: dict[str, list[float]] = {"not recorded": [], "its source": [], "all wires": []}
    port = free_udp_port()
    with Amqtt(folder) as broker:
        arguments = ["-m", "benchmarks.flow_process", str(port), str(broker.port), str(folder / "recorded")]
        with subject(arguments, port) as (process, send):
            drain_rate(process, send, FLOW_FRAMES)
            for _ in range(rounds):
                for found in rates.values():
                    found.append(drain_rate(process, send, FLOW_FRAMES))
                    time.sleep(1.0)  # what it has still to write is no load of the next one
                    process.process.send_signal(signal.SIGUSR1)
                    time.sleep(0.5)
    for name, found in rates.items():
        report.add(section, name, "1/s", found)
    for name in list(rates)[1:]:
        costs = [1.0 - one / other for one, other in zip(rates[name], rates["not recorded"], strict=True)]
        report.add(section, f"cost of recording {name}", "", costs, asked=f"<= {COST:g}", good=lambda x: x <= COST)


def measure_size(report: Report, folder: Path) -> None:
    """Frames of the simulated PMUs with noise on all values, as they are and in three forms."""
    section = "Size, 46-byte frames of noisy PMUs (bytes/frame)"
    capture = folder / "frames.pcap"
    capture.write_bytes(_captured(SIZE_FRAMES))
    samples = read_capture(capture, {}).samples
    assert samples.rows == SIZE_FRAMES, samples.rows
    nodes = {"pmu": NodeAbout(kind="pmu_udp", columns=tuple(samples.columns))}
    about = About(flow="f", site="s", revision="", version="", begun_ns=0, part=1, nodes=nodes)
    writer = RecordingWriter(folder / "size", "size", about)
    batches = [samples.take(np.arange(first, first + 10)) for first in range(0, samples.rows, 10)]
    for first in range(0, len(batches), 30):
        given = [Given(at + 1, at, "pmu", batch) for at, batch in enumerate(batches[first : first + 30], first)]
        writer.write(given, first)
    writer.close()
    table = pa.table(
        {
            "time_ns": samples.time_ns,
            "device": pa.DictionaryArray.from_arrays(samples.device, list(samples.devices)),
            "quality": samples.quality,
            **samples.columns,
        }
    )
    for name in ("snappy", "zstd"):
        pq.write_table(table, folder / f"{name}.parquet", compression=name)
    sizes = {
        ".rec, half a second a block": sum(file.stat().st_size for file in writer.files),
        ".pcap": capture.stat().st_size,
        "Parquet, snappy, all in one": (folder / "snappy.parquet").stat().st_size,
        "Parquet, zstd, all in one": (folder / "zstd.parquet").stat().st_size,
    }
    for name, size in sizes.items():
        report.add(section, name, "B", [size / SIZE_FRAMES])


class _Noisy(Playback):
    """All that is measured has noise of 1e-4, as it has on a grid."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording, event_at_s=1e6, loop=False)
        self._random = np.random.default_rng(2)

    def frames_at(self, frame: NDArray[np.int64]) -> Measurements:
        made = super().frames_at(frame)
        noise = [1.0 + 1e-4 * self._random.standard_normal(made.voltage_v.shape) for _ in range(2)]
        hertz = 1e-3 * self._random.standard_normal((2, *made.voltage_v.shape))
        return made._replace(
            voltage_v=made.voltage_v * noise[0],
            current_a=made.current_a * noise[1],
            frequency_hz=made.frequency_hz + hertz[0],
            rocof_hz_per_s=made.rocof_hz_per_s + hertz[1],
        )


def _captured(count: int) -> bytes:
    simulator = PmuSimulator("127.0.0.1", 9)
    simulator._playback = _Noisy(simulator.recording)
    start = START_NS // 1_000_000_000 * simulator.recording.frames_per_s
    data = simulator.encode(0, count // 10, start).reshape(count, -1)
    frames = [*simulator.configurations(), *(row.tobytes() for row in data)]
    return pcap([link(ip(17, udp(frame)), ETHERNET) for frame in frames])


@click.command()
@click.option("--seconds", default=DAY_S, show_default=True, help="How much is replayed.")
@click.option("--rounds", default=ROUNDS, show_default=True, help="Of the measurement of what recording costs.")
def main(*, seconds: int, rounds: int) -> None:
    """Measure recording and replay."""
    report = Report("replay", command="make bench-replay")
    with tempfile.TemporaryDirectory() as folder:
        measure_day(report, Path(folder) / "day", seconds)
        measure_size(report, Path(folder))
        measure_cost(report, Path(folder), rounds)
    report.show(Console())
    report.save()


if __name__ == "__main__":
    main()
