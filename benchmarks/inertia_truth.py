"""Simulated records whose inertia is known, to judge the inertia estimator by.

ANDES (``pip install andes==2.0.0``, not needed for anything else) simulates load steps, generator trips, line openings,
load noise and phase jumps of the test systems that it ships. Every record is one .npz with the terminal phasors of the
machines as a P-class PMU reports them, and the machines' true constants.

    python -m benchmarks.inertia_truth OUT_FOLDER [--only NAME] [--list]

NAME is a pattern such as ``ieee39_*``. A case is dropped, with the reason, when its simulation stops early, moves
before the event, loses synchronism, or does not return the inertia it was given.
"""

import argparse
import dataclasses
import fnmatch
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inertia_cases import CASES, Case, System

Reals = npt.NDArray[np.float64]
Phasors = npt.NDArray[np.complex128]

EVENT_TIME = 3.007  # between two frames, as most events are
SOLVER_RATE, NOISE_SOLVER_RATE = 240, 120  # steps per second
SAMPLES_PER_CYCLE = 20  # of the PMU
BURN_IN = 20.0  # seconds of load noise before a record begins
MAX_DRIFT = 0.5e-3  # Hz, before the event
MAX_TRUTH_ERROR = 5e-3


class DroppedError(Exception):
    """The simulation does not give a record worth keeping."""


@dataclasses.dataclass(frozen=True)
class Machines:
    """The constants of all machines, on the base of the system."""

    idx: list[Any]
    gen: list[str]
    model: list[str]
    bus: list[str]
    sn: Reals
    m_sys: Reals
    d_sys: Reals
    xd1: Reals
    xd2: Reals
    ra: Reals
    p: Reals
    has_gov: npt.NDArray[np.bool_]

    @property
    def names(self) -> dict[str, tuple[str, Any]]:
        return {gen: (model, idx) for gen, model, idx in zip(self.gen, self.model, self.idx, strict=True)}

    @property
    def energy(self) -> Reals:
        """Kinetic energy in MWs, where the base is 100 MVA."""
        return self.m_sys / 2 * 100.0

    @property
    def sane(self) -> npt.NDArray[np.bool_]:
        """Not an equivalent that stands for an area with a rating it does not have."""
        h = self.energy / self.sn
        return (h >= 0.5) & (h <= 60) & (np.abs(self.p) <= 1.2 * self.sn / 100)


@dataclasses.dataclass(frozen=True)
class Trace:
    """What the solver computed: instants x machines."""

    t: Reals
    omega: Reals
    delta: Reals
    v: Phasors
    i: Phasors
    torque: Reals


def load_system(system: System) -> Any:
    """Read a case, switch its own events off; leave it open for additions."""
    try:
        andes = import_module("andes")
    except ImportError:
        raise SystemExit("this needs ANDES: pip install andes==2.0.0") from None
    andes.config_logger(stream_level=50)
    more = {"addfile": andes.get_case(system.addfile)} if system.addfile else {}
    ss = andes.load(andes.get_case(system.case), setup=False, no_output=True, default_config=True, **more)
    for model in (ss.Toggle, ss.Fault, ss.Alter):
        for k in range(model.n):
            model.u.v[k] = 0
    for model, fields in system.additions:
        ss.add(model, dict(fields))
    return ss


def add_event(ss: Any, case: Case, at: float) -> None:
    if case.kind == "load":
        amount = case.mw / 100 / case.constant_power
        step = {"model": "PQ", "dev": case.device, "src": "Ppf", "attr": "v", "method": "+", "amount": amount}
        ss.add("Alter", {"t": at, **step})
    elif case.kind == "trip":
        names = {str(name): (m, idx) for m in ("GENROU", "GENCLS") for name, idx in pairs(getattr(ss, m))}
        model, idx = names[case.device]
        ss.add("Toggle", {"t": at, "model": model, "dev": idx})
    elif case.kind == "line":
        ss.add("Toggle", {"t": at, "model": "Line", "dev": case.device})


def pairs(model: Any) -> list[tuple[str, Any]]:
    """Name and idx of the devices of a model, also before its setup."""
    return list(zip(model.name.v, model.idx.v, strict=True))


def read_machines(ss: Any) -> Machines:
    """Machines that are in service, in the order of ``read_trace``."""
    governed = {str(s) for name in ss.groups["TurbineGov"].models for s in getattr(ss, name).syn.v}
    rows = []
    for model in ("GENROU", "GENCLS"):
        g = getattr(ss, model)
        for k in np.flatnonzero(g.u.v) if g.n else []:
            xd2 = g.xd2.v[k] if model == "GENROU" else g.xd1.v[k]
            static = ss.StaticGen.get("p", g.gen.v[k], "v") * g.gammap.v[k]
            numbers = (g.Sn.v[k], g.M.v[k], g.D.v[k], g.xd1.v[k], xd2, g.ra.v[k], static)
            rows.append((g.idx.v[k], str(g.name.v[k]), model, str(g.bus.v[k]), numbers))
    idx, gen, models, bus, numbers_ = zip(*rows, strict=True)
    sn, m, d, xd1, xd2, ra, p = np.array(numbers_, dtype=float).T
    has_gov = np.array([str(i) in governed for i in idx])
    return Machines(list(idx), list(gen), list(models), list(bus), sn, m, d, xd1, xd2, ra, p, has_gov)


def load_noise(ss: Any, case: Case, seconds: float) -> Callable[[Any, Any], None]:
    """Every load wanders by a share of itself with a memory of one second (Ornstein-Uhlenbeck)."""
    rng = np.random.default_rng(case.seed)
    p0, q0 = ss.PQ.p0.v.copy(), ss.PQ.q0.v.copy()
    wanders = (p0 > 0) & (ss.PQ.u.v > 0)
    keep = np.exp(-1 / NOISE_SOLVER_RATE)
    x = np.zeros((int(seconds * NOISE_SOLVER_RATE) + 2, len(p0)))
    shocks = rng.standard_normal(x.shape) * wanders * case.sigma * np.sqrt(1 - keep**2)
    for k in range(1, len(x)):
        x[k] = keep * x[k - 1] + shocks[k]
    last = np.zeros(len(p0))

    def perturb(t: Any, _system: Any) -> None:
        now = x[min(max(round(float(t) * NOISE_SOLVER_RATE), 0), len(x) - 1)]
        # Increments, so that they add to an event instead of undoing it.
        ss.PQ.Ppf.v += p0 * (now - last) / case.constant_power
        ss.PQ.Qpf.v += q0 * (now - last) / case.constant_power
        last[:] = now

    return perturb


def simulate(ss: Any, case: Case, seconds: float) -> None:
    """Run the time domain after the power flow; only the loads' part of constant power can be stepped."""
    pq, part = ss.PQ.config, case.constant_power
    pq.p2p, pq.p2z, pq.q2q, pq.q2z = part, 1 - part, part, 1 - part
    tds = ss.TDS.config
    tds.tf, tds.fixt, tds.criteria, tds.no_tqdm = seconds, 1, 0, 1
    tds.tstep = 1 / (NOISE_SOLVER_RATE if case.sigma else SOLVER_RATE)
    if case.sigma:
        ss.TDS.callpert = load_noise(ss, case, seconds)
    ss.TDS.run()
    if ss.dae.t < seconds - 0.05:
        raise DroppedError(f"stops at {float(ss.dae.t):.2f} s")


def read_trace(ss: Any, machines: Machines, start: float) -> Trace:
    """Collect the machines' signals; of samples at one instant, the last."""
    t = np.asarray(ss.dae.ts.t, dtype=float)
    once = np.append(np.diff(t) > 1e-9, True)
    parts: list[list[Reals]] = [[] for _ in range(7)]
    for model in ("GENROU", "GENCLS"):
        g = getattr(ss, model)
        if not g.n:
            continue
        on = [k for k in range(g.n) if g.idx.v[k] in machines.idx]
        bus = np.array([ss.Bus.idx2uid(g.bus.v[k]) for k in on])
        x, y = ss.dae.ts.x, ss.dae.ts.y
        columns = (
            x[:, g.omega.a[on]], x[:, g.delta.a[on]], y[:, ss.Bus.v.a[bus]], y[:, ss.Bus.a.a[bus]],
            y[:, g.Pe.a[on]], y[:, g.Qe.a[on]], y[:, g.tm.a[on]] - y[:, g.te.a[on]],
        )  # fmt: skip
        for part, column in zip(parts, columns, strict=True):
            part.append(column[once])
    omega, delta, v_mag, v_ang, p, q, torque = (np.concatenate(part, axis=1) for part in parts)
    v: Phasors = (v_mag * np.exp(1j * v_ang)).astype(np.complex128)
    return Trace(t[once] - start, omega, delta, v, np.conj((p + 1j * q) / v), torque)


def truth_error(trace: Trace, machines: Machines, online: npt.NDArray[np.bool_]) -> Reals:
    """Relative error of the inertia that the swing equation returns."""
    after = trace.t[1:] > EVENT_TIME + 0.02
    omega, torque, m, d = (
        trace.omega[:, online],
        trace.torque[:, online],
        machines.m_sys[online],
        machines.d_sys[online],
    )
    pushed = torque - d * (omega - 1)
    pushed = ((pushed[1:] + pushed[:-1]) / 2)[after]
    accelerates = (np.diff(omega, axis=0) / np.diff(trace.t)[:, None])[after]
    error: Reals = np.abs((pushed * accelerates).sum(0) / (accelerates**2).sum(0) / m - 1)
    return error


def check(
    trace: Trace, machines: Machines, online: npt.NDArray[np.bool_], case: Case, f0: float
) -> tuple[float, float]:
    """Drift before the event in Hz and the largest error of the truth; DroppedError when they are too large."""
    if not all(np.isfinite(x).all() for x in (trace.omega, trace.v, trace.i)):
        raise DroppedError("not finite")
    before = trace.t < EVENT_TIME - 0.001
    drift = float(np.abs(trace.omega[before] - trace.omega[0]).max() * f0)
    if not case.sigma and drift > MAX_DRIFT:
        raise DroppedError(f"moves by {1e3 * drift:.2f} mHz before the event")
    swing = trace.delta[:, online] - trace.delta[:, online].mean(1, keepdims=True)
    if np.abs(swing - swing[0]).max() > np.pi / 2 or np.abs(trace.omega[:, online] - 1).max() > 0.05:
        raise DroppedError("loses synchronism")
    if np.abs(trace.v[:, online]).min() < 0.6:
        raise DroppedError("voltage collapses")
    error = float(truth_error(trace, machines, online).max())
    if not error <= MAX_TRUTH_ERROR:  # also where nothing moved
        raise DroppedError(f"truth off by {100 * error:.2f} %")
    return drift, error


def resample(t: Reals, x: npt.NDArray[Any], at: Reals) -> npt.NDArray[Any]:
    return np.stack([np.interp(at, t, column) for column in x.T], axis=1)


def window(x: Phasors) -> Phasors:
    """The P-class filter: a triangle of one cycle on either side."""
    n = SAMPLES_PER_CYCLE
    weights = np.bartlett(2 * n + 3)[1:-1]
    padded = np.concatenate([np.repeat(x[:1], n, 0), x, np.repeat(x[-1:], n, 0)])
    return np.stack([np.convolve(column, weights / weights.sum(), "valid") for column in padded.T], axis=1)


def pmu(trace: Trace, frames: int, f0: float, case: Case, buses: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Frames of one a cycle, from phasors at the PMU's own rate."""
    rate = SAMPLES_PER_CYCLE * f0
    at = np.arange((frames + 2) * SAMPLES_PER_CYCLE) / rate
    v, i = resample(trace.t, trace.v, at), resample(trace.t, trace.i, at)
    if case.kind == "phase_jump":
        turned = np.array([case.device in ("all", bus) for bus in buses])
        turn = np.where(turned & (at[:, None] >= EVENT_TIME), np.exp(1j * np.radians(case.degrees)), 1)
        v, i = v * turn, i * turn if case.turn_current else i
    v, i = window(v), window(i)
    angle = np.unwrap(np.angle(v), axis=0)
    power = v * np.conj(i)
    signals = {
        "omega": resample(trace.t, trace.omega, at),
        "v_mag": np.abs(v),
        "v_ang": angle,
        "i_mag": np.abs(i),
        "i_ang": np.unwrap(np.angle(i), axis=0),
        "p": power.real,
        "q": power.imag,
        "bus_freq": f0 + np.gradient(angle, 1 / rate, axis=0) / (2 * np.pi),
    }
    every = slice(0, frames * SAMPLES_PER_CYCLE, SAMPLES_PER_CYCLE)
    return {"t": np.arange(frames) / f0} | {name: x[every].astype(np.float32) for name, x in signals.items()}


def describe(case: Case, machines: Machines, online: npt.NDArray[np.bool_], f0: float, load: float) -> dict[str, Any]:
    energy, monitored = machines.energy, machines.sane
    mw = float(machines.p[~online].sum() * 100) if case.kind == "trip" else float(case.mw)
    return {
        "gen": np.array(machines.gen),
        "model": np.array(machines.model),
        "bus": np.array(machines.bus),
        "sn": machines.sn,
        "m_sys": machines.m_sys,
        "h": energy / machines.sn,
        "d_sys": machines.d_sys,
        "xd1": machines.xd1,
        "xd2": machines.xd2,
        "ra": machines.ra,
        "has_gov": machines.has_gov,
        "monitored": monitored,
        "online": online,
        "f0": f0,
        "s_base": 100.0,
        "fps": round(f0),
        "ek_mws": float(energy[monitored & online].sum()),
        "ek_all_mws": float(energy.sum()),
        "event_time": EVENT_TIME,
        "event_kind": case.kind,
        "event_device": case.device,
        "event_mw": mw,
        "tripped": case.device if case.kind == "trip" else "",
        "total_load_mw": load,
    }


def make(case: Case) -> tuple[dict[str, Any], str]:
    """The record of a case, and a line about it."""
    start = BURN_IN if case.sigma else 0.0
    ss = load_system(case.system)
    add_event(ss, case, start + EVENT_TIME)
    ss.setup()
    f0, load = float(ss.config.freq), float((ss.PQ.p0.v * ss.PQ.u.v).sum() * ss.config.mva)
    if not ss.PFlow.run():
        raise DroppedError("no power flow")
    machines = read_machines(ss)  # before one of them trips
    simulate(ss, case, start + case.seconds + 0.1)
    trace = read_trace(ss, machines, start)
    online = np.array([not (case.kind == "trip" and gen == case.device) for gen in machines.gen])
    drift, error = check(trace, machines, online, case, f0)
    record = pmu(trace, round(case.seconds * f0), f0, case, machines.bus)
    record |= describe(case, machines, online, f0, load)
    facts = f"E_k {record['ek_mws']:.0f} MWs of {int((machines.sane & online).sum())} machines"
    return record, f"{facts}, drift {1e3 * drift:.4f} mHz, truth within {100 * error:.3f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="*", metavar="NAME", help="a pattern, such as ieee39_*")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    arguments = parser.parse_args()
    cases = [case for case in CASES if fnmatch.fnmatch(case.name, arguments.only)]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for k, case in enumerate(cases, 1):
        began = time.monotonic()
        try:
            record, line = make(case)
            np.savez_compressed(arguments.out / f"{case.name}.npz", **record)
        except DroppedError as reason:
            line = f"DROPPED: {reason}"
        print(f"[{k}/{len(cases)}] {case.name}: {line} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
