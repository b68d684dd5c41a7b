"""A grid whose frequency a flow can hold: PMU streams out as C37.118.2 frames, set-points in over MQTT.

    python -m edgeflex_services.frequency_grid --port 4716 --mqtt 127.0.0.1:1883 --load-step north:50 --event-at 5

One or two areas of 1 GW (`edgeflex_services.frequency_model`). Each area has a PMU at its border and each resource one
at its terminals: IDCODE 1, 2, …, the station named as the area or resource, 50 frames/s with the phasors V1 (V, line to
ground) and I1 (A), FREQ, DFREQ and the analogs P (W: what the area gives to others, or the resource gives) and SOC
(state of charge in percent; NaN of what stores nothing), all float32. Configurations (CFG-2) come first and every 5 s,
or when a client asks for them.

Set-points are JSON objects of the type `setpoints` with the quantity `active_power_w` and the power of each resource,
on `edgeflex/SITE/setpoints/units` as `flows/frequency_control.yaml` publishes them. What is not valid any more when it
comes is not obeyed; a resource whose set-point runs out goes back to its scheduled power.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgeflex_connectors.c37118 import Analog, ConfigFrame, FrameHeader, Phasor, PmuConfig
from edgeflex_connectors.c37118_encode import FORMAT, encode_frames, time_counts
from edgeflex_connectors.pmu_server import Transport
from edgeflex_flow.messages import Samples, Setpoints, decode_message
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.broker import hang_up
from edgeflex_services.frequency_model import (
    FRAMES_PER_S,
    NOMINAL_HZ,
    Course,
    Event,
    FrequencyGrid,
    Layout,
    LoadStep,
    MachineTrip,
    single_area,
    two_areas,
)
from edgeflex_services.pmu_outputs import Obedient, Spontaneous, closing_output
from edgeflex_services.program import stop_on_signals, tell

TIME_BASE: Final = 1_000_000
CONFIG_PERIOD_S: Final = 5.0
MOST_WAITING: Final = 10_000
DEFAULT_TOPIC: Final = "edgeflex/local/setpoints/units"


class Inbox:
    """Set-points that a broker passes on. It connects again by itself when the broker was away."""

    def __init__(self, host: str, port: int, topic: str, told: Callable[[str], None] = lambda _text: None) -> None:
        """`told` gets the state of the connection in words, each change of it once."""
        self._told, self._state = told, ""
        self._address = f"{host}:{port}"
        self.unreadable = 0
        """Payloads that are no set-points."""
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 5)
        self._client.on_connect = self._subscribe
        self._client.on_connect_fail = lambda *_: self._tell("away")
        self._client.on_disconnect = lambda *_: self._tell("away")
        self._topic = topic
        self._client.on_message = lambda _client, _data, message: self._waiting.append(bytes(message.payload))
        self._client.connect_async(host, port)
        self._client.loop_start()

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self._topic, 1)
        self._tell("connected")

    def _tell(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._told(f"broker {self._address}: {state}")

    def take(self) -> list[Setpoints]:
        """What came since the last call."""
        told: list[Setpoints] = []
        while self._waiting:
            try:
                message = decode_message(self._waiting.popleft(), (Setpoints,))
            except (msgspec.ValidationError, msgspec.DecodeError):
                self.unreadable += 1
                continue
            assert isinstance(message, Setpoints)
            told.append(message)
        return told

    def close(self) -> None:
        hang_up(self._client)


@dataclass
class Report:
    """What a run did."""

    frames: int = 0
    unreadable: int = 0
    nadir_hz: float = 0.0
    """Largest deviation of all areas, with its sign."""
    last_deviation_hz: float = 0.0
    obeyed: int = 0
    late: int = 0
    expired: int = 0


class FrequencyGridService:
    """Sends the frames of a grid to `host`:`port` (or, with another `transport`, to clients who connect there), in the
    time of the clock, and obeys what comes into the `inbox`."""

    def __init__(
        self,
        host: str,
        port: int,
        layout: Layout | None = None,
        events: Sequence[Event] = (),
        *,
        inbox: Inbox | None = None,
        transport: Transport | Literal["unasked"] = "unasked",
        delay_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.grid = FrequencyGrid(layout or single_area(), events, delay_s=delay_s, seed=seed)
        self._host, self._port = host, port
        self._transport: Transport | Literal["unasked"] = transport
        self._inbox = inbox
        self._idcodes = np.arange(1, len(self.grid.devices) + 1)
        self.port = port
        """Where clients connect to, once `listening`."""
        self.listening = threading.Event()

    def streams(self) -> list[ConfigFrame]:
        """The CFG-2 of every stream."""
        return [
            ConfigFrame(
                header=FrameHeader(idcode=idcode, soc=int(time.time())),
                time_base=TIME_BASE,
                pmus=(
                    PmuConfig(
                        station=name,
                        idcode=idcode,
                        format=FORMAT,
                        phasors=(Phasor(name="V1"), Phasor(name="I1", is_current=True)),
                        analogs=(Analog(name="P"), Analog(name="SOC")),
                        nominal_hz=round(NOMINAL_HZ),
                        change_count=1,
                    ),
                ),
                data_rate=FRAMES_PER_S,
            )
            for idcode, name in enumerate(self.grid.devices, start=1)
        ]

    def encode(self, samples: Samples) -> list[tuple[int, bytes]]:
        """One frame of each stream, with its IDCODE."""
        columns = samples.columns
        rows = samples.rows
        phasors = np.stack(
            [columns["voltage_v"], columns["voltage_angle_rad"], columns["current_a"], columns["current_angle_rad"]],
            axis=-1,
        )
        frames = encode_frames(
            idcode=self._idcodes,
            counts=time_counts(samples.time_ns, TIME_BASE),
            stat=np.zeros((rows, 1), dtype=np.uint16),
            phasors=phasors.reshape(rows, 1, 2, 2),
            frequency_hz=columns["frequency_hz"][:, None],
            rocof_hz_per_s=columns["rocof_hz_per_s"][:, None],
            analogs=np.stack([columns["active_power_w"], columns["state_of_charge_percent"]], axis=-1)[:, None, :],
            digitals=np.zeros((rows, 1, 0)),
            time_base=TIME_BASE,
        )
        return [(int(idcode), frame.tobytes()) for idcode, frame in zip(self._idcodes, frames, strict=True)]

    def run(
        self,
        stop: threading.Event | None = None,
        seconds: float | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Report:
        """Go on until `stop` is set or `seconds` have gone by. `on_start` is told the time of the grid's beginning."""
        stop = stop or threading.Event()
        grid = self.grid
        now_ns = time.time_ns()
        start_frame = -(-now_ns * FRAMES_PER_S // NS_PER_S)
        grid.start_ns = start_frame * NS_PER_S // FRAMES_PER_S
        begin_s = time.monotonic() + (grid.start_ns - now_ns) / NS_PER_S
        last_frame = math.inf if seconds is None else round(seconds * FRAMES_PER_S)
        if on_start is not None:
            on_start(grid.start_ns)
        sent = 0
        with closing_output(self._open) as output:
            output.tell(self.streams())
            next_config_s = begin_s + CONFIG_PERIOD_S
            while grid.frame < last_frame:
                # A frame tells what was measured at its end.
                if stop.wait(max(0.0, begin_s + (grid.frame + 1) / FRAMES_PER_S - time.monotonic())):
                    break
                if time.monotonic() >= next_config_s:
                    output.tell(self.streams())
                    next_config_s += CONFIG_PERIOD_S
                for told in self._inbox.take() if self._inbox is not None else ():
                    grid.obey(told)
                samples = grid.advance()
                if samples is not None:
                    output.send(self.encode(samples))
                    sent += samples.rows
        return self._report(sent)

    def _report(self, sent: int) -> Report:
        if not self.grid.frame:
            return Report()
        course, counts = self.grid.course(), self.grid.counts
        return Report(
            frames=sent,
            unreadable=0 if self._inbox is None else self._inbox.unreadable,
            nadir_hz=max((course.nadir_hz(area) for area in course.areas), key=abs),
            last_deviation_hz=max((float(course.deviation_hz(area)[-1]) for area in course.areas), key=abs),
            obeyed=counts.obeyed,
            late=counts.late,
            expired=counts.expired,
        )

    def course(self) -> Course:
        """What happened so far."""
        return self.grid.course()

    def _open(self) -> Spontaneous | Obedient:
        if self._transport == "unasked":
            return Spontaneous(self._host, self._port)
        output = Obedient(self._host, self._port, self._transport, self.streams(), on_change=lambda: None)
        self.port = output.server.port
        self.listening.set()
        return output


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"an address is HOST:PORT; got '{text}'")
    return host, int(port)


def _load_step(text: str) -> tuple[str, float]:
    area, _, megawatts = text.rpartition(":")
    try:
        return area, float(megawatts) * 1e6
    except ValueError:
        raise argparse.ArgumentTypeError(f"a load step is AREA:MW; got '{text}'") from None


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Be a grid whose frequency can be held: PMU frames out, set-points in over MQTT.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--areas", type=int, choices=[1, 2], default=1, help="1: north; 2: north and south with a tie")
    parser.add_argument("--transport", choices=["unasked", "tcp", "udp"], default="unasked", help="how frames go out")
    parser.add_argument("--host", default="127.0.0.1", help="where to send to; else the address to listen on")
    parser.add_argument("--port", type=int, default=4716, help="port to send to or to listen on")
    parser.add_argument("--mqtt", type=_address, default=None, metavar="HOST:PORT", help="broker of the set-points")
    parser.add_argument("--topic", default=DEFAULT_TOPIC, help="topic of the set-points; may have wildcards")
    parser.add_argument(
        "--load-step", type=_load_step, action="append", default=[], metavar="AREA:MW", help="the load of an area rises"
    )
    parser.add_argument("--trip", action="append", default=[], metavar="MACHINE", help="a machine leaves, north_steam")
    parser.add_argument("--event-at", type=float, default=10.0, metavar="S", help="seconds until steps and trips")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="how long a frame is on its way")
    parser.add_argument("--seconds", type=float, default=None, help="end after this long; otherwise at SIGTERM")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--json", action="store_true", help="tell the beginning and the report as JSON lines")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.frequency_grid") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    stop = stop_on_signals()
    events: list[Event] = [
        LoadStep(at_s=options.event_at, area=area, power_w=power_w) for area, power_w in options.load_step
    ]
    events += [MachineTrip(at_s=options.event_at, machine=name) for name in options.trip]
    inbox = None if options.mqtt is None else Inbox(options.mqtt[0], options.mqtt[1], options.topic, _tell_broker)
    try:
        service = FrequencyGridService(
            options.host,
            options.port,
            single_area() if options.areas == 1 else two_areas(),
            events,
            inbox=inbox,
            transport=options.transport,
            delay_s=options.delay,
            seed=options.seed,
        )
        report = service.run(stop, options.seconds, _tell_start if options.json else None)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    finally:
        if inbox is not None:
            inbox.close()
    if options.json:
        tell(**asdict(report))
    else:
        sys.stdout.write(
            f"{report.frames} data frames; {report.obeyed} set-points obeyed, {report.late} too late, "
            f"{report.expired} expired; largest deviation {1e3 * report.nadir_hz:.0f} mHz, "
            f"last {1e3 * report.last_deviation_hz:.0f} mHz\n"
        )
    return 0


def _tell_broker(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _tell_start(start_ns: int) -> None:
    tell(start_ns=start_ns)


if __name__ == "__main__":
    sys.exit(main())
