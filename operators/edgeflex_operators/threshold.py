"""`threshold`: says when a value goes beyond a limit and when it comes back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError
from edgeflex_flow.kernel import kernel
from edgeflex_flow.messages import Crossing, Quality, Samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_flow.units import SUFFIXES, UNITLESS_SUFFIXES, names_its_unit
from edgeflex_operators._devices import RESTARTS, AcceptTest, DeviceClock, RowRules, grown, read_only, row_rules

REFUSED_QUALITY = int(Quality.BAD_DATA)

# Sides of a device's value.
BELOW, NORMAL, ABOVE = -1, 0, 1
STATES: dict[int, Literal["below", "normal", "above"]] = {BELOW: "below", NORMAL: "normal", ABOVE: "above"}

# Columns of the table `sides` (int64), one row a device.
SIDE, WAITING, SINCE_NS, FLAGS, _SIDES = range(5)
# Columns of the table `changes` (int64), one row a change.
ROW, FROM, TO, QUALITY, _CHANGES = range(5)


class ThresholdConfig(NodeConfig, frozen=True, kw_only=True):
    """Watches one column and tells, device by device, when its value goes beyond a limit and when it comes back.

    A value is `above` when it exceeds the limit `above`, and `below` when it is less than the limit `below`, in every
    sample for at least `hold`. It is `normal` again at once when it has come back inside by `hysteresis`, and also when
    it has gone beyond the other limit and the hold of that one runs; without a hold that is one change, from `above` to
    `below`. A device starts as normal.

    The hold starts anew after a gap of more than `max_gap`, since nobody knows where the value was meanwhile. Give a
    `max_gap` above the period at which the devices send: with a shorter one, a hold never ends.

    Limits and hysteresis are plain numbers in the unit that the column's name states.

    Input:
        Samples with the column. NaN rows and those flagged `bad_data` or `test` are ignored; a lost time reference does
        not silence a threshold. With `accept_test`, for commissioning, rows of a device in test mode are used, and
        their flag passes on.
    Output:
        `Crossing` on every change of state, with the value and the limit that it crossed. `quality` holds the flags of
        that row, and for `above` and `below` those of every row of the hold.
    Errors:
        Rows that are not later than the last one of their device are dropped and counted as `out_of_order`, those of
        devices beyond `max_devices` as `too_many_devices`.
    Source:
        A limit with hysteresis and a definite-time delay, as in protection relays.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = ThresholdConfig(column="frequency_hz", below=49.8, hysteresis=0.05)
    >>> hz = [50.0, 49.7, 49.82, 49.9]
    >>> rows = [(k * 20_000_000, "G1", {"frequency_hz": hz[k]}) for k in range(4)]
    >>> [(c.state, c.value, c.limit) for c in step(config, start(config), samples_from_rows(rows))]
    [('below', 49.7, 49.8), ('normal', 49.9, 49.8)]
    """

    column: Annotated[str, Meta(min_length=1, description="Column to watch; its name ends in its unit.")]
    above: Annotated[float | None, Meta(description="Upper limit, in the column's unit.")] = None
    below: Annotated[float | None, Meta(description="Lower limit, in the column's unit.")] = None
    hysteresis: Annotated[
        float, Meta(ge=0, description="How far inside a limit the value must come back, in the column's unit.")
    ] = 0.0
    hold: Annotated[
        float, quantity("s", "How long the value must stay beyond a limit before that is told.", ge=0, le=86_400)
    ] = 0.0
    max_gap: Annotated[
        float,
        quantity("s", "Longest time between two samples that does not start the hold anew.", gt=0, le=86_400),
    ] = 1.0
    max_devices: Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may send.")] = 10_000
    accept_test: AcceptTest = False

    def refusals(self) -> Iterator[FieldError]:
        if not names_its_unit(self.column):
            known = [*SUFFIXES, *sorted(UNITLESS_SUFFIXES)]
            yield FieldError(f"column '{self.column}' does not end in a unit", "column", known=known)
        if self.above is None and self.below is None:
            yield FieldError("neither 'above' nor 'below' is given: there is nothing to watch for", "above", "below")
        if self.above is None or self.below is None:
            return
        if self.below >= self.above:
            text = f"below ({self.below:g}) is not less than above ({self.above:g})"
            yield FieldError(text, "below", "above")
            return
        apart = self.above - self.below
        if self.hysteresis >= apart * (1.0 - 1e-9):  # so that rounding does not let 50.2 - 49.8 > 0.4 through
            yield FieldError(
                f"hysteresis ({self.hysteresis:g}) is not less than above - below ({apart:g}): "
                "a value that comes back from one limit would be normal only beyond the other",
                "hysteresis",
                "above",
                "below",
            )


@dataclass(slots=True)
class ThresholdState:
    """On which side each device is; `sides` has a row for each slot of `clock`."""

    config: ThresholdConfig
    rules: RowRules = field(init=False)
    clock: DeviceClock = field(default_factory=DeviceClock)
    sides: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, _SIDES), dtype=np.int64))

    def __post_init__(self) -> None:
        self.adopt(self.config)

    def adopt(self, config: ThresholdConfig) -> None:
        """Follow a config that a policy changed."""
        self.config = config
        self.rules = row_rules(
            REFUSED_QUALITY, accept_test=config.accept_test, max_gap_s=config.max_gap, max_devices=config.max_devices
        )


@kernel(
    f"int64(int32[::1], uint8[::1], {read_only('int64')}, {read_only('float64')}, {read_only('uint16')}, "
    "float64, float64, float64, int64, int64[:, ::1], int64[:, ::1])"
)
def cross(
    slot: NDArray[np.int32],
    verdict: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    values: NDArray[np.float64],
    quality: NDArray[np.uint16],
    below: float,
    above: float,
    hysteresis: float,
    hold_ns: int,
    sides: NDArray[np.int64],
    changes: NDArray[np.int64],
) -> int:
    """Follow each device's side. Fills `changes`, of shape (n, _CHANGES), with each row that changes it.

    Returns how many do. An absent limit is infinite. WAITING is the side that a value beyond a limit waits to be told
    for, SINCE_NS when that wait began and FLAGS all flags since.
    """
    changed = 0
    for i in range(len(time_ns)):
        if verdict[i] > RESTARTS:
            continue
        d = slot[i]
        value = values[i]
        side = sides[d, SIDE]
        beyond = ABOVE if value > above else BELOW if value < below else NORMAL
        if beyond == NORMAL:
            sides[d, WAITING] = NORMAL
            inside = (side == ABOVE and value <= above - hysteresis) or (side == BELOW and value >= below + hysteresis)
            if not inside:
                continue
        elif beyond == side:
            sides[d, WAITING] = NORMAL
            continue
        elif sides[d, WAITING] != beyond or verdict[i] == RESTARTS:
            sides[d, WAITING] = beyond
            sides[d, SINCE_NS] = time_ns[i]
            sides[d, FLAGS] = 0
        to = beyond
        flags = np.int64(quality[i])
        if beyond != NORMAL:
            sides[d, FLAGS] |= flags
            if time_ns[i] - sides[d, SINCE_NS] >= hold_ns:
                sides[d, WAITING] = NORMAL
                flags = sides[d, FLAGS]
            elif side == NORMAL:
                continue
            else:
                to = NORMAL
        changes[changed, ROW] = i
        changes[changed, FROM] = side
        changes[changed, TO] = to
        changes[changed, QUALITY] = flags
        changed += 1
        sides[d, SIDE] = to
    return changed


def start(config: ThresholdConfig) -> ThresholdState:
    return ThresholdState(config)


def step(config: ThresholdConfig, state: ThresholdState, samples: Samples) -> list[WireMessage]:
    values = samples.columns[config.column]
    if config is not state.config:
        state.adopt(config)
    slot, verdict, letters = state.clock.follow(samples, values, state.rules)
    state.sides = grown(state.sides, state.clock.used)
    changes = np.empty((samples.rows, _CHANGES), dtype=np.int64)
    changed = cross(
        slot,
        verdict,
        samples.time_ns,
        values,
        samples.quality,
        -math.inf if config.below is None else config.below,
        math.inf if config.above is None else config.above,
        config.hysteresis,
        round(config.hold * 0.999e9),  # tags are rounded
        state.sides,
        changes,
    )
    messages: list[WireMessage] = []
    for row, side, to, quality in changes[:changed].tolist():
        limit = config.above if (to or side) == ABOVE else config.below
        assert limit is not None
        messages.append(
            Crossing(
                device=samples.devices[samples.device[row]],
                column=config.column,
                state=STATES[to],
                time_ns=int(samples.time_ns[row]),
                value=float(values[row]),
                limit=limit,
                quality=quality,
            )
        )
    return [*messages, *letters]


def _needs(config: ThresholdConfig) -> tuple[str, ...]:
    return (config.column,)


def _output(_config: ThresholdConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(Crossing)


def _delays(config: ThresholdConfig) -> Delays:
    return Delays(window_s=config.hold)


NODE = OperatorNode(
    kind="threshold",
    config=ThresholdConfig,
    inputs={"in": Input(accepts=(Samples,), needs=_needs, step=step)},
    output=_output,
    start=start,
    state_version=2,
    delays=_delays,
)
