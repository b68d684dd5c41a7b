from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from c37118_cases import plain_config, plain_data

from edgeflex_connectors.c37118 import (
    Analog,
    Command,
    CommandFrame,
    ConfigFrame,
    FrameType,
    HeaderFrame,
    PmuConfig,
    decode_frame,
    encode_config,
    encode_data,
    encode_header,
)
from edgeflex_connectors.c37118_cutter import FrameCutter
from edgeflex_connectors.c37118_fragments import encode_config_frames
from edgeflex_connectors.pmu_client import NODE, PmuClientConfig, PmuClientSource
from edgeflex_connectors.pmu_server import PmuServer, ServedStream
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import Samples, join_samples
from edgeflex_flow.node import Probe

if TYPE_CHECKING:
    from conftest import ContextMaker

CONFIG = plain_config()
ALL_KINDS = frozenset({FrameType.CFG1, FrameType.CFG2, FrameType.CFG3})
PATIENCE_S = 20.0


def frame(config: ConfigFrame = CONFIG, number: int = 0, **values: Any) -> bytes:
    return encode_data(plain_data(config, number, **values), config)


class Bench:
    """A client under test. `until` lets it work until something holds."""

    def __init__(self, make_context: ContextMaker, port: int, **settings: Any) -> None:
        self.maker = make_context
        self.context = make_context("pmu")
        defaults: dict[str, Any] = {
            "host": "127.0.0.1",
            "listen": "127.0.0.1",
            "idcode": 7,
            "port": port,
            "answer_timeout": 2.0,
            "silence": 10.0,
            "reconnect_min": 0.02,
            "reconnect_max": 0.1,
        }
        self.config = msgspec.convert(defaults | settings, PmuClientConfig)
        source = NODE.open(self.config, self.context)
        assert isinstance(source, PmuClientSource)
        self.source = source
        self.source.open()
        self.batches: list[Samples] = []
        self.longest_poll_s = 0.0

    def turn(self, most_s: float = 0.02) -> None:
        """What the feed does: wait for the descriptor or the due time, then poll."""
        descriptor, due_ns = self.source.fileno(), self.source.next_poll_ns()
        assert descriptor is not None
        if due_ns is not None:
            most_s = min(most_s, max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        ready = select.select([descriptor], [], [], most_s)[0]
        if ready or (due_ns is not None and time.monotonic_ns() >= due_ns):
            began_s = time.thread_time()
            self.batches += self.source.poll()
            self.longest_poll_s = max(self.longest_poll_s, time.thread_time() - began_s)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s, (self.context.counters.snapshot(), self.maker.dead_letters)
            self.turn()

    @property
    def rows(self) -> Samples:
        for batch in self.batches:
            assert list(batch.problems()) == []
        return join_samples(self.batches)

    @property
    def row_count(self) -> int:
        return sum(batch.rows for batch in self.batches)

    def count(self, name: str) -> int:
        return self.context.counters.get(name)


@pytest.fixture
def bench(make_context: ContextMaker) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def make(port: int, **settings: Any) -> Bench:
        opened.append(Bench(make_context, port, **settings))
        return opened[-1]

    yield make
    for each in opened:
        each.source.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., PmuServer]]:
    opened: list[PmuServer] = []

    def make(*configs: ConfigFrame, kinds: frozenset[FrameType] = ALL_KINDS, **settings: Any) -> PmuServer:
        streams = [ServedStream(config, "PMU in bay 3", kinds) for config in configs or (CONFIG,)]
        opened.append(PmuServer("127.0.0.1", settings.pop("port", 0), streams, **settings))
        opened[-1].start()
        return opened[-1]

    yield make
    for each in opened:
        each.close()


MakeBench = Callable[..., Bench]
Serve = Callable[..., PmuServer]


def is_on(server: PmuServer, idcode: int = 7) -> bool:
    return any(idcode in on for on in server.clients.values())


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the ways to a device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp", "tcp_udp"])
def test_a_stream_is_asked_for_and_becomes_rows(
    bench: MakeBench, serve: Serve, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    data_port = 0 if transport == "tcp" else free_port()
    server = serve(transport=transport, data_address=(None, data_port))
    with caplog.at_level(logging.INFO):
        pmu = bench(server.port, transport=transport, data_port=data_port, channels={"V1": "voltage_v"})
        pmu.until(lambda: is_on(server))
        server.publish(7, [frame(number=number, frequency_hz=50.0 + number) for number in range(3)])
        pmu.until(lambda: pmu.row_count == 3 and pmu.count("header_frames") == 1)
    assert pmu.rows.devices == ("G7",)
    assert pmu.rows.columns["frequency_hz"].tolist() == [50.0, 51.0, 52.0]
    assert pmu.rows.columns["voltage_v"].tolist() == [230.0] * 3
    assert pmu.rows.time_ns.tolist() == [1_700_000_000_000_000_000 + number * 20_000_000 for number in range(3)]
    assert "header of stream 7" in caplog.text
    assert "PMU in bay 3" in caplog.text
    # Off, CFG-3, header, on.
    assert pmu.context.counters.snapshot() == {
        "connections": 1,
        "commands": 4,
        "frames": 5,
        "config_frames": 1,
        "header_frames": 1,
        "rows": 3,
    }


def test_data_of_a_multicast_group_are_taken(bench: MakeBench, serve: Serve) -> None:
    port, group = free_port(), "239.192.7.8"
    server = serve(transport="tcp_udp", data_address=(group, port), interface="127.0.0.1")
    pmu = bench(server.port, transport="tcp_udp", data_port=port, group=group)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame()])
    pmu.until(lambda: pmu.row_count == 1)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_data_are_turned_off_when_the_flow_drains(bench: MakeBench, serve: Serve, transport: str) -> None:
    server = serve(transport=transport)
    commands: list[int] = []
    server.on_command = lambda _idcode, command, _extended: commands.append(command)
    pmu = bench(server.port, transport=transport)
    pmu.until(lambda: is_on(server))
    pmu.source.close()
    deadline_s = time.monotonic() + PATIENCE_S
    while commands.count(Command.DATA_OFF) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert commands == [Command.DATA_OFF, Command.SEND_CFG3, Command.SEND_HEADER, Command.DATA_ON, Command.DATA_OFF]


def test_many_pmus_of_a_pdc_are_many_devices(bench: MakeBench, serve: Serve) -> None:
    pmus = tuple(
        msgspec.structs.replace(CONFIG.pmus[0], station=f"S{number}", idcode=number) for number in range(1, 41)
    )
    config = msgspec.structs.replace(CONFIG, pmus=pmus)
    server = serve(config)
    pmu = bench(server.port)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame(config, number) for number in range(50)])
    pmu.until(lambda: pmu.row_count == 2000)
    assert pmu.rows.devices == tuple(f"S{number}" for number in range(1, 41))


def test_a_device_that_knows_no_cfg_3_is_asked_for_cfg_2(bench: MakeBench, serve: Serve) -> None:
    server = serve(kinds=frozenset({FrameType.CFG2}))
    commands: list[int] = []
    server.on_command = lambda _idcode, command, _extended: commands.append(command)
    pmu = bench(server.port, answer_timeout=0.2)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame()])
    pmu.until(lambda: pmu.row_count == 1)
    assert [command for command in commands if command > Command.SEND_HEADER] == [Command.SEND_CFG3, Command.SEND_CFG2]


def test_the_preferred_configuration_is_asked_for_first(bench: MakeBench, serve: Serve) -> None:
    server = serve()
    commands: list[int] = []
    server.on_command = lambda _idcode, command, _extended: commands.append(command)
    pmu = bench(server.port, ask=["cfg2"])
    pmu.until(lambda: is_on(server))
    assert Command.SEND_CFG2 in commands
    assert Command.SEND_CFG3 not in commands


# -- configurations that change ---------------------------------------------------------------------------------------

SCALED = plain_config(analogs=(Analog(name="P"),), format_bits=0b1011)
"""Analogs as integers, so that the scale of a CFG-3 matters."""


def scaled(gain: float, change_count: int) -> ConfigFrame:
    pmu = msgspec.structs.replace(SCALED.pmus[0], analogs=(Analog(name="P", gain=gain),), change_count=change_count)
    return msgspec.structs.replace(SCALED, pmus=(pmu,), kind=FrameType.CFG3)


def test_an_announced_change_of_the_same_size_misreads_no_frame(bench: MakeBench, serve: Serve) -> None:
    """Frames before and after the change look alike; only the end of the announcement tells them apart."""
    old, new = scaled(1.0, 1), scaled(10.0, 2)
    server = serve(old)
    pmu = bench(server.port)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame(old, number) for number in range(3)])
    server.publish(7, [frame(old, number, stat=0x0400) for number in range(3, 6)])
    pmu.until(lambda: pmu.row_count == 6 and pmu.count("config_frames") >= 2)
    server.change(ServedStream(new))
    counts = [plain_data(new, number) for number in range(6, 9)]
    pmus = [msgspec.structs.replace(data.pmus[0], analogs=(10_000.0,)) for data in counts]
    server.publish(
        7,
        [encode_data(msgspec.structs.replace(data, pmus=(one,)), new) for data, one in zip(counts, pmus, strict=True)],
    )
    pmu.until(lambda: pmu.row_count == 9)
    assert pmu.rows.columns["p_raw"].tolist() == [1000.0] * 6 + [10_000.0] * 3
    assert pmu.count("config_announced") == 3
    assert pmu.count("config_changes") == 1
    assert pmu.count("unknown_idcode") == 0


def test_an_announcement_that_comes_to_nothing_costs_no_row(bench: MakeBench, serve: Serve) -> None:
    server = serve()
    pmu = bench(server.port)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame(number=0, stat=0x0400)])
    pmu.until(lambda: pmu.row_count == 1)
    server.publish(7, [frame(number=number) for number in range(1, 5)])
    pmu.until(lambda: pmu.row_count == 5)
    assert pmu.count("config_changes") == 0
    assert pmu.rows.time_ns.tolist() == sorted(pmu.rows.time_ns.tolist())


def test_data_that_no_longer_fit_are_counted_until_the_configuration_comes(bench: MakeBench, serve: Serve) -> None:
    longer = plain_config(analogs=(Analog(name="P"), Analog(name="Q")), change_count=2)
    server = serve()
    pmu = bench(server.port)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame()])
    pmu.until(lambda: pmu.row_count == 1)
    server.change(ServedStream(longer))
    server.publish(7, [frame(longer, 1)])
    pmu.until(lambda: pmu.count("config_changes") == 1)
    server.publish(7, [frame(longer, 2)])
    pmu.until(lambda: pmu.row_count == 2)
    assert pmu.count("size_mismatch") == 1
    assert pmu.rows.columns["q_raw"][1] == 1001.0


def test_a_change_that_nothing_announces_is_found_by_asking_again(bench: MakeBench, serve: Serve) -> None:
    server = serve(scaled(1.0, 1))
    pmu = bench(server.port, recheck=0.1)
    pmu.until(lambda: is_on(server))
    server.change(ServedStream(scaled(10.0, 2)))
    pmu.until(lambda: pmu.count("config_changes") == 1)


def test_a_configuration_in_parts_is_joined(bench: MakeBench) -> None:
    config = plain_config(kind=FrameType.CFG3, station="a station whose name is longer than a CFG-2 can tell")
    peer = Peer(lambda command: encode_config_frames(config, 60) if command == Command.SEND_CFG3 else [])
    with peer:
        pmu = bench(peer.port)
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        peer.send(frame(config))
        pmu.until(lambda: pmu.row_count == 1)
    assert pmu.rows.devices == (config.pmus[0].station,)


# -- devices that do not behave ---------------------------------------------------------------------------------------


class Peer:
    """A device over TCP that answers each command with what `answer` gives."""

    def __init__(self, answer: Callable[[int], Sequence[bytes]], port: int = 0) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self.commands: list[int] = []
        self.received: list[bytes] = []
        self.accepted = 0
        self._connection: socket.socket | None = None
        self._over = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join()

    def _serve(self) -> None:
        while not self._over:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._connection = connection
            cutter = FrameCutter()
            try:
                while data := connection.recv(4096):
                    for each in cutter.add(data):
                        decoded = decode_frame(each)
                        assert isinstance(decoded, CommandFrame)
                        self.commands.append(decoded.command)
                        self.received.append(each)
                        for answer in self._answer(decoded.command):
                            connection.sendall(answer)
            except OSError:
                pass
            finally:
                connection.close()

    def send(self, data: bytes) -> None:
        assert self._connection is not None
        self._connection.sendall(data)

    def hang_up(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


def obedient(command: int) -> Sequence[bytes]:
    return [encode_config(CONFIG)] if command == Command.SEND_CFG2 else []


def test_a_connection_that_breaks_is_made_anew_and_data_go_on(bench: MakeBench) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"])
        for round_ in range(3):
            pmu.until(lambda: peer.commands.count(Command.DATA_ON) == round_ + 1)  # noqa: B023
            peer.send(frame(number=round_))
            pmu.until(lambda: pmu.row_count == round_ + 1)  # noqa: B023
            peer.hang_up()
    assert pmu.count("connections") >= 3
    assert pmu.count("failures") >= 2
    assert set(pmu.rows.devices) == {"G7"}


def test_data_behind_a_new_connection_wait_for_the_configuration(bench: MakeBench) -> None:
    """The device may have been set anew meanwhile, with frames of the same size."""
    config = [scaled(1.0, 1)]

    def answer(command: int) -> Sequence[bytes]:
        data = encode_data(plain_data(config[0]), config[0])
        return [data, encode_config(config[0])] if command == Command.SEND_CFG3 else []

    with Peer(answer) as peer:
        pmu = bench(peer.port)
        pmu.until(lambda: pmu.row_count == 1)
        config[0] = scaled(2.0, 2)
        peer.hang_up()
        pmu.until(lambda: pmu.row_count == 2)
    assert pmu.rows.columns["p_raw"].tolist() == [1000.0, 1000.0]


def test_a_device_that_is_away_is_called_until_it_is_there(
    bench: MakeBench, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port(socket.SOCK_STREAM)
    with caplog.at_level(logging.WARNING):
        pmu = bench(port)
        pmu.until(lambda: pmu.count("failures") >= 5)
    # The 1st, 2nd and 4th are told.
    assert caplog.text.count("connection refused; trying again") == 3
    server = serve(port=port)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame()])
    pmu.until(lambda: pmu.row_count == 1)


def test_a_device_that_never_answers_is_given_up_and_called_again(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    with Peer(lambda _command: []) as peer, caplog.at_level(logging.WARNING):
        pmu = bench(peer.port, answer_timeout=0.05)
        pmu.until(lambda: peer.accepted >= 2)
    assert "no answer to SEND_CFG3 nor to SEND_CFG2 within 0.05 s each" in caplog.text
    assert peer.commands[:5] == [
        Command.DATA_OFF,
        Command.SEND_CFG3,
        Command.SEND_CFG2,
        Command.SEND_CFG3,
        Command.SEND_CFG2,
    ]


def test_a_name_that_does_not_resolve_is_tried_again(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pmu = bench(4712, host="no-such-host.invalid")
        pmu.until(lambda: pmu.count("failures") >= 2)
    assert "host 'no-such-host.invalid' cannot be resolved" in caplog.text


def test_a_device_that_answers_slowly_is_waited_for(bench: MakeBench) -> None:
    def slowly(command: int) -> Sequence[bytes]:
        time.sleep(0.3)
        return obedient(command)

    with Peer(slowly) as peer:
        pmu = bench(peer.port, ask=["cfg2"])
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        peer.send(frame())
        pmu.until(lambda: pmu.row_count == 1)
    assert pmu.count("failures") == 0
    assert pmu.longest_poll_s < 0.3


def test_a_device_that_falls_silent_is_turned_on_again_and_then_connected_anew(bench: MakeBench) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"], silence=0.1)
        pmu.until(lambda: peer.commands.count(Command.DATA_OFF) == 2)
        before = peer.commands[: peer.commands.index(Command.DATA_OFF, 1)]
    assert before.count(Command.DATA_ON) == 3


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 1000, b"\xaa" * 20])
def test_garbage_among_frames_costs_no_frame(bench: MakeBench, garbage: bytes) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"])
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        for number in range(5):
            peer.send(garbage + frame(number=number))
        pmu.until(lambda: pmu.row_count == 5)
    assert pmu.count("skipped_bytes") == 5 * len(garbage)
    assert pmu.count("failures") == 0


def test_a_peer_that_speaks_something_else_is_left(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    with Peer(lambda _command: [b"\xaa\x01\x00\x10" * 4000]) as peer, caplog.at_level(logging.WARNING):
        pmu = bench(peer.port)
        pmu.until(lambda: pmu.count("failures") >= 1)
    assert "what the peer sends is no C37.118" in caplog.text


def test_frames_that_are_split_and_glued_come_whole(bench: MakeBench) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"])
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        stream = b"".join(frame(number=number) for number in range(40))
        for start in range(0, len(stream), 37):
            peer.send(stream[start : start + 37])
            if start % 5 == 0:
                pmu.turn(0.001)
        pmu.until(lambda: pmu.row_count == 40)
    assert pmu.count("skipped_bytes") == 0


def test_a_wrong_check_word_costs_one_frame_and_is_told(bench: MakeBench) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"])
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        wrong = frame(number=1)[:-1] + bytes([frame(number=1)[-1] ^ 1])
        peer.send(frame() + wrong + frame(number=2))
        pmu.until(lambda: pmu.row_count == 2)
    assert pmu.count("bad_crc") == 1
    assert ("bad_crc", wrong) in [(reason, payload) for reason, _, payload in pmu.maker.dead_letters]


def test_a_length_that_lies_holds_the_stream_up_only_so_long(bench: MakeBench) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"], answer_timeout=0.3)
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        peer.send(b"\xaa\x01\xff\xff" + frame()[4:] + frame(number=1) + frame(number=2))
        pmu.until(lambda: pmu.row_count == 2)
    assert pmu.count("failures") == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_with_random_damage_loses_the_damaged_frames_alone(bench: MakeBench, seed: int) -> None:
    random = Random(seed)
    stream = bytearray()
    for number in range(300):
        each = bytearray(frame(number=number))
        damage = random.random()
        if damage < 0.1:
            each[random.randrange(len(each))] ^= 1 << random.randrange(8)
        elif damage < 0.15:
            del each[random.randrange(len(each)) :]
        elif damage < 0.2:
            each[:0] = random.randbytes(random.randrange(1, 40))
        stream += each
    whole = sum(frame(number=number) in stream for number in range(300))
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"], answer_timeout=0.5)
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        place = 0
        while place < len(stream):
            size = random.randrange(1, 2000)
            peer.send(bytes(stream[place : place + size]))
            place += size
        pmu.until(lambda: pmu.row_count >= whole)
    assert 200 < whole < 290
    assert pmu.row_count == whole
    assert pmu.rows.columns["frequency_hz"].tolist() == [50.0] * whole


def test_half_a_frame_at_the_end_of_a_connection_is_no_frame(bench: MakeBench) -> None:
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"])
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        peer.send(frame() + frame(number=1)[:20])
        pmu.until(lambda: pmu.row_count == 1)
        peer.hang_up()
        pmu.until(lambda: peer.commands.count(Command.DATA_ON) == 2)
        peer.send(frame(number=2))
        pmu.until(lambda: pmu.row_count == 2)
    assert pmu.rows.time_ns.tolist() == [1_700_000_000_000_000_000, 1_700_000_000_040_000_000]


def test_frames_of_another_stream_are_told_and_not_decoded(bench: MakeBench) -> None:
    other = plain_config(8)
    with Peer(lambda command: [encode_config(other)] if command == Command.SEND_CFG2 else []) as peer:
        pmu = bench(peer.port, answer_timeout=0.1)
        pmu.until(lambda: pmu.count("other_idcode") >= 1)
        peer.send(frame(other))
        pmu.until(lambda: pmu.count("other_idcode") >= 2)
    assert pmu.row_count == 0
    assert "frame of stream 8; `idcode` asks for 7" in pmu.maker.dead_letters[0][1]


def test_a_peer_that_sends_faster_than_is_read_waits(bench: MakeBench) -> None:
    many = b"".join(frame(number=number) for number in range(50_000))
    with Peer(obedient) as peer:
        pmu = bench(peer.port, ask=["cfg2"], max_rows=100)
        pmu.until(lambda: Command.DATA_ON in peer.commands)
        sender = threading.Thread(target=peer.send, args=(many,))
        sender.start()
        pmu.turn(1.0)
        pmu.turn(1.0)
        # Little is read a turn, so that the peer is held up by its own full buffers.
        assert pmu.row_count <= 300
        pmu.until(lambda: pmu.row_count == 50_000)
        sender.join()
    assert max(batch.rows for batch in pmu.batches) <= 100
    assert pmu.rows.time_ns.tolist() == sorted(pmu.rows.time_ns.tolist())


def test_datagrams_of_strangers_are_counted_and_not_taken(bench: MakeBench, serve: Serve) -> None:
    port = free_port()
    server = serve(transport="udp")
    pmu = bench(server.port, transport="udp", data_port=port, listen="0.0.0.0")
    pmu.until(lambda: is_on(server))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.2", 0))
        stranger.sendto(frame(frequency_hz=40.0), ("127.0.0.1", port))
    pmu.until(lambda: pmu.count("strangers") == 1)
    server.publish(7, [frame(frequency_hz=51.0)])
    pmu.until(lambda: pmu.row_count == 1)
    assert pmu.rows.columns["frequency_hz"].tolist() == [51.0]


def test_data_that_come_without_a_connection_do_not_keep_the_flow_awake(bench: MakeBench) -> None:
    port = free_port()
    pmu = bench(
        free_port(socket.SOCK_STREAM), transport="tcp_udp", data_port=port, reconnect_min=5.0, reconnect_max=5.0
    )
    pmu.until(lambda: pmu.count("failures") == 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        for _ in range(20):
            device.sendto(frame(), ("127.0.0.1", port))
    pmu.until(lambda: pmu.count("unasked") == 20)
    descriptor = pmu.source.fileno()
    assert descriptor is not None
    assert not select.select([descriptor], [], [], 0.0)[0]


def test_headers_of_any_bytes_are_harmless(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    header = HeaderFrame(header=CONFIG.header, text="line\nnext\x00\x1b[2J")

    def answer(command: int) -> Sequence[bytes]:
        return [encode_header(header)] if command == Command.SEND_HEADER else obedient(command)

    with Peer(answer) as peer, caplog.at_level(logging.INFO):
        pmu = bench(peer.port, ask=["cfg2"])
        pmu.until(lambda: pmu.count("header_frames") == 1)
    assert "line next  [2J" in caplog.text


def test_a_data_port_that_is_taken_is_fatal(make_context: ContextMaker) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(FatalError, match="the port is in use"):
            Bench(make_context, 4712, transport="tcp_udp", data_port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"transport": "tcp_udp"}, "`transport: tcp_udp` needs the `data_port`"),
        ({"data_port": 4713}, "`data_port` is for data over UDP"),
        ({"transport": "udp", "group": "239.0.0.1"}, "`group` is for `transport: tcp_udp`"),
        ({"transport": "tcp_udp", "data_port": 1, "group": "10.0.0.1"}, "a multicast group is an IPv4 address"),
        ({"ask": ["cfg2", "cfg2"]}, "`ask` names something twice"),
        ({"ask": []}, "length >= 1"),
        ({"reconnect_min": 10.0, "reconnect_max": 1.0}, "`reconnect_min` is longer than `reconnect_max`"),
        ({"idcode": 0}, ">= 1"),
        ({"channels": {"V1": "my_voltage"}}, "must end in its unit"),
    ],
)
def test_config_that_makes_no_sense_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"host": "10.0.0.1", "port": 4712, "idcode": 7} | settings, PmuClientConfig)
    assert text in str(caught.value)


def test_stations_that_share_a_name_are_told_apart_as_in_pmu_udp(bench: MakeBench, serve: Serve) -> None:
    twin = PmuConfig(station="G7", idcode=9, format=15)
    config = msgspec.structs.replace(CONFIG, pmus=(CONFIG.pmus[0], twin))
    server = serve(config)
    pmu = bench(server.port)
    pmu.until(lambda: is_on(server))
    server.publish(7, [frame(config)])
    pmu.until(lambda: pmu.row_count == 2)
    assert pmu.rows.devices == ("G7", "G7-9")


# -- trying it, as `edgeflex check --connect` does --------------------------------------------------------------------


def tried(make_context: ContextMaker, port: int, **settings: Any) -> Probe:
    fields = {"host": "127.0.0.1", "port": port, "idcode": 7, "answer_timeout": 0.2, **settings}
    assert NODE.probe is not None
    return NODE.probe(msgspec.convert(fields, PmuClientConfig), make_context("pmu"))


@pytest.mark.parametrize("transport", ["tcp", "udp", "tcp_udp"])
def test_trying_asks_for_the_configuration_and_nothing_else(
    make_context: ContextMaker, serve: Serve, transport: str
) -> None:
    data_port = 0 if transport == "tcp" else free_port()
    server = serve(transport=transport, data_address=(None, data_port))
    commands: list[int] = []
    server.on_command = lambda _idcode, command, _extended: commands.append(command)
    found = tried(make_context, server.port, transport=transport, data_port=data_port, answer_timeout=2.0)
    assert commands == [Command.SEND_CFG3]
    assert found.peer == "CFG3: 'G7', 50 frames/s"
    assert 0.0 < found.latency_s < 2.0


def test_trying_leaves_the_data_of_others_on(bench: MakeBench, serve: Serve, make_context: ContextMaker) -> None:
    server = serve()
    pmu = bench(server.port)
    pmu.until(lambda: is_on(server))
    tried(make_context, server.port, answer_timeout=2.0)
    assert is_on(server)


def test_trying_goes_on_to_the_next_kind_of_configuration(make_context: ContextMaker, serve: Serve) -> None:
    pmus = tuple(msgspec.structs.replace(CONFIG.pmus[0], station=f"S{n}", idcode=n) for n in range(1, 41))
    config = msgspec.structs.replace(CONFIG, pmus=pmus, data_rate=-10)
    server = serve(config, kinds=frozenset({FrameType.CFG2}))
    assert tried(make_context, server.port).peer == "CFG2: 40 PMUs, a frame each 10 s"


def test_trying_a_device_with_another_idcode_asks_whether_it_is_right(make_context: ContextMaker, serve: Serve) -> None:
    server = serve()
    text = r"\(tcp\): no answer to SEND_CFG3 nor to SEND_CFG2 within 0.05 s each; is 8 its IDCODE\?"
    with pytest.raises(RetryableError, match=text):
        tried(make_context, server.port, idcode=8, answer_timeout=0.05)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "connection refused"),
        ({"host": "no-such-host.invalid"}, "host 'no-such-host.invalid' cannot be resolved"),
        ({"transport": "udp"}, "no answer to SEND_CFG3 nor to SEND_CFG2"),
    ],
)
def test_trying_a_device_that_is_not_there_says_so(
    make_context: ContextMaker, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RetryableError, match=complaint):
        tried(make_context, free_port(socket.SOCK_STREAM), **settings)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [(b"", "the peer closed the connection"), (b"\xaa\x01\x00\x12" * 20_000, "no C37.118")],
)
def test_trying_what_is_no_pmu_says_so(make_context: ContextMaker, said: bytes, complaint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RetryableError, match=complaint):
            tried(make_context, server.getsockname()[1], answer_timeout=2.0)
        thread.join()
