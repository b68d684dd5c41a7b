from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeflex_connectors import file_replay, file_write
from edgeflex_connectors.file_replay import FileReplayConfig
from edgeflex_connectors.file_write import FileWriteConfig
from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Alarm, Quality, Samples, join_samples, samples_from_rows
from edgeflex_flow.node import Context, Source, WireMessage

if TYPE_CHECKING:
    from conftest import ContextMaker

SECOND_NS = 1_000_000_000
ALARM = Alarm(source="s", severity="info", text="x", time_ns=2)


def rows(*times: int, column: str = "x_v") -> Samples:
    return samples_from_rows([(time, "G1", {column: float(time)}) for time in times])


def record(make_context: ContextMaker, path: str, *items: WireMessage) -> None:
    sink = file_write.NODE.open(FileWriteConfig(path=path), make_context("record"))
    sink.open()
    sink.write(items)
    assert sink.flush(10.0)
    sink.close()


@contextmanager
def source(
    make_context: ContextMaker, path: str, *, clock: VirtualClock | None = None, **fields: Any
) -> Iterator[tuple[Source, Context]]:
    context = make_context("replay", clock=clock)
    wanted: dict[str, Any] = {"columns": ("x_v",), **fields}
    opened = file_replay.NODE.open(FileReplayConfig(path=path, **wanted), context)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def drain(opened: Source) -> list[WireMessage]:
    given: list[WireMessage] = []
    while not opened.ended:
        given.extend(opened.poll())
    return given


def times(items: list[WireMessage]) -> list[int]:
    return [time for item in items if isinstance(item, Samples) for time in item.time_ns.tolist()]


VALUES = st.floats(allow_nan=True, allow_infinity=True)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
BATCHES = st.lists(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), NAMES, st.fixed_dictionaries({"x_v": VALUES, "y_a": VALUES})),
        min_size=1,
        max_size=6,
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("ending", ["jsonl", "npz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(batches=BATCHES, quality=st.integers(0, 0x1FF), batch_rows=st.integers(1, 5))
def test_replay_gives_what_was_recorded_bit_for_bit(
    make_context: ContextMaker,
    tmp_path_factory: pytest.TempPathFactory,
    ending: Literal["jsonl", "npz"],
    batches: list[list[tuple[int, str, dict[str, float]]]],
    quality: int,
    batch_rows: int,
) -> None:
    path = str(tmp_path_factory.mktemp("recording") / f"day.{ending}")
    recorded = [samples_from_rows(batch, quality=quality) for batch in batches]
    record(make_context, path, *recorded)
    with source(make_context, path, columns=("x_v", "y_a"), batch_rows=batch_rows) as (opened, _):
        given = [item for item in drain(opened) if isinstance(item, Samples)]
    assert all(list(item.problems()) == [] and 0 < item.rows <= batch_rows for item in given)
    before, after = join_samples(recorded), join_samples(given)
    assert after.time_ns.tolist() == before.time_ns.tolist()
    assert [after.devices[code] for code in after.device] == [before.devices[code] for code in before.device]
    assert after.quality.tolist() == [quality | Quality.REPLAYED] * before.rows
    for name in ("x_v", "y_a"):
        # Bits and not values: -0.0 stays -0.0. NaN has many bit patterns, of which JSON keeps one.
        old, new = (np.where(np.isnan(each.columns[name]), np.nan, each.columns[name]) for each in (before, after))
        assert new.view(np.uint64).tolist() == old.view(np.uint64).tolist()


def test_messages_keep_their_place_among_rows(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(1, 2), ALARM, rows(3))
    with source(make_context, "day.jsonl", messages=("alarm",)) as (opened, _):
        polled = []
        while not opened.ended:
            polled.append(list(opened.poll()))
    assert [times(items) if isinstance(items[0], Samples) else items for items in polled] == [[1, 2], [ALARM], [3]]


def test_each_poll_gives_one_batch_at_full_speed(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(*range(10)))
    with source(make_context, "day.jsonl", batch_rows=4) as (opened, _):
        assert opened.next_poll_ns() is None
        assert [times(list(opened.poll())) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert opened.ended


def test_batches_say_when_they_were_read(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(5))
    with source(make_context, "day.jsonl", clock=VirtualClock(77)) as (opened, _):
        (samples,) = opened.poll()
        assert isinstance(samples, Samples)
        assert samples.received_ns == 77


def test_devices_stay_the_same_object_while_they_stay_the_same(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(*range(4)))
    with source(make_context, "day.jsonl", batch_rows=2) as (opened, _):
        first, second = drain(opened)
    assert isinstance(first, Samples)
    assert isinstance(second, Samples)
    assert first.devices is second.devices


def test_malformed_line_is_a_dead_letter_with_file_and_line(tmp_path: Path, make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(1, 2))
    first, second = (tmp_path / "day.jsonl").read_bytes().splitlines()
    (tmp_path / "day.jsonl").write_bytes(b"\n".join([first, b"", b"{broken", second]))
    with source(make_context, "day.jsonl") as (opened, context):
        assert times(drain(opened)) == [1, 2]
        assert context.counters.get("bad_line") == 1
    ((reason, text, payload),) = make_context.dead_letters
    assert reason == "bad_line"
    assert text.startswith(f"{tmp_path}/day.jsonl:3: ")
    assert payload == b"{broken\n"


def test_rows_without_the_columns_and_other_messages_are_skipped_and_counted(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(1), rows(2, column="y_a"), ALARM)
    with source(make_context, "day.jsonl") as (opened, context):
        assert times(drain(opened)) == [1]
        assert context.counters.get("skipped") == 2


def test_long_stretch_of_unwanted_lines_does_not_hold_the_flow_up(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_replay, "LINES_IN_A_POLL", 10)
    record(make_context, "day.jsonl", rows(*range(25), column="y_a"), rows(99))
    with source(make_context, "day.jsonl") as (opened, _):
        assert [len(opened.poll()) for _ in range(3)] == [0, 0, 1]


def test_parts_of_an_npz_recording_follow_each_other(tmp_path: Path, make_context: ContextMaker) -> None:
    for first in (1, 3):
        record(make_context, "day.npz", rows(first, first + 1))
    with source(make_context, "day.npz") as (opened, _):
        assert times(drain(opened)) == [1, 2, 3, 4]


def test_damaged_part_is_a_dead_letter_and_the_next_is_read(tmp_path: Path, make_context: ContextMaker) -> None:
    for first in (1, 3):
        record(make_context, "day.npz", rows(first, first + 1))
    (tmp_path / "day-0001.npz").write_bytes(b"PK")
    with source(make_context, "day.npz") as (opened, context):
        assert times(drain(opened)) == [3, 4]
        assert context.counters.get("bad_file") == 1
    assert str(tmp_path / "day-0001.npz") in make_context.dead_letters[0][1]


def test_part_without_the_columns_is_skipped_and_counted(make_context: ContextMaker) -> None:
    record(make_context, "day.npz", rows(1, 2, column="y_a"), rows(3))
    with source(make_context, "day.npz") as (opened, context):
        assert times(drain(opened)) == [3]
        assert context.counters.get("skipped") == 2


def test_empty_recording_ends_at_once(tmp_path: Path, make_context: ContextMaker) -> None:
    (tmp_path / "day.jsonl").touch()
    with source(make_context, "day.jsonl") as (opened, _):
        assert opened.ended
        assert list(opened.poll()) == []


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.npz", "gone/day.npz"])
def test_missing_recording_is_named(make_context: ContextMaker, name: str) -> None:
    with pytest.raises(FatalError, match=f"{name}: there is no such recording"), source(make_context, name):
        pass


def test_real_time_follows_the_time_tags(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(*(50 * SECOND_NS + second * SECOND_NS for second in range(4))))
    clock = VirtualClock(7 * SECOND_NS)
    with source(make_context, "day.jsonl", clock=clock, speed=1.0) as (opened, _):
        assert times(list(opened.poll())) == [50 * SECOND_NS]
        assert opened.next_poll_ns() == 8 * SECOND_NS
        clock.advance_to(8 * SECOND_NS - 1)
        assert list(opened.poll()) == []
        clock.advance_to(9 * SECOND_NS)
        assert times(list(opened.poll())) == [51 * SECOND_NS, 52 * SECOND_NS]
        clock.advance_to(60 * SECOND_NS)
        assert times(list(opened.poll())) == [53 * SECOND_NS]
        assert opened.ended


def test_factor_makes_time_pass_faster(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(0, 10 * SECOND_NS))
    clock = VirtualClock()
    with source(make_context, "day.jsonl", clock=clock, speed=4.0) as (opened, _):
        assert times(list(opened.poll())) == [0]
        assert opened.next_poll_ns() == 2_500_000_000
        clock.advance_to(2_500_000_000)
        assert times(list(opened.poll())) == [10 * SECOND_NS]


class SteppedClock(VirtualClock):
    """A clock whose wall time is set while it runs."""

    step_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.step_ns


@pytest.mark.parametrize("step_s", [60, -3600])
def test_computer_clock_that_is_set_neither_hurries_nor_stops_a_replay(make_context: ContextMaker, step_s: int) -> None:
    record(make_context, "day.jsonl", rows(*(second * SECOND_NS for second in range(100))))
    clock = SteppedClock(5000 * SECOND_NS)
    with source(make_context, "day.jsonl", clock=clock, speed=1.0) as (opened, _):
        assert opened.next_poll_ns() == 5000 * SECOND_NS
        assert times(list(opened.poll())) == [0]
        clock.step_ns = step_s * SECOND_NS
        assert list(opened.poll()) == []
        assert opened.next_poll_ns() == 5001 * SECOND_NS
        clock.advance_to(5001 * SECOND_NS)
        assert times(list(opened.poll())) == [SECOND_NS]


def test_time_tags_that_step_back_hold_nothing_up(make_context: ContextMaker) -> None:
    record(make_context, "day.jsonl", rows(5 * SECOND_NS, 1 * SECOND_NS, 6 * SECOND_NS), ALARM)
    clock = VirtualClock()
    with source(make_context, "day.jsonl", clock=clock, speed=1.0, messages=("alarm",)) as (opened, _):
        assert times(list(opened.poll())) == [5 * SECOND_NS, 1 * SECOND_NS]
        clock.advance_to(1 * SECOND_NS)
        samples, alarm = opened.poll()
        assert times([samples]) == [6 * SECOND_NS]
        assert alarm == ALARM
        assert opened.ended


def test_output_is_what_the_fields_promise() -> None:
    config = FileReplayConfig(path="a.jsonl", columns=("x_v",), messages=("alarm",))
    wire = file_replay.NODE.output(config, {})
    assert wire.messages == {Samples, Alarm}
    assert wire.columns == {"x_v"}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"path": "a.csv"}, "ends in .jsonl or .npz"),
        ({"path": "a\0.jsonl"}, "must not hold a NUL character"),
        ({"path": "a.npz", "columns": [], "messages": ["alarm"]}, "holds samples only"),
        ({"columns": []}, "give `columns`, `messages` or both"),
        ({"speed": 0}, "> 0.0"),
        ({"speed": "fast"}, "Invalid enum value 'fast'"),
        ({"batch_rows": 0}, ">= 1"),
    ],
)
def test_config_refuses_what_cannot_work(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({"path": "a.jsonl", "columns": ["x_v"], **fields}, FileReplayConfig)


@pytest.mark.parametrize(("given", "speed"), [("max", "max"), (2, 2.0), (0.5, 0.5)])
def test_speed_is_max_or_a_number(given: object, speed: object) -> None:
    assert msgspec.convert({"path": "a.jsonl", "columns": ["x_v"], "speed": given}, FileReplayConfig).speed == speed
