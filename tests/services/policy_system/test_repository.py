from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker import wait_until
from databases import PASSWORD, Postgres
from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system import repository as repository_module
from edgeflex_services.policy_system.accounts import NewUser, User
from edgeflex_services.policy_system.catalogue import Catalogue
from edgeflex_services.policy_system.compare import changes
from edgeflex_services.policy_system.documents import read_document
from edgeflex_services.policy_system.journal import Journal, entry_of
from edgeflex_services.policy_system.proof import Head, Proof, digest_of
from edgeflex_services.policy_system.repository import (
    CannotWriteError,
    ConflictError,
    Effect,
    Grant,
    OthersCameFirstError,
    Repository,
    Saved,
    UnknownError,
)
from edgeflex_services.policy_system.system import PolicySystem
from edgeflex_services.policy_system.tables import audit, groups, open_database, versions


def bounds(droop: str = "25 MW/Hz", **more: Any) -> Any:
    return read_document({"kind": "operational_bounds", "fields": {"droop": droop}, **more})


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as made:
        yield made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Repository]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'policy.db'}"
    else:
        server: Postgres = request.getfixturevalue("server")
        server.make_database(tmp_path.name)
        url = f"postgresql://flow:{PASSWORD}@127.0.0.1:{server.port}/{tmp_path.name}"
    made = Repository(open_database(url), VirtualClock(1_000))
    with made.writing() as connection:
        connection.execute(insert(groups).values(name="g", about=""))
    yield made
    made.close()


def test_each_saving_is_a_new_version_and_the_old_ones_stay(repository: Repository) -> None:
    repository.save("ann", "g", "p", bounds("25 MW/Hz"), based_on=0, comment="first")
    repository.save("bob", "g", "p", bounds("30 MW/Hz"), based_on=1, comment="second")
    found = repository.versions("g", "p")
    assert [(each.version, each.saved_by, each.comment) for each in found] == [
        (2, "bob", "second"),
        (1, "ann", "first"),
    ]
    assert repository.version("g", "p", 1).document == bounds("25 MW/Hz")
    assert [(each.policy_id, each.version) for each in repository.heads()] == [("p", 2)]


def test_a_version_made_from_an_old_one_is_refused(repository: Repository) -> None:
    repository.save("ann", "g", "p", bounds(), based_on=0)
    for wrong in (0, 2):
        with pytest.raises(ConflictError, match="version 1 is the newest"):
            repository.save("bob", "g", "p", bounds(), based_on=wrong)
    assert len(repository.versions("g", "p")) == 1


def test_of_two_who_save_at_the_same_time_one_is_refused(repository: Repository) -> None:
    other = Repository(repository._engine, VirtualClock(1_000))
    gate = threading.Barrier(2)
    results: list[str] = []

    def save(own: Repository, name: str) -> None:
        gate.wait()
        try:
            own.save(name, "g", "p", bounds(), based_on=0)
            results.append("saved")
        except ConflictError:
            results.append("refused")
        except DBAPIError as error:  # two writers on SQLite wait for each other; on PostgreSQL they meet
            results.append(f"broken: {error}")

    threads = [threading.Thread(target=save, args=(own, str(at))) for at, own in enumerate((repository, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused", "saved"]


def test_a_withdrawn_policy_keeps_its_versions_and_can_be_saved_again(repository: Repository) -> None:
    saved = repository.save("ann", "g", "p", bounds(), based_on=0)
    repository.save("ann", "g", "p", saved.document, based_on=1, withdrawn=True)
    repository.save("ann", "g", "p", bounds("30 MW/Hz"), based_on=2)
    assert [each.withdrawn for each in repository.versions("g", "p")] == [False, True, False]


def test_the_database_itself_refuses_to_change_versions_and_the_audit_log(repository: Repository) -> None:
    repository.save("ann", "g", "p", bounds(), based_on=0)
    for statement in (
        update(versions).values(saved_by="eve"),
        delete(versions),
        update(audit).values(actor="eve"),
        delete(audit),
    ):
        with pytest.raises(DBAPIError, match="kept for ever"), repository.writing() as connection:
            connection.execute(statement)
    assert repository.versions("g", "p")[0].saved_by == "ann"


@pytest.mark.parametrize("table", ["policy_versions", "audit"])
@pytest.mark.parametrize("columns", ["", "rowid, "])
def test_sqlite_refuses_to_put_another_row_in_the_place_of_a_version_or_an_entry(
    tmp_path: Path, table: str, columns: str
) -> None:
    """On any connection: what ours sets counts for it only. A database from before is mended at its opening."""
    file = tmp_path / "policy.db"
    for _ in range(2):
        made = Repository(open_database(f"sqlite:///{file}"), VirtualClock(1_000))
        if not made.heads():
            with made.writing() as connection:
                connection.execute(insert(groups).values(name="g", about=""))
            made.save("ann", "g", "p", bounds(), based_on=0)
            with made.writing() as connection:
                connection.execute(text(f"DROP TRIGGER no_replace_of_{table}"))
        made.close()
    names = {"policy_versions": "saved_by", "audit": "actor"}
    with closing(sqlite3.connect(file)) as other:
        known = [row[1] for row in other.execute(f"PRAGMA table_info({table})")]
        told = ", ".join("'eve'" if name == names[table] else f'"{name}"' for name in known)
        if columns and table == "policy_versions":  # another key in the row's place
            told = told.replace('"version"', "99")
        into = ", ".join(f'"{name}"' for name in known)
        with pytest.raises(sqlite3.IntegrityError, match="kept for ever"):
            other.execute(f"REPLACE INTO {table} ({columns}{into}) SELECT {columns}{told} FROM {table}")


def test_the_audit_log_tells_which_entry_was_forged(repository: Repository, tmp_path: Path) -> None:
    for version in range(3):
        repository.save("ann", "g", "p", bounds(f"{version + 20} MW/Hz"), based_on=version)
    assert repository.prove() == Proof(intact=True, head=str(repository.head()))
    with unlocked(repository) as connection:
        second = (connection.scalar(select(func.min(audit.c.id))) or 0) + 1
        connection.execute(update(audit).where(audit.c.id == second).values(actor="eve"))
    proof = repository.prove()
    assert (proof.intact, proof.first_forged) == (False, second)


@contextmanager
def unlocked(repository: Repository) -> Iterator[Connection]:
    """The tables as somebody with the database in hands has them."""
    with repository.writing() as connection:
        for table in ("audit", "policy_versions"):
            if connection.dialect.name == "sqlite":
                for verb in ("update", "delete"):
                    connection.execute(text(f"DROP TRIGGER no_{verb}_of_{table}"))
            else:
                connection.execute(text(f"DROP TRIGGER keep_{table} ON {table}"))
        yield connection


def test_a_changed_a_removed_and_a_smuggled_version_are_told(repository: Repository) -> None:
    repository.save("ann", "g", "p", bounds("20 MW/Hz"), based_on=0)
    repository.save("ann", "g", "p", repository.version("g", "p", 1).document, based_on=1, withdrawn=True)
    assert repository.prove().intact
    first = versions.c.version == 1
    with unlocked(repository) as connection:
        row = dict(connection.execute(select(versions).where(first)).mappings().one())
        connection.execute(update(versions).where(first).values(document=row["document"].replace("20", "90")))
    assert "version 1 of g/p is not what was saved by entry" in repository.prove().why
    with repository.writing() as connection:
        connection.execute(delete(versions).where(first))
    assert "version 1 of g/p, saved by entry" in repository.prove().why
    with repository.writing() as connection:
        connection.execute(insert(versions), [row, {**row, "version": 3}])
    assert repository.prove().why == "version 3 of g/p stands in no entry of the log"


def test_a_head_that_was_noted_shows_a_log_cut_off_or_written_anew(repository: Repository) -> None:
    repository.set_grants("ann", "g", "p", [Grant("user", "bob", "read")])
    repository.set_grants("ann", "g", "p", [Grant("user", "cid", "read")])
    noted = Head.read(str(repository.head()))
    repository.set_grants("ann", "g", "p", [Grant("user", "dan", "read")])
    assert repository.prove(noted).intact
    with unlocked(repository) as connection:
        connection.execute(delete(audit).where(audit.c.id >= noted.id))
    assert repository.prove().intact
    assert repository.prove(noted).why.endswith(f"; entry {noted.id}, which was noted, is not there")
    with repository.writing() as connection:
        before = repository.head()
        row = {"time_ns": 1, "actor": "eve", "action": "x", "object": "y", "detail": "{}"}
        connection.execute(insert(audit).values(id=noted.id, digest=digest_of(before.digest, row), **row))
    assert repository.prove().intact
    assert repository.prove(noted).why == f"entry {noted.id} is another one than was noted"


@pytest.mark.parametrize("text", ["", "7", "7:abc", "x:" + "0" * 64, "7:" + "0" * 64 + "\n"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no head of an audit log"):
        Head.read(text)


def test_what_goes_wrong_leaves_neither_a_version_nor_an_entry_behind(repository: Repository) -> None:
    with pytest.raises(UnknownError, match="no group 'nowhere'"):
        repository.save("ann", "nowhere", "p", bounds(), based_on=0)
    assert repository.heads() == []
    assert repository.audit_entries() == []


def test_names_that_are_sql_stay_names(repository: Repository) -> None:
    nasty = "x'; DROP TABLE policy_versions; --"
    with pytest.raises(UnknownError):
        repository.versions("g", nasty)
    repository.save(nasty, "g", "p", bounds(), based_on=0, comment=nasty)
    assert repository.versions("g", "p")[0].comment == nasty


def test_an_answer_of_a_database_begun_anew_has_another_etag(tmp_path: Path) -> None:
    """Else flows would keep what version 1 said in the one before."""
    etags: set[str] = set()
    for at in (1, 2):
        made = Repository(open_database(f"sqlite:///{tmp_path / str(at)}"), VirtualClock(at))
        with made.writing() as connection:
            connection.execute(insert(groups).values(name="g", about=""))
        made.save("ann", "g", "p", bounds(f"{at} MW/Hz"), based_on=0)
        catalogue = Catalogue(made)
        catalogue.load()
        one = catalogue.serve_one(User(name="ann", is_admin=True), "g", "p")
        assert one is not None
        etags |= {one.etag, catalogue.serve(User(name="ann", is_admin=True), "g", None).etag}
        made.close()
    assert len(etags) == 2


def test_grants_are_replaced_as_a_whole(repository: Repository) -> None:
    repository.set_grants("ann", "g", "p", [Grant("user", "bob", "read"), Grant("group", "traders", "edit")])
    repository.set_grants("ann", "g", "p", [Grant("user", "cid", "read")])
    assert repository.grants() == {("g", "p"): [Grant("user", "cid", "read")]}


def test_of_two_who_change_grants_from_the_same_ones_the_second_is_refused(repository: Repository) -> None:
    bob, cid = (Grant("user", name, "read") for name in ("bob", "cid"))
    repository.set_grants("ann", "g", "p", [bob], based_on=[])
    with pytest.raises(OthersCameFirstError):
        repository.set_grants("eve", "g", "p", [cid], based_on=[])
    repository.set_grants("ann", "g", "p", [cid, bob], based_on=[bob])
    repository.set_grants("ann", "g", "p", [cid], based_on=[bob, cid])
    assert repository.grants() == {("g", "p"): [cid]}


def test_reads_add_up_by_user_and_version(repository: Repository) -> None:
    repository.add_reads({("g", "p", "site", 1): (10, 20, 2)})
    repository.add_reads({("g", "p", "site", 1): (30, 40, 3), ("g", "p", "other", 1): (35, 35, 1)})
    found = {each.user: (each.first_ns, each.last_ns, each.count) for each in repository.readers("g", "p")}
    assert found == {"site": (10, 40, 5), "other": (35, 35, 1)}


def test_of_effects_and_of_the_journal_the_newest_are_kept(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "KEPT", 200)
    journal = Journal(repository)

    def add(*versions: int) -> None:
        told = [
            Effect(
                policy_group="g", policy_id="p", version=at, site="", flow="", node="", setting="", before="",
                after="", time_ns=at,
            )
            for at in versions
        ]  # fmt: skip
        repository.add_effects("site", told)
        for effect in told:
            journal.add(entry_of("site", effect))
        journal.keep()

    def kept() -> list[int]:
        effects = [effect.version for _, effect in repository.effects("g", "p", 1000)]
        assert effects == [entry.version for entry in journal.entries(limit=1000)]
        return effects

    add(*range(1, 151))
    add(*range(151, 251))
    assert kept() == list(range(250, 50, -1))
    add(251, 252)  # a hundredth is not worth the work
    assert len(kept()) == 202
    add(253)
    assert kept() == list(range(253, 53, -1))


def test_who_waits_for_another_instance_that_does_not_end_is_told_so(repository: Repository) -> None:
    repository.check_writing()
    other = Repository(open_database(repository._engine.url.render_as_string(hide_password=False)), VirtualClock())
    with other.writing() as connection:
        connection.execute(text("UPDATE health SET time_ns = 7"))
        with pytest.raises(CannotWriteError):
            repository.check_writing()
    repository.check_writing()
    other.close()


def test_differences_of_versions_are_told_by_place_and_rules_by_name() -> None:
    def saved(*rules: dict[str, Any]) -> Saved:
        return Saved("g", "p", 1, bounds(rules=list(rules)), False, "ann", 0, "")

    night = {"name": "night", "effect": "permit", "when": {"since": "22:00", "until": "06:00"}}
    late = {"name": "night", "effect": "permit", "when": {"since": "23:00", "until": "06:00"}}
    new = {"name": "new", "effect": "deny"}
    found = {each.place: (each.kind, each.before, each.after) for each in changes(saved(night), saved(new, late))}
    assert found["rules.night.when.since"] == ("changed", "22:00", "23:00")
    assert found["rules.night.position"] == ("changed", 1, 2)
    assert found["rules.new.effect"] == ("added", None, "deny")
    assert changes(saved(night), saved(night)) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://user:hunter2@host/db", "known are sqlite"),
        ("nonsense", "cannot be read"),
        ("postgresql://user:hunter2@127.0.0.1:1/db", "cannot be opened"),
        ("sqlite:////proc/none/policy.db", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(FatalError, match=told) as raised:
        open_database(url)
    assert "hunter2" not in str(raised.value)


def test_a_database_of_another_version_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "policy.db") as old:
        old.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, time_ns BIGINT NOT NULL, entry TEXT NOT NULL)")
    old.close()
    with pytest.raises(FatalError, match="another version: table 'events' has no column group, kind"):
        open_database(f"sqlite:///{tmp_path / 'policy.db'}")


@pytest.mark.needs("postgres")
def test_two_instances_on_one_postgresql_see_each_others_changes_and_give_each_version_once(
    server: Postgres, tmp_path: Path
) -> None:
    server.make_database(tmp_path.name)
    url = f"postgresql://flow:{PASSWORD}@127.0.0.1:{server.port}/{tmp_path.name}"
    with ExitStack() as stack:
        first, second = (PolicySystem(url, tmp_path) for _ in range(2))
        for system in (first, second):
            stack.callback(system.close)
            system.start(admin_password="a long enough password")
        first.accounts.put_group("admin", "g", "")
        first.accounts.put_user("admin", "site", NewUser())
        first.accounts.set_role("admin", "g", "site", "editor")
        wait_until(lambda: (user := second.tokens.user("site")) is not None and user.may("editor", "g"))

        def save(system: PolicySystem, based_on: int) -> str:
            try:
                system.repository.save("site", "g", "p", bounds(), based_on=based_on)
            except ConflictError:
                return "refused"
            return "saved"

        with ThreadPoolExecutor(2) as pool:
            for based_on in range(20):
                results = pool.map(save, (first, second), (based_on, based_on))
                assert sorted(results) == ["refused", "saved"]
        assert [each.version for each in second.repository.versions("g", "p")] == list(range(20, 0, -1))
        assert first.repository.prove() == second.repository.prove()
        assert first.repository.prove().intact
        for system in (first, second):
            wait_until(lambda system=system: [each.saved.version for each in system.catalogue.in_force("g")] == [20])  # type: ignore[misc]
        second.accounts.disable("admin", "site", "lost")
        wait_until(lambda: first.tokens.user("site") is None)
