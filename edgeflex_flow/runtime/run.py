"""What both runtimes share of one run of a flow: counters, dead letters, stopping, contexts."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import Alarm, DeadLetter, Samples
from edgeflex_flow.node import (
    DEAD_LETTERS,
    FLOW_ALARMS,
    Context,
    Counters,
    NodeConfig,
    OpenConnection,
    OperatorNode,
    WireMessage,
)
from edgeflex_flow.policy import PolicyEffect
from edgeflex_flow.wakeup import Wakeup

Tap = Callable[[WireMessage], None]
"""Looks at every message that a node emits, in the runtime's thread: be quick, never change it."""

PAYLOAD_KEPT_BYTES = 256
DEAD_LETTERS_KEPT = 1000
ALARMS_KEPT = 100
"""Of one node that has not given them yet."""
LOST = ("lost", "lost_rows")
"""Counters of sinks that tell how much was lost at the end."""
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
"""Of alarms, in the log."""
NO_POLICY = "default"
"""In place of a version: the flow file's own value is in force."""
POLICY_SYSTEM = "policy system"
"""Among the counters: what is about no node. No node is called that, for it holds a space."""
UNFLUSHED = "unflushed"
"""Set to 1 for a sink that could not flush in time. It tells that, not how much, so it is never added to the above."""


class InForce(NamedTuple):
    """What a node is run with. An entry is replaced as a whole, by another thread than the one that reads it."""

    config: NodeConfig
    policies: Mapping[str, str]
    """By policy and field, the version of the policy whose value is in force; for each bound setting."""


class Refusal(NamedTuple):
    """What a policy wanted of a setting, and was refused."""

    version: str
    text: str


class RateLimitedLog:
    """Logs the first of each kind of trouble at once, then at most one in `period_s`, with how many were held back."""

    def __init__(self, log: logging.Logger, period_s: float = 10.0) -> None:
        self._log = log
        self._period_s = period_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def warning(self, node: str, reason: str, text: str) -> None:
        now = time.monotonic()
        last, held = self._last.get((node, reason), (float("-inf"), 0))
        if now - last < self._period_s:
            self._last[node, reason] = (last, held + 1)
            return
        more = f" (and {held} more since the last line)" if held else ""
        self._log.warning("%s: %s%s", reason, text, more, extra={"node": node, "reason": reason})
        self._last[node, reason] = (now, 0)


def _nothing() -> None:
    return None


def _tell_nobody(_effect: PolicyEffect) -> None:
    return None


def _alarm_givers(plan: Plan) -> list[str]:
    """Operators whose wire carries alarms."""
    operators = [node for node in plan.nodes if isinstance(node.node, OperatorNode)]
    return [node.id for node in operators if node.wire is not None and Alarm in node.wire.messages]


def count_on(wire: Counters, messages: Sequence[object]) -> None:
    """Count messages (and their rows) that a reader takes from a wire."""
    wire.add_all(messages=len(messages), rows=rows_of(messages))


def rows_of(messages: Sequence[object]) -> int:
    """Rows of all samples among the messages."""
    rows = 0
    for message in messages:
        if isinstance(message, Samples):
            rows += len(message.time_ns)
    return rows


class TakenBack(NamedTuple):
    """What a policy wanted of a setting, and what a source could not go on with."""

    version: str
    reason: str
    wait_s: float
    again_at_s: float
    """When it is tried again, in monotonic seconds."""


class FlowRun:
    """One run of a flow: everything about it that is not the passing of messages.

    `stop` ends the run in an orderly way (sources end, the dataflow empties, sinks flush). `fail` does the same and
    makes the run end with that error.
    """

    def __init__(self, plan: Plan, *, clock: Clock | None = None, taps: Mapping[str, Tap] | None = None) -> None:
        self.plan = plan
        self.clock: Clock = clock or SystemClock()
        self.log = logging.getLogger(f"edgeflex.{plan.name}")
        self.in_force: dict[str, InForce] = {
            node.id: InForce(node.config, {each.key: NO_POLICY for each in node.policies.values()})
            for node in plan.nodes
        }
        """What nodes are run with; a policy replaces an entry, and the node's next step uses it."""
        self.connections: dict[str, InForce] = {
            connection.name: InForce(connection.config, {each.key: NO_POLICY for each in bound.values()})
            for node in plan.nodes
            for connection in node.connections.values()
            if (bound := plan.bound_connections.get(connection.name)) is not None
        }
        """The same of connections that a policy may change, by name."""
        self.source_changes = 0
        """Counts how often a policy gave a source, or a connection, another config."""
        self.refusals: dict[str, dict[str, Refusal]] = {}
        """By node and setting, what policies wanted last and was refused."""
        self.taken_back: dict[tuple[str, str], TakenBack] = {}
        """By node and setting, with which version of a policy a source could not go on, and why."""
        self.policy_lock = threading.RLock()
        """Held while settings in force change: policies come from a thread, and sources give them back in another."""
        self.apply_again: Callable[[], None] = _nothing
        """Applies once more what policies said last."""
        self.on_effect: Callable[[PolicyEffect], None] = _tell_nobody
        """Called from any thread with what a policy changed or could not change; its group is still to be filled in."""
        tellers = [FLOW_ALARMS] if FLOW_ALARMS in plan.flow_wires else _alarm_givers(plan)
        self.alarms: dict[str, deque[Alarm]] = {name: deque(maxlen=ALARMS_KEPT) for name in tellers}
        """What has still to be given, by the wire of such alarms if the flow reads it, else by operator whose wire
        carries alarms."""
        self.counters: dict[str, Counters] = {node.id: Counters() for node in plan.nodes}
        if plan.policy_system is not None:
            self.counters[POLICY_SYSTEM] = Counters()
        self.wakeup = Wakeup()
        self.failure: BaseException | None = None
        self.taps = dict(taps or {})
        self.on_draining: Callable[[], None] = _nothing
        """Called once or more when the run begins to drain, for whatever reason."""
        self.on_progress: Callable[[], None] = _nothing
        """Called from any thread when a sink has made something durable."""
        self.wires: dict[tuple[str, str, str], Counters] = {
            (source, reader.id, port): Counters()
            for reader in plan.nodes
            for port, sources in reader.inputs.items()
            for source in sources
        }
        """By (source, reader, port): what the reader took from the wire."""
        self.started = threading.Event()
        self._stopping = threading.Event()
        self._dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_KEPT)
        self._keeps_dead_letters = DEAD_LETTERS in plan.flow_wires
        self._trouble = RateLimitedLog(self.log)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def wait_for_stop(self, seconds: float) -> bool:
        """Wait at most so long; whether the run is asked to end."""
        return self._stopping.wait(seconds)

    def stop(self) -> None:
        """Ask the run to drain and end. Any thread, any number of times."""
        self._stopping.set()
        self.wakeup.wake()
        self.on_draining()

    def fail(self, error: BaseException) -> None:
        """End the run with this error (the first one counts)."""
        if self.failure is None:
            self.failure = error
            self.log.error("%s", error)
        self.stop()

    def progressed(self) -> None:
        """A sink has made something durable. Any thread."""
        self.on_progress()

    def context(self, planned: PlannedNode) -> Context:
        def dead_letter(reason: str, text: str, payload: bytes) -> None:
            self.dead_letter(planned.id, reason, text, payload)

        return Context(
            flow=self.plan.name,
            site=self.plan.site,
            node=planned.id,
            clock=self.clock,
            counters=self.counters[planned.id],
            log=self.log.getChild(planned.id),
            dead_letter=dead_letter,
            fail=self.fail,
            folder=self.plan.folder,
            connections=self.connections_of(planned),
            progressed=self.progressed,
        )

    def connections_of(self, planned: PlannedNode) -> dict[str, OpenConnection]:
        """The connections of a node as they are now, by config field."""
        return {
            field: replace(each, config=self.connections[each.name].config) if each.name in self.connections else each
            for field, each in planned.connections.items()
        }

    def sources_change(self) -> None:
        """Sources have another config, or a connection of theirs has: the feed looks at once. Any thread."""
        self.source_changes += 1
        self.wakeup.wake()

    def dead_letter(self, node: str, reason: str, text: str, payload: bytes = b"", *, count: int = 1) -> None:
        """Count something unusable under `reason`, log it (rate-limited), and keep it for the dead-letter wire.

        `count`: how many rows or messages it stands for.
        """
        counters = self.counters[node]
        counters.add(reason, count)
        counters.add("dead_letters")
        self._trouble.warning(node, reason, text)
        if not self._keeps_dead_letters:
            return
        if len(self._dead_letters) == DEAD_LETTERS_KEPT:
            counters.add("dead_letters_overflow")
        self._dead_letters.append(
            DeadLetter(
                node=node,
                reason=reason,
                text=text,
                time_ns=self.clock.now_ns(),
                payload=payload[:PAYLOAD_KEPT_BYTES],
                count=count,
            )
        )
        self.wakeup.wake()

    @property
    def has_own_messages(self) -> bool:
        """Whether `take_own_messages` would give something."""
        return bool(self._dead_letters or self.alarms.get(FLOW_ALARMS))

    def take_own_messages(self) -> list[tuple[str, WireMessage]]:
        """What comes on wires of the flow itself, with the name of the wire."""
        taken: list[tuple[str, WireMessage]] = []
        while self._dead_letters:
            taken.append((DEAD_LETTERS, self._dead_letters.popleft()))
        if FLOW_ALARMS in self.alarms:
            alarms = self.take_alarms(FLOW_ALARMS)
            self._show(FLOW_ALARMS, alarms)
            taken.extend((FLOW_ALARMS, alarm) for alarm in alarms)
        return taken

    def alarm(self, node: str, text: str, source: str = "") -> None:
        """Have the `teller` of a node give an alarm. Any thread. `source`: whom it is about, if not the node."""
        teller = self.teller(node)
        if teller is not None:
            named = source or str(getattr(self.in_force[node].config, "name", "")) or node
            time_ns = self.clock.now_ns()
            self.alarms[teller].append(Alarm(source=named, severity="warning", text=text, time_ns=time_ns))
            self.wakeup.wake()

    def teller(self, node: str) -> str | None:
        """Who gives alarms about a node: the wire of such alarms if the flow reads it, else, with its next step, the
        first node, from this one on downstream, whose wire carries alarms."""
        if FLOW_ALARMS in self.alarms:
            return FLOW_ALARMS
        waiting, seen = [node], {node}
        while waiting:
            at = waiting.pop(0)
            if at in self.alarms:
                return at
            readers = [reader.id for reader, _ in self.plan.readers(at) if reader.id not in seen]
            seen.update(readers)
            waiting.extend(readers)
        return None

    def take_alarms(self, node: str) -> list[WireMessage]:
        """What a node has to give beside its own. Each alarm goes to one taker, whichever thread asks."""
        taken: list[WireMessage] = []
        try:
            while True:
                taken.append(self.alarms[node].popleft())
        except IndexError:
            return taken

    def emitted(self, node: str, messages: list[WireMessage]) -> None:
        """Count what a node gave, log its alarms, and show it to the node's tap."""
        self.counters[node].add_all(messages_out=len(messages), rows_out=rows_of(messages))
        self._show(node, messages)

    def _show(self, node: str, messages: list[WireMessage]) -> None:
        for message in messages:
            if isinstance(message, Alarm):
                where = f" ({message.device})" if message.device else ""
                self.log.log(LEVELS[message.severity], "alarm%s: %s", where, message.text, extra={"node": node})
        tap = self.taps.get(node)
        if tap is not None:
            for message in messages:
                tap(message)

    def set_config(self, node: str, config: NodeConfig) -> None:
        """Have a node go on with this config from its next step on; policies keep their versions."""
        self.in_force[node] = self.in_force[node]._replace(config=config)

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """All counters by node, and what each reader took from each of its wires (`pmu -> rocof.in`)."""
        nodes = {node: counters.snapshot() for node, counters in self.counters.items()}
        wires = {
            f"{source} -> {reader}.{port}": {"messages": wire.get("messages"), "rows": wire.get("rows")}
            for (source, reader, port), wire in self.wires.items()
        }
        return {"nodes": nodes, "wires": wires}

    @property
    def lost_at_the_end(self) -> dict[str, int]:
        """By node: what sinks held and could not bring out before the run ended; 0 of one that does not know."""
        return {
            node: sum(counters.get(name) for name in LOST)
            for node, counters in self.counters.items()
            if any(counters.get(name) for name in (*LOST, UNFLUSHED))
        }

    def raise_failure(self) -> None:
        """Raise what ended the run, if it was an error."""
        if self.failure is None:
            return
        if isinstance(self.failure, FatalError):
            raise self.failure
        raise FatalError(f"flow '{self.plan.name}' stopped: {self.failure!r}") from self.failure
