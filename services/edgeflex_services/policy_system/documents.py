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
from edgeflex_flow.units import UNITS, column_unit, names_its_unit, parse_quantity

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$(?!\n)"
CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)"
"""In Python, `$` alone lets a newline follow."""

QUANTITY = re.compile(r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*([^\s\d].*?)\s*$")

Name: TypeAlias = Annotated[str, Meta(pattern=NAME, max_length=64, description="Letters, digits, `_`, `.` and `-`.")]
Line: TypeAlias = Annotated[str, Meta(max_length=400)]
Pattern: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=200, description="A name, in which `*` stands for any.")
]
Clock: TypeAlias = Annotated[str, Meta(pattern=CLOCK, description="Time of day, HH:MM.")]
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Weekday: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Number: TypeAlias = Annotated[float, Meta(ge=-1e15, le=1e15)]
Quantity: TypeAlias = Number | Annotated[str, Meta(max_length=60)]
"""A number for what has no unit, else a text with it: `0.02 Hz/s`."""
Value: TypeAlias = Quantity | Line | Annotated[list[Line], Meta(max_length=200)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all parts of a policy: a key that nobody knows is an error, never a silent no."""

    def problems(self) -> Iterator[tuple[str, str]]:
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

    def problems(self) -> Iterator[tuple[str, str]]:
        if not names_its_unit(self.quantity):
            yield "quantity", f"'{self.quantity}' does not end in a unit, as in rocof_hz_per_s or voltage_pu"
            return
        if self.above is None and self.below is None:
            yield "above", "a limit is missing: `above` or `below`"
        for key in ("above", "below"):
            limit = getattr(self, key)
            try:
                if limit is not None:
                    self.limit(limit)
            except ValueError as error:
                yield key, str(error)
        try:
            if self.max_age_s <= 0:
                yield "max_age", "must be more than 0 s"
        except ValueError as error:
            yield "max_age", str(error)

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

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.since is None) != (self.until is None):
            yield "since", "`since` and `until` go together"
        elif self.since is not None and self.since == self.until:
            yield "until", "the same as `since`: the time between them is empty"
        yield from _moment_problems(self, "begins", "ends")
        if self.begins is not None and self.ends is not None and self.ends <= self.begins:
            yield "ends", "must be after `begins`"
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield "timezone", f"'{self.timezone}' is no time zone, such as Europe/Berlin"
        yield from _within("state", self.state)


class RunService(_Part, frozen=True, kw_only=True, tag_field="do", tag="run_service"):
    """Have a service run: a `service_request` goes out on the databus."""

    service: Annotated[Name, Meta(description="Such as inertia_estimation.")]
    hold_off: Annotated[Quantity, Meta(description="Not again for this asset before.")] = "60s"

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            if self.hold_off_s < 0:
                yield "hold_off", "must not be negative"
        except ValueError as error:
            yield "hold_off", str(error)

    @property
    def hold_off_s(self) -> float:
        return seconds_of(self.hold_off)


class RevokeAccess(_Part, frozen=True, kw_only=True, tag_field="do", tag="revoke_access"):
    """Refuse a user all access from now on, tokens that are out included, until a person allows it again."""

    user: Annotated[Name | None, Meta(description="Whom; who caused the event if not given.")] = None


class ReturnData(_Part, frozen=True, kw_only=True, tag_field="do", tag="return_data"):
    """Answer a request with the newest values of these quantities of its asset."""

    quantities: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=100)]


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

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.effect == "act" and self.then is None:
            yield "then", "a rule that acts says what it does: run_service, revoke_access or return_data"
        if self.effect == "deny" and isinstance(self.then, RunService | ReturnData):
            yield "then", "what denies may revoke access, and nothing else"
        if self.effect == "permit" and isinstance(self.then, RevokeAccess):
            yield "then", "what permits cannot revoke access"
        yield from _within("when", self.when)
        yield from _within("then", self.then)


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

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _moment_problems(self, "valid_from", "valid_until")
        if self.valid_from is not None and self.valid_until is not None and self.valid_until <= self.valid_from:
            yield "valid_until", "must be after `valid_from`"
        names = [rule.name for rule in self.rules]
        for at, name in enumerate(names):
            if name in names[:at]:
                yield f"rules[{at}].name", f"'{name}' is the name of another rule"
        yield from _within("rules", self.rules)


class _Bounded(Document, frozen=True, kw_only=True):
    fields: Annotated[dict[Name, Quantity], Meta(max_length=100, description="By name: `0.02 Hz/s`, or a number.")] = {}

    def field_values(self) -> dict[str, Any]:
        return dict(self.fields)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from quantity_problems("fields", self.fields)


class OperationalBounds(_Bounded, frozen=True, kw_only=True, tag="operational_bounds"):
    """Limits of an asset or of a controller, which running flows keep to."""

    kind = "operational_bounds"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.fields:
            yield "fields", "without a field it bounds nothing"


class Trigger(_Bounded, frozen=True, kw_only=True, tag="trigger"):
    """When a service is to run: thresholds for flows, and rules for the event service."""

    kind = "trigger"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.fields and not self.rules:
            yield "rules", "a trigger has thresholds in `fields`, or rules"


class DataManagementFields(_Part, frozen=True, kw_only=True):
    """Where data comes from."""

    source: Annotated[Line, Meta(description="Address of the source, such as https://host/path or mqtts://host.")] = ""
    topic: Annotated[Line, Meta(description="Topic or path.")] = ""
    topics: Annotated[tuple[Line, ...], Meta(max_length=100, description="Several topics.")] = ()
    variables: Annotated[tuple[Line, ...], Meta(max_length=200, description="Names of what is read there.")] = ()
    rows: Annotated[Line, Meta(description="Where in an answer the rows stand.")] = ""
    period: Annotated[Quantity | None, Meta(description="How often it is asked.")] = None


class DataManagement(Document, frozen=True, kw_only=True, tag="data_management"):
    """Which source, topic and variables a service reads, and who may ask for data."""

    kind = "data_management"
    fields: DataManagementFields = DataManagementFields()

    def field_values(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self.fields))

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.fields == DataManagementFields() and not self.rules:
            yield "fields", "it says where data comes from, or has rules about who may ask for it"
        yield from _time_problem("fields.period", self.fields.period)


class FlexibilityFields(_Part, frozen=True, kw_only=True):
    """How flexibility is asked for and offered."""

    endpoint: Annotated[Line, Meta(description="Where offers are sent.")] = ""
    max_duration: Annotated[Quantity | None, Meta(description="Longest duration of an offer.")] = None
    min_duration: Annotated[Quantity | None, Meta(description="Shortest duration of an offer.")] = None
    window_begin: Annotated[Quantity | None, Meta(description="Offers begin after this time of day UTC: `6 h`.")] = None
    window_end: Annotated[Quantity | None, Meta(description="Offers end before this time of day UTC: `22.5 h`.")] = None
    accept_within: Annotated[Quantity | None, Meta(description="The market accepts or rejects within this time.")] = (
        None
    )
    max_power: Annotated[Quantity | None, Meta(description="Largest power of an offer.")] = None
    price_min: Annotated[Quantity | None, Meta(description="Lowest price, such as `0 EUR/MWh`.")] = None
    price_max: Annotated[Quantity | None, Meta(description="Highest price.")] = None
    template: Annotated[dict[str, Any], Meta(max_length=40, description="A FlexOffer that new ones begin with.")] = {}


class Flexibility(Document, frozen=True, kw_only=True, tag="flexibility"):
    """The template of FlexOffers, where they go, and within which times."""

    kind = "flexibility"
    fields: FlexibilityFields

    def field_values(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.to_builtins(self.fields).items() if value is not None}

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        fields = self.fields
        if (fields.window_begin is None) != (fields.window_end is None):
            yield "fields.window_begin", "`window_begin` and `window_end` go together"
        for name, unit in (
            ("max_duration", "s"),
            ("min_duration", "s"),
            ("window_begin", "s"),
            ("window_end", "s"),
            ("accept_within", "s"),
            ("max_power", "W"),
            ("price_min", "EUR/MWh"),
            ("price_max", "EUR/MWh"),
        ):
            value = getattr(fields, name)
            if value is not None:
                yield from _unit_problem(f"fields.{name}", value, unit)


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
    """A document from JSON, or from what was read of it. Raises DocumentError."""
    try:
        if isinstance(data, bytes):
            document: AnyDocument = msgspec.json.decode(data, type=AnyDocument)
        else:
            document = msgspec.convert(data, type=AnyDocument)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").lstrip(".")
        if place == "kind" or "`kind`" in text:
            text += f"; known: {', '.join(KINDS)}"
        raise DocumentError(((place, text),)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError((("", f"no JSON: {error}"),)) from error
    found = tuple(document.problems())
    if found:
        raise DocumentError(found)
    return document


def schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema of the documents of a kind."""
    return msgspec.json.schema(KINDS[kind])


def quantity_problems(place: str, fields: Mapping[str, Quantity]) -> Iterator[tuple[str, str]]:
    """Texts that are no number with a unit that anybody knows."""
    for name, value in fields.items():
        if isinstance(value, str):
            match = QUANTITY.match(value)
            if match is None or match[1] not in UNITS:
                yield (
                    f"{place}.{name}",
                    f"'{value}' is no quantity: a number with its unit, such as '0.02 Hz/s' or '5 kW'",
                )


def seconds_of(time: Quantity) -> float:
    """A time in seconds, which a number without a unit is already. Raises ValueError."""
    return parse_quantity(time, "s") if isinstance(time, str) else float(time)


def time_ns(moment: datetime | None) -> int | None:
    """UTC nanoseconds of a moment.

    >>> time_ns(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000000
    """
    if moment is None:
        return None
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def _moment_problems(part: _Part, *names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        moment = getattr(part, name)
        if moment is not None and not EARLIEST <= moment < LATEST:
            yield name, f"lies outside of {EARLIEST.year} to {LATEST.year}"


def _within(place: str, part: object) -> Iterator[tuple[str, str]]:
    parts = [(f"{place}[{at}]", each) for at, each in enumerate(part)] if isinstance(part, tuple) else [(place, part)]
    for where, each in parts:
        if isinstance(each, _Part):
            for inner, text in each.problems():
                yield f"{where}.{inner}", text


def _unit_problem(place: str, value: Quantity, unit: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str):
        yield place, f"write it with its unit, such as '{value:g} {unit}'"
        return
    try:
        parse_quantity(value, unit)
    except ValueError as error:
        yield place, str(error)


def _time_problem(place: str, value: Quantity | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield from _unit_problem(place, value, "s")
