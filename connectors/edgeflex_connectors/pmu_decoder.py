"""What sources of synchrophasors share: their settings, and how blocks of frames become batches of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Final, TypeAlias

import numpy as np
from msgspec import Meta, field

from edgeflex_connectors import c37118_kernel as kernel
from edgeflex_connectors.c37118 import ConfigFrame, FrameError, HeaderFrame, decode_frame
from edgeflex_connectors.c37118_columns import COMPUTED_COLUMNS, FIXED_COLUMNS
from edgeflex_connectors.c37118_fragments import FragmentedConfigs
from edgeflex_connectors.c37118_table import Outcome, StreamTable, TableFullError
from edgeflex_connectors.pmu_frames import (
    MOST_CELLS,
    REJECTED,
    Block,
    HeldFrame,
    HeldFrames,
    Rows,
    block_of,
    decode_block,
)
from edgeflex_connectors.speaker import Speaker
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, NodeConfig
from edgeflex_flow.units import names_its_unit

LARGEST_IDCODE: Final = 65_534
_HEADER_SHOWN: Final = 500
"""Characters of a header's text that the log shows."""

ChannelName: TypeAlias = Annotated[str, Meta(min_length=1)]
ColumnName: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)+$")]
IdcodeText: TypeAlias = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,4}$", examples=["7"])]
DeviceName: TypeAlias = Annotated[str, Meta(min_length=1)]


class PmuSourceConfig(NodeConfig, frozen=True, kw_only=True):
    """Settings that all sources of synchrophasors have."""

    names: Annotated[dict[IdcodeText, DeviceName], Meta(description="Device names by IDCODE of the PMU.")] = field(
        default_factory=dict
    )
    channels: Annotated[
        dict[ChannelName, ColumnName],
        Meta(description="Columns by name of the phasor or analog: {V1: voltage_v, P: active_power_w}."),
    ] = field(default_factory=dict)
    max_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="Most rows of one batch.")] = 8192

    def refusals(self) -> Iterator[FieldError]:
        for idcode in self.names:
            if int(idcode) > LARGEST_IDCODE:
                text = f"`names`: an IDCODE is a number from 1 to {LARGEST_IDCODE}"
                yield FieldError(text, f"names.{idcode}", got=f"'{idcode}'")
        for channel, column in self.channels.items():
            at = f"channels.{channel}"
            if not names_its_unit(column):
                text = f"column '{column}' of channel '{channel}' must end in its unit, as in voltage_v"
                yield FieldError(text, at)
            if column in FIXED_COLUMNS:
                yield FieldError(f"column '{column}' of channel '{channel}' is taken by the frame's own field", at)
            if column in COMPUTED_COLUMNS:
                text = f"column '{column}' is what node kind '{COMPUTED_COLUMNS[column]}' computes from the frequency"
                how = f"no channel may pass for it; name channel '{channel}' otherwise, as in pmu_{column}"
                yield FieldError(f"{text}: {how}", at)
        for kind, field_name, values in (("column", "channels", self.channels), ("device", "names", self.names)):
            first: dict[str, str] = {}
            for key, value in values.items():
                if value in first:
                    fields = f"{field_name}.{key}", f"{field_name}.{first[value]}"
                    yield FieldError(f"{kind} '{value}' is given twice", *fields)
                first.setdefault(value, key)


class FrameDecoder:
    """Hands blocks of frames to the kernel, which decodes data; does the rare rest in Python.

    Give it frames by `add`, no more than `room` tells, call `decode` until it says that it stopped, and fetch the
    rows by `give`. What it cannot use it counts, and tells once a second for each reason.

    `peer_name` names a peer for people. `holds`: data of a stream whose configuration is not known are kept until it
    comes. `asks`: whoever calls can ask for a configuration, and is told by `on_stale` when it should; data are held
    meanwhile instead of being decoded by a configuration that may be over.
    """

    def __init__(
        self,
        config: PmuSourceConfig,
        context: Context,
        peer_name: Callable[[int], str],
        *,
        holds: bool = True,
        asks: bool = False,
    ) -> None:
        self._max_rows = config.max_rows
        self._context = context
        self._counters = context.counters
        self._peer_name = peer_name
        self._holds = holds
        self._asks = asks
        self.table = StreamTable(config.names, config.channels)
        self._fragments = FragmentedConfigs()
        self._rows = Rows(0, ())
        self._status = np.zeros(0, dtype=np.int8)
        self._counts = np.zeros(kernel.COUNTS, dtype=np.int64)
        self._blocks: list[Block] = []
        """Blocks not decoded to their end; the last goes first."""
        self._held = HeldFrames()
        context.gauges.watch("queue_messages", lambda: len(self._held))
        self._announced: set[str] = set()
        self._headers: dict[tuple[int, int], str] = {}
        self._speaker = Speaker(context)
        self.on_config: Callable[[ConfigFrame], None] = _nothing
        self.on_changed: Callable[[int, ConfigFrame], None] = _nothing
        """Called with peer and configuration when a stream has another than before."""
        self.on_announced: Callable[[], None] = _silence
        self.on_stale: Callable[[], None] = _silence
        self.whole_frame: Callable[[int], bytes] = _never
        """Gives frame i of the last block whole, if frames may be longer than their slot."""

    # -- what the source calls ---------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether frames wait to be decoded that need no more than another call."""
        return bool(self._blocks)

    @property
    def full(self) -> bool:
        return self._rows.filled >= self._rows.capacity

    @property
    def room(self) -> int:
        """How many frames fit now, whatever they hold; 0: `give` first."""
        return (self._rows.capacity - self._rows.filled) // self.table.most_rows

    def add(self, block: Block) -> None:
        self._blocks.append(block)

    def decode(self, batches: list[Samples]) -> bool:
        """Go on with the newest block; whether there is room for more rows."""
        block = self._blocks[-1]
        table, rows, first = self.table, self._rows, block.next
        if len(self._status) < block.count:
            self._status = np.zeros(block.count, dtype=np.int8)
        state = decode_block(table, rows, block, self._status, self._counts)
        stop = block.next
        if self._counts[kernel.DECODED] != stop - first:
            self._odd_frames(block, first, stop)
        if self._counts[kernel.ANNOUNCED]:
            self._note_announced()
        self._counts[:] = 0
        if stop == block.count:
            self._blocks.pop()
            return True
        if state == kernel.FULL:
            if rows.filled:
                return False
            self.fit_rows(batches)
        elif state == kernel.ADOPT:
            self._adopt(block, stop, batches)
        elif state == kernel.OVERSIZE:
            block.next = stop + 1
            self._blocks.append(block_of([self.whole_frame(stop)], int(block.peers[stop])))
        elif state == kernel.CHANGED:
            # Held from here on until the configuration comes again.
            self.table.suspend(int(block.peers[stop]), block.idcode(stop))
            self.on_stale()
        else:
            block.next = stop + 1
            self._configure(block, stop, batches)
        return True

    def fit_rows(self, batches: list[Samples]) -> None:
        """Make room for the columns and the largest frame that are known now; gives out what was there before."""
        most = min(self._max_rows, MOST_CELLS // len(self.table.columns))
        capacity = max(most, self.table.most_rows)
        if self._rows.capacity < capacity or self._rows.names != self.table.columns:
            self.give(batches)
            self._rows = Rows(capacity, self.table.columns)

    def give(self, batches: list[Samples]) -> None:
        """Add the rows so far as a batch, if there are any."""
        if self._rows.filled:
            self._counters.add("rows", self._rows.filled)
            batches.append(self._rows.take(self.table.devices, self._context.clock.now_ns()))

    def know(self, peer: int, config: ConfigFrame) -> None:
        """Know the configuration that a peer sent to the process before this one, until it sends another."""
        with suppress(TableFullError):
            outcome = self.table.configure(peer, config, self._peer_name(peer))
            self._after_configuration(peer, config.header.idcode, outcome, [])

    def forget(self, peer: int, idcode: int) -> None:
        """The only connection is over: the configuration may be another when it comes back, so that nothing is decoded
        before it is told again, and what still waits never is."""
        self.table.suspend(peer, idcode)
        self.close()

    def close(self) -> None:
        """Count what was received and not decoded."""
        if self._held:
            self._counters.add("unknown_idcode", len(self._held))
            self._held = HeldFrames()
        if self._blocks:
            self._counters.add("undecoded", sum(block.count - block.next for block in self._blocks))
            self._blocks.clear()

    # -- frames that are not plain data ------------------------------------------------------------------------------

    def _odd_frames(self, block: Block, first: int, stop: int) -> None:
        status = self._status[first:stop]
        for code, name in ((kernel.HEADER_FRAME, "header_frames"), (kernel.COMMAND_FRAME, "command_frames")):
            if self._counts[code]:
                self._counters.add(name, int(self._counts[code]))
        if self._counts[kernel.HEADER_FRAME]:
            self._tell_headers(block, first + np.flatnonzero(status == kernel.HEADER_FRAME))
        for code, reason in REJECTED.items():
            if self._counts[code]:
                index = first + int(np.flatnonzero(status == code)[0])
                self._reject(reason, int(self._counts[code]), block, index)
        if self._counts[kernel.SIZE_MISMATCH]:
            self.on_stale()
        if self._counts[kernel.UNKNOWN_IDCODE]:
            for place in np.flatnonzero(status == kernel.UNKNOWN_IDCODE):
                self._hold(block, first + int(place))

    def _tell_headers(self, block: Block, places: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        """Log the text of each header that is new; devices repeat them."""
        for place in places.tolist():
            frame = decode_frame(block.frame(place))
            assert isinstance(frame, HeaderFrame)
            key, text = (int(block.peers[place]), frame.header.idcode), frame.text[:_HEADER_SHOWN]
            if self._headers.get(key) == text or not self._speaker.may_speak("header"):
                continue
            if len(self._headers) >= 1024:
                self._headers.clear()
            self._headers[key] = text
            shown = "".join(character if character.isprintable() else " " for character in text).strip()
            self._context.log.info("header of stream %d from %s: %s", key[1], self._peer_name(key[0]), shown)

    def _reject(self, reason: str, count: int, block: Block, index: int) -> None:
        """Count frames under a reason; the one at `index` becomes a dead letter, if none did just now."""
        if not self._speaker.may_speak(reason):
            self._counters.add(reason, count)
            return
        self._dead_letter(reason, block.frame(index), int(block.peers[index]))
        if count > 1:
            self._counters.add(reason, count - 1)

    def _dead_letter(self, reason: str, frame: bytes, peer: int) -> None:
        """The context counts it under its reason."""
        config = self.table.config_of(peer, int.from_bytes(frame[4:6], "big"))
        text = f"frame cannot be used: {reason}"
        try:
            decode_frame(frame, config)
        except FrameError as error:
            text = str(error)
        self._context.dead_letter(reason, f"from {self._peer_name(peer)}: {text}", frame)

    def _hold(self, block: Block, index: int) -> None:
        """Keep a data frame until its configuration comes, if the flow wants so."""
        frame = HeldFrame(int(block.peers[index]), block.idcode(index), block.frame(index))
        if not self._holds:
            self._lose(frame)
            return
        self._counters.add("before_config")
        for oldest in self._held.add(frame):
            self._lose(oldest)

    def _lose(self, held: HeldFrame) -> None:
        if self._speaker.may_speak("unknown_idcode"):
            self._dead_letter("unknown_idcode", held.frame, held.peer)
        else:
            self._counters.add("unknown_idcode")

    # -- configurations ----------------------------------------------------------------------------------------------

    def _configure(self, block: Block, index: int, batches: list[Samples]) -> None:
        self._counters.add("config_frames")
        peer = int(block.peers[index])
        try:
            config = self._fragments.decode(peer, block.frame(index))
            if config is None:
                return
            outcome = self.table.configure(peer, config, self._peer_name(peer))
        except FrameError as error:
            self._reject(error.reason, 1, block, index)
            return
        except TableFullError:
            self._reject("table_full", 1, block, index)
            return
        self._after_configuration(peer, config.header.idcode, outcome, batches)
        if outcome.new or outcome.changes:
            self.on_changed(peer, config)
        self.on_config(config)

    def _adopt(self, block: Block, index: int, batches: list[Samples]) -> None:
        peer, idcode = int(block.peers[index]), block.idcode(index)
        try:
            outcome = self.table.adopt(peer, idcode, self._peer_name(peer))
        except TableFullError:
            block.next = index + 1
            self._reject("table_full", 1, block, index)
            return
        self._after_configuration(peer, idcode, outcome, batches)

    def _after_configuration(self, peer: int, idcode: int, outcome: Outcome, batches: list[Samples]) -> None:
        log = self._context.log
        stream = f"stream {idcode} from {self._peer_name(peer)}"
        if outcome.new:
            log.info("%s: %s", stream, ", ".join(outcome.devices))
        if outcome.changes:
            self._counters.add("config_changes")
            devices = ", ".join(outcome.devices)
            log.warning("%s changed its configuration: %s", devices, "; ".join(outcome.changes))
            self._announced.difference_update(outcome.devices)
        for problem in outcome.problems:
            log.warning("%s: %s", stream, problem)
        self.fit_rows(batches)
        waiting = self._held.release(peer, idcode)
        if waiting:
            # On top of the stack: in front of all that came later.
            self._blocks.append(block_of(waiting, peer))

    def _note_announced(self) -> None:
        self._counters.add("config_announced", int(self._counts[kernel.ANNOUNCED]))
        new = [name for name in self.table.announced_devices() if name not in self._announced]
        for name in new:
            self._announced.add(name)
            self._context.log.warning("%s announces that its configuration will change within a minute", name)
        if self._asks:
            self.table.watch_announced()
            if new:
                self.on_announced()


def _nothing(*_told: object) -> None:
    return None


def _silence() -> None:
    return None


def _never(index: int) -> bytes:
    raise AssertionError(f"frame {index} is longer than its slot")
