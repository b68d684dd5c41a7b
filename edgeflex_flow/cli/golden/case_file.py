"""The files of golden tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_flow.cli.golden.bounds import Bound
from edgeflex_flow.errors import FlowFileError, Problem, nearest
from edgeflex_flow.flowfile.document import Value, read_document
from edgeflex_flow.units import parse_quantity

_PLACE: Final = re.compile(r" - at `\$(.*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"unknown field `(.*?)`")
Scalar: TypeAlias = str | int | float | bool


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What nobody knows in it is refused."""


def _seconds(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        return parse_quantity(text, "s")
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


class Pmus(_Part, frozen=True, kw_only=True):
    """Ten PMUs, as `edgeflex serve pmu` has them: a recorded disturbance of the IEEE 39-bus system."""

    seconds: Annotated[float, Meta(gt=0, le=3600)]
    event_at: str = "1000000s"
    """So long after the begin; without it nothing happens."""
    noise_hz: Annotated[float, Meta(ge=0, le=1)] = 0.0
    delay: str = "20ms"
    """From the time tag to the reception."""
    devices: tuple[str, ...] = ()
    """These alone, `GENROU_1` to `GENROU_10`; none: all."""

    @property
    def event_at_s(self) -> float:
        return parse_quantity(self.event_at, "s")

    @property
    def delay_s(self) -> float:
        return parse_quantity(self.delay, "s")

    def __post_init__(self) -> None:
        _seconds(self.event_at, "event_at")
        _seconds(self.delay, "delay")


class Ambient(_Part, frozen=True, kw_only=True):
    """PMUs of four units in two areas, `G1` to `G4`, while nothing happens but that loads wander. Their inertia
    constants are 6.5 s in one area and 6.175 s in the other."""

    seconds: Annotated[float, Meta(gt=0, le=3600)]
    load_share: Annotated[float, Meta(ge=0, le=0.1)] = 0.01
    """How far loads wander, as a share of each."""
    seed: int = 1


class Input(_Part, frozen=True, kw_only=True):
    """What a source gives: one of these."""

    file: str | None = None
    """Of any form that `edgeflex replay` reads, beside the file of the test."""
    pmus: Pmus | None = None
    ambient: Ambient | None = None
    lines: tuple[dict[str, Any], ...] | None = None
    """Rows and messages as they stand in a recording of JSON lines, with `at` in place of `time_ns`. One with `every`
    is given again and again, from `at` to before `until`; a column of it that is `50 to 49.9` goes evenly from the one
    to the other. `device` may be a list. Times in it (`begin_ns`) may be since the begin, as `90s`. A row with a
    `time_ns` of its own is given at `at` all the same: prices that are known before, a clock that is wrong."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.file, self.pmus, self.ambient, self.lines)) != 1:
            raise ValueError("a source gives a `file`, `pmus`, `ambient` or `lines`")


class PoliciesAt(_Part, frozen=True, kw_only=True):
    """What policies say from a moment on."""

    at: str = "0s"
    values: dict[str, dict[str, Any]]
    """By policy and field, as `edgeflex run --policies` takes them."""

    @property
    def at_s(self) -> float:
        return parse_quantity(self.at, "s")

    def __post_init__(self) -> None:
        _seconds(self.at, "at")


class Fault(_Part, frozen=True, kw_only=True):
    """Something that goes wrong for a while."""

    what: Literal["gap", "nan", "delay", "double", "away"]
    """Of a source, rows are lost, lose their values, come later, or come twice; a sink's far side is away."""
    of: str
    """The source or sink."""
    at: str
    lasts: str
    devices: tuple[str, ...] = ()
    """Of these alone; none: of all."""
    columns: tuple[str, ...] = ()
    """Which lose their values; none: all."""
    by: str | None = None
    """How much later rows come."""

    @property
    def at_s(self) -> float:
        return parse_quantity(self.at, "s")

    @property
    def lasts_s(self) -> float:
        return parse_quantity(self.lasts, "s")

    @property
    def by_s(self) -> float:
        return 0.0 if self.by is None else parse_quantity(self.by, "s")

    def __post_init__(self) -> None:
        for name in ("at", "lasts", "by"):
            _seconds(getattr(self, name), name)
        if (self.what == "delay") != (self.by is not None):
            raise ValueError("`by` is of a delay, and a delay has one")


class Expectation(_Part, frozen=True, kw_only=True):
    """What a node must give, or a sink must get."""

    of: str
    type: str = ""
    """Of messages, such as frequency_event; `samples` for rows; none: all."""
    where: dict[str, Scalar] = {}
    """Only those of which these fields have these values."""
    count: str | int = ">= 1"
    """How many messages or rows; 0: none at all."""
    after: str | None = None
    """Since the begin of the recording: what comes before does not count."""
    within: str | None = None
    """So long after that as many as `count` asks for must be there: all ten of `count: 10`, else the first."""
    until: str | None = None
    """Since the begin: what comes later does not count."""
    values: dict[str, Scalar] = {}
    """Of each of them: by field (`h_s`, `values.*`) or column, what it must be: `4.2 +- 0.3`, `<= 5 kW`, `started`."""
    same_as: str | None = None
    """A file with all of them as JSON lines, beside the file of the test; `edgeflex test --update` writes it."""
    tolerance: Annotated[float, Meta(ge=0, lt=1)] = 1e-9
    """By which numbers may differ from those of the file, as a share of them."""

    @property
    def after_s(self) -> float | None:
        return _seconds(self.after, "after")

    @property
    def within_s(self) -> float | None:
        return _seconds(self.within, "within")

    @property
    def until_s(self) -> float | None:
        return _seconds(self.until, "until")

    def __post_init__(self) -> None:
        for name in ("after", "within", "until"):
            _seconds(getattr(self, name), name)
        if self.within is not None and self.after is None:
            raise ValueError("`within` counts from `after`")
        Bound.parse(str(self.count), None)

    @property
    def text(self) -> str:
        """For people."""
        where = ", ".join(f"{name} {value}" for name, value in self.where.items())
        head = f"{self.of}: {self.count if self.count != '>= 1' else ''} {self.type}".replace("  ", " ").rstrip()
        parts = [f"{head}{f' with {where}' if where else ''}"]
        parts += [f"within {self.within} of {self.after}"] if self.within else []
        parts += [f"after {self.after}"] if self.after and not self.within else []
        parts += [f"until {self.until}"] if self.until else []
        parts += [f"{name} {value}" for name, value in self.values.items()]
        parts += [f"as in {self.same_as}"] if self.same_as else []
        return "; ".join(parts)


class GoldenTest(_Part, frozen=True, kw_only=True):
    """A test of a flow."""

    test: Annotated[str, Meta(min_length=1, max_length=200)]
    flow: str
    site: str | None = None
    params: dict[str, Scalar] = {}
    record: dict[str, str | Input]
    """By source: a file, or what else it gives."""
    policies: tuple[PoliciesAt, ...] = ()
    faults: tuple[Fault, ...] = ()
    expect: Annotated[tuple[Expectation, ...], Meta(min_length=1)]
    allow: dict[str, tuple[str, ...]] = {}
    """By node: counters of dead letters and losses that this test expects; any other is a failure."""

    def __post_init__(self) -> None:
        if not self.record:
            raise ValueError("`record` names at least one source")


_PARTS: Final[dict[str, type[_Part]]] = {
    "record": Input, "pmus": Pmus, "ambient": Ambient, "policies": PoliciesAt, "faults": Fault, "expect": Expectation,
}  # fmt: skip
"""What stands under a key."""


def read_test(file: Path) -> GoldenTest:
    """Raises FlowFileError with the place of what is wrong."""
    document = read_document(file)
    if document.root is None or document.problems:
        raise FlowFileError(document.problems)
    try:
        return msgspec.convert(document.root.plain(), type=GoldenTest)
    except msgspec.ValidationError as error:
        raise FlowFileError([_problem(file, document.root, str(error))]) from error


def _problem(file: Path, root: Value, text: str) -> Problem:
    found = _PLACE.search(text)
    at = root
    part: type[_Part] = GoldenTest
    for name, number in _STEP.findall(found[1]) if found else ():
        at = _within(at, name, number)
        part = _PARTS.get(name, part)
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        line, column = at.place
        return Problem(file=str(file), line=line, column=column, message=_PLACE.sub("", text))
    key, known = unknown[1], tuple(field.encode_name for field in msgspec.structs.fields(part))
    line, column = at.keys.get(key, at.place)
    message = f"unknown key '{key}'"
    return Problem(file=str(file), line=line, column=column, message=message, known=known, nearest=nearest(key, known))


def _within(value: Value, name: str, number: str) -> Value:
    """As far as the place can be found."""
    if isinstance(value.data, Mapping) and name in value.data:
        return value.data[name]
    if isinstance(value.data, tuple) and number.isdigit() and int(number) < len(value.data):
        return value.data[int(number)]
    return value


def find_tests(places: tuple[Path, ...]) -> Iterator[Path]:
    """The files of tests: those named, and in folders `*.yaml` of a folder `tests`."""
    for place in places:
        if not place.is_dir():
            yield place
            continue
        folder = place if place.name == "tests" else place / "tests"
        yield from sorted(folder.glob("*.yaml"))
