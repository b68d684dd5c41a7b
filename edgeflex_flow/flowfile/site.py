"""A site file: connections, parameters and the list of flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.bindings import Bindable
from edgeflex_flow.flowfile.decode import ConfigDecoder, Decoded
from edgeflex_flow.flowfile.document import Value
from edgeflex_flow.flowfile.interpolate import (
    SITE_PARAM,
    Interpolator,
    Param,
    Sources,
    check_params,
    fixed_param,
    read_params,
)
from edgeflex_flow.flowfile.plan import Limits, MonitorConfig, StateConfig, StudioConfig
from edgeflex_flow.flowfile.report import FileReport, got, shown
from edgeflex_flow.flowfile.secrecy import Place
from edgeflex_flow.flowfile.settings import read_limits, read_settings
from edgeflex_flow.flowfile.shape import SITE_KEYS, Shape
from edgeflex_flow.node import ConnectionNode, OpenConnection
from edgeflex_flow.policy import POLICIES, Binding
from edgeflex_flow.registry import Registry


def sites_beside(folder: Path) -> list[str]:
    """Names of the site files in `sites/` of a folder of flow files, which `--site` takes in place of a path."""
    return sorted(path.stem for path in (folder / "sites").glob("*.yaml"))


@dataclass(frozen=True, slots=True)
class SiteConnection:
    """A connection of the site file, right or wrong."""

    node: ConnectionNode[Any] | None
    """None when its kind is unknown."""
    decoded: Decoded
    report: FileReport


@dataclass(slots=True)
class Site:
    """A site file as far as it can be read; without a file, the site `local`, which has no connections."""

    file: Path | None
    name: str
    folder: Path
    readable: bool = True
    """False when the file holds no YAML: then nothing can be said about the names that it may give."""
    flows: tuple[str, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    connections: dict[str, SiteConnection] = field(default_factory=dict)
    params: dict[str, Param] = field(default_factory=dict)
    state: StateConfig | None = None
    studio: StudioConfig | None = None
    monitor: MonitorConfig | None = None
    limits: Limits = field(default_factory=Limits)

    def read(
        self,
        root: Value,
        registry: Registry,
        outside: Sources,
        report: FileReport,
    ) -> None:
        """Fill in everything from the file's tree; problems go to the report. `outside`: what is not in the file."""
        shape = Shape(root, SITE_KEYS, report)
        self.name = shape.name("site")
        self.flows = shape.names("flows")
        self.labels = shape.texts("labels")
        self.params = read_params(shape.get("params"), report, self.folder)
        sources = replace(outside, layers=(self.name_param(report), *outside.layers, self.params), known={})
        check_params(self.params, sources)
        interpolator = Interpolator(sources, report, self.folder)
        self.state = read_settings("state", StateConfig, shape, interpolator, report)
        self.monitor = read_settings("monitor", MonitorConfig, shape, interpolator, report)
        self.studio = read_settings("studio", StudioConfig, shape, interpolator, report)
        self.limits = read_limits(shape, Limits(), interpolator, report)
        for again in shape.repeated("connections"):
            _connection(*again, registry=registry, interpolator=interpolator, report=report)
        for name, (place, value) in shape.entries("connections", "connections").items():
            self.connections[name] = _connection(
                name, place, value, registry=registry, interpolator=interpolator, report=report
            )
        for name in self._policy_systems()[1:]:
            text = f"a site has one policy system; this one is called '{self._policy_systems()[0]}'"
            report.problem(shape.entries("connections", "connections")[name][0], text, got=shown(name))

    def name_param(self, report: FileReport) -> dict[str, Param]:
        """The param that every flow has."""
        return {SITE_PARAM: fixed_param(self.name or "unnamed", report)}

    def find_connection(
        self,
        name: str,
        family: str,
        value: Value,
        key: str,
        *,
        node: str,
        report: FileReport,
    ) -> OpenConnection | None:
        """The connection that a node names; None after reporting (here or earlier) why there is none."""
        if self.file is None:
            known = ", ".join(sites_beside(self.folder))
            how = f"; known sites: {known}; give one with --site" if known else ": give one with --site FILE"
            text = f"'{key}' names a connection, and connections stand in a site file{how}"
            report.problem(value.place, text, node=node, got=got(value))
            return None
        found = self.connections.get(name)
        if found is None and self.readable:
            fitting = tuple(self._of_family(family))
            close = None if value.hidden else nearest(name, fitting)
            text = f"'{key}' names no connection of {self.file}"
            report.problem(value.place, text, node=node, got=got(value), known=fitting, nearest=close)
        if found is None or found.node is None:
            return None
        if found.node.family != family:
            text = (
                f"'{key}' needs a connection of the family '{family}'; a {found.node.kind} is of '{found.node.family}'"
            )
            report.problem(value.place, text, node=node, got=got(value), known=tuple(self._of_family(family)))
            return None
        self._note_missing(name, found)
        if found.decoded.config is None:
            return None
        return OpenConnection(name, found.node, found.decoded.config)

    def _policy_systems(self) -> list[str]:
        return self._of_family(POLICIES)

    def policy_system(self) -> OpenConnection | None:
        """The site's connection to a policy system, if it has one that can be used."""
        for name in self._policy_systems():
            found = self.connections[name]
            self._note_missing(name, found)
            if found.node is not None and found.decoded.config is not None:
                return OpenConnection(name, found.node, found.decoded.config)
        return None

    def bound(self, name: str) -> Mapping[str, Binding]:
        """By field of a connection, what a policy may change there."""
        return self.connections[name].decoded.policies if name in self.connections else {}

    def note_all_missing(self) -> None:
        """Tell which secrets any of the connections needs, whether or not a flow uses it."""
        for name, connection in self.connections.items():
            self._note_missing(name, connection)

    @staticmethod
    def _note_missing(name: str, connection: SiteConnection) -> None:
        for field_name, missing in connection.decoded.missing:
            connection.report.missing(missing, f"connection {shown(name)} ('{field_name}')")

    def _of_family(self, family: str) -> list[str]:
        return [
            name
            for name, connection in self.connections.items()
            if connection.node is not None and connection.node.family == family
        ]


def _connection(
    name: str, place: Place, value: Value, *, registry: Registry, interpolator: Interpolator, report: FileReport
) -> SiteConnection:
    where = f"connections.{name}"
    entries = value.mapping()
    if entries is None:
        report.problem(value.place, f"'{where}' is a mapping with 'kind' and its settings", got=got(value))
        return SiteConnection(None, Decoded(), report)
    settings = interpolator.entries(value, node=None, other_than=("kind",))
    kind = entries.get("kind")
    node = None
    if kind is None:
        report.problem(place, f"'{where}.kind' is missing: which kind of connection is it?", known=registry.connections)
    elif not isinstance(kind.data, str):
        report.problem(kind.place, f"'{where}.kind' needs the name of a kind", got=got(kind))
    elif kind.data in registry.nodes and kind.data not in registry.connections:
        text = f"'{kind.data}' is a kind of node, not of connection: it stands in a flow file under 'nodes'"
        report.problem(kind.place, text, known=sorted(registry.connections))
    elif kind.data not in registry.connections:
        report.unknown(kind.place, "kind of connection", kind.data, sorted(registry.connections))
    else:
        node = registry.connections[kind.data]
    if node is None:
        return SiteConnection(None, Decoded(), report)
    bindable: Bindable = "nothing of the policy system" if node.family == POLICIES else "url"
    decoder = ConfigDecoder(report, node=None, bindable=bindable, other_keys=("kind",))
    return SiteConnection(node, decoder.decode(node.config, settings, place), report)
