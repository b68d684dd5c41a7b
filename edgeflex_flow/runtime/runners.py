"""Runs one operator or sink: every call wrapped, so that one bad message never ends the process."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError, FatalError
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.messages import Computed, DeadLetter, Message, Samples
from edgeflex_flow.node import Input, OperatorNode, Sink, SinkNode, Step, WireMessage
from edgeflex_flow.runtime.latency import Origin
from edgeflex_flow.runtime.letters import Refused
from edgeflex_flow.runtime.run import FlowRun


class Tick(msgspec.Struct, frozen=True):
    """Tells an operator that its period is over. Comes through the dataflow like a message, so that order is kept."""

    now_ns: int
    last: bool = False
    """Not a period is over but all: nothing will come any more."""


class Again(msgspec.Struct, frozen=True):
    """A message that a node refused, which a person gives to it once more: to a port of an operator, or to a sink."""

    port: str
    message: WireMessage


def _lacking(needs: frozenset[str], message: WireMessage) -> str | None:
    """What a batch lacks of the needed columns. The check cannot know columns that only a device's frames tell."""
    if not needs or not isinstance(message, Samples) or needs <= message.columns.keys():
        return None
    lacking = ", ".join(sorted(needs - message.columns.keys()))
    return f"samples lack column {lacking}; known: {', '.join(message.columns)}"


class OperatorRunner:
    """Holds the state of one operator (of one shard of its devices) and calls its functions."""

    def __init__(self, run: FlowRun, planned: PlannedNode, stage: str) -> None:
        assert isinstance(planned.node, OperatorNode)
        self._run = run
        self._planned = planned
        self._alarms: Sized = run.alarms.get(planned.id, ())
        self._promised = planned.wire.columns if planned.wire is not None else frozenset[str]()
        self._tick: Callable[[Any, Any, int], Sequence[WireMessage]] = planned.node.tick or _no_tick
        self._end: Callable[[Any, Any], Sequence[WireMessage]] = planned.node.end or _no_end
        self._ports: dict[str, tuple[Step, frozenset[str]]] = {
            name: (_step_of(planned, name, port), port.columns(planned.config))
            for name, port in planned.node.inputs.items()
        }
        self._state = self._begin(stage)

    def _begin(self, stage: str) -> Any:
        """The state to begin with: that of the run before, or a new one."""
        planned, held = self._planned, self._run.held_states
        state = None if held is None else held.state_of(stage, planned)
        if state is None:
            try:
                state = cast("OperatorNode[Any, Any]", planned.node).start(self._run.in_force[planned.id].config)
            except Exception as error:
                raise FatalError(f"operator '{planned.id}' cannot start: {type(error).__name__}: {error}") from error
        if held is not None and state is not None:
            held.hold(stage, planned, state)
        return state

    def again(self, given: Again) -> Sequence[WireMessage]:
        """What follows from a message that is given once more."""
        return self.step(given.port, given.message)

    def step(self, port: str, message: WireMessage | Tick) -> Sequence[WireMessage]:
        """What follows from one message, dead letters taken out, and the alarms that are due about this operator."""
        given = self._given(port, message)
        if self._alarms:
            given = [*self._run.take_alarms(self._planned.id), *given]
        if given:
            self._run.emitted(self._planned.id, given)
        return given

    def _given(self, port: str, message: WireMessage | Tick) -> list[WireMessage]:
        config, versions = self._run.in_force[self._planned.id]
        try:
            if isinstance(message, Tick):
                given = self._over(config, message)
            else:
                step, needs = self._ports[port]
                lacking = _lacking(needs, message)
                if lacking is not None:
                    refused = Refused(port, [message])
                    self._run.dead_letter(self._planned.id, "missing_column", lacking, refused=refused)
                    return []
                given = step(config, self._state, message)
            kept = [each for each in given if not isinstance(each, DeadLetter)]
            for each in kept:
                self._check(each)
        except Exception as error:  # noqa: BLE001 - `_failed` tells them apart
            self._failed(error, None if isinstance(message, Tick) else Refused(port, [message]))
            return []
        if len(kept) < len(given):
            self._set_aside(given)
        if versions:
            return [_stamped(each, versions) if isinstance(each, Computed) else each for each in kept]
        return kept

    def _over(self, config: Any, tick: Tick) -> Sequence[WireMessage]:
        return self._end(config, self._state) if tick.last else self._tick(config, self._state, tick.now_ns)

    def _check(self, message: WireMessage) -> None:
        """An operator's mistake must show at the operator, not in a sink far behind it."""
        if isinstance(message, Samples):
            rows = message.rows
            for name, values in message.columns.items():
                if len(values) != rows:
                    raise ValueError(f"column '{name}' has {len(values)} values for {rows} rows")
            if not self._promised <= message.columns.keys():
                missing = ", ".join(sorted(self._promised - message.columns.keys()))
                raise ValueError(f"output lacks the column {missing} that its declaration promises")
        elif not isinstance(message, Message):
            raise TypeError(f"step must return a sequence of messages; got one that holds {type(message).__name__}")

    def _failed(self, error: Exception, refused: Refused | None) -> None:
        """An operator's error costs one message, not the flow, unless it is fatal."""
        node_id = self._planned.id
        if isinstance(error, BadMessageError):
            self._run.dead_letter(node_id, error.reason, str(error), error.payload, refused=refused)
        elif isinstance(error, FatalError):
            self._run.fail(error)
        else:
            self._run.log.debug("operator '%s' raised", node_id, exc_info=error)
            text = f"{type(error).__name__}: {error} ({_place(error)})"
            self._run.dead_letter(node_id, "operator_error", text, refused=refused)

    def _set_aside(self, given: Sequence[WireMessage]) -> None:
        for each in given:
            if isinstance(each, DeadLetter):
                self._run.dead_letter(self._planned.id, each.reason, each.text, each.payload, count=each.count)


def _stamped(message: Computed, versions: Mapping[str, str]) -> Computed:
    """With the policies in force, beside those of what it was computed from."""
    return replace(message, policies={**message.policies, **versions})


def _place(error: Exception) -> str:
    """File and line where an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "no place"


def _no_tick(_config: object, _state: object, _now_ns: int) -> Sequence[WireMessage]:
    return ()


def _no_end(_config: object, _state: object) -> Sequence[WireMessage]:
    return ()


def _step_of(planned: PlannedNode, name: str, port: Input) -> Step:
    if port.step is None:
        raise FatalError(f"kind '{planned.node.kind}': input port '{name}' has no step function")
    return port.step


class SinkRunner:
    """Calls one open sink."""

    def __init__(self, run: FlowRun, planned: PlannedNode, sink: Sink) -> None:
        assert isinstance(planned.node, SinkNode)
        self._run = run
        self._id = planned.id
        self._sink = sink
        needs = [port.columns(planned.config) for port in planned.node.inputs.values()]
        self._needs = frozenset[str]().union(*needs)

    def write(self, messages: Sequence[WireMessage], origin: Origin | None) -> None:
        """`origin`: what they came of; None if they are given once more."""
        good: list[WireMessage] = []
        for message in messages:
            lacking = _lacking(self._needs, message)
            if lacking is None:
                good.append(message)
            else:
                self._run.dead_letter(self._id, "missing_column", lacking, refused=Refused("", [message]))
        try:
            self._sink.write(good)
            if origin is not None:
                self._run.arrived(origin, self._id, good)
        except BadMessageError as error:
            self._run.dead_letter(self._id, error.reason, str(error), error.payload, refused=Refused("", good))
        except FatalError as error:
            self._run.fail(error)
        except Exception as error:
            self._run.log.debug("sink '%s' raised", self._id, exc_info=True)
            text = f"{type(error).__name__}: {error}"
            self._run.dead_letter(self._id, "sink_error", text, refused=Refused("", good))
