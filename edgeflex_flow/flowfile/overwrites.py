"""What a sink would write over: the samples that a source of its own flow reads from the same store.

Fields say so by `connection(keeps=…)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeflex_flow.flowfile.decode import PLACEHOLDER
from edgeflex_flow.flowfile.fields import ConfigField, config_fields
from edgeflex_flow.flowfile.report import FileReport
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import NodeConfig, SourceNode, Wire


def check_overwrites(drafts: Mapping[str, Draft], wires: Mapping[str, Wire | None], report: FileReport) -> None:
    """Report sinks that keep whatever columns come in, where some of them come from what they keep them in."""
    for sink in drafts.values():
        for field, connection in _connections(sink):
            keeps = field.hint.noted("keeps")
            if keeps and sink.decoded.settled.get(keeps) == ():
                _check(sink, keeps, connection, drafts, wires, report)


def _check(
    sink: Draft,
    keeps: str,
    connection: str,
    drafts: Mapping[str, Draft],
    wires: Mapping[str, Wire | None],
    report: FileReport,
) -> None:
    for _, reference in sink.references():
        comes = _columns(wires.get(reference.id))
        for source in _sources(reference.id, drafts):
            again = comes & _columns(wires.get(source.id))
            if again and connection in (name for _, name in _connections(source)):
                text = (
                    f"would write {_listed(again)} over what node '{source.id}' reads from the same connection "
                    f"'{connection}'; name in '{keeps}' only what is new"
                )
                report.problem(reference.place, text, node=sink.id, known=sorted(comes - again))


def _connections(draft: Draft) -> Iterator[tuple[ConfigField, str]]:
    """Fields that name a connection, and which."""
    if draft.node is None:
        return
    config: type[NodeConfig] = draft.node.config
    for field in config_fields(config):
        name = draft.decoded.settled.get(field.name)
        if field.hint.family is not None and name and name != PLACEHOLDER:
            yield field, name


def _sources(node_id: str, drafts: Mapping[str, Draft]) -> Iterator[Draft]:
    """The sources from which a node gets what it gives; itself if it is one."""
    waiting, seen = [node_id], {node_id}
    while waiting:
        draft = drafts.get(waiting.pop())
        if draft is None:  # the wire of dead letters
            continue
        if isinstance(draft.node, SourceNode):
            yield draft
        new = [reference.id for _, reference in draft.references() if reference.id not in seen]
        seen.update(new)
        waiting.extend(new)


def _columns(wire: Wire | None) -> frozenset[str]:
    return frozenset() if wire is None else wire.columns


def _listed(columns: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(columns))
