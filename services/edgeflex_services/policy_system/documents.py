"""What a policy says: its kinds, each with a schema of its own, and the rules by which decisions are made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from edgeflex_flow.messages import PolicyKind
from edgeflex_flow.policy import CLOCK, field_values, minutes_of
from edgeflex_flow.units import UNITS, column_unit, names_its_unit, parse_quantity
from edgeflex_services.policy_system.lenient import Problem, UnreadError, read_leniently, shown, told

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$(?!\n)"
"""In Python, `$` alone lets a newline follow."""
NAMES = re.compile(r"[A-Za-z0-9_.*-]+")
"""A pattern that names can match."""

QUANTITY = re.compile(r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*([^\s\d].*?)\s*$")

Name: TypeAlias = Annotated[
    str, Meta(pattern=NAME, max_length=64, description="Letters, digits, `_`, `.` and `-`.", examples=["feeder_3"])
]
Line: TypeAlias = Annotated[str, Meta(max_length=400)]
Pattern: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=200, description="A name, in which `*` stands for any.")
]
Clock: TypeAlias = Annotated[str, Meta(pattern=CLOCK, description="Time of day, HH:MM.", examples=["06:00"])]
DayTime: TypeAlias = Annotated[str, Meta(max_length=60, examples=["06:00"], extra_json_schema={"pattern": CLOCK})]
"""The same, of which versions from before may say something else."""
MINUTES_OF_DAY = 24 * 60
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Weekday: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Number: TypeAlias = Annotated[float, Meta(ge=-1e15, le=1e15)]
Quantity: TypeAlias = Number | Annotated[str, Meta(max_length=60)]
"""A number for what has no unit, else a text with it: `0.02 Hz/s`."""
Value: TypeAlias = Quantity | Line | Annotated[list[Line], Meta(max_length=200)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all parts of a policy: a key that nobody knows is an error, never a silent no."""

    def problems(self) -> Iterator[Problem]:
        """What no type can say: place within the part and what is wrong there."""
        return iter(())


EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
"""What int64 nanoseconds can say, and a sane clock."""


class StateCondition(_Part, frozen=True, kw_only=True):
    """The measured state: the newest value of a quantity lies beyond a limit."""

    quantity: Annotated[Name, Meta(description="A column with its unit, such as rocof_hz_per_s.")]
    above: Annotated[Quantity | None, Meta(description="Holds when the value is above this.")] = None
    below: Annotated[Quantity | None, Meta(description="Holds when the value is below this.")] = None
    magnitude: Annotated[bool, Meta(description="Look at the value without its sign.")] = False
    max_age: Annotated[Quantity, Meta(description="How old the value may be; older ones say nothing.")] = "10s"

    def problems(self) -> Iterator[Problem]:
        yield from told(self._limit_problems(), _time_problem("max_age", self.max_age, above=0.0))

    def _limit_problems(self) -> Iterator[Problem]:
        if not names_its_unit(self.quantity):
            yield "quantity", f"'{self.quantity}' does not end in a unit, as in rocof_hz_per_s or voltage_pu"
            return
        if self.above is None and self.below is None:
            yield "above", "a limit is missing: `above` or `below`"
        limits: dict[str, float] = {}
        for key in ("above", "below"):
            limit = getattr(self, key)
            try:
                if limit is not None:
                    limits[key] = self.limit(limit)
            except ValueError as error:
                yield key, str(error)
            except UnreadError:
                continue
        if len(limits) == 2 and limits["above"] >= limits["below"]:
            yield "below", f"must be more than `above`, or it never holds; got above {self.above}, below {self.below}"
        if self.magnitude and limits.get("below", 1.0) <= 0:
            yield "below", f"must be more than 0: no value without its sign is below; got '{self.below}'"

    def limit(self, value: Quantity) -> float:
        """A limit in the unit of the quantity. Raises ValueError."""
        unit = column_unit(self.quantity)
        if unit is not None and isinstance(value, str):
            return parse_quantity(value, unit.symbol)
        if unit is None and isinstance(value, float):
            return value
        wanted = "has no unit: give a number" if unit is None else f"has the unit {unit.symbol}: write it"
        raise ValueError(f"'{self.quantity}' {wanted}; got '{value}'")

    @property
    def max_age_s(self) -> float:
        return seconds_of(self.max_age)


class When(_Part, frozen=True, kw_only=True):
    """Conditions, all of which must hold; one that is left out holds always."""

    actions: Annotated[
        tuple[Name, ...], Meta(max_length=20, description="What is asked or happened, one of these.")
    ] = ()
    users: Annotated[tuple[Pattern, ...], Meta(max_length=200, description="Who asks, one of these.")] = ()
    groups: Annotated[tuple[Name, ...], Meta(max_length=200, description="Groups, one of which has who asks.")] = ()
    assets: Annotated[tuple[Pattern, ...], Meta(max_length=200, description="Which asset, one of these.")] = ()
    begins: Annotated[Moment | None, Meta(description="Not before this moment.")] = None
    ends: Annotated[Moment | None, Meta(description="Before this moment.")] = None
    since: Annotated[Clock | None, Meta(description="Each day from this time on; over midnight if after `until`.")] = (
        None
    )
    until: Annotated[Clock | None, Meta(description="Each day before this time.")] = None
    days: Annotated[tuple[Weekday, ...], Meta(max_length=7, description="On these days, by the day it began.")] = ()
    timezone: Annotated[str, Meta(max_length=64, description="Of `since`, `until` and `days`.")] = "UTC"
    state: Annotated[tuple[StateCondition, ...], Meta(max_length=20)] = ()

    def problems(self) -> Iterator[Problem]:
        yield from told(
            self._clock_problems(),
            _moment_problems(self, "begins", "ends"),
            self._zone_problems(),
            _name_pattern_problems("users", self.users),
            _name_pattern_problems("assets", self.assets),
            _within("state", self.state),
        )

    def _clock_problems(self) -> Iterator[Problem]:
        if (self.since is None) != (self.until is None):
            yield "since", "`since` and `until` go together"
        elif self.since is not None and self.since == self.until:
            yield "until", f"the same as `since`: the time between them is empty; got '{self.until}'"

    def _zone_problems(self) -> Iterator[Problem]:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield "timezone", f"'{self.timezone}' is no time zone, such as Europe/Berlin"


class RunService(_Part, frozen=True, kw_only=True, tag_field="do", tag="run_service"):
    """Have a service run: a `service_request` goes out on the databus."""

    service: Annotated[Name, Meta(description="Such as inertia_estimation.")]
    hold_off: Annotated[Quantity, Meta(description="Not again for this asset before.")] = "60s"

    def problems(self) -> Iterator[Problem]:
        yield from _time_problem("hold_off", self.hold_off, least=0.0)

    @property
    def hold_off_s(self) -> float:
        return seconds_of(self.hold_off)


class RevokeAccess(_Part, frozen=True, kw_only=True, tag_field="do", tag="revoke_access"):
    """Refuse a user all access from now on, tokens that are out included, until a person allows it again."""

    user: Annotated[Name | None, Meta(description="Whom; who caused the event if not given.")] = None


class ReturnData(_Part, frozen=True, kw_only=True, tag_field="do", tag="return_data"):
    """Answer a request with the newest values of these quantities of its asset."""

    quantities: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=100)]

    def problems(self) -> Iterator[Problem]:
        yield from _name_pattern_problems("quantities", self.quantities)


Action: TypeAlias = RunService | RevokeAccess | ReturnData


class Rule(_Part, frozen=True, kw_only=True):
    """What follows when conditions hold. Of a policy's rules the first that holds decides."""

    name: Name
    effect: Annotated[
        Literal["permit", "deny", "act"],
        Meta(description="permit or deny what is asked; act: only do what `then` says."),
    ]
    when: When = When()
    then: Annotated[Action | None, Meta(description="What is done.")] = None
    about: Line = ""

    def problems(self) -> Iterator[Problem]:
        yield from told(self._action_problems(), _within("when", self.when), _within("then", self.then))

    def _action_problems(self) -> Iterator[Problem]:
        if self.effect == "act" and self.then is None:
            yield "then", "a rule that acts says what it does: run_service, revoke_access or return_data"
        if self.effect == "deny" and isinstance(self.then, RunService | ReturnData):
            yield "then", "what denies may revoke access, and nothing else"
        if self.effect == "permit" and isinstance(self.then, RevokeAccess):
            yield "then", "what permits cannot revoke access"


Rules: TypeAlias = Annotated[tuple[Rule, ...], Meta(max_length=100)]


class Document(_Part, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the kinds of policies."""

    kind: ClassVar[PolicyKind]
    about: Annotated[str, Meta(max_length=2000, description="What it is for, in words.")] = ""
    asset_id: Annotated[str, Meta(max_length=64, pattern=r"^$|" + NAME, description="The asset it is for, if one.")] = (
        ""
    )
    valid_from: Annotated[Moment | None, Meta(description="It says nothing before this moment.")] = None
    valid_until: Annotated[Moment | None, Meta(description="It says nothing from this moment on.")] = None
    rules: Rules = ()

    def field_values(self) -> dict[str, Any]:
        """What parameters of flows can be bound to."""
        raise NotImplementedError

    def problems(self) -> Iterator[Problem]:
        yield from told(
            _moment_problems(self, "valid_from", "valid_until"), self._name_problems(), _within("rules", self.rules)
        )

    def _name_problems(self) -> Iterator[Problem]:
        names = [rule.name for rule in self.rules]
        for at, name in enumerate(names):
            if name in names[:at]:
                yield f"rules[{at}].name", f"'{name}' is the name of another rule"


class _Bounded(Document, frozen=True, kw_only=True):
    fields: Annotated[dict[Name, Quantity], Meta(max_length=100, description="By name: `0.02 Hz/s`, or a number.")] = {}
    choices: Annotated[
        dict[Name, Annotated[str, Meta(pattern=NAME, examples=["QOS_M"])]],
        Meta(max_length=100, description="By name: a word that flows choose by, such as the best profile of a link."),
    ] = {}

    def field_values(self) -> dict[str, Any]:
        return {**self.fields, **self.choices}

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from told(quantity_problems("fields", self.fields), self._order_problems(), self._twice())

    def _twice(self) -> Iterator[Problem]:
        for name in self.choices:
            if name in self.fields:
                yield f"choices.{name}", f"'{name}' is among the fields already"

    def _order_problems(self) -> Iterator[Problem]:
        """Of what is called `voltage_min` and `voltage_max`, or `lowest_power` and `highest_power`."""
        for low, high in (("min", "max"), ("lowest", "highest")):
            for name in self.fields:
                other = "_".join(high if part == low else part for part in name.split("_"))
                if other != name and other in self.fields:
                    yield from told(_pair_problems(f"fields.{name}", self.fields[name], other, self.fields[other]))


class OperationalBounds(_Bounded, frozen=True, kw_only=True, tag="operational_bounds"):
    """Limits of an asset or of a controller, which running flows keep to."""

    kind = "operational_bounds"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.fields and not self.choices:
            yield "fields", "without a field it bounds nothing"


class Trigger(_Bounded, frozen=True, kw_only=True, tag="trigger"):
    """When a service is to run: thresholds for flows, and rules for the event service."""

    kind = "trigger"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.fields and not self.choices and not self.rules:
            yield "rules", "a trigger has thresholds in `fields`, or rules"


class DataManagementFields(_Part, frozen=True, kw_only=True):
    """Where data comes from."""

    source: Annotated[Line, Meta(description="Address of the source, such as https://host/path or mqtts://host.")] = ""
    topic: Annotated[Line, Meta(description="Topic or path.", examples=["edgeflex/+/samples"])] = ""
    topics: Annotated[tuple[Line, ...], Meta(max_length=100, description="Several topics.")] = ()
    variables: Annotated[tuple[Line, ...], Meta(max_length=200, description="Names of what is read there.")] = ()
    rows: Annotated[Line, Meta(description="Where in an answer the rows stand.")] = ""
    period: Annotated[Quantity | None, Meta(description="How often it is asked, such as `15 min`.")] = None

    def problems(self) -> Iterator[Problem]:
        yield from told(self._source_problems(), _unit_problem("period", self.period, "s", above=0.0))

    def _source_problems(self) -> Iterator[Problem]:
        if "*" in self.source:
            yield "source", f"an address names one host, without `*`; got {shown(self.source)}"


class DataManagement(Document, frozen=True, kw_only=True, tag="data_management"):
    """Which source, topic and variables a service reads, and who may ask for data."""

    kind = "data_management"
    fields: DataManagementFields = DataManagementFields()

    def field_values(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self.fields))

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from told(self._emptiness(), _within("fields", self.fields))

    def _emptiness(self) -> Iterator[Problem]:
        if self.fields == DataManagementFields() and not self.rules:
            yield "fields", "it says where data comes from, or has rules about who may ask for it"


class FlexibilityFields(_Part, frozen=True, kw_only=True):
    """How flexibility is asked for and offered."""

    endpoint: Annotated[
        Line,
        Meta(
            description="Path at which the market takes offers and tells what became of them.",
            examples=["/api/v1/edgeflex/offers"],
        ),
    ] = ""
    max_duration: Annotated[Quantity | None, Meta(description="Longest duration of an offer.", examples=["4 h"])] = None
    min_duration: Annotated[
        Quantity | None, Meta(description="Shortest duration of an offer.", examples=["15 min"])
    ] = None
    window_begin: Annotated[DayTime | None, Meta(description="Each day from this time on (UTC): `06:00`.")] = None
    window_end: Annotated[
        DayTime | None, Meta(description="Each day until this time (UTC): `22:30`; over midnight if before the begin.")
    ] = None
    accept_within: Annotated[
        Quantity | None, Meta(description="The market accepts or rejects within this time.", examples=["30 s"])
    ] = None
    assign_within: Annotated[
        Quantity | None, Meta(description="The market assigns within this time.", examples=["2 min"])
    ] = None
    start_within: Annotated[
        Quantity | None, Meta(description="How much later than asked an offer may begin.", examples=["1 h"])
    ] = None
    min_power: Annotated[
        Quantity | None, Meta(description="Less power than this is not offered.", examples=["1 kW"])
    ] = None
    max_power: Annotated[Quantity | None, Meta(description="Largest power of an offer.", examples=["50 kW"])] = None
    price_min: Annotated[
        Quantity | None, Meta(description="Most that is paid for energy consumed, such as `0 EUR/MWh`.")
    ] = None
    price_max: Annotated[
        Quantity | None, Meta(description="Least that is taken for energy produced.", examples=["100 EUR/MWh"])
    ] = None

    def problems(self) -> Iterator[Problem]:
        yield from told(
            self._window_problems(),
            _unit_problem("max_duration", self.max_duration, "s", above=0.0),
            _unit_problem("min_duration", self.min_duration, "s", least=0.0),
            _unit_problem("accept_within", self.accept_within, "s", above=0.0),
            _unit_problem("assign_within", self.assign_within, "s", above=0.0),
            _unit_problem("start_within", self.start_within, "s", above=0.0),
            _unit_problem("min_power", self.min_power, "W", least=0.0),
            _unit_problem("max_power", self.max_power, "W", above=0.0),
            _unit_problem("price_min", self.price_min, "EUR/MWh"),
            _unit_problem("price_max", self.price_max, "EUR/MWh"),
            _pair_problems("min_duration", self.min_duration, "max_duration", self.max_duration),
            _pair_problems("accept_within", self.accept_within, "assign_within", self.assign_within),
            _pair_problems("assign_within", self.assign_within, "start_within", self.start_within),
            _pair_problems("min_power", self.min_power, "max_power", self.max_power),
            _pair_problems("price_min", self.price_min, "price_max", self.price_max),
            self._length_problems(),
        )

    def _window_problems(self) -> Iterator[Problem]:
        if (self.window_begin is None) != (self.window_end is None):
            yield "window_begin", "`window_begin` and `window_end` go together"
        for name in ("window_begin", "window_end"):
            time = getattr(self, name)
            if time is not None and not re.match(CLOCK, time):
                yield name, f"write the time of day (UTC) as hours and minutes, such as '06:00'; got {shown(time)}"
        if self.window_begin is not None and self.window_begin == self.window_end:
            text = "the same as `window_begin`: the window is empty; for the whole day leave both out"
            yield "window_end", f"{text}; got {shown(self.window_end)}"

    def _length_problems(self) -> Iterator[Problem]:
        """An offer that lasts longer than its window can never be made."""
        if self.min_duration is None or self.window_begin is None or self.window_end is None:
            return
        times = (self.window_begin, self.window_end)
        if not all(re.match(CLOCK, time) for time in times) or not isinstance(self.min_duration, str):
            return
        begin, end = (minutes_of(time) for time in times)
        length_min = (end - begin) % MINUTES_OF_DAY or MINUTES_OF_DAY
        shortest_s = _size(self.min_duration)
        if shortest_s is not None and shortest_s > length_min * 60:
            text = f"longer than the window from {self.window_begin} to {self.window_end}"
            yield "min_duration", f"{text}; got {shown(self.min_duration)}"


class Flexibility(Document, frozen=True, kw_only=True, tag="flexibility"):
    """The terms of FlexOffers, where they go, and within which times."""

    kind = "flexibility"
    fields: FlexibilityFields

    def field_values(self) -> dict[str, Any]:
        return field_values(self.kind, msgspec.to_builtins(self.fields))

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from _within("fields", self.fields)


class SharingFields(_Part, frozen=True, kw_only=True):
    """What is shared."""

    variables: Annotated[
        tuple[Pattern, ...],
        Meta(max_length=200, description="Quantities beyond which no rule gives any out; empty: no such bound."),
    ] = ()


class Sharing(Document, frozen=True, kw_only=True, tag="sharing"):
    """With whom data is shared: rules that permit or deny; what no rule permits is denied."""

    kind = "sharing"
    fields: SharingFields = SharingFields()

    def field_values(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self.fields))

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.rules:
            yield "rules", "without a rule that permits it, nothing is shared with anybody"


AnyDocument: TypeAlias = OperationalBounds | Trigger | DataManagement | Flexibility | Sharing
KINDS: Mapping[str, type[Document]] = {
    each.kind: each for each in (OperationalBounds, Trigger, DataManagement, Flexibility, Sharing)
}


class DocumentError(ValueError):
    """A document that is no policy: places and what is wrong there."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{place}: {text}" if place else text for place, text in problems))
        self.problems = problems


def read_document(data: bytes | Mapping[str, Any]) -> AnyDocument:
    """A document from JSON, or from what was read of it. Raises DocumentError, which tells all that is wrong."""
    try:
        told_of = msgspec.json.decode(data) if isinstance(data, bytes) else data
        document, found = read_leniently(told_of, AnyDocument)
        found += _told_by(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError((("", f"no JSON: {error}"),)) from error
    if found:
        raise DocumentError(tuple(found))
    read: AnyDocument = document
    return read


def _told_by(document: Any) -> list[Problem]:
    return list(told(document.problems())) if isinstance(document, Document) else []


def schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema of the documents of a kind."""
    return msgspec.json.schema(KINDS[kind])


def quantity_problems(place: str, fields: Mapping[str, Quantity]) -> Iterator[Problem]:
    """Texts that are no number with a unit that anybody knows."""
    for name, value in fields.items():
        if isinstance(value, str):
            match = QUANTITY.match(value)
            if match is None or match[1] not in UNITS:
                text = "is no quantity: a number with its unit, such as '0.02 Hz/s' or '5 kW'"
                yield f"{place}.{name}", f"{shown(value)} {text}"


def seconds_of(time: Quantity) -> float:
    """A time in seconds, which a number without a unit is already. Raises ValueError."""
    return parse_quantity(time, "s") if isinstance(time, str) else float(time)


def _moment_problems(part: _Part, first: str, last: str) -> Iterator[Problem]:
    begin, end = getattr(part, first), getattr(part, last)
    for name, moment in ((first, begin), (last, end)):
        if isinstance(moment, datetime) and not EARLIEST <= moment < LATEST:
            yield name, f"lies outside of {EARLIEST.year} to {LATEST.year}; got {moment.isoformat()}"
    if begin is not None and end is not None and end <= begin:
        yield last, f"must be after `{first}`; got {begin.isoformat()} to {end.isoformat()}"


def _within(place: str, part: object) -> Iterator[Problem]:
    parts = [(f"{place}[{at}]", each) for at, each in enumerate(part)] if isinstance(part, tuple) else [(place, part)]
    for where, each in parts:
        if isinstance(each, _Part):
            for inner, text in told(each.problems()):
                yield f"{where}.{inner}", text


def _name_pattern_problems(place: str, patterns: tuple[str, ...]) -> Iterator[Problem]:
    for at, pattern in enumerate(patterns):
        if isinstance(pattern, str) and not NAMES.fullmatch(pattern):
            text = "matches no name: letters, digits, `_`, `.` and `-`, with `*` for any of them"
            yield f"{place}[{at}]", f"{text}; got {shown(pattern)}"


def _unit_problem(
    place: str, value: Quantity | None, unit: str, *, least: float | None = None, above: float | None = None
) -> Iterator[Problem]:
    if isinstance(value, str):
        yield from _size_problem(place, value, unit, least=least, above=above)
    elif value is not None:
        yield place, f"write it with its unit, such as '{value:g} {unit}'"


def _time_problem(
    place: str, value: Quantity, *, least: float | None = None, above: float | None = None
) -> Iterator[Problem]:
    """Of a time that is in seconds without a unit."""
    yield from _size_problem(place, value if isinstance(value, str) else f"{value} s", "s", least=least, above=above)


def _size_problem(place: str, value: str, unit: str, *, least: float | None, above: float | None) -> Iterator[Problem]:
    try:
        size = parse_quantity(value, unit)
    except ValueError as error:
        yield place, str(error)
        return
    if above is not None and size <= above:
        yield place, f"must be more than {above:g} {unit}; got {shown(value)}"
    if least is not None and size < least:
        yield place, f"must not be less than {least:g} {unit}; got {shown(value)}"


def _pair_problems(place: str, low: Quantity | None, other: str, high: Quantity | None) -> Iterator[Problem]:
    """A lower limit above its upper one. Tells nothing of two that cannot be compared."""
    sizes = [_size(each) if isinstance(each, str) else each for each in (low, high)]
    units = [_dimension(each) for each in (low, high)]
    if units[0] == units[1] and sizes[0] is not None and sizes[1] is not None and sizes[0] > sizes[1]:
        yield place, f"must not be above `{other}`; got {shown(low)} and {shown(high)}"


def _size(value: str) -> float | None:
    """A quantity in the base unit of its dimension; None for what is none."""
    match = QUANTITY.match(value)
    unit = UNITS.get(match[1]) if match else None
    return None if unit is None else parse_quantity(value, unit.symbol) * unit.factor


def _dimension(value: Quantity | None) -> str:
    match = QUANTITY.match(value) if isinstance(value, str) else None
    unit = UNITS.get(match[1]) if match else None
    return unit.dimension if unit else ""
