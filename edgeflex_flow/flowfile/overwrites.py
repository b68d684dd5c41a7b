"""What a sink would write over: the samples that a source of its own flow reads from the same store.

Fields say so by `connection(keeps=…)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from edgeflex_flow.flowfile.claims import real_path
from edgeflex_flow.flowfile.fields import ConfigField, config_fields
from edgeflex_flow.flowfile.report import FileReport
from edgeflex_flow.flowfile.stand_ins import PLACEHOLDER
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import NodeConfig, OpenConnection, SourceNode, Wire


def check_overwrites(
    drafts: Mapping[str, Draft], wires: Mapping[str, Wire | None], folder: Path, report: FileReport
) -> None:
    """Report sinks that keep whatever columns come in, where some of them come from what they keep them in. Relative
    paths of connections start at the folder."""
    found = {name: list(_connections(draft, folder)) for name, draft in drafts.items()}
    for sink in drafts.values():
        for used in found[sink.id]:
            if used.keeps and sink.decoded.settled.get(used.keeps) == ():
                _check(sink, used, found, drafts, wires, report)


class _Used(NamedTuple):
    """A connection that a node names."""

    name: str
    thing: tuple[object, ...]
    """What it connects to: equal for two names of one thing."""
    keeps: str


def _check(
    sink: Draft,
    used: _Used,
    found: Mapping[str, list[_Used]],
    drafts: Mapping[str, Draft],
    wires: Mapping[str, Wire | None],
    report: FileReport,
) -> None:
    for _, reference in sink.references():
        comes = _columns(wires.get(reference.id))
        for source in _sources(reference.id, drafts):
            again = comes & _columns(wires.get(source.id))
            same = next((each for each in found[source.id] if each.thing == used.thing), None)
            if again and same is not None:
                where = f"the same connection '{used.name}'"
                if same.name != used.name:
                    where = f"connection '{same.name}', which is the same as '{used.name}'"
                text = (
                    f"would write {_listed(again)} over what node '{source.id}' reads from {where}; "
                    f"name in '{used.keeps}' only what is new"
                )
                report.problem(reference.place, text, node=sink.id, known=sorted(comes - again))


def _connections(draft: Draft, folder: Path) -> Iterator[_Used]:
    if draft.node is None:
        return
    config: type[NodeConfig] = draft.node.config
    for field in config_fields(config):
        name = draft.decoded.settled.get(field.name)
        if field.hint.family is not None and name and name != PLACEHOLDER:
            opened = draft.decoded.connections.get(field.name)
            yield _Used(name, (name,) if opened is None else _thing(opened, folder), field.hint.noted("keeps") or "")


def _thing(connection: OpenConnection, folder: Path) -> tuple[object, ...]:
    """What a connection connects to; its name if its kind does not tell, or if that is missing yet."""
    fields = {field.name: field for field in config_fields(type(connection.config))}
    said = [_meant(fields[name], getattr(connection.config, name), folder) for name in connection.node.where]
    if not said or any(PLACEHOLDER in str(each) for each in said):
        return (connection.name,)
    return (connection.node.kind, *said)


def _meant(field: ConfigField, value: object, folder: Path) -> object:
    """A value in the one form of all that mean the same."""
    if not isinstance(value, str):
        return value
    if field.hint.noted("path"):
        return real_path(folder, value)
    ports = field.hint.noted("url")
    return value if ports is None else _url(value, ports)


def _url(url: str, ports: Mapping[str, int]) -> object:
    """Host, port and path of an url.

    >>> _url("HTTP://LocalHost/", {"http": 80}) == _url("http://127.0.0.1:80", {"http": 80})
    True
    """
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:  # of a kind that does not look at it
        return url
    host = (split.hostname or "").rstrip(".")
    port = port or ports.get(split.scheme) or next(iter(ports.values()), 0)
    return "127.0.0.1" if host == "localhost" else host, port, unquote(split.path).strip("/")


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
