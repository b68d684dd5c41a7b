"""Flows that ship, run in a thread by tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun

FLOWS = shipped_flows()
LOCAL = FLOWS / "sites" / "local.yaml"
RUNTIMES: dict[str, Callable[[FlowRun], None]] = {
    "inline": run_inline,
    "bytewax": run_bytewax,
    "bytewax-2": lambda run: run_bytewax(run, workers=2),
}


def flow_run(name: str, *, site: Path = LOCAL, **params: object) -> FlowRun:
    texts = {key: str(value) for key, value in params.items()}
    return FlowRun(load_flow(FLOWS / name, shipped_registry(), site=site, params=texts))


@contextmanager
def running(run: FlowRun, execute: Callable[[FlowRun], None]) -> Iterator[None]:
    """The flow runs in a thread while the block does; then it drains."""
    errors: list[Exception] = []

    def target() -> None:
        try:
            execute(run)
        except Exception as error:  # noqa: BLE001 - raised again in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        assert run.started.wait(60.0), errors
        yield
    finally:
        run.stop()
        thread.join(60.0)
    assert errors == []
    assert not thread.is_alive()
