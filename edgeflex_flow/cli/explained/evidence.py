"""What recordings hold about a message: the run that gave it, and all that happened there before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from edgeflex_flow import recording
from edgeflex_flow.cli.explained.identity import identity_of, is_called
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message
from edgeflex_flow.node import DEAD_LETTERS, FLOW_ALARMS, OperatorNode, SourceNode
from edgeflex_flow.recording import About, Entry, Given, Settings
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.rerun import plan_of

ALL_MESSAGES = frozenset(BUILT_IN_MESSAGES)
OnPlace: TypeAlias = Callable[[str], None]
"""Told what is being read."""


def ignore(_place: str) -> None:
    return None


class NothingFoundError(EdgeflexError):
    """No recording holds what was asked for."""


class Run(Protocol):
    """What is known of a run of a flow."""

    @property
    def places(self) -> tuple[str, ...]:
        """The files and stores that tell it."""
        ...

    @property
    def about(self) -> About: ...

    @property
    def is_whole(self) -> bool:
        """Whether all is told that it rests on: batches, periods and settings as they were."""
        ...

    def gaps(self) -> Sequence[str]:
        """What is known to be missing, in words."""
        ...

    def messages(self, told: OnPlace = ...) -> Iterator[Found]:
        """All messages, in order. Raises BadRecordingError."""
        ...

    def until(self, given: Given, nodes: Iterable[str]) -> Iterator[Entry]:
        """What these nodes gave before something else was given, with periods and settings."""
        ...

    def settings_before(self, given: Given) -> dict[str, Settings]:
        """What nodes went on with when something was given."""
        ...

    def plan(self, registry: Registry, given: Given) -> Plan:
        """The flow as it was then. Raises BadRecordingError, and NothingFoundError where it is not told."""
        ...


class Found(NamedTuple):
    """A message that a node gave."""

    run: Run
    given: Given

    @property
    def message(self) -> Message:
        assert isinstance(self.given.message, Message)
        return self.given.message


@dataclass(frozen=True)
class RecordedRun:
    """One run of a flow, or the part of it that was recorded."""

    files: tuple[Path, ...]
    about: About

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(str(file) for file in self.files)

    @property
    def is_whole(self) -> bool:
        return True

    @property
    def messengers(self) -> list[str]:
        """Nodes and wires of the flow that give messages."""
        return [name for name, node in self.about.nodes.items() if node.messages]

    def gaps(self) -> Sequence[str]:
        return recording.gaps_of(self.files, recording.lost_rows_of(self.files[-1]))

    def messages(self, told: OnPlace = ignore) -> Iterator[Found]:
        for file in self.files:
            told(file.name)
            for given in recording.read([file], nodes=self.messengers, types=ALL_MESSAGES):
                if isinstance(given.message, Message):
                    yield Found(self, given)

    def until(self, given: Given, nodes: Iterable[str]) -> Iterator[Entry]:
        entries = recording.read_run(self.files, nodes=nodes, types=ALL_MESSAGES)
        return itertools.takewhile(lambda entry: entry.seq < given.seq or isinstance(entry, Settings), entries)

    def settings_before(self, given: Given) -> dict[str, Settings]:
        found: dict[str, Settings] = {}
        for file in self.files:
            for block in recording.blocks(file):
                if isinstance(block.head, Settings) and (block.head.seq < given.seq or block.head.node not in found):
                    found[block.head.node] = block.head
        return found

    def plan(self, registry: Registry, given: Given) -> Plan:
        settings = self.settings_before(given)
        if not settings:
            raise NothingFoundError(f"{self.files[0]}: it was recorded before recordings told the settings of nodes")
        return plan_of(self.about, settings.values(), registry)


def recorded_runs(places: Sequence[Path]) -> list[RecordedRun]:
    """The runs in files and folders. Raises BadRecordingError, OSError, and NothingFoundError where there is none."""
    files = [file for place in places for file in recording.recordings_in(place)]
    if not files:
        told = ", ".join(str(place) for place in places)
        raise NothingFoundError(f"{told}: no recordings (*{recording.SUFFIX}) are there; `edgeflex record` makes them")
    return [RecordedRun(tuple(parts), recording.about(parts[0])) for parts in recording.runs_in(files)]


def find(runs: Sequence[Run], wanted: str, told: OnPlace) -> list[Found]:
    """All messages that are called so, else those whose name goes on behind a `/`. Raises NothingFoundError."""
    found = [each for run in runs for each in run.messages(told) if is_called(each.message, wanted)]
    found = [each for each in found if identity_of(each.message) == wanted] or found
    found.sort(key=lambda each: each.given.at_ns)
    if not found:
        raise NothingFoundError(f"nothing in the recordings is called '{wanted}'; without ID all is listed that is")
    return found


def listed(runs: Sequence[Run], told: OnPlace) -> list[tuple[str, Found]]:
    """All messages in order of time, with what they are called."""
    found = [(identity_of(each.message), each) for run in runs for each in run.messages(told)]
    return sorted(found, key=lambda item: item[1].given.at_ns)


def upstream(plan: Plan, node: str) -> list[str]:
    """The nodes on whose output a node rests, and itself, in order of the flow."""
    reached = {node}
    for planned in reversed(plan.nodes):
        if planned.id in reached:
            reached.update(source for sources in planned.inputs.values() for source in sources)
    return [planned.id for planned in plan.nodes if planned.id in reached]


def sources_behind(plan: Plan, node: str) -> list[str]:
    """The sources on whose output a node rests."""
    names = set(upstream(plan, node))
    return [each.id for each in plan.nodes if each.id in names and isinstance(each.node, SourceNode)]


def is_computed(plan: Plan, node: str) -> bool:
    """Whether an operator gave it: what sources and the runtime itself tell is not computed from anything."""
    return node not in (DEAD_LETTERS, FLOW_ALARMS) and any(
        each.id == node and isinstance(each.node, OperatorNode) for each in plan.nodes
    )
