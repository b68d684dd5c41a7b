"""`pmu_send`: the samples of a flow as a stream of IEEE C37.118.2."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
from msgspec import Meta, field
from numpy.typing import NDArray

from edgeflex_connectors.c37118_columns import DFREQ, FREQUENCY, without_unit
from edgeflex_connectors.c37118_config import NAME_BYTES, Analog, ConfigFrame, Digital, Phasor, PmuConfig
from edgeflex_connectors.c37118_encode import FORMAT, PMU_ERROR, encode_frames, stat_words, time_counts
from edgeflex_connectors.c37118_fragments import encode_config_frames
from edgeflex_connectors.c37118_header import FrameHeader, FrameType
from edgeflex_connectors.pmu_server import LARGEST_DATAGRAM, PmuServer, ServedStream, config_of_kind, udp_sender
from edgeflex_connectors.speaker import Speaker
from edgeflex_flow.errors import FatalError, FieldError, RetryableError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import (
    DEFAULT_PORT,
    Context,
    Input,
    NetworkPort,
    NodeConfig,
    SinkNode,
    WireMessage,
    at_once,
    quantity,
)
from edgeflex_flow.units import column_unit

NS: Final = 1_000_000_000
SET_BACK_S: Final = 10
"""Time tags this far before the last ones are of a clock that was set back, or of a recording that begins again."""
FLUSH_S: Final = 2.0
_KINDS: Final = {"cfg2": FrameType.CFG2, "cfg3": FrameType.CFG3}

ChannelName: TypeAlias = Annotated[str, Meta(min_length=1)]
DeviceName: TypeAlias = Annotated[str, Meta(min_length=1)]
Idcode: TypeAlias = Annotated[int, Meta(ge=1, le=65534)]


class PmuSendConfig(NodeConfig, frozen=True, kw_only=True):
    """The samples of a flow as a stream of IEEE C37.118.2: to other control rooms, or to tools that read PMUs.

    One stream with one PMU for each of `devices`. All rows of one time make one frame; put `pmu_align` before it when
    they come from several streams, since each time is sent once: rows that come later are counted and not sent. A
    device without a row at that time goes out with absent values (NaN) and the data error "no information" in STAT.

    `transport: udp` sends frames to `host`:`port`, unicast, broadcast or a multicast group, whether somebody listens or
    not, and the configuration first and each `config_every`. `transport: tcp` listens on `host`:`port` and obeys the
    commands of up to 64 clients: data off and on, header, CFG-1, CFG-2 and CFG-3. A client that does not read has up to
    `queue` frames waiting; beyond that its oldest are dropped. Frames are not authenticated.

    All values go out as 32-bit floats, phasors as polar ones in V and A, analogs in the unit of their column. Time tags
    are those of the rows, to the nearest 1/`time_base` s. Flags in STAT: `bad_data` as data error, `test` and
    `replayed` as test mode, `sync_lost`, `time_uncertain` as a time quality that is unknown, `estimated` and `clipped`
    as modified; `stale` and `late` have no place there. `pmu_udp` and `pmu_client` read back the same flags, except
    that `replayed` is then `test`, `clipped` is `estimated`, and `bad_data` hides `test`.

    Input:
        in: Samples with `frequency_hz` and the columns of the channels; the angle of `voltage_v` is
        `voltage_angle_rad`. `dfreq_hz_per_s` goes out as DFREQ if it is there.

    Output:
        None. Counts `frames` (each client counts), `rows`, `config_frames`, `incomplete_frames` (a device was missing),
        `late_rows`, `duplicate_rows`, `set_back` (see below), `send_errors` (the system refused a datagram). With TCP
        also `clients`, `refused_clients`, `commands`, `overflow`, `lost` (frames of clients that went away), and bad
        frames of clients by reason.

    Errors:
        FatalError: the address cannot be used, or the port is in use.
        Dead letter `unknown_device` for rows of devices that `devices` does not name, once a second, `missing_column`
        for a batch without the angle of a phasor.
        Rows more than 10 s before the last ones begin the stream anew: a clock was set back.

    Source:
        IEEE Std C37.118.2-2011, clause 6 and annex F.

    >>> config = PmuSendConfig(host="10.0.0.9", port=4713, idcode=9, devices={"G1": 1}, phasors={"V1": "voltage_v"})
    >>> sorted(NODE.inputs["in"].columns(config))
    ['frequency_hz', 'voltage_v']
    """

    host: Annotated[
        str, Meta(min_length=1, description="UDP: where to send to. TCP: address of this machine to listen on.")
    ]
    port: Annotated[int, Meta(ge=0, le=65535, description="Port; 0 takes any free one, with TCP.")]
    idcode: Annotated[Idcode, Meta(description="IDCODE of the stream.")]
    devices: Annotated[
        dict[DeviceName, Idcode],
        Meta(min_length=1, max_length=1000, description="IDCODE of the PMU by device, in the order of the frame."),
    ]
    transport: Annotated[
        Literal["udp", "tcp"], Meta(description="`udp`: sends unasked. `tcp`: obeys the commands of clients.")
    ] = "udp"
    phasors: Annotated[
        dict[ChannelName, str],
        Meta(description="Columns of magnitudes by name of the phasor: {V1: voltage_v, I1: current_ka}."),
    ] = field(default_factory=dict)
    analogs: Annotated[
        dict[ChannelName, str], Meta(description="Columns by name of the analog: {P: active_power_w}.")
    ] = field(default_factory=dict)
    digitals: Annotated[
        tuple[str, ...], Meta(description="Columns with digital words of 16 bits: [digital1_bits].")
    ] = ()
    rate: Annotated[
        int, Meta(ge=1, le=1000, description="DATA_RATE: frames a second that the configuration tells.")
    ] = 50
    nominal: Annotated[float, quantity("Hz", "Nominal frequency, 50 Hz or 60 Hz.", gt=0)] = 50.0
    time_base: Annotated[int, Meta(ge=1, le=0xFFFFFF, description="Parts of a second that time tags count.")] = (
        1_000_000
    )
    header: Annotated[str, Meta(max_length=1000, description="Text of the header frame, for people.")] = ""
    config_kind: Annotated[Literal["cfg2", "cfg3"], Meta(description="Configuration that UDP sends unasked.")] = "cfg2"
    config_every: Annotated[float, quantity("s", "How often UDP sends the configuration.", ge=0.1, le=3600)] = 60.0
    interface: Annotated[str | None, Meta(description="Address of this machine's network for multicast.")] = None
    multicast_ttl: Annotated[int, Meta(ge=0, le=255, description="Routers that multicast may pass, and 1.")] = 1
    queue: Annotated[int, Meta(ge=1, le=1_000_000, description="Frames that wait for a client of TCP.")] = 1000

    def ports(self) -> Iterator[NetworkPort]:
        direction: Literal["in", "out"] = "out" if self.transport == "udp" else "in"
        yield NetworkPort(direction, self.transport, self.host, self.port)

    def refusals(self) -> Iterator[FieldError]:
        if self.nominal not in (50.0, 60.0):
            yield FieldError("`nominal` is 50 Hz or 60 Hz", "nominal", got=f"{self.nominal:g} Hz")
        for name, column in self.phasors.items():
            unit = column_unit(column)
            if unit is None or unit.dimension not in ("voltage", "current"):
                text = f"column '{column}' of phasor '{name}' must end in a unit of voltage or current"
                yield FieldError(text, f"phasors.{name}")
        for place, column in enumerate(self.digitals):
            if not column.endswith("_bits"):
                yield FieldError(f"column '{column}' of a digital word must end in `_bits`", f"digitals[{place}]")
        for field_name, names in (("phasors", self.phasors), ("analogs", self.analogs), ("devices", self.devices)):
            for name in names:
                if len(name.encode()) > NAME_BYTES:
                    text = f"`{field_name}`: a name has at most {NAME_BYTES} bytes in a frame"
                    yield FieldError(text, f"{field_name}.{name}", got=f"'{name}'")
        for idcode in set(self.devices.values()):
            names_of = [name for name, value in self.devices.items() if value == idcode]
            if len(names_of) > 1:
                fields = [f"devices.{name}" for name in reversed(names_of)]
                yield FieldError(f"IDCODE {idcode} is given twice", *fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a flow must give. Those of angles are known only once the configuration of a device has come."""
        return (FREQUENCY, *self.phasors.values(), *self.analogs.values(), *self.digitals)


def angle_column(column: str) -> str:
    """The column with the angle of a phasor, as `pmu_udp` names it."""
    return f"{without_unit(column)}_angle_rad"


def stream_config(config: PmuSendConfig) -> ConfigFrame:
    """What the stream's configuration frames tell."""
    phasors = tuple(
        Phasor(name=name, is_current=_dimension(column) == "current") for name, column in config.phasors.items()
    )
    pmus = tuple(
        PmuConfig(
            station=device,
            idcode=idcode,
            format=FORMAT,
            phasors=phasors,
            analogs=tuple(Analog(name=name) for name in config.analogs),
            digitals=tuple(Digital() for _ in config.digitals),
            nominal_hz=round(config.nominal),
            change_count=1,
        )
        for device, idcode in config.devices.items()
    )
    header = FrameHeader(idcode=config.idcode, soc=0)
    return ConfigFrame(header=header, time_base=config.time_base, pmus=pmus, data_rate=config.rate)


def _dimension(column: str) -> str:
    unit = column_unit(column)
    return "" if unit is None else unit.dimension


class FrameMaker:
    """Makes frames of batches: those of each time once, in the order of time."""

    def __init__(self, config: PmuSendConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._places = {device: place for place, device in enumerate(config.devices)}
        self._factors = [
            1.0 if (unit := column_unit(column)) is None else unit.factor for column in config.phasors.values()
        ]
        self._known: tuple[tuple[str, ...], NDArray[np.int64]] | None = None
        self._last: int | None = None
        self._speaker = Speaker(context)

    def frames(self, samples: Samples) -> NDArray[np.uint8]:
        """The frames of a batch, shape (n, bytes of a frame)."""
        places = self._places_of(samples.devices)[samples.device]
        if (places < 0).any():
            self._refuse(samples, places)
        counts = time_counts(samples.time_ns, self._config.time_base)
        self._look_back(counts)
        kept = places >= 0
        if self._last is not None:
            late = kept & (counts <= self._last)
            self._context.counters.add_all(late_rows=int(np.count_nonzero(late)))
            kept &= ~late
        rows = np.flatnonzero(kept)
        # The first row of each (time, device).
        keys = (counts[rows] - counts.min()) * len(self._places) + places[rows]
        _, first = np.unique(keys, return_index=True)
        self._context.counters.add_all(duplicate_rows=len(rows) - len(first))
        rows = rows[first]
        if not len(rows):
            return np.zeros((0, 0), dtype=np.uint8)
        times, frame = np.unique(counts[rows], return_inverse=True)
        self._last = int(times[-1])
        pmus = len(self._places)
        incomplete = int(np.count_nonzero(np.bincount(frame) < pmus))
        self._context.counters.add_all(rows=len(rows), incomplete_frames=incomplete)
        return self._encode(samples, rows, frame, places[rows], times)

    def _places_of(self, devices: tuple[str, ...]) -> NDArray[np.int64]:
        if self._known is None or self._known[0] is not devices:
            self._known = devices, np.array([self._places.get(name, -1) for name in devices], dtype=np.int64)
        return self._known[1]

    def _refuse(self, samples: Samples, places: NDArray[np.int64]) -> None:
        count = int(np.count_nonzero(places < 0))
        if not self._speaker.may_speak("unknown_device"):
            self._context.counters.add("unknown_device", count)
            return
        name = samples.devices[samples.device[np.flatnonzero(places < 0)[0]]]
        self._context.dead_letter("unknown_device", f"`devices` does not name '{name}'", b"")
        if count > 1:
            self._context.counters.add("unknown_device", count - 1)

    def _look_back(self, counts: NDArray[np.int64]) -> None:
        if self._last is None or not len(counts):
            return
        if int(counts.max()) < self._last - SET_BACK_S * self._config.time_base:
            self._context.log.warning("time tags are more than %d s before the last ones: begun anew", SET_BACK_S)
            self._context.counters.add("set_back")
            self._last = None

    def _encode(
        self,
        samples: Samples,
        rows: NDArray[np.intp],
        frame: NDArray[np.intp],
        place: NDArray[np.int64],
        times: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        config, shape = self._config, (len(times), len(self._places))

        def table(values: NDArray[np.float64], factor: float = 1.0) -> NDArray[np.float64]:
            filled = np.full(shape, np.nan)
            filled[frame, place] = values[rows] * factor
            return filled

        columns = samples.columns
        phasors = np.full((*shape, len(config.phasors), 2), np.nan)
        for number, (column, factor) in enumerate(zip(config.phasors.values(), self._factors, strict=True)):
            phasors[:, :, number, 0] = table(columns[column], factor)
            phasors[:, :, number, 1] = table(columns[angle_column(column)])
        analogs = np.full((*shape, len(config.analogs)), np.nan)
        for number, column in enumerate(config.analogs.values()):
            analogs[:, :, number] = table(columns[column])
        words = np.zeros((*shape, len(config.digitals)), dtype=np.uint16)
        for number, column in enumerate(config.digitals):
            # What is no word of 16 bits has no bits.
            values = table(columns[column])
            fits = (values >= 0) & (values <= 0xFFFF)
            words[:, :, number] = np.where(fits, values, 0.0).astype(np.uint16)
        stat = np.full(shape, PMU_ERROR, dtype=np.uint16)
        stat[frame, place] = stat_words(samples.quality[rows])
        frequency = table(columns[FREQUENCY])
        with np.errstate(over="ignore", invalid="ignore"):  # what no 32-bit float holds is infinite, and read as absent
            return encode_frames(
                idcode=config.idcode,
                counts=times,
                stat=stat,
                phasors=phasors,
                frequency_hz=frequency,
                rocof_hz_per_s=table(columns[DFREQ]) if DFREQ in columns else np.full(shape, np.nan),
                analogs=analogs,
                digitals=words,
                time_base=config.time_base,
            )


class PmuSend:
    """The sink. UDP is sent at once, since it never waits; a server's thread serves clients of TCP."""

    def __init__(self, config: PmuSendConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._maker = FrameMaker(config, context)
        self._stream = stream_config(config)
        self._angles = tuple(angle_column(column) for column in config.phasors.values())
        self._server: PmuServer | None = None
        self._socket: socket.socket | None = None
        self._address: Any = None
        self._config_due_ns = 0

    def open(self) -> None:
        config = self._config
        try:
            encode_config_frames(config_of_kind(self._stream, _KINDS[config.config_kind], 0), LARGEST_DATAGRAM)
        except ValueError as error:
            raise FatalError(str(error)) from error
        if config.transport == "tcp":
            stream = ServedStream(self._stream, config.header)
            self._server = PmuServer(config.host, config.port, [stream], queue=config.queue, count=self._count)
            server, gauges = self._server, self._context.gauges
            gauges.watch("clients", lambda: len(server.clients))
            gauges.watch("queue_messages", lambda: server.waiting)
            self._server.start()
            return
        try:
            family, _, _, _, self._address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_DGRAM)[0]
        except socket.gaierror as error:
            text = f"host '{config.host}' cannot be resolved: {error.strerror}"
            raise (RetryableError if error.errno == socket.EAI_AGAIN else FatalError)(text) from error
        self._socket = udp_sender(family, config.multicast_ttl, config.interface)

    def _count(self, name: str, number: int) -> None:
        self._context.counters.add_all(**{name: number})

    @property
    def port(self) -> int:
        """The port that clients connect to, once open."""
        assert self._server is not None
        return self._server.port

    def write(self, messages: Sequence[WireMessage]) -> None:
        for message in messages:
            assert isinstance(message, Samples)
            lacking = [column for column in self._angles if column not in message.columns]
            if lacking:
                text = f"samples lack column {', '.join(lacking)}; known: {', '.join(message.columns)}"
                self._context.dead_letter("missing_column", text, b"")
                continue
            frames = [frame.tobytes() for frame in self._maker.frames(message)]
            if not frames:
                continue
            if self._server is not None:
                self._server.publish(self._config.idcode, frames)
            else:
                self._send(frames)

    def _send(self, frames: Sequence[bytes]) -> None:
        now_ns = self._context.clock.monotonic_ns()
        if now_ns >= self._config_due_ns:
            self._config_due_ns = now_ns + round(self._config.config_every * NS)
            kind = _KINDS[self._config.config_kind]
            told = config_of_kind(self._stream, kind, self._context.clock.now_ns())
            for part in encode_config_frames(told, LARGEST_DATAGRAM):
                self._send_one(part, "config_frames")
        for frame in frames:
            self._send_one(frame, "frames")

    def _send_one(self, frame: bytes, name: str) -> None:
        assert self._socket is not None
        try:
            self._socket.sendto(frame, self._address)
        except OSError as error:
            if not self._context.counters.get("send_errors"):
                self._context.log.warning("%s:%d: %s", self._config.host, self._config.port, error.strerror)
            self._context.counters.add("send_errors")
        else:
            self._context.counters.add(name)

    def flush(self, timeout_s: float) -> bool:
        return self._server is None or self._server.flush(min(timeout_s, FLUSH_S))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def open_sink(config: PmuSendConfig, context: Context) -> PmuSend:
    return PmuSend(config, context)


def _needs(config: PmuSendConfig) -> tuple[str, ...]:
    return config.columns


NODE = SinkNode(
    kind="pmu_send",
    config=PmuSendConfig,
    inputs={DEFAULT_PORT: Input(accepts=(Samples,), needs=_needs)},
    open=open_sink,
    delays=at_once,
)
