"""A simulated grid on the databus: it publishes what is measured and obeys set-points, as CoVEE's power flow does.

    edgeflex serve powerflow --grid kerber --profile constant --url mqtt://127.0.0.1:1883
    edgeflex serve powerflow --grid simbench:1-LV-rural3--2-sw --speed-up 900 --day 172 --json
    edgeflex serve powerflow --grid cigre_lv --write-network cigre_lv

Voltages are per unit of each bus, powers per unit of `--power-base`, whatever the grid; nodes are `node_<number>` with
the index of pandapower's bus plus one. User and password are taken from the environment variables DATABUS_USER and
DATABUS_PASSWORD.

Exit codes: 0 ended by `--seconds`, SIGTERM or SIGINT, or the network was written; 2 wrong usage; 3 it could not go on:
no such grid, the broker refused the user, the grid cannot carry its loads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.errors import BadMessageError, FatalError
from edgeflex_services.powerflow_grid import POWER_BASE_KVA, SIMBENCH, make_grid
from edgeflex_services.powerflow_network import write_network
from edgeflex_services.powerflow_payloads import (
    PV_TOPIC,
    QUANTITIES,
    SOC_TOPIC,
    VOLTAGE_TOPIC,
    decode_setpoints,
    encode_measurements,
)
from edgeflex_services.powerflow_plant import Measurements, Plant, Report
from edgeflex_services.profiles import DAY_S, ProfileName, make_profiles
from edgeflex_services.program import stop_on_signals
from edgeflex_services.service_bus import Bus

USER: Final = "DATABUS_USER"
PASSWORD: Final = "DATABUS_PASSWORD"  # noqa: S105 - the name of a variable
FATAL: Final = 3
STATE_EVERY_S: Final = 1.0
MOST_TOLD_A_STATE: Final = 5
"""Refusals that are told between two states; all are counted."""


@dataclass
class ServiceReport(Report):
    """What a run did, on the databus too."""

    published: int = 0
    """Messages that went to the broker."""
    not_sent: int = 0
    """Messages that were dropped because the broker was away."""
    lost: int = 0
    """Messages that were lost on purpose (`--loss`)."""
    bad_payloads: int = 0
    late_steps: int = 0
    """Steps left out because those before took too long."""


@dataclass(frozen=True)
class Settings:
    """How a plant runs on the databus. Seconds are those of the clock, but for `start_s`."""

    period_s: float = 1.0
    speed_up: float = 1.0
    start_s: float = 43_200.0
    """Time of day of the first step."""
    setpoint_timeout_s: float = 10.0
    noise: float = 0.0
    """Relative error of what is measured, rms."""
    delay_s: float = 0.0
    """Between measuring and publishing."""
    loss: float = 0.0
    """Share of messages that are lost."""
    seed: int = 0
    extension: bool = False


class Teller:
    """Tells what happens, from any thread, as JSON lines or as text."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lock = threading.Lock()

    def __call__(self, event: str, **fields: object) -> None:
        if self._as_json:
            line = json.dumps({"event": event, **fields})
        else:
            line = f"{event}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


class PowerflowService:
    """A plant whose steps follow the clock and whose measurements and set-points go over a bus."""

    def __init__(self, plant: Plant, bus: Bus, settings: Settings, tell: Callable[..., None]) -> None:
        self._plant = plant
        self._bus = bus
        self._settings = settings
        self._tell = tell
        self._noise = np.random.default_rng([settings.seed, 0])
        self._losses = np.random.default_rng([settings.seed, 1])
        self._under_way: deque[tuple[float, str, bytes]] = deque()
        """Messages that are delayed: when they are due, topic and payload."""
        self._told = 0
        self._next_state_s = 0.0
        self.report = plant.report = ServiceReport()

    def run(self, stop: threading.Event, seconds: float = math.inf) -> ServiceReport:
        """Step and publish until `stop` is set or `seconds` have gone by.

        Raises FatalError when the broker refuses the user, or the grid cannot carry its loads.
        """
        settings = self._settings
        begin_s = time.monotonic()
        number = 0
        while not stop.is_set() and (now_s := time.monotonic() - begin_s) < seconds:
            if self._bus.failure is not None:
                raise FatalError(self._bus.failure)
            if number * settings.period_s <= now_s:
                self._step(number, now_s)
                number += 1
                due = math.floor((time.monotonic() - begin_s) / settings.period_s)
                self.report.late_steps += max(0, due - number)
                number = max(number, due)
            self._send_what_is_due(now_s)
            wake_s = min(number * settings.period_s, self._under_way[0][0] if self._under_way else math.inf)
            stop.wait(max(0.0, min(wake_s, seconds) - (time.monotonic() - begin_s)))
        return self.report

    def _step(self, number: int, now_s: float) -> None:
        settings = self._settings
        elapsed_s = number * settings.period_s
        time_s = settings.start_s + elapsed_s * settings.speed_up
        self._obey(time_s + settings.setpoint_timeout_s * settings.speed_up)
        expired = self.report.expired
        measured = self._plant.step(time_s)
        if self.report.expired > expired:
            self._tell("expired", setpoints=self.report.expired - expired)
        self._measure(measured, now_s)
        if now_s >= self._next_state_s:
            self._next_state_s = now_s + STATE_EVERY_S
            self._told = 0
            self._tell("state", **_state(measured))

    def _obey(self, until_s: float) -> None:
        for topic, payload, is_kept in self._bus.take():
            try:
                if is_kept:
                    # Nobody knows how old it is.
                    raise BadMessageError(f"{topic}: a set-point that the broker had kept")
                for refusal in self._plant.apply(
                    QUANTITIES[topic], decode_setpoints(QUANTITIES[topic], payload), until_s
                ):
                    self._tell_refusal(refusal)
            except BadMessageError as error:
                self.report.bad_payloads += 1
                self._tell_refusal(str(error))
        self.report.bad_payloads += self._bus.take_overflow()

    def _tell_refusal(self, text: str) -> None:
        self._told += 1
        if self._told <= MOST_TOLD_A_STATE:
            self._tell("refused", text=text)

    def _measure(self, measured: Measurements, now_s: float) -> None:
        grid, settings = self._plant.grid, self._settings
        time_ns = time.time_ns() if settings.extension else None
        available_pu = measured.available_w / grid.power_base_w
        messages = [
            (VOLTAGE_TOPIC, grid.nodes, self._seen(measured.voltage_pu)),
            (PV_TOPIC, grid.inverters.names, self._seen(available_pu)),
        ]
        if settings.extension and grid.storages.names:
            messages.append((SOC_TOPIC, grid.storages.names, 100.0 * measured.state_of_charge))
        for topic, names, values in messages:
            if self._losses.random() < settings.loss:
                self.report.lost += 1
                continue
            payload = encode_measurements(topic, dict(zip(names, values.tolist(), strict=True)), time_ns)
            self._under_way.append((now_s + settings.delay_s, topic, payload))

    def _seen(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values as a sensor with noise gives them."""
        return values * (1.0 + self._noise.normal(0.0, self._settings.noise, values.shape))

    def _send_what_is_due(self, now_s: float) -> None:
        while self._under_way and self._under_way[0][0] <= now_s:
            _, topic, payload = self._under_way.popleft()
            if self._bus.publish(topic, payload):
                self.report.published += 1
            else:
                self.report.not_sent += 1


def _state(measured: Measurements) -> dict[str, object]:
    hours, minutes = divmod(measured.time_s % DAY_S / 60.0, 60.0)
    return {
        "time": f"{int(hours):02d}:{int(minutes):02d}",
        "max_voltage_pu": round(float(measured.voltage_pu.max()), 4),
        "min_voltage_pu": round(float(measured.voltage_pu.min()), 4),
        "available_kw": round(float(measured.available_w.sum()) / 1e3, 2),
        "curtailed_kw": round(float((measured.available_w - measured.active_w).sum()) / 1e3, 2),
        "reactive_kvar": round(float(measured.reactive_var.sum()) / 1e3, 2),
        "storage_kw": round(float(measured.storage_w.sum()) / 1e3, 2),
    }


def _positive(text: str) -> float:
    return _number(text, "a positive number", least=math.ulp(0.0))


def _not_negative(text: str) -> float:
    return _number(text, "a number not below 0")


def _share(text: str) -> float:
    return _number(text, "a share from 0 to 1", most=1.0)


def _number(text: str, wanted: str, *, least: float = 0.0, most: float = sys.float_info.max) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{wanted}; got '{text}'")
    return value


def _time_of_day(text: str) -> float:
    try:
        at = time.strptime(text, "%H:%M")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a time of day such as 06:30; got '{text}'") from error
    return 3600.0 * at.tm_hour + 60.0 * at.tm_min


def _day(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 366):
        raise argparse.ArgumentTypeError(f"a day of the year is a number from 1 to 366; got '{text}'")
    return int(text)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate a grid that publishes its voltages over MQTT and obeys set-points.",
        epilog=f"{USER} and {PASSWORD} in the environment are user and password for the broker.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--grid", default="kerber", help=f"kerber, cigre_lv, cigre_mv, or {SIMBENCH}CODE")
    add("--power-base", type=_positive, default=POWER_BASE_KVA, metavar="KVA", help="what 1 pu of power is")
    add("--storage-kwh", type=_not_negative, default=0.0, metavar="KWH", help="a battery at each PV that has none")
    add("--profile", choices=get_args(ProfileName), help="loads and sun; simbench for its grids, clear for others")
    add("--day", type=_day, default=172, metavar="N", help="day of SimBench's year to begin with")
    add("--start", type=_time_of_day, default="12:00", metavar="HH:MM", help="time of day to begin with")
    add("--speed-up", type=_positive, default=1.0, metavar="N", help="simulated seconds in a second")
    add("--seconds", type=_positive, default=math.inf, metavar="S", help="end after so long by the clock")
    add("--url", default="mqtt://127.0.0.1:1883", help="the broker, mqtt:// or mqtts://")
    add("--ca", metavar="FILE", help="authority of the broker's certificate; the system's if none")
    add("--prefix", default="", help="what stands before each topic")
    add("--period", type=_positive, default=1.0, metavar="S", help="between two measurements, by the clock")
    timeout = "set-points that nobody renews are dropped after so long by the clock"
    add("--setpoint-timeout", type=_positive, default=10.0, metavar="S", help=timeout)
    add("--noise", type=_not_negative, default=0.0, metavar="RMS", help="relative error of measurements, rms")
    add("--delay", type=_not_negative, default=0.0, metavar="S", help="between measuring and publishing")
    add("--loss", type=_share, default=0.0, metavar="SHARE", help="share of messages that are not published")
    add("--seed", type=int, default=0, help="of noise, loss, clouds and loads")
    add("--extension", action="store_true", help="publish time_ns and the state of charge too, which CoVEE does not")
    add("--write-network", type=Path, metavar="FOLDER", help="write what controllers need of the grid, and end")
    add("--json", action="store_true", help="tell what happens as JSON lines")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.powerflow_service") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    options = _parser(prog).parse_args(argv)
    stop = stop_on_signals()
    tell = Teller(as_json=options.json)
    try:
        _run(options, stop, tell, os.environ)
    except FatalError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return FATAL
    return 0


def _run(options: argparse.Namespace, stop: threading.Event, tell: Teller, environment: Mapping[str, str]) -> None:
    grid = make_grid(options.grid, power_base_kva=options.power_base, storage_kwh=options.storage_kwh)
    profile: ProfileName = options.profile or ("simbench" if options.grid.startswith(SIMBENCH) else "clear")
    profiles = make_profiles(grid, profile, seed=options.seed, day=options.day)
    if options.write_network is not None:
        for file in write_network(options.write_network, grid, profiles.at(options.start)):
            tell("written", file=str(file))
        return
    plant = Plant(grid, profiles)
    bus = Bus(
        options.url,
        list(QUANTITIES),
        tell=tell,
        prefix=options.prefix,
        user=environment.get(USER),
        password=environment.get(PASSWORD),
        ca=options.ca,
    )
    settings = Settings(
        period_s=options.period,
        speed_up=options.speed_up,
        start_s=options.start,
        setpoint_timeout_s=options.setpoint_timeout,
        noise=options.noise,
        delay_s=options.delay,
        loss=options.loss,
        seed=options.seed,
        extension=options.extension,
    )
    tell(
        "started",
        grid=grid.name,
        profile=profile,
        nodes=len(grid.nodes),
        inverters=len(grid.inverters.names),
        storages=len(grid.storages.names),
        power_base_kva=grid.power_base_kva,
    )
    service = PowerflowService(plant, bus, settings, tell)
    bus.start()
    try:
        service.run(stop, options.seconds)
    finally:
        bus.close()
        # Without a step there are no extremes, and JSON has no infinity.
        fields = dataclasses.asdict(service.report).items()
        tell("report", **{name: round(value, 6) for name, value in fields if math.isfinite(value)})


if __name__ == "__main__":
    sys.exit(main())
