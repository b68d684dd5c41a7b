"""The contract of a node: its config, its ports, and what the runtime calls.

A module of a node kind ends in `NODE = …`, one of

- `OperatorNode`: pure computation. `start(config) -> state`, one `step(config, state, message)` per input port, and
  optionally `tick(config, state, now_ns)` on a period and `end(config, state)` once nothing will come any more. State
  is explicit, picklable and changed in place.
- `SourceNode` / `SinkNode`: `open(config, context)` makes a `Source` or `Sink`, which acquires nothing before it is
  itself opened.
- `ConnectionNode`: what a site file names under `connections` (a broker, a store) and nodes refer to by name.

The same contract serves the bytewax runtime and the inline one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
from msgspec import Meta

from edgeflex_flow.clock import Clock
from edgeflex_flow.errors import ConfigError, FatalError, FieldError
from edgeflex_flow.gauges import Gauges
from edgeflex_flow.messages import Alarm, DeadLetter, Message, Samples
from edgeflex_flow.units import UNITS

WireMessage: TypeAlias = Samples | Message
"""What one item on a wire may be."""


class NetworkPort(NamedTuple):
    """A port that a node listens on, or one elsewhere that it calls."""

    direction: Literal["in", "out"]
    protocol: Literal["tcp", "udp"]
    host: str
    port: int


class Command(NamedTuple):
    """Something that set-points move."""

    asset: str
    power: str
    """`active_power` or `reactive_power`; what is no power is its own kind."""

    @classmethod
    def of(cls, asset: str, quantity: str) -> Command:
        """
        >>> Command.of("node_4", "active_power_ess_pu").power
        'active_power'
        """
        kinds = (kind for kind in ("active_power", "reactive_power") if quantity.startswith(kind))
        return cls(asset, next(kinds, quantity))


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all configs. Repeat `frozen=True, kw_only=True` in each subclass; describe every field.

    The docstring is the kind's manual page. Its sections are `Input:`, `Output:`, `Errors:`, `Source:` and a doctest.
    """

    def refusals(self) -> Iterable[FieldError]:
        """All that is wrong with values that are right by themselves: how they go together, or what no type can say.

        Yield a FieldError for each. The check reports it at the value of the first field that it names, and keeps
        silent about it while one of those fields is wrong by itself.
        """
        return ()

    def ports(self) -> Iterable[NetworkPort]:
        """Ports that no field tells by itself (`url`, `udp_port`), because they depend on how others are set."""
        return ()

    def commands(self) -> Iterable[Command]:
        """What set-points of the node move. The check lets no other node of a site move it as well."""
        return ()

    def advised_by(self, other: NodeConfig, command: Command) -> bool:
        """Whether set-points for this that come from the other node are advice: this one decides after them."""
        del other, command
        return False

    def stands_in_for(self, other: NodeConfig) -> bool:
        """Whether this node moves what the other one moves only while that one is silent."""
        del other
        return False

    def __post_init__(self) -> None:
        errors = tuple(self.refusals())
        if errors:
            raise ConfigError(errors)


def quantity(
    unit: str,
    description: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Meta:
    """Metadata of a float field that is written with its unit (`500ms`) and read in `unit`.

    `window: Annotated[float, quantity("s", "Length of the window.", gt=0, le=60)] = 0.5`
    """
    assert unit in UNITS, unit
    bounds: dict[str, Any] = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    return Meta(
        description=description,
        extra={"unit": unit},
        **{name: bound for name, bound in bounds.items() if bound is not None},
    )


def connection(family: str, description: str, *, keeps: str = "") -> Meta:
    """Metadata of a str field that names a connection of the site file, of this family (`bus`, `store`).

    `keeps`: the field of a sink with the columns that it keeps there, all that come in if it names none. The check
    refuses the latter where some of them come from a source that reads them from the same place.
    """
    return Meta(
        min_length=1, description=description, extra={"connection": family, **({"keeps": keeps} if keeps else {})}
    )


def path(description: str, *, written: bool = False, parts: str = "", example: str | None = None) -> Meta:
    """Metadata of a str field that is a path; a relative one starts at the site file's (or flow file's) folder.

    `written`: the node writes the file, and no other may write or read it: the check refuses two nodes with one file.
    A path that is not written is read. `parts`: with this ending (`.npz`) the file is written in parts beside it,
    `name-0001.npz` …, which are the node's own as well. `example`: what a new file begins with.
    """
    return Meta(
        description=description,
        examples=None if example is None else [example],
        extra={"path": True, **({"claims": "file", "parts": parts} if written else {})},
    )


def topic(description: str, access: Literal["publish", "subscribe"], *, bus: str = "bus") -> Meta:
    """Metadata of a str or tuple[str, ...] field: topics on which the node publishes, or filters to which it
    subscribes, at the broker of the connection in its field `bus`.

    In topics to publish on, `{type}` stands for the types of the messages that come in, any other `{name}` for a text
    without `/`.
    """
    return Meta(min_length=1, description=description, extra={"topics": access, "bus": bus})


def login(part: Literal["user", "password"], description: str) -> Meta:
    """Metadata of a connection's field by which it logs in; a password shows in no message."""
    return Meta(description=description, extra={"login": part, **({"secret": True} if part == "password" else {})})


def url(description: str, ports: Mapping[str, int], *, example: str | None = None) -> Meta:
    """Metadata of a str field that is the url of something on the network that the node or connection calls.

    `ports`: the schemes that it may begin with, and the TCP port of each that holds when the url names none.
    `example`: what a new file begins with.
    """
    return Meta(description=description, examples=None if example is None else [example], extra={"url": dict(ports)})


def table(description: str) -> Meta:
    """Metadata of a field that is a table, `dict[str, Struct]`: written in place, or the path of a YAML file with it.

    The check reads that file and tells what is wrong in it at its own lines. A relative path starts at the site file's
    (or flow file's) folder.
    """
    return Meta(min_length=1, description=description, extra={"table": True})


def udp_port(description: str, *, host: str, group: str = "") -> Meta:
    """Metadata of an int field that is the UDP port a source takes, on the address in its field `host`, or on the
    multicast group in its field `group` when that is set.

    The check refuses two nodes with one port on addresses that overlap. Port 0 is any free one.
    """
    return Meta(ge=0, le=65535, description=description, extra={"claims": "udp_port", "host": host, "group": group})


@dataclass(frozen=True, slots=True)
class Wire:
    """What a wire carries: message types and, for `Samples`, their columns.

    `more_columns`: the stream may hold columns beyond `columns` that only its own configuration frames tell.
    """

    messages: frozenset[type[WireMessage]]
    columns: frozenset[str] = frozenset()
    more_columns: bool = False


def samples_wire(*columns: str, more_columns: bool = False) -> Wire:
    """A wire of `Samples` with these columns."""
    return Wire(frozenset({Samples}), frozenset(columns), more_columns)


def message_wire(*messages: type[Message]) -> Wire:
    """A wire of messages of these types."""
    return Wire(frozenset(messages))


ANY: tuple[type[WireMessage], ...] = (Samples, Message)
"""For an input that accepts every type of message."""


class Delays(NamedTuple):
    """How long a kind holds things up at worst by its own settings, in seconds, while what it reads goes on to come.

    Computing and networks play no part. All zeros: what comes in goes out at once.
    """

    window_s: float = 0.0
    """How long a change on the grid must last until the output shows it: a window, a confirmation."""
    lag_s: float = 0.0
    """How long something that came in is held, for others or for late ones."""
    period_s: float = 0.0
    """How long it waits for the clock: until the next tick that deals with it, the next request to a far side."""
    onset_window_s: float = 0.0
    """So long after something began on the grid the change must last at least, windows before this node included."""
    onset_lag_s: float = 0.0
    """So long after something began what belongs to it is held at least, waits before this node included."""
    end_lag_s: float = 0.0
    """So long after something was over that is told at most: the age of what tells the end, which carries its time."""
    age_s: float | None = None
    """Of what carries a time that this node gives by its own clock: how old that is when it goes out. None: it carries
    the newest time of what came in; with one of the two above, the time at which it began."""

    @property
    def tells_onset(self) -> bool:
        return self.onset_window_s > 0.0 or self.onset_lag_s > 0.0


def at_once(_config: NodeConfig) -> Delays:
    """For the `delays` of a kind that holds nothing up."""
    return Delays()


C = TypeVar("C", bound=NodeConfig)
S = TypeVar("S")

Step: TypeAlias = Callable[[Any, Any, Any], Sequence[WireMessage]]
"""`step(config, state, message)`: gives the messages that follow from one; may raise BadMessageError."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input port: the message types it accepts and the columns that `Samples` must have.

    `needs` is fixed, or computed from the config (`threshold` needs the column it watches). `step` is the operator's
    function for this port; sinks leave it out.
    """

    accepts: tuple[type[WireMessage], ...]
    needs: Callable[[Any], Iterable[str]] | tuple[str, ...] = ()
    step: Step | None = None
    optional: bool = False
    decides_after: bool = False
    """Whether set-points that come in may be advice: `NodeConfig.advised_by` says of which."""
    delays: Callable[[Any], Delays] | None = None
    """How long the node holds up what comes in here, where that is not what its `delays` say."""

    def columns(self, config: NodeConfig) -> frozenset[str]:
        return frozenset(self.needs(config) if callable(self.needs) else self.needs)


Output: TypeAlias = Callable[[Any, Mapping[str, Wire]], Wire]
"""`output(config, inputs)`: what the node gives, from its config and what comes in at each port. May raise ValueError
with a text for the engineer (`convert`: 'angle_deg' is not among the columns …). In a file that is wrong, the config
and the inputs hold only what is right, and reading anything else ends the call: read only what the output rests on."""


@dataclass(frozen=True, slots=True)
class OperatorNode(Generic[C, S]):
    """An operator. `scope` "device": each device's rows are independent of all others, so that workers may share them
    out by device; each share has a state of its own, and `tick` and limits such as `max_devices` apply to each. "site":
    the state spans devices, so one worker holds it all. With several workers, an operator with `tick` must not read
    from operators of the other scope: its ticks would overtake their rows, so the runtime refuses that, unless
    `loose_ticks`: the tick only looks whether nothing came for long, and may overtake rows.

    `end` gives what the operator still holds when a recording is over or the flow drains.

    `by_arrival`: what it gives depends on when rows arrived, so that a recording must be given batch by batch.

    `delays`: how long it holds things up, by its config; None: nobody knows."""

    kind: str
    config: type[C]
    inputs: Mapping[str, Input]
    output: Output
    start: Callable[[C], S]
    tick: Callable[[C, S, int], Sequence[WireMessage]] | None = None
    tick_period_s: Callable[[C], float] | None = None
    loose_ticks: bool = False
    by_arrival: bool = False
    end: Callable[[C, S], Sequence[WireMessage]] | None = None
    scope: Literal["device", "site"] = "device"
    state_version: int = 1
    delays: Callable[[C], Delays] | None = None


class Counters:
    """Named counts of one node. Adding is safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._values[name] = self._values.get(name, 0) + count

    def add_all(self, **counts: int) -> None:
        """Several counts at once; those of 0 are left out."""
        with self._lock:
            for name, count in counts.items():
                if count:
                    self._values[name] = self._values.get(name, 0) + count

    def set(self, name: str, value: int) -> None:
        """For counts that something else keeps, such as drops in the operating system's kernel."""
        with self._lock:
            self._values[name] = value

    def get(self, name: str) -> int:
        return self._values.get(name, 0)

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(self._values)


def _nothing() -> None:
    return None


class SocketKeeper(Protocol):
    """Keeps sockets, and memory (`memfd_create`), for the next process of a flow, as systemd keeps those of a service
    (sd_notify, FDSTORE)."""

    def take(self, name: str) -> int | None:
        """Descriptor of the socket kept under this name; None if there is none. It is the caller's then."""

    def keep(self, name: str, descriptor: int) -> None:
        """Keep a socket beyond this process; the caller goes on with it."""


class NoSocketKeeper:
    """For a process that nobody supervises."""

    def take(self, name: str) -> None:
        del name

    def keep(self, name: str, descriptor: int) -> None:
        del name, descriptor


NO_SOCKET_KEEPER = NoSocketKeeper()


@dataclass(frozen=True, slots=True)
class Context:
    """What the runtime hands to a connector when it is made."""

    flow: str
    site: str
    node: str
    clock: Clock
    counters: Counters
    log: logging.Logger
    dead_letter: Callable[[str, str, bytes], None]
    """`dead_letter(reason, text, payload)`: keep something unusable and count it under `reason`. Any thread."""
    fail: Callable[[BaseException], None]
    """Report a FatalError from a thread of the connector's own: the flow drains and ends with it."""
    folder: Path
    """Relative paths of the config start here."""
    connections: Mapping[str, OpenConnection] = field(default_factory=dict)
    """By config field: `context.connections["store"]`."""
    progressed: Callable[[], None] = _nothing
    """A sink tells that more of what it took is durable. Any thread."""
    gauges: Gauges = field(default_factory=Gauges)
    """What the node tells about how it is now: `context.gauges.watch("queue_rows", lambda: len(self._queue))`."""
    sockets: SocketKeeper = NO_SOCKET_KEEPER
    """Where a source leaves sockets that should go on to take in while the flow is started again."""

    def resolve(self, text: str) -> Path:
        """The path that a config means. FatalError for the home folder of a user who does not exist."""
        try:
            return self.folder / Path(text).expanduser()
        except RuntimeError as error:
            raise FatalError(f"{text}: {error}") from error


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connection of the site file: its name there, its kind and its config."""

    name: str
    node: ConnectionNode[Any]
    config: NodeConfig


class Source(Protocol):
    """Where messages come in. All methods are called by one thread of the runtime."""

    def open(self) -> None:
        """Acquire sockets, files, clients. RetryableError: the runtime backs off and calls again. FatalError: stop."""

    def poll(self) -> Sequence[WireMessage]:
        """What is there now, as few messages as possible (a burst of rows is one `Samples`). Never blocks."""
        ...

    @property
    def ended(self) -> bool:
        """True once nothing will ever come again (a recording's end)."""
        ...

    def fileno(self) -> int | None:
        """A descriptor that is readable when `poll` would give something; None if there is none."""
        ...

    def next_poll_ns(self) -> int | None:
        """For sources paced by time: when to call `poll` next, in the clock's `monotonic_ns`. None: on `fileno`, or
        whenever."""
        ...

    def close(self) -> None:
        """Release everything. Called once after `open` was tried, also when it failed."""


class Sink(Protocol):
    """Where messages go out. `write` hands over and returns: what waits on a network or disk has its own thread."""

    def open(self) -> None:
        """As for `Source`. A sink whose far side is away for now opens all the same and retries on its own."""

    def write(self, messages: Sequence[WireMessage]) -> None:
        """Take messages over. Never blocks; counts what its declared overflow rule drops. May raise BadMessageError."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was taken is out (or durable), at most `timeout_s`; whether it is."""
        ...

    def close(self) -> None:
        """Release everything. What is still held is lost, and counted."""


@runtime_checkable
class AcknowledgingSource(Protocol):
    """What a source has besides if the far side sends again what was not acknowledged. Called by the thread that polls.

    The runtime sets `holds_acknowledgements` before `open`: from then on the source acknowledges nothing by itself.
    """

    holds_acknowledgements: bool

    def poll_number(self) -> int:
        """Number of the last poll that found something to acknowledge; grows."""
        ...

    def acknowledge(self, up_to: int) -> None:
        """Everything that came of the polls up to this number is durable. Also called after the last poll."""


@runtime_checkable
class ChangingSource(Protocol):
    """What a source has besides if a policy may change its config without an end of its connection.

    Others are closed, and opened with the new config.
    """

    def change(self, config: Any) -> bool:
        """Go on with this config. False: it cannot, and is closed and opened. Called by the thread that polls."""
        ...


@runtime_checkable
class DecodingSource(Protocol):
    """What a source has besides if it can decode a payload by itself that it could not use before."""

    def decode_again(self, payload: bytes) -> Sequence[WireMessage]:
        """The messages of a payload that came as a dead letter. BadMessageError when it still cannot be used. Called by
        the thread that polls."""
        ...


class Progress(NamedTuple):
    """How far a sink is; both only grow, and are equal when nothing is under way."""

    taken: int
    """Items handed over to `write`."""
    durable: int
    """Of those the first so many that survive the end of the process, or were dropped and counted."""


@runtime_checkable
class ProgressingSink(Protocol):
    """What a sink has besides if what it takes is not durable when `write` returns.

    It calls `context.progressed` from its own thread when more has become durable.
    """

    def progress(self) -> Progress:
        """Called by the thread that writes."""
        ...

    def hurry(self) -> None:
        """A source waits for what was taken so far to be durable. Called by the thread that writes; never blocks."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What trying a connection found."""

    latency_s: float
    """How long a question took to be answered, connecting not included."""
    peer: str = ""
    """What the far side says of itself: its version, what is there."""
    certificate_until_s: float | None = None
    """When the certificate that the far side shows ends, seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SourceNode(Generic[C]):
    kind: str
    config: type[C]
    output: Output
    open: Callable[[C, Context], Source]
    probe: Callable[[C, Context], Probe] | None = None
    """Of a source that calls a device by itself: asks it something, and leaves; changes nothing there. EdgeflexError if
    that fails."""
    decodes: bool = False
    """Whether its sources are `DecodingSource`s."""
    delays: Callable[[C], Delays] | None = None
    """How long what there is on the far side waits until it is read; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class SinkNode(Generic[C]):
    kind: str
    config: type[C]
    inputs: Mapping[str, Input]
    open: Callable[[C, Context], Sink]
    delays: Callable[[C], Delays] | None = None
    """How long what it took waits until it goes on to the far side; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class ConnectionNode(Generic[C]):
    """A connection kind. `family` says which config fields may name it; `open(config, context)` gives the client or
    store, whose type the nodes of that family know."""

    kind: str
    config: type[C]
    family: str
    open: Callable[[C, Context], Any]
    probe: Callable[[C, Context], Probe] | None = None
    """Opens a connection, authenticates, closes it; changes nothing on the far side. EdgeflexError if that fails."""
    topics_of: Callable[[C, str], Iterable[str]] | None = None
    """Of a bus: what the far side calls the topics of a topic filter of the flows, as filters."""
    where: tuple[str, ...] = ()
    """Fields that say what it connects to: two connections of one kind in which they mean the same are one, whatever
    they are called. If none are told, only their names tell connections apart."""
    delays: Callable[[C], Delays] = at_once
    """How long it holds up what nodes read or write by it, besides what these say themselves."""


AnyNode: TypeAlias = OperatorNode[Any, Any] | SourceNode[Any] | SinkNode[Any] | ConnectionNode[Any]

DEFAULT_PORT = "in"
"""Port of a plain `from: node`."""

DEAD_LETTERS = "dead_letters"
"""Reserved node name: the wire on which all dead letters of the flow come."""

FLOW_ALARMS = "flow_alarms"
"""Reserved node name: the wire on which alarms about policies and budgets come. In a flow that does not read it, the
node that it is about gives them, or the next one behind it that gives alarms."""

FLOW_WIRES: Mapping[str, Wire] = {DEAD_LETTERS: message_wire(DeadLetter), FLOW_ALARMS: message_wire(Alarm)}
"""Wires of the flow itself, which every flow may read."""
