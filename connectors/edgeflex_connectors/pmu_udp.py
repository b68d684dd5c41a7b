"""`pmu_udp`: synchrophasors from PMUs and PDCs that send IEEE C37.118.2 frames over UDP on their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from msgspec import Meta, field

from edgeflex_connectors import c37118_kernel as kernel
from edgeflex_connectors.c37118 import FrameError, decode_config, decode_frame
from edgeflex_connectors.c37118_columns import COMPUTED_COLUMNS, FIXED_COLUMNS
from edgeflex_connectors.c37118_files import read_config_file
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
from edgeflex_connectors.udp_receive import BLOCK, UdpReceiver
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, NodeConfig, SourceNode, Wire, path, quantity, samples_wire, udp_port
from edgeflex_flow.units import names_its_unit

_DEAD_LETTER_PERIOD_NS: Final = 1_000_000_000
_DROP_WARNING_PERIOD_NS: Final = 10_000_000_000
_DROPS_PERIOD_NS: Final = 100_000_000
_FEW: Final = 4
"""After a burst the system is asked at once what it dropped, after few datagrams only now and then: it costs 7 µs."""

ChannelName: TypeAlias = Annotated[str, Meta(min_length=1)]
ColumnName: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)+$")]
IdcodeText: TypeAlias = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,4}$")]
DeviceName: TypeAlias = Annotated[str, Meta(min_length=1)]


class PmuUdpConfig(NodeConfig, frozen=True, kw_only=True):
    """Synchrophasors from PMUs and PDCs that send IEEE C37.118.2 frames over UDP on their own.

    Takes data frames of any format (16-bit integer or float, polar or rectangular, one PMU or many in a frame) from any
    number of devices on one port. What the frames hold is told by configuration frames (CFG-2, CFG-1 or an
    unfragmented CFG-3), which devices repeat, say once a minute, or which `config_file` holds. The node sends nothing:
    devices that wait for commands, or use TCP, need another kind. Frames are not authenticated; let only devices reach
    the port.

    A device is a PMU, named by `names`, else by its station name. A second device of the same name gets its IDCODE
    added; such names depend on which device came first, so prefer `names` then. Streams are told apart by the address
    of the host that sends and the IDCODE in its frames. When a device sends another configuration, its data are decoded
    by that from then on, and the log says what changed.

    Input:
        None.

    Output:
        Samples with `frequency_hz`, `dfreq_hz_per_s` (the device's own rate of change, too noisy to trip on: see
        `rocof`) and the columns of all channels. A channel listed in `channels` goes by that column; a phasor adds a
        column for its angle, `voltage_angle_rad` beside `voltage_v`. Magnitudes are converted to the unit of the
        column (V, kV, A, kA); analogs are taken as sent, so that the column must name the unit that the device uses.
        Other channels get columns by their own names: phasor VA `va_v` and `va_angle_rad`, analog P `p_raw`, digital
        words `digital1_bits`. A column that a device lacks, and a value that it marks as absent, is NaN.
        `quality` follows from STAT and the time-quality byte: data error -> BAD_DATA (or TEST for test mode); no
        frequency -> BAD_DATA; not synchronised or clock failure -> SYNC_LOST; time error of 100 µs or more, or sorted
        by arrival -> TIME_UNCERTAIN; modified by the sender -> ESTIMATED.

    Errors:
        FatalError: the port is in use, or `config_file` cannot be read.
        Frames that cannot be used are counted by reason: `truncated`, `bad_sync`, `bad_version`, `bad_size`, `bad_crc`,
        `bad_config`, `size_mismatch` (data that do not fit their configuration), `unknown_idcode` (data whose
        configuration never came), `table_full` (more streams,
        devices or columns than the node keeps); one a second of each reason becomes a dead letter. Data before
        their configuration count as `before_config` and are given out when it comes (at most 4096 frames are kept).
        `kernel_drops` counts what the operating system dropped because the node did not read fast enough. Also
        counted: `frames` (all datagrams), `rows`, `config_frames`, `config_changes`, `config_announced` (rows whose
        STAT announces a change), `header_frames`, `command_frames`, `undecoded` (received, but the flow ended first).

    Source:
        IEEE Std C37.118.2-2011, clause 6 and annex F (spontaneous data transmission over UDP).

    >>> config = PmuUdpConfig(port=4713, channels={"V1": "voltage_v"})
    >>> sorted(NODE.output(config, {}).columns)
    ['dfreq_hz_per_s', 'frequency_hz', 'voltage_v']
    """

    port: Annotated[int, udp_port("UDP port to listen on; 0 takes any free one (for tests).", host="host")]
    host: Annotated[
        str, Meta(min_length=1, description="Address of this machine to listen on. 0.0.0.0: on all its networks.")
    ] = "0.0.0.0"  # noqa: S104 - a PMU is another machine; a source that listens to itself alone would hear nothing
    config_file: Annotated[
        str | None,
        path(
            "File with configuration frames to begin with: bytes as received, hexadecimal text, or a JSON list of such"
            " texts."
        ),
    ] = None
    names: Annotated[dict[IdcodeText, DeviceName], Meta(description="Device names by IDCODE of the PMU.")] = field(
        default_factory=dict
    )
    channels: Annotated[
        dict[ChannelName, ColumnName],
        Meta(description="Columns by name of the phasor or analog: {V1: voltage_v, P: active_power_w}."),
    ] = field(default_factory=dict)
    receive_buffer: Annotated[
        float,
        quantity("B", "Room in the operating system for frames that wait to be read.", ge=4096, le=2**30),
    ] = 16 * 1024.0 * 1024.0
    before_config: Annotated[
        Literal["buffer", "count"],
        Meta(description="Data before their configuration: kept until it comes, or only counted as unknown_idcode."),
    ] = "buffer"
    max_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="Most rows of one batch.")] = 8192

    def refusals(self) -> Iterator[FieldError]:
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


class PmuUdpSource:
    """Reads blocks of datagrams and hands them to the kernel, which decodes them; does the rare rest in Python."""

    def __init__(self, config: PmuUdpConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._counters = context.counters
        self._table = StreamTable(config.names, config.channels)
        self._receiver: UdpReceiver | None = None
        self._rows = Rows(0, ())
        self._status = np.zeros(BLOCK, dtype=np.int8)
        self._counts = np.zeros(kernel.COUNTS, dtype=np.int64)
        self._blocks: list[Block] = []
        """Blocks not decoded to their end; the last goes first."""
        self._held = HeldFrames()
        self._announced: set[str] = set()
        self._spoke_ns: dict[str, int] = {}
        self._drops_read_ns = 0

    # -- what the runtime calls --------------------------------------------------------------------------------------

    def open(self) -> None:
        if self._config.config_file is not None:
            file = self._context.resolve(self._config.config_file)
            for config in read_config_file(file):
                for problem in self._table.preload(config):
                    self._context.log.warning("%s: %s", file, problem)
        self._receiver = UdpReceiver(
            self._config.host, self._config.port, int(self._config.receive_buffer), self._context.log
        )

    def poll(self) -> Sequence[Samples]:
        receiver = self._open_receiver()
        batches: list[Samples] = []
        self._fit_rows(batches)
        if not self._blocks and receiver.stride < self._table.largest_data_bytes:
            receiver.fit(self._table.largest_data_bytes)
        datagrams = 0
        drained = False
        # Also bounded by datagrams: a flood of bad frames gives no rows, and must not keep the runtime waiting.
        while self._rows.filled < self._rows.capacity and datagrams < self._config.max_rows:
            if not self._blocks:
                if drained:
                    break
                room = (self._rows.capacity - self._rows.filled) // self._table.most_rows
                if room == 0:
                    break
                most = min(room, BLOCK, self._config.max_rows - datagrams)
                received = receiver.receive(most)
                if received == 0:
                    break
                drained = received < most
                datagrams += received
                self._blocks.append(Block(receiver.data, receiver.stride, receiver.lengths, receiver.peers, received))
            if not self._decode(self._blocks[-1], batches):
                break
        self._give(batches)
        if datagrams:
            self._counters.add("frames", datagrams)
            if datagrams > _FEW or self._context.clock.monotonic_ns() - self._drops_read_ns >= _DROPS_PERIOD_NS:
                self._count_kernel_drops(receiver)
        return batches

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return self._open_receiver().fileno()

    def next_poll_ns(self) -> int | None:
        return self._context.clock.monotonic_ns() if self._blocks else None

    def close(self) -> None:
        if self._receiver is None:
            return
        self._count_kernel_drops(self._receiver)
        self._receiver.close()
        if self._held:
            self._counters.add("unknown_idcode", len(self._held))
            self._held = HeldFrames()
        if self._blocks:
            self._counters.add("undecoded", sum(block.count - block.next for block in self._blocks))
            self._blocks.clear()

    # -- for tests and programs that start a flow of their own -------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on, once open."""
        return self._open_receiver().port

    # -- decoding ----------------------------------------------------------------------------------------------------

    def _open_receiver(self) -> UdpReceiver:
        assert self._receiver is not None, "open() comes first"
        return self._receiver

    def _decode(self, block: Block, batches: list[Samples]) -> bool:
        """Go on with a block; whether there is room for more rows."""
        table, rows, first = self._table, self._rows, block.next
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
            self._fit_rows(batches)
        elif state == kernel.ADOPT:
            self._adopt(block, stop, batches)
        elif state == kernel.OVERSIZE:
            block.next = stop + 1
            self._blocks.append(block_of([self._open_receiver().datagram(stop)], int(block.peers[stop])))
        else:
            block.next = stop + 1
            self._configure(block, stop, batches)
        return True

    def _fit_rows(self, batches: list[Samples]) -> None:
        """Make room for the columns and the largest frame that are known now; gives out what was there before."""
        most = min(self._config.max_rows, MOST_CELLS // len(self._table.columns))
        capacity = max(most, self._table.most_rows)
        if self._rows.capacity < capacity or self._rows.names != self._table.columns:
            self._give(batches)
            self._rows = Rows(capacity, self._table.columns)

    def _give(self, batches: list[Samples]) -> None:
        if self._rows.filled:
            self._counters.add("rows", self._rows.filled)
            batches.append(self._rows.take(self._table.devices, self._context.clock.now_ns()))

    # -- frames that are not plain data ------------------------------------------------------------------------------

    def _odd_frames(self, block: Block, first: int, stop: int) -> None:
        status = self._status[first:stop]
        for code, name in ((kernel.HEADER_FRAME, "header_frames"), (kernel.COMMAND_FRAME, "command_frames")):
            if self._counts[code]:
                self._counters.add(name, int(self._counts[code]))
        for code, reason in REJECTED.items():
            if self._counts[code]:
                index = first + int(np.flatnonzero(status == code)[0])
                self._reject(reason, int(self._counts[code]), block, index)
        if self._counts[kernel.UNKNOWN_IDCODE]:
            for place in np.flatnonzero(status == kernel.UNKNOWN_IDCODE):
                self._hold(block, first + int(place))

    def _reject(self, reason: str, count: int, block: Block, index: int) -> None:
        """Count frames under a reason; the one at `index` becomes a dead letter, if none did just now."""
        if not self._may_speak(reason, _DEAD_LETTER_PERIOD_NS):
            self._counters.add(reason, count)
            return
        self._dead_letter(reason, block.frame(index), int(block.peers[index]))
        if count > 1:
            self._counters.add(reason, count - 1)

    def _dead_letter(self, reason: str, frame: bytes, peer: int) -> None:
        """The context counts it under its reason."""
        config = self._table.config_of(peer, int.from_bytes(frame[4:6], "big"))
        text = f"frame cannot be used: {reason}"
        try:
            decode_frame(frame, config)
        except FrameError as error:
            text = str(error)
        self._context.dead_letter(reason, f"from {self._peer_name(peer)}: {text}", frame)

    def _may_speak(self, subject: str, period_ns: int) -> bool:
        """True at most once in a period for each subject."""
        now_ns = self._context.clock.monotonic_ns()
        spoke_ns = self._spoke_ns.get(subject)
        if spoke_ns is not None and now_ns - spoke_ns < period_ns:
            return False
        self._spoke_ns[subject] = now_ns
        return True

    def _hold(self, block: Block, index: int) -> None:
        """Keep a data frame until its configuration comes, if the flow wants so."""
        frame = HeldFrame(int(block.peers[index]), block.idcode(index), block.frame(index))
        if self._config.before_config == "count":
            self._lose(frame)
            return
        self._counters.add("before_config")
        for oldest in self._held.add(frame):
            self._lose(oldest)

    def _lose(self, held: HeldFrame) -> None:
        if self._may_speak("unknown_idcode", _DEAD_LETTER_PERIOD_NS):
            self._dead_letter("unknown_idcode", held.frame, held.peer)
        else:
            self._counters.add("unknown_idcode")

    def _peer_name(self, peer: int) -> str:
        return self._open_receiver().peer_name(peer)

    # -- configurations ----------------------------------------------------------------------------------------------

    def _configure(self, block: Block, index: int, batches: list[Samples]) -> None:
        self._counters.add("config_frames")
        peer = int(block.peers[index])
        try:
            config = decode_config(block.frame(index))
            outcome = self._table.configure(peer, config, self._peer_name(peer))
        except FrameError as error:
            self._reject(error.reason, 1, block, index)
            return
        except TableFullError:
            self._reject("table_full", 1, block, index)
            return
        self._after_configuration(peer, config.header.idcode, outcome, batches)

    def _adopt(self, block: Block, index: int, batches: list[Samples]) -> None:
        peer, idcode = int(block.peers[index]), block.idcode(index)
        try:
            outcome = self._table.adopt(peer, idcode, self._peer_name(peer))
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
        self._fit_rows(batches)
        waiting = self._held.release(peer, idcode)
        if waiting:
            # On top of the stack: in front of all that came later.
            self._blocks.append(block_of(waiting, peer))

    # -- what only the log and the counters tell ---------------------------------------------------------------------

    def _note_announced(self) -> None:
        self._counters.add("config_announced", int(self._counts[kernel.ANNOUNCED]))
        for name in self._table.announced_devices():
            if name not in self._announced:
                self._announced.add(name)
                self._context.log.warning("%s announces that its configuration will change within a minute", name)

    def _count_kernel_drops(self, receiver: UdpReceiver) -> None:
        self._drops_read_ns = self._context.clock.monotonic_ns()
        before = receiver.kernel_drops
        drops = receiver.read_kernel_drops()
        if drops is None or drops == before:
            return
        self._counters.set("kernel_drops", drops)
        if self._may_speak("kernel_drops", _DROP_WARNING_PERIOD_NS):
            self._context.log.warning(
                "the operating system dropped frames that were not read in time: %d so far", drops
            )


def _output(config: PmuUdpConfig, inputs: Mapping[str, Wire]) -> Wire:
    del inputs
    return samples_wire(*FIXED_COLUMNS, *config.channels.values(), more_columns=True)


NODE = SourceNode(kind="pmu_udp", config=PmuUdpConfig, output=_output, open=PmuUdpSource)
