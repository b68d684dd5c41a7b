"""What both runtimes share of one run of a flow: counters, dead letters, stopping, contexts."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.gauges import Gauges
from edgeflex_flow.messages import Alarm, DeadLetter, Message, Quality, Samples
from edgeflex_flow.node import (
    DEAD_LETTERS,
    FLOW_ALARMS,
    NO_SOCKET_KEEPER,
    Context,
    Counters,
    NodeConfig,
    OpenConnection,
    OperatorNode,
    SocketKeeper,
    SourceNode,
    WireMessage,
)
from edgeflex_flow.policy import PolicyEffect
from edgeflex_flow.recording import NO_POLICY
from edgeflex_flow.runtime.budgets import Budget, Budgets
from edgeflex_flow.runtime.latency import Origin, PathTimes, newest_time_ns
from edgeflex_flow.runtime.letters import Letter, Letters, Refused
from edgeflex_flow.wakeup import Wakeup

if TYPE_CHECKING:
    from edgeflex_flow.runtime.recovery import HeldStates, Recovery

Tap = Callable[[WireMessage], None]
"""Looks at every message that a node emits, in the runtime's thread: be quick, never change it."""

PAYLOAD_KEPT_BYTES = 256
DEAD_LETTERS_KEPT = 1000
ALARMS_KEPT = 100
"""Of one node that has not given them yet."""
REPLAYS_WAITING = 100
LOST = ("lost", "lost_rows")
"""Counters of sinks that tell how much was lost at the end."""
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
"""Of alarms, in the log."""
FLAGS = tuple((flag.name.lower(), np.uint16(flag)) for flag in Quality if flag.name)
"""Of rows, by name: going through the enumeration for each batch would cost more than counting."""
POLICY_SYSTEM = "policy system"
"""Among the counters: what is about no node. No node is called that, for it holds a space."""
UNFLUSHED = "unflushed"
"""Set to 1 for a sink that could not flush in time. It tells that, not how much, so it is never added to the above."""


def _show_nobody(_node: str, _message: Message) -> None:
    return None


class Records(Protocol):
    """Records what nodes give."""

    def given(self, node: str, messages: list[WireMessage]) -> None:
        """In the runtime's thread: be quick, never change it."""

    def ticked(self, node: str, now_ns: int, *, last: bool) -> None:
        """A period of an operator is over, or all is. In the runtime's thread, before the operator is told."""


class InForce(NamedTuple):
    """What a node is run with. An entry is replaced as a whole, by another thread than the one that reads it."""

    config: NodeConfig
    policies: Mapping[str, str]
    """By policy and field, the version of the policy whose value is in force; for each bound setting."""


class Replay(NamedTuple):
    """A dead letter that is to be given once more."""

    letter: Letter
    who: str
    done: Callable[[bool, str], None]
    """Told what came of it, by the thread of the feed."""


@dataclass
class ForPeople:
    """What a run keeps and tells for people who look at it."""

    on_message: Callable[[str, Message], None] = _show_nobody
    """Called, in the runtime's thread, with every message but samples and the node that gave it: be quick."""
    letters: Letters | None = None
    """Where dead letters are kept, if anywhere."""
    replays: deque[Replay] = field(default_factory=lambda: deque(maxlen=REPLAYS_WAITING))
    """What is to be given once more; the feed takes it."""
    recorders: tuple[Records, ...] = ()
    """Who is told all that nodes give; replaced as a whole."""


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


def _tellers(plan: Plan) -> list[str]:
    """Who gives alarms of the flow: the wire of such alarms if it is read, else operators whose wire carries alarms."""
    if FLOW_ALARMS in plan.flow_wires:
        return [FLOW_ALARMS]
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


def _add(counts: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for name, others in more.items():
        own = counts.setdefault(name, {})
        for counter, count in others.items():
            own[counter] = own.get(counter, 0) + count


class TakenBack(NamedTuple):
    """What a policy wanted of a setting, and what a source could not go on with."""

    version: str
    reason: str
    wait_s: float
    again_at_s: float
    """When it is tried again, in monotonic seconds."""


class InCluster:
    """What a run knows as one of several processes of a flow."""

    def __init__(self) -> None:
        self.held: HeldStates | None = None
        """In a process that is not the first: the states of its operators, which the first one keeps."""
        self.counts: dict[int, Mapping[str, Mapping[str, Mapping[str, int]]]] = {}
        """In the first process: what the others count, by process."""
        self.is_broken = False
        """Not all that sources gave has come through the flow, nor ever will: another process is gone."""


class FlowRun:
    """One run of a flow: everything about it that is not the passing of messages.

    `stop` ends the run in an orderly way (sources end, the dataflow empties, sinks flush). `fail` does the same and
    makes the run end with that error.
    """

    is_shared = False
    """Whether this is one of several processes of a flow, whose operators work in all of them."""
    settings_changes = 0
    """Counts how often a node's settings, or the versions of its policies, became others."""

    def __init__(
        self,
        plan: Plan,
        *,
        clock: Clock | None = None,
        taps: Mapping[str, Tap] | None = None,
        sockets: SocketKeeper = NO_SOCKET_KEEPER,
    ) -> None:
        self.plan = plan
        self._sockets = sockets
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
        self.recovery: Recovery | None = None
        """What keeps the states of operators beyond the end of the run, if anything does."""
        self.alarms: dict[str, deque[Alarm]] = {name: deque(maxlen=ALARMS_KEPT) for name in _tellers(plan)}
        """What has still to be given, by the wire of such alarms if the flow reads it, else by operator whose wire
        carries alarms."""
        counted = [*(node.id for node in plan.nodes), *([POLICY_SYSTEM] if plan.policy_system is not None else [])]
        self.counters: dict[str, Counters] = {name: Counters() for name in counted}
        self.gauges: dict[str, Gauges] = {name: Gauges() for name in self.counters}
        self.quality: dict[str, Counters] = {node.id: Counters() for node in plan.nodes}
        """By node, how many rows it gave with each flag of `Quality`, by the flag's name."""
        self.wakeup = Wakeup()
        self.failure: BaseException | None = None
        self.taps = dict(taps or {})
        self.on_draining: Callable[[], None] = _nothing
        """Called once or more when the run begins to drain, for whatever reason."""
        self.on_progress: Callable[[], None] = _nothing
        """Called from any thread when a sink has made something durable."""
        self.people = ForPeople()
        self.wires: dict[tuple[str, str, str], Counters] = {
            (source, reader.id, port): Counters()
            for reader in plan.nodes
            for port, sources in reader.inputs.items()
            for source in sources
        }
        """By (source, reader, port): what the reader took from the wire."""
        self.turn_s = 0.0
        """When the feed took in what is being dealt with, or a source or sink began to open, in monotonic seconds."""
        self.ending = False
        """Whether no more messages are passed: sinks flush, and all is closed."""
        self.paths: dict[tuple[str, str], PathTimes] = {}
        """By source and sink, how long messages took."""
        self.budgets = Budgets(plan, self.clock, self._tell_budget)
        self.started = threading.Event()
        self._stopping = threading.Event()
        self._dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_KEPT)
        self._trouble = RateLimitedLog(self.log)

    @cached_property
    def cluster(self) -> InCluster:
        return InCluster()

    @property
    def is_supervised(self) -> bool:
        return self._sockets is not NO_SOCKET_KEEPER

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

    def abandon(self, error: BaseException) -> None:
        """End the run with this error, without waiting for what is on its way."""
        self.cluster.is_broken = True
        self.fail(error)

    @property
    def held_states(self) -> HeldStates | None:
        """The states of this process, if they are kept."""
        return self.recovery or self.cluster.held

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
            gauges=self.gauges[planned.id],
            sockets=self._sockets,
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

    def dead_letter(
        self,
        node: str,
        reason: str,
        text: str,
        payload: bytes = b"",
        *,
        count: int = 1,
        refused: Refused | None = None,
    ) -> None:
        """Count something unusable under `reason`, log it (rate-limited), and keep it for the dead-letter wire.

        `count`: how many rows or messages it stands for. `refused`: what the node did not take.
        """
        counters = self.counters[node]
        counters.add(reason, count)
        counters.add("dead_letters")
        self._trouble.warning(node, reason, text)
        if self.people.letters is None and not self._keeps_dead_letters:
            return
        letter = DeadLetter(
            node=node,
            reason=reason,
            text=text,
            time_ns=self.clock.now_ns(),
            payload=payload[:PAYLOAD_KEPT_BYTES],
            count=count,
        )
        if self.people.letters is not None:
            self.people.letters.add(letter, payload, refused, decodes=self._decodes(node))
        if not self._keeps_dead_letters:
            return
        self._keep_dead_letter(letter)

    @property
    def _keeps_dead_letters(self) -> bool:
        """For the wire of dead letters, if anybody reads it."""
        return DEAD_LETTERS in self.plan.flow_wires

    def _decodes(self, node: str) -> bool:
        kinds = {each.id: each.node for each in self.plan.nodes}
        kind = kinds.get(node)
        return isinstance(kind, SourceNode) and kind.decodes

    def replay(self, replay: Replay) -> None:
        """Have the feed give something once more. Any thread."""
        self.people.replays.append(replay)
        self.wakeup.wake()

    def _keep_dead_letter(self, letter: DeadLetter) -> None:
        if len(self._dead_letters) == DEAD_LETTERS_KEPT:
            self.counters[letter.node].add("dead_letters_overflow")
        self._dead_letters.append(letter)
        self.wakeup.wake()

    def take_over(self, messages: Iterable[DeadLetter | Alarm]) -> None:
        """Give on wires of the flow itself what another process of it has told."""
        for message in messages:
            if isinstance(message, DeadLetter):
                self._keep_dead_letter(message)
            else:
                self.alarms[FLOW_ALARMS].append(message)
                self.wakeup.wake()

    @property
    def has_own_messages(self) -> bool:
        """Whether `take_own_messages` would give something."""
        return bool(self._dead_letters or self.alarms.get(FLOW_ALARMS))

    def take_own_messages(self) -> list[tuple[str, WireMessage]]:
        """What comes on wires of the flow itself, with the name of the wire."""
        taken: list[tuple[str, WireMessage]] = []
        while self._dead_letters:
            letter = self._dead_letters.popleft()
            taken.append((DEAD_LETTERS, letter))
            for recorder in self.people.recorders:
                recorder.given(DEAD_LETTERS, [letter])
        if FLOW_ALARMS in self.alarms:
            alarms = self.take_alarms(FLOW_ALARMS)
            self._show(FLOW_ALARMS, alarms)
            for recorder in self.people.recorders:
                recorder.given(FLOW_ALARMS, alarms)
            taken.extend((FLOW_ALARMS, alarm) for alarm in alarms)
        return taken

    def alarm(self, node: str, text: str, source: str = "", severity: Literal["info", "warning"] = "warning") -> None:
        """Have the `teller` of a node give an alarm. Any thread. `source`: whom it is about, if not the node."""
        teller = self.teller(node)
        if teller is not None:
            named = source or str(getattr(self.in_force[node].config, "name", "")) or node
            time_ns = self.clock.now_ns()
            self.alarms[teller].append(Alarm(source=named, severity=severity, text=text, time_ns=time_ns))
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
        for message in messages:
            # Of all ways to see whether any flag is set this is the quickest: a fifth of `any` or a reduction.
            if isinstance(message, Samples) and np.count_nonzero(message.quality):
                self._count_flags(node, message.quality)
        self._show(node, messages)
        for recorder in self.people.recorders:
            recorder.given(node, messages)

    def ticked(self, node: str, *, last: bool = False) -> int:
        """A period of an operator is over, or all is. Gives the time, UTC nanoseconds."""
        now_ns = self.clock.now_ns()
        for recorder in self.people.recorders:
            recorder.ticked(node, now_ns, last=last)
        return now_ns

    def _count_flags(self, node: str, quality: NDArray[np.uint16]) -> None:
        flags = np.bitwise_or.reduce(quality)
        counts = {name: int(np.count_nonzero(quality & flag)) for name, flag in FLAGS if flags & flag}
        self.quality[node].add_all(**counts)

    def _show(self, node: str, messages: list[WireMessage]) -> None:
        for message in messages:
            if isinstance(message, Samples):
                continue
            self.people.on_message(node, message)
            if isinstance(message, Alarm):
                where = f" ({message.device})" if message.device else ""
                self.log.log(LEVELS[message.severity], "alarm%s: %s", where, message.text, extra={"node": node})
        tap = self.taps.get(node)
        if tap is not None:
            for message in messages:
                tap(message)

    def arrived(self, origin: Origin, sink: str, messages: Sequence[WireMessage]) -> None:
        """Note how long messages took to a sink. One sink is written by one thread."""
        source = origin.node
        times = self.paths.get((source, sink))
        if times is None:
            times = self.paths[source, sink] = PathTimes()
        took_s = time.monotonic() - origin.polled_s
        times.took.add(took_s)
        newest_ns = newest_time_ns(messages)
        age_s = None if newest_ns is None else (self.clock.now_ns() - newest_ns) / 1e9
        if age_s is not None:
            times.age.add(age_s)
        self.budgets.arrived(source, sink, took_s, age_s)

    def _tell_budget(self, budget: Budget, text: str) -> None:
        self.log.log(logging.WARNING if budget.is_broken else logging.INFO, "%s", text)
        self.alarm(budget.config.from_, text, severity="warning" if budget.is_broken else "info")

    def set_config(self, node: str, config: NodeConfig) -> None:
        """Have a node go on with this config from its next step on; policies keep their versions."""
        self.in_force[node] = self.in_force[node]._replace(config=config)
        self.settings_changes += 1

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """All counters by node, and what each reader took from each of its wires (`pmu -> rocof.in`), those of other
        processes added."""
        # Wires first: what a reader has taken by then, its source has given by now.
        wires = {
            f"{source} -> {reader}.{port}": {"messages": wire.get("messages"), "rows": wire.get("rows")}
            for (source, reader, port), wire in self.wires.items()
        }
        nodes = {node: counters.snapshot() for node, counters in self.counters.items()}
        for other in list(self.cluster.counts.values()):
            _add(nodes, other["nodes"])
            _add(wires, other["wires"])
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
