"""The cases that ``benchmarks.inertia_truth`` simulates."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class System:
    """A case file that ANDES ships, and what is added to it."""

    name: str
    case: str
    addfile: str = ""
    additions: tuple[tuple[str, Mapping[str, object]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Case:
    """One record. A trip's MW are what the machine gave; positive MW always lower the frequency."""

    system: System
    kind: str  # load, trip, line, ambient or phase_jump
    device: str = ""
    mw: float = 0.0
    sigma: float = 0.0  # of every load's noise, relative to the load
    seconds: float = 15.0
    seed: int = 1
    degrees: float = 0.0  # of a phase jump
    constant_power: float = 1.0  # part of every load; the rest is constant impedance
    turn_current: bool = True  # a phase jump of the clock turns both phasors

    @property
    def name(self) -> str:
        parts = [self.system.name, self.kind.replace("_", ""), self.device]
        parts += [f"{self.mw:g}".replace("-", "minus")] if self.kind == "load" else []
        parts += [f"{self.degrees:g}deg".replace("-", "minus")] if self.degrees else []
        parts += [f"zip{self.constant_power:g}"] if self.constant_power < 1 else []
        parts += ["vonly"] if not self.turn_current else []
        parts += [f"{self.seconds:g}s"] if self.kind == "ambient" else []
        parts += [f"noise{1e3 * self.sigma:g}"] if self.sigma else []
        parts += [f"seed{self.seed}"] if self.seed != 1 else []
        return "_".join(part.replace("PQ_", "PQ").replace("Line_", "L") for part in parts if part)


# Anderson and Fouad, Power System Control and Stability: H, X'd on 100 MVA, and ratings.
_WSCC9 = ((1, 247.5, 23.64, 0.0608), (2, 192.0, 6.4, 0.1198), (3, 128.0, 3.01, 0.1813))


def _wscc9(name: str, *, governors: bool) -> System:
    machines = tuple(
        (
            "GENCLS",
            {
                "idx": f"GENCLS_{bus}", "name": f"GENCLS_{bus}", "bus": bus, "gen": bus, "Sn": sn, "fn": 60.0,
                "Vn": {1: 16.5, 2: 18.0, 3: 13.8}[bus], "M": 2 * h * 100 / sn, "D": 0.0, "xd1": xd1 * sn / 100,
            },
        )
        for bus, sn, h, xd1 in _WSCC9
    )  # fmt: skip
    turbines = tuple(
        (
            "TGOV1",
            {"syn": f"GENCLS_{bus}", "R": 0.05, "VMAX": 1.2, "VMIN": 0.0, "T1": 0.3, "T2": 1.0, "T3": 5.0, "Dt": 0.0},
        )
        for bus, *_ in _WSCC9
    )
    return System(name, "wscc9/wscc9.xlsx", additions=machines + (turbines if governors else ()))


KUNDUR = System("kundur", "kundur/kundur_full.xlsx")
KUNDUR_GENCLS = System("kundurgencls", "kundur/kundur.raw", "kundur/kundur_gencls.dyr")
IEEE39 = System("ieee39", "ieee39/ieee39_full.xlsx")
IEEE14 = System("ieee14", "ieee14/ieee14_full.xlsx")
NPCC = System("npcc", "npcc/npcc.xlsx")
WECC = System("wecc", "wecc/wecc_full.xlsx")
WECC_GENCLS = System("weccgencls", "wecc/wecc_gencls.xlsx")
WSCC9 = _wscc9("wscc9", governors=False)
WSCC9_GOV = _wscc9("wscc9gov", governors=True)


def _loads(
    system: System, *steps: tuple[str, float], sigma: float = 0.0, constant_power: float = 1.0, seed: int = 1
) -> list[Case]:
    return [Case(system, "load", device, mw, sigma, seed=seed, constant_power=constant_power) for device, mw in steps]


def _trips(system: System, *devices: str, sigma: float = 0.0, constant_power: float = 1.0) -> list[Case]:
    return [Case(system, "trip", device, sigma=sigma, constant_power=constant_power) for device in devices]


def _ambient(system: System, sigma: float, *seeds: int, seconds: float = 15.0) -> list[Case]:
    return [Case(system, "ambient", sigma=sigma, seconds=seconds, seed=seed) for seed in seeds]


def _lines(system: System, *devices: str) -> list[Case]:
    return [Case(system, "line", device) for device in devices]


def _jumps(system: System, *jumps: tuple[str, float], turn_current: bool = True, seed: int = 1) -> list[Case]:
    return [
        Case(system, "phase_jump", device, sigma=0.005, seed=seed, degrees=degrees, turn_current=turn_current)
        for device, degrees in jumps
    ]


CASES = [
    *_loads(KUNDUR, ("PQ_0", 100), ("PQ_0", 200), ("PQ_1", 50), ("PQ_1", 100), ("PQ_1", -200), ("PQ_0", -100)),
    *_loads(IEEE39, ("PQ_8", 100), ("PQ_4", 100), ("PQ_9", 300), ("PQ_1", -200), ("PQ_14", 300), ("PQ_17", -200)),
    *_trips(IEEE39, "GENROU_5", "GENROU_8", "GENROU_3", "GENROU_1"),
    *_loads(NPCC, ("PQ_48", 100), ("PQ_48", 300), ("PQ_86", 300), ("PQ_27", 500), ("PQ_40", -200), ("PQ_19", 700)),
    *_trips(NPCC, "GENROU_43", "GENROU_30", "GENROU_46"),
    *_loads(WECC, ("PQ_17", 300), ("PQ_54", 1000), ("PQ_76", -800), ("PQ_3", 500), ("PQ_89", 100)),
    *_trips(WECC, "GENROU_7", "GENROU_12"),
    *_loads(WECC_GENCLS, ("PQ_17", 300), ("PQ_54", 1000)),
    *_loads(IEEE14, ("PQ_2", 10), ("PQ_3", 20), ("PQ_6", -10), ("PQ_11", 5)),
    *_trips(IEEE14, "GENROU_4"),
    *_loads(WSCC9, ("PQ_0", 10), ("PQ_2", -10)),
    *_loads(WSCC9_GOV, ("PQ_0", 10), ("PQ_1", 20), ("PQ_2", -10)),
    *_loads(KUNDUR_GENCLS, ("PQ_1", 100), ("PQ_2", -100)),
    # Kundur's voltage collapses at these (and at 150 MW at PQ_1) when all loads keep their power.
    *_loads(KUNDUR, ("PQ_0", 300), ("PQ_1", 300), constant_power=0.2),
    *_trips(KUNDUR, "GENROU_1", "GENROU_3", constant_power=0.2),
    *_loads(IEEE39, ("PQ_9", 300), constant_power=0.3),
    # Among the noise of all loads.
    *_loads(IEEE39, ("PQ_8", 100), ("PQ_1", -200), sigma=0.005),
    *_loads(KUNDUR, ("PQ_0", 100), sigma=0.005),
    *_trips(IEEE39, "GENROU_8", sigma=0.005),
    *_loads(WECC, ("PQ_54", 1000), sigma=0.005),
    # Nothing happens.
    *_ambient(IEEE39, 0.005, 1, 2),
    *_ambient(IEEE39, 0.01, 3),
    *_ambient(KUNDUR, 0.005, 1, 2),
    *_ambient(KUNDUR, 0.01, 3),
    *_ambient(WECC, 0.005, 1),
    *_ambient(NPCC, 0.005, 1),
    *_ambient(IEEE14, 0.01, 1),
    # No power changes, or hardly any.
    *_jumps(IEEE39, ("all", 5), ("all", 20), ("34", 10), ("39", 20), ("31", -15)),
    *_jumps(IEEE39, ("all", 10), ("34", 10), ("36", 5), turn_current=False, seed=2),
    *_jumps(KUNDUR, ("all", 10), ("2", 20), ("4", -5)),
    *_jumps(KUNDUR, ("all", -20), ("1", 10), turn_current=False, seed=2),
    *_jumps(WECC, ("all", 15)),
    *_lines(IEEE39, "Line_3", "Line_21", "Line_30", "Line_14"),
    *_lines(KUNDUR, "Line_4"),
    *_lines(NPCC, "Line_45", "Line_39"),
    *_lines(WECC, "Line_33", "Line_15"),
    # Ten minutes of nothing.
    *_ambient(IEEE39, 0.01, 1, seconds=600),
    *_ambient(KUNDUR, 0.01, 1, seconds=600),
]
