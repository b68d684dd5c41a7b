"""`pmu_client`: synchrophasors from a PMU or PDC that obeys commands of IEEE C37.118.2."""

from __future__ import annotations

import select
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.c37118 import Command, ConfigFrame
from edgeflex_connectors.c37118_columns import FIXED_COLUMNS
from edgeflex_connectors.pmu_decoder import FrameDecoder, PmuSourceConfig
from edgeflex_connectors.pmu_dialogue import NS, Dialogue, command_frame
from edgeflex_connectors.pmu_frames import Block
from edgeflex_connectors.pmu_links import (
    PEER,
    Link,
    Listener,
    TcpLink,
    TcpUdpLink,
    UdpLink,
    holds_data,
    listen,
    only_stream,
)
from edgeflex_connectors.pmu_probe import Device, try_device
from edgeflex_connectors.speaker import Speaker
from edgeflex_connectors.udp_drops import DropCounter
from edgeflex_connectors.udp_receive import BLOCK, group_problem
from edgeflex_flow.errors import FieldError, RetryableError
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Context, NetworkPort, Probe, SourceNode, Wire, at_once, quantity, samples_wire, udp_port

ASKS: Final = {"cfg1": Command.SEND_CFG1, "cfg2": Command.SEND_CFG2, "cfg3": Command.SEND_CFG3}
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024


class PmuClientConfig(PmuSourceConfig, frozen=True, kw_only=True):
    """Synchrophasors from a PMU or PDC that obeys commands of IEEE C37.118.2.

    Connects, turns data off, asks for the configuration (each kind of `ask` in turn, twice), for the header, whose text
    goes to the log, and turns data on. When the flow drains it turns data off again.

    `transport: tcp` sends and receives all over one connection. `udp` sends commands from the port on which it gets
    data (`data_port`, or any free one). `tcp_udp` sends commands over TCP and gets data on the UDP port `data_port`,
    on which the device must be set to send, unicast or to the multicast `group`. The device's own pace holds: over TCP
    a flow that cannot follow slows the device down, over UDP the operating system drops, which is counted.

    A device that does not answer, falls silent, or sends something else is connected to again, after waits that grow
    from `reconnect_min` to `reconnect_max`. The flow runs on meanwhile. Nothing is decoded by a configuration that may
    be over: when STAT announces a change (bit 10) the node asks for the configuration again; once the announcement
    ends, or a connection is made anew, data are held until it comes, at most 4096 frames. It is also asked for when
    data no longer fit it, and each `recheck`. One node reads one stream, `idcode`, of one PMU or many. Frames are not
    authenticated.

    Input:
        None.

    Output:
        As `pmu_udp` gives them: columns, names and quality are the same.

    Errors:
        FatalError: `data_port` is in use.
        Counted by reason as in `pmu_udp`; besides: `other_idcode` (frames of another stream, which the dead letter
        names), `skipped_bytes` (bytes over TCP that are part of no frame), `strangers` (datagrams of other hosts),
        `unasked` (datagrams that came while there was no connection), `commands` (sent), `connections`, `failures`
        (attempts and connections that failed). `kernel_drops`: datagrams that the operating system dropped.

    Source:
        IEEE Std C37.118.2-2011, clause 6 and annex F.

    >>> PmuClientConfig(host="10.0.0.7", port=4712, idcode=7).ask
    ('cfg3', 'cfg2')
    """

    host: Annotated[str, Meta(min_length=1, description="Address or name of the device.")]
    idcode: Annotated[int, Meta(ge=1, le=65534, description="IDCODE of the stream, as set in the device.")]
    port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of the device for commands, often 4712 over TCP and 4713 over UDP.")
    ]
    transport: Annotated[
        Literal["tcp", "udp", "tcp_udp"], Meta(description="What carries commands and data; `tcp_udp`: one each.")
    ] = "tcp"
    data_port: Annotated[
        int, udp_port("UDP port on which data come; 0 takes any free one, for `udp`.", host="listen", group="group")
    ] = 0
    listen: Annotated[
        str, Meta(min_length=1, description="Address of this machine on which data come over UDP. 0.0.0.0: any.")
    ] = "0.0.0.0"  # noqa: S104 - the device is another machine
    group: Annotated[str | None, Meta(description="Multicast group of the data, for `tcp_udp`.")] = None
    ask: Annotated[
        tuple[Literal["cfg1", "cfg2", "cfg3"], ...],
        Meta(min_length=1, max_length=3, description="Configurations to ask for, the preferred first."),
    ] = ("cfg3", "cfg2")
    answer_timeout: Annotated[
        float, quantity("s", "How long connecting, an answer or the rest of a frame may take.", ge=0.05, le=300)
    ] = 3.0
    silence: Annotated[
        float, quantity("s", "Data missing this long are turned on again, and after thrice, connected anew.", ge=0.05)
    ] = 5.0
    recheck: Annotated[
        float, quantity("s", "How often a running stream is asked for its configuration.", ge=0.1, le=86_400)
    ] = 60.0
    reconnect_min: Annotated[float, quantity("s", "First wait before connecting anew.", ge=0.01, le=60)] = 0.5
    reconnect_max: Annotated[float, quantity("s", "Longest wait before connecting anew.", ge=0.01, le=3600)] = 30.0

    def ports(self) -> Iterator[NetworkPort]:
        yield NetworkPort("out", "udp" if self.transport == "udp" else "tcp", self.host, self.port)

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        if self.transport == "tcp_udp" and not self.data_port:
            yield FieldError(
                "`transport: tcp_udp` needs the `data_port` to which the device sends", "transport", "data_port"
            )
        if self.transport == "tcp" and self.data_port:
            yield FieldError("`data_port` is for data over UDP, not for `transport: tcp`", "data_port", "transport")
        if self.group is not None and self.transport != "tcp_udp":
            yield FieldError(
                "`group` is for `transport: tcp_udp`; `pmu_udp` takes what comes unasked", "group", "transport"
            )
        problem = None if self.group is None else group_problem(self.group)
        if problem is not None:
            yield FieldError(f"`group`: {problem}", "group", got=f"'{self.group}'")
        if len(set(self.ask)) != len(self.ask):
            yield FieldError("`ask` names something twice", "ask", got=", ".join(self.ask))
        if self.reconnect_min > self.reconnect_max:
            text = "`reconnect_min` is longer than `reconnect_max`"
            got = f"{self.reconnect_min:g} s and {self.reconnect_max:g} s"
            yield FieldError(text, "reconnect_min", "reconnect_max", got=got)


class PmuClientSource:
    """Keeps one connection to a device, and hands its frames to the decoder. Never waits: see `next_poll_ns`."""

    def __init__(self, config: PmuClientConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._counters = context.counters
        self._where = f"{config.host}:{config.port} ({config.transport})"
        self._dialogue = Dialogue(
            [ASKS[each] for each in config.ask], config.answer_timeout, config.silence, config.recheck
        )
        self._decoder = FrameDecoder(config, context, lambda _peer: self._where, asks=True)
        self._decoder.on_config = self._configured
        self._decoder.on_announced = lambda: self._dialogue.announced(self._now_ns())
        self._decoder.on_stale = lambda: self._dialogue.stale(self._now_ns())
        self._decoder.whole_frame = self._whole_frame
        self._backoff = Backoff(config.reconnect_min, config.reconnect_max)
        self._speaker = Speaker(context)
        self._epoll: select.epoll | None = None
        self._listener: Listener | None = None
        self._drops: DropCounter | None = None
        self._link: Link | None = None
        self._talks = False
        """Whether the link was up when it was looked at last."""
        self._connect_at_ns = 0

    # -- what the runtime calls --------------------------------------------------------------------------------------

    def open(self) -> None:
        config = self._config
        # The only descriptor that the runtime waits on: sockets come and go in it.
        self._epoll = select.epoll()
        if config.transport != "tcp":
            self._listener = listen(
                config.listen, config.data_port, config.group, RECEIVE_BUFFER_BYTES, self._context, self._epoll
            )
            self._drops = DropCounter(self._listener.receiver, self._context)
        self._connect_at_ns = self._now_ns()
        self._context.gauges.watch(CONNECTED, lambda: self._talks and self._dialogue.running)

    def poll(self) -> Sequence[Samples]:
        batches: list[Samples] = []
        now_ns = self._now_ns()
        try:
            if self._link is None and now_ns >= self._connect_at_ns:
                self._link = self._new_link(now_ns)
            if self._link is not None:
                self._go_on(self._link, now_ns, batches)
        except RetryableError as error:
            self._failed(error)
        if self._listener is not None and not self._talks:
            self._counters.add_all(unasked=self._listener.discard())
        self._decoder.give(batches)
        return batches

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        assert self._epoll is not None, "open() comes first"
        return self._epoll.fileno()

    def next_poll_ns(self) -> int | None:
        if self._decoder.busy:
            return self._now_ns()
        if self._link is None:
            return self._connect_at_ns
        due_ns = self._link.due_ns(self._now_ns())
        return min(due_ns, self._dialogue.due_ns) if self._talks else due_ns

    def close(self) -> None:
        if self._talks and self._link is not None:
            try:
                self._say([Command.DATA_OFF])
            except RetryableError as error:
                self._context.log.debug("%s: %s", self._where, error)
        self._hang_up()
        if self._listener is not None and self._drops is not None:
            self._drops.count()
            self._listener.receiver.close()
            self._listener = self._drops = None
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        self._decoder.close()

    # -- one connection ----------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return self._context.clock.monotonic_ns()

    def _new_link(self, now_ns: int) -> Link:
        config, epoll = self._config, self._epoll
        assert epoll is not None
        if config.transport == "udp":
            assert self._listener is not None
            return UdpLink(config.host, config.port, self._listener)
        commands = TcpLink(config.host, config.port, epoll, config.answer_timeout, now_ns)
        if self._listener is None:
            return commands
        self._listener.peer = None
        return TcpUdpLink(commands, self._listener)

    def _go_on(self, link: Link, now_ns: int, batches: list[Samples]) -> None:
        link.step(now_ns)
        if not link.up:
            return
        if not self._talks:
            self._talks = True
            self._counters.add("connections")
            self._say(self._dialogue.begin(now_ns))
        try:
            self._read(link, now_ns, batches)
        finally:
            for reason, count, example in link.take_refused():
                self._refuse(reason, count, example)
        # Once data come, so that a peer that lets itself be connected to, and then says nothing, is not called often.
        self._say(self._dialogue.act(now_ns))

    def _read(self, link: Link, now_ns: int, batches: list[Samples]) -> None:
        decoder = self._decoder
        decoder.fit_rows(batches)
        frames = 0
        while not decoder.full and frames < self._config.max_rows:
            if not decoder.busy:
                most = min(decoder.room, BLOCK, self._config.max_rows - frames)
                block = link.receive(most, now_ns) if most else None
                if block is None:
                    break
                frames += block.count
                self._take(block, link, now_ns)
            elif not decoder.decode(batches):
                break
        if frames:
            self._counters.add("frames", frames)
            if self._drops is not None:
                self._drops.look(frames)

    def _take(self, block: Block, link: Link, now_ns: int) -> None:
        ours, others = only_stream(block, self._config.idcode, link.whole_frame)
        if others:
            self._refuse("other_idcode", len(others), others[0])
        if ours is None:
            return
        if holds_data(ours):
            if self._dialogue.running and self._backoff.succeeded():
                self._context.log.info("%s: data come again", self._where)
            self._dialogue.heard_data(now_ns)
        self._decoder.add(ours)

    def _whole_frame(self, index: int) -> bytes:
        assert self._link is not None
        return self._link.whole_frame(index)

    def _configured(self, config: ConfigFrame) -> None:
        self._say(self._dialogue.configured(config, self._now_ns()))

    def _say(self, commands: Sequence[Command]) -> None:
        assert self._link is not None
        for command in commands:
            self._link.send(command_frame(command, self._config.idcode, self._context.clock.now_ns()))
            self._counters.add("commands")

    def _failed(self, error: RetryableError) -> None:
        self._counters.add("failures")
        if self._backoff.failed():
            self._context.log.warning("%s: %s; trying again", self._where, error)
        self._hang_up()
        self._connect_at_ns = self._now_ns() + round(self._backoff.delay_s() * NS)

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._talks = False
        self._decoder.forget(PEER, self._config.idcode)

    # -- counts ------------------------------------------------------------------------------------------------------

    def _refuse(self, reason: str, count: int, example: bytes) -> None:
        if not example or not self._speaker.may_speak(reason):
            self._counters.add(reason, count)
            return
        text = "frame cannot be used"
        if reason == "other_idcode":
            text = f"frame of stream {int.from_bytes(example[4:6], 'big')}; `idcode` asks for {self._config.idcode}"
        self._context.dead_letter(reason, f"from {self._where}: {text}", example)
        if count > 1:
            self._counters.add(reason, count - 1)


def _output(config: PmuClientConfig, inputs: Mapping[str, Wire]) -> Wire:
    del inputs
    return samples_wire(*FIXED_COLUMNS, *config.channels.values(), more_columns=True)


def probe(config: PmuClientConfig, context: Context) -> Probe:
    """Ask the device for its configuration."""
    device = Device(
        host=config.host,
        port=config.port,
        transport=config.transport,
        idcode=config.idcode,
        asks=[ASKS[each] for each in config.ask],
        answer_s=config.answer_timeout,
    )
    return try_device(device, context.clock.now_ns())


NODE = SourceNode(
    kind="pmu_client", config=PmuClientConfig, output=_output, open=PmuClientSource, probe=probe, delays=at_once
)
