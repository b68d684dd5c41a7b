"""Node kinds for tests of flow files: between them they use every feature that a config and a port may have."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeflex_flow import node
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Alarm, Crossing, FrequencyEvent, Message, Samples
from edgeflex_flow.node import (
    ANY,
    ConnectionNode,
    Context,
    Input,
    NodeConfig,
    OperatorNode,
    SinkNode,
    SourceNode,
    Wire,
    WireMessage,
    connection,
    message_wire,
    quantity,
    samples_wire,
)
from edgeflex_flow.registry import Registry


def never_opened(config: Any, context: Context) -> Any:
    """Reading flow files opens nothing, so the tests' nodes cannot be opened."""
    raise AssertionError("a node was opened")


def pass_on(config: Any, state: Any, message: Any) -> Sequence[WireMessage]:
    return [message]


def no_state(config: Any) -> None:
    return None


class BrokerConfig(NodeConfig, frozen=True, kw_only=True):
    """A broker."""

    host: Annotated[str, Meta(min_length=1, description="Its name.")]
    port: Annotated[int, Meta(ge=1, le=65535, description="Its port.")] = 1883
    username: Annotated[str | None, Meta(description="Who logs in.")] = None
    password: Annotated[str | None, Meta(description="Password of the user.", extra={"secret": True})] = None
    timeout: Annotated[float, quantity("s", "How long it may take to answer.", gt=0, le=60)] = 5.0

    def __post_init__(self) -> None:
        if self.password is not None and self.username is None:
            raise ValueError(f"password '{self.password}' without a username")


class TableConfig(NodeConfig, frozen=True, kw_only=True):
    """A store."""

    path: Annotated[str, node.path("File of the database.")]


class MeterConfig(NodeConfig, frozen=True, kw_only=True):
    """Measures. More than one sentence tells about it.

    It listens on a port, and a second paragraph
    runs over two lines.

    Input:   None.
    Output:  Samples with frequency and angle;
             more columns under `channels`.
    Errors:  FatalError when the port is in use.
    Source:  IEEE C37.118.2-2011.

    >>> MeterConfig(port=4713).port
    4713
    """

    port: Annotated[int, Meta(ge=1, le=65535, description="UDP port.")]
    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "0.0.0.0"
    channels: Annotated[tuple[str, ...], Meta(max_length=3, description="More columns, in order.")] = ()
    period: Annotated[float, quantity("s", "Time between two frames.", gt=0, le=10)] = 0.02
    speed: Annotated[Annotated[float, Meta(gt=0)] | Literal["max"], Meta(description="How fast.")] = 1.0
    pause: Annotated[float, quantity("s", "Time to wait, or when asked.", gt=0)] | Literal["asked"] = 1.0
    test: Annotated[bool, Meta(description="Whether it is in test mode.")] = False


class InboxConfig(NodeConfig, frozen=True, kw_only=True):
    """Messages from a bus."""

    bus: Annotated[str, connection("bus", "The bus to read from.")]
    message: Annotated[Literal["alarm", "crossing"], Meta(description="What comes in.")]
    topic: Annotated[str, Meta(pattern=r"^[^+]*$", description="Topic without '+'.")] = "in"


class SlopeConfig(NodeConfig, frozen=True, kw_only=True):
    """Slope of frequency."""

    window: Annotated[float, quantity("s", "Length of the window.", gt=0, le=60)] = 0.5


class PhaseConfig(NodeConfig, frozen=True, kw_only=True):
    """Needs an angle in radian."""


class LimitConfig(NodeConfig, frozen=True, kw_only=True):
    """Watches a column."""

    column: Annotated[str, Meta(min_length=1, description="Column to watch.")]
    low: Annotated[float, Meta(description="Lower limit.")] = 0.0
    high: Annotated[float, Meta(description="Upper limit.")] = 1.0
    onset: Annotated[float, quantity("Hz/s", "Slope that starts an event.", gt=0, le=10)] = 0.02
    hold: Annotated[int, Meta(ge=0, le=100, description="Samples to wait.")] = 3

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")


class PairConfig(NodeConfig, frozen=True, kw_only=True):
    """Reads three ports."""


class RenameConfig(NodeConfig, frozen=True, kw_only=True):
    """Gives columns new names."""

    columns: Annotated[dict[str, str], Meta(min_length=1, description="Old name to new name.")]


class Mode(enum.Enum):
    """An enum with a member that is close to a likely mistake."""

    FAST = "fast"
    SLOW = "slow"


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A nested part of a config."""

    level: Annotated[float, Meta(ge=0, le=1, description="Share of the load.")]
    delay: Annotated[float, quantity("s", "How long to wait.", ge=0)] = 0.0


class Swift(NodeConfig, frozen=True, kw_only=True, tag_field="type", tag="swift"):
    """All at once."""

    notice: Annotated[str, Meta(description="What is told.")] = "now"


class Ramp(NodeConfig, frozen=True, kw_only=True, tag_field="type", tag="ramp"):
    """Bit by bit."""

    rate: Annotated[float, quantity("kW", "Power of each bit.", gt=0)]
    low: Annotated[float, Meta(description="Where it ends.")] = 0.0
    stops: Annotated[tuple[Step, ...], Meta(description="Where it waits.")] = ()

    def refusals(self) -> Iterator[FieldError]:
        if self.low > self.rate:
            yield FieldError("`low` is above `rate`", "low", "rate", got=f"{self.low:g}")


class ShedConfig(NodeConfig, frozen=True, kw_only=True):
    """A sink with nested settings."""

    store: Annotated[str, connection("store", "Where it writes.")]
    steps: Annotated[tuple[Step, ...], Meta(description="What is shed.")] = ()
    levels: Annotated[dict[str, Annotated[float, Meta(ge=0)]], Meta(description="Level by feeder.")] = msgspec.field(
        default_factory=dict
    )
    delays: Annotated[tuple[Annotated[float, quantity("s", "A delay.", ge=0)], ...], Meta(description="Delays.")] = ()
    mode: Annotated[Mode, Meta(description="How it goes.")] = Mode.FAST
    buffer: Annotated[int, quantity("B", "Memory it may take.", ge=1024)] = 65536
    limit: Annotated[float, quantity("kW", "Most that is shed.", ge=0)] | None = None
    course: Annotated[Swift | Ramp, Meta(description="How it goes down.")] = Swift()


class TellConfig(NodeConfig, frozen=True, kw_only=True):
    """Tells messages, no samples."""

    bus: Annotated[str, connection("bus", "The bus to write to.")] = "databus"
    topic: Annotated[str, Meta(min_length=1, description="Topic.")]


def rename_output(config: RenameConfig, inputs: Mapping[str, Wire]) -> Wire:
    columns = inputs["in"].columns
    missing = sorted(config.columns.keys() - columns)
    if missing:
        raise ValueError(f"'{missing[0]}' is not among the columns {', '.join(sorted(columns))}")
    return samples_wire(*(config.columns.get(name, name) for name in columns))


def inbox_output(config: InboxConfig, inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(Alarm if config.message == "alarm" else Crossing)


def slope_output(config: SlopeConfig, inputs: Mapping[str, Wire]) -> Wire:
    wire = inputs["in"]
    return samples_wire(*wire.columns, "rocof_hz_per_s", more_columns=wire.more_columns)


def meter_output(config: MeterConfig, inputs: Mapping[str, Wire]) -> Wire:
    return samples_wire("frequency_hz", "angle_deg", *config.channels, more_columns=True)


NODES: tuple[Any, ...] = (
    ConnectionNode("broker", BrokerConfig, "bus", never_opened),
    ConnectionNode("table", TableConfig, "store", never_opened),
    SourceNode("meter", MeterConfig, meter_output, never_opened),
    SourceNode("inbox", InboxConfig, inbox_output, never_opened),
    OperatorNode("slope", SlopeConfig, {"in": Input((Samples,), ("frequency_hz",), pass_on)}, slope_output, no_state),
    OperatorNode(
        "phase",
        PhaseConfig,
        {"in": Input((Samples,), ("angle_rad",), pass_on)},
        lambda _config, inputs: inputs["in"],
        no_state,
    ),
    OperatorNode(
        "limit",
        LimitConfig,
        {"in": Input((Samples,), lambda config: (config.column,), pass_on)},
        lambda _config, _inputs: message_wire(Crossing),
        no_state,
    ),
    OperatorNode(
        "detect",
        PhaseConfig,
        {"in": Input((Samples,), ("rocof_hz_per_s",), pass_on)},
        lambda _config, _inputs: message_wire(FrequencyEvent),
        no_state,
    ),
    OperatorNode(
        "pair",
        PairConfig,
        {
            "measured": Input((Samples,), ("frequency_hz",), pass_on),
            "events": Input((FrequencyEvent,), (), pass_on),
            "alarms": Input((Alarm,), (), pass_on, optional=True),
        },
        lambda _config, _inputs: message_wire(Alarm),
        no_state,
        scope="site",
    ),
    OperatorNode(
        "rename",
        RenameConfig,
        {"in": Input((Samples,), (), pass_on)},
        rename_output,
        no_state,
    ),
    SinkNode("shed", ShedConfig, {"in": Input(ANY)}, never_opened),
    SinkNode("tell", TellConfig, {"in": Input((Message,))}, never_opened),
)


def registry() -> Registry:
    """The kinds of this file."""
    return Registry(NODES)


SITE = """\
site: yard_7
connections:
  databus: {kind: broker, host: bus.example, timeout: 2s}
  history: {kind: table, path: history.db}
params: {meter_port: 4800}
"""

FLOW = """\
flow: events
about: Find events.
params: {meter_port: 4713}
nodes:
  pmu:    {kind: meter, port: "${meter_port}"}
  slope:  {kind: slope, from: pmu, window: 500ms}
  detect: {kind: detect, from: slope}
  watch:
    kind: limit
    from: slope
    column: rocof_hz_per_s
    onset: {policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}
  both:   {kind: pair, from: {measured: [pmu, slope], events: detect}}
  tell:   {kind: tell, from: [detect, watch, both, dead_letters], topic: "edgeflex/${site}/event"}
  shed:   {kind: shed, from: [pmu, slope], store: history}
"""
