"""What flows on a wire: columnar batches of measurements, and one frozen Struct for each other meaning."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

TimeNs: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""UTC nanoseconds since 1970 in a message: what an int64 column can hold."""


class Quality(enum.IntFlag):
    """What is doubtful about a row; 0 is good. Operators state how they pass these on and never clear them."""

    GOOD = 0
    BAD_DATA = 1
    """The device says that the values are wrong or absent."""
    SYNC_LOST = 2
    """The device is not locked to UTC."""
    TIME_UNCERTAIN = 4
    """The bound of the time error no longer guarantees 1 % total vector error."""
    STALE = 8
    """Older than the reader allows."""
    ESTIMATED = 16
    """Computed or modified on the way, not measured."""
    TEST = 32
    """The device is in test mode."""
    REPLAYED = 64
    """Read from a recording."""
    CLIPPED = 128
    """A limit cut the value or the window it was computed from."""
    LATE = 256
    """Sent or received later than its place in the stream."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all messages. Subclasses set `tag` to their snake_case name: it is `type` in their JSON."""

    valid_for_s: ClassVar[float | None] = None
    """How long after it was made a message may still be sent, in seconds: for set-points, which must not come late.
    None: a late message is better than none."""


class Samples(msgspec.Struct, frozen=True, eq=False):
    """A columnar batch of n measurements, oldest first for each device.

    Names of columns end in their unit (`frequency_hz`); see `edgeflex_flow.units`. Treat the arrays as read-only:
    they are shared by every reader of the wire.
    """

    time_ns: NDArray[np.int64]
    """Time tag of the device, UTC nanoseconds since 1970, shape (n,)."""
    device: NDArray[np.int32]
    """Index into `devices`, shape (n,)."""
    devices: tuple[str, ...]
    """Names of devices. A source keeps this the same object while it stays the same."""
    columns: Mapping[str, NDArray[np.float64]]
    """Values by column name, each of shape (n,); NaN where a device gave none."""
    quality: NDArray[np.uint16]
    """`Quality` flags, shape (n,)."""
    received_ns: int
    """When the batch was read, UTC nanoseconds."""

    tag: ClassVar[str] = "samples"

    @property
    def rows(self) -> int:
        return len(self.time_ns)

    def take(self, rows: NDArray[Any]) -> Samples:
        """The batch with only these rows (a boolean mask or indices)."""
        return Samples(
            time_ns=self.time_ns[rows],
            device=self.device[rows],
            devices=self.devices,
            columns={name: values[rows] for name, values in self.columns.items()},
            quality=self.quality[rows],
            received_ns=self.received_ns,
        )

    def with_columns(self, columns: Mapping[str, NDArray[np.float64]]) -> Samples:
        """The same rows with these columns instead."""
        return msgspec.structs.replace(self, columns=columns)

    def problems(self) -> Iterator[str]:
        """What is wrong with the batch's shape and types; nothing when it is well made."""
        n = len(self.time_ns)
        wanted: list[tuple[str, NDArray[Any], Any]] = [
            ("time_ns", self.time_ns, np.int64),
            ("device", self.device, np.int32),
            ("quality", self.quality, np.uint16),
            *((name, values, np.float64) for name, values in self.columns.items()),
        ]
        for name, values, dtype in wanted:
            if values.dtype != dtype:
                yield f"{name}: dtype {values.dtype}, expected {np.dtype(dtype)}"
            if values.shape != (n,):
                yield f"{name}: shape {values.shape}, expected ({n},)"
        if n and (self.device.min() < 0 or self.device.max() >= len(self.devices)):
            yield f"device: a code outside 0..{len(self.devices) - 1}"


def samples_from_rows(
    rows: Sequence[tuple[int, str, Mapping[str, float]]], *, quality: int = 0, received_ns: int = 0
) -> Samples:
    """A batch from rows of (time_ns, device, values): for tests, adapters and small inputs, not for streams.

    >>> samples_from_rows([(0, "G1", {"frequency_hz": 50.0})]).columns["frequency_hz"].tolist()
    [50.0]
    """
    devices = tuple(dict.fromkeys(device for _, device, _ in rows))
    code = {name: index for index, name in enumerate(devices)}
    names = dict.fromkeys(name for _, _, values in rows for name in values)
    return Samples(
        time_ns=np.array([time_ns for time_ns, _, _ in rows], dtype=np.int64),
        device=np.array([code[device] for _, device, _ in rows], dtype=np.int32),
        devices=devices,
        columns={
            name: np.array([values.get(name, np.nan) for _, _, values in rows], dtype=np.float64) for name in names
        },
        quality=np.full(len(rows), quality, dtype=np.uint16),
        received_ns=received_ns,
    )


def samples_at(time_ns: int, column: str, devices: tuple[str, ...], values: NDArray[np.float64]) -> Samples:
    """A batch with one value for each device, all measured and received at one time.

    >>> samples_at(0, "voltage_pu", ("node_1", "node_2"), np.array([1.0, 1.01])).rows
    2
    """
    return Samples(
        time_ns=np.full(len(devices), time_ns, dtype=np.int64),
        device=np.arange(len(devices), dtype=np.int32),
        devices=devices,
        columns={column: values},
        quality=np.zeros(len(devices), dtype=np.uint16),
        received_ns=time_ns,
    )


def join_samples(batches: Sequence[Samples]) -> Samples:
    """One batch that holds the rows of all, in order. Columns that a batch lacks are NaN in its rows."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    devices: tuple[str, ...] = first.devices
    if any(batch.devices is not devices for batch in batches):
        devices = tuple(dict.fromkeys(name for batch in batches for name in batch.devices))
    code = {name: index for index, name in enumerate(devices)}
    names = tuple(dict.fromkeys(name for batch in batches for name in batch.columns))

    def codes(batch: Samples) -> NDArray[np.int32]:
        if batch.devices is devices:
            return batch.device
        return np.array([code[name] for name in batch.devices], dtype=np.int32)[batch.device]

    return Samples(
        time_ns=np.concatenate([batch.time_ns for batch in batches]),
        device=np.concatenate([codes(batch) for batch in batches]),
        devices=devices,
        columns={
            name: np.concatenate(
                [batch.columns[name] if name in batch.columns else np.full(batch.rows, np.nan) for batch in batches]
            )
            for name in names
        },
        quality=np.concatenate([batch.quality for batch in batches]),
        received_ns=batches[-1].received_ns,
    )


class Computed(Message, frozen=True, kw_only=True):
    """Base of messages that tell what was computed with settings that policies may have changed."""

    policies: dict[str, str] = {}
    """By policy and field (`voltage_bounds.voltage_max`) the version of the policy whose value was in force, `default`
    where the flow file's own was. The runtime fills it in. An event that a policy asked for names that one
    (`south/excitation`), and what is estimated from an event names the policies of the event too."""


class FrequencyEvent(Computed, frozen=True, kw_only=True, tag="frequency_event"):
    """A frequency event that a detector saw on one device. `started` and `ended` share their `id`."""

    id: str
    """Device and onset, `G1@1633791645123456789`: the same event keeps its id when it is computed again."""
    state: Literal["started", "ended"]
    device: str
    onset_time_ns: TimeNs
    """When the frequency began to leave its course, UTC nanoseconds."""
    detected_time_ns: TimeNs
    """Time tag of the sample that made the detector sure, UTC nanoseconds."""
    rocof_hz_per_s: float
    """ROCOF of largest magnitude since the onset."""
    frequency_before_hz: float
    """Median over the time before the onset."""
    frequency_extreme_hz: float
    """The frequency farthest from `frequency_before_hz` so far (nadir or zenith)."""
    end_time_ns: TimeNs | None = None
    """When it ended; None while it lasts."""
    quality: int = 0
    """All `Quality` flags of the samples it was computed from."""


class Crossing(Computed, frozen=True, kw_only=True, tag="crossing"):
    """A value went beyond a threshold or came back."""

    device: str
    column: str
    state: Literal["above", "below", "normal"]
    time_ns: TimeNs
    value: float
    limit: float
    """The limit that was crossed, in the unit of the column."""
    quality: int = 0


class EventWindow(Computed, frozen=True, kw_only=True, tag="event_window"):
    """An event of the grid together with what was measured around it. For operators; large on a databus."""

    event: FrequencyEvent
    """The event as the device that saw it first told it; of several at once the first by name."""
    onset_time_ns: TimeNs
    """Median onset over the devices that saw the event, UTC nanoseconds."""
    begin_ns: TimeNs
    end_ns: TimeNs
    """The window: samples with begin_ns <= time < end_ns."""
    samples: Samples
    """Rows of all devices, device after device, each in order of time."""
    power_step: float | None = None
    """Ratio of the square of the largest joint change of power near the onset to what is usual before it; None when
    that cannot be told."""
    own_steps_ns: dict[str, int] = {}
    """When the power of each device stepped, of those where it did so sharply: the same moment, if clocks are right."""
    missing: tuple[str, ...] = ()
    """Devices of which the window lacks rows, wholly or in part."""


EstimateStatus: TypeAlias = Literal[
    "ok",
    "no_unit_data",
    "no_data",
    "bad_data",
    "offline",
    "tripped",
    "not_excited",
    "phase_jump",
    "ill_conditioned",
    "model_mismatch",
    "implausible",
]
"""Whether an estimate was accepted, and if not, why not."""


class InertiaEstimate(Computed, frozen=True, kw_only=True, tag="inertia_estimate"):
    """The inertia of one generating unit, with its uncertainty, or the reason why there is none.

    Holds what is needed to make it again from the store: window, configuration, unit data and version.
    """

    event_id: str
    device: str
    time_ns: TimeNs
    """Onset of the event that it was made from, or the end of the window of a method without event."""
    method: Literal["event", "online", "ambient"]
    indicative: bool = False
    """True for methods whose interval is not tested for coverage."""
    status: EstimateStatus
    reason: str = ""
    """In words, with the numbers that decided; empty when accepted."""
    remarks: tuple[str, ...] = ()
    """What makes an accepted estimate worse than it could be, such as `bus_frequency`, `clock_offset`, `late_rows`."""
    h_s: float | None = None
    """Inertia constant in s on the unit's rated power; None when not accepted."""
    h_ci95_low_s: float | None = None
    h_ci95_high_s: float | None = None
    kinetic_energy_mws: float | None = None
    rated_power_mva: float | None = None
    guess_h_s: float | None = None
    """The best that can be said of H when the estimate was not accepted, for sums over many units; None: nothing."""
    deviation: float | None = None
    """Standard deviation of the logarithm of `h_s`, or of `guess_h_s`."""
    power_before_mw: float | None = None
    """Air-gap power before the event: what the grid lost, where the unit tripped."""
    rocof_hz_per_s: float | None = None
    """Slope of the rotor's frequency over the first 0.5 s after the onset."""
    nominal_hz: float | None = None
    begin_ns: TimeNs
    end_ns: TimeNs
    rows: int
    """Rows that were used."""
    quality: int = 0
    """All `Quality` flags of those rows."""
    settings: dict[str, float] = {}
    """Settings of the method that it was made with, in their own units; empty where `config_digest` alone tells."""
    config_digest: str = ""
    unit_digest: str = ""
    """First 16 hex digits of the SHA-256 of the configuration and of the unit's data as JSON."""
    version: str = ""
    """Version of edgeflex-flow and of the method."""


class SystemInertia(Computed, frozen=True, kw_only=True, tag="system_inertia"):
    """Kinetic energy of the whole system: the sum over its units, cross-checked where the lost power is known."""

    event_id: str
    time_ns: TimeNs
    kinetic_energy_mws: float | None
    """None when no unit could be estimated."""
    ci95_low_mws: float | None = None
    ci95_high_mws: float | None = None
    reason: str = ""
    """Why there is no sum; empty when there is one."""
    estimated: tuple[str, ...] = ()
    """Units whose estimates were accepted."""
    assumed: tuple[str, ...] = ()
    """Units that count with their known constant, or with what could be told of them though not accepted."""
    tripped: tuple[str, ...] = ()
    """Units that the event took off the grid: they do not count."""
    offline: tuple[str, ...] = ()
    """Units that were off the grid all the time: they do not count either."""
    remarks: tuple[str, ...] = ()
    """What the estimates of its units remark, each once."""
    lost_power_mw: float | None = None
    """Lost power, when it is known: given, or that of the units that tripped."""
    kinetic_energy_from_lost_power_mws: float | None = None
    agrees: bool | None = None
    """Whether the two ways differ by at most a quarter; None when the lost power is not known."""
    quality: int = 0
    begin_ns: TimeNs = 0
    end_ns: TimeNs = 0
    """The window of its units' estimates."""
    config_digest: str = ""
    """First 16 hex digits of the SHA-256 of lost power and data of all units as JSON."""
    version: str = ""
    """Version of edgeflex-flow and of the method of its units' estimates."""


class _SetpointFields(Computed, frozen=True, kw_only=True):
    controller: str
    """Who decided: the `name` of the controller's config."""
    time_ns: TimeNs
    """When it was decided, UTC nanoseconds."""
    quantity: str
    """What the values are, ending in their unit: `reactive_power_pu`, `active_power_w`. Positive is into the grid."""
    values: dict[str, float]
    """By asset."""
    valid_for_s: Annotated[float, msgspec.Meta(gt=0)]  # type: ignore[misc]  # of each message, not one for the type
    """How long after `time_ns` it may be sent and obeyed. Assets that hear no more go to a safe state of their own."""
    status: Literal["ok", "fallback", "safe"]
    """`fallback`: what was declared for when the controller cannot see or solve; `safe`: the safe state at the end."""
    reason: str = ""
    """Why it is not `ok`, in words with the numbers that decided."""
    limits: dict[str, tuple[str, ...]] = {}
    """By asset, what keeps its value from going further: `hardware`, `policy`, `ramp`, `energy`, or a name of what the
    controller keeps within bounds, such as `voltage_max node_7`."""
    measured_begin_ns: TimeNs | None = None
    measured_end_ns: TimeNs | None = None
    """Time tags of the oldest and newest measurement that was used; None if none was."""
    missing: tuple[str, ...] = ()
    """Whose measurements were missing, too old or not plausible."""
    quality: int = 0
    """All `Quality` flags of the measurements that were used."""
    config_digest: str = ""
    """First 16 hex digits of the SHA-256 of the controller's configuration as JSON, policies in force included."""
    version: str = ""
    """Version of edgeflex-flow and of the method."""


class Setpoints(_SetpointFields, frozen=True, kw_only=True, tag="setpoints"):
    """What a controller tells its assets to do from now on, one quantity a message, and why."""


class ShadowSetpoints(_SetpointFields, frozen=True, kw_only=True, tag="shadow_setpoints"):
    """What a controller in shadow mode would have told its assets. A type of its own, so that nothing obeys it."""


class Forecast(Computed, frozen=True, kw_only=True, tag="forecast"):
    """What one quantity of an asset will be, step by step, and how sure that is."""

    device: str
    quantity: str
    """What the values are, ending in their unit: `active_power_w`, `price_eur_per_mwh`."""
    time_ns: TimeNs
    """When it was made, UTC nanoseconds: the end of the last step that was measured."""
    begin_ns: TimeNs
    """When its first step begins; step k begins k times `step_s` later and its value is the mean over it."""
    step_s: Annotated[float, msgspec.Meta(gt=0)]
    values: tuple[float, ...] = ()
    """What is expected, a value a step; empty with `status` `none`."""
    quantiles: dict[str, tuple[float, ...]] = {}
    """By probability (`0.1`, `0.5`, `0.9`) the values that the true ones stay below so often; empty if unknown."""
    method: str
    """How it was made: `persistence`, `daily`, `regression`, or another forecaster's word."""
    status: Literal["ok", "fallback", "none"]
    """`fallback`: by a simpler method than was asked for; `none`: there is no forecast."""
    reason: str = ""
    """Why it is not `ok`, in words with the numbers that decided."""
    rows: int = 0
    """Measurements that its method rests on."""
    missing_steps: int = 0
    """Steps of the history that hold no measurement."""
    coverage: float | None = None
    """Share of held-out history between quantiles 0.1 and 0.9 before these were calibrated on it; 0.8 is perfect."""
    skill: float | None = None
    """1 minus the mean absolute error over that of persistence, on held-out history."""
    quality: int = 0
    """All `Quality` flags of the measurements from which it goes on; `estimated` where gaps among them were bridged."""
    config_digest: str = ""
    """First 16 hex digits of the SHA-256 of the forecaster's configuration as JSON."""
    version: str = ""
    """Version of edgeflex-flow and of the method."""


class DispatchPlan(Computed, frozen=True, kw_only=True, tag="dispatch_plan"):
    """What a virtual power plant means to do, step by step, and what that is worth. Positive power is into the grid."""

    controller: str
    """Who planned: the `name` of the controller's config."""
    time_ns: TimeNs
    """When it was planned, UTC nanoseconds."""
    begin_ns: TimeNs
    """When its first step begins."""
    step_s: Annotated[float, msgspec.Meta(gt=0)]
    status: Literal["ok", "fallback"]
    """`fallback`: planned without what `missing` names."""
    reason: str = ""
    """Why it is not `ok`, in words."""
    powers_w: dict[str, tuple[float, ...]]
    """By asset, a value a step: generators, storage (charging is negative) and renewables."""
    energies_wh: dict[str, tuple[float, ...]] = {}
    """By storage, at the end of each step."""
    available_w: dict[str, tuple[float, ...]] = {}
    """By renewable, what it could give, as forecast."""
    loads_w: tuple[float, ...] = ()
    """Sum of the loads, as forecast."""
    exchange_w: tuple[float, ...]
    """Power into the grid at the connection."""
    prices_eur_per_mwh: tuple[float, ...]
    profit_eur: float
    """Revenue less costs over all steps, if all comes as forecast."""
    shortfalls: dict[str, float] = {}
    """What could not be kept, and by how much at most: `reserve_w`, `import_limit_w`, `energy_wh NAME`."""
    solver: Literal["lp", "milp"]
    """`lp`: the linear relaxation was a plan already, within `gap`."""
    solver_status: Literal["optimal", "time_limit"]
    gap: float
    """How far the plan may be from the best one, relative to its cost."""
    solver_s: float
    """How long the solver took."""
    missing: tuple[str, ...] = ()
    """Whose forecasts or measurements were missing or too old."""
    shadow: bool = False
    """Whether its controller is in shadow mode: then nothing comes of the plan, and nobody is asked for it."""
    config_digest: str = ""
    """First 16 hex digits of the SHA-256 of the controller's configuration as JSON, policies in force included."""
    version: str = ""
    """Version of edgeflex-flow and of the method."""


Node: TypeAlias = int | Annotated[str, msgspec.Meta(min_length=1)]
"""A node of the grid, as both sides call it."""


class _FlexFields(Message, frozen=True, kw_only=True):
    variable: Literal["active_power", "reactive_power"]
    nodes: tuple[Node, ...]
    """Whose values stand in each list, in this order."""
    unit: Literal["kW", "kvar"]
    """Of the values. Positive is into the grid."""


class FlexRequest(_FlexFields, frozen=True, kw_only=True, tag="flex_request"):
    """Flexibility that is asked for, by node and step, as the edgeFLEX platform writes it."""

    flex_request: dict[str, tuple[float, ...]]
    """By step, from `prediction 1` on, a value for each node."""
    id: str = ""
    """Names it in the answer."""
    time_ns: TimeNs | None = None
    """When it was asked, UTC nanoseconds."""
    begin_ns: TimeNs | None = None
    """When the first step begins."""
    step_s: float | None = None


class FlexResponse(_FlexFields, frozen=True, kw_only=True, tag="flex_response"):
    """The flexibility that is given, in the shape of the request."""

    flex_response: dict[str, tuple[float, ...]]
    """By step, from `prediction 1` on, a value for each node."""
    positions: tuple[int, ...] = ()
    """In place of `nodes`: their places among those of the request, from 0 on."""
    request_id: str = ""
    """`id` of the request; empty if the other side does not say which one it answers."""
    time_ns: TimeNs | None = None
    status: Literal["full", "changed", "none"] = "full"
    """`changed`: parts were missing or cut; `none`: nobody answered, and what was declared for that holds."""
    reason: str = ""
    """Why it is not `full`, in words."""


FlexState: TypeAlias = Literal[
    "initial", "offered", "accepted", "rejected", "assigned", "executed", "invalid", "canceled"
]
"""Where a FlexOffer stands; `edgeflex_flow.flexoffer` says which state may follow which."""


class FlexSlice(msgspec.Struct, frozen=True, kw_only=True):
    """One slice of a FlexOffer's profile: how much energy its owner may produce (positive) or consume (negative)."""

    lower_kwh: float
    upper_kwh: float
    min_duration: Annotated[int, msgspec.Meta(ge=1)] = 1
    max_duration: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Length of the slice, in intervals."""
    price_min_eur_per_kwh: float | None = None
    """The most that the owner pays for what it consumes; None: as the other price, 0 if there is none."""
    price_max_eur_per_kwh: float | None = None
    """The least that the owner takes for what it produces; None: as the other price, 0 if there is none."""


class FlexScheduleSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What is assigned of one slice of the profile."""

    energy_kwh: float
    duration: Annotated[int, msgspec.Meta(ge=1)] = 1
    """In intervals."""
    price_eur_per_kwh: float | None = None


class FlexSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a FlexOffer's profile begins, and what each of its slices holds."""

    start_ns: TimeNs
    slices: tuple[FlexScheduleSlice, ...]
    update: int = 0
    """Counts the schedules of one offer: of two the one with the higher number holds."""


class FlexOffer(Computed, frozen=True, kw_only=True, tag="flex_offer"):
    """Flexibility that is offered to a market, and what became of it. Positive energy is production, into the grid."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    state: FlexState
    state_reason: str = ""
    offered_by: str = ""
    """The owner, as the market knows it."""
    location: str = ""
    """Where in the grid, such as a node's number."""
    endpoint: str = ""
    """Path at which the market takes it; empty: wherever its sender sends offers. Markets are not told."""
    request_id: str = ""
    """`id` of the FlexRequest that it was made from; empty if from none, or if the other side does not say."""
    quantity: Literal["active_energy", "reactive_energy"] = "active_energy"
    """Energies are in kWh, or in kvarh."""
    created_ns: TimeNs | None = None
    accept_before_ns: TimeNs | None = None
    """Until when it is to be accepted or rejected; None: at once, or never."""
    assign_before_ns: TimeNs | None = None
    """Until when a schedule may be assigned; None: until `start_after_ns`."""
    start_after_ns: TimeNs | None = None
    start_before_ns: TimeNs | None = None
    """The profile begins between these; `start_after_ns` None: from `created_ns` on."""
    end_before_ns: TimeNs | None = None
    interval_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 900
    slices: tuple[FlexSlice, ...] = ()
    """The profile, slice after slice; empty in answers that tell the state alone."""
    total_lower_kwh: float | None = None
    total_upper_kwh: float | None = None
    """Bounds of the sum over all slices; None: no other than theirs."""
    default_schedule: FlexSchedule | None = None
    """What the owner does if nothing is assigned."""
    schedule: FlexSchedule | None = None
    """What is assigned."""


QosState: TypeAlias = Literal["requested", "available", "not_guaranteed", "ended"]
"""Where the quality of a link stands in its network. `not_guaranteed`: it is given, but cannot be held for now."""


class LinkStatus(Message, frozen=True, kw_only=True, tag="link_status"):
    """What the mobile network says of the link of a field device. What it does not tell is None."""

    device: str
    gpsi: str
    """The device as the network knows it (TS 29.571)."""
    time_ns: TimeNs
    """When it was so, UTC nanoseconds."""
    reachable: bool | None = None
    latency_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None
    """Share of packets that are lost."""
    downlink_bit_per_s: float | None = None
    uplink_bit_per_s: float | None = None
    signal: str | None = None
    """In words, or as `-85 dBm`."""
    profile: str | None = None
    """The quality (QoS profile) that was asked for last."""
    qos_state: QosState | None = None
    qos_expires_ns: TimeNs | None = None
    """When the network ends it by itself."""
    qos_confirmed_ns: TimeNs | None = None
    """When the network last told of it: the same answer once more has another time."""
    meets_profile: dict[str, bool] = {}
    """By what is measured (`latency`, `loss`), whether it is as good as the profile asks for."""
    reason: str = ""
    """Why the quality is in its state, in the network's words."""


class LinkQosRequest(Computed, frozen=True, kw_only=True, tag="link_qos_request"):
    """A quality that the link of a field device should have from now on."""

    device: str
    action: Literal["raise", "release"]
    """`raise`: to `profile`, in place of what it has; `release`: to none."""
    profile: str | None = None
    reason: str
    """In words, with the numbers that decided."""
    time_ns: TimeNs
    """When it was decided, UTC nanoseconds."""
    valid_for_s: Annotated[float, msgspec.Meta(gt=0)]  # type: ignore[misc]  # of each message, not one for the type
    """How long after `time_ns` it may be sent: later on, the link may be another."""


PolicyKind: TypeAlias = Literal["operational_bounds", "trigger", "data_management", "flexibility", "sharing"]
"""What a policy is for; each kind has a schema of its own in the policy system."""


class Policy(Message, frozen=True, kw_only=True, tag="policy"):
    """A version of a policy, as the policy system gives it to those who may read it."""

    policy_id: str
    policy_group: str
    policy_kind: PolicyKind
    version: Annotated[int, msgspec.Meta(ge=1)]
    """Counts how often the policy was saved."""
    fields: dict[str, Any]
    """What parameters of flows are bound to: quantities with their unit (`0.02 Hz/s`), numbers without one, texts."""
    about: str = ""
    asset_id: str = ""
    """The asset that it is for; empty: no certain one."""
    valid_from_ns: TimeNs | None = None
    valid_until_ns: TimeNs | None = None
    """Outside of these the policy says nothing."""
    saved_ns: TimeNs | None = None
    last_contact_ns: TimeNs | None = None
    """Of one that a flow gives from its disk: when the policy system was last in contact. None: it says this now."""


class ServiceRequest(Message, frozen=True, kw_only=True, tag="service_request"):
    """A service that the event service wants run, since a policy says so."""

    service: str
    """Such as `inertia_estimation`."""
    policy: str
    """`group/id` of the policy."""
    version: int
    rule: str
    reason: str
    """Which condition held, in words with the values."""
    time_ns: TimeNs
    """When what it reacts to happened."""
    device: str | None = None
    values: dict[str, float] = msgspec.field(default_factory=dict)
    """The measured state by name with its unit, such as `rocof_hz_per_s`."""


class Alarm(Message, frozen=True, kw_only=True, tag="alarm"):
    """Something that a person should see."""

    source: str
    """Node that raised it."""
    severity: Literal["info", "warning", "critical"]
    text: str
    time_ns: TimeNs
    device: str | None = None


class DeadLetter(Message, frozen=True, kw_only=True, tag="dead_letter"):
    """A message that a node could not use. Wire `from: dead_letters` to keep them."""

    node: str
    reason: str
    """Short word, the same as the counter's name."""
    text: str
    time_ns: TimeNs
    payload: bytes = b""
    """The first bytes of what was wrong (base64 in JSON)."""
    count: int = 1
    """How many rows or messages it stands for."""


TIMES = ("time_ns", "onset_time_ns", "created_ns")
"""Where messages hold the time they are about; the first that a message has counts."""


def message_time_ns(message: Message) -> int | None:
    """The time that a message is about, UTC nanoseconds; None if it has none."""
    for name in TIMES:
        time_ns: int | None = getattr(message, name, None)
        if time_ns is not None:
            return time_ns
    return None


def validity_s(message: Samples | Message, now_ns: int, limit_s: float | None) -> float:
    """For how long from now a message may still be sent: infinite for what may come late, not above 0 when it is over.

    The validity of a message with a `time_ns` counts from there, wherever it has been since; a time in the future, by
    another clock, gives it no more. `limit_s`, the sender's own, counts from now.

    >>> told = {"controller": "c", "quantity": "x_w", "values": {}, "status": "ok"}
    >>> validity_s(Setpoints(time_ns=0, valid_for_s=5.0, **told), 2_000_000_000, 60.0)
    3.0
    >>> validity_s(Alarm(source="n", severity="info", text="x", time_ns=0), 2_000_000_000, None)
    inf
    """
    limit_s = math.inf if limit_s is None else limit_s
    own_s: float | None = getattr(message, "valid_for_s", None)
    if own_s is None:
        return limit_s
    time_ns: int | None = getattr(message, "time_ns", None)
    age_s = 0.0 if time_ns is None else max(now_ns - time_ns, 0) / 1e9
    return min(limit_s, own_s - age_s)


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"JSON holds no {type(value).__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_packer = msgspec.msgpack.Encoder(enc_hook=_plain)


def pack_messages(messages: Sequence[Message]) -> bytes:
    """Messages as one array of MessagePack, which unlike JSON knows NaN and infinity."""
    return _packer.encode(list(messages))


def encode_message(message: Message) -> bytes:
    """A message as JSON, its meaning in the key `type`.

    >>> encode_message(Alarm(source="n", severity="info", text="x", time_ns=1))[:15]
    b'{"type":"alarm"'
    """
    return _encoder.encode(message)


def decode_message(payload: bytes | str, types: Sequence[type[Message]]) -> Message:
    """The message in a JSON text, one of `types`. Raises msgspec.ValidationError or msgspec.DecodeError."""
    union: Any = types[0]
    for each in types[1:]:
        union = union | each
    decoded: Message = msgspec.json.decode(payload, type=union)
    return decoded


BUILT_IN_MESSAGES: tuple[type[Message], ...] = (
    FrequencyEvent,
    Crossing,
    InertiaEstimate,
    SystemInertia,
    Setpoints,
    ShadowSetpoints,
    Forecast,
    DispatchPlan,
    FlexRequest,
    FlexResponse,
    FlexOffer,
    LinkStatus,
    LinkQosRequest,
    Policy,
    ServiceRequest,
    Alarm,
    DeadLetter,
)
"""The message types that edgeflex-flow itself defines and reads from a bus; `EventWindow` stays within a flow."""
