"""Ten PMUs that send a recorded disturbance of the IEEE 39-bus system as C37.118.2 frames.

    python -m edgeflex_services.pmu_simulator --host 127.0.0.1 --port 4713 --event-at 5
    python -m edgeflex_services.pmu_simulator --transport tcp --port 4712 --pdc 99

One stream for each generator: IDCODE 1 to 10, station name as in the recording, 60 frames/s of 46 bytes with the
phasors V1 (V, line to ground) and I1 (A), FREQ, DFREQ and the analog P (W, three-phase), all float32; or one stream
with all of them, as a PDC sends it. Time tags are the time now, on whole frames of the UTC second.

Unasked over UDP, configurations (CFG-2) come first and every 5 s. With the other transports clients ask for what they
want. The command 0x0100, which the standard leaves to users, has all PMUs announce another configuration (STAT bit 10)
and then change it: with the analog Q (var) besides P, and without it at the next time.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.c37118 import Analog, ConfigFrame, FrameHeader, Phasor, PmuConfig, encode_config
from edgeflex_connectors.c37118_encode import FORMAT, encode_frames, time_counts
from edgeflex_connectors.pmu_server import Transport
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.pmu_outputs import BadLink, Obedient, Output, Spontaneous, closing_output
from edgeflex_services.pmu_recording import Measurements, Playback, Recording
from edgeflex_services.program import stop_on_signals, tell

TIME_BASE: Final = 1_000_000
STAT_CHANGE: Final = 0x0400
"""Bit 10 of STAT: the configuration will change."""


@dataclass
class Report:
    """What a run did."""

    frames: int = 0
    """Data frames sent."""
    configurations: int = 0
    late_frames: int = 0
    """Frames sent more than one frame period after their time."""
    send_errors: int = 0
    """Frames that the operating system refused."""


def pmu_config(idcode: int, station: str, nominal_hz: float, changes: int = 0) -> PmuConfig:
    """What one simulated PMU sends after so many changes of its configuration."""
    return PmuConfig(
        station=station,
        idcode=idcode,
        format=FORMAT,
        phasors=(Phasor(name="V1"), Phasor(name="I1", is_current=True)),
        analogs=(Analog(name="P"), Analog(name="Q")) if changes % 2 else (Analog(name="P"),),
        nominal_hz=round(nominal_hz),
        change_count=1 + changes,
    )


class PmuSimulator:
    """Sends a recording to `host`:`port`, or with another `transport` than `unasked` to clients who connect there.

    `pdc` is the IDCODE of one stream with all PMUs; None: a stream for each. `data_port` is where data go with
    `transport` tcp_udp: to the client, or to the multicast `group`. `announce_s` is how long a change is announced.

    The event comes `event_at_s` after the start. `speed` 2 sends the frames twice as fast; time tags go on at one frame
    period a frame, so that they run ahead of the clock. `loop` repeats the recording (see `Playback`), otherwise its
    last values go on. `frequency_noise_hz` is the rms of white noise on FREQ; the same `seed` gives the same noise.
    `loss` and `delay_s` are of the link: of data frames, that share is lost, and the others come so much later.
    """

    def __init__(
        self,
        host: str,
        port: int,
        recording: Recording | None = None,
        *,
        event_at_s: float = 10.0,
        speed: float = 1.0,
        loop: bool = False,
        frequency_noise_hz: float = 0.0,
        seed: int = 0,
        config_period_s: float = 5.0,
        transport: Transport | Literal["unasked"] = "unasked",
        pdc: int | None = None,
        data_port: int = 4713,
        group: str | None = None,
        interface: str | None = None,
        announce_s: float = 60.0,
        loss: float = 0.0,
        delay_s: float = 0.0,
    ) -> None:
        if speed <= 0.0 or config_period_s <= 0.0 or frequency_noise_hz < 0.0 or event_at_s < 0.0:
            raise ValueError(
                "speed and config_period_s must be positive, event_at_s and frequency_noise_hz not negative; got "
                f"{speed}, {config_period_s}, {event_at_s}, {frequency_noise_hz}"
            )
        if not 0.0 <= loss <= 1.0 or not 0.0 <= delay_s < math.inf:
            raise ValueError(f"loss is a share from 0 to 1 and delay_s not negative; got {loss}, {delay_s}")
        self._host = host
        self._port = port
        self.recording = recording or Recording.load()
        self._playback = Playback(self.recording, event_at_s=event_at_s, loop=loop)
        self._event_at_s = event_at_s
        self._speed = speed
        self._noise_hz = frequency_noise_hz
        self._random = np.random.default_rng(seed)
        self._config_period_s = config_period_s
        self._idcodes = np.arange(1, len(self.recording.generators) + 1)
        self._transport: Transport | Literal["unasked"] = transport
        self._pdc = pdc
        self._data_address = group, data_port
        self._interface = interface
        self._announce_frames = round(announce_s * self.recording.frames_per_s * speed)
        self._loss, self._delay_s, self._seed = loss, delay_s, seed
        self._change_wanted = threading.Event()
        self._changes = 0
        self._change_at: int | None = None
        """The frame with which a change that is announced comes into force."""
        self.listening = threading.Event()
        self.port = port
        """Where clients connect to, once `listening`."""

    def change(self) -> None:
        """Announce another configuration, and change to it. From any thread."""
        self._change_wanted.set()

    def streams(self) -> list[ConfigFrame]:
        """The CFG-2 of every stream."""
        pmus = tuple(
            pmu_config(idcode, name, self.recording.nominal_hz, self._changes)
            for idcode, name in enumerate(self.recording.generators, start=1)
        )
        groups = [(pmu.idcode, (pmu,)) for pmu in pmus] if self._pdc is None else [(self._pdc, pmus)]
        return [
            ConfigFrame(
                header=FrameHeader(idcode=idcode, soc=int(time.time())),
                time_base=TIME_BASE,
                pmus=members,
                data_rate=self.recording.frames_per_s,
            )
            for idcode, members in groups
        ]

    def configurations(self) -> list[bytes]:
        """The CFG-2 frame of every stream."""
        return [encode_config(config) for config in self.streams()]

    def encode(self, first: int, count: int, start_frame: int) -> NDArray[np.uint8]:
        """Frames `first` to `first + count` of all streams, shape (count, streams, bytes of a frame).

        `start_frame` is the time tag of frame 0, in frames since 1970.
        """
        frames = np.arange(first, first + count, dtype=np.int64)
        measured = self._playback.frames_at(frames)
        shape = measured.frequency_hz.shape
        noise_hz = self._random.normal(0.0, self._noise_hz, shape) if self._noise_hz else 0.0
        phasors = np.stack(
            [
                np.stack([measured.voltage_v, _wrapped(measured.voltage_angle_rad)], axis=-1),
                np.stack([measured.current_a, _wrapped(measured.current_angle_rad)], axis=-1),
            ],
            axis=-2,
        )
        rate = self.recording.frames_per_s
        seconds, part = np.divmod(frames + start_frame, rate)
        time_ns = seconds * NS_PER_S + (part * NS_PER_S + rate // 2) // rate
        values = {
            "stat": np.full(shape, 0 if self._change_at is None else STAT_CHANGE, dtype=np.uint16),
            "phasors": phasors,
            "frequency_hz": measured.frequency_hz + noise_hz,
            "rocof_hz_per_s": measured.rocof_hz_per_s,
            "analogs": np.stack(self._analogs(measured), axis=-1),
            "digitals": np.zeros((*shape, 0)),
        }
        counts = time_counts(time_ns, TIME_BASE)
        if self._pdc is None:
            # A frame for each PMU.
            frames_in_all = shape[0] * shape[1]
            values = {name: each.reshape(frames_in_all, 1, *each.shape[2:]) for name, each in values.items()}
            counts = np.repeat(counts, shape[1])
        idcode = np.tile(self._idcodes, count) if self._pdc is None else self._pdc
        data = encode_frames(idcode=idcode, counts=counts, time_base=TIME_BASE, **values)
        return data.reshape(count, -1, data.shape[1])

    def _analogs(self, measured: Measurements) -> list[NDArray[np.float64]]:
        active_w = measured.active_power_w
        if not self._changes % 2:
            return [active_w]
        lag_rad = measured.voltage_angle_rad - measured.current_angle_rad
        return [active_w, 3.0 * measured.voltage_v * measured.current_a * np.sin(lag_rad)]

    def run(
        self,
        stop: threading.Event | None = None,
        seconds: float | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Report:
        """Send until `stop` is set or `seconds` (of the clock) have gone by, whichever comes first.

        `on_start` is told the time tag of the event, UTC nanoseconds, before the first frame goes out.

        Waits for each frame's own time, so that delays do not add up.
        """
        stop = stop or threading.Event()
        rate = self.recording.frames_per_s
        # The first whole frame of UTC after now; its monotonic time is the zero of all deadlines.
        now_ns = time.time_ns()
        start_frame = -(-now_ns * rate // NS_PER_S)
        begin_s = time.monotonic() + (start_frame / rate - now_ns / NS_PER_S)
        if on_start is not None:
            on_start(round(start_frame / rate * NS_PER_S + self._event_at_s * NS_PER_S))
        last_frame = None if seconds is None else round(seconds * rate * self._speed)
        report = Report()
        with closing_output(self._open) as output:
            report.configurations += output.tell(self.streams())
            next_config_s = begin_s + self._config_period_s
            first = 0
            while last_frame is None or first < last_frame:
                if self._follow_changes(first):
                    report.configurations += output.tell(self.streams())
                count = min(self._frames_alike(first), rate if last_frame is None else last_frame - first)
                for row, datagrams in enumerate(self.encode(first, count, start_frame)):
                    deadline_s = begin_s + (first + row) / (rate * self._speed)
                    if stop.wait(max(0.0, deadline_s - time.monotonic())):
                        return self._closed(report, output)
                    if time.monotonic() >= next_config_s:
                        report.configurations += output.tell(self.streams())
                        next_config_s += self._config_period_s
                    self._send(output, datagrams, deadline_s, report)
                first += count
            return self._closed(report, output)

    def _open(self) -> Output:
        output = self._open_transport()
        if not self._loss and not self._delay_s:
            return output
        return BadLink(output, loss=self._loss, delay_s=self._delay_s, seed=self._seed)

    def _open_transport(self) -> Output:
        if self._transport == "unasked":
            return Spontaneous(self._host, self._port, self._interface)
        output = Obedient(
            self._host,
            self._port,
            self._transport,
            self.streams(),
            data_address=self._data_address,
            interface=self._interface,
            on_change=self.change,
        )
        self.port = output.server.port
        self.listening.set()
        return output

    def _closed(self, report: Report, output: Output) -> Report:
        report.send_errors = output.send_errors
        return report

    def _follow_changes(self, frame: int) -> bool:
        """Begin to announce a change that is wanted, or put it into force; whether it is in force now."""
        if self._change_at is not None and frame >= self._change_at:
            self._changes += 1
            self._change_at = None
            return True
        if self._change_at is None and self._change_wanted.is_set():
            self._change_wanted.clear()
            self._change_at = frame + self._announce_frames
        return False

    def _frames_alike(self, first: int) -> int:
        """For how many frames STAT and configuration stay as they are: at most a quarter of a second at a time, so
        that a change that is wanted begins soon."""
        most = max(1, round(self.recording.frames_per_s * self._speed / 4))
        return most if self._change_at is None else max(1, min(most, self._change_at - first))

    def _send(self, output: Output, datagrams: NDArray[np.uint8], deadline_s: float, report: Report) -> None:
        late = time.monotonic() - deadline_s > 1.0 / (self.recording.frames_per_s * self._speed)
        idcodes = self._idcodes.tolist() if self._pdc is None else [self._pdc]
        output.send([(idcode, row.tobytes()) for idcode, row in zip(idcodes, datagrams, strict=True)])
        report.frames += len(datagrams)
        report.late_frames += len(datagrams) * late


def _wrapped(angle_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """The angle within ±π, as PMUs send it."""
    return angle_rad - 2.0 * np.pi * np.rint(angle_rad / (2.0 * np.pi))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535; got '{text}'")
    return int(text)


def _idcode(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65534):
        raise argparse.ArgumentTypeError(f"an IDCODE is a number from 1 to 65534; got '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"a positive number of seconds; got '{text}'")
    return seconds


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Send a recorded disturbance of the IEEE 39-bus system as C37.118.2 frames.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--transport",
        choices=["unasked", "tcp", "udp", "tcp_udp"],
        default="unasked",
        help="unasked: send over UDP; else obey the commands of clients, tcp_udp: over TCP, with data over UDP",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to send to, also a multicast group; else the address to listen on"
    )
    parser.add_argument("--port", type=_port, default=4713, help="port to send to or to listen on")
    parser.add_argument("--data-port", type=_port, default=4713, help="with tcp_udp: port of the client for data")
    parser.add_argument("--group", default=None, help="with tcp_udp: multicast group for data instead of the client")
    parser.add_argument("--interface", default=None, help="address of this machine's network for multicast")
    parser.add_argument(
        "--pdc", type=_idcode, default=None, metavar="IDCODE", help="one stream with all PMUs instead of one for each"
    )
    parser.add_argument(
        "--announce", type=_seconds, default=60.0, metavar="S", help="how long a change of configuration is announced"
    )
    parser.add_argument("--seconds", type=_seconds, default=None, help="end after this long; otherwise at SIGTERM")
    parser.add_argument("--event-at", type=float, default=10.0, metavar="S", help="seconds until the event")
    parser.add_argument("--speed", type=float, default=1.0, help="2 sends the frames twice as fast")
    parser.add_argument("--loop", action="store_true", help="repeat the recording; otherwise its last values go on")
    parser.add_argument(
        "--noise-hz", type=float, default=0.0, metavar="RMS", help="white noise on the frequency, Hz rms"
    )
    parser.add_argument("--loss", type=float, default=0.0, metavar="SHARE", help="of data frames that a bad link loses")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="by which a bad link brings data later")
    parser.add_argument("--seed", type=int, default=0, help="seed of noise and loss")
    parser.add_argument("--json", action="store_true", help="tell the event's time and what was sent as JSON lines")
    parser.add_argument("--config-period", type=float, default=5.0, metavar="S", help="seconds between CFG-2 frames")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.pmu_simulator") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    stop = stop_on_signals()
    try:
        simulator = PmuSimulator(
            options.host,
            options.port,
            event_at_s=options.event_at,
            speed=options.speed,
            loop=options.loop,
            frequency_noise_hz=options.noise_hz,
            seed=options.seed,
            config_period_s=options.config_period,
            transport=options.transport,
            pdc=options.pdc,
            data_port=options.data_port,
            group=options.group,
            interface=options.interface,
            announce_s=options.announce,
            loss=options.loss,
            delay_s=options.delay,
        )
        report = simulator.run(stop, options.seconds, _tell_event if options.json else None)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.json:
        tell(frames_sent=report.frames, late_frames=report.late_frames, send_errors=report.send_errors)
    else:
        sys.stdout.write(
            f"{report.frames} data frames and {report.configurations} configurations to {options.host}:{options.port};"
            f" {report.late_frames} late, {report.send_errors} not sent\n"
        )
    return 0


def _tell_event(event_ns: int) -> None:
    tell(event_ns=event_ns)


if __name__ == "__main__":
    sys.exit(main())
