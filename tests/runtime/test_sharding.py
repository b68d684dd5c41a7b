"""Every row goes to one shard, that of its device; and every shard to the worker that it is meant for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.messages import Alarm, Samples, samples_from_rows
from edgeflex_flow.runtime.bytewax import places_of, sharding_among
from edgeflex_flow.runtime.sharding import InFlight, Sharding, shard_of
from edgeflex_flow.runtime.stage import DEVICE, SITE

names = st.text(min_size=1, max_size=6)
rows = st.lists(st.tuples(st.integers(0, 50), names), min_size=1, max_size=40)


def of(samples: Samples) -> list[tuple[int, str, float]]:
    columns = samples.columns["frequency_hz"]
    return [
        (int(time_ns), samples.devices[code], float(value))
        for time_ns, code, value in zip(samples.time_ns, samples.device, columns, strict=True)
    ]


@given(rows, st.integers(2, 40))
def test_each_row_is_in_the_shard_of_its_device_and_in_no_other(rows: list[tuple[int, str]], shards: int) -> None:
    sharding = Sharding([f"key {shard}" for shard in range(shards)], "site key")
    batch = samples_from_rows([(time_ns, name, {"frequency_hz": k}) for k, (time_ns, name) in enumerate(rows)])
    for _ in range(2):  # what is known of devices is used again
        split = sharding.split(DEVICE, [batch])
        assert len({key for key, _ in split}) == len(split)
        found = []
        for key, messages in split:
            for part in messages:
                assert isinstance(part, Samples)
                assert not list(part.problems())
                assert {f"key {shard_of(name, shards)}" for name in part.devices} == {key}
                kept = [row for row in of(batch) if row[1] in part.devices]
                assert of(part) == kept  # in their order
                found += of(part)
        assert Counter(found) == Counter(of(batch))


@given(names, st.integers(2, 40))
def test_messages_go_with_the_rows_of_their_device(name: str, shards: int) -> None:
    sharding = Sharding([str(shard) for shard in range(shards)], "site key")
    alarm = Alarm(source="x", severity="info", text="", time_ns=0, device=name)
    batch = samples_from_rows([(0, name, {"frequency_hz": 50.0})])
    assert [key for key, _ in sharding.split(DEVICE, [alarm, batch])] == [str(shard_of(name, shards))]
    assert sharding.split(SITE, [alarm, batch]) == [("site key", [alarm, batch])]


@pytest.mark.parametrize(("workers", "shards"), [(2, 8), (3, 12), (3, 7), (8, 32)])
def test_shards_take_turns_among_workers_and_the_site_is_on_the_first(workers: int, shards: int) -> None:
    sharding = sharding_among(workers, shards)
    keys = sharding.keys_of(DEVICE)
    [site] = sharding.keys_of(SITE)
    places = places_of(workers, [*keys, site])
    assert [places[key] for key in keys] == [shard % workers for shard in range(shards)]
    assert places[site] == 0
    assert [sharding.name_of(key) for key in (*keys, site)] == [*map(str, range(shards)), SITE]


def test_all_processes_find_the_same_keys() -> None:
    assert sharding_among(3, 12).keys_of(DEVICE) == sharding_among(3, 12).keys_of(DEVICE)


def test_items_are_on_their_way_until_all_that_came_of_them_is_done() -> None:
    in_flight = InFlight()
    assert not in_flight
    in_flight.add(made=2)
    in_flight.add(made=3, done=2)
    assert in_flight
    in_flight.add(made=0, done=3)
    assert not in_flight
    assert in_flight.counts == (5, 5)


def test_names_of_other_shards_do_not_travel() -> None:
    sharding = Sharding([str(shard) for shard in range(8)], "site")
    batch = samples_from_rows([(0, f"PMU{k}", {"frequency_hz": 50.0}) for k in range(80)])
    parts = [part for _, messages in sharding.split(DEVICE, [batch]) for part in messages if isinstance(part, Samples)]
    assert sum(len(part.devices) for part in parts) == 80
    assert all(np.array_equal(np.unique(part.device), np.arange(len(part.devices))) for part in parts)
