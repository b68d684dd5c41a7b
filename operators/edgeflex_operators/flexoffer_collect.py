"""`flexoffer_collect`: turns what became of FlexOffers into the answer to the request that they were made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec.structs import replace

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.flexoffer import is_final, is_later, schedule_violations, start_after_ns
from edgeflex_flow.messages import Alarm, FlexOffer, FlexRequest, FlexResponse
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators._told import some
from edgeflex_operators.flex_response import unfit
from edgeflex_operators.flexoffer_make import name_of

TICK_S = 0.5
S_PER_H = 3600.0
MOST_REMEMBERED = 10_000
"""Requests and offers that were dealt with."""
WITHIN_KW = 1e-3
"""A difference of less than this between asked and given is none."""


class FlexofferCollectConfig(NodeConfig, frozen=True, kw_only=True):
    """Answers each request of flexibility with what the market has assigned to its offers.

    An answer goes out once all offers of the request are assigned or at an end, or when `timeout` is over. It has the
    request's shape: what is assigned, as mean power of each step in which its schedule runs, and 0 for all else: what
    was refused, canceled or not offered, what is not answered in time, and schedules that break the bounds of their
    offer. `status` is `full` if all was given that was asked for, `none` if nothing was, else `changed`; `reason`
    counts the offers by what became of them, gives the market's reasons, and tells schedules that run beyond the last
    step.

    Input:
        request: `FlexRequest`, as `flexoffer_make` gets it.
        offers: `FlexOffer`, as `flexoffer_make` gives them.
        answers: `FlexOffer`, as `flexoffer_receive` gives them; those of other requests and owners are passed over.
    Output:
        `FlexResponse` for each request. `Alarm` (`warning`) for an offer that is assigned after its request was
        answered: the market counts on it, and nobody does it. Also for one that was in the answer and is taken from
        its assignment afterwards (`canceled`, `rejected`, `invalid`): the answer counts on it.
    Errors:
        Dead letter `bad_request` for a request in which a list has not one finite value for each node.
    Source:
        edgeFLEX deliverable D4.3, section 6.4; FlexOffer specification V1.

    >>> FlexofferCollectConfig().timeout
    25.0
    """

    timeout: Annotated[float, quantity("s", "How long answers of the market are waited for.", gt=0, le=86_400)] = 25.0


@dataclass(slots=True)
class _Asked:
    """A request that waits, and its offers in their last known state, by id."""

    request: FlexRequest | None = None
    offers: dict[str, FlexOffer] = field(default_factory=dict)
    since_ns: int | None = None
    """When the clock first saw it."""


@dataclass(slots=True)
class FlexofferCollectState:
    """What waits, by the request's id, and which offers were dealt with."""

    waiting: dict[str, _Asked] = field(default_factory=dict)
    request_of: dict[str, str] = field(default_factory=dict)
    """By id of an offer that waits."""
    over: dict[str, str] = field(default_factory=dict)
    """By id of an offer whose request was answered without it: that request."""
    promised: dict[str, str] = field(default_factory=dict)
    """By id of an offer that counts in the answer to a request, until it is executed: that request."""
    answered: dict[str, None] = field(default_factory=dict)
    """Requests that were answered, so that one which comes twice is not answered twice."""
    now_ns: int = 0


def start(_config: FlexofferCollectConfig) -> FlexofferCollectState:
    return FlexofferCollectState()


def ask(_config: FlexofferCollectConfig, state: FlexofferCollectState, request: FlexRequest) -> list[WireMessage]:
    problem = unfit(request.flex_request, len(request.nodes))
    if problem:
        raise BadMessageError(f"request '{request.id}': {problem}", reason="bad_request")
    name = name_of(request)
    if not name:
        raise BadMessageError("a request has an `id` or a `time_ns`, by which its answer is told", reason="bad_request")
    if name not in state.answered:
        state.waiting.setdefault(name, _Asked()).request = request
    return []


def offer(_config: FlexofferCollectConfig, state: FlexofferCollectState, made: FlexOffer) -> list[WireMessage]:
    if made.request_id and made.request_id not in state.answered:
        state.waiting.setdefault(made.request_id, _Asked()).offers[made.id] = made
        state.request_of[made.id] = made.request_id
    return []


def take(_config: FlexofferCollectConfig, state: FlexofferCollectState, answer: FlexOffer) -> list[WireMessage]:
    request_id = state.request_of.get(answer.id)
    if request_id is None:
        return _late(state, answer)
    asked = state.waiting[request_id]
    known = asked.offers[answer.id]
    is_ours = not answer.offered_by or answer.offered_by == known.offered_by
    if not is_ours or not is_later(known.state, answer.state):
        return []
    # The market's answer may hold its state alone, and its copy of the terms is not ours.
    asked.offers[answer.id] = replace(
        known, state=answer.state, state_reason=answer.state_reason, schedule=answer.schedule or known.schedule
    )
    return _decide(state, request_id, asked) if asked.since_ns is not None and _is_settled(asked) else []


def tick(config: FlexofferCollectConfig, state: FlexofferCollectState, now_ns: int) -> list[WireMessage]:
    state.now_ns = now_ns
    told: list[WireMessage] = []
    for request_id, asked in list(state.waiting.items()):
        if asked.since_ns is None:
            # Offers come in the same moment as their request: by the next turn all are there.
            asked.since_ns = now_ns
        elif _is_settled(asked) or now_ns - asked.since_ns >= config.timeout * NS_PER_S:
            told += _decide(state, request_id, asked)
    return told


def _is_settled(asked: _Asked) -> bool:
    """Whether nothing more will come."""
    return asked.request is not None and all(
        each.state == "assigned" or is_final(each.state) for each in asked.offers.values()
    )


def _late(state: FlexofferCollectState, answer: FlexOffer) -> list[WireMessage]:
    text = ""
    if answer.id in state.over and answer.state in ("assigned", "executed"):
        request_id = state.over.pop(answer.id)
        text = f"offer '{answer.id}' was assigned after '{request_id}' had been answered: nobody does what it says"
    elif answer.id in state.promised and is_final(answer.state):
        request_id = state.promised.pop(answer.id)
        if answer.state != "executed":
            why = f" ({answer.state_reason})" if answer.state_reason else ""
            text = (
                f"offer '{answer.id}' became {answer.state}{why} after its assignment had been told in the answer to "
                f"'{request_id}': the market counts on it no more"
            )
    if not text:
        return []
    return [Alarm(source="flexoffer_collect", severity="warning", text=text, time_ns=state.now_ns)]


def _decide(state: FlexofferCollectState, request_id: str, asked: _Asked) -> list[WireMessage]:
    del state.waiting[request_id]
    for offer_id, each in asked.offers.items():
        del state.request_of[offer_id]
        if each.state != "assigned" and not is_final(each.state):
            state.over[offer_id] = request_id
        elif each.state == "assigned" and asked.request is not None and _fate(each)[0] == "assigned":
            state.promised[offer_id] = request_id
    state.answered[request_id] = None
    for memory in (state.over, state.promised, state.answered):
        while len(memory) > MOST_REMEMBERED:
            del memory[next(iter(memory))]
    return [] if asked.request is None else [_answer(state, asked.request, list(asked.offers.values()))]


def _answer(state: FlexofferCollectState, request: FlexRequest, offers: list[FlexOffer]) -> FlexResponse:
    keys = list(request.flex_request)
    values = [[0.0] * len(request.nodes) for _ in keys]
    fates: Counter[str] = Counter()
    reasons: list[str] = []
    places = {str(node): place for place, node in enumerate(request.nodes)}
    for each in offers:
        fate, reason = _fate(each)
        fates[fate] += 1
        if reason:
            reasons.append(f"{each.location}: {reason}")
        if fate == "assigned":
            powers_kw = _powers_kw(request, each)
            for step, power_kw in powers_kw.items():
                if step < len(keys):
                    values[step][places[each.location]] += power_kw
            if any(abs(power_kw) > WITHIN_KW and step >= len(keys) for step, power_kw in powers_kw.items()):
                reasons.append(f"{each.location}: its schedule runs beyond the steps that were asked for")
    given = {key: tuple(row) for key, row in zip(keys, values, strict=True)}
    status = _status(request, given)
    counted = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items())) or "none"
    reason = f"of {len(offers)} offers {counted}" if offers else "nothing was offered"
    if reasons:
        reason += f" ({some(reasons)})"
    return FlexResponse(
        variable=request.variable,
        nodes=request.nodes,
        unit=request.unit,
        flex_response=given,
        request_id=request.id,
        time_ns=state.now_ns or request.time_ns,
        status=status,
        reason="" if status == "full" else reason,
    )


def _fate(offer: FlexOffer) -> tuple[str, str]:
    """What became of an offer, and why if that is worth telling."""
    if offer.state not in ("assigned", "executed"):
        if is_final(offer.state):
            return offer.state if offer.state != "invalid" else "not offered", offer.state_reason
        return "without an answer in time", f"still {offer.state}" if offer.state == "accepted" else ""
    if offer.schedule is None:
        return "unusable", "assigned without a schedule"
    wrong = [str(each) for each in schedule_violations(offer, offer.schedule)]
    return ("unusable", f"schedule: {wrong[0]}") if wrong else ("assigned", "")


def _powers_kw(request: FlexRequest, offer: FlexOffer) -> dict[int, float]:
    """Mean power of each step of the request, by its place from 0 on. A schedule counts in the steps nearest to it."""
    assert offer.schedule is not None
    length_ns = offer.interval_s * NS_PER_S
    wanted_ns = start_after_ns(offer) or offer.schedule.start_ns
    # As `flexoffer_make` lays the steps: of a request that tells no time, from when its offers were made.
    begin_ns = request.begin_ns or request.time_ns or offer.created_ns or wanted_ns
    # Offers begin in whole seconds, and the first one within a step that is under way.
    first = (wanted_ns + NS_PER_S - 1 - begin_ns) // length_ns
    first += round((offer.schedule.start_ns - wanted_ns) / length_ns)
    return {
        first + place: each.energy_kwh * S_PER_H / offer.interval_s for place, each in enumerate(offer.schedule.slices)
    }


def _status(request: FlexRequest, given: Mapping[str, tuple[float, ...]]) -> Literal["full", "changed", "none"]:
    pairs = [pair for key, asked in request.flex_request.items() for pair in zip(asked, given[key], strict=True)]
    if all(abs(asked - got) <= WITHIN_KW for asked, got in pairs):
        return "full"
    return "changed" if any(abs(got) > 0.0 for _, got in pairs) else "none"


def _output(_config: FlexofferCollectConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FlexResponse, Alarm)


def _delays(config: FlexofferCollectConfig) -> Delays:
    """An answer waits for the others. A turn of the clock finds the request, and one that `timeout` is over."""
    return Delays(lag_s=config.timeout, period_s=2 * TICK_S, age_s=0.0)


NODE = OperatorNode(
    kind="flexoffer_collect",
    config=FlexofferCollectConfig,
    inputs={
        "request": Input(accepts=(FlexRequest,), step=ask),
        "offers": Input(accepts=(FlexOffer,), step=offer),
        "answers": Input(accepts=(FlexOffer,), step=take),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda _config: TICK_S,
    loose_ticks=True,
    scope="site",
    delays=_delays,
)
