"""`samples_udp`: samples of edgePMUs and of VILLASnode over UDP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, field

from edgeflex_connectors.batching import SamplesBuilder
from edgeflex_connectors.payload_formats import AnyFormat, format_of
from edgeflex_connectors.payloads import samples_of, subscription_columns, subscription_refusals
from edgeflex_connectors.refused_from import RefusedFrom
from edgeflex_connectors.speaker import Speaker
from edgeflex_connectors.udp_drops import DropCounter
from edgeflex_connectors.udp_receive import BLOCK, UdpReceiver, group_problem, host_number
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, NodeConfig, SourceNode, Wire, at_once, quantity, samples_wire, udp_port

MOST_HOSTS: Final = 4096
"""Hosts whose names are kept, where any may send."""

Address: TypeAlias = Annotated[str, Meta(min_length=1)]
DeviceName: TypeAlias = Annotated[str, Meta(min_length=1)]


class SamplesUdpConfig(NodeConfig, frozen=True, kw_only=True):
    """Samples over UDP in a declared format, each datagram a payload: those of edgePMUs and of VILLASnode.

    The public description of the edgePMU says that its samples are packed in UDP datagrams, and not how. This project
    takes VILLAS binary (`format: {type: villas.binary, signals: [...]}`), the form of the same institute's VILLASnode;
    every other format that `mqtt_subscribe` knows does as well. PMUs that speak IEEE C37.118.2 need `pmu_udp`.

    Where payloads do not name their device, it is named by `devices`, from the address of the host that sends; other
    hosts are not taken then. Without `devices` the address itself is the name. Datagrams are not authenticated; let
    only devices reach the port. Rows are given in the order in which datagrams come; UDP may lose, double and reorder
    them, which `sequence` of the format shows.

    Input:
        None.

    Output:
        Samples with `columns` and those that `format` names. Quality is that of the payload where the format carries
        it, else 0.

    Errors:
        FatalError: the port is in use.
        Dead letter `bad_payload`, once a second, for a datagram that cannot be read; `bad_rows` counts rows that are
        left out of one. Counted besides: `received` (datagrams), `rows`, `strangers` (of hosts that `devices` does not
        name), `kernel_drops` (dropped by the operating system because the node did not read fast enough).

    Source:
        VILLASnode (RWTH Aachen), formats `villas.binary` and `villas.web`; edgeFLEX D4.3, section on UDP.

    >>> from edgeflex_connectors.payload_formats import VillasBinary
    >>> from edgeflex_connectors.payload_formats.signals import Signal
    >>> config = SamplesUdpConfig(port=12000, format=VillasBinary(signals=(Signal(column="frequency_hz"),)))
    >>> sorted(NODE.output(config, {}).columns)
    ['frequency_hz']
    """

    port: Annotated[
        int, udp_port("UDP port to listen on; 0 takes any free one (for tests).", host="host", group="group")
    ]
    format: Annotated[AnyFormat, Meta(description="How samples are written; a name, or `type` and settings.")]
    host: Annotated[
        str, Meta(min_length=1, description="Address of this machine to listen on. 0.0.0.0: on all its networks.")
    ] = "0.0.0.0"  # noqa: S104 - a device is another machine
    group: Annotated[str | None, Meta(description="Multicast group (239.0.0.1) to join, on the network of `host`.")] = (
        None
    )
    columns: Annotated[tuple[str, ...], Meta(description="Columns that payloads have under the same names.")] = ()
    devices: Annotated[
        dict[Address, DeviceName], Meta(description="Names of devices by the address that they send from.")
    ] = field(default_factory=dict)
    receive_buffer: Annotated[
        float,
        quantity("B", "Room in the operating system for datagrams that wait to be read.", ge=4096, le=2**30),
    ] = 4 * 1024.0 * 1024.0
    max_datagrams: Annotated[int, Meta(ge=1, le=100_000, description="Most datagrams of one batch.")] = 4096

    def refusals(self) -> Iterator[FieldError]:
        if not self.columns and not self.format.columns:
            text = "give `columns` or columns in `format`: otherwise nothing would come out of this node"
            yield FieldError(text, "columns", "format")
        else:
            # The address of the sender tells the device where the payload does not.
            yield from subscription_refusals(self.columns, (), self.format, "address")
        for address in self.devices:
            if not _is_address(address):
                yield FieldError(f"`devices`: '{address}' is no IP address", f"devices.{address}")
        problem = None if self.group is None else group_problem(self.group)
        if problem is not None:
            yield FieldError(f"`group`: {problem}", "group", got=f"'{self.group}'")
        if self.group is not None and ":" in self.host:
            yield FieldError("`group` needs an IPv4 address as `host`", "host", "group", got=f"'{self.host}'")


def _is_address(text: str) -> bool:
    try:
        host_number(text)
    except ValueError:
        return False
    return True


class SamplesUdpSource:
    """Reads blocks of datagrams and decodes each by itself."""

    def __init__(self, config: SamplesUdpConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._named = {host_number(address): name for address, name in config.devices.items()}
        self._seen: dict[int, str] = {}
        """Names of hosts, where any may send."""
        self._decoder = format_of(config.format).decoder(config.format, config.columns, not config.format.names_device)
        self._builder = SamplesBuilder(subscription_columns(config.columns, config.format))
        self._speaker = Speaker(context)
        self._refused = RefusedFrom[str]()
        self._receiver: UdpReceiver | None = None
        self._drops: DropCounter | None = None

    def open(self) -> None:
        config = self._config
        self._receiver = UdpReceiver(
            config.host,
            config.port,
            int(config.receive_buffer),
            self._context.log,
            group=config.group,
            sockets=self._context.sockets,
        )
        self._drops = DropCounter(self._receiver, self._context)

    def poll(self) -> Sequence[Samples]:
        receiver = self._open_receiver()
        datagrams = 0
        while datagrams < self._config.max_datagrams:
            wanted = min(BLOCK, self._config.max_datagrams - datagrams)
            count = receiver.receive(wanted)
            for index in range(count):
                self._decode(int(receiver.peers[index]), receiver.datagram(index))
            datagrams += count
            if count < wanted:
                break
        if not datagrams:
            return ()
        assert self._drops is not None
        self._context.counters.add("received", datagrams)
        self._drops.look(datagrams)
        if not len(self._builder):
            return ()
        self._context.counters.add("rows", len(self._builder))
        return [self._builder.take(self._context.clock.now_ns())]

    def _decode(self, peer: int, datagram: bytes) -> None:
        device = self._device_of(peer)
        if device is None:
            self._context.counters.add("strangers")
            return
        try:
            decoded = self._decoder.decode(datagram, None if self._config.format.names_device else device)
        except BadMessageError as error:
            self._refuse(device, error, datagram)
            return
        if decoded.error is not None:
            # Of a datagram of which rows were given, what was not is kept; else all of it can be decoded once more.
            self._refuse(device, decoded.error, decoded.error.payload if decoded.rows else datagram)
            self._context.counters.add("bad_rows", decoded.bad_rows)
        for row in decoded.rows:
            self._builder.add(*row)

    def _device_of(self, peer: int) -> str | None:
        """The device at a host; None if its datagrams are not taken."""
        if self._named:
            return self._named.get(peer)
        name = self._seen.get(peer)
        if name is None:
            if len(self._seen) >= MOST_HOSTS:
                self._seen.clear()
            name = self._seen[peer] = self._open_receiver().peer_name(peer)
        return name

    def _refuse(self, device: str, error: BadMessageError, payload: bytes) -> None:
        if self._speaker.may_speak(error.reason):
            self._refused.note(payload, device, self._context.clock.now_ns())
            self._context.dead_letter(error.reason, f"from {device}: {error}", payload)
        else:
            self._context.counters.add(error.reason)

    def decode_again(self, payload: bytes) -> Sequence[Samples]:
        """Raises BadMessageError."""
        device, received_ns = self._refused.origin_of(payload)
        decoded = self._decoder.decode(payload, None if self._config.format.names_device else device)
        columns = subscription_columns(self._config.columns, self._config.format)
        return samples_of(decoded, columns, received_ns)

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return self._open_receiver().fileno()

    def next_poll_ns(self) -> int | None:
        return None

    def close(self) -> None:
        if self._receiver is not None:
            if self._drops is not None:
                self._drops.count()
            self._receiver.close()

    @property
    def port(self) -> int:
        """The port it listens on, once open."""
        return self._open_receiver().port

    def _open_receiver(self) -> UdpReceiver:
        assert self._receiver is not None, "open() comes first"
        return self._receiver


def _output(config: SamplesUdpConfig, inputs: Mapping[str, Wire]) -> Wire:
    del inputs
    return samples_wire(*subscription_columns(config.columns, config.format))


NODE = SourceNode(
    kind="samples_udp", config=SamplesUdpConfig, output=_output, open=SamplesUdpSource, decodes=True, delays=at_once
)
