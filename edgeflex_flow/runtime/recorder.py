"""Records what nodes of a run give, from a thread of its own.

The thread that passes messages puts them into a queue. The arrays in them are never changed: nothing is copied there.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeflex_flow import __version__
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.messages import EventWindow, Message, Samples
from edgeflex_flow.node import FLOW_WIRES, OperatorNode, SinkNode, Wire, WireMessage
from edgeflex_flow.recording import About, Entry, Given, Keep, NodeAbout, RecordingWriter, Ticked
from edgeflex_flow.runtime.node_settings import settings_of
from edgeflex_flow.runtime.run import FlowRun, rows_of

TURN_S: Final = 0.5
LOWER_PRIORITY: Final = 10
TURN_ROWS: Final = 100_000
MOST_WAITING_ROWS: Final = 4_000_000
COMPLAIN_S: Final = 30.0
SILENT_S: Final = 1.0
"""How often a recording tells that nothing came."""


def recorded_nodes(plan: Plan, wanted: Collection[str] = ()) -> dict[str, NodeAbout]:
    """Nodes whose wires can be recorded, or those of `wanted`. Raises ValueError for one that gives nothing."""
    known = {
        **{
            node.id: _about_node(node.node.kind, node.wire)
            for node in plan.nodes
            if not isinstance(node.node, SinkNode)
        },
        **{name: _about_node("flow", wire) for name, wire in FLOW_WIRES.items() if name in plan.flow_wires},
    }
    for name in wanted:
        if name not in known:
            raise ValueError(f"flow '{plan.name}' has no wire of '{name}'; known: {', '.join(known)}")
    return {name: each for name, each in known.items() if not wanted or name in wanted}


def _about_node(kind: str, wire: Wire | None) -> NodeAbout:
    if wire is None:
        return NodeAbout(kind=kind)
    types = {str(each.__struct_config__.tag) for each in wire.messages if issubclass(each, Message)}
    return NodeAbout(kind=kind, columns=tuple(sorted(wire.columns)), messages=tuple(sorted(types)))


def about_run(run: FlowRun, nodes: dict[str, NodeAbout], revision: str | None) -> About:
    """What a recording of a run is about. `revision`: of the flow where that is not the plan that is run."""
    return About(
        flow=run.plan.name,
        site=run.plan.site,
        revision=revision or digest_of(run.plan),
        version=__version__,
        begun_ns=run.clock.now_ns(),
        part=1,
        nodes=nodes,
        shared=run.is_shared,
        supervised=run.is_supervised,
    )


class Recorder:
    """Records the wires of these nodes until it is closed. `at_once`: in the thread that passes messages, so that the
    same run gives the same bytes. `revision`: of the flow, where a plan is run that was made from it.

    Whatever wires it records: it also tells when periods of operators are over, and what all nodes go on with. What
    comes faster than the disk takes it is left out beyond `MOST_WAITING_ROWS`, and counted in `lost_rows`; what could
    not be written, too. Windows of samples are left out: they hold what their source's wire has.
    """

    def __init__(
        self,
        run: FlowRun,
        folder: Path,
        name: str,
        *,
        nodes: Collection[str] = (),
        keep: Keep = Keep(),  # noqa: B008 - immutable
        at_once: bool = False,
        revision: str | None = None,
    ) -> None:
        self._run = run
        self._nodes = recorded_nodes(run.plan, nodes)
        if run.is_shared:  # operators work in other processes, too
            operators = {node.id for node in run.plan.nodes if isinstance(node.node, OperatorNode)}
            self._nodes = {name: node for name, node in self._nodes.items() if name not in operators}
        self._writer = RecordingWriter(folder, name, about_run(run, self._nodes, revision), keep)
        self._at_once = at_once
        self._numbers = itertools.count(1)
        self._queue: deque[Entry] = deque()
        self._settings_seen = -1
        self._in_force_seen: dict[str, object] = {}
        self._waiting_rows = 0
        self._due = threading.Event()
        self._over = False
        self._complained_s = -COMPLAIN_S
        self._wrote_s = 0.0
        self.rows = 0
        self.messages = 0
        self.lost_rows = 0
        self._thread = threading.Thread(target=self._loop, name="recorder", daemon=True)

    def begin(self) -> None:
        """Have a file, with what nodes go on with, before anything crosses a wire. Raises OSError."""
        self._note_settings()
        self._writer.begin(self._run.clock.now_ns())

    def __enter__(self) -> Recorder:
        self._note_settings()
        self._run.people.recorders = (*self._run.people.recorders, self)
        if not self._at_once:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run.people.recorders = tuple(each for each in self._run.people.recorders if each is not self)
        self._over = True
        self._due.set()
        if not self._at_once:
            self._thread.join()
        self._write()
        self._writer.close()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Whose wires are recorded."""
        return tuple(self._nodes)

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes_written

    def given(self, node: str, messages: list[WireMessage]) -> None:
        """A node gave something. By any thread of the runtime."""
        if self._settings_seen != self._run.settings_changes:
            self._note_settings()
        if node not in self._nodes:
            return
        rows = rows_of(messages)
        if self._waiting_rows + rows > MOST_WAITING_ROWS:
            self.lost_rows += max(rows, 1)
            return
        now_ns, number = self._run.clock.now_ns(), self._numbers
        self._queue.extend(
            Given(next(number), now_ns, node, message) for message in messages if not isinstance(message, EventWindow)
        )
        self._waiting_rows += rows
        self._hurry()

    def ticked(self, node: str, now_ns: int, *, last: bool) -> None:
        """A period of an operator is over. By the thread that polls."""
        if self._settings_seen != self._run.settings_changes:
            self._note_settings()
        self._queue.append(Ticked(next(self._numbers), now_ns, node, last))
        self._hurry()

    def _note_settings(self) -> None:
        """What nodes go on with, of those where that is new."""
        self._settings_seen = self._run.settings_changes
        now_ns = self._run.clock.now_ns()
        for planned in self._run.plan.nodes:
            in_force = self._run.in_force[planned.id]
            if self._in_force_seen.get(planned.id) != in_force:
                self._in_force_seen[planned.id] = in_force
                self._queue.append(settings_of(self._run, planned, seq=next(self._numbers), at_ns=now_ns))

    def _hurry(self) -> None:
        """Have a turn written that is large already."""
        if self._waiting_rows >= TURN_ROWS or (self._at_once and len(self._queue) >= TURN_ROWS):
            if self._at_once:
                self._write()
            else:
                self._due.set()

    def _loop(self) -> None:
        with suppress(OSError, AttributeError):  # not on every system
            # Of this thread alone: where processors are few, the flow goes first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWER_PRIORITY)
        while not self._over:
            self._due.wait(TURN_S)
            self._due.clear()
            self._write()

    def _write(self) -> None:
        # Before the queue is looked at: nothing of before this time comes later.
        reached_ns = self._run.clock.now_ns()
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        given = [each for each in entries if isinstance(each, Given)]
        rows = rows_of([each.message for each in given])
        messages = sum(not isinstance(each.message, Samples) for each in given)
        now_s = time.monotonic()
        if not entries and (self._at_once or now_s - self._wrote_s < SILENT_S):
            return
        self._wrote_s = now_s
        try:
            self._writer.write(entries, reached_ns, self.lost_rows)
        except OSError as error:
            self.lost_rows += rows + messages
            if time.monotonic() - self._complained_s >= COMPLAIN_S:
                self._complained_s = time.monotonic()
                self._run.log.warning("recording: %s: %d rows are not in it", error, rows)
        else:
            self.rows += rows
            self.messages += messages
        self._waiting_rows -= rows
