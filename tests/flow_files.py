"""Runs flow files in this process, as `edgeflex run` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from broker import wait_until

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.policy_loader import policies_of_site
from edgeflex_flow.runtime.run import FlowRun

FLOWS = shipped_flows()

Environment = Mapping[str, str] | None


class RunningFlow:
    """A flow of files that runs on bytewax and follows its site's policy system, and what its nodes gave."""

    def __init__(self, flow: Path, site: Path, environment: Environment = None, /, **params: object) -> None:
        texts = {name: str(value) for name, value in params.items()}
        plan = load_flow(flow, shipped_registry(), site=site, params=texts, environment=environment or {})
        self.given: dict[str, list[WireMessage]] = {node.id: [] for node in plan.nodes}
        self.run = FlowRun(plan, taps={node: given.append for node, given in self.given.items()})
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._go)

    def _go(self) -> None:
        try:
            with policies_of_site(self.run):
                run_bytewax(self.run)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def count(self, node: str, name: str) -> int:
        return self.run.counters[node].get(name)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.run.started.is_set() or self.error is not None)
        return self

    def __exit__(self, *_: object) -> None:
        self.run.stop()
        self._thread.join()


@contextmanager
def running_files(flow: Path, site: Path, environment: Environment = None, /, **params: object) -> Iterator[FlowRun]:
    """The run of a flow while the block runs, which must end without an error."""
    with RunningFlow(flow, site, environment, **params) as running:
        assert running.error is None
        yield running.run
    assert running.error is None
