"""A source of a flow, what it was made of, and how its polls are numbered when another takes its place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.node import AcknowledgingSource, Source, SourceNode
from edgeflex_flow.recording import NO_POLICY
from edgeflex_flow.runtime.run import FlowRun, InForce

FIRST_RETRY_S = 0.5
PROVEN_AFTER_S = 2.0
"""What fails earlier after a change fails because of it, whatever came: that may still be of before."""


@dataclass(frozen=True, eq=False)
class MadeOf:
    """What a source goes on with: its own config, and those of connections that a policy may change."""

    own: InForce
    connections: Mapping[str, InForce]
    """By name."""

    @classmethod
    def now(cls, run: FlowRun, planned: PlannedNode) -> MadeOf:
        names = {each.name for each in planned.connections.values()} & run.connections.keys()
        return cls(run.in_force[planned.id], {name: run.connections[name] for name in names})

    @classmethod
    def declared(cls, run: FlowRun, planned: PlannedNode) -> MadeOf:
        """As the flow file and the site file say, without policies."""
        own = InForce(planned.config, dict.fromkeys(run.in_force[planned.id].policies, NO_POLICY))
        connections = {
            each.name: InForce(each.config, dict.fromkeys(run.connections[each.name].policies, NO_POLICY))
            for each in planned.connections.values()
            if each.name in run.connections
        }
        return cls(own, connections)

    def at_the_same_place(self, other: MadeOf) -> bool:
        """Whether the connections are as they were."""
        return all(each.config == other.connections[name].config for name, each in self.connections.items())

    def is_as(self, other: MadeOf) -> bool:
        return self.own.config == other.own.config and self.at_the_same_place(other)


@dataclass
class Input:
    """A source of the flow and where it stands."""

    planned: PlannedNode
    made_of: MadeOf
    source: Source = field(init=False)
    open: bool = False
    fd: int | None = None
    retry_at_s: float = 0.0
    retry_delay_s: float = FIRST_RETRY_S
    finished: bool = False
    lingers: bool = False
    """Not polled any more, but it still has to acknowledge."""
    gives_way_until_s: float | None = None
    """A policy gave it another config: it is not polled any more, and closed once all is acknowledged, or then."""
    last_good: MadeOf | None = None
    """What it goes on with when it fails: what it was before a policy changed that, until it gave something since; then
    what it is. None: no policy changed it, and a failure ends the flow.
    """
    changed_at_s: float = 0.0
    """When a policy changed it, in monotonic seconds."""
    gave: bool = False
    """Whether it gave something since then."""
    failure_delay_s: float = FIRST_RETRY_S
    """How long it waits after the next failure with what has worked."""
    failure: BaseException | None = None
    """What it reported from a thread of its own since then."""

    def is_opened(self) -> bool | None:
        """None once it has come to its end."""
        return None if self.finished else self.open

    def settle(self, run: FlowRun) -> None:
        """Before it changes or falls back: what it is made of is good if it gave something and went on for a while."""
        gave, self.gave = self.gave, False
        if not gave or time.monotonic() < self.changed_at_s + PROVEN_AFTER_S:
            return
        self.failure_delay_s = FIRST_RETRY_S
        if self.last_good is not None and self.last_good is not self.made_of:
            self.holds_good(run)

    def holds_good(self, run: FlowRun) -> None:
        """What it is made of is what it goes on with, whatever comes later. As declared, a failure ends the flow."""
        self.last_good = None if self.made_of.is_as(MadeOf.declared(run, self.planned)) else self.made_of


def make_input(run: FlowRun, planned: PlannedNode) -> Input:
    """The input of a source. Nothing is opened yet."""
    made, declared = Input(planned, MadeOf.now(run, planned)), MadeOf.declared(run, planned)
    if not made.made_of.is_as(declared):
        made.last_good = declared
    made.source = make_source(run, made)
    return made


def make_source(run: FlowRun, made: Input) -> Source:
    """A source of what is in force now. A failure after a policy changed it ends that change, and not the flow."""
    planned = made.planned
    assert isinstance(planned.node, SourceNode)

    def fail(error: BaseException) -> None:
        if made.last_good is None:
            run.fail(error)
        else:
            made.failure = error
            run.wakeup.wake()

    source: Source = planned.node.open(run.in_force[planned.id].config, replace(run.context(planned), fail=fail))
    if isinstance(source, AcknowledgingSource):
        source.holds_acknowledgements = True
    return source


class NumberedPolls:
    """An acknowledging source, and those that took its place: their polls are numbered through."""

    holds_acknowledgements = True

    def __init__(self, source: AcknowledgingSource) -> None:
        self._source = source
        self._before = 0
        self._done = 0

    @property
    def is_waiting(self) -> bool:
        """Whether something that was given is not acknowledged yet."""
        return self._done < self.poll_number()

    def go_on_with(self, source: AcknowledgingSource) -> None:
        """The source is closed, and this one takes its place."""
        self._before = self.poll_number()
        self._source = source

    def poll_number(self) -> int:
        return self._before + self._source.poll_number()

    def acknowledge(self, up_to: int) -> None:
        self._done = max(self._done, up_to)
        if up_to > self._before:
            self._source.acknowledge(up_to - self._before)
