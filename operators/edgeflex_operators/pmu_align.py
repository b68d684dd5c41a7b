"""`pmu_align`: the rows of several PMUs that belong to one time, together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError
from edgeflex_flow.kernel import kernel
from edgeflex_flow.messages import DeadLetter, Quality, Samples, join_samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, quantity
from edgeflex_operators._devices import read_only
from edgeflex_operators._senders import STEADY_NS, Senders

NS = 1_000_000_000
SILENT_S = 0.5
"""Time after which half of the devices, if the others send on, no longer count for what time it is."""
LONGEST_TICK_S = 0.5
SHORTEST_TICK_S = 0.01
TOLD_NS = NS
"""Missing rows are told together, so often."""
NAMES_IN_A_LETTER = 5
NEVER = -(2**62)

# What becomes of a row.
USED, OFF_GRID, AHEAD, LATE, TWICE = range(5)
REFUSED = {
    OFF_GRID: ("off_grid", "are farther than `tolerance` from whole frames of `rate`"),
    AHEAD: ("clock_ahead", "are of another time than those of the other devices"),
    LATE: ("late_rows", "came when their time had gone out"),
    TWICE: ("duplicate", "came twice"),
}
"""Reason and text of the dead letters."""


class PmuAlignConfig(NodeConfig, frozen=True, kw_only=True):
    """The rows of several PMUs that belong to one time, together: what a phasor data concentrator does.

    Rows are put in order of their time tags. The rows of a time go out as soon as all devices are there, at the latest
    `lag` after it, with those that have come; a time that fewer devices have than `min` asks for is left out. Rows
    leave in the order of time, so that a time that waits holds up the later ones; one of which no row has come does
    not. Each batch that goes out holds whole times, in the order of `devices` (else of first appearance).

    What time it is follows from the tags: the median of the devices' clocks, so that one that is an hour ahead neither
    holds the others up nor drives them out (of two devices, nobody can tell which one is wrong: the earlier one
    counts). So a replay gives the same. When the tags stand still, rows that have waited for `lag` by the site's clock
    go out.

    Tags that differ from whole frames of `rate` by no more than `tolerance` are rounding and become the tag of the
    frame, the same for all devices. The angle of a row that was measured at another time than its neighbours would be
    wrong by 1 degree for each 56 µs at 50 Hz, so that rows farther off are not used.

    Input:
        in: Samples with any columns, of one or several nodes. Those that a device lacks are NaN in its rows.
    Output:
        Samples with the same columns; quality is passed on. With `missing: fill` a device without a row gets one of
        NaN with `bad_data`, with `leave_out` none.
    Errors:
        Dead letters, whose counts are those of rows: `late_rows` (its time has gone out; it is not sent on, since rows
        leave in order), `missing` (did not come within `lag`; told once a second, by device), `too_few` (of a time
        that was left out), `duplicate`, `off_grid` (see `tolerance`), `clock_ahead` (more than `lag` + 3 s ahead of the
        others), `unknown_device` (not among `devices`, or more than `min` says), `set_back` (the devices' clocks
        together went back by more than `lag` + 3 s: order begins anew).
    Source:
        IEEE Std C37.247-2019 (phasor data concentrators), alignment to absolute time.

    >>> config = PmuAlignConfig(min="3 of 4")
    >>> config.least, config.expected
    (3, 4)
    """

    min: Annotated[
        str,
        Meta(
            pattern=r"^[1-9][0-9]{0,3} of [1-9][0-9]{0,3}$",
            description="How many devices a time must have to go out, of how many there are: 3 of 4.",
            examples=["3 of 4"],
        ),
    ]
    devices: Annotated[
        tuple[str, ...], Meta(description="Names of the devices. Empty: the first that come, as many as there are.")
    ] = ()
    lag: Annotated[float, quantity("s", "How long a time waits for devices that are late.", ge=0, le=60)] = 0.1
    rate: Annotated[int, Meta(ge=1, le=1000, description="Frames a second that the devices send.")] = 50
    tolerance: Annotated[float, quantity("s", "How far a tag may be from a whole frame.", ge=0, le=0.01)] = 0.0001
    missing: Annotated[
        Literal["fill", "leave_out"], Meta(description="A device that is missing: a row of NaN, or none.")
    ] = "fill"

    @property
    def least(self) -> int:
        return int(self.min.split()[0])

    @property
    def expected(self) -> int:
        return int(self.min.split()[2])

    @property
    def lag_ns(self) -> int:
        return round(self.lag * NS)

    def refusals(self) -> Iterator[FieldError]:
        if self.least > self.expected:
            yield FieldError("`min` asks for more devices than there are", "min", got=f"'{self.min}'")
        if self.devices and len(self.devices) != self.expected:
            text = f"`min` speaks of {self.expected} devices, `devices` names {len(self.devices)}"
            yield FieldError(text, "devices", "min")
        if len(set(self.devices)) != len(self.devices):
            yield FieldError("`devices` names something twice", "devices", got=", ".join(self.devices))
        if self.tolerance > 0.25 / self.rate:
            text = f"`tolerance` is more than a quarter of a frame of {self.rate} a second"
            yield FieldError(text, "tolerance", "rate", got=f"{self.tolerance:g} s")


class _Waiting(NamedTuple):
    """Rows that wait. Arrays of shape (n,)."""

    frame: NDArray[np.int64]
    """Number of the frame since 1970."""
    place: NDArray[np.int64]
    """Place of the device."""
    samples: Samples
    since_ns: int | None
    """The site's clock at the first tick that found it."""

    def take(self, rows: NDArray[np.bool_]) -> _Waiting:
        return _Waiting(self.frame[rows], self.place[rows], self.samples.take(rows), self.since_ns)


@dataclass(slots=True)
class PmuAlignState:
    """Rows that wait, and how far time has come."""

    places: dict[str, int]
    """Place of each device that takes part."""
    senders: Senders = field(default_factory=Senders)
    waiting: list[_Waiting] = field(default_factory=list)
    present: dict[int, int] = field(default_factory=dict)
    """By number of each frame of which rows wait: the devices that are there, a bit for each place."""
    gone: int | None = None
    """Number of the last frame that went out."""
    missing: Counter[str] = field(default_factory=Counter)
    """Rows that did not come, by device, which have not been told yet."""
    told_ns: int | None = None
    rows: int = 0
    """Rows of all devices so far."""
    heard_at: dict[str, int] = field(default_factory=dict)
    """`rows` when a device sent last."""


def start(config: PmuAlignConfig) -> PmuAlignState:
    return PmuAlignState({name: place for place, name in enumerate(config.devices)})


# -- time -------------------------------------------------------------------------------------------------------------


@kernel(
    f"void({read_only('int64')}, int64, int64, int64, int64, int64[::1], uint8[::1])",
)
def judge_rows(
    time_ns: NDArray[np.int64],
    rate: int,
    tolerance_ns: int,
    limit_ns: int,
    gone: int,
    frame: NDArray[np.int64],
    verdict: NDArray[np.uint8],
) -> None:
    """Fill `frame` with the number of the nearest whole frame since 1970, of which the first is on each UTC second, and
    `verdict` with what becomes of the row."""
    for row in range(len(time_ns)):
        seconds = time_ns[row] // 1_000_000_000
        rest_ns = time_ns[row] - seconds * 1_000_000_000
        part = (rest_ns * rate + 500_000_000) // 1_000_000_000
        frame[row] = seconds * rate + part
        off_ns = rest_ns - (part * 1_000_000_000 + rate // 2) // rate
        if abs(off_ns) > tolerance_ns:
            verdict[row] = OFF_GRID
        elif time_ns[row] > limit_ns:
            verdict[row] = AHEAD
        elif frame[row] <= gone:
            verdict[row] = LATE
        else:
            verdict[row] = USED


def frame_times(frame: NDArray[np.int64], rate: int) -> NDArray[np.int64]:
    """The time tag of a frame, to the nearest nanosecond."""
    seconds, part = np.divmod(frame, rate)
    times: NDArray[np.int64] = seconds * NS + (part * NS + rate // 2) // rate
    return times


# -- rows that come ---------------------------------------------------------------------------------------------------


def step(config: PmuAlignConfig, state: PmuAlignState, samples: Samples) -> list[WireMessage]:
    letters: list[WireMessage] = []
    samples, place = _of_devices(config, state, samples, letters)
    if not samples.rows:
        return letters
    _follow(config, state, samples)
    _look_back(config, state, letters)
    frame, verdict = np.empty(samples.rows, dtype=np.int64), np.empty(samples.rows, dtype=np.uint8)
    judge_rows(
        samples.time_ns,
        config.rate,
        round(config.tolerance * NS),
        state.senders.now_ns + config.lag_ns + STEADY_NS,
        NEVER if state.gone is None else state.gone,
        frame,
        verdict,
    )
    _enter(state, frame, place, verdict)
    used = verdict == USED
    if used.all():
        state.waiting.append(_Waiting(frame, place, samples, None))
        return letters + _release(config, state)
    for code, (reason, text) in REFUSED.items():
        letters += _letters(reason, samples, verdict == code, text)
    if used.any():
        state.waiting.append(_Waiting(frame, place, samples, None).take(used))
    return letters + _release(config, state)


def _enter(
    state: PmuAlignState, frame: NDArray[np.int64], place: NDArray[np.int64], verdict: NDArray[np.uint8]
) -> None:
    """Note which devices are there at which time, and find the rows that come twice."""
    present = state.present
    for row, (number, where, code) in enumerate(zip(frame.tolist(), place.tolist(), verdict.tolist(), strict=True)):
        if code != USED:
            continue
        devices, bit = present.get(number, 0), 1 << where
        if devices & bit:
            verdict[row] = TWICE
        else:
            present[number] = devices | bit


def _of_devices(
    config: PmuAlignConfig, state: PmuAlignState, samples: Samples, letters: list[WireMessage]
) -> tuple[Samples, NDArray[np.int64]]:
    """The rows of devices that take part, and their places."""
    for code in np.unique(samples.device).tolist():
        name = samples.devices[code]
        if name not in state.places and not config.devices and len(state.places) < config.expected:
            state.places[name] = len(state.places)
    places = np.array([state.places.get(name, -1) for name in samples.devices], dtype=np.int64)
    place = places[samples.device]
    known = place >= 0
    if known.all():
        return samples, place
    text = "are of devices that do not take part"
    letters += _letters("unknown_device", samples, ~known, text)
    return samples.take(known), place[known]


def _follow(config: PmuAlignConfig, state: PmuAlignState, samples: Samples) -> None:
    """Move the devices' clocks. A device that is silent while the others send does not count for what time it is."""
    state.senders.follow(samples)
    state.rows += samples.rows
    for code in np.unique(samples.device).tolist():
        state.heard_at[samples.devices[code]] = state.rows
    most = (config.lag + SILENT_S) * config.rate * max(config.expected / 2, 1)
    state.senders.forget([name for name in state.senders.of if state.rows - state.heard_at[name] > most])


def _look_back(config: PmuAlignConfig, state: PmuAlignState, letters: list[WireMessage]) -> None:
    """Begin anew when the devices' clocks together went back, and let go of rows that are ahead of them."""
    limit_ns = state.senders.now_ns + config.lag_ns + STEADY_NS
    limit = limit_ns // NS * config.rate + (limit_ns % NS * config.rate + NS // 2) // NS
    if state.gone is not None and state.gone > limit:
        back_s = (state.gone - limit) / config.rate + config.lag + STEADY_NS / NS
        text = f"the devices' clocks went back by {back_s:.1f} s"
        letters.append(DeadLetter(node="", reason="set_back", text=text, time_ns=state.senders.now_ns))
        state.gone = None
    if not state.present or max(state.present) <= limit:
        return
    state.present = {frame: devices for frame, devices in state.present.items() if frame <= limit}
    kept: list[_Waiting] = []
    for waiting in state.waiting:
        ahead = waiting.frame > limit
        letters += _letters("clock_ahead", waiting.samples, ahead, REFUSED[AHEAD][1])
        if not ahead.all():
            kept.append(waiting.take(~ahead))
    state.waiting = kept


def _letters(reason: str, samples: Samples, rows: NDArray[np.bool_], text: str) -> list[WireMessage]:
    count = int(np.count_nonzero(rows))
    if not count:
        return []
    codes = np.unique(samples.device[rows]).tolist()
    names = _names([samples.devices[code] for code in codes])
    time_ns = int(samples.time_ns[rows][0])
    told = f"{count} rows of {names} {text}"
    return [DeadLetter(node="", reason=reason, text=told, time_ns=time_ns, count=count)]


def _names(names: list[str]) -> str:
    more = len(names) - NAMES_IN_A_LETTER
    return ", ".join(f"'{name}'" for name in names[:NAMES_IN_A_LETTER]) + (f" and {more} more" if more > 0 else "")


# -- rows that go -----------------------------------------------------------------------------------------------------


def tick(config: PmuAlignConfig, state: PmuAlignState, now_ns: int) -> list[WireMessage]:
    """Let go what has waited for `lag` by the site's clock, whatever the tags say."""
    due = [
        waiting
        for waiting in state.waiting
        if waiting.since_ns is not None and now_ns - waiting.since_ns >= config.lag_ns
    ]
    state.waiting = [
        waiting if waiting.since_ns is not None else waiting._replace(since_ns=now_ns) for waiting in state.waiting
    ]
    until = max((int(waiting.frame.max()) for waiting in due), default=None)
    return _release(config, state, until) if until is not None else _tell_missing(state)


def end(config: PmuAlignConfig, state: PmuAlignState) -> list[WireMessage]:
    """What still waits, since nothing will come any more."""
    until = max((int(waiting.frame.max()) for waiting in state.waiting), default=None)
    given = _release(config, state, until) if until is not None else []
    return given + _tell_missing(state, now=True)


def _release(config: PmuAlignConfig, state: PmuAlignState, until: int | None = None) -> list[WireMessage]:
    """All times from the first that waits up to one that has to wait longer; up to `until` none has to."""
    if not state.waiting:
        return _tell_missing(state)
    now_ns = state.senders.now_ns - config.lag_ns
    going: list[int] = []
    for frame in sorted(state.present):
        seconds, part = divmod(frame, config.rate)
        is_over = seconds * NS + part * NS // config.rate <= now_ns
        may_go = is_over or (until is not None and frame <= until)
        if not may_go and state.present[frame].bit_count() < config.expected:
            break
        going.append(frame)
    if not going:
        return _tell_missing(state)
    state.gone = going[-1]
    few = [frame for frame in going if state.present[frame].bit_count() < config.least]
    for frame in going:
        del state.present[frame]
    given: list[WireMessage] = []
    gone = _take(state, state.gone)
    if few:
        lacking = np.isin(gone.frame, few)
        text = f"are of times that fewer than {config.least} devices have"
        given += _letters("too_few", gone.samples, lacking, text)
        gone = gone.take(~lacking)
    if len(gone.frame):
        given.insert(0, _aligned(config, state, gone))
    return given + _tell_missing(state)


def _take(state: PmuAlignState, until: int) -> _Waiting:
    """The rows up to a frame, which wait no longer."""
    taken: list[_Waiting] = []
    kept: list[_Waiting] = []
    for waiting in state.waiting:
        goes = waiting.frame <= until
        if goes.all():
            taken.append(waiting)
        else:
            kept.append(waiting.take(~goes))
            if goes.any():
                taken.append(waiting.take(goes))
    state.waiting = kept
    return _Waiting(
        np.concatenate([each.frame for each in taken]),
        np.concatenate([each.place for each in taken]),
        join_samples([each.samples for each in taken]),
        None,
    )


def _aligned(config: PmuAlignConfig, state: PmuAlignState, rows: _Waiting) -> Samples:
    """The rows in the order of time and device, with the tags of their frames, and rows for what is missing."""
    frames, frame = np.unique(rows.frame, return_inverse=True)
    devices = tuple(state.places)
    table = np.full((len(frames), len(devices)), -1, dtype=np.int64)
    table[frame, rows.place] = np.arange(len(rows.frame))
    _count_missing(config, state, table)
    order = table.ravel()
    if config.missing == "leave_out":
        order = order[order >= 0]
    absent = order < 0
    samples = rows.samples.take(np.maximum(order, 0))
    where = np.broadcast_to(np.arange(len(devices), dtype=np.int32), table.shape).ravel()
    when = np.repeat(frame_times(frames, config.rate), len(devices))
    if config.missing == "leave_out":
        present = table.ravel() >= 0
        where, when = where[present], when[present]
    columns = samples.columns
    quality = samples.quality
    if absent.any():
        columns = {name: np.where(absent, np.nan, values) for name, values in columns.items()}
        quality = np.where(absent, np.uint16(Quality.BAD_DATA), quality)
    return Samples(
        time_ns=when,
        device=np.ascontiguousarray(where),
        devices=devices,
        columns=columns,
        quality=quality,
        received_ns=samples.received_ns,
    )


def _count_missing(config: PmuAlignConfig, state: PmuAlignState, table: NDArray[np.int64]) -> None:
    for place, name in enumerate(state.places):
        lacking = int(np.count_nonzero(table[:, place] < 0))
        if lacking:
            state.missing[name] += lacking
    never = config.expected - len(state.places)
    if never:
        state.missing["(never came)"] += never * len(table)


def _tell_missing(state: PmuAlignState, *, now: bool = False) -> list[WireMessage]:
    """Once a second of the devices' time, so that a device that is away for a day is no flood."""
    time_ns = state.senders.now_ns
    if not state.missing or not (now or state.told_ns is None or abs(time_ns - state.told_ns) >= TOLD_NS):
        return []
    names = _names([name for name, _ in state.missing.most_common()])
    count = state.missing.total()
    state.missing.clear()
    state.told_ns = time_ns
    text = f"{count} rows of {names} did not come in time"
    return [DeadLetter(node="", reason="missing", text=text, time_ns=time_ns, count=count)]


def _tick_period_s(config: PmuAlignConfig) -> float:
    return min(max(config.lag / 4, SHORTEST_TICK_S), LONGEST_TICK_S)


def _output(_config: PmuAlignConfig, inputs: Mapping[str, Wire]) -> Wire:
    [wire] = inputs.values()
    return wire


def _delays(config: PmuAlignConfig) -> Delays:
    """Its time is over with the first frame of the others that is `lag` later."""
    return Delays(lag_s=math.ceil(config.lag * config.rate - 1e-6) / config.rate)


NODE = OperatorNode(
    kind="pmu_align",
    config=PmuAlignConfig,
    inputs={"in": Input(accepts=(Samples,), step=step)},
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=_tick_period_s,
    loose_ticks=True,
    end=end,
    scope="site",
    delays=_delays,
)
