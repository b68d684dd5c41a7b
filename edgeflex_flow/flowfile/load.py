"""From flow and site files to checked plans: the entry points of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edgeflex_flow.errors import FlowFileError, Problem, nearest
from edgeflex_flow.flowfile.budgets import judge_budgets, read_budgets
from edgeflex_flow.flowfile.claims import Claims
from edgeflex_flow.flowfile.commands import Commands
from edgeflex_flow.flowfile.decode import ConfigDecoder
from edgeflex_flow.flowfile.delays import BudgetSum
from edgeflex_flow.flowfile.document import Document, Scalar, Value, option_scalar, read_document
from edgeflex_flow.flowfile.fields import secret_keys
from edgeflex_flow.flowfile.interpolate import (
    SITE_PARAM,
    Interpolator,
    Sources,
    check_params,
    fixed_param,
    read_params,
)
from edgeflex_flow.flowfile.network import new_empty_levels
from edgeflex_flow.flowfile.overwrites import check_overwrites
from edgeflex_flow.flowfile.plan import BudgetConfig, Limits, Plan, PlannedNode
from edgeflex_flow.flowfile.report import FileReport, Report, got
from edgeflex_flow.flowfile.secrecy import Place, SecretKeys
from edgeflex_flow.flowfile.settings import read_limits
from edgeflex_flow.flowfile.shape import FLOW_KEYS, Shape
from edgeflex_flow.flowfile.site import Site
from edgeflex_flow.flowfile.table import load_table
from edgeflex_flow.flowfile.wires import WireCheck
from edgeflex_flow.flowfile.wiring import Draft, check_references, note_unread, order, read_from
from edgeflex_flow.node import FLOW_WIRES, OperatorNode, SinkNode, SourceNode, Wire
from edgeflex_flow.registry import Registry

MOST_NODES = 1000
NODE_KEYS = ("kind", "from")

Secrets = Literal["required", "optional"]
Connections = Literal["required", "optional"]


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
    budgets: tuple[BudgetSum, ...] = ()
    """What the paths of its budgets need by their settings."""


@dataclass(frozen=True, slots=True)
class CheckedSite:
    """What the check found in a site file by itself."""

    file: Path
    name: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    connections: int
    """Connections in the file."""


def load_flow(
    file: Path,
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "required",
    connections: Connections = "required",
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a flow file, ready to run. Nothing is opened but the files themselves.

    `params` are the `-D name=value` of the command line, values as YAML scalars; `environment` is `os.environ`
    unless given. With optional `connections`, a plan that is made without a site has neither connections nor tables
    that stand in files of their own: look at it, do not run it. Raises FlowFileError with all problems of the flow and
    site file at once.
    """
    return load_flows(
        [file],
        registry,
        site=site,
        params=params,
        secrets=secrets,
        connections=connections,
        environment=environment,
    )[0]


def load_flows(
    files: Sequence[Path],
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "required",
    connections: Connections = "required",
    environment: Mapping[str, str] | None = None,
) -> tuple[Plan, ...]:
    """The plans of several flow files of one site. A param of `params` must be known to one of the files.

    Raises FlowFileError with all problems of all files at once.
    """
    checks = _checks(
        files,
        registry,
        site=site,
        params=params,
        secrets=secrets,
        connections=connections,
        environment=environment,
    )
    checked = [check.flow() for check in checks]
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
    checks = _checks(files, registry, site=site, params=params, secrets=secrets, environment=environment)
    return [check.flow() for check in checks]


def check_files(
    files: Sequence[Path],
    registry: Registry,
    *,
    site: Path | None = None,
    params: Mapping[str, str] | None = None,
    secrets: Secrets = "optional",
    environment: Mapping[str, str] | None = None,
) -> list[CheckedFlow | CheckedSite]:
    """Check several files of one site, among which may be site files."""
    checks = _checks(files, registry, site=site, params=params, secrets=secrets, environment=environment)
    return [check.site_alone() if check.is_site else check.flow() for check in checks]


def _checks(
    files: Sequence[Path],
    registry: Registry,
    *,
    site: Path | None,
    params: Mapping[str, str] | None,
    secrets: Secrets,
    environment: Mapping[str, str] | None,
    connections: Connections = "required",
) -> list[_Check]:
    keys = secret_keys(node.config for node in registry)
    documents = [read_document(file, keys) for file in files]
    common = _Common(
        registry=registry,
        secret_keys=keys,
        site=None if site is None else read_document(site, keys),
        params={name: option_scalar(text) for name, text in (params or {}).items()},
        environment=os.environ if environment is None else environment,
        secrets_required=secrets == "required",
        looks_up=site is not None or connections == "required",
        declared=frozenset(name for document in documents for name in _param_names(document)),
    )
    return [_Check(document, common) for document in documents]


def _param_names(document: Document) -> tuple[str, ...]:
    """Names of the params that the file declares, right or wrong."""
    params = _top_level(document).get("params")
    return tuple((params.mapping() or {}) if params else ())


def _top_level(document: Document) -> Mapping[str, Value]:
    return (document.root.mapping() if document.root else None) or {}


@dataclass(frozen=True, slots=True)
class _Common:
    """What is the same for all files of a check, and what they tell each other."""

    registry: Registry
    secret_keys: SecretKeys
    site: Document | None
    params: Mapping[str, Scalar]
    environment: Mapping[str, str]
    secrets_required: bool
    looks_up: bool
    """Whether connections and files of tables that nodes name are looked up."""
    declared: frozenset[str]
    """The params of all flow files."""
    first_of_name: dict[str, Document] = field(default_factory=dict)
    """The file that came first with this name of a flow."""
    claims: Claims = field(default_factory=Claims)
    commands: Commands = field(default_factory=Commands)


class _Check:
    """The check of one file: a flow with its site, or a site alone."""

    def __init__(self, document: Document, common: _Common) -> None:
        self._document = document
        self._common = common
        self._registry = common.registry
        self._all = Report((each for each in (document, common.site) if each), common.secret_keys)
        self._report = self._report_of(document)
        # Only those that this file or its site declares: each file means the same, whichever are checked beside it.
        declared = {*_param_names(document), *(_param_names(common.site) if common.site else ())}
        self._options = {
            name: fixed_param(data, self._report) for name, data in common.params.items() if name in declared
        }
        self._limits = Limits()

    def _report_of(self, document: Document) -> FileReport:
        return FileReport(document.file, self._all, secrets_required=self._common.secrets_required)

    @property
    def is_site(self) -> bool:
        keys = _top_level(self._document)
        return "site" in keys and "flow" not in keys

    def site_alone(self) -> CheckedSite:
        """Check the file as a site file, its connections as if a flow used them all."""
        site = self._site(self._document)
        self._check_options(site)
        site.note_all_missing()
        return CheckedSite(self.file, site.name, self._all.problems, self._notes(), len(site.connections))

    def flow(self) -> CheckedFlow:
        """Check the file as a flow file."""
        site = self._site(self._common.site)
        self._check_options(site)
        drafts: dict[str, Draft] = {}
        plan: Plan | None = None
        sums: tuple[BudgetSum, ...] = ()
        if self.is_site:
            place = self._document.root.keys["site"] if self._document.root else Place()
            self._report.problem(place, "this is a site file: give it with --site, and a flow file in its place")
        elif self._document.root is not None:
            shape = Shape(self._document.root, FLOW_KEYS, self._report)
            interpolator = self._interpolator(shape, site)
            drafts = self._drafts(shape, site, interpolator)
            wired, wires = self._wire(drafts, site)
            budgets = read_budgets(shape.get("budgets"), drafts, interpolator, self._report)
            planned = [node for draft in wired if (node := _planned(draft, wires)) is not None]
            sums = judge_budgets(budgets, drafts, planned, self._report)
            for draft in drafts.values():
                self._common.claims.take(draft, site.folder, self._report)
            self._common.commands.take(drafts, self._report)
            plan = self._plan(shape, site, wired, wires, tuple(budget.config for budget in budgets))
        problems = self._all.problems
        if plan is not None and not problems:
            for node in plan.nodes:
                for text in new_empty_levels(node, plan):
                    self._report.note(drafts[node.id].place, text, node=node.id)
        return CheckedFlow(self.file, None if problems else plan, problems, self._notes(), len(drafts), sums)

    @property
    def file(self) -> Path:
        return Path(self._document.file)

    def _notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._all.scrub(note) for note in self._all.notes))

    def _site(self, document: Document | None) -> Site:
        if document is None:
            return Site(None, "local", self.file.parent.absolute())
        file = Path(document.file)
        site = Site(file, "", file.parent.absolute(), readable=document.root is not None)
        if document.root is not None:
            sources = Sources((self._options,), self._common.environment, secret_keys=self._common.secret_keys)
            site.read(document.root, self._registry, sources, self._report_of(document))
        return site

    def _check_options(self, site: Site) -> None:
        known = sorted({*self._common.declared, *site.params})
        for name, value in self._common.params.items():
            if self._document.root is None or not site.readable:
                continue
            if value is None:
                text = "has no value (an empty text keeps its quotes inside others: -D \"name=''\")"
                self._all.add(Problem(file=f"-D {name}", message=text))
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

    def _interpolator(self, shape: Shape, site: Site) -> Interpolator:
        folder = self.file.parent
        own = read_params(shape.get("params"), self._report, folder)
        layers = (site.name_param(self._report), self._options, site.params, own)
        sources = Sources(
            layers, self._common.environment, complete=site.readable, secret_keys=self._common.secret_keys
        )
        check_params(own, sources)
        interpolator = Interpolator(sources, self._report, folder)
        self._limits = read_limits(shape, site.limits, interpolator, self._report)
        return interpolator

    def _drafts(self, shape: Shape, site: Site, interpolator: Interpolator) -> dict[str, Draft]:
        """The flow's nodes, each decoded by itself."""
        nodes = shape.entries("nodes", "nodes")
        if not nodes:
            self._no_nodes(shape)
        if len(nodes) > MOST_NODES:
            value = shape.get("nodes")
            assert value is not None
            self._report.problem(value.place, f"a flow has at most {MOST_NODES} nodes", got=str(len(nodes)))
            return {}
        for again in shape.repeated("nodes"):
            self._draft(*again, interpolator, site)
        return {name: self._draft(name, place, value, interpolator, site) for name, (place, value) in nodes.items()}

    def _no_nodes(self, shape: Shape) -> None:
        value = shape.get("nodes")
        assert self._document.root is not None
        if value is None and self._document.root.mapping() is not None:
            self._report.problem(self._document.root.place, "'nodes' is missing: the nodes of the flow by id")
        elif value is not None and value.mapping() == {}:
            self._report.problem(value.place, "'nodes' holds no node")

    def _draft(self, node_id: str, place: Place, value: Value, interpolator: Interpolator, site: Site) -> Draft:
        draft = Draft(node_id, place, None)
        if node_id in FLOW_WIRES:
            self._report.problem(place, f"'{node_id}' is the reserved name of the wire of {node_id.replace('_', ' ')}")
        entries = value.mapping()
        if entries is None:
            text = "a node is a mapping with 'kind', 'from' and the settings of its kind"
            self._report.problem(value.place, text, node=node_id, got=got(value))
            return draft
        draft.node = self._node_of_kind(node_id, place, entries.get("kind"))
        read_from(draft, entries, value.keys, self._report)
        settings = interpolator.entries(value, node=node_id, other_than=NODE_KEYS)
        if draft.node is None:
            return draft
        looks_up = self._common.looks_up
        decoder = ConfigDecoder(
            self._report,
            node=node_id,
            find_connection=(
                (lambda *found: site.find_connection(*found, node=node_id, report=self._report)) if looks_up else None
            ),
            read_table=partial(self._read_table, site.folder),
            bindable="nothing of a sink" if isinstance(draft.node, SinkNode) else "settings",
            other_keys=("kind",) if isinstance(draft.node, SourceNode) else NODE_KEYS,
        )
        draft.decoded = decoder.decode(draft.node.config, settings, place)
        for key, each in draft.decoded.missing:
            self._report.missing(each, f"'{key}'", node=node_id)
        if isinstance(draft.node, SinkNode):
            self._refuse_bound(draft, site)
        return draft

    def _read_table(self, folder: Path, path: str, kind: type[Any]) -> dict[str, Any]:
        """A flow that is only looked at, without its site, may lack what stands beside that."""
        file = folder / Path(path).expanduser()
        return load_table(file, kind) if self._common.looks_up or file.exists() else {}

    def _refuse_bound(self, draft: Draft, site: Site) -> None:
        """A sink holds what was handed over to it, for the far side that it was meant for."""
        for field_name, each in draft.decoded.connections.items():
            if site.bound(each.name):
                value = draft.decoded.written.get(field_name)
                text = (
                    f"connection '{each.name}' has an `url` that is bound to a policy, and sinks go on with theirs: "
                    "give them a connection of their own"
                )
                self._report.problem(draft.place if value is None else value.place, text, node=draft.id)

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

    def _wire(self, drafts: dict[str, Draft], site: Site) -> tuple[list[Draft], Mapping[str, Wire | None]]:
        check_references(drafts, self._report)
        ordered = order(drafts, self._report)
        wires = WireCheck(ordered, self._registry, self._report).wires
        check_overwrites(drafts, wires, site.folder, self._report)
        note_unread(drafts, self._report)
        return ordered, wires

    def _plan(
        self,
        shape: Shape,
        site: Site,
        drafts: list[Draft],
        wires: Mapping[str, Wire | None],
        budgets: tuple[BudgetConfig, ...],
    ) -> Plan | None:
        """The plan, when nothing is missing to make one. Also checks the keys that stand beside `nodes`."""
        name, about, labels = shape.name("flow"), shape.text("about"), shape.texts("labels")
        first = self._common.first_of_name.setdefault(name, self._document) if name else self._document
        if first is not self._document:
            self._report.problem(Place(), f"flow '{name}' is also the name of the flow in {first.file}")
        if name and site.flows is not None and name not in site.flows:
            self._report.note(Place(), f"site '{site.name}' does not list the flow '{name}' under 'flows'")
        planned = [_planned(draft, wires) for draft in drafts]
        if any(node is None for node in planned):
            return None
        names = {each.name for node in planned if node is not None for each in node.connections.values()}
        bound = {each: bindings for each in sorted(names) if (bindings := site.bound(each))}
        binds = bool(bound) or any(node is not None and node.policies for node in planned)
        return Plan(
            name=name,
            about=about,
            file=self.file,
            site=site.name,
            folder=site.folder,
            nodes=tuple(node for node in planned if node is not None),
            params=frozenset({*_param_names(self._document), *site.params}),
            labels={**site.labels, **labels},
            policy_system=site.policy_system() if binds else None,
            bound_connections=bound,
            state=site.state,
            studio=site.studio,
            budgets=budgets,
            monitor=site.monitor,
            limits=self._limits,
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
        line=draft.place.line,
    )
