"""`flexoffer_make`: turns requests of flexibility into FlexOffers for a market."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.flexoffer import DAY_S, OfferLimits, is_within
from edgeflex_flow.messages import FlexOffer, FlexRequest, FlexSlice, Node
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, at_once, message_wire, quantity
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators.flex_response import unfit

TICK_S = 1.0
S_PER_H = 3600.0
NAMESPACE = uuid.UUID("0b3f2a0e-6f0c-5b7e-9d43-1f6a8f7f3c11")
"""Of ids that are made from texts."""
LARGEST_NUMBER = 2**53
"""Beyond it JSON readers may round."""


class FlexofferMakeConfig(NodeConfig, frozen=True, kw_only=True):
    """Turns each request of flexibility into FlexOffers: one for each node and each stretch of time without a gap.

    A slice of an offer is a step of the request. Its bounds are zero and what was asked for, so that the market may
    give a part: -3 kW over a quarter of an hour become -0.75 to 0 kWh. Positive stays production.

    What lies outside of `window_begin` to `window_end` (hours of the day, UTC; across midnight if the end is before the
    beginning), beyond `max_duration` or beyond `max_power` is not offered, and neither is a profile shorter than
    `min_duration`. Limits may be bound to policies, as may prices and times.

    Nothing becomes of nodes for which less than `min_power` is asked in every step.

    With `endpoint` each offer says at which path the market takes it, and `flexoffer_send` posts it there: an offer
    goes where it was meant for when it was made, also if the setting changes while it waits.

    Input:
        in: `FlexRequest`. Where it does not tell `step_s`, `step` holds; its first step begins at `begin_ns`, or when
            it was made.
    Output:
        `FlexOffer` in the state `initial`; in the state `invalid`, with the reason, what may not be offered:
        `flexoffer_send` passes over these, `flexoffer_collect` tells them in its answer. The same request gives the
        same ids.
    Errors:
        Dead letter `bad_request` for a request in which a list has not one finite value for each node, whose step is
        not a whole number of seconds, or whose time nothing tells.
    Source:
        edgeFLEX deliverable D4.3, sections 4.3 and 6.4; FlexOffer specification V1.

    >>> asked = {"prediction 1": (-3.0, 0.0), "prediction 2": (1.0, 0.0)}
    >>> request = FlexRequest(
    ...     variable="active_power", nodes=(4, 5), unit="kW", flex_request=asked, id="mpc@7", time_ns=7
    ... )
    >>> config = FlexofferMakeConfig(offered_by="substation_12")
    >>> [offer] = make(config, start(config), request)
    >>> offer.id, [(each.lower_kwh, each.upper_kwh) for each in offer.slices]
    ('mpc@7:4', [(-0.75, 0.0), (0.0, 0.25)])
    """

    offered_by: Annotated[Node, Meta(description="Who offers, as the market knows it: a text or a number.")]
    ids: Annotated[
        Literal["text", "number", "uuid"],
        Meta(description="Ids as readable texts, as whole numbers (INEA) or as UUIDs (GOFLEX)."),
    ] = "text"
    endpoint: Annotated[
        str, Meta(description="Path at which the market takes offers; empty: that of `flexoffer_send`.")
    ] = ""
    price_min: Annotated[float, quantity("EUR/kWh", "Most that is paid for a kWh consumed.", ge=-100, le=100)] = 0.0
    price_max: Annotated[float, quantity("EUR/kWh", "Least that is taken for a kWh produced.", ge=-100, le=100)] = 0.0
    accept_within: Annotated[
        float, quantity("s", "Until when the market is to accept, from the request on.", gt=0, le=86_400)
    ] = 10.0
    assign_within: Annotated[
        float, quantity("s", "Until when it is to assign, from the request on.", gt=0, le=86_400)
    ] = 20.0
    start_within: Annotated[
        float, quantity("s", "How much later than the request a profile may begin.", gt=0, le=86_400)
    ] = 60.0
    max_duration: Annotated[float, quantity("s", "Longest profile.", gt=0, le=7 * DAY_S)] = float(DAY_S)
    min_duration: Annotated[float, quantity("s", "Shortest profile.", ge=0, le=7 * DAY_S)] = 0.0
    window_begin: Annotated[float, quantity("s", "From when on in the day (UTC).", ge=0, le=DAY_S)] = 0.0
    window_end: Annotated[float, quantity("s", "Until when in the day (UTC).", ge=0, le=DAY_S)] = float(DAY_S)
    step: Annotated[float, quantity("s", "Length of a step, where a request does not tell.", gt=0, le=DAY_S)] = 900.0
    min_power: Annotated[float, quantity("kW", "Less than this is not worth an offer.", ge=0)] = 1e-3
    max_power: Annotated[float, quantity("kW", "Most that an offer may produce or consume.", gt=0, le=1e9)] = 1e9

    def refusals(self) -> Iterator[FieldError]:
        if not self.accept_within <= self.assign_within <= self.start_within:
            text = "times do not follow on each other: `accept_within`, `assign_within`, `start_within`"
            got = f"{self.accept_within:g}, {self.assign_within:g} and {self.start_within:g} s"
            yield FieldError(text, "accept_within", "assign_within", "start_within", got=got)
        if self.price_min > self.price_max:
            text = f"`price_min` ({self.price_min:g}) is above `price_max` ({self.price_max:g})"
            yield FieldError(text, "price_min", "price_max")
        if self.min_duration > self.max_duration:
            text = f"`min_duration` ({self.min_duration:g} s) is above `max_duration` ({self.max_duration:g} s)"
            yield FieldError(text, "min_duration", "max_duration")
        if self.min_power > self.max_power:
            text = f"`min_power` ({self.min_power:g} kW) is above `max_power` ({self.max_power:g} kW)"
            yield FieldError(text, "min_power", "max_power")

    @property
    def limits(self) -> OfferLimits:
        return OfferLimits(self.max_duration, self.window_begin, self.window_end)


@dataclass(slots=True)
class FlexofferMakeState:
    """The clock's last turn, for requests that do not say when they were made."""

    now_ns: int | None = None


class _Grid(NamedTuple):
    """When the steps of a request are; the one under way begins when it was made."""

    created_ns: int
    begin_ns: int
    step_ns: int

    def begin_of(self, step: int) -> int:
        return max(self.begin_ns + step * self.step_ns, self.created_ns)


def start(_config: FlexofferMakeConfig) -> FlexofferMakeState:
    return FlexofferMakeState()


def tick(_config: FlexofferMakeConfig, state: FlexofferMakeState, now_ns: int) -> list[FlexOffer]:
    state.now_ns = now_ns
    return []


def make(config: FlexofferMakeConfig, state: FlexofferMakeState, request: FlexRequest) -> list[FlexOffer]:
    rows = list(request.flex_request.values())
    problem = unfit(request.flex_request, len(request.nodes))
    if problem:
        raise BadMessageError(f"request '{request.id}': {problem}", reason="bad_request")
    grid = _grid(config, state, request)
    made: list[FlexOffer] = []
    for place, node in enumerate(request.nodes):
        powers_kw = [row[place] if abs(row[place]) >= config.min_power else 0.0 for row in rows]
        if any(powers_kw):
            made += _of_node(config, request, grid, node, powers_kw)
            made += _too_much(config, request, grid, node, powers_kw)
    return made


def name_of(request: FlexRequest) -> str:
    """How offers name the request that they were made from; empty if nothing tells it from others."""
    return request.id or ("" if request.time_ns is None else f"{request.variable}@{request.time_ns}")


def _grid(config: FlexofferMakeConfig, state: FlexofferMakeState, request: FlexRequest) -> _Grid:
    step_s = config.step if request.step_s is None else request.step_s
    if not (1 <= step_s <= DAY_S and step_s == round(step_s)):
        text = f"request '{request.id}': steps of FlexOffers are whole seconds up to a day; got {step_s:g} s"
        raise BadMessageError(text, reason="bad_request")
    times = (request.time_ns, state.now_ns, request.begin_ns)
    created_ns = next((each for each in times if each is not None), None)
    if created_ns is None:
        raise BadMessageError(f"request '{request.id}': nothing tells when it was made", reason="bad_request")
    begin_ns = created_ns if request.begin_ns is None else request.begin_ns
    # Whole seconds: some dialects write no parts of them, and a schedule that comes back must fit.
    return _Grid(created_ns - created_ns % NS_PER_S, begin_ns - begin_ns % NS_PER_S, round(step_s) * NS_PER_S)


def _of_node(
    config: FlexofferMakeConfig, request: FlexRequest, grid: _Grid, node: Node, powers_kw: list[float]
) -> Iterator[FlexOffer]:
    """An offer for each stretch of steps that may be offered, an invalid one for each that may not."""
    powers_kw = [_within(config, each) for each in powers_kw]
    for why, steps in itertools.groupby(range(len(powers_kw)), lambda step: _why_not(config, grid, step)):
        stretch = list(steps)
        count = len(stretch) if why else min(len(stretch), int(config.max_duration * NS_PER_S // grid.step_ns))
        is_short = count * grid.step_ns < config.min_duration * NS_PER_S
        reason = f"shorter than the shortest profile of {config.min_duration:g} s" if is_short and not why else why
        yield from _offer(config, request, grid, node, stretch[:count], powers_kw, reason)
        reason = f"beyond the longest profile of {config.max_duration:g} s"
        yield from _offer(config, request, grid, node, stretch[count:], powers_kw, reason)


def _too_much(
    config: FlexofferMakeConfig, request: FlexRequest, grid: _Grid, node: Node, powers_kw: list[float]
) -> Iterator[FlexOffer]:
    """What is asked beyond the largest power, as an invalid offer, so that the answer tells it."""
    beyond_kw = [each - _within(config, each) for each in powers_kw]
    reason = f"beyond the largest power of {config.max_power:g} kW"
    yield from _offer(config, request, grid, node, list(range(len(powers_kw))), beyond_kw, reason, "beyond")


def _within(config: FlexofferMakeConfig, power_kw: float) -> float:
    return max(-config.max_power, min(power_kw, config.max_power))


def _why_not(config: FlexofferMakeConfig, grid: _Grid, step: int) -> str:
    """Why a step may not be offered; empty if it may."""
    begin_ns = grid.begin_of(step)
    if grid.begin_ns + (step + 1) * grid.step_ns <= grid.created_ns:
        return "over before the request was made"
    end_ns = begin_ns + grid.step_ns + round(config.start_within * NS_PER_S)
    return "" if is_within(config.limits, begin_ns, end_ns) else "outside of the hours in which offers may run"


def _offer(
    config: FlexofferMakeConfig,
    request: FlexRequest,
    grid: _Grid,
    node: Node,
    steps: list[int],
    powers_kw: list[float],
    reason: str,
    part: str = "",
) -> Iterator[FlexOffer]:
    """An offer of these steps, invalid with a reason; none if nothing is asked. `part` tells its id from others'."""
    if not any(powers_kw[step] for step in steps):
        return
    hours = grid.step_ns / NS_PER_S / S_PER_H
    start_after_ns = grid.begin_of(steps[0])
    name = ":".join(
        [
            name_of(request) or f"{request.variable}@{grid.created_ns}",
            str(node),
            *(["reactive"] if request.variable == "reactive_power" else []),
            *([str(steps[0] + 1)] if steps[0] else []),
            *([part] if part else []),
        ]
    )
    yield FlexOffer(
        id=_id(config, name),
        state="invalid" if reason else "initial",
        state_reason=reason,
        offered_by=str(config.offered_by),
        location=str(node),
        endpoint=config.endpoint,
        request_id=name_of(request),
        quantity="active_energy" if request.variable == "active_power" else "reactive_energy",
        created_ns=grid.created_ns,
        accept_before_ns=grid.created_ns + round(config.accept_within * NS_PER_S),
        assign_before_ns=grid.created_ns + round(config.assign_within * NS_PER_S),
        start_after_ns=start_after_ns,
        start_before_ns=max(start_after_ns, grid.created_ns + round(config.start_within * NS_PER_S)),
        interval_s=grid.step_ns // NS_PER_S,
        slices=tuple(
            FlexSlice(
                lower_kwh=min(powers_kw[step] * hours, 0.0),
                upper_kwh=max(powers_kw[step] * hours, 0.0),
                price_min_eur_per_kwh=config.price_min,
                price_max_eur_per_kwh=config.price_max,
            )
            for step in steps
        ),
    )


def _id(config: FlexofferMakeConfig, name: str) -> str:
    if config.ids == "text":
        return name
    if config.ids == "uuid":
        return str(uuid.uuid5(NAMESPACE, f"{config.offered_by}/{name}"))
    digest = hashlib.sha256(f"{config.offered_by}/{name}".encode()).digest()
    return str(int.from_bytes(digest[:8], "big") % LARGEST_NUMBER)


def _output(_config: FlexofferMakeConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FlexOffer)


NODE = OperatorNode(
    kind="flexoffer_make",
    config=FlexofferMakeConfig,
    inputs={"in": Input(accepts=(FlexRequest,), step=make)},
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda _config: TICK_S,
    loose_ticks=True,
    scope="site",
    delays=at_once,
)
