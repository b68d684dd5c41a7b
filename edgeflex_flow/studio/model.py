"""What the studio knows of the site: what the supervisor told, the newest of everything, and bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import msgspec

from edgeflex_flow.flowfile.picture import Picture
from edgeflex_flow.monitor.status import FlowStatus, SiteStatus
from edgeflex_flow.runtime.letters import LetterHead
from edgeflex_flow.runtime.showing import Bound, Happened, SeenMessages, SeenRows
from edgeflex_flow.studio.began import began_ms
from edgeflex_flow.studio.events import Entry, entry_of
from edgeflex_flow.studio.rates import Rates
from edgeflex_flow.supervisor.studio_channel import (
    Drawn,
    FlowBound,
    FlowEvents,
    FlowLetters,
    FlowSeen,
    Status,
    ToStudio,
)

ENTRIES_KEPT = 2000
LETTERS_KEPT = 500
SEEN_KEPT = 40
"""Of one wire: what comes in some seconds, for who comes to look."""
STALE_S = 5.0
"""Without a status for so long, what is shown is old."""


class KeptLetter(NamedTuple):
    """A dead letter of a flow."""

    number: int
    flow: str
    head: LetterHead


T = TypeVar("T", Entry, KeptLetter)


class KeptSeen(NamedTuple):
    """Something that flowed on a wire."""

    number: int
    seen: SeenRows | SeenMessages


class Model:
    """The site. Only the event loop touches it."""

    def __init__(self) -> None:
        self.status: SiteStatus | None = None
        self.heard_s = 0.0
        """When the last status came, by the loop's clock."""
        self.beat = asyncio.Event()
        """Set with the next status; each has one of its own."""
        self.beats = 0
        self.pictures: dict[str, tuple[str, Picture]] = {}
        """By flow, with the version's digest."""
        self.bound: dict[str, tuple[Bound, ...]] = {}
        self.entries: deque[Entry] = deque(maxlen=ENTRIES_KEPT)
        self.letters: deque[KeptLetter] = deque(maxlen=LETTERS_KEPT)
        self.last = 0
        """The newest number of an entry, a letter, or something seen."""
        self._seen: dict[tuple[str, str], deque[KeptSeen]] = {}
        self._rates: dict[str, Rates] = {}
        self._began_ms: dict[str, tuple[int, int | None]] = {}
        """By flow, its process and when that began, by the clock as it was when it was seen first."""
        self._viewers: dict[tuple[str, str], int] = {}
        self.on_watch: Callable[[dict[str, tuple[str, ...]]], None] = lambda _nodes: None
        self._site_json: tuple[int, bytes] = (-1, b"")
        self._flow_json: dict[str, tuple[int, bytes]] = {}

    # What the supervisor tells ----------------------------------------------------------------------------------------

    def take(self, told: ToStudio) -> None:
        """Any thing that the supervisor tells."""
        match told:
            case Status():
                self._take_status(told.status)
            case Drawn():
                self.pictures[told.picture.flow] = (told.digest, told.picture)
            case FlowEvents():
                self._take_events(told.flow, told.events)
            case FlowLetters():
                for head in told.letters:
                    self.last += 1
                    self.letters.append(KeptLetter(self.last, told.flow, head))
            case FlowBound():
                self.bound[told.flow] = told.bound
            case FlowSeen():
                for seen in told.seen:
                    kept = self._seen.get((told.flow, seen.node))
                    if kept is not None:
                        self.last += 1
                        kept.append(KeptSeen(self.last, seen))
            case _:
                return

    def _take_status(self, status: SiteStatus) -> None:
        self.status = status
        self.heard_s = asyncio.get_running_loop().time()
        names = {flow.name for flow in status.flows}
        for kept in (self._rates, self.pictures, self.bound):
            for gone in [name for name in kept if name not in names]:
                del kept[gone]
        known, self._began_ms = self._began_ms, {}
        for flow in status.flows:
            if flow.pid is not None:
                before = known.get(flow.name)
                if before is None or before[0] != flow.pid:
                    before = (flow.pid, began_ms(flow.pid))
                self._began_ms[flow.name] = before
            if flow.vitals is not None:
                self._rates.setdefault(flow.name, Rates()).add(flow.pid, flow.vitals)
        self.beats += 1
        self.wake()

    def wake(self) -> None:
        """Have all who wait for the next status look now."""
        self.beat.set()
        self.beat = asyncio.Event()

    def _take_events(self, flow: str, events: Iterable[Happened]) -> None:
        for event in events:
            self.last += 1
            self.entries.append(entry_of(self.last, flow, event))

    # What viewers see -------------------------------------------------------------------------------------------------

    def watch(self, flow: str, node: str) -> None:
        """Somebody looks at what a node gives."""
        count = self._viewers.get((flow, node), 0)
        self._viewers[flow, node] = count + 1
        if not count:
            self._seen[flow, node] = deque(maxlen=SEEN_KEPT)
            self._tell_watched()

    def unwatch(self, flow: str, node: str) -> None:
        count = self._viewers.get((flow, node), 0) - 1
        self._viewers[flow, node] = count
        if count <= 0:
            self._viewers.pop((flow, node), None)
            self._seen.pop((flow, node), None)
            self._tell_watched()

    def _tell_watched(self) -> None:
        nodes: dict[str, tuple[str, ...]] = {}
        for flow, node in self._viewers:
            nodes[flow] = (*nodes.get(flow, ()), node)
        self.on_watch(nodes)

    def seen(self, flow: str, node: str, after: int) -> list[SeenRows | SeenMessages]:
        """What flowed since, oldest first."""
        return [each.seen for each in self._seen.get((flow, node), ()) if each.number > after]

    def entries_since(self, after: int) -> list[Entry]:
        return _since(self.entries, after)

    def letters_since(self, after: int) -> list[KeptLetter]:
        return _since(self.letters, after)

    def site_json(self) -> bytes:
        """The site as it is, for the overview; made once for all viewers."""
        if self._site_json[0] != self.beats:
            self._site_json = (self.beats, msgspec.json.encode(self._site()))
        return self._site_json[1]

    def flow_json(self, name: str) -> bytes:
        """The rates of one flow; made once for all viewers."""
        beats, made = self._flow_json.get(name, (-1, b""))
        if beats != self.beats:
            rates = self._rates.get(name)
            told = {
                "name": name,
                "digest": self.pictures[name][0] if name in self.pictures else "",
                "wires": {} if rates is None else rates.wires(),
                "nodes": {} if rates is None else rates.nodes(),
                "bound": self.bound.get(name, ()),
            }
            made = msgspec.json.encode(told)
            self._flow_json = {each: kept for each, kept in self._flow_json.items() if kept[0] == self.beats}
            self._flow_json[name] = (self.beats, made)
        return made

    def _site(self) -> dict[str, object]:
        status = self.status
        if status is None:
            return {"site": "", "flows": []}
        return {
            "site": status.site,
            "file": status.file,
            "version": status.version,
            "started_ms": status.started_ns // 1_000_000,
            "time_ms": status.time_ns // 1_000_000,
            "problem": status.problem,
            "flows": [self._flow(flow) for flow in status.flows],
        }

    def _flow(self, flow: FlowStatus) -> dict[str, object]:
        rates = self._rates.get(flow.name)
        last = flow.moves[-1] if flow.moves else None
        running = flow.word in ("running", "moving") and flow.vitals is not None
        nodes = {} if rates is None else rates.nodes()
        drawn = self.pictures[flow.name][1].nodes if flow.name in self.pictures else ()
        return {
            "name": flow.name,
            "about": self.pictures[flow.name][1].about if flow.name in self.pictures else "",
            "file": flow.file,
            "word": flow.word,
            "why": flow.why,
            "since_ms": flow.since_ns // 1_000_000,
            "restarts": flow.restarts,
            "digest": flow.digest,
            "refused": flow.refused,
            "pid": flow.pid,
            "began_ms": self._began_ms[flow.name][1] if flow.name in self._began_ms else None,
            "move": None
            if last is None
            else {"worked": last.worked, "why": last.why, "time_ms": last.time_ns // 1_000_000, "digest": last.digest},
            "budgets": flow.vitals.budgets if running and flow.vitals else (),
            "memory_bytes": flow.vitals.memory_bytes if running and flow.vitals else None,
            "turn_age_s": flow.vitals.turn_age_s if running and flow.vitals else None,
            **(rates.sums() if running and rates is not None else {}),
            "connections": {name: node["gauges"] for name, node in nodes.items() if node["gauges"]} if running else {},
            "uses": {node.id: tuple(node.connections.values()) for node in drawn if node.connections},
        }


def _since(kept: deque[T], after: int) -> list[T]:
    """The items after a number, oldest first."""
    found: list[T] = []
    for each in reversed(kept):
        if each.number <= after:
            break
        found.append(each)
    found.reverse()
    return found
