"""From flow and site files to checked plans: the entry points of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgeflex_flow.errors import FlowFileError, Problem, nearest
from edgeflex_flow.flowfile.decode import ConfigDecoder
from edgeflex_flow.flowfile.document import Place, Scalar, Value, option_scalar, read_document
from edgeflex_flow.flowfile.interpolate import (
    SITE_PARAM,
    Interpolator,
    Sources,
    check_params,
    fixed_param,
    read_params,
)
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.report import FileReport, Report, got
from edgeflex_flow.flowfile.shape import FLOW_KEYS, Shape
from edgeflex_flow.flowfile.site import Site
from edgeflex_flow.flowfile.wires import WireCheck
from edgeflex_flow.flowfile.wiring import Draft, check_references, note_unread, order, read_from
from edgeflex_flow.node import DEAD_LETTERS, OperatorNode, SinkNode, SourceNode, Wire
from edgeflex_flow.registry import Registry

MOST_NODES = 1000
NODE_KEYS = ("kind", "from")

Secrets = Literal["required", "optional"]


@dataclass(frozen=True, slots=True)
class CheckedFlow:
    """What the check found in one flow file."""

    file: Path
    plan: Plan | None
    """None when there are problems, or when missing secrets hide too much. A plan that was made while secrets are
    missing holds placeholders: look at it, do not run it."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    nodes: int
    """Nodes in the file."""


def load_flow(
    file: Path,
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "required",
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a flow file, ready to run. Nothing is opened but the files themselves.

    `params` are the `-D name=value` of the command line, values as YAML scalars; `environment` is `os.environ`
    unless given. Raises FlowFileError with all problems of the flow and site file at once.
    """
    return load_flows([file], registry, site=site, params=params, secrets=secrets, environment=environment)[0]


def load_flows(
    files: Sequence[Path],
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "required",
    environment: Mapping[str, str] | None = None,
) -> tuple[Plan, ...]:
    """The plans of several flow files of one site. A param of `params` must be known to one of the files.

    Raises FlowFileError with all problems of all files at once.
    """
    checked = check_flows(files, registry, site=site, params=params, secrets=secrets, environment=environment)
    problems = dict.fromkeys(problem for flow in checked for problem in flow.problems)
    if problems:
        raise FlowFileError(problems)
    hidden = [note for flow in checked if flow.plan is None for note in flow.notes]
    if hidden:
        raise FlowFileError(Problem(file=str(flow.file), message="; ".join(hidden)) for flow in checked[:1])
    return tuple(flow.plan for flow in checked if flow.plan is not None)


def check_flow(
    file: Path,
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "optional",
    environment: Mapping[str, str] | None = None,
) -> CheckedFlow:
    """Check a flow file without raising; missing secrets are notes unless `secrets` is "required"."""
    return check_flows([file], registry, site=site, params=params, secrets=secrets, environment=environment)[0]


def check_flows(
    files: Sequence[Path],
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "optional",
    environment: Mapping[str, str] | None = None,
) -> list[CheckedFlow]:
    """Check several flow files of one site. Problems of the site file stand with each flow."""
    variables = os.environ if environment is None else environment
    given = {name: option_scalar(text) for name, text in (params or {}).items()}
    sources = [_Document.read(file) for file in files]
    place = None if site is None else _Document.read(site)
    declared = {name for document in sources for name in document.param_names}
    first_of_name: dict[str, Path] = {}
    checked = []
    for document in sources:
        check = _Check(document, place, registry, params=given, environment=variables, secrets=secrets)
        checked.append(check.run(declared, first_of_name))
    return checked


@dataclass(frozen=True, slots=True)
class _Document:
    """A file that was read: its tree, or what is wrong with it."""

    file: Path
    root: Value | None
    error: FlowFileError | None

    @classmethod
    def read(cls, file: Path) -> _Document:
        try:
            return cls(file, read_document(file), None)
        except FlowFileError as error:
            return cls(file, None, error)

    @property
    def param_names(self) -> tuple[str, ...]:
        """Names of the params that the file declares, right or wrong."""
        params = (self.root.mapping() or {}).get("params") if self.root else None
        return tuple((params.mapping() or {}) if params else ())


class _Check:
    """The check of one flow file with its site file."""

    def __init__(
        self,
        flow: _Document,
        site: _Document | None,
        registry: Registry,
        *,
        params: Mapping[str, Scalar],
        environment: Mapping[str, str],
        secrets: Secrets,
    ) -> None:
        self._flow = flow
        self._site_document = site
        self._registry = registry
        self._environment = environment
        self._all = Report(str(document.file) for document in (flow, site) if document)
        self._report = FileReport(str(flow.file), self._all, secrets_required=secrets == "required")
        self._options = {name: fixed_param(data, self._report) for name, data in params.items()}
        self._secrets_required = secrets == "required"

    def run(self, declared: Set[str], first_of_name: dict[str, Path]) -> CheckedFlow:
        for document in (self._flow, self._site_document):
            if document is not None and document.error is not None:
                self._all.take(document.error)
        site = self._site()
        self._check_options(declared, site)
        drafts: dict[str, Draft] = {}
        plan: Plan | None = None
        if self._flow.root is not None:
            shape = Shape(self._flow.root, FLOW_KEYS, self._report)
            drafts = self._drafts(shape, site)
            wired, wires = self._wire(drafts)
            plan = self._plan(shape, site, wired, wires, first_of_name)
        problems = self._all.problems
        notes = tuple(dict.fromkeys(self._all.scrub(note) for note in self._all.notes))
        return CheckedFlow(self._flow.file, None if problems else plan, problems, notes, len(drafts))

    def _site(self) -> Site:
        if self._site_document is None:
            return Site(None, "local", self._flow.file.parent.absolute())
        file = self._site_document.file
        site = Site(file, "", file.parent.absolute(), readable=self._site_document.root is not None)
        if self._site_document.root is not None:
            report = FileReport(str(file), self._all, secrets_required=self._secrets_required)
            site.read(self._site_document.root, self._registry, self._options, self._environment, report)
        return site

    def _check_options(self, declared: Set[str], site: Site) -> None:
        known = sorted({*declared, *site.params})
        for name in self._options:
            if self._flow.root is None or not site.readable:
                continue
            if name == SITE_PARAM:
                self._all.add(
                    Problem(file=f"-D {name}", message=f"'{SITE_PARAM}' is the site's name and cannot be set")
                )
            elif name not in known:
                self._all.add(
                    Problem(
                        file=f"-D {name}",
                        message=f"no file declares the param '{name}' under 'params:'",
                        known=tuple(known),
                        nearest=nearest(name, known),
                    )
                )

    def _drafts(self, shape: Shape, site: Site) -> dict[str, Draft]:
        """The flow's nodes, each decoded by itself."""
        folder = self._flow.file.parent
        own = read_params(shape.get("params"), self._report, folder)
        layers = (site.name_param(self._report), self._options, site.params, own)
        sources = Sources(layers, self._environment, complete=site.readable)
        check_params(own, sources)
        interpolator = Interpolator(sources, self._report, folder)
        nodes = shape.entries("nodes", "nodes")
        if not nodes:
            self._no_nodes(shape)
        if len(nodes) > MOST_NODES:
            value = shape.get("nodes")
            assert value is not None
            self._report.problem(value.place, f"a flow has at most {MOST_NODES} nodes", got=str(len(nodes)))
            return {}
        return {name: self._draft(name, place, value, interpolator, site) for name, (place, value) in nodes.items()}

    def _no_nodes(self, shape: Shape) -> None:
        value = shape.get("nodes")
        assert self._flow.root is not None
        if value is None and self._flow.root.mapping() is not None:
            self._report.problem(self._flow.root.place, "'nodes' is missing: the nodes of the flow by id")
        elif value is not None and value.mapping() == {}:
            self._report.problem(value.place, "'nodes' holds no node")

    def _draft(self, node_id: str, place: Place, value: Value, interpolator: Interpolator, site: Site) -> Draft:
        draft = Draft(node_id, place, None)
        if node_id == DEAD_LETTERS:
            self._report.problem(place, f"'{DEAD_LETTERS}' is the reserved name of the wire of dead letters")
        entries = value.mapping()
        if entries is None:
            text = "a node is a mapping with 'kind', 'from' and the settings of its kind"
            self._report.problem(value.place, text, node=node_id, got=got(value))
            return draft
        draft.node = self._node_of_kind(node_id, place, entries.get("kind"))
        read_from(draft, entries, value.keys, self._report)
        settings = {
            key: interpolator.apply(each, node=node_id) for key, each in entries.items() if key not in NODE_KEYS
        }
        if draft.node is None:
            return draft
        decoder = ConfigDecoder(
            self._report,
            node=node_id,
            find_connection=lambda *found: site.find_connection(*found, node=node_id, report=self._report),
            policies=isinstance(draft.node, OperatorNode),
            other_keys=("kind",) if isinstance(draft.node, SourceNode) else NODE_KEYS,
        )
        draft.decoded = decoder.decode(draft.node.config, replace(value, data=settings), place)
        for key, each in draft.decoded.missing:
            self._report.missing(each, f"'{key}'", node=node_id)
        return draft

    def _node_of_kind(
        self, node_id: str, place: Place, kind: Value | None
    ) -> OperatorNode[Any, Any] | SourceNode[Any] | SinkNode[Any] | None:
        if kind is None or not isinstance(kind.data, str):
            found = kind or Value(None, place)
            self._report.problem(found.place, "'kind' needs the name of a kind of node", node=node_id, got=got(found))
            return None
        if kind.data not in self._registry.nodes and kind.data in self._registry.connections:
            text = f"'{kind.data}' is a kind of connection: name it in a site file under 'connections'"
            self._report.problem(kind.place, text, node=node_id)
        elif kind.data not in self._registry.nodes:
            self._report.unknown(kind.place, "kind", kind.data, sorted(self._registry.nodes), node=node_id)
        return self._registry.nodes.get(kind.data)

    def _wire(self, drafts: dict[str, Draft]) -> tuple[list[Draft], Mapping[str, Wire | None]]:
        check_references(drafts, self._report)
        ordered = order(drafts, self._report)
        wires = WireCheck(ordered, self._report).wires
        note_unread(drafts, self._report)
        return ordered, wires

    def _plan(
        self,
        shape: Shape,
        site: Site,
        drafts: list[Draft],
        wires: Mapping[str, Wire | None],
        first_of_name: dict[str, Path],
    ) -> Plan | None:
        """The plan, when nothing is missing to make one. Also checks the keys that stand beside `nodes`."""
        name, about, labels = shape.name("flow"), shape.text("about"), shape.texts("labels")
        first = first_of_name.setdefault(name, self._flow.file) if name else self._flow.file
        if first is not self._flow.file:
            self._report.problem(Place(), f"flow '{name}' is also the name of the flow in {first}")
        if name and site.flows is not None and name not in site.flows:
            self._report.note(Place(), f"site '{site.name}' does not list the flow '{name}' under 'flows'")
        planned = [_planned(draft, wires) for draft in drafts]
        if any(node is None for node in planned):
            return None
        return Plan(
            name=name,
            about=about,
            file=self._flow.file,
            site=site.name,
            folder=site.folder,
            nodes=tuple(node for node in planned if node is not None),
            labels=labels,
        )


def _planned(draft: Draft, wires: Mapping[str, Wire | None]) -> PlannedNode | None:
    if draft.node is None or draft.decoded.config is None:
        return None
    return PlannedNode(
        id=draft.id,
        node=draft.node,
        config=draft.decoded.config,
        inputs={port: tuple(reference.id for reference in references) for port, references in draft.inputs.items()},
        connections=draft.decoded.connections,
        policies=draft.decoded.policies,
        wire=wires.get(draft.id),
    )
