"""Ten PMUs that send a recorded disturbance of the IEEE 39-bus system as C37.118.2 frames over UDP.

    python -m edgeflex_services.pmu_simulator --host 127.0.0.1 --port 4713 --event-at 5

One stream for each generator: IDCODE 1 to 10, station name as in the recording, 60 frames/s of 46 bytes with the
phasors V1 (V, line to ground) and I1 (A), FREQ, DFREQ and the analog P (W, three-phase), all float32. Configurations
(CFG-2) come first and every 5 s. Time tags are the time now, on whole frames of the UTC second.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType as StackFrame
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.c37118 import (
    Analog,
    ConfigFrame,
    FrameHeader,
    Phasor,
    PmuConfig,
    encode_config,
)
from edgeflex_connectors.c37118_encode import FORMAT, encode_data_block
from edgeflex_services.pmu_recording import Playback, Recording

TIME_BASE: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000


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


def stream_config(idcode: int, station: str, nominal_hz: float, frames_per_s: int) -> ConfigFrame:
    """The CFG-2 of one simulated PMU."""
    pmu = PmuConfig(
        station=station,
        idcode=idcode,
        format=FORMAT,
        phasors=(Phasor(name="V1"), Phasor(name="I1", is_current=True)),
        analogs=(Analog(name="P"),),
        nominal_hz=round(nominal_hz),
        change_count=1,
    )
    return ConfigFrame(
        header=FrameHeader(idcode=idcode, soc=int(time.time())),
        time_base=TIME_BASE,
        pmus=(pmu,),
        data_rate=frames_per_s,
    )


class PmuSimulator:
    """Sends a recording to `host`:`port`.

    The event comes `event_at_s` after the start. `speed` 2 sends the frames twice as fast; time tags go on at one frame
    period a frame, so that they run ahead of the clock. `loop` repeats the recording (see `Playback`), otherwise its
    last values go on. `frequency_noise_hz` is the rms of white noise on FREQ; the same `seed` gives the same noise.
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
    ) -> None:
        if speed <= 0.0 or config_period_s <= 0.0 or frequency_noise_hz < 0.0 or event_at_s < 0.0:
            raise ValueError(
                "speed and config_period_s must be positive, event_at_s and frequency_noise_hz not negative; got "
                f"{speed}, {config_period_s}, {event_at_s}, {frequency_noise_hz}"
            )
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

    def configurations(self) -> list[bytes]:
        """The CFG-2 of every stream."""
        return [
            encode_config(stream_config(idcode, name, self.recording.nominal_hz, self.recording.frames_per_s))
            for idcode, name in enumerate(self.recording.generators, start=1)
        ]

    def encode(self, first: int, count: int, start_frame: int) -> NDArray[np.uint8]:
        """Frames `first` to `first + count` of all streams, shape (count, generators, 46).

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
        time_ns = seconds * _NS_PER_S + (part * _NS_PER_S + rate // 2) // rate
        data = encode_data_block(
            idcode=np.tile(self._idcodes, count),
            time_ns=np.repeat(time_ns, shape[1]),
            phasors=phasors.reshape(-1, 2, 2),
            frequency_hz=(measured.frequency_hz + noise_hz).ravel(),
            rocof_hz_per_s=measured.rocof_hz_per_s.ravel(),
            analogs=measured.active_power_w.reshape(-1, 1),
            time_base=TIME_BASE,
        )
        return data.reshape(count, shape[1], -1)

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
        start_frame = -(-now_ns * rate // _NS_PER_S)
        begin_s = time.monotonic() + (start_frame / rate - now_ns / _NS_PER_S)
        if on_start is not None:
            on_start(round(start_frame / rate * _NS_PER_S + self._event_at_s * _NS_PER_S))
        last_frame = None if seconds is None else round(seconds * rate * self._speed)
        report = Report()
        with socket.socket(self._family(), socket.SOCK_DGRAM) as sender:
            self._send_configurations(sender, report)
            next_config_s = begin_s + self._config_period_s
            first = 0
            while last_frame is None or first < last_frame:
                count = rate if last_frame is None else min(rate, last_frame - first)
                for row, datagrams in enumerate(self.encode(first, count, start_frame)):
                    deadline_s = begin_s + (first + row) / (rate * self._speed)
                    if stop.wait(max(0.0, deadline_s - time.monotonic())):
                        return report
                    if time.monotonic() >= next_config_s:
                        self._send_configurations(sender, report)
                        next_config_s += self._config_period_s
                    self._send(sender, datagrams, deadline_s, report)
                first += count
        return report

    def _family(self) -> socket.AddressFamily:
        try:
            family, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
        except socket.gaierror as error:
            raise OSError(f"host '{self._host}': {error.strerror}") from error
        self._address = address
        return family

    def _send_configurations(self, sender: socket.socket, report: Report) -> None:
        for frame in self.configurations():
            self._send_one(sender, frame, report)
            report.configurations += 1

    def _send(self, sender: socket.socket, datagrams: NDArray[np.uint8], deadline_s: float, report: Report) -> None:
        late = time.monotonic() - deadline_s > 1.0 / (self.recording.frames_per_s * self._speed)
        for datagram in datagrams:
            self._send_one(sender, datagram.tobytes(), report)
        report.frames += len(datagrams)
        report.late_frames += len(datagrams) * late

    def _send_one(self, sender: socket.socket, datagram: bytes, report: Report) -> None:
        try:
            sender.sendto(datagram, self._address)
        except OSError:
            # A network that is away for a moment must not end the simulation; what it cost is in the report.
            report.send_errors += 1


def _wrapped(angle_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """The angle within ±π, as PMUs send it."""
    return angle_rad - 2.0 * np.pi * np.rint(angle_rad / (2.0 * np.pi))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535; got '{text}'")
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
        description="Send a recorded disturbance of the IEEE 39-bus system as C37.118.2 frames over UDP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to send to")
    parser.add_argument("--port", type=_port, default=4713, help="UDP port to send to")
    parser.add_argument("--seconds", type=_seconds, default=None, help="end after this long; otherwise at SIGTERM")
    parser.add_argument("--event-at", type=float, default=10.0, metavar="S", help="seconds until the event")
    parser.add_argument("--speed", type=float, default=1.0, help="2 sends the frames twice as fast")
    parser.add_argument("--loop", action="store_true", help="repeat the recording; otherwise its last values go on")
    parser.add_argument(
        "--noise-hz", type=float, default=0.0, metavar="RMS", help="white noise on the frequency, Hz rms"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--json", action="store_true", help="tell the event's time and what was sent as JSON lines")
    parser.add_argument("--config-period", type=float, default=5.0, metavar="S", help="seconds between CFG-2 frames")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.pmu_simulator") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    stop = threading.Event()

    def end(signal_number: int, frame: StackFrame | None) -> None:
        del signal_number, frame
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
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
        )
        report = simulator.run(stop, options.seconds, _tell_event if options.json else None)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.json:
        _tell(frames_sent=report.frames, late_frames=report.late_frames, send_errors=report.send_errors)
    else:
        sys.stdout.write(
            f"{report.frames} data frames and {report.configurations} configurations to {options.host}:{options.port};"
            f" {report.late_frames} late, {report.send_errors} not sent\n"
        )
    return 0


def _tell(**fields: int) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _tell_event(event_ns: int) -> None:
    _tell(event_ns=event_ns)


if __name__ == "__main__":
    sys.exit(main())
