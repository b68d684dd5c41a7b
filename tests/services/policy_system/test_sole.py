from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import wait_until
from databases import PASSWORD, Postgres
from served_policies import ServedPolicies
from sqlalchemy import Engine, text

from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system.sole import BUS_LOCK, MOST_TRIES, SoleOnBus
from edgeflex_services.policy_system.tables import open_database

BUS = ("--bus", "mqtt://127.0.0.1:1")


def test_a_second_instance_with_the_databus_is_refused_until_the_first_has_ended_however(tmp_path: Path) -> None:
    with ServedPolicies(tmp_path, *BUS) as first:
        with pytest.raises(AssertionError, match=r"ended with 3: (?s:.*)--bus: another instance on this database"):
            ServedPolicies(tmp_path, *BUS).start()
        with ServedPolicies(tmp_path) as without_bus:
            assert without_bus.stop() == 0
        first.stop(signal.SIGKILL)
        with ServedPolicies(tmp_path, *BUS) as second:
            assert second.stop() == 0


@pytest.fixture
def database() -> Iterator[str]:
    with Postgres() as server:
        yield f"postgresql://flow:{PASSWORD}@127.0.0.1:{server.port}/postgres"


def has_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(text(f"SELECT count(*) FROM pg_locks WHERE objid = {BUS_LOCK} AND granted")))


@pytest.mark.needs("postgres")
def test_on_postgresql_too_and_a_lost_connection_takes_the_lock_anew_if_nobody_else_has(database: str) -> None:
    one, other = open_database(database), open_database(database)
    lost: list[str] = []
    first = SoleOnBus(one, lambda: lost.append("first"))

    def taken_anew() -> bool:
        first.check()
        return has_lock(other)

    def cut() -> None:
        with other.begin() as connection:
            holds = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = :lock"
            connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({holds}) AS h"), {"lock": BUS_LOCK})

    with pytest.raises(FatalError, match="another instance"):
        SoleOnBus(other, lambda: lost.append("second"))
    cut()
    first.check()  # it finds out
    wait_until(taken_anew)
    with pytest.raises(FatalError, match="another instance"):
        SoleOnBus(other, lambda: lost.append("second"))
    cut()
    wait_until(lambda: not has_lock(other))
    second = SoleOnBus(other, lambda: lost.append("second"))
    for _ in range(MOST_TRIES):
        assert not first.is_lost
        first.check()
    first.check()
    assert (lost, first.is_lost, second.is_lost) == (["first"], True, False)
    first.close()
    second.close()
    one.dispose()
    other.dispose()
