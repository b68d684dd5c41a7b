"""What each wire carries, and whether the port at its end can take it: message types and columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeflex_flow.errors import FieldError, nearest
from edgeflex_flow.flowfile.known import KnownFields, KnownInputs, kinds_that_give, known_needs, known_output
from edgeflex_flow.flowfile.report import FileReport
from edgeflex_flow.flowfile.secrecy import HIDDEN, Place
from edgeflex_flow.flowfile.stand_ins import PLACEHOLDER
from edgeflex_flow.flowfile.wiring import Draft, Reference
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import FLOW_WIRES, SinkNode, SourceNode, Wire, WireMessage
from edgeflex_flow.registry import Registry
from edgeflex_flow.units import SUFFIXES, conversion_factor


def message_name(kind: type[WireMessage]) -> str:
    """A message type as people know it: `samples`, `frequency_event`.

    >>> from edgeflex_flow.messages import DeadLetter
    >>> message_name(Samples), message_name(DeadLetter)
    ('samples', 'dead_letter')
    """
    if kind is Samples:
        return "samples"
    tag = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    return str(tag) if tag and tag != "Message" else "any message"


def merge(wires: Iterable[Wire]) -> Wire:
    """What comes in where several wires meet: all their messages, and the columns that all batches have."""
    met = tuple(wires)
    batches = [wire.columns for wire in met if Samples in wire.messages]
    return Wire(
        frozenset().union(*(wire.messages for wire in met)),
        frozenset.intersection(*batches) if batches else frozenset(),
        any(wire.more_columns for wire in met),
    )


class WireCheck:
    """Computes every node's output in topological order and reports what does not fit.

    A node's output is derived from whatever of its fields and inputs is right, so that an error hides none of the
    nodes behind it. What rests on something wrong is not checked, so that one mistake gives one problem.
    """

    def __init__(self, drafts: Iterable[Draft], registry: Registry, report: FileReport) -> None:
        self._report = report
        self._registry = registry
        self._drafts = {draft.id: draft for draft in drafts}
        self.wires: dict[str, Wire | None] = dict(FLOW_WIRES)
        """What each node gives; None for sinks and for what cannot be known."""
        for draft in self._drafts.values():
            self.wires[draft.id] = self._output(draft)

    def _output(self, draft: Draft) -> Wire | None:
        fits = [(port, self._fits(draft, port, each)) for port, each in draft.references() if port in draft.ports]
        misfits = {port for port, fit in fits if not fit}
        if draft.node is None or isinstance(draft.node, SinkNode):
            return None
        inputs = KnownInputs(
            {port: None if port in misfits else self._input(references) for port, references in draft.inputs.items()},
            complete=draft.wired,
        )
        # A column that a field names in vain: nobody knows what the field should say.
        in_vain = any(callable(draft.ports[port].needs) for port in misfits)
        config = KnownFields(draft.node.config, {}) if in_vain else _config(draft)
        try:
            wire = known_output(draft.node, config, inputs)
        except ValueError as error:
            if not draft.decoded.missing:
                self._report.problem(_place_of(error, draft), self._censored(draft, str(error)), node=draft.id)
            return None
        return None if wire is None or any(PLACEHOLDER in column for column in wire.columns) else wire

    def _input(self, references: Iterable[Reference]) -> Wire | None:
        """What comes in at a port; None when it is unknown of one of its wires."""
        wires = [self.wires.get(reference.id) for reference in references]
        known = [wire for wire in wires if wire is not None]
        return merge(known) if len(known) == len(wires) else None

    def _censored(self, draft: Draft, text: str) -> str:
        if any(hidden in text for hidden in draft.decoded.hidden if hidden):
            return "its config does not fit what comes in"
        return text

    def _fits(self, draft: Draft, port: str, reference: Reference) -> bool:
        """Whether what one node gives can be taken at a port; True when it is unknown what it gives."""
        wire = self.wires.get(reference.id)
        if wire is None:
            return True
        accepted = draft.ports[port].accepts
        refused = [kind for kind in wire.messages if not any(issubclass(kind, each) for each in accepted)]
        if refused:
            self._refuse(draft, port, reference, refused)
        return self._has_columns(draft, port, reference, wire) and not refused

    def _refuse(self, draft: Draft, port: str, reference: Reference, refused: list[type[WireMessage]]) -> None:
        names = ", ".join(sorted(message_name(kind) for kind in refused))
        accepted = [message_name(kind) for kind in draft.ports[port].accepts]
        self._report.problem(
            reference.place,
            f"port '{port}' does not accept everything that node '{reference.id}' gives",
            node=draft.id,
            got=names,
            known=accepted,
        )

    def _has_columns(self, draft: Draft, port: str, reference: Reference, wire: Wire) -> bool:
        if Samples not in wire.messages or Samples not in draft.ports[port].accepts:
            return True
        needs = known_needs(draft.ports[port], _config(draft, partly=True))
        missing = {column for column in needs - wire.columns if PLACEHOLDER not in column}
        for column in sorted(missing):
            self._missing_column(draft, port, reference, wire, column)
        return not missing

    def _missing_column(self, draft: Draft, port: str, reference: Reference, wire: Wire, column: str) -> None:
        hidden = any(each in column for each in draft.decoded.hidden if each)
        name = HIDDEN if hidden else f"'{column}'"
        text = f"port '{port}' needs column {name}, which node '{reference.id}' does not give"
        other = _same_in_other_unit(column, wire.columns)
        kinds = [] if hidden else kinds_that_give(column, wire.columns, self._registry)
        close = None
        if other is not None:
            between = f"{{kind: convert, from: {reference.id}, columns: {{{other}: {HIDDEN if hidden else column}}}}}"
            text += f"; it gives '{other}', so put a node between them: {between}"
        elif kinds:
            text += f"; {_kinds(kinds)} it: put one between"
        else:
            close = None if hidden else nearest(column, wire.columns)
            if wire.more_columns:
                text += f"; {self._how_to_name(reference.id)}"
        place = draft.decoded.place_of_text(column) if callable(draft.ports[port].needs) else None
        self._report.problem(place or reference.place, text, node=draft.id, known=sorted(wire.columns), nearest=close)

    def _how_to_name(self, node_id: str) -> str:
        """Which source leaves columns unnamed, and where it could name them."""
        source = self._origin(node_id)
        if source is None or source.node is None:
            return "its stream may hold more columns, but none of them is named"
        if "channels" in source.node.config.__struct_fields__:
            return f"if its stream holds this one, name it under 'channels:' of node '{source.id}'"
        return f"if its stream holds this one, name it in the config of node '{source.id}'"

    def _origin(self, node_id: str) -> Draft | None:
        """The nearest source upstream whose stream may hold more columns than it names."""
        waiting, seen = [node_id], {node_id, *FLOW_WIRES}
        while waiting:
            draft = self._drafts[waiting.pop(0)]
            wire = self.wires.get(draft.id)
            if isinstance(draft.node, SourceNode) and wire is not None and wire.more_columns:
                return draft
            new = [reference.id for _, reference in draft.references() if reference.id not in seen]
            seen.update(new)
            waiting.extend(name for name in new if name in self._drafts)
        return None


def _config(draft: Draft, *, partly: bool = False) -> Any:
    """The node's config, or what is known of its fields; `partly`: also fields of which some items are wrong."""
    config = draft.decoded.config
    if config is not None and not draft.decoded.guessed:
        return config
    assert draft.node is not None
    some = draft.decoded.partly if partly else {}
    return KnownFields(draft.node.config, {**draft.decoded.settled, **some})


def _kinds(names: list[str]) -> str:
    """`node kind 'a' gives`, `node kinds 'a', 'b' give`.

    >>> _kinds(["a"]), _kinds(["a", "b"])
    ("node kind 'a' gives", "node kinds 'a', 'b' give")
    """
    listed = ", ".join(f"'{name}'" for name in names)
    return f"node kind {listed} gives" if len(names) == 1 else f"node kinds {listed} give"


def _place_of(error: ValueError, draft: Draft) -> Place:
    """Where what a node refuses stands: the value that it names, or its id."""
    return draft.decoded.place_of(error, draft.place) if isinstance(error, FieldError) else draft.place


def _stem(column: str) -> str:
    """A column's name without the ending that states its unit.

    >>> _stem("rocof_hz_per_s"), _stem("angle_deg")
    ('rocof', 'angle')
    """
    words = column.split("_")
    for take in (3, 2, 1):
        if len(words) > take and "_".join(words[-take:]) in SUFFIXES:
            return "_".join(words[:-take])
    return column


def _same_in_other_unit(column: str, given: Iterable[str]) -> str | None:
    """The given column that holds the same in another unit."""
    for other in sorted(given):
        if other == column or _stem(other) != _stem(column):
            continue
        try:
            conversion_factor(other, column)
        except ValueError:
            continue
        return other
    return None


def describe(wire: Wire, *, most_columns: int = 4) -> list[str]:
    """What a wire carries, one text a message type: `samples · frequency_hz, rocof_hz_per_s`.

    >>> describe(Wire(frozenset({Samples}), frozenset({"frequency_hz"}), more_columns=True))
    ['samples · frequency_hz, …']
    """
    lines = []
    for name, kind in sorted((message_name(kind), kind) for kind in wire.messages):
        columns = sorted(wire.columns) if kind is Samples else []
        more = kind is Samples and (wire.more_columns or len(columns) > most_columns)
        listed = [*columns[:most_columns], *(["…"] if more else [])]
        lines.append(f"{name} · {', '.join(listed)}" if listed else name)
    return lines
