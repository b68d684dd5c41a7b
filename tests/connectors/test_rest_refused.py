from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.rest_refused import about_refusal

NOW_S = 1_700_000_000.0
KEY = Ed25519PrivateKey.generate()


def token(**claims: Any) -> str:
    told = {"iss": "yard", "sub": "yard", "aud": "pbgm", "iat": NOW_S - 10, "exp": NOW_S + 290, **claims}
    return jwt.encode(told, KEY, algorithm="EdDSA", headers={"kid": "one"})


def said(shown: str, *, status: int = 401, ahead_s: float = 0.0) -> str:
    date = {"date": formatdate(NOW_S - ahead_s, usegmt=True)}
    return about_refusal(Answer(status, "", date, b""), shown, NOW_S)


def test_a_token_that_is_good_as_far_as_one_can_tell_is_told_with_whom_it_names() -> None:
    text = said(token())
    assert text.startswith("the token says issuer 'yard', user 'yard', audience 'pbgm', key 'one': does the service")
    assert token().split(".")[2] not in text


@pytest.mark.parametrize(
    ("claims", "ahead_s", "what"),
    [
        ({"exp": NOW_S - 60}, 0.0, "the token expired at 2023-11-14 22:12:20 UTC"),
        ({"iat": NOW_S + 60}, 0.0, "the token is not valid before 2023-11-14 22:14:20 UTC"),
        ({"nbf": NOW_S + 60}, 0.0, "the token is not valid before 2023-11-14 22:14:20 UTC"),
        ({}, 125.0, "the clock here is 125 s ahead of that of the service"),
        ({}, -125.0, "the clock here is 125 s behind that of the service"),
    ],
)
def test_what_is_wrong_with_its_time_is_told_first(claims: dict[str, Any], ahead_s: float, what: str) -> None:
    assert said(token(**claims), ahead_s=ahead_s).startswith(what + "; ")


def test_who_is_known_and_may_not_is_told_to_look_at_rights() -> None:
    assert said(token(), status=403) == "the token is good; look at the rights of user 'yard' there"


@given(st.text() | st.lists(st.text(alphabet="abcdeyJ0_-="), min_size=3, max_size=3).map(".".join))
def test_a_token_that_is_none_of_json_tells_nothing_and_is_not_shown(shown: str) -> None:
    assert said(shown) in (
        "no token was shown: the connection has no `auth`",
        "the token tells nothing of itself: was it taken back, or is it for another service?",
    )


def test_times_that_are_none_harm_nothing() -> None:
    assert "expired at -1e+300 s" in said(token(exp=-1e300))
    assert about_refusal(Answer(401, "", {"date": "yesterday"}, b""), token(exp=time.time() + 9e9), NOW_S)
