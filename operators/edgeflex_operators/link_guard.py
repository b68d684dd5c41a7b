"""`link_guard`: sees to it that the links over which devices send are good enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Alarm, LinkQosRequest, LinkStatus, Samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators._link_measure import MeasuredLink, Measuring, Sight
from edgeflex_operators._link_wish import Need, Terms, Wish

SOURCE = "link_guard"
NO_PROFILE = "none"
LONGEST_STEP = 10
"""Periods by which the clock may go on between two ticks. More is a clock that was set, or a flow that stood still."""

Profile: TypeAlias = Annotated[str, Meta(min_length=1)]
Cause: TypeAlias = Literal["silence", "latency", "loss"]


class LinkGuardConfig(NodeConfig, frozen=True, kw_only=True):
    """Sees to it that the links over which devices send are good enough: raises an alarm when one is not, asks the
    mobile network for a better quality of service, and gives that back when it is not needed any more.

    **What is measured.** The latency of a row is the time from its time tag to its reception, that of a device the
    `quantile` over the rows of the last `window`. Loss is the share of rows that are missing in the device's own
    period, which follows from its time tags. Wire the source straight in: what fills or drops rows in between hides
    what the link does. A device that has sent before, and of which nothing comes for `silent_after`, is silent.

    **Clocks.** A time tag of a clock that is wrong is no measure of a latency. Rows flagged `sync_lost`,
    `time_uncertain`, `replayed` or `late` do not count for it, nor do the device's others when they come before their
    time or later than `plausible`: an alarm says so, and another one when the clock is right again. Loss is measured
    all the same.

    **Budgets.** A link is bad when latency or loss is above its budget for `hold`, and good again when both have been
    below it by `margin` for `hold`. What made it bad must be known for that.

    **Quality of service.** For a bad link the next better one of `profiles` is asked for, up to `best_profile`: one
    step at a time, and no further before the network has given the last one and rows of `window` and `hold` show that
    it is not enough. It is given back once the link has been good for `release_after`. When that was too early, since
    the link soon is bad again, the time doubles, up to 32 times. What was refused, was not answered within
    `answer_within` or was ended by the network is asked for again as long as it is needed, after waits that double from
    `retry_min` to `retry_max`. Nothing is asked for a silent device that the network does not say is reachable, and
    what a device has that is silent for `release_after` is given back. Another quality than the one that was asked for
    here is never given back, and left alone where `profiles` does not name it.

    Policies may change all of this. Where one does not allow a profile any more that was asked for here, it is given
    back at once.

    Input:
        in: `Samples` with any columns, as devices send them; `received_ns` must be set for latencies.
        status: `LinkStatus`, by which devices (their names) the network is known to answer.
    Output:
        `Alarm` of the device: `critical` when it falls silent, `warning` when its link is bad, when its clock is wrong,
        and when the network does not give what is asked for, `info` when that is over. `LinkQosRequest`, valid for
        `valid_for`.
    Errors:
        Rows and status of devices beyond `max_devices` are dropped and counted as `too_many_devices`. A status that
        is older than the last one of its device is dropped and counted as `out_of_order`.
    Source:
        A design of this project. Profiles are those of CAMARA Quality-On-Demand, or QoS references of 3GPP TS 29.122.

    >>> LinkGuardConfig(latency_budget=0.2, profiles=("QOS_S", "QOS_M", "QOS_L"), best_profile="QOS_M").allowed
    ('QOS_S', 'QOS_M')
    """

    latency_budget: Annotated[float, quantity("s", "Latency up to which a link is good enough.", gt=0, le=60)]
    loss_budget: Annotated[
        float, Meta(ge=0, le=1, description="Share of missing rows up to which a link is good enough.")
    ] = 0.01
    quantile: Annotated[float, Meta(gt=0, le=1, description="Quantile of the latencies that counts.")] = 0.95
    window: Annotated[float, quantity("s", "Time over which latency and loss are measured.", gt=0, le=600)] = 10.0
    hold: Annotated[
        float, quantity("s", "How long a link must be bad, or good, before that counts.", ge=0, le=3600)
    ] = 5.0
    margin: Annotated[
        float, Meta(ge=0, lt=1, description="Share of a budget by which a link must be below it to be good again.")
    ] = 0.2
    silent_after: Annotated[
        float, quantity("s", "Time without rows after which a device is silent.", gt=0, le=3600)
    ] = 3.0
    plausible: Annotated[
        float, quantity("s", "Longest latency that is believed; above it a clock is wrong.", gt=0, le=3600)
    ] = 10.0
    profiles: Annotated[
        tuple[Profile, ...],
        Meta(description="QoS profiles as the network calls them, the worst first. None: alarms alone."),
    ] = ()
    best_profile: Annotated[
        str | None, Meta(description="The best of `profiles` that may be asked for, or `none`; the last if not given.")
    ] = None
    release_after: Annotated[
        float, quantity("s", "How long a link must be good before its quality is given back.", gt=0, le=7 * 86400)
    ] = 600.0
    answer_within: Annotated[
        float, quantity("s", "How long the network may take to give or refuse a quality.", gt=0, le=3600)
    ] = 60.0
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 30.0
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=86400)] = 900.0
    valid_for: Annotated[float, quantity("s", "How long a request may be sent.", gt=0, le=3600)] = 30.0
    period: Annotated[float, quantity("s", "Time between two looks.", gt=0, le=60)] = 1.0
    max_devices: Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may send.")] = 10_000

    def refusals(self) -> Iterator[FieldError]:
        if len(set(self.profiles)) != len(self.profiles):
            yield FieldError("`profiles` names something twice", "profiles", got=", ".join(self.profiles))
        if NO_PROFILE in self.profiles:
            yield FieldError(f"no profile can be called '{NO_PROFILE}', which means none", "profiles")
        if self.best_profile not in (None, NO_PROFILE, *self.profiles):
            yield FieldError(
                "`best_profile` is none of `profiles`",
                "best_profile",
                "profiles",
                got=f"'{self.best_profile}'",
                known=(*self.profiles, NO_PROFILE),
            )
        if self.valid_for > self.answer_within:
            text = f"valid_for ({self.valid_for:g} s) is longer than answer_within ({self.answer_within:g} s)"
            yield FieldError(f"{text}: what counts as not answered could still be sent", "valid_for", "answer_within")
        if self.retry_max < self.retry_min:
            yield FieldError("`retry_max` must not be less than `retry_min`", "retry_max", "retry_min")
        if self.retry_max < self.answer_within:
            text = f"retry_max ({self.retry_max:g} s) is shorter than answer_within ({self.answer_within:g} s)"
            yield FieldError(f"{text}: waits could not grow", "retry_max", "answer_within")
        if self.plausible <= self.latency_budget:
            text = f"plausible ({self.plausible:g} s) is not above latency_budget ({self.latency_budget:g} s)"
            yield FieldError(text, "plausible", "latency_budget")
        if self.window < self.period:
            yield FieldError(
                f"window ({self.window:g} s) is shorter than period ({self.period:g} s)", "window", "period"
            )

    @property
    def allowed(self) -> tuple[str, ...]:
        """The profiles that may be asked for."""
        if self.best_profile is None:
            return self.profiles
        return () if self.best_profile == NO_PROFILE else self.profiles[: self.profiles.index(self.best_profile) + 1]

    @property
    def sight(self) -> Sight:
        return Sight(_ns(self.window), self.quantile, self.plausible, _ns(self.silent_after), self.max_devices)

    @property
    def terms(self) -> Terms:
        return Terms(
            profiles=self.allowed,
            hold_ns=_ns(self.hold),
            settle_ns=_ns(self.window),
            release_after_ns=_ns(self.release_after),
            answer_within_ns=_ns(self.answer_within),
            retry_min_ns=_ns(self.retry_min),
            retry_max_ns=_ns(self.retry_max),
        )


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


@dataclass(slots=True)
class _Link:
    """What is known of one device's link."""

    wish: Wish = field(default_factory=Wish)
    causes: frozenset[Cause] = frozenset()
    """What was wrong with it when it was wrong last."""
    broken_since_ns: int | None = None
    good_since_ns: int | None = None
    told: Literal["good", "bad", "silent"] = "good"
    """What the last alarm said."""
    doubted: bool = False
    """Whether its clock is known to be wrong."""


@dataclass(slots=True)
class LinkGuardState:
    """What was measured, asked for and answered, on a clock of its own that no jump of the computer's clock moves."""

    measuring: Measuring = field(default_factory=Measuring)
    links: dict[str, _Link] = field(default_factory=dict)
    clock_ns: int = 0
    looked_ns: int | None = None
    """The time of day at the last tick."""

    def move_on(self, now_ns: int, period: float) -> bool:
        """Whether time went on as it should: not at the first tick, nor after the flow or the clock stood still."""
        gone_ns = -1 if self.looked_ns is None else now_ns - self.looked_ns
        period_ns = _ns(period)
        is_steady = 0 <= gone_ns <= LONGEST_STEP * period_ns
        self.clock_ns += gone_ns if is_steady else period_ns
        self.looked_ns = now_ns
        return is_steady


def start(_config: LinkGuardConfig) -> LinkGuardState:
    return LinkGuardState()


def step(config: LinkGuardConfig, state: LinkGuardState, samples: Samples) -> list[WireMessage]:
    problems = "; ".join(samples.problems())
    if problems:
        raise BadMessageError(problems, reason="malformed_samples")
    return [*state.measuring.take(samples, config.sight)]


def take_status(config: LinkGuardConfig, state: LinkGuardState, status: LinkStatus) -> list[WireMessage]:
    link = state.links.get(status.device)
    if link is None:
        if len(state.links) >= config.max_devices:
            text = f"a status of '{status.device}', beyond max_devices ({config.max_devices})"
            raise BadMessageError(text, reason="too_many_devices")
        link = state.links[status.device] = _Link()
    known = link.wish.status
    if known is not None and status.time_ns < known.time_ns:
        raise BadMessageError(f"a status of '{status.device}' that is older than the last one", reason="out_of_order")
    link.wish.hear(status, state.clock_ns, config.terms)
    return []


def tick(config: LinkGuardConfig, state: LinkGuardState, now_ns: int) -> list[WireMessage]:
    is_steady = state.move_on(now_ns, config.period)
    told: list[WireMessage] = []
    terms = config.terms
    for name, measured in state.measuring.look(state.clock_ns, config.sight, after_pause=not is_steady):
        link = state.links.get(name)
        if link is None:
            link = state.links[name] = _Link()
        told += _look_at(config, terms, state, name, link, measured)
    return told


def _look_at(
    config: LinkGuardConfig, terms: Terms, state: LinkGuardState, name: str, link: _Link, measured: MeasuredLink
) -> list[WireMessage]:
    """Alarms and the request that follow from what is measured of one link."""
    assert state.looked_ns is not None
    problems = _problems(config, measured)
    _follow(config, link, measured, problems, state.clock_ns)
    need = _need(config, link, measured, problems)
    ask = link.wish.decide(need, state.clock_ns, state.looked_ns, terms)
    texts = (*_judgement(terms, link, need.text, state), *_doubts(link, measured), *_complaints(link))
    told: list[WireMessage] = [
        Alarm(source=SOURCE, severity=severity, text=f"link of '{name}': {text}", time_ns=state.looked_ns, device=name)
        for severity, text in texts
    ]
    if ask is not None:
        told.append(
            LinkQosRequest(
                device=name,
                action=ask.action,
                profile=ask.profile,
                reason=ask.why,
                time_ns=state.looked_ns,
                valid_for_s=config.valid_for,
            )
        )
    return told


def _problems(config: LinkGuardConfig, measured: MeasuredLink) -> dict[Cause, str]:
    """What is wrong with a link, each in words."""
    if measured.silent_s >= config.silent_after:
        return {"silence": f"nothing has come for {measured.silent_s:.1f} s"}
    found: dict[Cause, str] = {}
    if measured.latency_s is not None and measured.latency_s > config.latency_budget:
        found["latency"] = f"latency {_ms(measured.latency_s)}, budget {_ms(config.latency_budget)}"
    if measured.loss is not None and measured.loss > config.loss_budget:
        found["loss"] = f"{measured.loss:.1%} of its rows are missing, budget {config.loss_budget:.1%}"
    return found


def _ms(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1.0 else f"{seconds * 1e3:.3g} ms"


def _follow(
    config: LinkGuardConfig, link: _Link, measured: MeasuredLink, problems: Mapping[Cause, str], now_ns: int
) -> None:
    """Since when it has been bad, or good."""
    if problems:
        link.causes = frozenset(problems)
        link.good_since_ns = None
        if link.broken_since_ns is None:
            link.broken_since_ns = now_ns
        return
    link.broken_since_ns = None
    share = 1.0 - config.margin
    is_good = measured.loss is not None and measured.loss <= share * config.loss_budget
    if measured.latency_s is None:
        is_good = is_good and "latency" not in link.causes
    else:
        is_good = is_good and measured.latency_s <= share * config.latency_budget
    if not is_good:
        link.good_since_ns = None
    elif link.good_since_ns is None:
        link.good_since_ns = now_ns


def _need(config: LinkGuardConfig, link: _Link, measured: MeasuredLink, problems: Mapping[Cause, str]) -> Need:
    status = link.wish.status
    is_lost = "silence" in problems and measured.silent_s >= config.release_after
    is_reachable = status is not None and status.reachable is True
    return Need(
        text=" and ".join(problems.values()),
        broken_since_ns=link.broken_since_ns,
        good_since_ns=link.good_since_ns,
        may_help="silence" not in problems or (is_reachable and not is_lost),
        is_lost=is_lost,
    )


_Text: TypeAlias = tuple[Literal["info", "warning", "critical"], str]


def _judgement(terms: Terms, link: _Link, text: str, state: LinkGuardState) -> Iterator[_Text]:
    """What is to be told once the link is another than was told last."""
    assert state.looked_ns is not None
    if "silence" in link.causes and link.broken_since_ns is not None:
        if link.told != "silent":
            link.told = "silent"
            yield "critical", f"{text}{_of_the_network(link.wish.status, is_silent=True)}"
    elif link.broken_since_ns is not None and state.clock_ns - link.broken_since_ns >= terms.hold_ns:
        if link.told != "bad":
            link.told = "bad"
            standing = link.wish.standing(terms, state.looked_ns)
            yield "warning", f"{text}{_of_the_network(link.wish.status)}{f'; {standing}' if standing else ''}"
    elif (
        link.good_since_ns is not None and state.clock_ns - link.good_since_ns >= terms.hold_ns and link.told != "good"
    ):
        link.told = "good"
        yield "info", "it is good again"


def _of_the_network(status: LinkStatus | None, *, is_silent: bool = False) -> str:
    """What the network says, beside what was measured."""
    if status is None:
        return "; the network has said nothing of a device of this name yet"
    if status.reachable is False:
        return "; the network does not reach it"
    if is_silent:
        return "; the network says that data reach it" if status.reachable else ""
    said = [] if status.latency_s is None else [f"latency {_ms(status.latency_s)}"]
    said += [] if status.loss is None else [f"loss {status.loss:.1%}"]
    said += [
        f"no {name} as its profile promises" for name, is_met in sorted(status.meets_profile.items()) if not is_met
    ]
    return f"; the network says: {', '.join(said)}" if said else ""


def _doubts(link: _Link, measured: MeasuredLink) -> Iterator[_Text]:
    if measured.doubt and not link.doubted:
        link.doubted = True
        yield "warning", f"{measured.doubt}; its latency is not known"
    elif measured.latency_s is not None and link.doubted:
        link.doubted = False
        yield "info", "its clock is right again"


def _complaints(link: _Link) -> Iterator[_Text]:
    for text in link.wish.complaints():
        yield "warning", text


def _output(_config: LinkGuardConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(Alarm, LinkQosRequest)


def _delays(config: LinkGuardConfig) -> Delays:
    return Delays(window_s=config.window + config.hold, period_s=config.period, age_s=0.0)


def _delays_of_status(config: LinkGuardConfig) -> Delays:
    return Delays(period_s=config.period, age_s=0.0)


NODE = OperatorNode(
    kind="link_guard",
    config=LinkGuardConfig,
    inputs={
        "in": Input(accepts=(Samples,), step=step),
        "status": Input(accepts=(LinkStatus,), step=take_status, delays=_delays_of_status),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda config: config.period,
    loose_ticks=True,
    by_arrival=True,
    state_version=2,
    delays=_delays,
)
