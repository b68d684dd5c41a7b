"""A small flow with settings bound to policies, running beside a policy system for tests."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from policy_server import PolicyServer
from toy_nodes import CollectingSink, ScriptedSource, batch, plan, planned, sink, source

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.messages import Alarm, Crossing, Message
from edgeflex_flow.node import ANY, Input, NodeConfig, OpenConnection, OperatorNode, message_wire, quantity
from edgeflex_flow.policy import PolicyBinding
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.policy_loader import policies_of_site
from edgeflex_flow.runtime.run import POLICY_SYSTEM, FlowRun

BINDINGS = {
    "onset": PolicyBinding(policy="trigger", field="onset", default=0.02, min=0.01, max=1.0),
    "hold": PolicyBinding(policy="timing", field="hold", default=2.0, min=1.0, max=60.0),
}


class BoundConfig(NodeConfig, frozen=True, kw_only=True):
    """A node with settings that policies may change."""

    onset: Annotated[float, quantity("Hz/s", "Any rate.", gt=0)] = 0.02
    hold: Annotated[float, quantity("s", "Any time.", gt=0)] = 2.0


def tell(config: BoundConfig, _state: None, _message: object) -> Sequence[Message]:
    return [Crossing(device="G1", column="x_hz_per_s", state="above", time_ns=0, value=1.0, limit=config.onset)]


def bound() -> PlannedNode:
    wire = message_wire(Alarm, Crossing)
    node = OperatorNode("bound", BoundConfig, {"in": Input(ANY, step=tell)}, lambda _c, _w: wire, lambda _config: None)
    return PlannedNode("bound", node, BoundConfig(), {"in": ("in",)}, policies=BINDINGS, wire=wire)


class JumpingClock(SystemClock):
    """The computer's clock, set by this much."""

    jump_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.jump_ns


class SlowSource(ScriptedSource):
    """Gives a batch now and then."""

    def poll(self) -> Sequence[Any]:
        time.sleep(0.002)
        return [batch(50.0)]


class Running:
    """A flow that runs."""

    def __init__(self, connection: OpenConnection, folder: Path, *, name: str = "toy") -> None:
        self.out = CollectingSink()
        made = plan(
            planned("in", source(SlowSource([[]], endless=True))), bound(), planned("out", sink(self.out), "bound")
        )
        self.clock = JumpingClock()
        made = dataclasses.replace(made, name=name, policy_system=connection, folder=folder)
        self.run = FlowRun(made, clock=self.clock)
        self._thread = threading.Thread(target=self._go)
        self.began_s = time.monotonic()

    def _go(self) -> None:
        with policies_of_site(self.run):
            run_inline(self.run)

    @property
    def config(self) -> Any:
        return self.run.in_force["bound"].config

    @property
    def onset(self) -> float:
        return float(self.config.onset)

    def count(self, name: str) -> int:
        return self.run.counters[POLICY_SYSTEM].get(name)

    def alarms(self) -> list[str]:
        return [each.text for each in self.out.of_type(Alarm)]

    def __enter__(self) -> Running:
        self._thread.start()
        assert self.run.started.wait(20.0)
        return self

    def __exit__(self, *_: object) -> None:
        self.run.stop()
        self._thread.join()


@contextmanager
def running(server: PolicyServer, folder: Path, *, name: str = "toy", **more: Any) -> Iterator[Running]:
    with Running(server.connection(**more), folder, name=name) as flow:
        yield flow
