"""What a checked flow file becomes: everything the runtime needs, nothing of YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from edgeflex_flow.errors import FieldError
from edgeflex_flow.node import (
    FLOW_WIRES,
    NodeConfig,
    OpenConnection,
    OperatorNode,
    SinkNode,
    SourceNode,
    Wire,
    path,
    quantity,
)
from edgeflex_flow.policy import Binding

THIS_COMPUTER = ("127.0.0.1", "::1", "localhost")


class StateConfig(NodeConfig, frozen=True, kw_only=True):
    """Where running flows keep the states of their operators, so that the next run goes on with them."""

    folder: Annotated[str, path("Folder of the states; each site and flow has its own in it.", example="state")]
    every: Annotated[
        Annotated[float, Meta(ge=0.05, le=3600)], quantity("s", "How often it is saved: what a crash costs at most.")
    ] = 1.0


class StudioConfig(NodeConfig, frozen=True, kw_only=True):
    """The page on which people see the site live, as `edgeflex up` serves it."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port to listen on; 0 is any free one.")] = 8080
    users: Annotated[
        str | None,
        path("Who may sign in, as `edgeflex studio-user` writes it. Without it all on this computer may look."),
    ] = None
    base_path: Annotated[
        str,
        Meta(pattern="^(/[A-Za-z0-9._~-]+)*$", description="Path under which a proxy shows the page: /site."),
    ] = ""
    proxies: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="Addresses of proxies that are believed when they say whom they forward."),
    ] = ()
    certificate: Annotated[str | None, path("Certificate, for https.")] = None
    key: Annotated[str | None, path("Private key of the certificate, without passphrase.")] = None

    def refusals(self) -> Iterable[FieldError]:
        if self.users is None and self.host not in THIS_COMPUTER:
            yield FieldError("without 'users' the page is for this computer alone: 127.0.0.1, ::1 or localhost", "host")
        if self.users is None and self.proxies:
            yield FieldError(
                "without 'users' a proxy would show the page to everybody who reaches it", "proxies", "users"
            )
        if (self.certificate is None) != (self.key is None):
            yield FieldError("'certificate' and 'key' go together", "certificate", "key")


class BudgetConfig(NodeConfig, frozen=True, kw_only=True, rename={"from_": "from"}):
    """How long messages may take on their way from a source to a sink."""

    from_: Annotated[str, Meta(min_length=1, description="The source at which the way begins.")]
    to: Annotated[str, Meta(min_length=1, description="The sink at which it ends.")]
    within: Annotated[float, quantity("s", "How long it may take.", gt=0, le=86_400)]
    of: Annotated[
        Literal["age", "took", "response"],
        Meta(
            description="`age`: from the newest time tag in a message, which the device gave, to the sink; `took`: "
            "from the moment in which the flow read it, so that clocks and networks play no part; `response`: from the "
            "moment in which something happens on the grid until what follows from it has left the sink, which is "
            "checked and not measured."
        ),
    ] = "age"

    @property
    def what(self) -> tuple[str, str, str]:
        """What it is about: a flow has one budget of that."""
        return self.from_, self.to, self.of


class MonitorConfig(NodeConfig, frozen=True, kw_only=True):
    """Where `edgeflex up` tells metrics and health over HTTP, to whoever can reach it."""

    host: Annotated[str, Meta(min_length=1, description="Address of this machine to listen on. 0.0.0.0: all.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port to listen on; 0 takes any free one.")] = 9464


_Seconds = Annotated[float, Meta(gt=0, le=3600)]


class Limits(NodeConfig, frozen=True, kw_only=True):
    """A flow that breaks one of these is ended, and started again or rolled back."""

    memory: Annotated[
        Annotated[float, Meta(ge=64 * 1024.0**2, le=2.0**50)] | None,
        quantity("B", "Most memory of the flow's process; without it no limit."),
    ] = None
    prepare: Annotated[_Seconds, quantity("s", "Longest time to load the flow and compile its kernels.")] = 180.0
    open: Annotated[_Seconds, quantity("s", "Longest time to open its sources and sinks.")] = 30.0
    settle: Annotated[
        _Seconds, quantity("s", "A new version has to run for so long before the one before is let go.")
    ] = 5.0
    reach: Annotated[
        bool,
        Meta(
            description="Whether a new version has to reach what it calls otherwise than the one that runs, brokers, "
            "databases and devices, before it takes over.",
        ),
    ] = True
    stalled: Annotated[
        _Seconds, quantity("s", "Longest time without a turn of the flow, or without one reader of a wire taking any.")
    ] = 10.0
    silent: Annotated[_Seconds, quantity("s", "Longest time without a word from the flow's process.")] = 10.0


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node of the flow, decoded and wired."""

    id: str
    node: OperatorNode[Any, Any] | SourceNode[Any] | SinkNode[Any]
    config: NodeConfig
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Input port to the ids of the nodes wired to it, in the file's order; it may read wires of the flow itself."""
    connections: Mapping[str, OpenConnection] = field(default_factory=dict)
    """By config field that names the connection."""
    policies: Mapping[str, Binding] = field(default_factory=dict)
    """By config field that a policy may change."""
    wire: Wire | None = None
    """What the node gives; None for sinks."""
    line: int = 0
    """Where it stands in the flow file."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked flow. `nodes` stand in topological order: each after all that it reads from."""

    name: str
    about: str
    file: Path
    site: str
    folder: Path
    """Where relative paths start: the site file's folder, or the flow file's when there is no site."""
    nodes: tuple[PlannedNode, ...]
    params: frozenset[str] = frozenset()
    """Names that the flow file and its site file declare: those that `-D` may set."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Free names and texts of the site and the flow, for people and programs that choose among flows."""
    policy_system: OpenConnection | None = None
    """The site's connection to a policy system, when something in the flow is bound to a policy."""
    bound_connections: Mapping[str, Mapping[str, Binding]] = field(default_factory=dict)
    """By name of a connection of the flow and its field, what a policy may change there."""
    state: StateConfig | None = None
    """Where the flow's state is kept beyond its runs, if it is."""
    studio: StudioConfig | None = None
    """Where the site is shown live, if it is."""
    budgets: tuple[BudgetConfig, ...] = ()
    """How long messages may take."""
    monitor: MonitorConfig | None = None
    """Where the site tells metrics and health, if it does."""
    limits: Limits = field(default_factory=Limits)
    """What it may use and how long it may take."""

    def readers(self, node_id: str) -> tuple[tuple[PlannedNode, str], ...]:
        """Who reads the node's output: (node, port) pairs."""
        return tuple((reader, port) for reader in self.nodes for port, ids in reader.inputs.items() if node_id in ids)

    @property
    def periods_ns(self) -> dict[str, int]:
        """By operator that works by the clock, how often it is told that a period is over."""
        return {
            planned.id: round(planned.node.tick_period_s(planned.config) * 1e9)
            for planned in self.nodes
            if isinstance(planned.node, OperatorNode) and planned.node.tick_period_s is not None
        }

    @property
    def state_folder(self) -> Path | None:
        """The folder that holds this flow's state, if it is kept."""
        if self.state is None:
            return None
        return self.folder / Path(self.state.folder).expanduser() / self.site / self.name

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of the policies to which something is bound, sorted."""
        return tuple(sorted(self.policy_fields))

    @property
    def policy_fields(self) -> Mapping[str, frozenset[str]]:
        """By policy to which something is bound, the fields that are read."""
        found: dict[str, set[str]] = {}
        for bindings in (*(each.policies for each in self.nodes), *self.bound_connections.values()):
            for binding in bindings.values():
                found.setdefault(binding.policy, set()).add(binding.field)
        return {name: frozenset(fields) for name, fields in found.items()}

    @property
    def flow_wires(self) -> tuple[str, ...]:
        """Which wires of the flow itself are read."""
        return tuple(name for name in FLOW_WIRES if self.readers(name))
