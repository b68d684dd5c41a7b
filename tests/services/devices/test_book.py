"""What the service keeps: on disk before it is seen, there after a restart, and told to who waits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_services.devices.book import ANY, Book
from edgeflex_services.devices.model import DeviceEntry, GroupEntry
from edgeflex_services.devices.network import Membership
from edgeflex_services.devices.store import Store, StoreError

DEVICE = DeviceEntry(gpsi="msisdn-491701234567", name="pmu7", owner="substation_12", updated_ns=1)
GROUP = GroupEntry(
    name="south", owner="substation_12", callback="c1", members={DEVICE.gpsi: Membership(state="member")}
)


@pytest.fixture
def open_book(tmp_path: Path) -> Iterator[Callable[[], Book]]:
    """Opens the same book again and again, one at a time."""
    opened: list[Book] = []

    def close() -> None:
        if opened:
            opened.pop().close()

    def open_() -> Book:
        close()
        opened.append(Book(Store(tmp_path / "devices.db"), SystemClock()))
        return opened[0]

    yield open_
    close()


def test_what_is_written_is_there_after_a_restart(open_book: Callable[[], Book]) -> None:
    book = open_book()
    token = book.callback_token("c1")
    book.change([DEVICE, GROUP], audit=[book.noted("grid", "onboard", DEVICE.gpsi, "asked")])
    book = open_book()
    assert (book.devices, book.groups) == ({DEVICE.gpsi: DEVICE}, {"south": GROUP})
    assert book.gpsi_of("pmu7") == DEVICE.gpsi
    assert book.called_back("c1") == GROUP
    assert book.callback_token("c1") == token
    assert [each.action for each in book.audit(10, None)] == ["onboard"]


def test_a_callback_of_an_entry_that_was_replaced_is_nobodys(open_book: Callable[[], Book]) -> None:
    book = open_book()
    book.change([GROUP])
    book.change([replace(GROUP, callback="c2")])
    assert (book.called_back("c1"), book.called_back("c2")) == (None, replace(GROUP, callback="c2"))


def test_a_name_is_free_again_when_its_device_has_another(open_book: Callable[[], Book]) -> None:
    book = open_book()
    book.change([DEVICE])
    book.change([replace(DEVICE, name="pmu8")])
    assert (book.gpsi_of("pmu7"), book.gpsi_of("pmu8")) == (None, DEVICE.gpsi)


def test_who_waits_for_an_entry_is_woken_by_its_change_alone(open_book: Callable[[], Book]) -> None:
    book = open_book()

    async def waits() -> list[bool]:
        for_group = asyncio.create_task(book.wait(GroupEntry, "south", 10.0))
        for_any = asyncio.create_task(book.wait(GroupEntry, ANY, 10.0))
        for_other = asyncio.create_task(book.wait(GroupEntry, "north", 10.0))
        await asyncio.sleep(0)
        book.change([GROUP])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = [each.done() for each in (for_group, for_any, for_other)]
        for_other.cancel()
        return done

    assert asyncio.run(waits()) == [True, True, False]


def test_what_cannot_be_written_is_not_seen_either(open_book: Callable[[], Book], tmp_path: Path) -> None:
    book = open_book()
    with sqlite3.connect(tmp_path / "devices.db") as other:
        other.execute("DROP TABLE audit")
    other.close()
    with pytest.raises(StoreError):
        book.change([DEVICE], audit=[book.noted("grid", "onboard", DEVICE.gpsi, "asked")])
    assert not book.devices
    assert not list(Store.read(book._store))


def test_the_audit_log_cannot_be_changed(open_book: Callable[[], Book], tmp_path: Path) -> None:
    book = open_book()
    book.change(audit=[book.noted("grid", "onboard", DEVICE.gpsi, "asked")])
    other = sqlite3.connect(tmp_path / "devices.db")
    with pytest.raises(sqlite3.IntegrityError, match="kept as it was"):
        other.execute("UPDATE audit SET actor = 'somebody else'")
    other.close()


def test_a_second_service_on_the_same_file_is_refused(open_book: Callable[[], Book], tmp_path: Path) -> None:
    open_book()
    with pytest.raises(FatalError, match="another device service uses this file"):
        Store(tmp_path / "devices.db")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "devices.db") as other:
        other.execute("CREATE TABLE offers (id TEXT)")
    other.close()
    with pytest.raises(FatalError, match="begin a new one, or name the right one"):
        Store(tmp_path / "devices.db")
