"""State that outlives a run: what operators hold is saved every so often, and the next run goes on with it.

A state is saved only once everything that came of it is durable in the sinks, and messages are acknowledged only once
a state that has them is saved. So after `kill -9` or a power failure the next run has all that was acknowledged, either
in its state or in the sinks; what came after is sent again by far sides that can, and counted for those that cannot.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.gauges import Gauges
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Counters, NodeConfig, OperatorNode, SourceNode
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.state_folder import GO_ON, FlowState, NodeState, StateFolder, StateUse, written

STATE = "state of the flow"
"""Among the counters: what is about no node. No node is called that, for it holds spaces."""
MARKS = "marks"
RUN_BYTES = 32
DIGEST_DIGITS = 16
MOST_TIMES_AS_LONG = 20
"""A large state takes long to take, while no messages pass: it is taken more seldom then, for 5 % of the time."""


class _Held(NamedTuple):
    stage: str
    planned: PlannedNode
    state: Any


class Marks:
    """How much each source has given, in a file that the operating system keeps when the process is killed.

    Of a machine that lost its power it may be older than what was.
    """

    def __init__(self, file: Path, run: str, sources: tuple[str, ...]) -> None:
        self._file = file
        self._run = run
        self._sources = sources
        self._names = zlib.crc32(" ".join(sources).encode())
        self._layout = struct.Struct(f"=I{RUN_BYTES}s{RUN_BYTES}s{len(sources)}q")
        self._map: mmap.mmap | None = None
        self.since = ""
        """The run whose state this one goes on with, and that holds as long as this one has saved none."""

    def given_since(self, state: FlowState) -> dict[str, int]:
        """What the sources have given since a state was taken, as far as a run that left marks tells."""
        try:
            names, run, since, *rows = self._layout.unpack(self._file.read_bytes())
        except (OSError, struct.error):
            return {}
        given = dict(zip(self._sources, rows, strict=True))
        state_run = state.run.encode()
        if names != self._names or state_run not in (run, since):
            return {}
        before = state.rows if run == state_run else {}  # else the run was killed before it had saved a state
        return {name: rows - before.get(name, 0) for name, rows in given.items() if name in state.rows}

    def open(self) -> None:
        with self._file.open("wb+") as opened:
            # Room that is taken now: a write to a map that has none ends the process.
            os.posix_fallocate(opened.fileno(), 0, self._layout.size)
            self._map = mmap.mmap(opened.fileno(), self._layout.size)

    def set(self, rows: Mapping[str, int]) -> None:
        if self._map is not None:
            given = (rows[name] for name in self._sources)
            self._layout.pack_into(self._map, 0, self._names, self._run.encode(), self.since.encode(), *given)

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None


def _never(_name: str) -> bool:
    return False


def _nothing_elsewhere() -> tuple[NodeState, ...]:
    return ()


class HeldStates:
    """States of the operators of this process: those of the run before that they go on with, and as they are now."""

    def __init__(self, run: FlowRun) -> None:
        self._run = run
        self._found: dict[tuple[str, str], NodeState] = {}
        self._held: list[_Held] = []
        self._lock = threading.Lock()
        self._cannot: set[str] = set()

    def give(self, found: Iterable[NodeState]) -> None:
        """What the run before left; more than this process needs, if it is one of several."""
        self._found = {(each.stage, each.node): each for each in found}

    def state_of(self, stage: str, planned: PlannedNode) -> Any:
        """The state that an operator goes on with; None if it begins anew, which is said when there was one."""
        with self._lock:
            found = self._found.pop((stage, planned.id), None)
        if found is None:
            return None
        problem = _misfit(found, planned)
        if problem is None:
            try:
                return pickle.loads(found.pickled)  # noqa: S301 - the folder is this user's alone
            except Exception as error:  # noqa: BLE001 - whatever a class of another version does
                problem = f"it does not read: {type(error).__name__}: {error}"
        self._run.log.warning("operator '%s' begins anew: %s", planned.id, problem, extra={"node": planned.id})
        self._run.counters[planned.id].add("states_dropped")
        return None

    def hold(self, stage: str, planned: PlannedNode, state: Any) -> None:
        """Save this operator's state from now on. Any thread."""
        with self._lock:
            self._held.append(_Held(stage, planned, state))

    def states(self) -> tuple[NodeState, ...]:
        """As they are now. Nothing may be on its way to the operators meanwhile."""
        with self._lock:
            return tuple(each for each in map(self._pickled, self._held) if each is not None)

    def _pickled(self, held: _Held) -> NodeState | None:
        planned = held.planned
        assert isinstance(planned.node, OperatorNode)
        try:
            pickled = pickle.dumps(held.state, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - the operator's state is of any class
            if planned.id not in self._cannot:
                self._cannot.add(planned.id)
                text = "the state of operator '%s' cannot be saved: %s: %s"
                self._run.log.warning(text, planned.id, type(error).__name__, error)
            return None
        return NodeState(
            stage=held.stage,
            node=planned.id,
            kind=planned.node.kind,
            version=planned.node.state_version,
            settings=_digests(planned.config),
            pickled=pickled,
        )


class Recovery(HeldStates):
    """The state of one run: given back to its operators at the start, saved while it runs.

    All methods but `save`'s thread are called by the thread that passes messages, while none are on their way.
    """

    def __init__(self, run: FlowRun, folder: StateFolder, *, every_s: float, use: StateUse = GO_ON) -> None:
        super().__init__(run)
        self.elsewhere: Callable[[], tuple[NodeState, ...]] = _nothing_elsewhere
        """The states of operators in other processes; may raise FatalError."""
        self._use = use
        self._folder = folder
        self._every_s = every_s
        self._id = uuid.uuid4().hex
        self._layout = ""
        self._gives_again: Callable[[str], bool] = _never
        self._sources = tuple(each.id for each in run.plan.nodes if isinstance(each.node, SourceNode))
        self._counts = {each.id: _counts_of(each) for each in run.plan.nodes if each.id in self._sources}
        self._marks = Marks(folder.folder / MARKS, self._id, self._sources)
        self._due_s = 0.0
        self._saver = Saver(folder, self._tell_saved)
        self._failed = False
        run.counters[STATE] = Counters()
        run.gauges[STATE] = Gauges()
        run.gauges[STATE].watch("state_age_s", self._age_s)
        self._saved_s: float | None = None

    def open(self, layout: str, gives_again: Callable[[str], bool]) -> None:
        """Take the folder and read what is there. Raises FatalError when another process has it.

        `gives_again`: whether a source is one whose far side sends again what was not acknowledged.
        A folder that cannot be used at all costs the recovery, which is said, and not the flow.
        """
        self._layout, self._gives_again = layout, gives_again
        self._due_s = time.monotonic() + self._every_s
        try:
            self._folder.open(self._use)
            found = self._folder.take_up()
            for text in self._folder.messages:
                self._run.log.error("%s", text)
                self._run.counters[STATE].add("set_aside")
            if found is None and self._folder.messages:
                self._run.log.warning("no state is left to go on with: the flow begins anew")
            self._take_over(found)
            self._marks.open()
        except OSError as error:
            self._tell_not_saved(error)
        self._saver.start()

    def _take_over(self, found: FlowState | None) -> None:
        if found is None:
            return
        if (found.flow, found.site) != (self._run.plan.name, self._run.plan.site):
            text = "'%s' holds the state of flow '%s' of site '%s': it begins anew"
            self._run.log.warning(text, self._folder.folder, found.flow, found.site)
            return
        if found.layout != self._layout:
            text = "the state is of a run that shared out devices in another way (%s, now %s): it begins anew"
            self._run.log.warning(text, found.layout, self._layout)
            return
        known = {each.id for each in self._run.plan.nodes}
        self.give(each for each in found.nodes if each.node in known)
        self._tell_gap(found, self._marks.given_since(found))
        self._marks.since = found.run

    def _tell_gap(self, found: FlowState, given: Mapping[str, int]) -> None:
        """What the state does not have: time, and of sources that do not send again also how much."""
        away_s = (self._run.clock.now_ns() - found.time_ns) / 1e9
        self._run.counters[STATE].set("away_s", max(0, round(away_s)))
        lost = {name: rows for name, rows in given.items() if rows > 0}
        for name, rows in lost.items():
            self._run.counters[name].add("not_in_state", rows)
        how = "" if found.ended else ", after a run that did not end in order"
        if lost:
            how += f"; lost since then: {', '.join(f'{rows} rows of {name}' for name, rows in lost.items())}"
        elif not found.ended:
            how += "; nothing that came since then is lost"
        self._run.log.info("goes on with the state of %.1f s ago%s", away_s, how, extra={"not_in_state": lost})

    @property
    def found(self) -> tuple[NodeState, ...]:
        """What the run before left and no operator has taken yet."""
        with self._lock:
            return tuple(self._found.values())

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due_s

    def mark(self) -> None:
        """Note how much the sources have given."""
        self._marks.set(self._rows())

    def _rows(self) -> dict[str, int]:
        """Rows of those that give samples, else messages; of those that give both, with each batch as a message."""
        counters = self._run.counters
        return {name: sum(map(counters[name].get, counts)) for name, counts in self._counts.items()}

    def take(self, *, ended: bool = False) -> FlowState:
        """All states as they are now."""
        began_s = time.monotonic()
        # Operators and shards to which nothing has come yet keep what the run before left of them.
        states = (*self.found, *self.states(), *self.elsewhere())
        nodes = tuple({(each.stage, each.node): each for each in states}.values())
        now_s = time.monotonic()
        self._due_s = now_s + max(self._every_s, MOST_TIMES_AS_LONG * (now_s - began_s))
        return FlowState(
            flow=self._run.plan.name,
            site=self._run.plan.site,
            layout=self._layout,
            run=self._id,
            time_ns=self._run.clock.now_ns(),
            ended=ended,
            rows={name: rows for name, rows in self._rows().items() if not self._gives_again(name)},
            nodes=nodes,
        )

    def save(self, state: FlowState) -> int:
        """Have a thread save it; the number by which `saved_to` tells that it is done."""
        return self._saver.give(state)

    @property
    def saved_to(self) -> int:
        """All states up to this number are saved, or have failed and been told."""
        return self._saver.done

    def close(self, *, in_order: bool, finished: bool) -> None:
        """Save the last state, of a run that ended in order; one whose sources ended leaves none."""
        self._saver.stop()
        try:
            if finished:
                self._folder.forget()
            elif in_order:
                self._folder.save(written(self.take(ended=True)))
        except OSError as error:
            self._tell_not_saved(error)
        self._marks.close()
        self._folder.close()

    def _tell_saved(self, error: OSError | None) -> None:
        """The saver's thread has saved a state, or could not."""
        if error is not None:
            self._tell_not_saved(error)
        else:
            self._run.counters[STATE].add("saved")
            self._saved_s = time.monotonic()
            if self._failed:
                self._failed = False
                self._run.log.info("the state is saved again")
        self._run.wakeup.wake()

    def _age_s(self) -> float | None:
        return None if self._saved_s is None else time.monotonic() - self._saved_s

    def _tell_not_saved(self, error: OSError) -> None:
        self._run.counters[STATE].add("not_saved")
        if self._failed:
            return
        self._failed = True
        what = f"the state cannot be saved in '{self._folder.folder}' ({error.strerror or error})"
        text = f"{what}: after a crash the flow would go on from what was saved last"
        self._run.log.error("%s", text)
        for node in list(self._run.alarms)[:1]:
            self._run.alarm(node, text, self._run.plan.name)


class Saver:
    """The thread that saves; of several states that wait, only the newest."""

    def __init__(self, folder: StateFolder, tell: Callable[[OSError | None], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._condition = threading.Condition()
        self._waiting: FlowState | None = None
        self._given = 0
        self.done = 0
        self._stopped = False
        self._last: FlowState | None = None
        self._thread = threading.Thread(target=self._run, name="save state", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def give(self, state: FlowState) -> int:
        with self._condition:
            self._waiting = state
            self._given += 1
            self._condition.notify()
            return self._given

    def stop(self) -> None:
        """End the thread once it has saved what waits."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting is not None or self._stopped)
                state, number = self._waiting, self._given
                self._waiting = None
            if state is None:
                return
            error = self._save(state)
            self.done = number
            self._tell(error)

    def _save(self, state: FlowState) -> OSError | None:
        if self._last is not None and (state.nodes, state.rows) == (self._last.nodes, self._last.rows):
            return None  # a flow that stands still wears out no disk
        try:
            self._folder.save(written(state))
        except OSError as error:
            return error
        self._last = state
        return None


def _counts_of(source: PlannedNode) -> tuple[str, ...]:
    """The counters that tell how much it has given."""
    types = frozenset({Samples}) if source.wire is None else source.wire.messages
    if types == {Samples}:
        return ("rows_out",)
    return ("rows_out", "messages_out") if Samples in types else ("messages_out",)


def _digests(config: NodeConfig) -> dict[str, str]:
    """Of each setting of a config, by key."""
    return {each.key: _digest(getattr(config, each.name)) for each in config_fields(type(config))}


def _digest(value: Any) -> str:
    encoded = msgspec.msgpack.encode(value, enc_hook=repr, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:DIGEST_DIGITS]


def begins_anew(before: PlannedNode | None, now: PlannedNode) -> str | None:
    """Why an operator does not go on with the state that it had in another version of its flow; None if it does."""
    if before is None:
        return "it is new"
    if not isinstance(before.node, OperatorNode):
        return f"it was a {before.node.kind}"
    digests = _digests(before.config)
    state = NodeState(
        stage="",
        node=before.id,
        kind=before.node.kind,
        version=before.node.state_version,
        settings=digests,
        pickled=b"",
    )
    return _misfit(state, now)


def _misfit(found: NodeState, planned: PlannedNode) -> str | None:
    """Why an operator cannot go on with a state; None if it can.

    Numbers and names may differ: a policy may change them too, between any two steps.
    """
    node = planned.node
    assert isinstance(node, OperatorNode)
    if found.kind != node.kind:
        return f"its state is of kind '{found.kind}', and it is of kind '{node.kind}' now"
    if found.version != node.state_version:
        return f"its state is of version {found.version}, and '{node.kind}' has version {node.state_version} now"
    now = _digests(planned.config)
    changed = [each for each in _structural(planned.config) if now[each] != found.settings.get(each)]
    return f"other settings: {', '.join(changed)}" if changed else None


def _structural(config: NodeConfig) -> Iterator[str]:
    """Keys of settings that say what a state is made of: choices, lists, tables and forms."""
    for each in config_fields(type(config)):
        hint = each.hint
        if not hint.numeric and (hint.words or any(kind is not str for kind in hint.choices)):
            yield each.key


def keep_state(run: FlowRun, use: StateUse = GO_ON) -> None:
    """Have a run keep its operators' states, if its site file says where."""
    folder, state = run.plan.state_folder, run.plan.state
    if folder is not None and state is not None:
        run.recovery = Recovery(run, StateFolder(folder), every_s=state.every, use=use)
