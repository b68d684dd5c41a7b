"""What operators with a state per device share: a slot for each device, and whether its rows follow in time.

An operator first calls `DeviceClock.follow` on a batch. It gives each row the slot of its device (an index into the
operator's own arrays) and a verdict, so that no operator has to think again about bad rows, gaps, rows out of order,
clocks that jump, or streams that mention ever more devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.kernel import kernel
from edgeflex_flow.messages import DeadLetter, Quality, Samples

# Verdicts on rows. Compiled kernels of other files hold these numbers (numba#4807): never renumber them.
FOLLOWS = 0
"""The row is later than the device's last one."""
RESTARTS = 1
"""As FOLLOWS, but it is the device's first row, or the first after a gap, or after its clock was set back."""
UNUSABLE = 2
"""NaN, or flagged with a quality that the operator refuses. The device's time stays where it was."""
OUT_OF_ORDER = 3
"""Not later than the device's last row: to be dropped. Reported in `Rows.letters`."""
REFUSED = 4
"""A device beyond `max_devices`: to be dropped. Reported in `Rows.letters`."""

TEST = int(Quality.TEST)

CLOCK_SET_BACK_NS = 1_000_000_000
"""A device whose rows stay behind its last one for this long, while increasing among themselves, is believed: either
its clock was set back, or a single tag from the future had put the last row ahead."""

NO_GAP_NS = 2**62

UNSEEN = -1
BEYOND_LIMIT = -2

# Columns of the clock table.
STATUS, LAST_NS, BEHIND_SINCE_NS, BEHIND_LAST_NS = range(4)
NEW, STEADY, BEHIND = range(3)

NAMES_IN_A_LETTER = 5
NOMINALS_HZ = (50.0, 60.0)
NEAR_NOMINAL_HZ = 4.5
"""A frequency farther from both is no grid's, or in another unit; and with the wrong nominal H is wrong by a fifth."""
TUPLES_KNOWN = 16

AcceptTest: TypeAlias = Annotated[
    bool, Meta(description="Use rows of devices in test mode (flag `test`) like any other: for commissioning.")
]
"""Type of the config field `accept_test`."""


def read_only(dtype: str) -> str:
    """Numba's type of a one-dimensional input that a kernel only reads: any strides, writable or not."""
    return f"Array({dtype}, 1, 'A', readonly=True)"


class RowRules(NamedTuple):
    """What an operator asks of rows. Those that see each frame alone keep it with their state."""

    unusable: int
    """Quality flags of rows that it must not use."""
    max_gap_ns: int
    max_devices: int


def row_rules(refused: int, *, accept_test: bool, max_gap_s: float, max_devices: int) -> RowRules:
    """Rules that refuse rows with the flags `refused`, and by IEEE C37.118.2 those of devices in test mode.

    A gap is a time of more than `max_gap_s` and 1 % between two rows, since tags are rounded.
    """
    unusable = refused if accept_test else refused | TEST
    return RowRules(unusable, int(min(max_gap_s * 1.01e9, NO_GAP_NS)), max_devices)


class Rows(NamedTuple):
    """What is known of a batch's rows; arrays of shape (n,)."""

    slot: NDArray[np.int32]
    verdict: NDArray[np.uint8]
    letters: list[DeadLetter]
    """One for each reason for which rows are dropped."""


@kernel(
    f"UniTuple(int64, 3)(int64, int32[::1], {read_only('int32')}, {read_only('int64')}, {read_only('float64')}, "
    f"{read_only('uint16')}, int64, int64, int64[:, ::1], int32[::1], uint8[::1])"
)
def follow_rows(
    begin: int,
    slots: NDArray[np.int32],
    device: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    values: NDArray[np.float64],
    quality: NDArray[np.uint16],
    unusable: int,
    max_gap_ns: int,
    clock: NDArray[np.int64],
    slot: NDArray[np.int32],
    verdict: NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Fill `slot` and `verdict` from row `begin` on, and move the devices' clocks.

    Returns (row reached, rows out of order, rows of refused devices). The row reached is n, or that of a device which
    has no slot yet, or -1 when a device code is out of range.
    """
    out_of_order = 0
    refused = 0
    for i in range(begin, len(time_ns)):
        code = device[i]
        if code < 0 or code >= len(slots):
            return -1, out_of_order, refused
        d = slots[code]
        slot[i] = d
        if d < 0:
            if d == UNSEEN:
                return i, out_of_order, refused
            verdict[i] = REFUSED
            refused += 1
            continue
        if quality[i] & unusable != 0 or not np.isfinite(values[i]):
            verdict[i] = UNUSABLE
            continue
        now = time_ns[i]
        status = clock[d, STATUS]
        last = clock[d, LAST_NS]
        if status != NEW and now <= last:
            if status != BEHIND or now <= clock[d, BEHIND_LAST_NS]:
                clock[d, STATUS] = BEHIND
                clock[d, BEHIND_SINCE_NS] = now
            clock[d, BEHIND_LAST_NS] = now
            if now - clock[d, BEHIND_SINCE_NS] < CLOCK_SET_BACK_NS:
                verdict[i] = OUT_OF_ORDER
                out_of_order += 1
                continue
            status = NEW
        verdict[i] = RESTARTS if status == NEW or now - last > max_gap_ns else FOLLOWS
        clock[d, STATUS] = STEADY
        clock[d, LAST_NS] = now
    return len(time_ns), out_of_order, refused


@dataclass(slots=True)
class DeviceClock:
    """Slots of devices by name and the last time of each. Picklable; grows with the devices that send rows."""

    slot_of: dict[str, int] = field(default_factory=dict)
    clock: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int64))
    known: dict[int, tuple[tuple[str, ...], NDArray[np.int32]]] = field(default_factory=dict)
    """By id of a `devices` tuple: the tuple itself, so that the id stays its own, and the slot of each of its codes."""

    def __getstate__(self) -> tuple[dict[str, int], NDArray[np.int64]]:
        return self.slot_of, self.clock[: self.used]

    def __setstate__(self, state: tuple[dict[str, int], NDArray[np.int64]]) -> None:
        self.slot_of, self.clock = state
        self.known = {}

    @property
    def used(self) -> int:
        """How many slots are taken."""
        return len(self.slot_of)

    def follow(self, samples: Samples, values: NDArray[np.float64], rules: RowRules) -> Rows:
        """Slots and verdicts of a batch's rows; `values` is the column that must be finite.

        Raises BadMessageError when the batch is malformed: its parts differ in length, or a device code is out of
        range.
        """
        n = len(samples.time_ns)
        if not n == len(samples.device) == len(samples.quality) == len(values):
            raise BadMessageError("; ".join(samples.problems()), reason="malformed_samples")
        slots = self._slots(samples.devices)
        slot = np.empty(n, dtype=np.int32)
        verdict = np.empty(n, dtype=np.uint8)
        at = out_of_order = refused = 0
        while True:
            at, late, beyond = follow_rows(
                at,
                slots,
                samples.device,
                samples.time_ns,
                values,
                samples.quality,
                rules.unusable,
                rules.max_gap_ns,
                self.clock,
                slot,
                verdict,
            )
            out_of_order += late
            refused += beyond
            if at == n:
                break
            if at < 0:
                raise BadMessageError("; ".join(samples.problems()), reason="malformed_samples")
            self._admit(samples, slots, at, rules.max_devices)
        letters: list[DeadLetter] = []
        if out_of_order:
            text = "rows not later than the last one of their device"
            letters.append(_letter("out_of_order", text, samples, verdict == OUT_OF_ORDER))
        if refused:
            text = f"rows of devices beyond max_devices ({rules.max_devices})"
            letters.append(_letter("too_many_devices", text, samples, verdict == REFUSED))
        return Rows(slot, verdict, letters)

    def _slots(self, devices: tuple[str, ...]) -> NDArray[np.int32]:
        known = self.known.get(id(devices))
        if known is not None and known[0] is devices:
            return known[1]
        if len(self.known) >= TUPLES_KNOWN:
            self.known.clear()
        slots = np.array([self.slot_of.get(name, UNSEEN) for name in devices], dtype=np.int32)
        self.known[id(devices)] = devices, slots
        return slots

    def _admit(self, samples: Samples, slots: NDArray[np.int32], begin: int, max_devices: int) -> None:
        """Give slots to all devices that have rows from `begin` on; not to those that are merely listed."""
        codes = np.unique(samples.device[begin:])
        codes = codes[(codes >= 0) & (codes < len(slots))]
        for code in codes[slots[codes] == UNSEEN].tolist():
            name = samples.devices[code]
            if name not in self.slot_of and self.used < max_devices:
                self.slot_of[name] = self.used
            slots[code] = self.slot_of.get(name, BEYOND_LIMIT)
        self.clock = grown(self.clock, self.used)


def grown(table: NDArray[Any], devices: int) -> NDArray[Any]:
    """The table (a row a device), or one with at least `devices` rows that starts with its rows; new ones are zero."""
    if devices <= len(table):
        return table
    bigger = np.zeros((max(8, 2 * len(table), devices), *table.shape[1:]), dtype=table.dtype)
    bigger[: len(table)] = table
    return bigger


def grown_rings(rings: NDArray[Any], devices: int) -> NDArray[Any]:
    """As `grown`, for rings: shape (capacity, devices).

    Rings lie side by side because rows come device after device: neighbours in a batch are then neighbours in memory.
    With a ring after the other, `frequency_event` takes twice as long.
    """
    return np.ascontiguousarray(grown(rings.T, devices).T)


def unrolled(rings: NDArray[Any], first: NDArray[np.int64], count: NDArray[np.int64], capacity: int) -> NDArray[Any]:
    """Rings of shape (any, devices) moved so that the oldest of `count` entries of each stands at index 0.

    `first` is the index of the oldest entry. The result has shape (capacity, devices); entries not in use are 0.
    """
    width = int(count.max(initial=0))
    moved = np.zeros((capacity, rings.shape[1]), dtype=rings.dtype)
    if width == 0:
        return moved
    place = np.arange(width)[:, None]
    entries = np.take_along_axis(rings, (first + place) % len(rings), axis=0)
    moved[:width] = np.where(place < count, entries, 0)
    return moved


def near_nominal(
    samples: Samples, frequency_hz: NDArray[np.float64], nominal_hz: float
) -> tuple[NDArray[np.float64], list[DeadLetter]]:
    """The frequencies, or NaN if most are of a grid of another nominal frequency, and a letter about that: H would be
    wrong by a fifth."""
    known = frequency_hz[np.isfinite(frequency_hz)]
    middle_hz = float(np.median(known)) if len(known) else nominal_hz
    others = [each for each in NOMINALS_HZ if abs(each - nominal_hz) > NEAR_NOMINAL_HZ]
    if not any(abs(middle_hz - other) < NEAR_NOMINAL_HZ for other in others):
        return frequency_hz, []
    text = f"rows of {middle_hz:.4g} Hz, nominal is {nominal_hz:g} Hz; is `nominal` right?"
    return np.full_like(frequency_hz, np.nan), [
        _letter("not_nominal", text, samples, np.ones(samples.rows, dtype=np.bool_))
    ]


def _letter(reason: str, text: str, samples: Samples, rows: NDArray[np.bool_]) -> DeadLetter:
    codes = np.unique(samples.device[rows])
    names = ", ".join(f"'{samples.devices[code]}'" for code in codes[:NAMES_IN_A_LETTER].tolist())
    more = f" and {len(codes) - NAMES_IN_A_LETTER} more devices" if len(codes) > NAMES_IN_A_LETTER else ""
    count = int(rows.sum())
    return DeadLetter(node="", reason=reason, text=f"{count} {text}: {names}{more}", time_ns=0, count=count)
