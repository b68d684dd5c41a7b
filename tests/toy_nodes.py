"""Small nodes for tests of the engine: a scripted source, a collecting sink, operators that misbehave on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError, FatalError
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import Alarm, DeadLetter, Message, Samples, samples_from_rows
from edgeflex_flow.node import (
    ANY,
    Context,
    Input,
    NodeConfig,
    OperatorNode,
    SinkNode,
    SourceNode,
    WireMessage,
    samples_wire,
)


class ToyConfig(NodeConfig, frozen=True, kw_only=True):
    """A node for tests."""

    name: Annotated[str, Meta(description="Any name.")] = ""


class ScriptedSource:
    """Gives one item of a script a poll; an exception in the script is raised."""

    def __init__(self, script: Sequence[Sequence[WireMessage] | Exception], *, endless: bool = False) -> None:
        self.script = list(script)
        self.endless = endless
        self.opened = 0
        self.closed = 0
        self.open_errors: list[Exception] = []

    def open(self) -> None:
        self.opened += 1
        if self.open_errors:
            raise self.open_errors.pop(0)

    def poll(self) -> Sequence[WireMessage]:
        if not self.script:
            return []
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    @property
    def ended(self) -> bool:
        return not self.endless and not self.script

    def fileno(self) -> int | None:
        return None

    def next_poll_ns(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed += 1


class CollectingSink:
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.messages: list[WireMessage] = []
        self.closed = False
        self.flushes = True
        self.error: Exception | None = None

    def open(self) -> None:
        return

    def write(self, messages: Sequence[WireMessage]) -> None:
        if self.error is not None:
            raise self.error
        self.messages.extend(messages)

    def flush(self, timeout_s: float) -> bool:
        return self.flushes

    def close(self) -> None:
        self.closed = True

    @property
    def rows(self) -> list[tuple[int, str, float]]:
        """(time, device, frequency) of all samples."""
        return [
            (int(time_ns), batch.devices[code], float(value))
            for batch in self.messages
            if isinstance(batch, Samples)
            for time_ns, code, value in zip(batch.time_ns, batch.device, batch.columns["frequency_hz"], strict=True)
        ]

    def of_type(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


def source(made: ScriptedSource) -> SourceNode[ToyConfig]:
    def open_it(_config: ToyConfig, _context: Context) -> ScriptedSource:
        return made

    return SourceNode("toy_source", ToyConfig, lambda _config, _inputs: samples_wire("frequency_hz"), open_it)


def sink(made: CollectingSink) -> SinkNode[ToyConfig]:
    def open_it(_config: ToyConfig, _context: Context) -> CollectingSink:
        return made

    return SinkNode("toy_sink", ToyConfig, {"in": Input(ANY)}, open_it)


def operator(
    step: Callable[[ToyConfig, dict[str, Any], Any], Sequence[WireMessage]],
    **more: Any,
) -> OperatorNode[ToyConfig, dict[str, Any]]:
    def start(_config: ToyConfig) -> dict[str, Any]:
        return {}

    inputs: Mapping[str, Input] = {"in": Input(ANY, step=step)}
    return OperatorNode("toy_operator", ToyConfig, inputs, lambda _config, wires: wires["in"], start, **more)


def count_by_device(_config: ToyConfig, state: dict[str, Any], batch: Samples) -> Sequence[WireMessage]:
    """Replaces frequency by how many rows the device had so far: a state that order and sharding would disturb."""
    values = []
    for code in batch.device:
        name = batch.devices[code]
        state[name] = state.get(name, 0) + 1
        values.append((name, state[name]))
    rows = [
        (int(time_ns), name, {"frequency_hz": float(count)})
        for time_ns, (name, count) in zip(batch.time_ns, values, strict=True)
    ]
    return [samples_from_rows(rows)] if rows else []


def misbehave(_config: ToyConfig, _state: dict[str, Any], batch: Samples) -> Sequence[WireMessage]:
    """By frequency: 1 bad message, 2 a bug, 3 fatal, 4 a dead letter beside the message; else passes on."""
    what = float(batch.columns["frequency_hz"][0])
    if what == 1:
        raise BadMessageError("one", reason="is_one", payload=b"1")
    if what == 2:
        raise ZeroDivisionError("two")
    if what == 3:
        raise FatalError("three")
    if what == 4:
        return [DeadLetter(node="", reason="is_four", text="four", time_ns=0), batch]
    return [batch]


def tick_alarm(_config: ToyConfig, _state: dict[str, Any], now_ns: int) -> Sequence[WireMessage]:
    return [Alarm(source="tick", severity="info", text="tick", time_ns=now_ns)]


def batch(*frequencies: float, start_ns: int = 0, device: str = "G1") -> Samples:
    return samples_from_rows(
        [(start_ns + k * 20_000_000, device, {"frequency_hz": value}) for k, value in enumerate(frequencies)]
    )


def plan(*nodes: PlannedNode) -> Plan:
    return Plan("toy", "", Path("toy.yaml"), "test", Path(), nodes)


def planned(node_id: str, node: Any, *sources: str) -> PlannedNode:
    return PlannedNode(node_id, node, ToyConfig(), {"in": sources} if sources else {})
