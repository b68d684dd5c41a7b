"""A policy system for the tests of its pages, one for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from policy_pages import Person, serving
from served_policies import ServedPolicies


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPolicies]:
    with serving(tmp_path_factory.mktemp("policy")) as started:
        yield started


@pytest.fixture(scope="module")
def admin(service: ServedPolicies) -> Iterator[Person]:
    with Person(service.url) as client:
        yield client.sign_in()
