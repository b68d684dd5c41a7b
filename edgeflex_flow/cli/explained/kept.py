"""What a store, or a file, has kept of a flow: its messages, and the samples of its sources.

Neither periods nor settings nor batches are kept there. They are those of the flow file, which so must be the one that
ran; periods are taken to be over when the message says that it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from edgeflex_flow import __version__
from edgeflex_flow.cli.explained.evidence import ALL_MESSAGES, Found, OnPlace, ignore
from edgeflex_flow.cli.on_record import stream_of_records
from edgeflex_flow.cli.preview_files import Wanted
from edgeflex_flow.cli.preview_records import Span, find_records, read_place, read_records
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.messages import Alarm, Message, Quality, Samples, message_time_ns
from edgeflex_flow.node import OperatorNode, WireMessage
from edgeflex_flow.recording import About, Entry, Given, Settings, Ticked
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.node_settings import settings_of
from edgeflex_flow.runtime.recorder import recorded_nodes
from edgeflex_flow.runtime.run import FlowRun

AFTER_NS: Final = 60_000_000_000
"""A message does not tell when it was given: so long after the newest time in it, rows may have let it go."""
KNOWN_AT: Final = ("detected_time_ns", "end_time_ns", "end_ns")
"""Fields with times before which a message cannot have been given."""


class KeptRun:
    """A flow of which a store or files have kept messages and samples."""

    is_whole = False

    def __init__(self, plan: Plan, places: Sequence[str], back_s: float) -> None:
        """`back_s`: how long before a message what was measured is looked at."""
        self._plan = plan
        self.places = tuple(places)
        self._back_ns = round(back_s * 1e9)
        self.about = About(
            flow=plan.name,
            site=plan.site,
            revision=digest_of(plan),
            version=__version__,
            begun_ns=0,
            part=1,
            nodes=recorded_nodes(plan),
        )

    def gaps(self) -> Sequence[str]:
        return ()

    def messages(self, told: OnPlace = ignore) -> Iterator[Found]:
        """Those that an operator of the flow gives. Raises RecordingError, NoRecordError."""
        for place in self.places:
            told(place)
            for each in read_place(self._plan, place, Wanted(frozenset(), ALL_MESSAGES)).messages:
                node = self._giver(each.message)
                if node is not None:
                    at_ns = _known_at_ns(each.message, each.time_ns)
                    yield Found(self, Given(at_ns, at_ns, node, each.message))

    def _giver(self, message: Message) -> str | None:
        """The operator that gives such messages; of set-points the one whose name stands in them."""
        givers = [
            node
            for node in self._plan.nodes
            if isinstance(node.node, OperatorNode) and node.wire is not None and type(message) in node.wire.messages
        ]
        controller = getattr(message, "controller", None) or getattr(message, "source", None)
        named = [node for node in givers if controller in (node.id, getattr(node.config, "name", None))]
        if isinstance(message, Alarm):  # any node behind it may have told of it
            return next((node.id for node in named), None)
        chosen = (named or givers)[:1]
        return chosen[0].id if chosen else None

    def until(self, given: Given, nodes: Iterable[str]) -> Iterator[Entry]:
        span = Span(given.at_ns - self._back_ns, given.at_ns + AFTER_NS)
        records = read_records(self._plan, find_records(self.places, self._plan), span, partly=True)
        wanted = frozenset(nodes)
        ticks = _Ticks(self._plan, given)
        for due in stream_of_records(self._plan, records.by_source):
            yield from ticks.until(due.due_ns)
            if due.source in wanted:
                yield Given(due.due_ns, due.due_ns, due.source, _as_it_was(due.given()))

    def settings_before(self, given: Given) -> dict[str, Settings]:
        run = FlowRun(self._plan)
        try:
            return {
                node.id: msgspec.structs.replace(settings_of(run, node, seq=0, at_ns=given.at_ns), policies={})
                for node in self._plan.nodes
            }
        finally:
            run.wakeup.close()

    def plan(self, registry: Registry, given: Given) -> Plan:
        del registry, given
        return self._plan


class _Ticks:
    """Periods of the operators, such that one is over when the message was made."""

    def __init__(self, plan: Plan, given: Given) -> None:
        assert isinstance(given.message, Message)
        self._made_ns = message_time_ns(given.message) or 0
        self._periods_ns = plan.periods_ns
        self._due_ns: dict[str, int] = {}

    def until(self, now_ns: int) -> Iterator[Ticked]:
        if not self._due_ns:
            self._due_ns = {
                node: self._made_ns - (self._made_ns - now_ns) // period_ns * period_ns
                for node, period_ns in self._periods_ns.items()
            }
        while self._due_ns and (node := min(self._due_ns, key=lambda name: self._due_ns[name])):
            due_ns = self._due_ns[node]
            if due_ns > now_ns:
                return
            yield Ticked(due_ns, due_ns, node, last=False)
            self._due_ns[node] = due_ns + self._periods_ns[node]


def _known_at_ns(message: Message, kept_ns: int) -> int:
    told: list[int | None] = [getattr(message, name, None) for name in KNOWN_AT]
    return max([kept_ns, *(each for each in told if each is not None)])


def _as_it_was(message: WireMessage) -> WireMessage:
    """Without the mark of what is read from a store."""
    if not isinstance(message, Samples):
        return message
    return msgspec.structs.replace(message, quality=message.quality & ~np.uint16(Quality.REPLAYED))
