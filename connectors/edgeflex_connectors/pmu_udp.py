"""`pmu_udp`: synchrophasors from PMUs and PDCs that send IEEE C37.118.2 frames over UDP on their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from edgeflex_connectors.c37118_columns import FIXED_COLUMNS
from edgeflex_connectors.c37118_files import read_config_file
from edgeflex_connectors.pmu_decoder import FrameDecoder, PmuSourceConfig
from edgeflex_connectors.pmu_frames import Block
from edgeflex_connectors.pmu_kept import KeptConfigs
from edgeflex_connectors.udp_drops import DropCounter
from edgeflex_connectors.udp_receive import BLOCK, UdpReceiver, group_problem
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, SourceNode, Wire, at_once, path, quantity, samples_wire, udp_port


class PmuUdpConfig(PmuSourceConfig, frozen=True, kw_only=True):
    """Synchrophasors from PMUs and PDCs that send IEEE C37.118.2 frames over UDP on their own.

    Takes data frames of any format (16-bit integer or float, polar or rectangular, one PMU or many in a frame) from any
    number of devices on one port, unicast, broadcast or of a multicast `group`. What the frames hold is told by
    configuration frames (CFG-2, CFG-1 or CFG-3, also in fragments), which devices repeat, say once a minute, or which
    `config_file` holds. Under `edgeflex up` the process of a new version, or of a flow that was killed, knows them from
    the one before. The node sends nothing: `pmu_client` speaks with devices that wait for commands, or use TCP.
    Frames are not authenticated; let only devices reach the port.

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

    port: Annotated[
        int, udp_port("UDP port to listen on; 0 takes any free one (for tests).", host="host", group="group")
    ]
    host: Annotated[
        str, Meta(min_length=1, description="Address of this machine to listen on. 0.0.0.0: on all its networks.")
    ] = "0.0.0.0"  # noqa: S104 - a PMU is another machine; a source that listens to itself alone would hear nothing
    group: Annotated[
        str | None,
        Meta(description="Multicast group (239.0.0.1) to join, on the network of `host`, and to listen to alone."),
    ] = None
    config_file: Annotated[
        str | None,
        path(
            "File with configuration frames to begin with: bytes as received, hexadecimal text, or a JSON list of such"
            " texts."
        ),
    ] = None
    receive_buffer: Annotated[
        float,
        quantity("B", "Room in the operating system for frames that wait to be read.", ge=4096, le=2**30),
    ] = 16 * 1024.0 * 1024.0
    before_config: Annotated[
        Literal["buffer", "count"],
        Meta(description="Data before their configuration: kept until it comes, or only counted as unknown_idcode."),
    ] = "buffer"

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        problem = None if self.group is None else group_problem(self.group)
        if problem is not None:
            yield FieldError(f"`group`: {problem}", "group", got=f"'{self.group}'")
        if self.group is not None and ":" in self.host:
            yield FieldError("`group` needs an IPv4 address as `host`", "host", "group", got=f"'{self.host}'")


class PmuUdpSource:
    """Reads blocks of datagrams and hands them to the decoder."""

    def __init__(self, config: PmuUdpConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._counters = context.counters
        self._decoder = FrameDecoder(config, context, self._peer_name, holds=config.before_config == "buffer")
        self._receiver: UdpReceiver | None = None
        self._drops: DropCounter | None = None
        self._kept: KeptConfigs | None = None

    # -- what the runtime calls --------------------------------------------------------------------------------------

    def open(self) -> None:
        config = self._config
        if config.config_file is not None:
            file = self._context.resolve(config.config_file)
            for frame in read_config_file(file):
                for problem in self._decoder.table.preload(frame):
                    self._context.log.warning("%s: %s", file, problem)
        self._receiver = UdpReceiver(
            config.host,
            config.port,
            int(config.receive_buffer),
            self._context.log,
            group=config.group,
            sockets=self._context.sockets,
        )
        self._drops = DropCounter(self._receiver, self._context)
        self._decoder.whole_frame = self._receiver.datagram
        if config.port:
            self._keep_configs()

    def _keep_configs(self) -> None:
        config = self._config
        where = f"{config.host} {config.port} {config.group or ''}"
        self._kept = kept = KeptConfigs(f"configurations udp {where}", self._context.sockets)
        for peer, each in kept:
            self._decoder.know(peer, each)
        self._decoder.on_changed = kept.put

    def poll(self) -> Sequence[Samples]:
        receiver, decoder = self._open_receiver(), self._decoder
        batches: list[Samples] = []
        decoder.fit_rows(batches)
        if not decoder.busy and receiver.stride < decoder.table.largest_data_bytes:
            receiver.fit(decoder.table.largest_data_bytes)
        datagrams = 0
        drained = False
        # Also bounded by datagrams: a flood of bad frames gives no rows, and must not keep the runtime waiting.
        while not decoder.full and datagrams < self._config.max_rows:
            if not decoder.busy:
                if drained:
                    break
                room = decoder.room
                if room == 0:
                    break
                most = min(room, BLOCK, self._config.max_rows - datagrams)
                received = receiver.receive(most)
                if received == 0:
                    break
                drained = received < most
                datagrams += received
                decoder.add(Block(receiver.data, receiver.stride, receiver.lengths, receiver.peers, received))
            if not decoder.decode(batches):
                break
        decoder.give(batches)
        if datagrams:
            assert self._drops is not None
            self._counters.add("frames", datagrams)
            self._drops.look(datagrams)
        return batches

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return self._open_receiver().fileno()

    def next_poll_ns(self) -> int | None:
        return self._context.clock.monotonic_ns() if self._decoder.busy else None

    def close(self) -> None:
        if self._receiver is None:
            return
        if self._drops is not None:
            self._drops.count()
        self._receiver.close()
        self._decoder.close()
        if self._kept is not None:
            self._kept.close()

    # -- for tests and programs that start a flow of their own -------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on, once open."""
        return self._open_receiver().port

    # ----------------------------------------------------------------------------------------------------------------

    def _open_receiver(self) -> UdpReceiver:
        assert self._receiver is not None, "open() comes first"
        return self._receiver

    def _peer_name(self, peer: int) -> str:
        return self._open_receiver().peer_name(peer)


def _output(config: PmuUdpConfig, inputs: Mapping[str, Wire]) -> Wire:
    del inputs
    return samples_wire(*FIXED_COLUMNS, *config.channels.values(), more_columns=True)


NODE = SourceNode(kind="pmu_udp", config=PmuUdpConfig, output=_output, open=PmuUdpSource, delays=at_once)
