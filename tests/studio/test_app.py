"""The studio's web application: who is let in, what a proxy may say, what other pages cannot do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.passwords import Passwords
from edgeflex_flow.studio import link, live, users
from edgeflex_flow.studio.app import make_app
from edgeflex_flow.studio.link import Link
from edgeflex_flow.studio.model import Model
from edgeflex_flow.studio.pages import COOKIE
from edgeflex_flow.studio.state import Attempts, Studio
from edgeflex_flow.studio.users import Door, User, read_users, write_users

PASSWORD = "correct-horse-battery-staple"
HERE = {"Origin": "http://site.example"}
TYPED = {"name": "rita", "password": PASSWORD, "then": "/"}


class Bench:
    """A studio without a supervisor, asked in one event loop."""

    def __init__(self, folder: Path, *, users: bool, proxies: tuple[str, ...] = (), base_path: str = "") -> None:
        self.file = folder / "users.json"
        if users:
            known = Passwords().hash(PASSWORD)
            write_users(self.file, {"rita": User(known), "otto": User(known, operate=True)})
        self._ours, theirs = socket.socketpair()
        self.clock = VirtualClock()
        door = Door(self.file if users else None)
        self.studio = Studio("yard", base_path, Model(), Link(theirs), door, Attempts(self.clock))
        self._theirs = theirs
        self.app = make_app(self.studio, proxies)

    def ask(self, *requests: tuple[str, str, dict[str, Any]], host: str = "site.example") -> list[httpx.Response]:
        """Answers to requests of one browser, in order."""

        async def go() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app, client=("127.0.0.1", 5000))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return [await client.request(method, path, **more) for method, path, more in requests]

        return asyncio.run(go())

    def close(self) -> None:
        self.studio.link.close()
        self._ours.close()


MakeBench = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


SIGN_IN = ("POST", "/sign-in", {"data": TYPED, "headers": HERE})


def test_pages_and_data_need_a_sign_in_where_there_are_users(bench: MakeBench) -> None:
    page, data, live, letter = bench(users=True).ask(
        ("GET", "/timeline?x=1", {}),
        ("GET", "/api/flows/f/picture", {}),
        ("GET", "/live", {}),
        ("GET", "/api/letters/f/1", {}),
    )
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?then=/timeline%3Fx%3D1")
    assert [each.status_code for each in (data, live, letter)] == [401, 401, 401]


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(bench: MakeBench) -> None:
    signed_in, page, again = bench(users=True).ask(SIGN_IN, ("GET", "/", {}), ("GET", "/sign-in", {}))
    assert signed_in.status_code == 303
    told = signed_in.headers["set-cookie"].lower()
    assert told.startswith(COOKIE)
    assert "httponly" in told
    assert "samesite=strict" in told
    assert page.status_code == 200
    assert "rita" in page.text
    assert again.headers["location"] == "/"


def test_guessing_is_stopped_and_the_right_password_as_well(bench: MakeBench) -> None:
    made = bench(users=True)
    wrong = ("POST", "/sign-in", {"data": {**TYPED, "password": "wrong"}, "headers": HERE})
    answers = made.ask(*[wrong] * 8, SIGN_IN)
    assert [each.status_code for each in answers] == [401] * 8 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    made.clock.advance_to(60_000_000_000)
    assert made.ask(SIGN_IN)[0].status_code == 303


def test_one_person_cannot_take_all_places_of_viewers_or_of_sessions(bench: MakeBench) -> None:
    made = bench(users=True)
    made.studio.viewers["rita"] = live.MOST_OF_ONE
    refused = made.ask(SIGN_IN, ("GET", "/live", {}))[1]
    assert (refused.status_code, refused.json()["detail"]) == (503, "rita looks at 40 pages already; close some")
    door = made.studio.door
    otto, oldest, *others = [door.begin(name) for name in ("otto", *["rita"] * (users.MOST_OF_ONE + 1))]
    assert door.visitor(oldest) is None
    assert all(door.visitor(each) for each in (otto, *others))


def test_questions_to_a_flow_that_does_not_answer_do_not_pile_up(bench: MakeBench) -> None:
    made = bench(users=False)

    async def ask_more() -> list[str]:
        asked = [asyncio.create_task(made.studio.link.letter("payload", "f", 1, "")) for _ in range(link.MOST_WAITING)]
        await asyncio.sleep(0)
        refused = await made.studio.link.letter("payload", "f", 1, "")
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return [refused.text]

    assert asyncio.run(ask_more()) == ["too many ask at once; try again"]


def test_what_another_page_sends_does_nothing(bench: MakeBench) -> None:
    made = bench(users=True)
    elsewhere = {"Origin": "http://evil.example"}
    answers = made.ask(
        ("POST", "/sign-in", {"data": TYPED, "headers": elsewhere}),
        SIGN_IN,
        ("POST", "/api/flows/f/restart", {"data": {"csrf": "guessed"}, "headers": HERE}),
        ("POST", "/sign-out", {"data": {"csrf": "guessed"}, "headers": HERE}),
        ("POST", "/api/flows/f/restart", {"data": {"csrf": "guessed"}, "headers": elsewhere}),
    )
    assert [each.status_code for each in answers] == [403, 303, 403, 403, 403]


def test_operating_needs_the_word_of_the_session(bench: MakeBench) -> None:
    made = bench(users=True)
    typed = {**TYPED, "name": "otto"}
    _, told = made.ask(
        ("POST", "/sign-in", {"data": typed, "headers": HERE}),
        ("POST", "/api/flows/f/restart", {"data": {"csrf": "guessed"}, "headers": HERE}),
    )
    assert told.json()["detail"] == "this page belongs to another session; load it again"


def test_who_is_removed_or_has_another_password_is_signed_out(bench: MakeBench) -> None:
    made = bench(users=True)
    shown = made.studio.door.begin("rita")
    assert made.studio.door.visitor(shown) is not None
    write_users(made.file, {"rita": User(Passwords().hash("another-password-now"))})
    assert made.studio.door.visitor(shown) is None
    write_users(made.file, {})
    assert made.studio.door.visitor(shown) is None


def test_without_users_all_on_this_computer_look_and_nobody_operates(bench: MakeBench) -> None:
    made = bench(users=False)
    page, operate = made.ask(
        ("GET", "/", {}),
        ("POST", "/api/flows/f/stop", {"data": {"csrf": ""}, "headers": {"Origin": "http://127.0.0.1"}}),
        host="127.0.0.1",
    )
    assert (page.status_code, operate.status_code) == (200, 403)
    [rebound] = made.ask(("GET", "/", {}), host="evil.example")
    assert rebound.status_code == 421


def test_a_proxy_that_is_named_is_believed_and_no_other(bench: MakeBench) -> None:
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "yard.example", "X-Forwarded-For": "10.1.1.1, 10.9.9.9"}
    sign_in = ("POST", "/site/sign-in", {"data": TYPED, "headers": {**told, "Origin": "https://yard.example"}})
    [answer] = bench(users=True, proxies=("127.0.0.1",), base_path="/site").ask(sign_in)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/site/"
    assert answer.headers["set-cookie"].startswith(f"__Host-{COOKIE}")
    assert "Secure" in answer.headers["set-cookie"]
    [refused] = bench(users=True, base_path="/site").ask(sign_in)
    assert refused.status_code == 403


def test_pages_under_a_base_path_lead_to_it(bench: MakeBench) -> None:
    made = bench(users=False, base_path="/site")
    stripped, whole = made.ask(("GET", "/", {}), ("GET", "/site/", {}), host="localhost")
    assert stripped.text == whole.text
    assert 'href="/site/timeline"' in whole.text
    assert 'href="/timeline"' not in whole.text


def test_every_answer_tells_browsers_to_load_nothing_from_elsewhere(bench: MakeBench) -> None:
    for answer in bench(users=False).ask(("GET", "/", {}), ("GET", "/nothing", {}), host="localhost"):
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"


def test_a_file_of_users_that_is_wrong_quotes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    file.write_text('{"users": {"rita": {"password": "hunter2", "oops": 1}}}')
    with pytest.raises(Exception, match="is no file of users") as error:
        read_users(file)
    assert "hunter2" not in str(error.value)
