"""One demo from start to end: broker, simulator, flow, screen, summary. Nothing of it outlives `run`."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from edgeflex_flow.cli.demo.live import shown_live
from edgeflex_flow.cli.demo.screen import WIDTH, Numbers, draw
from edgeflex_flow.cli.demo.summary import Summary, count_stored, started_events
from edgeflex_flow.cli.demo.watch import Subscriber, Watch
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.lifecycle import stop_on_signals
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.tied import tied
from edgeflex_services.broker import LocalBroker, free_udp_port

EVENT_AT_S = 5.0
"""When the recorded load step comes; earlier in a demo that is too short for that."""
LEAST_AFTER_EVENT_S = 2.0
"""What a demo must last after the load step for every PMU's event to be due."""
LEAST_FOR_ESTIMATE_S = 9.0
"""What it must last after the load step for the estimate of inertia to be due: 5 s of window, and time to agree."""
REFRESH_PER_S = 5
SETTLE_S = 0.3
STOP_TIMEOUT_S = 5.0


class Simulator:
    """The PMU simulator in a process of its own; it says as JSON lines when the step comes and what it sent."""

    def __init__(self, port: int, event_at_s: float) -> None:
        self._command = [
            *(sys.executable, "-m", "edgeflex_services.pmu_simulator"),
            *("--host", "127.0.0.1", "--port", str(port), "--event-at", str(event_at_s), "--json"),
        ]
        self._process: subprocess.Popen[str] | None = None
        self.event_ns: int | None = None
        self.frames_sent = 0

    def start(self) -> None:
        # A session of its own: Ctrl-C in the terminal reaches the demo alone, which then ends everything in order.
        self._process = subprocess.Popen(
            tied(*self._command), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FatalError(f"the PMU simulator ended at once with code {self._process.wait()}")
        self.event_ns = json.loads(line)["event_ns"]

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            said, _ = self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        lines = said.splitlines()
        if lines:
            self.frames_sent = json.loads(lines[-1])["frames_sent"]
        self._process = None


class Session:
    """Runs the demo in `folder`, which the caller removes."""

    def __init__(self, registry: Registry, folder: Path, console: Console, seconds: float | None) -> None:
        self._registry = registry
        self._folder = folder
        self._console = console
        self._seconds = seconds
        self._event_at_s = EVENT_AT_S if seconds is None else min(EVENT_AT_S, seconds / 2)
        self._watch = Watch()
        self._started_s = 0.0
        self._page = ""
        """Where it is shown live."""
        self._over = threading.Event()
        """Set by a signal: then the simulator ends first, so that no frame is on its way when the flow drains."""
        self._last = (0.0, 0, 0.0)
        self._numbers_at_the_end: Numbers | None = None

    def run(self) -> Summary:
        """Raises EdgeflexError when a part cannot start."""
        with LocalBroker(self._folder) as broker:
            port = free_udp_port()
            run = self._prepare(broker.port, port)
            simulator = Simulator(port, self._event_at_s)
            topics = [f"edgeflex/{run.plan.site}/{end}" for end in ("event/frequency", "inertia/+")]
            with (
                Subscriber(broker.port, topics, self._watch),
                stop_on_signals(run, on_signal=self._over.set),
                shown_live(run) as self._page,
            ):
                if self._page:
                    self._console.print(f"See it live: [bold]{self._page}[/bold]", highlight=False)
                with self._screen(run, broker, port), self._director(run, simulator):
                    run_bytewax(run)
                # The last messages are on their way from the broker to the subscriber.
                time.sleep(SETTLE_S)
            return self._summary(run, simulator, broker.name)

    def save_picture(self, file: Path) -> None:
        """Save the last screen as SVG."""
        assert self._numbers_at_the_end is not None, "run() comes first"
        canvas = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
        canvas.print(draw(self._watch, self._numbers_at_the_end))
        canvas.save_svg(str(file), title="edgeflex demo")

    def _prepare(self, mqtt_port: int, pmu_port: int) -> FlowRun:
        flows = shipped_flows()
        plan = load_flow(
            flows / "inertia_estimation.yaml",
            self._registry,
            site=flows / "sites" / "local.yaml",
            params={
                "mqtt_port": str(mqtt_port),
                "pmu_port": str(pmu_port),
                "data_folder": str(self._folder),
                "log_file": str(self._folder / "inertia.jsonl"),
            },
        )
        watch = self._watch
        return FlowRun(plan, taps={"rocof": watch.on_rocof, "event": watch.on_event, "inertia": watch.on_inertia})

    @contextmanager
    def _director(self, run: FlowRun, simulator: Simulator) -> Iterator[None]:
        """Starts the simulator once the flow listens, ends both when the time is up."""

        def direct() -> None:
            while not run.started.wait(0.1):
                if run.stopping or self._over.is_set():
                    run.stop()
                    return
            self._started_s = time.monotonic()
            try:
                simulator.start()
                while not run.stopping and not self._over.is_set() and not self._time_is_up():
                    time.sleep(0.05)
            except FatalError as error:
                run.fail(error)
            finally:
                simulator.stop()
                time.sleep(SETTLE_S)
                run.stop()

        thread = threading.Thread(target=direct, name="director")
        thread.start()
        try:
            yield
        finally:
            run.stop()
            thread.join()

    def _time_is_up(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._started_s >= self._seconds

    @contextmanager
    def _screen(self, run: FlowRun, broker: LocalBroker, pmu_port: int) -> Iterator[None]:
        def picture() -> Numbers:
            return self._numbers(run, broker, pmu_port)

        def refresh() -> None:
            live.update(draw(self._watch, picture(), self._console.width, self._console.height), refresh=True)

        if not self._console.is_terminal:
            with self._lines(run, broker, pmu_port):
                yield
            self._numbers_at_the_end = picture()
            self._console.print(draw(self._watch, self._numbers_at_the_end, self._console.width))
            return
        with Live(console=self._console, auto_refresh=False) as live:
            try:
                with every(1 / REFRESH_PER_S, refresh, "screen"):
                    yield
            finally:
                self._numbers_at_the_end = picture()
                live.update(draw(self._watch, self._numbers_at_the_end, self._console.width), refresh=True)

    @contextmanager
    def _lines(self, run: FlowRun, broker: LocalBroker, pmu_port: int) -> Iterator[None]:
        """Without a terminal: one line a second."""

        def tell() -> None:
            if not self._started_s:
                return
            numbers = self._numbers(run, broker, pmu_port)
            self._console.print(
                f"{numbers.elapsed_s:5.1f} s  {numbers.frames:,} frames ({numbers.frames_per_s:,.0f}/s)  "
                f"{numbers.rows_stored:,} rows stored  {len(self._watch.events())} events"
            )

        with every(1.0, tell, "lines"):
            yield

    def _numbers(self, run: FlowRun, broker: LocalBroker, pmu_port: int) -> Numbers:
        now_s = time.monotonic()
        pmu = run.counters["pmu"].snapshot()
        frames = pmu.get("frames", 0)
        then_s, frames_then, rate = self._last
        if now_s - then_s >= 0.9:
            rate = (frames - frames_then) / (now_s - then_s) if then_s else 0.0
            self._last = (now_s, frames, rate)
        elapsed_s = now_s - self._started_s if self._started_s else 0.0
        return Numbers(
            elapsed_s=elapsed_s,
            seconds=self._seconds or max(elapsed_s, 1.0),
            frames=frames,
            frames_per_s=rate,
            rows_stored=run.counters["archive"].get("rows"),
            kernel_drops=pmu.get("kernel_drops", 0),
            bad_frames=sum(pmu.get(reason, 0) for reason in ("bad_sync", "bad_size", "bad_crc", "unknown_idcode")),
            broker=broker.name,
            mqtt_port=broker.port,
            pmu_port=pmu_port,
        )

    def _summary(self, run: FlowRun, simulator: Simulator, broker: str) -> Summary:
        pmu = run.counters["pmu"].snapshot()
        events = self._watch.events()
        started = started_events(events)
        received = [seen for seen in events if seen.received_ns is not None]
        samples_stored, events_stored = count_stored(self._folder / "history.db")
        latencies_ms = [(seen.received_ns - seen.emitted_ns) / 1e6 for seen in received if seen.received_ns]
        event_ns = simulator.event_ns or 0
        system = self._watch.system()
        summary = Summary(
            seconds=round(time.monotonic() - self._started_s, 1) if self._started_s else 0.0,
            broker=broker,
            frames_sent=simulator.frames_sent,
            frames_received=pmu.get("frames", 0) - pmu.get("config_frames", 0),
            kernel_drops=pmu.get("kernel_drops", 0),
            bad_frames=sum(pmu.get(reason, 0) for reason in ("bad_sync", "bad_size", "bad_crc", "unknown_idcode")),
            samples_stored=samples_stored,
            events_stored=events_stored,
            events_emitted=len(events),
            events_received_over_mqtt=len(received),
            devices_with_event=sorted({seen.event.device for seen in started}),
            detection_delay_s=[round((seen.event.detected_time_ns - event_ns) / 1e9, 3) for seen in started],
            mqtt_latency_ms=round(statistics.median(latencies_ms), 2) if latencies_ms else None,
            units_estimated=sorted(
                device for device, estimate in self._watch.estimates().items() if estimate.status == "ok"
            ),
            system_ek_mws=None if system is None else system.kinetic_energy_mws,
            system_ci95_mws=None if system is None else (system.ci95_low_mws, system.ci95_high_mws),
        )
        if self._started_s:
            summary.problems.extend(self._problems(summary, len(self._watch.traces())))
        return summary

    def _problems(self, summary: Summary, devices: int) -> Iterator[str]:
        if not summary.frames_received:
            yield "no frame was received"
        if summary.events_received_over_mqtt != summary.events_emitted:
            yield f"{summary.events_emitted - summary.events_received_over_mqtt} events did not reach the subscriber"
        if summary.events_stored != summary.events_emitted:
            yield f"{summary.events_stored} of {summary.events_emitted} events are in the store"
        if not summary.samples_stored:
            yield "no sample is in the store"
        if summary.seconds >= self._event_at_s + LEAST_AFTER_EVENT_S and len(summary.devices_with_event) < devices:
            yield f"only {len(summary.devices_with_event)} of {devices} PMUs saw the event"
        if summary.seconds >= self._event_at_s + LEAST_FOR_ESTIMATE_S and summary.system_ek_mws is None:
            yield f"the system's inertia was not estimated, of {len(summary.units_estimated)} units it was"
