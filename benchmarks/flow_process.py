"""The flow under test in a process of its own; says twenty times a second how far it is.

`python -m benchmarks.flow_process PORT MQTT_PORT [FOLDER]` prints JSON lines: time, frames whose ROCOF is done, events,
drops. With FOLDER each SIGUSR1 changes what is recorded there: nothing, the source's wire, all wires, nothing, …
"""

from __future__ import annotations

import itertools
import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.lifecycle import stop_on_signals
from edgeflex_flow.runtime.recorder import Recorder
from edgeflex_flow.runtime.run import FlowRun

FLOWS = Path(__file__).parent / "flows"
PERIOD_S = 0.02


class Progress:
    """Tap of the node `rocof`: rows that have come out of it."""

    def __init__(self) -> None:
        self.rows = 0
        self.last_s = 0.0

    def __call__(self, message: WireMessage) -> None:
        if isinstance(message, Samples):
            self.rows += message.rows
            self.last_s = time.monotonic()


def tell(run: FlowRun, progress: Progress) -> None:
    run.started.wait()
    while not run.stopping:
        pmu = run.counters["pmu"].snapshot()
        line = {
            "time_s": progress.last_s,
            "frames": pmu.get("frames", 0),
            "rows": progress.rows,
            "events": run.counters["event"].get("messages_out"),
            "published": run.counters["alarm"].get("published"),
            "drops": pmu.get("kernel_drops", 0),
            "bad": run.counters["pmu"].get("dead_letters") + run.counters["rocof"].get("dead_letters"),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        time.sleep(PERIOD_S)


class Switch:
    """Records another thing at each turn, from a thread of its own: a signal must not wait for a disk."""

    def __init__(self, run: FlowRun, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._ways = itertools.cycle([["pmu"], [], None])
        self._recorder: Recorder | None = None
        self._turns = 0

    def turn(self, *_: object) -> None:
        threading.Thread(target=self._turn).start()

    def _turn(self) -> None:
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)
        nodes = next(self._ways)
        self._turns += 1
        name = f"turn-{self._turns}"
        self._recorder = None if nodes is None else Recorder(self._run, self._folder, name, nodes=nodes).__enter__()


def main(port: int, mqtt_port: int, folder: str = "") -> None:
    logging.getLogger("edgeflex").setLevel(logging.ERROR)
    plan = load_flow(
        FLOWS / "throughput.yaml",
        shipped_registry(),
        site=FLOWS / "site.yaml",
        params={"pmu_port": str(port), "mqtt_port": str(mqtt_port)},
    )
    progress = Progress()
    run = FlowRun(plan, taps={"rocof": progress})
    threading.Thread(target=tell, args=(run, progress), daemon=True).start()
    if folder:
        signal.signal(signal.SIGUSR1, Switch(run, Path(folder)).turn)
    with stop_on_signals(run):
        run_bytewax(run)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
