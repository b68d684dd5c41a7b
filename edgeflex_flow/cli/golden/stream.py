"""What the sources of a golden test give: recordings, simulated PMUs and lines, with faults, in order of time."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeflex_connectors.batching import SamplesBuilder
from edgeflex_connectors.records import LineDecoder
from edgeflex_flow import recording
from edgeflex_flow.cli.golden.case_file import Ambient, Fault, GoldenTest, Input, Pmus
from edgeflex_flow.cli.on_record import Due, Record, stream_of_recording, stream_of_records
from edgeflex_flow.cli.preview_files import Timed
from edgeflex_flow.cli.preview_records import GivenRecord, NoRecordError, Span, read_records
from edgeflex_flow.errors import BadMessageError, EdgeflexError
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Samples
from edgeflex_flow.node import SourceNode, WireMessage
from edgeflex_flow.units import NS_PER_S, parse_quantity
from edgeflex_services.pmu_recording import Playback, Recording
from edgeflex_services.swing_grid import two_areas
from edgeflex_services.swing_record import PmuNoise, measure
from edgeflex_services.swing_simulator import LoadNoise, simulate

BEGIN_NS: Final = 1_700_000_000_000_000_000
"""When what is not recorded begins."""
BATCH_NS: Final = 20_000_000
"""Batches are no longer, so that what follows from them comes when it would live."""
_NUMBER: Final = r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_WAY: Final = re.compile(rf"{_NUMBER}\s+to\s+{_NUMBER}")


class InputError(EdgeflexError):
    """What a source of a test is to give cannot be given."""


def inputs_of(test: GoldenTest, plan: Plan, folder: Path) -> list[Due]:
    """All that sources give, without faults, in order. Raises InputError, NoRecordError, RecordingError and
    BadRecordingError."""
    sources = {node.id: node for node in plan.nodes if isinstance(node.node, SourceNode)}
    unknown = [name for name in test.record if name not in sources]
    if unknown:
        raise InputError(f"`record`: no source '{unknown[0]}'; known: {', '.join(sources)}")
    files = {
        name: each for name, each in _files(test, folder).items() if each.suffix == recording.SUFFIX or each.is_dir()
    }
    others = {name: each for name, each in _files(test, folder).items() if name not in files}
    streams: list[Iterator[Due]] = [
        stream_of_recording(plan, recording.recordings_in(file), Span(), sources=[name], as_given=True)
        for name, file in files.items()
    ]
    records: dict[str, Record] = {}
    if others:
        records |= read_records(
            plan, [GivenRecord(name, str(file)) for name, file in others.items()], partly=True
        ).by_source
    delays_ns: dict[str, int] = {}
    for name, given in test.record.items():
        if isinstance(given, Input) and given.pmus is not None:
            records[name] = Record(_pmus(sources[name], given.pmus))
            delays_ns[name] = round(given.pmus.delay_s * NS_PER_S)
        elif isinstance(given, Input) and given.ambient is not None:
            records[name] = Record(_ambient(sources[name], given.ambient))
        elif isinstance(given, Input) and given.lines is not None:
            records[name], apart = _lines(sources[name], given.lines)
            streams.append(iter(apart))
    found = [_later(due, delays_ns.get(due.source, 0)) for due in stream_of_records(plan, records, longest_ns=BATCH_NS)]
    streams.append(iter(sorted(found, key=lambda due: due.due_ns)))
    return list(heapq.merge(*streams, key=lambda due: due.due_ns))


def _later(due: Due, delay_ns: int) -> Due:
    message = due.given()
    if isinstance(message, Samples):
        message = msgspec.structs.replace(message, received_ns=due.due_ns + delay_ns)
    return Due(due.due_ns + delay_ns, due.source, partial(_same, message))


def _files(test: GoldenTest, folder: Path) -> dict[str, Path]:
    named = {name: given if isinstance(given, str) else given.file for name, given in test.record.items()}
    files = {name: folder / file for name, file in named.items() if file is not None}
    for file in files.values():
        if not file.exists() and file.suffix != ".npz":
            raise NoRecordError(f"{file}: there is no such recording")
    return files


def _pmus(source: PlannedNode, wanted: Pmus) -> Samples:
    """What the ten PMUs of the simulator measure, under the columns that the source gives."""
    made = Recording.load()
    rate = made.frames_per_s
    frames = np.arange(round(wanted.seconds * rate))
    measured = Playback(made, event_at_s=wanted.event_at_s, loop=False).frames_at(frames)
    noise = np.random.default_rng(0).normal(0.0, wanted.noise_hz or 1.0, measured.frequency_hz.shape)
    lag = measured.voltage_angle_rad - measured.current_angle_rad
    known = {
        "frequency_hz": measured.frequency_hz + (noise if wanted.noise_hz else 0.0),
        "dfreq_hz_per_s": measured.rocof_hz_per_s,
        "voltage_v": measured.voltage_v,
        "voltage_angle_rad": _wrapped(measured.voltage_angle_rad),
        "current_a": measured.current_a,
        "current_angle_rad": _wrapped(measured.current_angle_rad),
        "active_power_w": measured.active_power_w,
        "reactive_power_var": 3.0 * measured.voltage_v * measured.current_a * np.sin(lag),
    }
    rows = measured.frequency_hz.size
    time_ns = BEGIN_NS + (frames * NS_PER_S + rate // 2) // rate
    count = len(made.generators)
    every = Samples(
        time_ns=np.repeat(time_ns, count),
        device=np.tile(np.arange(count, dtype=np.int32), len(frames)),
        devices=tuple(made.generators),
        columns={
            name: known[name].astype(np.float32).astype(np.float64).ravel() for name in known if _is_given(source, name)
        },
        quality=np.zeros(rows, dtype=np.uint16),
        received_ns=0,
    )
    if not wanted.devices:
        return every
    codes = [code for code, name in enumerate(every.devices) if name in wanted.devices]
    if len(codes) < len(wanted.devices):
        raise InputError(f"`pmus.devices`: got {', '.join(wanted.devices)}; known: {', '.join(every.devices)}")
    return every.take(np.isin(every.device, codes))


def _ambient(source: PlannedNode, wanted: Ambient) -> Samples:
    """What the four PMUs of the two areas measure while loads wander, under the columns that the source gives."""
    made = simulate(two_areas(), wanted.seconds, noise=LoadNoise(share=wanted.load_share), seed=wanted.seed)
    every = measure(made, noise=PmuNoise(), seed=wanted.seed).samples(start_ns=BEGIN_NS)
    return every.with_columns({name: each for name, each in every.columns.items() if _is_given(source, name)})


def _is_given(source: PlannedNode, column: str) -> bool:
    return source.wire is None or source.wire.more_columns or column in source.wire.columns


def _wrapped(angle_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    return angle_rad - 2.0 * np.pi * np.rint(angle_rad / (2.0 * np.pi))


def _lines(source: PlannedNode, lines: Sequence[Mapping[str, Any]]) -> tuple[Record, list[Due]]:
    """What lines stand for; rows of another time than that in which they are given stand apart."""
    wire = source.wire
    columns = tuple(sorted(wire.columns)) if wire is not None else ()
    types = tuple(each for each in (wire.messages if wire is not None else ()) if issubclass(each, Message))
    decoder, builder = LineDecoder(columns, types or BUILT_IN_MESSAGES), SamplesBuilder(columns)
    messages: list[Timed] = []
    apart: list[Due] = []
    for number, line in enumerate(lines, 1):
        try:
            for at_ns, given in _each_of(line):
                item = decoder.decode(msgspec.json.encode(given))
                if isinstance(item, Message):
                    messages.append(Timed(at_ns, item))
                elif item is not None and item[0] != at_ns:
                    alone = SamplesBuilder(columns)
                    alone.add(*item)
                    apart.append(Due(at_ns, source.id, partial(_same, alone.take(received_ns=at_ns))))
                elif item is not None:
                    builder.add(*item)
        except (BadMessageError, ValueError) as error:
            raise InputError(f"`record.{source.id}.lines`, {number}: {error}") from error
    samples = builder.take(received_ns=0) if len(builder) else None
    ordered = None if samples is None else samples.take(np.argsort(samples.time_ns, kind="stable"))
    record = Record(ordered, tuple(sorted(messages, key=lambda each: each.time_ns)))
    return record, sorted(apart, key=lambda due: due.due_ns)


def _each_of(line: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a line stands for, and when: itself, or with `every` itself again and again, and for each device of a list.
    Raises ValueError."""
    given = dict(line)
    begin_s = parse_quantity(str(given.pop("at", "0s")), "s")
    every, until = given.pop("every", None), given.pop("until", None)
    if (every is None) != (until is None):
        raise ValueError("`every` and `until` stand together")
    length_s = 0.0 if until is None else parse_quantity(str(until), "s") - begin_s
    period_s = 1.0 if every is None else parse_quantity(str(every), "s")
    if period_s <= 0.0 or length_s < 0.0:
        raise ValueError(f"`every` is longer than 0 s, and `until` not before `at`; got {every} and {until}")
    given.setdefault("type", Samples.tag)
    if given["type"] == Samples.tag:
        given.setdefault("quality", 0)
    devices = given["device"] if isinstance(given.get("device"), list) else None
    count = 1 if every is None else math.ceil(round(length_s / period_s, 9))
    for number in range(count):
        at_ns = BEGIN_NS + round((begin_s + number * period_s) * NS_PER_S)
        share = number * period_s / length_s if length_s else 0.0
        made = {"time_ns": at_ns} | {name: _meant(name, value, share) for name, value in given.items()}
        for device in [None] if devices is None else devices:
            yield at_ns, made if devices is None else made | {"device": device}


def _meant(name: str, value: Any, share: float) -> Any:
    """`50 to 49.9` is what it is at a share of the way, and a time `…_ns` with a unit one since the begin; also within
    what messages hold."""
    if isinstance(value, dict):
        return {each: _meant(each, inner, share) for each, inner in value.items()}
    if isinstance(value, list):
        return [_meant(name, each, share) for each in value]
    if not isinstance(value, str):
        return value
    if name.endswith("_ns"):
        return BEGIN_NS + round(parse_quantity(value, "s") * NS_PER_S)
    found = _WAY.fullmatch(value)
    return value if found is None else float(found[1]) + share * (float(found[2]) - float(found[1]))


# Faults ---------------------------------------------------------------------------------------------------------------


def with_faults(stream: Sequence[Due], faults: Sequence[Fault], begin_ns: int, moments_ns: Sequence[int]) -> list[Due]:
    """The stream as faults leave it, batches cut at `moments_ns`, in order."""
    found = [part for due in stream for part in _cut(due, moments_ns)]
    for fault in faults:
        if fault.what != "away":
            found = [
                part for due in found for part in (_faulty(due, fault, begin_ns) if due.source == fault.of else [due])
            ]
    return sorted(found, key=lambda due: due.due_ns)


def _cut(due: Due, moments_ns: Sequence[int]) -> Iterator[Due]:
    message = due.given()
    if not isinstance(message, Samples):
        yield due
        return
    place = np.searchsorted(np.array(sorted(moments_ns), dtype=np.int64), message.time_ns, side="right")
    for part in np.unique(place).tolist():
        rows = message.take(place == part)
        earlier_ns = int(message.time_ns[-1] - rows.time_ns[-1])
        yield Due(due.due_ns - earlier_ns, due.source, partial(_same, rows))


def _same(message: WireMessage) -> WireMessage:
    return message


def _faulty(due: Due, fault: Fault, begin_ns: int) -> Iterator[Due]:
    message = due.given()
    first_ns = begin_ns + round(fault.at_s * NS_PER_S)
    last_ns = first_ns + round(fault.lasts_s * NS_PER_S)
    later_ns = round(fault.by_s * NS_PER_S)
    if not isinstance(message, Samples):
        is_hit = first_ns <= due.due_ns < last_ns
        if not (is_hit and fault.what == "gap"):
            yield Due(due.due_ns + later_ns, due.source, due.given) if is_hit else due
        return
    hit = (message.time_ns >= first_ns) & (message.time_ns < last_ns)
    if fault.devices:
        codes = [code for code, name in enumerate(message.devices) if name in fault.devices]
        hit &= np.isin(message.device, codes)
    if not hit.any():
        yield due
        return
    rest = message.take(~hit) if fault.what in ("gap", "delay") else message
    if fault.what == "nan":
        wanted = fault.columns or tuple(message.columns)
        columns = {
            name: np.where(hit, np.nan, each) if name in wanted else each for name, each in message.columns.items()
        }
        rest = message.with_columns(columns)
    if rest.rows:
        yield Due(due.due_ns, due.source, partial(_same, rest))
    if fault.what in ("delay", "double"):
        late = msgspec.structs.replace(message.take(hit), received_ns=message.received_ns + later_ns)
        yield Due(due.due_ns + later_ns, due.source, partial(_same, late))
