"""Which record stands in for which source of a flow, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS
from edgeflex_flow import recording
from edgeflex_flow.cli.on_record import Record, behind
from edgeflex_flow.cli.preview_files import SUFFIXES, Content, Wanted, read_file, read_store, readable_in
from edgeflex_flow.errors import EdgeflexError, nearest
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.wires import describe, merge
from edgeflex_flow.messages import Message, Samples, join_samples
from edgeflex_flow.node import (
    FLOW_WIRES,
    OpenConnection,
    OperatorNode,
    SinkNode,
    SourceNode,
    Wire,
)
from edgeflex_flow.runtime.run import FlowRun

STORE: Final = "store:"
"""What a record begins with that is a store of the site: `store:history`."""


class NoRecordError(EdgeflexError):
    """Sources of a flow and records do not go together. The text says what is needed."""


class GivenRecord(NamedTuple):
    """A record that was given for one source, or (empty) for all whose columns it has."""

    source: str
    place: str
    """A file, or `store:NAME`."""


class Span(NamedTuple):
    """Only what was recorded from begin to before end counts, UTC nanoseconds."""

    begin_ns: int = EARLIEST_NS
    end_ns: int = LATEST_NS


@dataclass
class Records:
    """What the sources of a flow gave, and what an engineer should know of it."""

    by_source: dict[str, Record]
    places: dict[str, list[str]] = field(default_factory=dict)
    """By source, where its record comes from."""
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(record.samples.rows for record in self.by_source.values() if record.samples is not None)

    @property
    def messages(self) -> int:
        return sum(len(record.messages) for record in self.by_source.values())


def find_records(texts: Iterable[str], plan: Plan) -> list[GivenRecord]:
    """What `--record` means: `FILE`, `FOLDER`, `store:NAME`, or one of these for a source, `pmu=FILE`.

    In a folder a file named as a source is its record. Raises NoRecordError.
    """
    sources = [planned.id for planned in plan.nodes if isinstance(planned.node, SourceNode)]
    found = []
    for text in texts:
        name, equals, place = text.partition("=")
        if equals and name in sources:
            found.append(GivenRecord(name, place))
        elif equals and not Path(text).exists():
            close = nearest(name, sources)
            hint = f"; did you mean '{close}'?" if close else ""
            raise NoRecordError(f"--record {text}: no source '{name}'; known: {', '.join(sources)}{hint}")
        else:
            found.append(GivenRecord("", text))
    return [each for given in found for each in _in_folder(given, sources, plan)]


def of_flow(files: Sequence[Path], plan: Plan) -> list[Path]:
    """Recordings of this flow at this site, else of this flow, else all: sources of other flows may be called the same.

    Raises BadRecordingError, OSError.
    """
    told = {file: recording.about(file) for file in files}
    for wanted in ((plan.name, plan.site), (plan.name,)):
        found = [file for file, about in told.items() if (about.flow, about.site)[: len(wanted)] == wanted]
        if found:
            return found
    return list(files)


def _in_folder(given: GivenRecord, sources: Sequence[str], plan: Plan) -> list[GivenRecord]:
    folder = Path(given.place)
    if not folder.is_dir():
        return [given]
    files = readable_in(folder)
    if not files:
        raise NoRecordError(f"{folder}: there is no recording in it; known endings: {', '.join(SUFFIXES)}")
    wires = [file for file in files if file.suffix == recording.SUFFIX]
    files = [file for file in files if file not in wires] + of_flow(wires, plan)
    return [GivenRecord(given.source or (file.stem if file.stem in sources else ""), str(file)) for file in files]


def read_records(
    plan: Plan,
    given: Sequence[GivenRecord],
    span: Span = Span(),  # noqa: B008 - immutable
    *,
    partly: bool = False,
) -> Records:
    """What each source of the flow gave. Raises NoRecordError when a source that is needed has no record, unless it is
    asked for `partly`, and RecordingError for a file that cannot be read."""
    reader = _Reader(plan, span)
    for each in given:
        if each.source:
            reader.read_for(each)
    for each in given:
        if not each.source:
            reader.read_for_all(each)
    records = reader.records()
    if not partly:
        _refuse_missing(plan, records)
    return records


class _Reader:
    def __init__(self, plan: Plan, span: Span) -> None:
        self._plan = plan
        self._span = span
        self._sources = {planned.id: planned for planned in plan.nodes if isinstance(planned.node, SourceNode)}
        self._found: dict[str, list[Content]] = {}
        self._places: dict[str, list[str]] = {}
        self._notes: list[str] = []
        self._named: set[str] = set()

    def read_for(self, given: GivenRecord) -> None:
        """A record that is said to be a source's."""
        source = self._sources[given.source]
        content = self._read(given.place, [source])
        if content.samples is None and not content.messages:
            raise NoRecordError(
                f"{given.place}: nothing in it of what '{source.id}' gives: {_gives(source)}{self._when()}"
            )
        self._named.add(source.id)
        self._take(source, given.place, content)

    def read_for_all(self, given: GivenRecord) -> None:
        """A record for the sources whose columns or messages it has."""
        left = [source for source in self._sources.values() if source.id not in self._named]
        # A recording of wires tells whose each row is; of other files their columns do.
        groups = [[source] for source in left] if given.place.endswith(recording.SUFFIX) else [left]
        contents = [(group, self._read(given.place, group)) for group in groups]
        parts = {
            source.id: part
            for group, content in contents
            for source in group
            if (part := self._part_of(source, content)) is not None
        }
        if not parts:
            wanted = "; ".join(f"'{source.id}' gives {_gives(source)}" for source in left) or "all have records"
            raise NoRecordError(
                f"{given.place}: nothing in it of what sources of the flow give: {wanted}{self._when()}"
            )
        if len(groups) == 1:
            self._refuse_twins(given.place, parts)
        for source, part in parts.items():
            self._take(self._sources[source], given.place, part)

    def _when(self) -> str:
        return "" if self._span == Span() else " (from --begin to --end)"

    def _read(self, place: str, sources: Sequence[PlannedNode]) -> Content:
        columns = {name for source in sources for name in _columns_of(self._plan, source)}
        messages = {kind for source in sources for kind in _messages_of(source)}
        channels: dict[str, str] = {}
        for source in sources:
            channels |= getattr(source.config, "channels", {})
        nodes = frozenset(source.id for source in sources)
        wanted = Wanted(frozenset(columns), frozenset(messages), channels, *self._span, nodes)
        return read_place(self._plan, place, wanted)

    def _part_of(self, source: PlannedNode, content: Content) -> Content | None:
        """What of a record is this source's; None if it lacks what readers of the source need."""
        samples = content.samples
        if samples is not None:
            columns = {
                name: samples.columns[name] for name in samples.columns if name in _columns_of(self._plan, source)
            }
            if not columns or lacking(self._plan, source, columns):
                samples = None
            else:
                samples = samples.with_columns(columns)
                samples = samples.take(~np.all([np.isnan(values) for values in columns.values()], axis=0))
        # What the flow itself gives stands in its store as well, and is not what came in.
        own = {kind for node in self._plan.nodes if isinstance(node.node, OperatorNode) for kind in _messages_of(node)}
        wanted = tuple(_messages_of(source) - own)
        messages = tuple(each for each in content.messages if isinstance(each.message, wanted))
        if samples is None and not messages:
            return None
        return Content(samples, messages, content.notes)

    def _refuse_twins(self, place: str, parts: Mapping[str, Content]) -> None:
        """A record that would be given twice: nobody knows whose it is."""
        columns: dict[str, str] = {}
        for source, part in parts.items():
            for name in part.samples.columns if part.samples is not None else ():
                if name in columns:
                    raise NoRecordError(
                        f"{place}: both '{columns[name]}' and '{source}' give {name}: say whose it is, "
                        f"--record {columns[name]}={place}"
                    )
                columns[name] = source

    def _take(self, source: PlannedNode, place: str, content: Content) -> None:
        self._found.setdefault(source.id, []).append(content)
        self._places.setdefault(source.id, []).append(place)
        self._notes += [note for note in content.notes if note not in self._notes]

    def records(self) -> Records:
        by_source = {source: self._joined(self._sources[source], found) for source, found in self._found.items()}
        return Records(by_source, self._places, self._notes)

    def _joined(self, source: PlannedNode, found: Sequence[Content]) -> Record:
        """The records of a source as one, with all columns that it promises."""
        messages = sorted((each for content in found for each in content.messages), key=lambda each: each.time_ns)
        batches = [content.samples for content in found if content.samples is not None]
        if not batches:
            return Record(None, tuple(messages))
        samples = join_samples(batches)
        if len(batches) > 1:
            samples = samples.take(np.argsort(samples.time_ns, kind="stable"))
        needed = lacking(self._plan, source, samples.columns)
        if needed:
            raise NoRecordError(
                f"{', '.join(self._places[source.id])}: the record of '{source.id}' lacks what is needed: "
                f"{'; '.join(needed)}; it has {', '.join(sorted(samples.columns))}"
            )
        assert source.wire is not None
        absent = sorted(source.wire.columns - samples.columns.keys())
        if absent:
            self._notes.append(f"the record of '{source.id}' has no {', '.join(absent)}")
        nothing = np.full(samples.rows, np.nan)
        return Record(samples.with_columns({**samples.columns, **dict.fromkeys(absent, nothing)}), tuple(messages))


def read_place(plan: Plan, place: str, wanted: Wanted) -> Content:
    """What a file, or a store of the flow (`store:NAME`), holds. Raises NoRecordError, RecordingError."""
    if not place.startswith(STORE):
        file = Path(place).expanduser()
        if not file.exists() and file.suffix != ".npz":  # which may be the name of parts
            raise NoRecordError(f"{place}: there is no such recording")
        return read_file(file, wanted)
    node, found = _store(plan, place.removeprefix(STORE))
    run = FlowRun(plan)
    try:
        return read_store(place, found.node.open(found.config, run.context(node)), wanted)
    finally:
        run.wakeup.close()


def _store(plan: Plan, name: str) -> tuple[PlannedNode, OpenConnection]:
    stores = {
        each.name: (node, each)
        for node in plan.nodes
        for each in node.connections.values()
        if each.node.family == "store"
    }
    if name not in stores:
        known = f"; known: {', '.join(sorted(stores))}" if stores else ""
        raise NoRecordError(f"{STORE}{name}: no node of the flow names a store '{name}'{known}")
    return stores[name]


def _messages_of(node: PlannedNode) -> frozenset[type[Message]]:
    kinds: frozenset[Any] = node.wire.messages if node.wire is not None else frozenset()
    return kinds - {Samples}


def _columns_of(plan: Plan, source: PlannedNode) -> frozenset[str]:
    """Columns that a source gives, or that its readers would have of it where its stream may hold more."""
    assert source.wire is not None
    if not source.wire.more_columns:
        return source.wire.columns
    reached = behind(plan, [source.id])
    return source.wire.columns | {name for node in plan.nodes if node.id in reached for name in _needs(node)}


def _needs(node: PlannedNode) -> frozenset[str]:
    if isinstance(node.node, SourceNode):
        return frozenset()
    return frozenset[str]().union(*(port.columns(node.config) for port in node.node.inputs.values()))


def _gives(source: PlannedNode) -> str:
    return "; ".join(describe(source.wire, most_columns=12)) if source.wire is not None else "nothing"


def lacking(plan: Plan, source: PlannedNode, columns: Iterable[str]) -> list[str]:
    """What nodes would miss if a source gave these columns only, in words; empty if it would do."""
    assert source.wire is not None
    only = Wire(source.wire.messages, frozenset(columns))
    wires: dict[str, Wire | None] = {**FLOW_WIRES, source.id: only}
    return [
        f"'{node.id}' needs {', '.join(sorted(missing))}"
        for node in plan.nodes
        if node.id != source.id and (missing := _missing(node, wires))
    ]


def _missing(node: PlannedNode, wires: dict[str, Wire | None]) -> frozenset[str]:
    """Columns that a node needs and does not get; adds to `wires` what it gives."""
    if isinstance(node.node, SourceNode):
        wires[node.id] = node.wire
        return frozenset()
    missing = frozenset[str]()
    for name, sources in node.inputs.items():
        needs = node.node.inputs[name].columns(node.config)
        for wire in filter(None, (wires[each] for each in sources)):
            if Samples in wire.messages:
                missing |= needs - wire.columns
    if isinstance(node.node, SinkNode):
        return missing
    wires[node.id] = None  # unknown, so that what follows from this is not told as well
    met = {name: [wires[each] for each in sources] for name, sources in node.inputs.items()}
    if not missing and all(wire is not None for each in met.values() for wire in each):
        try:
            wires[node.id] = node.node.output(
                node.config, {name: merge(filter(None, each)) for name, each in met.items()}
            )
        except ValueError:
            return _needs(node)
    return missing


def _refuse_missing(plan: Plan, records: Records) -> None:
    """Say which sources have no record: as an error when a node would wait for them in vain, else as a note."""
    unrecorded = [
        planned
        for planned in plan.nodes
        if isinstance(planned.node, SourceNode) and planned.id not in records.by_source
    ]
    errors = []
    for source in unrecorded:
        waiting = list(_in_vain(plan, source.id, frozenset(each.id for each in unrecorded)))
        if waiting:
            who = ", ".join(f"port '{port}' of '{node}'" for node, port in waiting)
            errors.append(
                f"source '{source.id}' ({source.node.kind}) has no record, and {who} needs what it gives: "
                f"{_gives(source)}; give one: --record {source.id}=FILE"
            )
        else:
            records.notes.append(f"source '{source.id}' has no record: it gives nothing")
    if errors:
        raise NoRecordError("\n".join(errors))
    if not records.rows and not records.messages:
        raise NoRecordError("there is nothing in the records that a source of the flow gives")


def _in_vain(plan: Plan, source: str, unrecorded: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Nodes and ports that get nothing but from sources without a record, and cannot do without."""
    for reader, port in plan.readers(source):
        if isinstance(reader.node, OperatorNode) and not reader.node.inputs[port].optional:
            others = set(reader.inputs[port]) - unrecorded
            if not others:
                yield reader.id, port
