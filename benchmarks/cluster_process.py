"""One process of the flow under test, alone or of a cluster; says how long it took, and how long rows took through it.

`python -m benchmarks.cluster_process FLOW WORKERS [CLUSTER PROCESS]` prints a JSON line at its end: seconds from the
first poll to the last row written, rows, and seconds from poll to sink of each batch.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.flowfile.cluster import load_cluster
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, WireMessage, samples_wire
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.bytewax import run_bytewax, run_in_cluster
from edgeflex_flow.runtime.latency import Origin
from edgeflex_flow.runtime.lifecycle import stop_on_signals
from edgeflex_flow.runtime.run import FlowRun, rows_of

LOOPS_A_ROW = 400
"""Some 20 µs of plain Python."""


class BusyConfig(NodeConfig, frozen=True, kw_only=True):
    """Passes rows on after some work for each: an operator that is slow, and no kernel."""


def busy(_config: BusyConfig, state: list[int], samples: Samples) -> Sequence[WireMessage]:
    total = 0
    for _ in range(samples.rows * LOOPS_A_ROW):
        total += 1
    state[0] += total
    return [samples]


BUSY = OperatorNode(
    "busy",
    BusyConfig,
    {"in": Input((Samples,), step=busy)},
    lambda _config, _inputs: samples_wire("frequency_hz"),
    lambda _config: [0],
)


class TimedRun(FlowRun):
    """Notes when sinks took what."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.first_s = self.last_s = 0.0
        self.rows = 0
        self.took_s: list[float] = []

    def arrived(self, origin: Origin, sink: str, messages: Sequence[WireMessage]) -> None:
        super().arrived(origin, sink, messages)
        self.last_s = time.monotonic()
        self.first_s = self.first_s or origin.polled_s
        self.rows += rows_of(messages)
        self.took_s.append(self.last_s - origin.polled_s)


def main(flow: Path, workers: int, cluster_file: str = "", process: str = "0") -> None:
    logging.getLogger("edgeflex").setLevel(logging.ERROR)
    run = TimedRun(load_flow(flow, Registry([*shipped_registry(), BUSY])))
    with stop_on_signals(run):
        if cluster_file:
            run_in_cluster(run, load_cluster(Path(cluster_file)), int(process))
        else:
            run_bytewax(run, workers=workers)
    took = run.took_s[len(run.took_s) // 10 :]  # without the warm-up
    print(json.dumps({"seconds": run.last_s - run.first_s, "rows": run.rows, "took_s": took}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
