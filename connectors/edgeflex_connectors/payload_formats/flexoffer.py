"""`flexoffer`: FlexOffers as the edgeFLEX platform, INEA's KIBERNet and GOFLEX write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgeflex_connectors.payload_formats.codec import (
    BadFieldError,
    FormatConfig,
    MessageFormat,
    NoSamplesDecoder,
    NoSamplesEncoder,
    PayloadFormat,
    bad_payload,
    quoted,
)
from edgeflex_connectors.payload_formats.times import iso_to_ns
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.flexoffer import NEXT, shown_time
from edgeflex_flow.messages import FlexOffer, FlexSchedule, FlexScheduleSlice, FlexSlice, FlexState, Message
from edgeflex_flow.units import NS_PER_S

Dialect: TypeAlias = Literal["edgeflex", "inea", "goflex"]
Sign: TypeAlias = Literal["production", "consumption"]


class FlexOfferFormat(FormatConfig, frozen=True, kw_only=True, tag="flexoffer"):
    """FlexOffers, one a payload, in a dialect:

    - `edgeflex`: the FlexOffer specification with the convention of this project: kWh, positive is production.
    - `inea`: INEA's, as KIBERNet has it: `{"flexOffer": [...]}`, whole numbers as ids, times to the second,
      `tariffConstraint`; positive is production.
    - `goflex`: the agents of GOFLEX: states with a capital, `lower` and `upper`, `acceptanceBeforeTime`, times to the
      millisecond; positive is consumption.

    All of these shapes are read in every dialect, as are amounts that are texts, bounds the wrong way round, and both
    names of prices; only what a positive energy is must be known beforehand. The specification says both, so
    `positive` may say it for a market that has another sign than its dialect.
    """

    dialect: Annotated[Dialect, Meta(description="`edgeflex`, `inea` or `goflex`.")] = "edgeflex"
    positive: Annotated[
        Sign | None, Meta(description="What a positive energy is, where that is not the dialect's own sign.")
    ] = None

    @property
    def sign(self) -> float:
        """Factor between energies of the payload and ours."""
        production = self.dialect != "goflex" if self.positive is None else self.positive == "production"
        return 1.0 if production else -1.0


class _Style(NamedTuple):
    """How a dialect writes what all of them mean."""

    wraps: bool
    """In `{"flexOffer": [...]}`."""
    whole_ids: bool
    capital: bool
    digits: int
    """Of parts of a second."""
    zone: str
    accept: str
    bounds: tuple[str, str]
    prices: tuple[str, str, str]
    price: str


_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,39}")
_BOUNDS: Final = ("lowerBound", "upperBound")
_TARIFFS: Final = ("tariffConstraint", "minTariff", "maxTariff")
_STYLES: Final[Mapping[Dialect, _Style]] = {
    "edgeflex": _Style(
        wraps=False,
        whole_ids=False,
        capital=False,
        digits=9,
        zone="Z",
        accept="acceptBeforeTime",
        bounds=_BOUNDS,
        prices=("priceConstraint", "minPrice", "maxPrice"),
        price="price",
    ),
    "inea": _Style(
        wraps=True,
        whole_ids=True,
        capital=True,
        digits=0,
        zone="Z",
        accept="acceptBeforeTime",
        bounds=_BOUNDS,
        prices=_TARIFFS,
        price="tariff",
    ),
    "goflex": _Style(
        wraps=False,
        whole_ids=False,
        capital=True,
        digits=3,
        zone="+0000",
        accept="acceptanceBeforeTime",
        bounds=("lower", "upper"),
        prices=_TARIFFS,
        price="tariff",
    ),
}
_STATES: Final[Mapping[str, FlexState]] = {
    **{str(name): name for name in NEXT},
    # GOFLEX: being executed.
    "inadaptation": "assigned",
    "adaptation": "assigned",
    "cancelled": "canceled",
}

# What is read ---------------------------------------------------------------------------------------------------------

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadFieldError)
_Number: TypeAlias = float | str
_Maybe: TypeAlias = _Number | None


class _Bounds(msgspec.Struct):
    lowerBound: _Maybe = None  # noqa: N815 - names of the specification, here and below
    upperBound: _Maybe = None  # noqa: N815
    lower: _Maybe = None
    upper: _Maybe = None


class _Prices(msgspec.Struct):
    minPrice: _Maybe = None  # noqa: N815
    maxPrice: _Maybe = None  # noqa: N815
    minTariff: _Maybe = None  # noqa: N815
    maxTariff: _Maybe = None  # noqa: N815


class _Slice(msgspec.Struct):
    energyConstraintList: list[_Bounds]  # noqa: N815
    minDuration: int | None = None  # noqa: N815
    maxDuration: int | None = None  # noqa: N815
    priceConstraint: _Prices | None = None  # noqa: N815
    tariffConstraint: _Prices | None = None  # noqa: N815


class _ScheduleSlice(msgspec.Struct):
    energyAmount: _Number  # noqa: N815
    duration: int | None = None
    price: _Maybe = None
    tariff: _Maybe = None


class _Schedule(msgspec.Struct):
    startTime: str  # noqa: N815
    scheduleSlices: list[_ScheduleSlice]  # noqa: N815
    updateId: int | None = None  # noqa: N815


class _Offer(msgspec.Struct):
    id: str | int
    state: str | None = None
    stateReason: str | None = None  # noqa: N815
    offeredById: str | int | None = None  # noqa: N815
    locationId: Any = None  # noqa: N815
    requestId: str | None = None  # noqa: N815
    flexOfferProfilType: str | None = None  # noqa: N815
    creationTime: str | None = None  # noqa: N815
    acceptBeforeTime: str | None = None  # noqa: N815
    acceptanceBeforeTime: str | None = None  # noqa: N815
    assignmentBeforeTime: str | None = None  # noqa: N815
    startAfterTime: str | None = None  # noqa: N815
    startBeforeTime: str | None = None  # noqa: N815
    endBeforeTime: str | None = None  # noqa: N815
    numSecondsPerInterval: int | None = None  # noqa: N815
    flexOfferProfileConstraints: list[_Slice] | None = None  # noqa: N815
    totalEnergyConstraint: _Bounds | None = None  # noqa: N815
    defaultSchedule: _Schedule | None = None  # noqa: N815
    flexOfferSchedule: _Schedule | None = None  # noqa: N815


class _Wrapped(msgspec.Struct):
    flexOffer: msgspec.Raw | UnsetType = UNSET  # noqa: N815


def decode_offers(config: FlexOfferFormat, payload: bytes) -> list[FlexOffer]:
    """All offers in a payload: an offer, an array of them, either of them under `flexOffer`. Raises BadMessageError.

    >>> body = b'[{"id":7,"state":"Accepted","offeredById":201}]'
    >>> [(each.id, each.state, each.offered_by) for each in decode_offers(FlexOfferFormat(dialect="inea"), body)]
    [('7', 'accepted', '201')]
    """
    try:
        return [_offer(config, each) for each in _objects(payload)]
    except _UNREADABLE as error:
        raise bad_payload(str(error), payload) from error


def decode_readable_offers(config: FlexOfferFormat, payload: bytes) -> tuple[list[FlexOffer], list[BadMessageError]]:
    """Like `decode_offers`, but an offer that cannot be read costs itself alone: those that can, and what is wrong with
    each of the others. Raises BadMessageError when it cannot be told where offers begin and end."""
    offers: list[FlexOffer] = []
    bad: list[BadMessageError] = []
    try:
        objects = _objects(payload)
    except _UNREADABLE as error:
        raise bad_payload(str(error), payload) from error
    for each in objects:
        try:
            offers.append(_offer(config, each))
        except _UNREADABLE as error:
            bad.append(bad_payload(str(error), each))
    return offers, bad


def _objects(payload: bytes, *, deeper: bool = True) -> list[bytes]:
    if payload.lstrip()[:1] == b"[":
        items = msgspec.json.decode(payload, type=list[msgspec.Raw])
        return [part for item in items for part in (_objects(bytes(item)) if deeper else [bytes(item)])]
    inner = msgspec.json.decode(payload, type=_Wrapped).flexOffer
    return [payload] if inner is UNSET or not deeper else _objects(bytes(inner), deeper=False)


def _offer(config: FlexOfferFormat, payload: bytes) -> FlexOffer:
    found = msgspec.json.decode(payload, type=_Offer)
    schedule = _schedule(config, found.flexOfferSchedule, "flexOfferSchedule")
    low, high = _bounds(config, found.totalEnergyConstraint or _Bounds(), "totalEnergyConstraint")
    return FlexOffer(
        id=_text(found.id) or _refuse("`id`: an offer has one"),
        state=_state(found.state, schedule),
        state_reason=found.stateReason or "",
        offered_by=_text(found.offeredById),
        location=_location(found.locationId),
        request_id=found.requestId or "",
        quantity=_quantity(found.flexOfferProfilType),
        created_ns=_time(found.creationTime, "creationTime"),
        accept_before_ns=_time(found.acceptBeforeTime or found.acceptanceBeforeTime, "acceptBeforeTime"),
        assign_before_ns=_time(found.assignmentBeforeTime, "assignmentBeforeTime"),
        start_after_ns=_time(found.startAfterTime, "startAfterTime"),
        start_before_ns=_time(found.startBeforeTime, "startBeforeTime"),
        end_before_ns=_time(found.endBeforeTime, "endBeforeTime"),
        interval_s=_count(found.numSecondsPerInterval, "numSecondsPerInterval", default=900, most=86_400),
        slices=tuple(
            _slice(config, each, f"flexOfferProfileConstraints[{place}]")
            for place, each in enumerate(found.flexOfferProfileConstraints or [])
        ),
        total_lower_kwh=low,
        total_upper_kwh=high,
        default_schedule=_schedule(config, found.defaultSchedule, "defaultSchedule"),
        schedule=schedule,
    )


def _refuse(text: str) -> Any:
    raise BadFieldError(text)


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _location(value: Any) -> str:
    """A text, a number, or GOFLEX's mapping from a name to coordinates."""
    if isinstance(value, Mapping):
        return next((str(name) for name in value), "")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _state(text: str | None, schedule: FlexSchedule | None) -> FlexState:
    if text is None:
        # KIBERNet gives schedules without a state.
        return "assigned" if schedule is not None else _refuse("`state`: nothing, and no schedule either")
    if text.lower() not in _STATES:
        _refuse(f"`state`: expected one of {', '.join(NEXT)}; got {quoted(text)}")
    return _STATES[text.lower()]


def _quantity(text: str | None) -> Any:
    known = {None: "active_energy", "activeEnergy": "active_energy", "reactiveEnergy": "reactive_energy"}
    return known.get(text) or _refuse(f"`flexOfferProfilType`: expected activeEnergy or reactiveEnergy; got {text!r}")


def _time(text: str | None, field: str) -> int | None:
    try:
        return iso_to_ns(text) if text else None
    except BadFieldError as error:
        raise BadFieldError(f"`{field}`: {error}") from error


def _count(value: int | None, field: str, *, default: int = 1, most: int = 2**31 - 1) -> int:
    if value is None:
        return default
    return value if 1 <= value <= most else _refuse(f"`{field}`: expected a whole number from 1 to {most}; got {value}")


def _number(value: _Maybe, field: str) -> float | None:
    if value is None:
        return None
    try:
        # Python also reads digits of other scripts, and underscores between digits.
        is_plain = not isinstance(value, str) or (value.isascii() and "_" not in value)
        number = float(value) if is_plain else math.nan
    except ValueError:
        number = math.nan
    return number if math.isfinite(number) else _refuse(f"`{field}`: expected a number; got {quoted(value)}")


def _bounds(config: FlexOfferFormat, found: _Bounds, field: str) -> tuple[float | None, float | None]:
    """Lower and upper, in our sign, the lower one first whatever stands where."""
    pair = [
        _number(found.lowerBound if found.lowerBound is not None else found.lower, f"{field}.lowerBound"),
        _number(found.upperBound if found.upperBound is not None else found.upper, f"{field}.upperBound"),
    ]
    low, high = [None if each is None else config.sign * each for each in pair]
    if config.sign < 0:
        low, high = high, low
    return (high, low) if low is not None and high is not None and low > high else (low, high)


def _slice(config: FlexOfferFormat, found: _Slice, field: str) -> FlexSlice:
    if len(found.energyConstraintList) != 1:
        # The specification does not say what several mean: alternatives, or parts of the slice.
        _refuse(f"`{field}.energyConstraintList`: one constraint a slice; got {len(found.energyConstraintList)}")
    low, high = _bounds(config, found.energyConstraintList[0], field)
    if low is None or high is None:
        _refuse(f"`{field}.energyConstraintList`: both bounds of a slice are needed")
    prices = found.priceConstraint or found.tariffConstraint or _Prices()
    least = _number(prices.minPrice if prices.minPrice is not None else prices.minTariff, f"{field}.minPrice")
    most = _number(prices.maxPrice if prices.maxPrice is not None else prices.maxTariff, f"{field}.maxPrice")
    shortest = _count(found.minDuration, f"{field}.minDuration")
    return FlexSlice(
        lower_kwh=cast("float", low),
        upper_kwh=cast("float", high),
        min_duration=shortest,
        max_duration=_count(found.maxDuration, f"{field}.maxDuration", default=shortest),
        price_min_eur_per_kwh=least,
        price_max_eur_per_kwh=most,
    )


def _schedule(config: FlexOfferFormat, found: _Schedule | None, field: str) -> FlexSchedule | None:
    if found is None:
        return None
    return FlexSchedule(
        start_ns=_time(found.startTime, f"{field}.startTime") or _refuse(f"`{field}.startTime`: a schedule has one"),
        slices=tuple(
            FlexScheduleSlice(
                energy_kwh=config.sign * cast("float", _number(each.energyAmount, f"{field}.energyAmount")),
                duration=_count(each.duration, f"{field}.duration"),
                price_eur_per_kwh=_number(each.price if each.price is not None else each.tariff, f"{field}.price"),
            )
            for each in found.scheduleSlices
        ),
        update=found.updateId or 0,
    )


# What is written ------------------------------------------------------------------------------------------------------


def encode_offers(config: FlexOfferFormat, offers: Iterable[FlexOffer]) -> bytes:
    """Several offers: an array, under `flexOffer` where the dialect has it so. ValueError for what it cannot say."""
    return _together(config, [_object(config, each) for each in offers])


def encode_sayable_offers(config: FlexOfferFormat, offers: Iterable[FlexOffer]) -> tuple[bytes, int]:
    """Like `encode_offers`, without the offers that the dialect cannot say; and how many these are."""
    objects: list[dict[str, Any]] = []
    left_out = 0
    for each in offers:
        try:
            objects.append(_object(config, each))
        except ValueError:
            left_out += 1
    return _together(config, objects), left_out


def _together(config: FlexOfferFormat, objects: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({"flexOffer": objects} if _STYLES[config.dialect].wraps else objects)


def encode_offer(config: FlexOfferFormat, offer: FlexOffer) -> bytes:
    """One offer. ValueError for what the dialect cannot say."""
    wraps = _STYLES[config.dialect].wraps
    return encode_offers(config, [offer]) if wraps else msgspec.json.encode(_object(config, offer))


def _object(config: FlexOfferFormat, offer: FlexOffer) -> dict[str, Any]:
    style, is_own = _STYLES[config.dialect], config.dialect == "edgeflex"
    if offer.quantity != "active_energy" and not is_own:
        # Readers would take it for active energy.
        raise ValueError(f"offer '{offer.id}': the dialect {config.dialect} has no reactive energy")
    location: Any = offer.location
    if config.dialect == "goflex" and location:
        location = {location: None}
    content: dict[str, Any] = {
        "id": _id(offer.id, style, "id"),
        "state": offer.state.capitalize() if style.capital else offer.state,
        "stateReason": offer.state_reason,
        "offeredById": _id(offer.offered_by, style, "offeredById"),
        "locationId": location,
        "requestId": offer.request_id if is_own else "",
        "flexOfferProfilType": "" if offer.quantity == "active_energy" else "reactiveEnergy",
        "creationTime": _written(offer.created_ns, style),
        style.accept: _written(offer.accept_before_ns, style),
        "assignmentBeforeTime": _written(offer.assign_before_ns, style),
        "startAfterTime": _written(offer.start_after_ns, style),
        "startBeforeTime": _written(offer.start_before_ns, style),
        "endBeforeTime": _written(offer.end_before_ns, style),
        "numSecondsPerInterval": offer.interval_s,
        "flexOfferProfileConstraints": [_slice_object(config, each) for each in offer.slices],
        "totalEnergyConstraint": _bounds_object(
            config, offer.total_lower_kwh, offer.total_upper_kwh, ("lower", "upper")
        ),
        "defaultSchedule": _schedule_object(config, offer.default_schedule),
        "flexOfferSchedule": _schedule_object(config, offer.schedule),
    }
    return {name: value for name, value in content.items() if value not in ("", None, {}, [])}


def _id(text: str, style: _Style, field: str) -> str | int:
    if not style.whole_ids or not text:
        return text
    # As it would come back: 007 would be asked for as 7, and not be found.
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"`{field}`: a whole number in this dialect; got {quoted(text)}")
    return int(text)


def _written(time_ns: int | None, style: _Style) -> str:
    if time_ns is None:
        return ""
    whole = shown_time(time_ns).partition(".")[0]
    parts = f"{time_ns % NS_PER_S:09d}"[: style.digits]
    if style.digits == len(f"{NS_PER_S}") - 1:
        parts = parts.rstrip("0")
    return whole + (f".{parts}" if parts else "") + style.zone


def _bounds_object(
    config: FlexOfferFormat, low: float | None, high: float | None, names: tuple[str, str]
) -> dict[str, float]:
    pair = (low, high) if config.sign > 0 else (high, low)
    return {name: config.sign * each for name, each in zip(names, pair, strict=True) if each is not None}


def _slice_object(config: FlexOfferFormat, each: FlexSlice) -> dict[str, Any]:
    style = _STYLES[config.dialect]
    group, least, most = style.prices
    given = ((least, each.price_min_eur_per_kwh), (most, each.price_max_eur_per_kwh))
    prices = {name: price for name, price in given if price is not None}
    return {
        "minDuration": each.min_duration,
        "maxDuration": each.max_duration,
        "energyConstraintList": [_bounds_object(config, each.lower_kwh, each.upper_kwh, style.bounds)],
        **({group: prices} if prices else {}),
    }


def _schedule_object(config: FlexOfferFormat, schedule: FlexSchedule | None) -> dict[str, Any]:
    if schedule is None:
        return {}
    style = _STYLES[config.dialect]
    return {
        "startTime": _written(schedule.start_ns, style),
        **({"updateId": schedule.update} if schedule.update else {}),
        "scheduleSlices": [
            {
                "duration": each.duration,
                "energyAmount": config.sign * each.energy_kwh,
                **({} if each.price_eur_per_kwh is None else {style.price: each.price_eur_per_kwh}),
            }
            for each in schedule.slices
        ],
    }


# The format -----------------------------------------------------------------------------------------------------------


def decode(config: FlexOfferFormat, payload: bytes) -> Message:
    """The one offer in a payload."""
    offers = decode_offers(config, payload)
    if len(offers) != 1:
        raise bad_payload(f"expected one offer, got {len(offers)}", payload)
    return offers[0]


def encode(config: FlexOfferFormat, message: Message) -> bytes:
    """An offer as the dialect writes it."""
    assert isinstance(message, FlexOffer)
    return encode_offer(config, message)


FORMAT = PayloadFormat(
    config=FlexOfferFormat,
    decoder=NoSamplesDecoder,
    encoder=NoSamplesEncoder,
    messages=MessageFormat((FlexOffer,), decode, encode),
)
