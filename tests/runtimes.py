"""What runs a flow: every scenario of the runtime is tried on each."""

from __future__ import annotations

from collections.abc import Callable

from clusters import as_cluster

from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun

Run = Callable[[FlowRun], None]

RUNTIMES: dict[str, Run] = {
    "inline": run_inline,
    "bytewax": run_bytewax,
    "bytewax-2": lambda run: run_bytewax(run, workers=2),
    "cluster-2": as_cluster(2),
}
